//! `out[i] = W · x[i]`: which kernel runs, and which thread does which rows.
//!
//! The work is cut by rows of `W`, so each weight is read once, and each thread writes columns of `out` that no other
//! touches. Every output element is reduced in one order that depends on the width alone: a row of `out` has the same
//! bits alone, in a batch of any size, and on any number of threads.

mod blocks;
mod float;

use crate::blocks as formats;
use crate::matrix::{Activations, Band, Matrix, Segment};
use crate::panel;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::Instructions;
use crate::tokens::Tokens;
use puna_format::Format;
use std::cell::RefCell;
use std::marker::PhantomData;

/// The input of a product, as its kernel wants it.
pub(crate) enum Input {
    /// The activations as they are.
    Float,
    /// For block formats.
    Quantized(Tokens),
}

impl Input {
    /// Brings the activations into the form that a format's kernel takes.
    pub fn prepare(pool: &Pool, instructions: Instructions, format: Format, x: &Activations) -> Input {
        if !formats::has(format) {
            return Input::Float;
        }
        let width = instructions.run(blocks::Width(x.rows));
        Input::Quantized(Tokens::quantize(pool, instructions, x, width))
    }

    /// Whether this is what [`Self::prepare`] would make for `format`.
    pub fn fits(&self, format: Format) -> bool {
        formats::has(format) == matches!(self, Input::Quantized(_))
    }
}

/// The product; `input` was prepared from `x` for the same format.
pub(crate) fn matmul(
    pool: &Pool,
    instructions: Instructions,
    x: &Activations,
    input: &Input,
    w: &Matrix,
    out: &mut Activations,
) {
    assert_eq!((x.cols, out.cols), (w.table.cols, w.table.rows), "matmul: columns of x and out");
    out.set_rows(x.rows);
    match input {
        Input::Float => by_rows(pool, instructions, x, w, out),
        Input::Quantized(x) => {
            formats::with!(w.table.format, B => by_panels::<B>(pool, instructions, x, w, out), else unreachable!("no panels"));
        }
    }
}

/// Memory that a thread's tasks work in.
#[derive(Default)]
struct Scratch {
    /// A panel interleaved for one product.
    panel: Vec<u8>,
    unpacked: blocks::Unpacked,
    decoded: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn by_panels<B: formats::Blocks>(
    pool: &Pool,
    instructions: Instructions,
    x: &Tokens,
    w: &Matrix,
    out: &mut Activations,
) {
    let rows = w.table.rows;
    let n_panels = rows.div_ceil(panel::ROWS);
    let panel_bytes = w.table.row_bytes() * panel::ROWS;
    let step = panels_per_task(n_panels, pool.n_threads(), x.n_tokens());
    let out = SharedMut::new(out.data_mut());
    pool.run(n_panels.div_ceil(step), &|task| {
        SCRATCH.with_borrow_mut(|scratch| {
            for panel in task * step..n_panels.min((task + 1) * step) {
                let row = panel * panel::ROWS;
                let n_rows = panel::ROWS.min(rows - row);
                let put = |token: usize, products: &[f32; panel::ROWS]| {
                    // SAFETY: these columns of `out` belong to this task alone.
                    let out = unsafe { out.slice(token * rows + row, n_rows) };
                    out.copy_from_slice(&products[..n_rows]);
                };
                let weights = match &w.panels {
                    Some(panels) => panels.get(panel),
                    None => {
                        scratch.panel.resize(panel_bytes, 0);
                        w.table.interleave(panel, &mut scratch.panel);
                        &scratch.panel
                    }
                };
                let unpacked = &mut scratch.unpacked;
                instructions.run(blocks::Product { weights, x, put, unpacked, blocks: PhantomData::<B> });
            }
        });
    });
}

/// Panels that a task takes: enough that a thread streams, few enough that threads end together.
fn panels_per_task(n_panels: usize, n_threads: usize, n_tokens: usize) -> usize {
    if n_tokens > 8 { 1 } else { (n_panels / (n_threads * 8)).clamp(1, 8) }
}

/// One column segment's product with all tokens: `x` and `out` are strided by token.
struct Tile<'a, 'o> {
    /// The weights, and the first row of the tile counted from its band's.
    segment: &'a Segment,
    row0: usize,
    n_rows: usize,
    /// Inputs of the segment's columns: token `i` at `x[i * x_stride..]`.
    x: &'a [f32],
    x_stride: usize,
    n_tokens: usize,
    /// Where element (token `i`, row `r` of the tile) is added: index `i * out_stride + out0 + r`.
    out: SharedMut<'o, f32>,
    out0: usize,
    out_stride: usize,
    /// Whether this is the row's first segment: then the element is set.
    first: bool,
}

impl Tile<'_, '_> {
    /// Puts a reduced product in its place.
    #[inline(always)]
    fn put(&self, token: usize, row: usize, product: f32) {
        let product = product * self.segment.scale(self.row0 + row);
        // SAFETY: a tile's rows are columns of `out` that belong to its task alone.
        let out = unsafe { &mut self.out.slice(token * self.out_stride + self.out0 + row, 1)[0] };
        *out = if self.first { product } else { *out + product };
    }
}

/// Rows that a task takes at a time: enough that a thread streams, few enough that threads end together.
fn rows_per_task(rows: usize, n_threads: usize, n_tokens: usize) -> usize {
    if n_tokens > 1 { 16 } else { (rows / (n_threads * 8)).clamp(16, 128) / 16 * 16 }
}

fn by_rows(pool: &Pool, instructions: Instructions, x: &Activations, w: &Matrix, out: &mut Activations) {
    let table = &w.table;
    let step = rows_per_task(table.rows, pool.n_threads(), x.rows);
    let tasks: Vec<(&Band, usize)> =
        table.bands.iter().flat_map(|band| band.rows.clone().step_by(step).map(move |row| (band, row))).collect();
    let out = SharedMut::new(out.data_mut());
    pool.run(tasks.len(), &|index| {
        let (band, row) = tasks[index];
        for segment in &band.segments {
            let tile = Tile {
                segment,
                row0: row - band.rows.start,
                n_rows: step.min(band.rows.end - row),
                x: &x.data()[segment.cols.start..],
                x_stride: x.cols,
                n_tokens: x.rows,
                out,
                out0: row,
                out_stride: table.rows,
                first: segment.cols.start == 0,
            };
            SCRATCH.with_borrow_mut(|scratch| {
                let decoded = &mut scratch.decoded;
                instructions.run(float::Product { format: table.format, tile: &tile, decoded });
            });
        }
    });
}
