//! Products of f32 matrices, `out += scale · left · right`: what gradients are made of.
//!
//! The right factor is packed, [`DEPTH`] rows of [`WIDTH`] columns at a time, into panels of two vectors, in which order
//! the innermost loop reads it; a factor in any format is decoded on this occasion, once for all rows of the left. A panel
//! stays in the nearest cache while the rows pass, a few at a time, whose sums fill the registers.
//!
//! Every element of `out` is summed up along the rows of the right factor, [`DEPTH`] at a time, whoever does it.

use crate::aligned::Aligned;
use crate::matrix::Table;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::{Instructions, Kernel, Simd};
use std::cell::RefCell;
use std::ops::Range;

/// Rows of the right factor that are packed together.
const DEPTH: usize = 256;

/// Columns of the right factor that are packed together: whole blocks of every format. With [`DEPTH`], half of a
/// second-level cache.
const WIDTH: usize = 256;

/// Rows of the left factor that pass a panel before the next one.
const HEIGHT: usize = 96;

/// Tasks for each thread, that they may end together.
const TASKS_PER_THREAD: usize = 3;

/// Columns and rows of a task: the first that make enough of them, or else the last. Smaller ones pack the right factor, and
/// copy the left, more often.
const CUTS: [(usize, usize); 5] =
    [(WIDTH, usize::MAX), (WIDTH, HEIGHT), (WIDTH / 4, HEIGHT), (WIDTH / 4, HEIGHT / 2), (WIDTH / 4, HEIGHT / 4)];

/// A matrix of f32 in whatever order: element `(i, j)` is `data[i · row + j · col]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

impl<'a> View<'a> {
    /// Row-major, `cols` columns.
    pub fn rows(data: &'a [f32], cols: usize) -> View<'a> {
        View { data, row: cols, col: 1 }
    }

    /// The same with rows and columns exchanged.
    pub fn transposed(self) -> View<'a> {
        View { data: self.data, row: self.col, col: self.row }
    }

    /// Whether there are so many rows and columns.
    fn has(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// A right factor: something that can be packed.
pub(crate) trait Right: Sync {
    /// Writes some rows and columns to `out`, `[panel][row][width]`: panels of `width` columns, the last one filled up with
    /// zeros.
    fn pack(&self, rows: Range<usize>, cols: Range<usize>, width: usize, out: &mut [f32]);
    /// Packed columns are a multiple of this, but for the last.
    fn step(&self) -> usize {
        1
    }
}

impl Right for View<'_> {
    fn pack(&self, rows: Range<usize>, cols: Range<usize>, width: usize, out: &mut [f32]) {
        for (i, panel) in out.chunks_exact_mut(rows.len() * width).take(cols.len().div_ceil(width)).enumerate() {
            let first = cols.start + i * width;
            let n = width.min(cols.end - first);
            if n < width {
                panel.fill(0.0);
            }
            if self.col == 1 {
                for (row, out) in rows.clone().zip(panel.chunks_exact_mut(width)) {
                    out[..n].copy_from_slice(&self.data[row * self.row + first..][..n]);
                }
            } else {
                // Along the rows, which lie next to each other or at least nearer.
                for col in 0..n {
                    let column = self.data[(first + col) * self.col..].iter().skip(rows.start * self.row);
                    for (value, out) in
                        column.step_by(self.row).zip(panel[col..].iter_mut().step_by(width)).take(rows.len())
                    {
                        *out = *value;
                    }
                }
            }
        }
    }
}

/// A weight matrix as a right factor: `[out, in]`, so that rows are outputs.
pub(crate) struct Weights<'a> {
    pub instructions: Instructions,
    pub table: &'a Table,
}

impl Right for Weights<'_> {
    fn step(&self) -> usize {
        self.table.format.info().block_elems
    }

    fn pack(&self, rows: Range<usize>, cols: Range<usize>, width: usize, out: &mut [f32]) {
        let mut decoded = [0.0; WIDTH];
        let decoded = &mut decoded[..cols.len()];
        for row in rows.clone() {
            self.table.decode(self.instructions, row, cols.clone(), decoded);
            for (i, piece) in decoded.chunks(width).enumerate() {
                let out = &mut out[(i * rows.len() + row - rows.start) * width..][..width];
                out[..piece.len()].copy_from_slice(piece);
                out[piece.len()..].fill(0.0);
            }
        }
    }
}

/// A product `[rows, cols]` of `[rows, depth]` and `[depth, cols]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub rows: usize,
    pub cols: usize,
    pub depth: usize,
    pub scale: f32,
    pub left: View<'a>,
    pub right: &'a dyn Right,
}

/// Where a product is added: element `(i, j)` to `data[start + i · stride + j]`.
#[derive(Clone, Copy)]
pub(crate) struct Out<'a> {
    pub data: SharedMut<'a, f32>,
    pub start: usize,
    pub stride: usize,
}

/// Memory of a thread.
#[derive(Default)]
pub(crate) struct Scratch {
    left: Aligned,
    right: Aligned,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Adds a product to `out`, row-major, on all threads.
pub(crate) fn add(pool: &Pool, instructions: Instructions, product: &Product<'_>, out: &mut [f32]) {
    let Product { rows, cols, .. } = *product;
    assert_eq!(out.len(), rows * cols, "gemm: shapes");
    let wanted = TASKS_PER_THREAD * pool.n_threads();
    let (mut wide, mut n_high) = (WIDTH, 1);
    for (width, height) in CUTS {
        wide = width.max(product.right.step());
        // As few pieces of rows as make enough tasks, none below the height.
        n_high = wanted.div_ceil(cols.div_ceil(wide).max(1)).min(rows.div_ceil(height)).max(1);
        if cols.div_ceil(wide) * n_high >= wanted {
            break;
        }
    }
    let each = rows.div_ceil(n_high);
    let out = Out { data: SharedMut::new(out), start: 0, stride: cols };
    pool.run(cols.div_ceil(wide) * n_high, &|task| {
        let (i, high) = (task / n_high, task % n_high);
        let cols = i * wide..cols.min((i + 1) * wide);
        let rows = (high * each).min(rows)..rows.min((high + 1) * each);
        SCRATCH.with_borrow_mut(|scratch| add_part(instructions, product, rows, cols, out, scratch));
    });
}

/// Adds all of a product on this thread.
pub(crate) fn add_here(instructions: Instructions, product: &Product<'_>, out: Out<'_>, scratch: &mut Scratch) {
    for col in (0..product.cols).step_by(WIDTH) {
        add_part(instructions, product, 0..product.rows, col..product.cols.min(col + WIDTH), out, scratch);
    }
}

/// Adds some rows and at most [`WIDTH`] columns of a product.
fn add_part(
    instructions: Instructions,
    product: &Product<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: Out<'_>,
    scratch: &mut Scratch,
) {
    assert!(product.left.has(product.rows, product.depth), "gemm: the left factor's shape");
    instructions.run(Part { product, rows, cols, out, scratch });
}

struct Part<'a, 'b> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: Out<'b>,
    scratch: &'a mut Scratch,
}

/// Columns of a panel.
const fn width<S: Simd>() -> usize {
    2 * S::LANES
}

/// Rows whose sums with a panel fill the registers.
const fn rows_at_once<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 12 } else { 6 }
}

impl Kernel for Part<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { product, rows, cols, out, scratch } = self;
        let Product { depth, scale, left, right, .. } = *product;
        let width = const { width::<S>() };
        for k in (0..depth).step_by(DEPTH) {
            let k = k..depth.min(k + DEPTH);
            let packed = scratch.right.floats(cols.len().div_ceil(width) * width * k.len());
            right.pack(k.clone(), cols.clone(), width, packed);
            for first in rows.clone().step_by(HEIGHT) {
                let rows = first..rows.end.min(first + HEIGHT);
                // Rows are read as they lie if their values lie side by side; or else as columns, side by side too.
                let (left, start) = match left.col {
                    1 => (left, rows.start * left.row + k.start),
                    _ => (columns(left, &rows, &k, scratch.left.floats(HEIGHT * DEPTH)), 0),
                };
                for (i, panel) in packed.chunks_exact(k.len() * width).enumerate() {
                    let col = cols.start + i * width;
                    let n_cols = width.min(cols.end - col);
                    let mut row = rows.start;
                    while row < rows.end {
                        let n = (rows.end - row).min(const { rows_at_once::<S>() });
                        let tile = Tile {
                            left: &left.data[start + (row - rows.start) * left.row..],
                            row: left.row,
                            col: left.col,
                            panel,
                            scale,
                            out: Out { start: out.start + row * out.stride + col, ..out },
                            n_cols,
                        };
                        tile.add(s, n);
                        row += n;
                    }
                }
            }
        }
    }
}

/// Copies a part of the left factor to `out`, column after column.
fn columns<'a>(left: View<'_>, rows: &Range<usize>, cols: &Range<usize>, out: &'a mut [f32]) -> View<'a> {
    let n = rows.len();
    for (col, out) in cols.clone().zip(out.chunks_exact_mut(n)) {
        let column = &left.data[rows.start * left.row + col * left.col..];
        match left.row {
            1 => out.copy_from_slice(&column[..n]),
            row => out.iter_mut().enumerate().for_each(|(i, out)| *out = column[i * row]),
        }
    }
    View { data: out, row: 1, col: n }
}

/// A few rows of the left factor and a panel.
struct Tile<'a, 'b> {
    /// From the first row and column on, and as in [`View`].
    left: &'a [f32],
    row: usize,
    col: usize,
    panel: &'a [f32],
    scale: f32,
    out: Out<'b>,
    /// Columns of the panel that are wanted.
    n_cols: usize,
}

impl Tile<'_, '_> {
    /// For `n` rows.
    #[inline(always)]
    fn add<S: Simd>(&self, s: S, n: usize) {
        match n {
            12 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 12>(s),
            11 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 11>(s),
            10 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 10>(s),
            9 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 9>(s),
            8 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 8>(s),
            7 if const { rows_at_once::<S>() >= 12 } => self.add_rows::<S, 7>(s),
            6 => self.add_rows::<S, 6>(s),
            5 => self.add_rows::<S, 5>(s),
            4 => self.add_rows::<S, 4>(s),
            3 => self.add_rows::<S, 3>(s),
            2 => self.add_rows::<S, 2>(s),
            _ => self.add_rows::<S, 1>(s),
        }
    }

    #[inline(always)]
    fn add_rows<S: Simd, const R: usize>(&self, s: S) {
        let width = const { width::<S>() };
        let depth = self.panel.len() / width;
        assert!((R - 1) * self.row + (depth - 1) * self.col < self.left.len());
        let mut sums = [[s.splat_f32(0.0); 2]; R];
        let (left, panel) = (self.left.as_ptr(), self.panel.as_ptr());
        for k in 0..depth {
            // SAFETY: `depth` rows of a panel, and the assertion.
            unsafe {
                let right = [s.load_f32(panel.add(k * width)), s.load_f32(panel.add(k * width + S::LANES))];
                for r in 0..R {
                    let left = s.splat_f32(*left.add(r * self.row + k * self.col));
                    sums[r] = [s.fma(left, right[0], sums[r][0]), s.fma(left, right[1], sums[r][1])];
                }
            }
        }
        let scale = s.splat_f32(self.scale);
        for r in 0..R {
            // SAFETY: these columns of these rows belong to this task alone.
            let out = unsafe { self.out.data.slice(self.out.start + r * self.out.stride, self.n_cols) };
            if self.n_cols == width {
                for v in 0..2 {
                    // SAFETY: that is two vectors.
                    unsafe {
                        let at = out.as_mut_ptr().add(v * S::LANES);
                        s.store_f32(s.fma(scale, sums[r][v], s.load_f32(at)), at);
                    }
                }
            } else {
                let mut values = [0f32; 32];
                for v in 0..2 {
                    // SAFETY: room for two vectors of any set.
                    unsafe { s.store_f32(sums[r][v], values.as_mut_ptr().add(v * S::LANES)) };
                }
                // As above, so that a column has the same bits wherever the panels begin.
                out.iter_mut().zip(values).for_each(|(out, sum)| *out = self.scale.mul_add(sum, *out));
            }
        }
    }
}
