//! `Q4_0` and `Q4_1`: nibbles, the low halves first.

use super::{At, Blocks, bits};
use crate::simd::Simd;
use puna_format::{BlockQ4_0, BlockQ4_1, Format};
use std::mem::offset_of;

/// [`Format::Q4_0`]
pub(crate) struct Q4_0;

impl Blocks for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const HALVES: &[usize] = &[offset_of!(BlockQ4_0, d)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockQ4_0, qs);
    const STRIDE: usize = 16;
    const MAX_CODE: u32 = 15;
    const OFFSET: Option<u32> = Some(3);
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        (unsafe { at.f16(s, offset_of!(BlockQ4_0, d)) }, s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { bits::<S, 4>(s, at, 0, word, 0) }
    }
}

/// [`Format::Q4_1`]: the minimum is −m.
pub(crate) struct Q4_1;

impl Blocks for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const HALVES: &[usize] = &[offset_of!(BlockQ4_1, d), offset_of!(BlockQ4_1, m)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockQ4_1, qs);
    const STRIDE: usize = 16;
    const MAX_CODE: u32 = 15;
    const HAS_MIN: bool = true;
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let (d, m) = unsafe { (at.f16(s, offset_of!(BlockQ4_1, d)), at.f16(s, offset_of!(BlockQ4_1, m))) };
        (d, s.sub_f32(s.splat_f32(0.0), m))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { bits::<S, 4>(s, at, 0, word, 0) }
    }
}
