//! `Q2_K`: two bits, with a 4-bit scale and minimum for every 16 weights.

use super::{At, Blocks, arrange_bits, bits, byte};
use crate::simd::Simd;
use bytemuck::from_bytes;
use puna_format::{BlockQ2_K, Format};

/// [`Format::Q2_K`]
pub(crate) struct Q2_K;

/// Where an arranged block has its fields.
const D: usize = 0;
const DMIN: usize = 2;
const SCALES: usize = 4;

impl Blocks for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const HALVES: &[usize] = &[D, DMIN];
    const PER_BLOCK: usize = 8;
    const CODES: usize = 20;
    const STRIDE: usize = 8;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 3;
    const HAS_MIN: bool = true;
    /// `d` and `dmin`.
    type Head<S: Simd> = (S::F, S::F);

    fn arrange(block: &[u8], out: &mut [u8]) {
        let block: &BlockQ2_K = from_bytes(block);
        out[D..][..2].copy_from_slice(&block.d);
        out[DMIN..][..2].copy_from_slice(&block.dmin);
        out[SCALES..][..16].copy_from_slice(&block.scales);
        for (half, bytes) in block.qs.chunks_exact(32).enumerate() {
            arrange_bits::<2>(bytes, out, Self::CODES + 4 * half * Self::STRIDE, Self::STRIDE);
        }
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        unsafe { (at.f16(s, D), at.f16(s, DMIN)) }
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, (d, dmin): (S::F, S::F), group: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let both = byte(s, unsafe { at.word(s, SCALES + group / 4 * 4) }, group % 4);
        let (scale, min) = (s.and(both, s.splat(15)), s.shr(both, 4));
        (s.mul(s.to_f32(scale), d), s.mul(s.to_f32(min), dmin))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { bits::<S, 2>(s, at, 0, word, 0) }
    }
}
