//! `Q8_0`: the bytes are there already.

use super::Group;
use puna_format::Format;
use std::arch::x86_64::*;

/// See the module.
pub struct Groups;

impl super::Groups for Groups {
    const FORMAT: Format = Format::Q8_0;
    const PER_BLOCK: usize = 1;
    const HAS_MIN: bool = false;

    #[inline(always)]
    unsafe fn unpack(block: *const u8, mut f: impl FnMut(usize, Group)) {
        // SAFETY: a block is 2 bytes of scale and 32 of values; the instructions exist.
        unsafe {
            let d = _mm256_cvtph_ps(_mm_set1_epi16(block.cast::<i16>().read_unaligned()));
            f(0, Group { q: _mm256_loadu_si256(block.add(2).cast()), scale: d, min: _mm256_setzero_ps() });
        }
    }
}
