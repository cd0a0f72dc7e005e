//! `Q4_K` and `Q5_K`: eight groups with 6-bit scales and minima, packed alike.

use super::{Factors, Group, Groups, and};
use puna_format::{BlockQ4_K, BlockQ5_K, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Scales and minima of a block that begins with `d`, `dmin` and the twelve bytes of 6-bit numbers.
///
/// # Safety
/// AVX2 and F16C exist; 16 bytes can be read at `block`.
#[inline(always)]
unsafe fn scales_and_mins(block: *const u8) -> ([Factors; 2], [Factors; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        let head = _mm_loadu_si128(block.cast());
        // The numbers come out as bytes: scales 0..8, then minima 0..8. Of the twelve bytes a a a a b b b b c c c c, the
        // first four scales are the low six bits of a, the first four minima those of b;
        let low = _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
        // the low four bits of the others are the low and the high half of c,
        let low = _mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4));
        let low = _mm_and_si128(low, _mm_setr_epi32(0x3F3F_3F3F, 0x0F0F_0F0F, 0x3F3F_3F3F, 0x0F0F_0F0F));
        // and their upper two bits are those of a and of b.
        let high = _mm_shuffle_epi8(head, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
        let high = _mm_and_si128(_mm_srli_epi32::<2>(high), _mm_set1_epi8(0x30));
        let numbers = _mm_or_si128(low, high);
        let d_dmin = _mm_cvtph_ps(head);
        let (d, dmin) = (_mm256_broadcastss_ps(d_dmin), _mm256_broadcastss_ps(_mm_movehdup_ps(d_dmin)));
        (
            [Factors::new(_mm_shuffle_epi32::<0x00>(numbers), d), Factors::new(_mm_shuffle_epi32::<0x55>(numbers), d)],
            [
                Factors::new(_mm_shuffle_epi32::<0xAA>(numbers), dmin),
                Factors::new(_mm_shuffle_epi32::<0xFF>(numbers), dmin),
            ],
        )
    }
}

/// [`Format::Q4_K`]
pub struct Q4_K;

impl Groups for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    const PER_BLOCK: usize = 8;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise.
        let (scales, mins) = unsafe { scales_and_mins(block) };
        for half in 0..2 {
            let (mut scales, mut mins) = (scales[half], mins[half]);
            for pair in 0..2 {
                let at = offset_of!(BlockQ4_K, qs) + 64 * half + 32 * pair;
                // SAFETY: the caller's promise; 4 × 32 bytes of codes lie within the block.
                let mut codes = unsafe { _mm256_loadu_si256(block.add(at).cast()) };
                for i in 0..2 {
                    // SAFETY: the caller's promise.
                    let group = unsafe { Group { q: and(codes, 15), scale: scales.next(), min: mins.next() } };
                    f(4 * half + 2 * pair + i, group);
                    // SAFETY: the caller's promise.
                    codes = unsafe { _mm256_srli_epi16::<4>(codes) };
                }
            }
        }
    }
}

/// [`Format::Q5_K`]
pub struct Q5_K;

impl Groups for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const PER_BLOCK: usize = 8;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let (scales, mins, fifth) = unsafe {
            let (scales, mins) = scales_and_mins(block);
            (scales, mins, _mm256_loadu_si256(block.add(offset_of!(BlockQ5_K, qh)).cast()))
        };
        for half in 0..2 {
            let (mut scales, mut mins) = (scales[half], mins[half]);
            // Bit 4·half of a byte is wanted as bit 4, then one further a group.
            // SAFETY: the caller's promise.
            let mut fifth = unsafe { if half == 0 { _mm256_slli_epi16::<4>(fifth) } else { fifth } };
            for pair in 0..2 {
                let at = offset_of!(BlockQ5_K, qs) + 64 * half + 32 * pair;
                // SAFETY: the caller's promise; 4 × 32 bytes of codes lie within the block.
                let mut low = unsafe { _mm256_loadu_si256(block.add(at).cast()) };
                for i in 0..2 {
                    // SAFETY: the caller's promise.
                    let group = unsafe {
                        let q = _mm256_or_si256(and(low, 15), and(fifth, 16));
                        Group { q, scale: scales.next(), min: mins.next() }
                    };
                    f(4 * half + 2 * pair + i, group);
                    // SAFETY: the caller's promise.
                    (low, fifth) = unsafe { (_mm256_srli_epi16::<4>(low), _mm256_srli_epi16::<1>(fifth)) };
                }
            }
        }
    }
}
