//! `Q8_0`: bytes.

use super::{At, Blocks};
use crate::simd::Simd;
use puna_format::{BlockQ8_0, Format};
use std::mem::offset_of;

/// [`Format::Q8_0`]
pub(crate) struct Q8_0;

impl Blocks for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const HALVES: &[usize] = &[offset_of!(BlockQ8_0, d)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockQ8_0, qs);
    const STRIDE: usize = 32;
    const MAX_CODE: u32 = 128;
    const SIGNED: bool = true;
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        (unsafe { at.f16(s, offset_of!(BlockQ8_0, d)) }, s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        s.signed(unsafe { at.word(s, 4 * word) })
    }
}
