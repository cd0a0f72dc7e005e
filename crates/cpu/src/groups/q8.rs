//! `Q8_0`.

use super::{Group, Groups, f16};
use puna_format::{BlockQ8_0, Format};
use std::arch::x86_64::*;
use std::mem::offset_of;

/// [`Format::Q8_0`]
pub struct Q8_0;

impl Groups for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const PER_BLOCK: usize = 1;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: the caller's promise; all offsets lie within the block.
        let group = unsafe {
            Group {
                q: _mm256_loadu_si256(block.add(offset_of!(BlockQ8_0, qs)).cast()),
                scale: f16(block.add(offset_of!(BlockQ8_0, d))),
                min: _mm256_setzero_ps(),
            }
        };
        f(0, group);
    }
}
