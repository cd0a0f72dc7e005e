//! `Q4_K` and `Q5_K`: nibbles (and fifth bits), with a 6-bit scale and minimum for every 32 weights.

use super::q5::five_bits;
use super::{At, Blocks, arrange_bits, bits, byte, bytes, shift};
use crate::simd::Simd;
use bytemuck::from_bytes;
use puna_format::{BlockQ4_K, BlockQ5_K, Format};
use std::mem::offset_of;

/// Factors of a block: two of its f16, and its twice eight 6-bit numbers as bytes, by fours.
pub(crate) struct Head<S: Simd> {
    d: S::F,
    dmin: S::F,
    scales: [S::I; 2],
    mins: [S::I; 2],
}

impl<S: Simd> Clone for Head<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Simd> Copy for Head<S> {}

impl<S: Simd> Head<S> {
    /// Of a block that begins with `d`, `dmin` and the twelve bytes of 6-bit numbers.
    ///
    /// # Safety
    /// The block is in memory.
    #[inline(always)]
    unsafe fn new(s: S, at: At) -> Self {
        let numbers = offset_of!(BlockQ4_K, scales);
        // SAFETY: the caller's promise.
        let (d, dmin, [a, b, c]) = unsafe {
            (
                at.f16(s, offset_of!(BlockQ4_K, d)),
                at.f16(s, offset_of!(BlockQ4_K, dmin)),
                [at.word(s, numbers), at.word(s, numbers + 4), at.word(s, numbers + 8)],
            )
        };
        // The first four scales are the low six bits of a, the first four minima those of b; the low four bits of the
        // others are the low and the high half of c, and their upper two bits are those of a and of b.
        let upper = |v| bytes(s, shift(s, v, -2), 0x30);
        Head {
            d,
            dmin,
            scales: [bytes(s, a, 63), s.or(bytes(s, c, 15), upper(a))],
            mins: [bytes(s, b, 63), s.or(bytes(s, shift(s, c, -4), 15), upper(b))],
        }
    }

    #[inline(always)]
    fn factors(self, s: S, group: usize) -> (S::F, S::F) {
        let number = |numbers: [S::I; 2]| s.to_f32(byte(s, numbers[group / 4], group % 4));
        (s.mul(number(self.scales), self.d), s.mul(number(self.mins), self.dmin))
    }
}

/// [`Format::Q4_K`]
pub(crate) struct Q4_K;

impl Blocks for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    const HALVES: &[usize] = &[offset_of!(BlockQ4_K, d), offset_of!(BlockQ4_K, dmin)];
    const PER_BLOCK: usize = 8;
    const CODES: usize = 16;
    const STRIDE: usize = 16;
    const MAX_CODE: u32 = 15;
    const HAS_MIN: bool = true;
    type Head<S: Simd> = Head<S>;

    fn arrange(block: &[u8], out: &mut [u8]) {
        out[..Self::CODES].copy_from_slice(&block[..Self::CODES]);
        let block: &BlockQ4_K = from_bytes(block);
        for (pair, bytes) in block.qs.chunks_exact(32).enumerate() {
            arrange_bits::<4>(bytes, out, Self::CODES + 2 * pair * Self::STRIDE, Self::STRIDE);
        }
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> Head<S> {
        // SAFETY: the caller's promise.
        unsafe { Head::new(s, at) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, _: At, head: Head<S>, group: usize) -> (S::F, S::F) {
        head.factors(s, group)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { bits::<S, 4>(s, at, 0, word, 0) }
    }
}

/// [`Format::Q5_K`]
pub(crate) struct Q5_K;

/// Where a thirty-two has its fifth bits, behind the nibbles.
const FIFTH: usize = 16;

impl Blocks for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const HALVES: &[usize] = &[offset_of!(BlockQ5_K, d), offset_of!(BlockQ5_K, dmin)];
    const PER_BLOCK: usize = 8;
    const CODES: usize = 16;
    const STRIDE: usize = 20;
    const MAX_CODE: u32 = 31;
    const HAS_MIN: bool = true;
    type Head<S: Simd> = Head<S>;

    fn arrange(block: &[u8], out: &mut [u8]) {
        out[..Self::CODES].copy_from_slice(&block[..Self::CODES]);
        let block: &BlockQ5_K = from_bytes(block);
        for (pair, bytes) in block.qs.chunks_exact(32).enumerate() {
            arrange_bits::<4>(bytes, out, Self::CODES + 2 * pair * Self::STRIDE, Self::STRIDE);
        }
        arrange_bits::<1>(&block.qh, out, Self::CODES + FIFTH, Self::STRIDE);
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> Head<S> {
        // SAFETY: the caller's promise.
        unsafe { Head::new(s, at) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, _: At, head: Head<S>, group: usize) -> (S::F, S::F) {
        head.factors(s, group)
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { five_bits(s, at, 0, FIFTH, word) }
    }
}
