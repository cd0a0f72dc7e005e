//! `Q2_K`: two bits, with a 4-bit scale and minimum for every 16 weights.

use super::{At, Blocks, byte, bytes, shift};
use crate::simd::Simd;
use puna_format::{BlockQ2_K, Format};
use std::mem::offset_of;

/// The two bits `4 · word..` of thirty-two `i`: four to a byte of each 32 bytes, lowest first.
///
/// # Safety
/// As [`At::word`].
#[inline(always)]
pub(super) unsafe fn two_bits<S: Simd>(s: S, at: At, offset: usize, i: usize, word: usize) -> S::I {
    // SAFETY: the caller's promise.
    let fours = unsafe { at.word(s, offset + i / 4 * 32 + 4 * word) };
    bytes(s, shift(s, fours, -(i as i32 % 4 * 2)), 3)
}

/// [`Format::Q2_K`]
pub(crate) struct Q2_K;

impl Blocks for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const HALVES: &[usize] = &[offset_of!(BlockQ2_K, d), offset_of!(BlockQ2_K, dmin)];
    const PER_BLOCK: usize = 8;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const HAS_MIN: bool = true;
    /// `d` and `dmin`.
    type Head<S: Simd> = (S::F, S::F);

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        unsafe { (at.f16(s, offset_of!(BlockQ2_K, d)), at.f16(s, offset_of!(BlockQ2_K, dmin))) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (d, dmin): (S::F, S::F), group: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let both = byte(s, unsafe { at.word(s, offset_of!(BlockQ2_K, scales) + group / 4 * 4) }, group % 4);
        let (scale, min) = (s.and(both, s.splat(15)), s.shr(both, 4));
        (s.mul(s.to_f32(scale), d), s.mul(s.to_f32(min), dmin))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, i: usize, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { two_bits(s, at, offset_of!(BlockQ2_K, qs), i, word) }
    }
}
