//! `IQ4_NL` and `IQ4_XS`: a code is an index into a table of sixteen bytes, which is one shuffle.

use super::{At, Blocks, bits, byte, shift};
use crate::simd::Simd;
use puna_format::{BlockIQ4_NL, BlockIQ4_XS, Format, IQ4_VALUES};
use std::mem::offset_of;

/// [`Format::IQ4_NL`]
pub(crate) struct IQ4_NL;

impl Blocks for IQ4_NL {
    const FORMAT: Format = Format::IQ4_NL;
    const HALVES: &[usize] = &[offset_of!(BlockIQ4_NL, d)];
    const PER_BLOCK: usize = 1;
    const CODES: usize = offset_of!(BlockIQ4_NL, qs);
    const STRIDE: usize = 16;
    const MAX_CODE: u32 = 127;
    const SIGNED: bool = true;
    type Head<S: Simd> = ();

    #[inline(always)]
    unsafe fn head<S: Simd>(_: S, _: At) {}

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (): (), _: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        (unsafe { at.f16(s, offset_of!(BlockIQ4_NL, d)) }, s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        s.signed(s.lookup(&IQ4_VALUES, unsafe { bits::<S, 4>(s, at, 0, word, 0) }))
    }
}

/// [`Format::IQ4_XS`]
pub(crate) struct IQ4_XS;

impl Blocks for IQ4_XS {
    const FORMAT: Format = Format::IQ4_XS;
    const HALVES: &[usize] = &[offset_of!(BlockIQ4_XS, d), offset_of!(BlockIQ4_XS, scales_h)];
    const PER_BLOCK: usize = 8;
    const CODES: usize = offset_of!(BlockIQ4_XS, qs);
    const STRIDE: usize = 16;
    const MAX_CODE: u32 = 127;
    const SIGNED: bool = true;
    /// `d`.
    type Head<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { at.f16(s, offset_of!(BlockIQ4_XS, d)) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, d: S::F, group: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let (low, high) =
            unsafe { (at.word(s, offset_of!(BlockIQ4_XS, scales_l)), at.u16(s, offset_of!(BlockIQ4_XS, scales_h))) };
        let low = s.and(shift(s, byte(s, low, group / 2), -(group as i32 % 2 * 4)), s.splat(15));
        let high = s.and(shift(s, high, -2 * group as i32), s.splat(3));
        let scale = s.sub(s.or(low, s.shl(high, 4)), s.splat(32));
        (s.mul(s.to_f32(scale), d), s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        s.signed(s.lookup(&IQ4_VALUES, unsafe { bits::<S, 4>(s, at, 0, word, 0) }))
    }
}
