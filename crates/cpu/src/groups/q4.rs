//! `Q4_0` and `Q4_1`.

use super::{Group, Groups, f16, nibbles};
use puna_format::{BlockQ4_0, BlockQ4_1, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// [`Format::Q4_0`]
pub struct Q4_0;

impl Groups for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const PER_BLOCK: usize = 1;
    const OFFSET: i8 = 8;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            Group {
                q: nibbles(block.add(offset_of!(BlockQ4_0, qs))),
                scale: f16(block.add(offset_of!(BlockQ4_0, d))),
                min: _mm256_setzero_ps(),
            }
        };
        f(0, group);
    }
}

/// [`Format::Q4_1`]: min is −m.
pub struct Q4_1;

impl Groups for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const PER_BLOCK: usize = 1;
    const HAS_MIN: bool = true;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            Group {
                q: nibbles(block.add(offset_of!(BlockQ4_1, qs))),
                scale: f16(block.add(offset_of!(BlockQ4_1, d))),
                min: _mm256_xor_ps(f16(block.add(offset_of!(BlockQ4_1, m))), _mm256_set1_ps(-0.0)),
            }
        };
        f(0, group);
    }
}
