//! `Q6_K`: six bits, with an 8-bit scale for every 16 weights.
//!
//! Three words of codes leave two bits free in each byte: together they hold a fourth word, which costs eight
//! instructions where the other three cost one each.

use super::{At, Blocks, bytes, shift};
use crate::simd::Simd;
use bytemuck::{cast, from_bytes};
use puna_format::{BlockQ6_K, Format};

/// [`Format::Q6_K`]
pub(crate) struct Q6_K;

/// Where an arranged block has its fields.
const D: usize = 0;
const SCALES: usize = 2;

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
        for (i, out) in out[Self::CODES..].chunks_exact_mut(Self::STRIDE).enumerate() {
            // Thirty-twos 0 and 2 of a half share the bytes of their nibbles, and 1 and 3; all four those of the upper bits.
            let (low, high) = (&block.ql[64 * (i / 4) + 32 * (i % 2)..], &block.qh[32 * (i / 4)..]);
            let code = |k: usize| low[k] >> (4 * (i % 4 / 2)) & 0xf | (high[k] >> (2 * (i % 4)) & 3) << 4;
            for (half, out) in out.chunks_exact_mut(12).enumerate() {
                for (k, byte) in out.iter_mut().enumerate() {
                    *byte = code(16 * half + k) | (code(16 * half + 12 + k % 4) >> (2 * (k / 4)) & 3) << 6;
                }
            }
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
        let (start, i) = (12 * (word / 4), word % 4);
        // SAFETY: the caller's promise.
        unsafe {
            if i < 3 {
                return bytes(s, at.word(s, start + 4 * i), 0x3f);
            }
            let first = bytes(s, s.shr(at.word(s, start), 6), 0x03);
            let second = bytes(s, s.shr(at.word(s, start + 4), 4), 0x0c);
            let third = bytes(s, s.shr(at.word(s, start + 8), 2), 0x30);
            s.or(s.or(first, second), third)
        }
    }
}
