//! `out[i] = W · x[i]`: which kernel runs, and which thread does which rows.
//!
//! The work is cut by rows of `W`, so each weight is read once, and each thread writes columns of `out` that no other
//! touches. Every output element is reduced in one order that depends on the width alone: a row of `out` has the same
//! bits alone, in a batch of any size, and on any number of threads.

mod blocks;
mod float;

pub(crate) use float::Decode;

use crate::aligned::Aligned;
use crate::blocks as formats;
use crate::matrix::{Activations, Matrix, Segment};
use crate::panel;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::Instructions;
use crate::tokens::Tokens;
use std::cell::RefCell;
use std::marker::PhantomData;

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// It replaces what is there.
    Set,
    /// It is added to it.
    Add,
}

/// Several products of one input, in one stage: the threads meet once for all of them.
pub(crate) fn matmul(
    pool: &Pool,
    instructions: Instructions,
    x: &Activations,
    products: &mut [(&Matrix, &mut Activations)],
    store: Store,
) {
    // Formats may differ between the products (mixes such as Q4_K_M), but there are only two kinds of input.
    let quantized = products.iter().any(|(w, _)| formats::has(w.table.format)).then(|| {
        let width = instructions.run(blocks::Width(x.rows));
        Tokens::quantize(pool, instructions, x, width)
    });
    // Kept from product to product: fresh memory costs more than filling it.
    let mut memory = STRETCHES.take();
    let floats = products.iter().any(|(w, _)| !formats::has(w.table.format));
    let stretches = floats.then(|| float::Stretches::new(pool, x, &mut memory));
    let products: Vec<Job> = products
        .iter_mut()
        .map(|(w, out)| {
            assert_eq!((x.cols, out.cols), (w.table.cols, w.table.rows), "matmul: columns of x and out");
            assert!(store == Store::Set || out.rows == x.rows, "matmul: rows to add to");
            let n_tasks = n_tasks(w, pool.n_threads(), x.rows);
            Job { w, n_tasks, out: SharedMut::new(out.set_rows(x.rows)), store }
        })
        .collect();
    pool.run(products.iter().map(|job| job.n_tasks).sum(), &|mut task| {
        let job = products.iter().find(|job| {
            let found = task < job.n_tasks;
            task -= if found { 0 } else { job.n_tasks };
            found
        });
        let job = job.expect("as many tasks as the products have together");
        SCRATCH.with_borrow_mut(|scratch| match (&quantized, &stretches) {
            (Some(x), _) if formats::has(job.w.table.format) => {
                formats::with!(job.w.table.format, B => by_panels::<B>(instructions, x, job, task, scratch), else ());
            }
            (_, Some(x)) => by_rows(instructions, x, job, task, &mut scratch.float),
            _ => unreachable!("every format has a kind of input"),
        });
    });
    STRETCHES.set(memory);
}

/// One product, as its tasks see it.
struct Job<'a> {
    w: &'a Matrix,
    /// `[tokens, rows of w]`
    out: SharedMut<'a, f32>,
    n_tasks: usize,
    store: Store,
}

/// How many tasks a product is: so few that each streams, so many that threads end together.
fn n_tasks(w: &Matrix, n_threads: usize, n_tokens: usize) -> usize {
    let n_panels = w.table.rows.div_ceil(panel::ROWS);
    let each = match w.panels {
        Some(_) => blocks::streams(n_tokens),
        None if n_tokens > 8 => 1,
        None => (n_panels / (n_threads * 8)).clamp(1, 8),
    };
    n_panels.div_ceil(each)
}

/// Memory that a thread's tasks work in.
#[derive(Default)]
struct Scratch {
    /// A panel interleaved for one product.
    panel: Vec<u8>,
    blocks: blocks::Scratch,
    float: float::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static STRETCHES: RefCell<Aligned> = RefCell::default();
}

/// Some panels of a product of a block format.
fn by_panels<B: formats::Blocks>(
    instructions: Instructions,
    x: &Tokens,
    job: &Job,
    task: usize,
    scratch: &mut Scratch,
) {
    let table = &job.w.table;
    let Scratch { panel, blocks, .. } = scratch;
    let n_panels = table.rows.div_ceil(panel::ROWS);
    let mut product = |first: usize, weights: &[&[u8]]| {
        let put = |i: usize, token: usize, products: &[f32; panel::ROWS]| {
            let row = (first + i * job.n_tasks) * panel::ROWS;
            let n_rows = panel::ROWS.min(table.rows - row);
            // SAFETY: these columns of `out` belong to this task alone.
            let out = unsafe { job.out.slice(token * table.rows + row, n_rows) };
            match job.store {
                Store::Set => out.copy_from_slice(&products[..n_rows]),
                Store::Add => out.iter_mut().zip(products).for_each(|(out, product)| *out += product),
            }
        };
        instructions.run(blocks::Product { weights, x, put, scratch: blocks, blocks: PhantomData::<B> });
    };
    match &job.w.panels {
        // Far from each other: the next task goes on where each of these ends.
        Some(copy) => {
            let (mut weights, mut n) = ([&[][..]; blocks::STREAMS], 0);
            for (weights, i) in weights.iter_mut().zip((task..n_panels).step_by(job.n_tasks)) {
                *weights = copy.get(i);
                n += 1;
            }
            product(task, &weights[..n]);
        }
        None => {
            panel.resize(table.row_bytes() * panel::ROWS, 0);
            let each = n_panels.div_ceil(job.n_tasks);
            for i in task * each..n_panels.min((task + 1) * each) {
                table.interleave(i, panel);
                product(i, &[panel]);
            }
        }
    }
}

/// One column segment's product with all tokens: `x` and `out` are strided by token.
struct Tile<'a, 'o> {
    /// The weights, and the first row of the tile counted from its band's.
    segment: &'a Segment,
    row0: usize,
    n_rows: usize,
    /// Inputs of all columns.
    x: &'a float::Stretches<'a>,
    /// Where element (token `i`, row `r` of the tile) is added: index `i * out_stride + out0 + r`.
    out: SharedMut<'o, f32>,
    out0: usize,
    out_stride: usize,
    /// Whether the element is set: of the row's first segment, if nothing is there to be added to.
    sets: bool,
}

impl Tile<'_, '_> {
    /// Puts a reduced product in its place.
    #[inline(always)]
    fn put(&self, token: usize, row: usize, product: f32) {
        let product = product * self.segment.scale(self.row0 + row);
        // SAFETY: a tile's rows are columns of `out` that belong to its task alone.
        let out = unsafe { &mut self.out.slice(token * self.out_stride + self.out0 + row, 1)[0] };
        *out = if self.sets { product } else { *out + product };
    }
}

/// Some rows of a product of a float format.
fn by_rows(instructions: Instructions, x: &float::Stretches, job: &Job, task: usize, scratch: &mut float::Scratch) {
    let table = &job.w.table;
    let each = table.rows.div_ceil(panel::ROWS).div_ceil(job.n_tasks) * panel::ROWS;
    let rows = task * each..table.rows.min((task + 1) * each);
    let mut row = rows.start;
    while row < rows.end {
        let band = table.bands.iter().find(|band| band.rows.contains(&row)).expect("the row exists");
        let end = rows.end.min(band.rows.end);
        for segment in &band.segments {
            let tile = Tile {
                segment,
                row0: row - band.rows.start,
                n_rows: end - row,
                x,
                out: job.out,
                out0: row,
                out_stride: table.rows,
                sets: segment.cols.start == 0 && job.store == Store::Set,
            };
            instructions.run(float::Product { format: table.format, tile: &tile, scratch });
        }
        row = end;
    }
}
