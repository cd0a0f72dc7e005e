//! `out[i] = W · x[i]`: which kernel runs, and which thread does which rows.
//!
//! The work is cut into chunks of rows of `W`, so each weight is read once, and each thread writes columns of `out`
//! that no other touches. Every output element is the sum over the column segments, in order, of
//! `scale · reduce(W_segment · x_segment)`, where `reduce` adds in one order that depends on the width alone: a row of
//! `out` has the same bits alone, in a batch of any size, and on any number of threads.

#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "x86_64")]
mod quantized;
mod scalar;

use crate::capability::Avx2;
use crate::matrix::{Activations, Band, Matrix, Segment};
use crate::pool::Pool;
use crate::quantize::{ActBlock, quantize_row};
use crate::share::SharedMut;
use puna_format::Format;

/// The input of a product, as its kernel wants it.
pub(crate) enum Input<'a> {
    Float(&'a [f32]),
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AVX2 kernels read it"))]
    Quantized(Vec<ActBlock>),
}

/// One column segment's product with all tokens: `x` and `out` are strided by token.
pub(crate) struct Tile<'a, 'o, X> {
    /// The weights, and the first row of the tile counted from its band's.
    pub segment: &'a Segment,
    pub row0: usize,
    pub n_rows: usize,
    /// Inputs of the segment's columns: token `i` at `x[i * x_stride..]`.
    pub x: &'a [X],
    pub x_stride: usize,
    pub n_tokens: usize,
    /// Where element (token `i`, row `r` of the tile) is added: index `i * out_stride + out0 + r`.
    pub out: SharedMut<'o, f32>,
    pub out0: usize,
    pub out_stride: usize,
    /// Whether this is the row's first segment: then the element is set.
    pub first: bool,
}

impl<X> Tile<'_, '_, X> {
    /// Puts a reduced product in its place.
    #[inline(always)]
    fn put(&self, token: usize, row: usize, product: f32) {
        let product = product * self.segment.scale(self.row0 + row);
        // SAFETY: a tile's rows are columns of `out` that belong to its task alone.
        let out = unsafe { &mut self.out.slice(token * self.out_stride + self.out0 + row, 1)[0] };
        *out = if self.first { product } else { *out + product };
    }
}

/// Rows that a task takes at a time. Enough that a thread streams, few enough that threads end together; a multiple of
/// what the kernels unpack at once.
fn rows_per_task(rows: usize, n_threads: usize, n_tokens: usize) -> usize {
    if n_tokens > 1 { 16 } else { (rows / (n_threads * 8)).clamp(16, 128) / 16 * 16 }
}

/// Whether the kernel of a format takes 8-bit input.
fn quantizes(avx2: Option<Avx2>, format: Format) -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx2.is_some() && crate::groups::has(format);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (avx2, format);
        false
    }
}

/// Whether `input` is what [`prepare`] would make for `format`.
pub(crate) fn fits(avx2: Option<Avx2>, format: Format, input: &Input<'_>) -> bool {
    quantizes(avx2, format) == matches!(input, Input::Quantized(_))
}

/// Brings the input into the form that a format's kernel takes.
pub(crate) fn prepare<'a>(pool: &Pool, avx2: Option<Avx2>, format: Format, x: &'a Activations) -> Input<'a> {
    if !quantizes(avx2, format) {
        return Input::Float(x.data());
    }
    let per_row = x.cols / 32;
    let mut blocks = vec![ActBlock::default(); x.rows * per_row];
    let shared = SharedMut::new(&mut blocks);
    pool.run(x.rows, &|row| {
        // SAFETY: each task has a row of its own.
        quantize_row(x.row(row), unsafe { shared.slice(row * per_row, per_row) }, avx2);
    });
    Input::Quantized(blocks)
}

/// The product, with an input that [`prepare`] made for the same format.
pub(crate) fn matmul(
    pool: &Pool,
    avx2: Option<Avx2>,
    x: &Activations,
    input: &Input<'_>,
    w: &Matrix,
    out: &mut Activations,
) {
    assert_eq!((x.cols, out.cols), (w.cols, w.rows), "matmul: columns of x and out");
    let (n_tokens, x_cols, out_stride) = (x.rows, x.cols, w.rows);
    let step = rows_per_task(w.rows, pool.n_threads(), n_tokens);
    let tasks: Vec<(&Band, usize)> =
        w.bands.iter().flat_map(|band| band.rows.clone().step_by(step).map(move |row| (band, row))).collect();
    let out = SharedMut::new(out.set_rows(n_tokens));
    pool.run(tasks.len(), &|index| {
        let (band, row) = tasks[index];
        for segment in &band.segments {
            let (row0, n_rows) = (row - band.rows.start, step.min(band.rows.end - row));
            let first = segment.cols.start == 0;
            match (input, avx2) {
                (Input::Float(x), avx2) => {
                    let x = &x[segment.cols.start..];
                    let tile = Tile {
                        segment,
                        row0,
                        n_rows,
                        x,
                        x_stride: x_cols,
                        n_tokens,
                        out,
                        out0: row,
                        out_stride,
                        first,
                    };
                    match avx2 {
                        #[cfg(target_arch = "x86_64")]
                        Some(avx2) => float::tile(avx2, w.format, &tile),
                        _ => scalar::tile(w.format, &tile),
                    }
                }
                #[cfg(target_arch = "x86_64")]
                (Input::Quantized(x), Some(avx2)) => {
                    let x = &x[segment.cols.start / 32..];
                    let x_stride = x_cols / 32;
                    let tile = Tile { segment, row0, n_rows, x, x_stride, n_tokens, out, out0: row, out_stride, first };
                    quantized::tile(avx2, w.format, &tile);
                }
                (Input::Quantized(_), _) => unreachable!("quantized input is made for AVX2 alone"),
            }
        }
    });
}
