//! The operations that treat each token's row by itself: embedding, norm, rotation, SwiGLU, addition.

use crate::capability::Avx2;
use crate::matrix::{Activations, Matrix};
use crate::pool::Pool;
use crate::share::SharedMut;
use puna_backend::{Pairing, Rotation};

/// Values that a task takes: enough to outweigh handing it over.
const VALUES_PER_TASK: usize = 16 * 1024;

/// Calls `f(row, values of the row)` for all rows of `x`, several rows a task.
fn for_each_row(pool: &Pool, x: &mut Activations, f: impl Fn(usize, &mut [f32]) + Sync) {
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

pub(crate) fn embed(pool: &Pool, table: &Matrix, ids: &[u32], out: &mut Activations) {
    assert_eq!(table.cols, out.cols, "embed: columns");
    out.set_rows(ids.len());
    for_each_row(pool, out, |row, out| table.decode_row(ids[row] as usize, out));
}

pub(crate) fn rms_norm(
    pool: &Pool,
    avx2: Option<Avx2>,
    x: &Activations,
    weight: &[f32],
    eps: f32,
    out: &mut Activations,
) {
    assert_eq!((x.cols, x.cols), (weight.len(), out.cols), "rms_norm: columns");
    out.set_rows(x.rows);
    for_each_row(pool, out, |row, out| {
        let x = x.row(row);
        let sum = match avx2 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves the instructions.
            Some(_) => unsafe { sum_of_squares_avx2(x) },
            _ => x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() as f32,
        };
        let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = w * (x * scale);
        }
    });
}

/// # Safety
/// AVX2 and FMA exist.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn sum_of_squares_avx2(x: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let (eights, rest) = x.as_chunks::<8>();
    let mut sums = _mm256_setzero_ps();
    for eight in eights {
        // SAFETY: eight values.
        let v = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        sums = _mm256_fmadd_ps(v, v, sums);
    }
    crate::simd::sum8(sums) + rest.iter().map(|v| v * v).sum::<f32>()
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

pub(crate) fn swiglu(pool: &Pool, avx2: Option<Avx2>, gate: &mut Activations, up: &Activations) {
    assert_eq!((gate.rows, gate.cols), (up.rows, up.cols), "swiglu: shapes");
    for_each_row(pool, gate, |row, gate| match avx2 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token proves the instructions; the lengths are equal.
        Some(_) => unsafe { swiglu_avx2(gate, up.row(row)) },
        _ => swiglu_scalar(gate, up.row(row)),
    });
}

fn swiglu_scalar(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + (-*gate).exp()) * up;
    }
}

/// # Safety
/// AVX2 and FMA exist; the lengths are equal.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn swiglu_avx2(gate: &mut [f32], up: &[f32]) {
    use std::arch::x86_64::*;
    let n8 = gate.len() / 8 * 8;
    for i in (0..n8).step_by(8) {
        // SAFETY: values i..i+8 exist in both.
        unsafe {
            let g = _mm256_loadu_ps(gate.as_ptr().add(i));
            let e = crate::simd::exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));
            let silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0), e));
            _mm256_storeu_ps(gate.as_mut_ptr().add(i), _mm256_mul_ps(silu, _mm256_loadu_ps(up.as_ptr().add(i))));
        }
    }
    swiglu_scalar(&mut gate[n8..], &up[n8..]);
}

pub(crate) fn add(pool: &Pool, x: &mut Activations, y: &Activations) {
    assert_eq!((x.rows, x.cols), (y.rows, y.cols), "add: shapes");
    for_each_row(pool, x, |row, x| x.iter_mut().zip(y.row(row)).for_each(|(x, y)| *x += y));
}

pub(crate) fn gather(x: &Activations, rows: &[usize], out: &mut Activations) {
    assert_eq!(x.cols, out.cols, "gather: columns");
    let cols = x.cols;
    let values = out.set_rows(rows.len());
    for (out, &row) in values.chunks_exact_mut(cols).zip(rows) {
        out.copy_from_slice(x.row(row));
    }
}
