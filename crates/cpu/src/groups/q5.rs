//! `Q5_0` and `Q5_1`.

use super::{Group, Groups, and, f16, nibbles};
use puna_format::{BlockQ5_0, BlockQ5_1, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// The 5-bit codes: the low bits as [`nibbles`] has them, the fifth of code i as bit i of a u32.
///
/// # Safety
/// AVX2 exists; 16 bytes can be read at `low`, four at `fifth`.
#[inline(always)]
unsafe fn codes(low: *const u8, fifth: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let all = _mm256_set1_epi32(fifth.cast::<i32>().read_unaligned());
        // Byte i gets byte i / 8 of the u32, then all of its bits but bit i % 8 are set.
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let others = _mm256_set1_epi64x(0x7FBF_DFEF_F7FB_FDFE);
        let filled = _mm256_or_si256(_mm256_shuffle_epi8(all, spread), others);
        _mm256_or_si256(nibbles(low), and(_mm256_cmpeq_epi8(filled, _mm256_set1_epi8(-1)), 16))
    }
}

/// [`Format::Q5_0`]
pub struct Q5_0;

impl Groups for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const PER_BLOCK: usize = 1;
    const OFFSET: i8 = 16;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            Group {
                q: codes(block.add(offset_of!(BlockQ5_0, qs)), block.add(offset_of!(BlockQ5_0, qh))),
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
            Group {
                q: codes(block.add(offset_of!(BlockQ5_1, qs)), block.add(offset_of!(BlockQ5_1, qh))),
                scale: f16(block.add(offset_of!(BlockQ5_1, d))),
                min: _mm256_xor_ps(f16(block.add(offset_of!(BlockQ5_1, m))), _mm256_set1_ps(-0.0)),
            }
        };
        f(0, group);
    }
}
