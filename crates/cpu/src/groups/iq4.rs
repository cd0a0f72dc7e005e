//! `IQ4_NL` and `IQ4_XS`: a code is an index into a table of sixteen bytes, which is one shuffle.

use super::{Factors, Group, Groups, f16, nibbles};
use puna_format::{BlockIQ4_NL, BlockIQ4_XS, Format, IQ4_VALUES};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// The values of the 32 indices in the 16 bytes at `at`.
///
/// # Safety
/// AVX2 exists; 16 bytes can be read at `at`.
#[inline(always)]
unsafe fn values(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(IQ4_VALUES.as_ptr().cast()));
        _mm256_shuffle_epi8(table, nibbles(at))
    }
}

/// [`Format::IQ4_NL`]: q is the value of the table.
pub struct IQ4_NL;

impl Groups for IQ4_NL {
    const FORMAT: Format = Format::IQ4_NL;
    const PER_BLOCK: usize = 1;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            Group {
                q: values(block.add(offset_of!(BlockIQ4_NL, qs))),
                scale: f16(block.add(offset_of!(BlockIQ4_NL, d))),
                min: _mm256_setzero_ps(),
            }
        };
        f(0, group);
    }
}

/// [`Format::IQ4_XS`]: q is the value of the table.
pub struct IQ4_XS;

impl Groups for IQ4_XS {
    const FORMAT: Format = Format::IQ4_XS;
    const PER_BLOCK: usize = 8;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let scales = unsafe {
            // Read as integers, the low parts are eight fields of four bits in order, the high parts eight of two. Every
            // lane gets all of them and shifts its own field down: first those of groups 0..4, then of 4..8.
            let low = block.add(offset_of!(BlockIQ4_XS, scales_l)).cast::<i32>().read_unaligned();
            let high = block.add(offset_of!(BlockIQ4_XS, scales_h)).cast::<i16>().read_unaligned();
            let d = f16(block.add(offset_of!(BlockIQ4_XS, d)));
            let low = _mm256_srlv_epi32(_mm256_set1_epi32(low), _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12));
            let high = _mm256_srlv_epi32(_mm256_set1_epi16(high), _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
            let scale = |low, high| {
                let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
                let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
                let scale = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
                Factors(_mm256_mul_ps(_mm256_cvtepi32_ps(scale), d))
            };
            [scale(low, high), scale(_mm256_srli_epi32::<16>(low), _mm256_srli_epi32::<8>(high))]
        };
        for half in 0..2 {
            let mut scales = scales[half];
            for i in 0..4 {
                let j = 4 * half + i;
                // SAFETY: the caller's promise; 8 × 16 bytes of codes lie within the block.
                let group = unsafe {
                    Group {
                        q: values(block.add(offset_of!(BlockIQ4_XS, qs) + 16 * j)),
                        scale: scales.next(),
                        min: _mm256_setzero_ps(),
                    }
                };
                f(j, group);
            }
        }
    }
}
