//! `Q3_K`: two bits and a third, with a 6-bit scale for every 16 weights.

use super::{At, Blocks, arrange_bits, bits, byte, shift};
use crate::simd::Simd;
use bytemuck::from_bytes;
use puna_format::{BlockQ3_K, Format};

/// [`Format::Q3_K`]
pub(crate) struct Q3_K;

/// Where an arranged block has its fields.
const D: usize = 0;
const SCALES: usize = 2;
/// Where a thirty-two has its third bits, behind the two.
const THIRD: usize = 8;

impl Blocks for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const HALVES: &[usize] = &[D];
    const PER_BLOCK: usize = 8;
    const CODES: usize = 14;
    const STRIDE: usize = 12;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 7;
    const OFFSET: Option<u32> = Some(2);
    /// `d`.
    type Head<S: Simd> = S::F;

    fn arrange(block: &[u8], out: &mut [u8]) {
        let block: &BlockQ3_K = from_bytes(block);
        out[D..][..2].copy_from_slice(&block.d);
        out[SCALES..][..12].copy_from_slice(&block.scales);
        for (half, bytes) in block.qs.chunks_exact(32).enumerate() {
            arrange_bits::<2>(bytes, out, Self::CODES + 4 * half * Self::STRIDE, Self::STRIDE);
        }
        arrange_bits::<1>(&block.hmask, out, Self::CODES + THIRD, Self::STRIDE);
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { at.f16(s, D) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, d: S::F, group: usize) -> (S::F, S::F) {
        // The low four bits are a half of one of the first eight bytes, the upper two a quarter of one of the last four.
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (at.word(s, SCALES + group % 8 / 4 * 4), at.word(s, SCALES + 8)) };
        let low = s.and(shift(s, byte(s, low, group % 4), -(group as i32 / 8 * 4)), s.splat(15));
        let high = s.and(shift(s, byte(s, high, group % 4), -(group as i32 / 4 * 2)), s.splat(3));
        let scale = s.sub(s.or(low, s.shl(high, 4)), s.splat(32));
        (s.mul(s.to_f32(scale), d), s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.or(bits::<S, 2>(s, at, 0, word, 0), bits::<S, 1>(s, at, THIRD, word, 2)) }
    }
}
