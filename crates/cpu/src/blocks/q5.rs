//! `Q5_0` and `Q5_1`: nibbles, and a word of fifth bits.

use super::{At, Blocks, bits};
use crate::simd::Simd;
use puna_format::{BlockQ5_0, BlockQ5_1, Format};
use std::mem::offset_of;

/// The codes `4 · word..`: nibbles at `low`, fifth bits at `fifth`.
///
/// # Safety
/// As [`At::word`].
#[inline(always)]
pub(super) unsafe fn five_bits<S: Simd>(s: S, at: At, low: usize, fifth: usize, word: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { s.or(bits::<S, 4>(s, at, low, word, 0), bits::<S, 1>(s, at, fifth, word, 4)) }
}

/// Brings the fifth bits, of code i at bit i, into the order of [`bits`].
fn arrange_fifth(bytes: &mut [u8]) {
    let from = u32::from_le_bytes((&*bytes).try_into().expect("four bytes"));
    for (byte, to) in bytes.iter_mut().enumerate() {
        *to = (0..8).fold(0, |to, word| to | ((from >> (4 * word + byte) & 1) as u8) << word);
    }
}

/// [`Format::Q5_0`]
pub(crate) struct Q5_0;

impl Blocks for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const HALVES: &[usize] = &[offset_of!(BlockQ5_0, d)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockQ5_0, qh);
    const STRIDE: usize = 20;
    const MAX_CODE: u32 = 31;
    const OFFSET: Option<u32> = Some(4);
    type Head<S: Simd> = ();

    fn arrange(block: &[u8], out: &mut [u8]) {
        out.copy_from_slice(block);
        arrange_fifth(&mut out[offset_of!(BlockQ5_0, qh)..][..4]);
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        (unsafe { at.f16(s, offset_of!(BlockQ5_0, d)) }, s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { five_bits(s, at, 4, 0, word) }
    }
}

/// [`Format::Q5_1`]: the minimum is −m.
pub(crate) struct Q5_1;

impl Blocks for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const HALVES: &[usize] = &[offset_of!(BlockQ5_1, d), offset_of!(BlockQ5_1, m)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockQ5_1, qh);
    const STRIDE: usize = 20;
    const MAX_CODE: u32 = 31;
    const HAS_MIN: bool = true;
    type Head<S: Simd> = ();

    fn arrange(block: &[u8], out: &mut [u8]) {
        out.copy_from_slice(block);
        arrange_fifth(&mut out[offset_of!(BlockQ5_1, qh)..][..4]);
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let (d, m) = unsafe { (at.f16(s, offset_of!(BlockQ5_1, d)), at.f16(s, offset_of!(BlockQ5_1, m))) };
        (d, s.sub_f32(s.splat_f32(0.0), m))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { five_bits(s, at, 4, 0, word) }
    }
}
