//! Gradients of the operations that treat each token's row by itself.

use crate::Cpu;
use crate::elementwise::for_each_row;
use crate::matrix::Activations;
use crate::share::SharedMut;
use crate::simd::{Kernel, Simd};

/// Columns that a task adds up over all tokens, or scatters: a few cache lines of each row.
const COLUMNS: usize = 256;

pub(super) fn rms_norm(
    cpu: &Cpu,
    x: &Activations,
    weight: &[f32],
    eps: f32,
    d_out: &Activations,
    d_x: &mut Activations,
    d_weight: Option<&mut Activations>,
) {
    let shape = (x.rows, x.cols);
    assert!(shape == (d_out.rows, d_out.cols) && shape == (d_x.rows, d_x.cols), "rms_norm_backward: shapes");
    assert_eq!(x.cols, weight.len(), "rms_norm_backward: columns");
    let mut scales = vec![0f32; x.rows];
    let shared = SharedMut::new(&mut scales);
    for_each_row(&cpu.pool, d_x, |row, d_x| {
        let scale = cpu.instructions.run(RmsNorm { x: x.row(row), weight, eps, d_out: d_out.row(row), d_x });
        // SAFETY: each row belongs to one task.
        unsafe { shared.slice(row, 1)[0] = scale };
    });
    let Some(d_weight) = d_weight else { return };
    assert_eq!((d_weight.rows, d_weight.cols), (1, x.cols), "rms_norm_backward: the weight's gradient");
    let shared = SharedMut::new(d_weight.data_mut());
    cpu.pool.run(x.cols.div_ceil(COLUMNS), &|task| {
        let cols = task * COLUMNS..x.cols.min((task + 1) * COLUMNS);
        // SAFETY: each column belongs to one task.
        let sums = unsafe { shared.slice(cols.start, cols.len()) };
        for (row, scale) in scales.iter().enumerate() {
            let values = x.row(row)[cols.clone()].iter().zip(&d_out.row(row)[cols.clone()]);
            sums.iter_mut().zip(values).for_each(|(sum, (x, d))| *sum += d * (x * scale));
        }
    });
}

/// Of one row; gives the factor by which the norm scaled it.
struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    d_out: &'a [f32],
    d_x: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let RmsNorm { x, weight, eps, d_out, d_x } = self;
        let n = x.len();
        assert!(weight.len() == n && d_out.len() == n && d_x.len() == n);
        let whole = n / S::LANES * S::LANES;
        let zero = s.splat_f32(0.0);
        let (mut squares, mut products) = (zero, zero);
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: a whole vector is left of each; so below.
            unsafe {
                let x = s.load_f32(x.as_ptr().add(i));
                let z = s.mul(s.load_f32(weight.as_ptr().add(i)), s.load_f32(d_out.as_ptr().add(i)));
                squares = s.fma(x, x, squares);
                products = s.fma(z, x, products);
            }
        }
        let (mut squares, mut products) = (s.sum(squares), s.sum(products));
        for i in whole..n {
            squares += x[i] * x[i];
            products += weight[i] * d_out[i] * x[i];
        }
        let scale = 1.0 / (squares / n as f32 + eps).sqrt();
        // The part along x̂, which a norm takes away: x̂ · mean(z · x̂) = x · (scale² · products / n).
        let along = scale * scale * products / n as f32;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: see above.
            unsafe {
                let x = s.load_f32(x.as_ptr().add(i));
                let z = s.mul(s.load_f32(weight.as_ptr().add(i)), s.load_f32(d_out.as_ptr().add(i)));
                let at = d_x.as_mut_ptr().add(i);
                let across = s.fnma(x, s.splat_f32(along), z);
                s.store_f32(s.fma(across, s.splat_f32(scale), s.load_f32(at)), at);
            }
        }
        for i in whole..n {
            d_x[i] += (weight[i] * d_out[i] - x[i] * along) * scale;
        }
        scale
    }
}

pub(super) fn swiglu(cpu: &Cpu, gate: &Activations, up: &Activations, d: &mut Activations, d_up: &mut Activations) {
    let shape = (gate.rows, gate.cols);
    assert!(shape == (up.rows, up.cols) && shape == (d.rows, d.cols) && d_up.cols == d.cols, "swiglu_backward: shapes");
    let shared = SharedMut::new(d_up.set_rows(d.rows));
    let cols = d.cols;
    for_each_row(&cpu.pool, d, |row, d| {
        // SAFETY: each row belongs to one task.
        let d_up = unsafe { shared.slice(row * cols, cols) };
        cpu.instructions.run(Swiglu { gate: gate.row(row), up: up.row(row), d, d_up });
    });
}

/// Of one row.
struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    d: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();

    /// With σ the logistic function of the gate: `d_up = d · gate · σ`, `d_gate = d · up · σ · (1 + gate · (1 − σ))`.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Swiglu { gate, up, d, d_up } = self;
        let n = d.len();
        assert!(gate.len() == n && up.len() == n && d_up.len() == n);
        let whole = n / S::LANES * S::LANES;
        let one = s.splat_f32(1.0);
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: a whole vector is left of each.
            unsafe {
                let (gate, up) = (s.load_f32(gate.as_ptr().add(i)), s.load_f32(up.as_ptr().add(i)));
                let at = d.as_mut_ptr().add(i);
                let sigma = s.div(one, s.add_f32(one, s.exp(s.sub_f32(s.splat_f32(0.0), gate))));
                let scaled = s.mul(s.load_f32(at), sigma);
                s.store_f32(s.mul(scaled, gate), d_up.as_mut_ptr().add(i));
                let slope = s.fma(gate, s.sub_f32(one, sigma), one);
                s.store_f32(s.mul(s.mul(scaled, up), slope), at);
            }
        }
        for i in whole..n {
            let sigma = 1.0 / (1.0 + (-gate[i]).exp());
            d_up[i] = d[i] * sigma * gate[i];
            d[i] *= sigma * up[i] * (1.0 + gate[i] * (1.0 - sigma));
        }
    }
}

pub(super) fn log_softmax(
    cpu: &Cpu,
    logits: &mut Activations,
    targets: &[u32],
    coefficients: &[f32],
    log_probabilities: &mut Vec<f32>,
) {
    let n = logits.rows;
    assert_eq!((targets.len(), coefficients.len()), (n, n), "log_softmax_backward: rows");
    let first = log_probabilities.len();
    log_probabilities.resize(first + n, 0.0);
    let shared = SharedMut::new(&mut log_probabilities[first..]);
    for_each_row(&cpu.pool, logits, |row, logits| {
        let (target, coefficient) = (targets[row] as usize, coefficients[row]);
        let log_probability = cpu.instructions.run(LogSoftmax { logits, target, coefficient });
        // SAFETY: each row belongs to one task.
        unsafe { shared.slice(row, 1)[0] = log_probability };
    });
}

/// Of one row; gives the target's log-probability.
struct LogSoftmax<'a> {
    logits: &'a mut [f32],
    target: usize,
    coefficient: f32,
}

impl Kernel for LogSoftmax<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let LogSoftmax { logits, target, coefficient } = self;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let of_target = logits[target] - largest;
        // Piece by piece, and those in f64: a hundred thousand terms in f32 would lose digits that a loss shows.
        let mut total = 0f64;
        for piece in logits.chunks_mut(COLUMNS) {
            let mut sums = s.splat_f32(0.0);
            let mut vectors = piece.chunks_exact_mut(S::LANES);
            for vector in vectors.by_ref() {
                // SAFETY: a whole vector.
                unsafe {
                    let e = s.exp(s.sub_f32(s.load_f32(vector.as_ptr()), s.splat_f32(largest)));
                    s.store_f32(e, vector.as_mut_ptr());
                    sums = s.add_f32(sums, e);
                }
            }
            for logit in vectors.into_remainder() {
                *logit = (*logit - largest).exp();
                total += f64::from(*logit);
            }
            total += f64::from(s.sum(sums));
        }
        let factor = f64::from(coefficient) / total;
        // Not 1 − p, which has no digits left where p is almost 1.
        let of_others = total - f64::from(logits[target]);
        logits.iter_mut().for_each(|value| *value *= -factor as f32);
        logits[target] = (factor * of_others) as f32;
        (f64::from(of_target) - total.ln()) as f32
    }
}

pub(super) fn embed(cpu: &Cpu, ids: &[u32], d_out: &Activations, d_table: &mut Activations) {
    let cols = d_table.cols;
    assert_eq!((d_out.rows, d_out.cols), (ids.len(), cols), "embed_backward: shapes");
    let shared = SharedMut::new(d_table.data_mut());
    // A token may occur twice, a column belongs to one task.
    cpu.pool.run(cols.div_ceil(COLUMNS), &|task| {
        let range = task * COLUMNS..cols.min((task + 1) * COLUMNS);
        for (row, id) in ids.iter().enumerate() {
            // SAFETY: these columns belong to this task.
            let sums = unsafe { shared.slice(*id as usize * cols + range.start, range.len()) };
            sums.iter_mut().zip(&d_out.row(row)[range.clone()]).for_each(|(sum, d)| *sum += d);
        }
    });
}

pub(super) fn dropout(cpu: &Cpu, x: &mut Activations, rate: f32, key: u64) {
    assert!((0.0..1.0).contains(&rate), "dropout: a rate of {rate}");
    let threshold = (f64::from(rate) * 2f64.powi(32)) as u32;
    let scale = 1.0 / (1.0 - rate);
    for_each_row(&cpu.pool, x, |row, x| {
        let row = mix(key ^ mix(row as u64));
        for (col, value) in x.iter_mut().enumerate() {
            let keeps = (mix(row.wrapping_add(col as u64)) >> 32) as u32 >= threshold;
            *value = if keeps { *value * scale } else { 0.0 };
        }
    });
}

/// A word whose bits depend on all bits of `x`: the finisher of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
