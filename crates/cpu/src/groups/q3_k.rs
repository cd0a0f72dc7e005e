//! `Q3_K`: a group is two blocks of sixteen, each with its scale.

use super::{Factors, Group, Groups, and, f16};
use puna_format::{BlockQ3_K, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// The sixteen 6-bit scales, less 32, as bytes.
///
/// # Safety
/// AVX2 exists; twelve bytes can be read at `at`.
#[inline(always)]
unsafe fn scales(at: *const u8) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        // The low four bits: the low halves of eight bytes, then their high halves.
        let low = _mm_loadl_epi64(at.cast());
        let low = _mm_and_si128(_mm_unpacklo_epi64(low, _mm_srli_epi16::<4>(low)), _mm_set1_epi8(15));
        // The upper two bits: four bytes for the first four scales, the same shifted by two for the next four, ...
        let high = _mm_set1_epi32(at.add(8).cast::<i32>().read_unaligned());
        let high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
        _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16::<4>(high)), _mm_set1_epi8(32))
    }
}

/// [`Format::Q3_K`]
pub struct Q3_K;

impl Groups for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const PER_BLOCK: usize = 8;
    const OFFSET: i8 = 4;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let (scales, third) = unsafe {
            let d = f16(block.add(offset_of!(BlockQ3_K, d)));
            let scales = Factors::of_sixteens(scales(block.add(offset_of!(BlockQ3_K, scales))), d);
            (scales, _mm256_loadu_si256(block.add(offset_of!(BlockQ3_K, hmask)).cast()))
        };
        for half in 0..2 {
            let mut scales = scales[half];
            // SAFETY: the caller's promise; 2 × 32 bytes of codes lie within the block.
            let (mut low, mut third) = unsafe {
                // Bit 4·half of a byte is wanted as bit 2, then one further a group.
                let third = if half == 0 { _mm256_slli_epi16::<2>(third) } else { _mm256_srli_epi16::<2>(third) };
                (_mm256_loadu_si256(block.add(offset_of!(BlockQ3_K, qs) + 32 * half).cast()), third)
            };
            for i in 0..4 {
                // SAFETY: the caller's promise.
                let group = unsafe {
                    let q = _mm256_or_si256(and(low, 3), and(third, 4));
                    Group { q, scale: scales.next(), min: _mm256_setzero_ps() }
                };
                f(4 * half + i, group);
                // SAFETY: the caller's promise.
                (low, third) = unsafe { (_mm256_srli_epi16::<2>(low), _mm256_srli_epi16::<1>(third)) };
            }
        }
    }
}
