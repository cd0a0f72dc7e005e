//! `Q6_K`: nibbles and two bits more, with an 8-bit scale for every 16 weights.

use super::{At, Blocks, arrange_bits, bits, shift};
use crate::simd::Simd;
use bytemuck::{cast, from_bytes};
use puna_format::{BlockQ6_K, Format};

/// [`Format::Q6_K`]
pub(crate) struct Q6_K;

/// Where an arranged block has its fields.
const D: usize = 0;
const SCALES: usize = 2;
/// Where a thirty-two has the upper two bits, behind the nibbles.
const UPPER: usize = 16;

impl Blocks for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const HALVES: &[usize] = &[D];
    const PER_BLOCK: usize = 8;
    const CODES: usize = 18;
    const STRIDE: usize = 24;
    const GROUP: usize = 16;
    const MAX_CODE: u32 = 63;
    const OFFSET: Option<u32> = Some(5);
    /// `d`, times 2⁻²⁴: scales are unpacked as the highest byte of an integer, where their sign is in its place.
    type Head<S: Simd> = S::F;

    fn arrange(block: &[u8], out: &mut [u8]) {
        let block: &BlockQ6_K = from_bytes(block);
        out[D..][..2].copy_from_slice(&block.d);
        out[SCALES..][..16].copy_from_slice(&cast::<_, [u8; 16]>(block.scales));
        for half in 0..2 {
            let start = Self::CODES + 4 * half * Self::STRIDE;
            // Thirty-twos 0 and 2 share their bytes, and 1 and 3.
            arrange_bits::<4>(&block.ql[64 * half..][..32], out, start, 2 * Self::STRIDE);
            arrange_bits::<4>(&block.ql[64 * half + 32..][..32], out, start + Self::STRIDE, 2 * Self::STRIDE);
            arrange_bits::<2>(&block.qh[32 * half..][..32], out, start + UPPER, Self::STRIDE);
        }
    }

    #[inline(always)]
    unsafe fn head<S: Simd>(s: S, at: At) -> S::F {
        // SAFETY: the caller's promise.
        s.mul(unsafe { at.f16(s, D) }, s.splat_f32(2f32.powi(-24)))
    }

    #[inline(always)]
    unsafe fn factors<S: Simd>(s: S, at: At, d: S::F, group: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        let four = unsafe { at.word(s, SCALES + group / 4 * 4) };
        let top = s.and(shift(s, four, 24 - 8 * (group as i32 % 4)), s.splat(0xff00_0000_u32.cast_signed()));
        (s.mul(s.to_f32(top), d), s.splat_f32(0.0))
    }

    #[inline(always)]
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.or(bits::<S, 4>(s, at, 0, word, 0), bits::<S, 2>(s, at, UPPER, word, 4)) }
    }
}
