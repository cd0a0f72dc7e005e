//! `Q5_0` and `Q5_1`.

use super::{Group, Groups, f16, nibbles};
use puna_format::{BlockQ5_0, BlockQ5_1, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// Bytes of all ones where a bit of the u32 at `at` is set, else of zeros: byte i for bit i.
///
/// # Safety
/// AVX2 exists; four bytes can be read at `at`.
#[inline(always)]
unsafe fn where_set(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let all = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        // Byte i gets byte i / 8 of the u32, then all of its bits but bit i % 8 are set.
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let others = _mm256_set1_epi64x(0x7FBF_DFEF_F7FB_FDFE);
        let filled = _mm256_or_si256(_mm256_shuffle_epi8(all, spread), others);
        _mm256_cmpeq_epi8(filled, _mm256_set1_epi8(-1))
    }
}

/// [`Format::Q5_0`]: q is the code − 16.
pub struct Q5_0;

impl Groups for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const PER_BLOCK: usize = 1;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            let set = where_set(block.add(offset_of!(BlockQ5_0, qh)));
            // Without its fifth bit a code is its low bits − 16, and that is 0xF0 | low bits.
            let minus_16 = _mm256_andnot_si256(set, _mm256_set1_epi8(0xF0_u8 as i8));
            Group {
                q: _mm256_or_si256(nibbles(block.add(offset_of!(BlockQ5_0, qs))), minus_16),
                scale: f16(block.add(offset_of!(BlockQ5_0, d))),
                min: _mm256_setzero_ps(),
            }
        };
        f(0, group);
    }
}

/// [`Format::Q5_1`]: min is −m.
pub struct Q5_1;

impl Groups for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const PER_BLOCK: usize = 1;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            let set = where_set(block.add(offset_of!(BlockQ5_1, qh)));
            let fifth = _mm256_and_si256(set, _mm256_set1_epi8(16));
            Group {
                q: _mm256_or_si256(nibbles(block.add(offset_of!(BlockQ5_1, qs))), fifth),
                scale: f16(block.add(offset_of!(BlockQ5_1, d))),
                min: _mm256_xor_ps(f16(block.add(offset_of!(BlockQ5_1, m))), _mm256_set1_ps(-0.0)),
            }
        };
        f(0, group);
    }
}
