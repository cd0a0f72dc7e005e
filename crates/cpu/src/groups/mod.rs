//! How 32 weights of each block format are unpacked to bytes, with AVX2.

pub(crate) mod q8_0;

use puna_format::Format;
use std::arch::x86_64::{__m256, __m256i};

/// 32 consecutive weights, unpacked to one vector of bytes and the floats that give them their value:
/// `value[i] = scale[half] · q[i] - min[half]`.
///
/// Lanes 0..4 of `scale` and `min` belong to weights 0..16, lanes 4..8 to weights 16..32.
#[derive(Clone, Copy)]
pub struct Group {
    /// The weights' bytes in row order.
    pub q: __m256i,
    /// Factors.
    pub scale: __m256,
    /// Minima.
    pub min: __m256,
}

/// A block format that unpacks to [`Group`]s.
pub trait Groups: 'static {
    /// The format.
    const FORMAT: Format;
    /// Groups of 32 in one block.
    const PER_BLOCK: usize;
    /// Whether `min` is used. Then `q` is unsigned, 0..=127, and the product needs no sign handling; without it `q` is
    /// signed and `min` is zero.
    const HAS_MIN: bool;
    /// Calls `f(index in the block, group)` for each group of the block, in order.
    ///
    /// # Safety
    /// AVX2, FMA and F16C exist; the bytes of one block are readable at `block`.
    unsafe fn unpack(block: *const u8, f: impl FnMut(usize, Group));
}

/// Runs `$body` with the type of the format's groups as `$G`. The one list of the formats that have groups.
macro_rules! with {
    ($format:expr, $G:ident => $body:expr, else $otherwise:expr) => {
        $crate::groups::with!(@ $format, $G, $body, $otherwise,
            Q8_0 q8_0)
    };
    (@ $format:expr, $G:ident, $body:expr, $otherwise:expr, $($name:ident $file:ident)+) => {
        match $format {
            $(puna_format::Format::$name => {
                type $G = $crate::groups::$file::Groups;
                $body
            })+
            _ => $otherwise,
        }
    };
}
pub(crate) use with;

/// Whether a format has groups.
pub fn has(format: Format) -> bool {
    with!(format, G => { let _ = G::FORMAT; true }, else false)
}
