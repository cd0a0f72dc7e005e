//! `Q6_K`: nibbles and two bits more, with an 8-bit scale for every 16 weights.

use super::{At, Blocks, bytes, shift};
use crate::simd::Simd;
use puna_format::{BlockQ6_K, Format};
use std::mem::offset_of;

/// [`Format::Q6_K`]
pub(crate) struct Q6_K;

impl Blocks for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const HALVES: &[usize] = &[offset_of!(BlockQ6_K, d)];
    const PER_BLOCK: usize = 8;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 63;
    const OFFSET: Option<u32> = Some(5);
    /// `d`, times 2⁻²⁴: scales are unpacked as the highest byte of an integer, where their sign is in its place.
    type Head<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> S::F {
        // SAFETY: the caller's promise.
        s.mul(unsafe { at.f16(s, offset_of!(BlockQ6_K, d)) }, s.splat_f32(2f32.powi(-24)))
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, d: S::F, group: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let four = unsafe { at.word(s, offset_of!(BlockQ6_K, scales) + group / 4 * 4) };
        let top = s.and(shift(s, four, 24 - 8 * (group as i32 % 4)), s.splat(0xff00_0000_u32.cast_signed()));
        (s.mul(s.to_f32(top), d), s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, i: usize, word: usize) -> S::I {
        // Within half a block, thirty-twos 0 and 1 are the low halves of 64 bytes, 2 and 3 the high halves; thirty-two i
        // has bits 2i and 2i + 1 of the 32 bytes of upper bits.
        let (half, i) = (i / 4, i % 4);
        // SAFETY: the caller's promise.
        let (low, high) = unsafe {
            (
                at.word(s, offset_of!(BlockQ6_K, ql) + 64 * half + i % 2 * 32 + 4 * word),
                at.word(s, offset_of!(BlockQ6_K, qh) + 32 * half + 4 * word),
            )
        };
        s.or(bytes(s, shift(s, low, -(i as i32 / 2 * 4)), 15), bytes(s, shift(s, high, 4 - 2 * i as i32), 0x30))
    }
}
