//! `Q2_K`: a group is two blocks of sixteen, each with its scale and minimum.

use super::{Factors, Group, Groups, and, f16};
use puna_format::{BlockQ2_K, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// [`Format::Q2_K`]
pub struct Q2_K;

impl Groups for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const PER_BLOCK: usize = 8;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let (scales, mins) = unsafe {
            let both = _mm_loadu_si128(block.add(offset_of!(BlockQ2_K, scales)).cast());
            let low = _mm_and_si128(both, _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(15));
            (
                Factors::of_sixteens(low, f16(block.add(offset_of!(BlockQ2_K, d)))),
                Factors::of_sixteens(high, f16(block.add(offset_of!(BlockQ2_K, dmin)))),
            )
        };
        for half in 0..2 {
            let (mut scales, mut mins) = (scales[half], mins[half]);
            // SAFETY: the caller's promise; 2 × 32 bytes of codes lie within the block.
            let mut codes = unsafe { _mm256_loadu_si256(block.add(offset_of!(BlockQ2_K, qs) + 32 * half).cast()) };
            for i in 0..4 {
                // SAFETY: the caller's promise.
                let group = unsafe { Group { q: and(codes, 3), scale: scales.next(), min: mins.next() } };
                f(4 * half + i, group);
                // SAFETY: the caller's promise.
                codes = unsafe { _mm256_srli_epi16::<2>(codes) };
            }
        }
    }
}
