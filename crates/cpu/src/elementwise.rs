//! The operations that treat each token's row by itself: embedding, norm, rotation, SwiGLU, addition.

use crate::matrix::{Activations, Table};
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::{Instructions, Kernel, Simd};
use puna_backend::{Pairing, Rotation};

/// Values that a task takes: enough to outweigh handing it over.
const VALUES_PER_TASK: usize = 16 * 1024;

/// Calls `f(row, values of the row)` for all rows of `x`, several rows a task.
pub(crate) fn for_each_row(pool: &Pool, x: &mut Activations, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, cols) = (x.rows, x.cols);
    let step = (VALUES_PER_TASK / cols).max(1);
    let shared = SharedMut::new(x.data_mut());
    pool.run(rows.div_ceil(step), &|task| {
        for row in task * step..rows.min((task + 1) * step) {
            // SAFETY: each row belongs to one task.
            f(row, unsafe { shared.slice(row * cols, cols) });
        }
    });
}

pub(crate) fn embed(pool: &Pool, instructions: Instructions, table: &Table, ids: &[u32], out: &mut Activations) {
    assert_eq!(table.cols, out.cols, "embed: columns");
    out.set_rows(ids.len());
    for_each_row(pool, out, |row, out| table.decode(instructions, ids[row] as usize, 0..table.cols, out));
}

pub(crate) fn rms_norm(
    pool: &Pool,
    instructions: Instructions,
    x: &Activations,
    weight: &[f32],
    eps: f32,
    out: &mut Activations,
) {
    assert_eq!((x.cols, x.cols), (weight.len(), out.cols), "rms_norm: columns");
    out.set_rows(x.rows);
    for_each_row(pool, out, |row, out| {
        let x = x.row(row);
        let sum = instructions.run(SumOfSquares(x));
        let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = w * (x * scale);
        }
    });
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let vectors = self.0.chunks_exact(S::LANES);
        let rest: f32 = vectors.remainder().iter().map(|v| v * v).sum();
        let mut sums = s.splat_f32(0.0);
        for vector in vectors {
            // SAFETY: a whole vector.
            let v = unsafe { s.load_f32(vector.as_ptr()) };
            sums = s.fma(v, v, sums);
        }
        s.sum(sums) + rest
    }
}

pub(crate) fn rope(pool: &Pool, x: &mut Activations, rotation: &Rotation) {
    let (hd, half) = (rotation.head_dim, rotation.head_dim / 2);
    assert_eq!(x.cols % hd, 0, "rope: whole heads");
    assert_eq!(rotation.cos.len(), x.rows * half, "rope: one row of angles a token");
    for_each_row(pool, x, |row, x| {
        let (cos, sin) = (&rotation.cos[row * half..][..half], &rotation.sin[row * half..][..half]);
        for head in x.chunks_exact_mut(hd) {
            match rotation.pairing {
                Pairing::Interleaved => {
                    for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                        *pair = [pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s];
                    }
                }
                Pairing::Halves => {
                    let (a, b) = head.split_at_mut(half);
                    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            }
        }
    });
}

pub(crate) fn swiglu(pool: &Pool, instructions: Instructions, gate: &mut Activations, up: &Activations) {
    assert_eq!((gate.rows, gate.cols), (up.rows, up.cols), "swiglu: shapes");
    for_each_row(pool, gate, |row, gate| instructions.run(Swiglu { gate, up: up.row(row) }));
}

struct Swiglu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut vectors = self.gate.chunks_exact_mut(S::LANES);
        for (gate, up) in vectors.by_ref().zip(self.up.chunks_exact(S::LANES)) {
            // SAFETY: whole vectors.
            unsafe {
                let g = s.load_f32(gate.as_ptr());
                let silu = s.div(g, s.add_f32(s.splat_f32(1.0), s.exp(s.sub_f32(s.splat_f32(0.0), g))));
                s.store_f32(s.mul(silu, s.load_f32(up.as_ptr())), gate.as_mut_ptr());
            }
        }
        let rest = vectors.into_remainder();
        let up = &self.up[self.up.len() - rest.len()..];
        for (gate, up) in rest.iter_mut().zip(up) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
    }
}

pub(crate) fn add(pool: &Pool, x: &mut Activations, y: &Activations) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "add: shapes");
    for_each_row(pool, x, |row, x| x.iter_mut().zip(y.row(row)).for_each(|(x, y)| *x += y));
}

pub(crate) fn scale(pool: &Pool, x: &mut Activations, factor: f32) {
    for_each_row(pool, x, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

pub(crate) fn gather(x: &Activations, rows: &[usize], out: &mut Activations) {
    assert_eq!(x.cols, out.cols, "gather: columns");
    let cols = x.cols;
    let values = out.set_rows(rows.len());
    for (out, &row) in values.chunks_exact_mut(cols).zip(rows) {
        out.copy_from_slice(x.row(row));
    }
}
