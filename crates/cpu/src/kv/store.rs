//! Writing tokens to a page: their rows are encoded, and each piece goes to its place.

use super::Run;
use super::stored::{F16, F32, GROUP, Q8_0, Stored};
use crate::matrix::Activations;
use crate::share::SharedMut;
use crate::simd::{Instructions, Kernel, Simd};
use puna_backend::KvFormat;
use puna_format::Format;
use std::cell::RefCell;

/// Keys or values of one head, of the tokens of a run.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// From the first value of the first token to the last of the last.
    values: &'a [f32],
    /// From a token to the next.
    stride: usize,
    head_dim: usize,
}

impl<'a> Rows<'a> {
    pub fn new(x: &'a Activations, run: &Run, head: usize, head_dim: usize) -> Rows<'a> {
        let (first, last) = (run.row * x.cols, (run.row + run.n - 1) * x.cols);
        let values = &x.data()[first + head * head_dim..last + (head + 1) * head_dim];
        Rows { values, stride: x.cols, head_dim }
    }

    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.stride).map(|row| &row[..self.head_dim])
    }

    fn len(&self) -> usize {
        self.values.len().div_ceil(self.stride)
    }
}

thread_local! {
    /// Encoded rows, `[token][bytes of a row]`.
    static ENCODED: RefCell<Vec<u8>> = RefCell::default();
}

/// Writes keys to slots `slot..` of a head whose keys begin at byte `head` of the slab.
pub(super) fn keys(
    instructions: Instructions,
    format: KvFormat,
    rows: Rows<'_>,
    slab: SharedMut<'_, u8>,
    head: usize,
    slot: usize,
) {
    let row_bytes = format.head_bytes(rows.head_dim);
    ENCODED.with_borrow_mut(|encoded| {
        encode(instructions, format, rows, encoded);
        let column = Column { encoded, row_bytes, n: rows.len(), slab };
        for i in 0..rows.head_dim {
            match format {
                KvFormat::F32 => column.put::<4>(i * 4, head + F32::key(i, slot)),
                KvFormat::F16 => column.put::<2>(i * 2, head + F16::key(i, slot)),
                KvFormat::Q8_0 => {
                    // As in [`puna_format`]: blocks of a scale and 32 codes.
                    let block = i / GROUP * (2 + GROUP);
                    if i % GROUP == 0 {
                        column.put::<2>(block, head + Q8_0::key_scale(i, slot));
                    }
                    column.put::<1>(block + 2 + i % GROUP, head + Q8_0::key(i, slot));
                }
            }
        }
    });
}

/// Writes values to slots `slot..` of a head whose values begin at byte `head` of the slab.
pub(super) fn values(
    instructions: Instructions,
    format: KvFormat,
    rows: Rows<'_>,
    slab: SharedMut<'_, u8>,
    head: usize,
    slot: usize,
) {
    let (hd, row_bytes) = (rows.head_dim, format.head_bytes(rows.head_dim));
    ENCODED.with_borrow_mut(|encoded| {
        encode(instructions, format, rows, encoded);
        if format != KvFormat::Q8_0 {
            // SAFETY: these slots of this head belong to one task, as runs have none in common; so below.
            unsafe { slab.slice(head + slot * row_bytes, encoded.len()) }.copy_from_slice(encoded);
            return;
        }
        for (row, token) in encoded.chunks_exact(row_bytes).zip(slot..) {
            for (block, i) in row.chunks_exact(2 + GROUP).zip((0..hd).step_by(GROUP)) {
                // SAFETY: see above.
                unsafe {
                    slab.slice(head + Q8_0::value_scale(hd, token, i), 2).copy_from_slice(&block[..2]);
                    slab.slice(head + Q8_0::value(hd, token, i), GROUP).copy_from_slice(&block[2..]);
                }
            }
        }
    });
}

/// Encoded rows that go to a page column by column.
struct Column<'a> {
    encoded: &'a [u8],
    row_bytes: usize,
    n: usize,
    slab: SharedMut<'a, u8>,
}

impl Column<'_> {
    /// Bytes `from..from + N` of all rows to consecutive places from byte `to` of the slab.
    fn put<const N: usize>(&self, from: usize, to: usize) {
        // SAFETY: these slots of this head belong to one task.
        let out = unsafe { self.slab.slice(to, self.n * N) };
        for (out, row) in out.as_chunks_mut::<N>().0.iter_mut().zip(self.encoded.chunks_exact(self.row_bytes)) {
            out.copy_from_slice(&row[from..from + N]);
        }
    }
}

/// All rows to `out`, one behind the other.
fn encode(instructions: Instructions, format: KvFormat, rows: Rows<'_>, out: &mut Vec<u8>) {
    let row_bytes = format.head_bytes(rows.head_dim);
    out.resize(rows.len() * row_bytes, 0);
    let out = out.chunks_exact_mut(row_bytes);
    match format {
        KvFormat::F32 => rows.iter().zip(out).for_each(|(row, out)| Format::F32.encode(row, out)),
        KvFormat::F16 => rows.iter().zip(out).for_each(|(row, out)| instructions.run(EncodeF16(row, out))),
        KvFormat::Q8_0 => rows.iter().zip(out).for_each(|(row, out)| instructions.run(EncodeQ8_0(row, out))),
    }
}

/// The same bits as [`puna_format`]'s encoder.
struct EncodeF16<'a>(&'a [f32], &'a mut [u8]);

impl Kernel for EncodeF16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let EncodeF16(values, out) = self;
        let whole = values.len() / S::LANES * S::LANES;
        assert!(out.len() >= 2 * values.len());
        // SAFETY: whole vectors within both; the last one has buffers of its own.
        unsafe {
            for i in (0..whole).step_by(S::LANES) {
                s.store_f16(s.load_f32(values.as_ptr().add(i)), out.as_mut_ptr().add(2 * i));
            }
            if whole < values.len() {
                let (mut last, mut bytes) = ([0f32; 16], [0u8; 32]);
                last[..values.len() - whole].copy_from_slice(&values[whole..]);
                s.store_f16(s.load_f32(last.as_ptr()), bytes.as_mut_ptr());
                out[2 * whole..2 * values.len()].copy_from_slice(&bytes[..2 * (values.len() - whole)]);
            }
        }
        for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
            // A number that is too large was rounded to infinity: one below it, of the same sign, is the largest.
            let half = u16::from_le_bytes(*out);
            let overflowed = half & 0x7fff == 0x7c00 && value.is_finite();
            *out = (half - u16::from(overflowed)).to_le_bytes();
        }
    }
}

/// The same bits as [`puna_format`]'s encoder.
struct EncodeQ8_0<'a>(&'a [f32], &'a mut [u8]);

impl Kernel for EncodeQ8_0<'_> {
    type Output = ();

    /// Written without vectors: compiled for an instruction set, the loops become some.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let EncodeQ8_0(values, out) = self;
        for (values, out) in values.as_chunks::<GROUP>().0.iter().zip(out.as_chunks_mut::<{ 2 + GROUP }>().0) {
            let mut x = *values;
            let mut peak = 0;
            for x in &mut x {
                *x = if x.is_nan() { 0.0 } else { x.clamp(-1e9, 1e9) };
                // Magnitudes are ordered as their bits are.
                peak = peak.max(x.to_bits() & 0x7fff_ffff);
            }
            let d = (f32::from_bits(peak) / 127.0).min(65504.0);
            let inverse = 1.0 / d;
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            let mut scale = [0u8; 32];
            // SAFETY: room for sixteen halves.
            unsafe { s.store_f16(s.splat_f32(d), scale.as_mut_ptr()) };
            out[..2].copy_from_slice(&scale[..2]);
            for (out, x) in out[2..].iter_mut().zip(x) {
                let q = (x * inverse).clamp(-127.0, 127.0);
                // Halves are rounded away from zero: the float just below one half is added, and the rest cut off.
                let q = q + 0.5f32.next_down().copysign(q);
                // SAFETY: neither x nor the inverse is NaN or infinite, so q is a number, and less than 128.
                *out = unsafe { q.to_int_unchecked::<i32>() } as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoders_give_the_bits_of_the_formats(
            values in prop::collection::vec(prop_oneof![8 => -8f32..8.0, 1 => any::<u32>().prop_map(f32::from_bits)], 96),
            n in 0usize..=96,
        ) {
            for set in Instructions::available() {
                let (mut found, mut expected) = (vec![0; 2 * n], vec![0; 2 * n]);
                set.run(EncodeF16(&values[..n], &mut found));
                Format::F16.encode(&values[..n], &mut expected);
                for ((found, expected), value) in found.as_chunks().0.iter().zip(expected.as_chunks().0).zip(&values) {
                    // NaN stays NaN, whichever.
                    prop_assert!(found == expected || value.is_nan() && half::f16::from_le_bytes(*found).is_nan(), "{:?}", set);
                }
                let (mut found, mut expected) = (vec![0; 3 * 34], vec![0; 3 * 34]);
                set.run(EncodeQ8_0(&values, &mut found));
                Format::Q8_0.encode(&values, &mut expected);
                prop_assert_eq!(found, expected, "{:?}", set);
            }
        }
    }
}
