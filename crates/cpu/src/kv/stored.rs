//! How a head's keys and values lie in a page, and how `LANES` of them become f32.
//!
//! Keys are `[hd][PAGE_LEN]` and values `[PAGE_LEN][hd]`, of f32 or f16. Q8_0 quantizes along the head for both. Keys
//! are, for each 32 of `hd`, `PAGE_LEN` f16 scales and then `[32][PAGE_LEN]` bytes; values are `[PAGE_LEN][hd/32]` f16
//! scales and then `[PAGE_LEN][hd]` bytes.
//!
//! A value becomes the same f32 wherever it is decoded: in a product, or ahead of many.

use crate::simd::Simd;
use puna_backend::PAGE_LEN;

/// Values along the head that share a scale, if they have one.
pub(crate) const GROUP: usize = 32;

/// An encoding.
pub(crate) trait Stored {
    /// Bytes of one value, its scale apart.
    const BYTES: usize;
    /// Whether [`Self::load`] gives codes, to be multiplied with scales.
    const SCALED: bool;

    /// # Safety
    /// `LANES` values can be read at `at`.
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F;

    /// Bytes from the start of a head's keys to value `i` of the key of a token.
    #[inline(always)]
    fn key(i: usize, token: usize) -> usize {
        let scales = if Self::SCALED { (i / GROUP + 1) * 2 * PAGE_LEN } else { 0 };
        scales + (i * PAGE_LEN + token) * Self::BYTES
    }

    /// Bytes from the start of a head's keys to the f16 scale of a token's values from `i`, a multiple of [`GROUP`].
    #[inline(always)]
    fn key_scale(i: usize, token: usize) -> usize {
        i / GROUP * (2 + GROUP) * PAGE_LEN + 2 * token
    }

    /// Bytes from the start of a head's values to the f16 scale of a token's values from `i`, a multiple of [`GROUP`].
    #[inline(always)]
    fn value_scale(head_dim: usize, token: usize, i: usize) -> usize {
        2 * (token * (head_dim / GROUP) + i / GROUP)
    }

    /// Bytes from the start of a head's values to value `i` of a token.
    #[inline(always)]
    fn value(head_dim: usize, token: usize, i: usize) -> usize {
        let scales = if Self::SCALED { PAGE_LEN * (head_dim / GROUP) * 2 } else { 0 };
        scales + (token * head_dim + i) * Self::BYTES
    }
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct Q8_0;

// SAFETY (all three): the values can be read by the trait's contract.
impl Stored for F32 {
    const BYTES: usize = 4;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        unsafe { s.load_f32(at.cast()) }
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;
    const SCALED: bool = false;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        unsafe { s.load_f16(at) }
    }
}

impl Stored for Q8_0 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        s.to_f32(unsafe { s.load_i8(at) })
    }
}
