//! `Q5_0` and `Q5_1`: nibbles, and a word of fifth bits.

use super::q4::nibbles;
use super::{At, Blocks, bytes};
use crate::simd::Simd;
use puna_format::{BlockQ5_0, BlockQ5_1, Format};
use std::mem::offset_of;

/// The codes `4 · word..`: nibbles at `low`; the fifth bit of code i is bit i of the word at `fifth`.
///
/// # Safety
/// As [`At::word`].
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, at: At, low: usize, fifth: usize, word: usize) -> S::I {
    // SAFETY: the caller's promise.
    let (low, fifth) = unsafe { (nibbles(s, at, low, word), at.word(s, fifth)) };
    // Four codes' bits lie in one half of a byte.
    let byte = s.spread_byte(fifth, word as u32 / 2);
    let bit = if word.is_multiple_of(2) { [1, 2, 4, 8] } else { [16, 32, 64, 128] };
    s.or(low, bytes(s, s.test_bytes(byte, s.splat(i32::from_le_bytes(bit))), 16))
}

/// [`Format::Q5_0`]
pub(crate) struct Q5_0;

impl Blocks for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const HALVES: &[usize] = &[offset_of!(BlockQ5_0, d)];
    const PER_BLOCK: usize = 1;
    const MAX_CODE: u32 = 31;
    const OFFSET: Option<u32> = Some(4);
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        (unsafe { at.f16(s, offset_of!(BlockQ5_0, d)) }, s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, _: usize, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { five_bits(s, at, offset_of!(BlockQ5_0, qs), offset_of!(BlockQ5_0, qh), word) }
    }
}

/// [`Format::Q5_1`]: the minimum is −m.
pub(crate) struct Q5_1;

impl Blocks for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const HALVES: &[usize] = &[offset_of!(BlockQ5_1, d), offset_of!(BlockQ5_1, m)];
    const PER_BLOCK: usize = 1;
    const MAX_CODE: u32 = 31;
    const HAS_MIN: bool = true;
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let (d, m) = unsafe { (at.f16(s, offset_of!(BlockQ5_1, d)), at.f16(s, offset_of!(BlockQ5_1, m))) };
        (d, s.sub_f32(s.splat_f32(0.0), m))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, _: usize, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { five_bits(s, at, offset_of!(BlockQ5_1, qs), offset_of!(BlockQ5_1, qh), word) }
    }
}
