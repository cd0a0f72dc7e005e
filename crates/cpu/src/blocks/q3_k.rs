//! `Q3_K`: two bits and a third, with a 6-bit scale for every 16 weights.

use super::q2_k::two_bits;
use super::{At, Blocks, byte, bytes, shift};
use crate::simd::Simd;
use puna_format::{BlockQ3_K, Format};
use std::mem::offset_of;

/// [`Format::Q3_K`]
pub(crate) struct Q3_K;

impl Blocks for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const HALVES: &[usize] = &[offset_of!(BlockQ3_K, d)];
    const PER_BLOCK: usize = 8;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 7;
    const OFFSET: Option<u32> = Some(2);
    /// `d`.
    type Head<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { at.f16(s, offset_of!(BlockQ3_K, d)) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, d: S::F, group: usize) -> (S::F, S::F) {
        // The low four bits are a half of one of the first eight bytes, the upper two a quarter of one of the last four.
        // SAFETY: the caller's promise.
        let (low, high) = unsafe {
            let scales = offset_of!(BlockQ3_K, scales);
            (at.word(s, scales + group % 8 / 4 * 4), at.word(s, scales + 8))
        };
        let low = s.and(shift(s, byte(s, low, group % 4), -(group as i32 / 8 * 4)), s.splat(15));
        let high = s.and(shift(s, byte(s, high, group % 4), -(group as i32 / 4 * 2)), s.splat(3));
        let scale = s.sub(s.or(low, s.shl(high, 4)), s.splat(32));
        (s.mul(s.to_f32(scale), d), s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, i: usize, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        let (low, third) = unsafe {
            (two_bits(s, at, offset_of!(BlockQ3_K, qs), i, word), at.word(s, offset_of!(BlockQ3_K, hmask) + 4 * word))
        };
        // Bit i of a byte is wanted as bit 2.
        s.or(low, bytes(s, shift(s, third, 2 - i as i32), 4))
    }
}
