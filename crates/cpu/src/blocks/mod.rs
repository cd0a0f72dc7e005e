//! Block formats as the matrix products see them: sixteen rows at a time, one row a lane.
//!
//! **One file a family of formats.** What a format's bytes mean is told in `puna-format`, whose `decode` every unpacker is
//! tested against. Here they lie as [`Panel`](crate::panel)s do: word by word, the same word of sixteen rows side by
//! side. So a vector of words unpacks as a single row's word would, needs no shuffling, and its lanes' sums are the
//! rows' sums.

#![allow(non_camel_case_types, reason = "the types are named as the formats are")]

mod iq4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q6_k;
mod q8;

pub(crate) use iq4::{IQ4_NL, IQ4_XS};
pub(crate) use q2_k::Q2_K;
pub(crate) use q3_k::Q3_K;
pub(crate) use q4::{Q4_0, Q4_1};
pub(crate) use q4_k::{Q4_K, Q5_K};
pub(crate) use q5::{Q5_0, Q5_1};
pub(crate) use q6_k::Q6_K;
pub(crate) use q8::Q8_0;

use crate::panel::ROWS;
use crate::simd::Simd;
use puna_format::Format;

/// A block, or a part of one, of some of a panel's rows: `LANES` of them from row `lane` on.
#[derive(Clone, Copy)]
pub(crate) struct At {
    /// The panel's bytes, from the block or the part on.
    pub bytes: *const u8,
    /// The first row.
    pub lane: usize,
}

impl At {
    /// The four bytes at `offset` of each row.
    ///
    /// # Safety
    /// They are in memory, and a four-byte field of its format covers the offset.
    #[inline(always)]
    pub unsafe fn word<S: Simd>(self, s: S, offset: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.bytes.add(ROWS * offset + 4 * self.lane)) }
    }

    /// The two bytes at `offset` of each row.
    ///
    /// # Safety
    /// They are in memory, and `offset` is that of a two-byte field of its format.
    #[inline(always)]
    pub unsafe fn u16<S: Simd>(self, s: S, offset: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.load_u16(self.bytes.add(ROWS * offset + 2 * self.lane)) }
    }

    /// The f16 at `offset` of each row.
    ///
    /// # Safety
    /// They are in memory, and `offset` is that of a two-byte field of its format.
    #[inline(always)]
    pub unsafe fn f16<S: Simd>(self, s: S, offset: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(self.bytes.add(ROWS * offset + 2 * self.lane)) }
    }
}

/// A block format. Weight i of a block is `scale · (code − offset) − min`, the factors being those of its group.
pub(crate) trait Blocks: Send + Sync + 'static {
    /// The format.
    const FORMAT: Format;
    /// Offsets of the two-byte fields of an arranged block; all its other bytes are taken by fours.
    const HALVES: &[usize];
    /// Thirty-twos in a block: 1 or 8.
    const PER_BLOCK: usize;
    /// Weights that share their factors: 16 or 32.
    const GROUP: usize = 32;
    /// The largest code, unless they are signed bytes.
    const MAX_CODE: u32;
    /// Whether codes are signed bytes: −128..=127, and come from [`Simd::signed`].
    const SIGNED: bool = false;
    /// What is to be subtracted from codes that are not signed, as a power of two: once from the sum of their products.
    const OFFSET: Option<u32> = None;
    /// Whether there is a minimum.
    const HAS_MIN: bool = false;

    /// Where an arranged block has the codes of its first thirty-two.
    const CODES: usize;
    /// Bytes of a thirty-two's codes.
    const STRIDE: usize;

    /// Writes a block as panels hold it, in as many bytes: first what factors are made of, then one thirty-two behind the
    /// other, the bits of its codes as [`bits`] takes them.
    fn arrange(block: &[u8], out: &mut [u8]) {
        out.copy_from_slice(block);
    }

    /// What is unpacked once a block.
    type Head<S: Simd>: Copy;

    /// Unpacks it.
    ///
    /// # Safety
    /// The block is in memory; so for the other two.
    unsafe fn head<S: Simd>(s: S, at: At) -> Self::Head<S>;

    /// Scale and minimum of group `group` of the block; the minimum is not used unless [`Self::HAS_MIN`].
    ///
    /// # Safety
    /// See [`Self::head`].
    unsafe fn factors<S: Simd>(s: S, at: At, head: Self::Head<S>, group: usize) -> (S::F, S::F);

    /// Codes `4 · word..` of the thirty-two at `at`, `word` in 0..8.
    ///
    /// # Safety
    /// The thirty-two is in memory.
    unsafe fn codes<S: Simd>(s: S, at: At, word: usize) -> S::I;
}

/// The power of two by which codes are too large, as a kernel's instructions take them.
pub(crate) const fn offset<S: Simd, B: Blocks>() -> Option<u32> {
    if B::SIGNED { S::SIGNED_OFFSET } else { B::OFFSET }
}

/// Runs `$body` with the type of the format's blocks as `$B`. The one list of the formats that have them.
macro_rules! with {
    ($format:expr, $B:ident => $body:expr, else $otherwise:expr) => {
        $crate::blocks::with!(@ $format, $B, $body, $otherwise,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS)
    };
    (@ $format:expr, $B:ident, $body:expr, $otherwise:expr, $($name:ident)+) => {
        match $format {
            $(puna_format::Format::$name => {
                type $B = $crate::blocks::$name;
                $body
            })+
            _ => $otherwise,
        }
    };
}
pub(crate) use with;

/// Whether a format is one of these.
pub(crate) fn has(format: Format) -> bool {
    with!(format, B => { let _ = B::FORMAT; true }, else false)
}

/// `B` bits of each of the codes `4 · word..` of a thirty-two, from bit `to` of each byte on, out of the `4 · B` bytes at
/// `offset` that hold these bits of all of them: word w of the thirty-two is in word w % B, from bit B · (w / B) on.
///
/// # Safety
/// As [`At::word`].
#[inline(always)]
unsafe fn bits<S: Simd, const B: usize>(s: S, at: At, offset: usize, word: usize, to: usize) -> S::I {
    // SAFETY: the caller's promise.
    let words = unsafe { at.word(s, offset + 4 * (word % B)) };
    bytes(s, shift(s, words, to as i32 - (word / B * B) as i32), ((1 << B) - 1) << to)
}

/// Takes 32 bytes of which each holds `B` bits of a code of 8 / B thirty-twos, and writes the bits of thirty-two i, as
/// [`bits`] takes them, from byte `start + i * stride` on.
fn arrange_bits<const B: usize>(bytes: &[u8], out: &mut [u8], start: usize, stride: usize) {
    let bytes: &[u8; 32] = bytes.try_into().expect("32 bytes");
    for i in 0..8 / B {
        for (byte, out) in out[start + i * stride..][..4 * B].iter_mut().enumerate() {
            let field = |n| (bytes[4 * B * n + byte] >> (B * i) & ((1 << B) - 1)) << (B * n);
            *out = (0..8 / B).fold(0, |out, n| out | field(n));
        }
    }
}

/// Bits of each byte that a code has: `mask` in all four.
#[inline(always)]
fn bytes<S: Simd>(s: S, v: S::I, mask: u8) -> S::I {
    s.and(v, s.splat(i32::from_le_bytes([mask; 4])))
}

/// `v` shifted to the left by `n`, or to the right if that is negative.
#[inline(always)]
fn shift<S: Simd>(s: S, v: S::I, n: i32) -> S::I {
    match n {
        0 => v,
        1.. => s.shl(v, n as u32),
        _ => s.shr(v, n.unsigned_abs()),
    }
}

/// Byte `n` of each lane, from 0 to 255.
#[inline(always)]
fn byte<S: Simd>(s: S, v: S::I, n: usize) -> S::I {
    s.and(shift(s, v, -8 * n as i32), s.splat(255))
}
