//! `Q6_K`: a group is two blocks of sixteen, each with its scale.

use super::{Factors, Group, Groups, and, f16};
use puna_format::{BlockQ6_K, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// [`Format::Q6_K`]
pub struct Q6_K;

impl Groups for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const PER_BLOCK: usize = 8;
    const OFFSET: i8 = 32;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let scales = unsafe {
            let bytes = _mm_loadu_si128(block.add(offset_of!(BlockQ6_K, scales)).cast());
            Factors::of_sixteens(bytes, f16(block.add(offset_of!(BlockQ6_K, d))))
        };
        for half in 0..2 {
            let mut scales = scales[half];
            // SAFETY: the caller's promise; 2 × 32 bytes of `qh` lie within the block.
            let high = unsafe { _mm256_loadu_si256(block.add(offset_of!(BlockQ6_K, qh) + 32 * half).cast()) };
            for upper in 0..2 {
                // Bits 4·upper and 4·upper+1 of a byte are wanted as bits 4 and 5, then two further a group.
                // SAFETY: the caller's promise.
                let mut high = unsafe { if upper == 0 { _mm256_slli_epi16::<4>(high) } else { high } };
                for i in 0..2 {
                    // SAFETY: the caller's promise; 4 × 32 bytes of `ql` lie within the block.
                    let group = unsafe {
                        let low = _mm256_loadu_si256(block.add(offset_of!(BlockQ6_K, ql) + 64 * half + 32 * i).cast());
                        let low = if upper == 0 { low } else { _mm256_srli_epi16::<4>(low) };
                        let q = _mm256_or_si256(and(low, 15), and(high, 0x30));
                        Group { q, scale: scales.next(), min: _mm256_setzero_ps() }
                    };
                    f(4 * half + 2 * upper + i, group);
                    // SAFETY: the caller's promise.
                    high = unsafe { _mm256_srli_epi16::<2>(high) };
                }
            }
        }
    }
}
