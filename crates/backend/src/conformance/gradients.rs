//! The gradients of every operation against differences of f64 references: no formula of a gradient is believed.

use super::{Random, read, rows_of};
use crate::{Gradients, Heads, Pairing, Rotation};
use puna_format::{FORMATS, Format};
use rand_core::RngCore;

/// Largest error of a gradient, relative to the tensor's largest: f32 sums of some hundred products, with exponentials
/// and divisions of 1 ulp on the way, stay below.
const TOLERANCE: f64 = 1e-4;

/// Elements of a tensor whose slopes are taken.
const SAMPLE: usize = 50;

/// `∂f/∂x[i]` by five points: the error is of the fourth order in the step.
fn slope(f: &impl Fn(&[f64]) -> f64, x: &[f64], i: usize) -> f64 {
    const STEP: f64 = 1e-3;
    let at = |steps: f64| {
        let mut x = x.to_vec();
        x[i] += steps * STEP;
        f(&x)
    };
    (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[track_caller]
fn assert_near(what: &str, i: usize, found: f32, expected: f64, scale: f64) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= TOLERANCE * scale, "{what}: element {i} is {found}, expected {expected}, largest {scale}");
}

#[track_caller]
fn assert_all_near(what: &str, found: &[f32], expected: &[f64]) {
    assert_all_near_by(what, found, expected, expected);
}

/// The same, where the largest is that of other values.
#[track_caller]
fn assert_all_near_by(what: &str, found: &[f32], expected: &[f64], magnitudes: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}: elements");
    let scale = magnitudes.iter().fold(0f64, |max, v| max.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_near(what, i, *found, *expected, scale);
    }
}

/// Checks `found`, a gradient of `loss` in `x`, at some of its elements.
#[track_caller]
fn check(random: &mut Random, what: &str, loss: impl Fn(&[f64]) -> f64, x: &[f32], found: &[f32]) {
    check_above(random, what, 0.0, loss, x, found);
}

/// The same, where nothing below `least` is told from zero.
#[track_caller]
fn check_above(random: &mut Random, what: &str, least: f64, loss: impl Fn(&[f64]) -> f64, x: &[f32], found: &[f32]) {
    assert_eq!(found.len(), x.len(), "{what}: elements");
    let x = wide(x);
    let all: Vec<usize> = if x.len() <= SAMPLE {
        (0..x.len()).collect()
    } else {
        (0..SAMPLE).map(|_| random.0.next_u32() as usize % x.len()).collect()
    };
    let slopes: Vec<f64> = all.iter().map(|&i| slope(&loss, &x, i)).collect();
    let scale = slopes.iter().fold(least / TOLERANCE, |max, v| max.max(v.abs()));
    for (i, expected) in all.into_iter().zip(slopes) {
        assert_near(what, i, found[i], expected, scale);
    }
}

/// `Σ weights · values`: the loss whose gradient in the values is `weights`.
fn weighted(weights: &[f32], values: impl IntoIterator<Item = f64>) -> f64 {
    weights.iter().zip(values).map(|(w, v)| f64::from(*w) * v).sum()
}

/// Runs the whole suite.
///
/// # Panics
/// At the first operation that does not conform, with the operation, the element, and both values.
pub fn run<B: Gradients>(backend: &B, seed: u64) {
    let random = &mut Random::new(seed);
    println!("conformance of gradients of {} with seed {seed}", backend.describe());
    for info in FORMATS {
        matmul(backend, random, info.format);
    }
    outer_products(backend, random);
    trainable(backend, random);
    rms_norm(backend, random);
    rope(backend, random);
    swiglu(backend, random);
    log_softmax(backend, random);
    embed(backend, random);
    dropout(backend, random);
    for (n_heads, n_kv_heads, head_dim) in [(4, 2, 8), (3, 3, 12), (6, 1, 32)] {
        attention(backend, random, Heads { n_heads, n_kv_heads, head_dim });
    }
}

fn matmul<B: Gradients>(backend: &B, random: &mut Random, format: Format) {
    let cols_of: &[usize] = if format.info().block_elems == 1 { &[300, 5] } else { &[256, 768] };
    for &cols in cols_of {
        for (rows, n_tokens) in [(1, 1), (37, 2), (300, 7), (20, 110)] {
            let (source, w) = random.matrix(format, rows, cols);
            let matrix = backend.matrix(source).expect("a valid matrix");
            let (d_out, before) = (random.values(n_tokens * rows), random.values(n_tokens * cols));
            let run = |d_out: &[f32], before: &[f32]| {
                let mut d_x = rows_of(backend, before, cols);
                backend.matmul_backward(&rows_of(backend, d_out, rows), &matrix, &mut d_x);
                read(backend, &d_x)
            };
            let found = run(&d_out, &before);
            let mut expected = wide(&before);
            for (d_x, d_out) in expected.chunks_exact_mut(cols).zip(d_out.chunks_exact(rows)) {
                for (w, d) in w.chunks_exact(cols).zip(d_out) {
                    d_x.iter_mut().zip(w).for_each(|(sum, w)| *sum += w * f64::from(*d));
                }
            }
            let what = format!("matmul_backward {format} [{rows}, {cols}] × {n_tokens}");
            assert_all_near(&what, &found, &expected);
            let last = run(&d_out[(n_tokens - 1) * rows..], &before[(n_tokens - 1) * cols..]);
            assert_eq!(found[(n_tokens - 1) * cols..], last, "{what}: the last row alone and in the batch");
        }
    }
}

fn outer_products<B: Gradients>(backend: &B, random: &mut Random) {
    for (n_tokens, rows, cols) in [(1, 1, 1), (300, 37, 270), (5, 130, 16), (70, 8, 600)] {
        let (d_out, x) = (random.values(n_tokens * rows), random.values(n_tokens * cols));
        let before = random.values(rows * cols);
        let mut d_w = rows_of(backend, &before, cols);
        backend.outer_products(&rows_of(backend, &d_out, rows), &rows_of(backend, &x, cols), 0.5, &mut d_w);
        let mut expected = wide(&before);
        // The sums of the magnitudes: where terms cancel, as they may in the one element of the smallest case, the error
        // is of their size, not of the sum's.
        let mut magnitudes: Vec<f64> = expected.iter().map(|v| v.abs()).collect();
        for (d_out, x) in d_out.chunks_exact(rows).zip(x.chunks_exact(cols)) {
            for (i, d) in d_out.iter().enumerate() {
                for (j, x) in x.iter().enumerate() {
                    let term = 0.5 * f64::from(*d) * f64::from(*x);
                    expected[i * cols + j] += term;
                    magnitudes[i * cols + j] += term.abs();
                }
            }
        }
        let what = format!("outer_products of {n_tokens} tokens, [{rows}, {cols}]");
        assert_all_near_by(&what, &read(backend, &d_w), &expected, &magnitudes);
    }
}

/// Values that change are those that are multiplied with, and looked up.
fn trainable<B: Gradients>(backend: &B, random: &mut Random) {
    let (rows, cols) = (9, 40);
    let mut w = backend.trainable("w", rows, cols, random.values(rows * cols)).expect("memory");
    let values = random.values(rows * cols);
    backend.update(&mut w, &mut |old| old.copy_from_slice(&values));
    let x = random.values(cols);
    let mut out = backend.activations(1, rows).expect("memory");
    backend.matmul(&rows_of(backend, &x, cols), &w, &mut out);
    let expected: Vec<f64> = values.chunks_exact(cols).map(|w| weighted(w, wide(&x))).collect();
    assert_all_near("a changed matrix", &read(backend, &out), &expected);
    let mut row = backend.activations(1, cols).expect("memory");
    backend.embed(backend.table_of(&w), &[7], &mut row);
    assert_eq!(read(backend, &row), values[7 * cols..8 * cols], "a changed table");
}

fn rms_norm<B: Gradients>(backend: &B, random: &mut Random) {
    const EPS: f32 = 1e-5;
    // Of three dimensions one draw in a million has a gradient of almost nothing: x and the others in one line.
    for (n, dim) in [(1, 7), (4, 100), (3, 520)] {
        let (x, weight, d_out) = (random.values(n * dim), random.values(dim), random.values(n * dim));
        let loss = |x: &[f64], weight: &[f64]| {
            let norm = |x: &[f64]| {
                let scale = (x.iter().map(|v| v * v).sum::<f64>() / dim as f64 + f64::from(EPS)).sqrt();
                x.iter().zip(weight).map(|(x, w)| w * x / scale).collect::<Vec<f64>>()
            };
            weighted(&d_out, x.chunks_exact(dim).flat_map(norm))
        };
        let mut d_x = rows_of(backend, &vec![0.0; n * dim], dim);
        let mut d_weight = rows_of(backend, &vec![0.0; dim], dim);
        let w = backend.vector(&weight).expect("memory");
        let (rows, d_rows) = (rows_of(backend, &x, dim), rows_of(backend, &d_out, dim));
        backend.rms_norm_backward(&rows, &w, EPS, &d_rows, &mut d_x, Some(&mut d_weight));
        let (found, found_weight) = (read(backend, &d_x), read(backend, &d_weight));
        check(random, "rms_norm_backward, x", |v| loss(v, &wide(&weight)), &x, &found);
        check(random, "rms_norm_backward, weight", |v| loss(&wide(&x), v), &weight, &found_weight);
        // Gradients add up.
        backend.rms_norm_backward(&rows, &w, EPS, &d_rows, &mut d_x, None);
        let twice: Vec<f64> = found.iter().map(|d| 2.0 * f64::from(*d)).collect();
        assert_all_near("rms_norm_backward, twice", &read(backend, &d_x), &twice);
    }
}

/// A rotation is orthogonal: its gradient is the way back.
fn rope<B: Gradients>(backend: &B, random: &mut Random) {
    for pairing in [Pairing::Interleaved, Pairing::Halves] {
        let rotation = Rotation::new(pairing, &random.values(4), &[3, 70]);
        let (x, d_out) = (random.values(2 * 16), random.values(2 * 16));
        let run = |values: &[f32], rotation: &Rotation| {
            let mut x = rows_of(backend, values, 16);
            backend.rope(&mut x, rotation);
            read(backend, &x)
        };
        // ⟨d, R x⟩ = ⟨Rᵀ d, x⟩.
        let found = weighted(&run(&d_out, &rotation.inverse()), wide(&x));
        let expected = weighted(&d_out, wide(&run(&x, &rotation)));
        assert_near("rope backwards", 0, found as f32, expected, 1.0);
    }
}

fn swiglu<B: Gradients>(backend: &B, random: &mut Random) {
    for (n, dim) in [(1, 3), (4, 100)] {
        let mut larger = |n: usize| -> Vec<f32> { random.values(n).into_iter().map(|v| v * 8.0).collect() };
        let (gate, up, d) = (larger(n * dim), larger(n * dim), larger(n * dim));
        let loss =
            |gate: &[f64], up: &[f64]| weighted(&d, gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u));
        let (mut d_gate, mut d_up) = (rows_of(backend, &d, dim), backend.activations(n, dim).expect("memory"));
        backend.swiglu_backward(&rows_of(backend, &gate, dim), &rows_of(backend, &up, dim), &mut d_gate, &mut d_up);
        let (d_gate, d_up) = (read(backend, &d_gate), read(backend, &d_up));
        check(random, "swiglu_backward, gate", |v| loss(v, &wide(&up)), &gate, &d_gate);
        check(random, "swiglu_backward, up", |v| loss(&wide(&gate), v), &up, &d_up);
    }
}

fn log_softmax<B: Gradients>(backend: &B, random: &mut Random) {
    for (n, n_logits) in [(1, 2), (3, 300), (2, 2000)] {
        let logits: Vec<f32> = random.values(n * n_logits).into_iter().map(|v| v * 10.0).collect();
        let targets: Vec<u32> = (0..n).map(|_| random.0.next_u32() % n_logits as u32).collect();
        let coefficients = random.values(n);
        let log_probabilities = |logits: &[f64]| -> Vec<f64> {
            let of_row = |(row, target): (&[f64], &u32)| {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row[*target as usize] - largest - row.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
            };
            logits.chunks_exact(n_logits).zip(&targets).map(of_row).collect()
        };
        let (mut d, mut found) = (rows_of(backend, &logits, n_logits), Vec::new());
        backend.log_softmax_backward(&mut d, &targets, &coefficients, &mut found);
        assert_all_near("log_softmax", &found, &log_probabilities(&wide(&logits)));
        let loss = |v: &[f64]| weighted(&coefficients, log_probabilities(v));
        // Where one probability is almost 1, what is left of a row's gradient is the rounding of a sum.
        let least = coefficients.iter().fold(0f32, |max, c| max.max(c.abs())) * 2f32.powi(-21);
        check_above(random, "log_softmax_backward", least.into(), loss, &logits, &read(backend, &d));
    }
}

fn embed<B: Gradients>(backend: &B, random: &mut Random) {
    let (rows, cols, ids) = (5, 300, [3u32, 0, 3, 4]);
    let d_out = random.values(ids.len() * cols);
    let mut d_table = rows_of(backend, &vec![0.0; rows * cols], cols);
    backend.embed_backward(&ids, &rows_of(backend, &d_out, cols), &mut d_table);
    let mut expected = vec![0.0; rows * cols];
    for (id, d) in ids.iter().zip(d_out.chunks_exact(cols)) {
        expected[*id as usize * cols..].iter_mut().zip(d).for_each(|(sum, d)| *sum += f64::from(*d));
    }
    assert_all_near("embed_backward", &read(backend, &d_table), &expected);
}

fn dropout<B: Gradients>(backend: &B, random: &mut Random) {
    let (rows, cols, rate) = (50, 200, 0.3f32);
    let n = rows * cols;
    let key = random.0.next_u64();
    let run = |values: &[f32], key: u64| {
        let mut x = rows_of(backend, values, cols);
        backend.dropout(&mut x, rate, key);
        read(backend, &x)
    };
    let x = random.values(n);
    let (kept, mask) = (run(&x, key), run(&vec![1.0; n], key));
    for i in 0..n {
        assert!(mask[i] == 0.0 || mask[i] == 1.0 / (1.0 - rate), "dropout: a factor of {}", mask[i]);
        assert_eq!(kept[i], x[i] * mask[i], "dropout: element {i} of two calls with one key");
    }
    assert_ne!(run(&vec![1.0; n], key ^ 1), mask, "dropout: another key");
    // Six standard deviations of the number of zeros.
    let n_zeros = mask.iter().filter(|m| **m == 0.0).count() as f64;
    let rate = f64::from(rate);
    let (mean, deviation) = (n as f64 * rate, (n as f64 * rate * (1.0 - rate)).sqrt());
    assert!((n_zeros - mean).abs() < 6.0 * deviation, "dropout: {n_zeros} zeros of {n}");
}

/// Attention within documents, in f64.
fn attend(heads: Heads, documents: &[usize], [q, k, v]: [&[f64]; 3]) -> Vec<f64> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let (q_cols, kv_cols) = (n_heads * head_dim, n_kv_heads * head_dim);
    let mut out = vec![0.0; q.len()];
    let mut start = 0;
    for len in documents {
        for token in start..start + len {
            for head in 0..n_heads {
                let at = token * q_cols + head * head_dim;
                let kv_head = head / (n_heads / n_kv_heads) * head_dim;
                let of = |x: &[f64], key: usize| x[key * kv_cols + kv_head..][..head_dim].to_vec();
                let dot = |key| q[at..].iter().zip(of(k, key)).map(|(q, k)| q * k).sum::<f64>();
                let scores: Vec<f64> = (start..=token).map(|key| dot(key) / (head_dim as f64).sqrt()).collect();
                let total: f64 = scores.iter().map(|score| score.exp()).sum();
                for (key, score) in (start..=token).zip(scores) {
                    let weight = score.exp() / total;
                    out[at..].iter_mut().zip(of(v, key)).for_each(|(sum, v)| *sum += weight * v);
                }
            }
        }
        start += len;
    }
    out
}

fn attention<B: Gradients>(backend: &B, random: &mut Random, heads: Heads) {
    let documents = [5, 70, 1];
    let n: usize = documents.iter().sum();
    let (q_cols, kv_cols) = (heads.n_heads * heads.head_dim, heads.n_kv_heads * heads.head_dim);
    let mut larger = |n: usize| -> Vec<f32> { random.values(n).into_iter().map(|v| v * 2.0).collect() };
    let (q, k, v) = (larger(n * q_cols), larger(n * kv_cols), larger(n * kv_cols));
    let d_out = larger(n * q_cols);
    let out: Vec<f32> =
        attend(heads, &documents, [&wide(&q), &wide(&k), &wide(&v)]).into_iter().map(|v| v as f32).collect();
    let [mut d_q, mut d_k, mut d_v] = [q_cols, kv_cols, kv_cols].map(|w| backend.activations(n, w).expect("memory"));
    backend.attend_backward(
        heads,
        &documents,
        &rows_of(backend, &q, q_cols),
        &rows_of(backend, &k, kv_cols),
        &rows_of(backend, &v, kv_cols),
        &rows_of(backend, &out, q_cols),
        &rows_of(backend, &d_out, q_cols),
        &mut d_q,
        &mut d_k,
        &mut d_v,
    );
    let loss = |q: &[f64], k: &[f64], v: &[f64]| weighted(&d_out, attend(heads, &documents, [q, k, v]));
    let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
    check(random, "attend_backward, q", |x| loss(x, &wide_k, &wide_v), &q, &read(backend, &d_q));
    check(random, "attend_backward, k", |x| loss(&wide_q, x, &wide_v), &k, &read(backend, &d_k));
    check(random, "attend_backward, v", |x| loss(&wide_q, &wide_k, x), &v, &read(backend, &d_v));
}
