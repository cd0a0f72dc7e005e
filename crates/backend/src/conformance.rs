//! Every operation of a back-end against an f64 reference, on random inputs.
//!
//! A back-end's tests call [`run`] with a back-end and a seed. Tolerances are derived, not tuned: [`F32`] for f32
//! arithmetic, and where a back-end may quantize its inputs to 8 bits, half a step of every input that enters a sum.

pub mod gradients;

use crate::{Backend, Batch, KvFormat, KvShape, MatrixPart, MatrixSource, PAGE_LEN, Pairing, Rotation, Span};
use puna_format::{FORMATS, Format};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::sync::Arc;

/// Error of an f32 sum of `n` products, relative to the sum of their magnitudes, for any order of adding: `n · 2⁻²⁴`,
/// and a little for the products and for what was done to the inputs.
fn f32_error(n: usize) -> f64 {
    (n + 8) as f64 * 2f64.powi(-24)
}

struct Random(Pcg64Mcg);

impl Random {
    fn new(seed: u64) -> Random {
        Random(Pcg64Mcg::seed_from_u64(seed))
    }

    /// Uniform in -1..1.
    fn value(&mut self) -> f32 {
        self.0.next_u32() as f32 / 2f32.powi(31) - 1.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// A matrix in `format` and its exact values.
    fn matrix(&mut self, format: Format, rows: usize, cols: usize) -> (MatrixSource, Vec<f64>) {
        let (bytes, values) = self.encoded(format, rows, cols);
        (MatrixSource::whole("w", format, rows, cols, Arc::new(bytes)), values)
    }

    fn encoded(&mut self, format: Format, rows: usize, cols: usize) -> (Vec<u8>, Vec<f64>) {
        let mut bytes = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
        format.encode(&self.values(rows * cols), &mut bytes);
        let mut decoded = vec![0f32; rows * cols];
        format.decode(&bytes, &mut decoded);
        (bytes, decoded.into_iter().map(f64::from).collect())
    }
}

/// Runs the whole suite.
///
/// # Panics
/// At the first operation that does not conform, with the operation, the element, and both values.
pub fn run<B: Backend>(backend: &B, seed: u64) {
    let random = &mut Random::new(seed);
    println!("conformance of {} with seed {seed}", backend.describe());
    for info in FORMATS {
        matmul(backend, random, info.format);
        embed(backend, random, info.format);
    }
    matmul_in_parts(backend, random);
    norm(backend, random);
    rope(backend, random);
    elementwise(backend, random);
    for format in KvFormat::ALL {
        for heads in [(8, 2, 32), (4, 4, 64), (6, 2, 128), (3, 1, 96), (5, 1, 64), (7, 1, 32)] {
            attention(backend, random, format, heads.into());
        }
        for heads in [(4, 1, 64), (16, 2, 32), (16, 1, 128), (7, 1, 32)] {
            long_attention(backend, random, format, heads.into());
        }
    }
    for format in [KvFormat::F32, KvFormat::F16] {
        for heads in [(4, 2, 12), (5, 1, 80)] {
            attention(backend, random, format, heads.into());
            long_attention(backend, random, format, heads.into());
        }
    }
}

fn rows_of<B: Backend>(backend: &B, values: &[f32], cols: usize) -> B::Activations {
    let mut x = backend.activations(values.len() / cols, cols).expect("memory");
    backend.write(values, &mut x);
    x
}

fn read<B: Backend>(backend: &B, x: &B::Activations) -> Vec<f32> {
    let mut out = Vec::new();
    backend.read(x, &mut out);
    out
}

#[track_caller]
fn assert_close(what: &str, index: usize, found: f32, expected: f64, tolerance: f64) {
    let error = (f64::from(found) - expected).abs();
    assert!(error <= tolerance, "{what}: element {index} is {found}, expected {expected} ± {tolerance:e}");
}

fn product<B: Backend>(backend: &B, w: &B::Matrix, rows: usize, x: &[f32], cols: usize) -> Vec<f32> {
    let mut out = backend.activations(x.len() / cols, rows).expect("memory");
    backend.matmul(&rows_of(backend, x, cols), w, &mut out);
    read(backend, &out)
}

/// Checks `out = W x`, that each row is the same bits as alone, and that it can be added.
fn check_product<B: Backend>(backend: &B, what: &str, source: MatrixSource, w: &[f64], x: &[f32]) {
    let (rows, cols) = (source.rows, source.cols);
    let quantizes = source.format.info().block_elems > 1;
    let matrix = backend.matrix(source).expect("a valid matrix");
    let out = product(backend, &matrix, rows, x, cols);
    for (token, (x, out)) in x.chunks_exact(cols).zip(out.chunks_exact(rows)).enumerate() {
        for (row, found) in out.iter().enumerate() {
            let w = &w[row * cols..][..cols];
            let expected: f64 = w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
            let magnitude: f64 = w.iter().zip(x).map(|(w, x)| (w * f64::from(*x)).abs()).sum();
            // Half a step of an 8-bit block of 32 with a symmetric range, for each input.
            let step: f64 = if quantizes {
                let blocks = w.chunks(32).zip(x.chunks(32));
                let error = |(w, x): (&[f64], &[f32])| {
                    let largest = x.iter().fold(0f32, |max, v| max.max(v.abs()));
                    w.iter().map(|w| w.abs()).sum::<f64>() * f64::from(largest) / 254.0
                };
                // The parts of weight and minimum are scaled apart, so each contributes.
                blocks.map(error).sum::<f64>() * 1.01
            } else {
                0.0
            };
            assert_close(what, token * rows + row, *found, expected, magnitude * f32_error(cols) * 4.0 + step);
        }
        assert_eq!(out, product(backend, &matrix, rows, x, cols), "{what}: row {token} alone and in the batch");
    }
    let before: Vec<f32> = (0..out.len()).map(|i| i as f32).collect();
    let mut sum = rows_of(backend, &before, rows);
    backend.matmul_add(&rows_of(backend, x, cols), &matrix, &mut sum);
    for (i, (found, (before, out))) in read(backend, &sum).into_iter().zip(before.iter().zip(&out)).enumerate() {
        let expected = f64::from(*before) + f64::from(*out);
        // Parts of a row may be added one by one.
        let magnitude = f64::from(*before) + cols as f64 * 4.0;
        assert_close(&format!("{what}, added"), i, found, expected, magnitude * f32_error(4));
    }
}

fn matmul<B: Backend>(backend: &B, random: &mut Random, format: Format) {
    let block = format.info().block_elems;
    let widths: &[usize] = if block == 1 { &[64, 100, 3] } else { &[block, 256 * 3] };
    for &cols in widths {
        for (rows, n_tokens) in [(1, 1), (37, 1), (37, 2), (16, 3), (5, 4), (70, 9)] {
            let (source, w) = random.matrix(format, rows, cols);
            let what = format!("matmul {format} [{rows}, {cols}] × {n_tokens}");
            check_product(backend, &what, source, &w, &random.values(n_tokens * cols));
        }
    }
}

/// A matrix that a model-parallel release cut by rows and by columns, with scales of its own for each part's rows.
fn matmul_in_parts<B: Backend>(backend: &B, random: &mut Random) {
    for format in [Format::F8E4M3, Format::BF16, Format::Q8_0] {
        let (rows, cols) = (40, 192);
        let mut values = vec![0f64; rows * cols];
        let mut parts = Vec::new();
        for (row0, part_rows) in [(0, 24), (24, 16)] {
            for (col0, part_cols) in [(0, 64), (64, 128)] {
                let (bytes, w) = random.encoded(format, part_rows, part_cols);
                let scaled = format.info().block_elems == 1;
                let mut scale = || if scaled { random.value().abs() + 0.1 } else { 1.0 };
                let scales: Vec<f32> = (0..part_rows).map(|_| scale()).collect();
                for row in 0..part_rows {
                    for col in 0..part_cols {
                        values[(row0 + row) * cols + col0 + col] = w[row * part_cols + col] * f64::from(scales[row]);
                    }
                }
                let row_scales = scaled.then(|| scales.into());
                let (rows, cols) = (part_rows, part_cols);
                parts.push(MatrixPart { row0, rows, col0, cols, bytes: Arc::new(bytes), row_scales });
            }
        }
        let source = MatrixSource { name: "w".into(), format, rows, cols, parts };
        for n_tokens in [1, 6] {
            let x = random.values(n_tokens * cols);
            check_product(backend, &format!("matmul {format} in parts"), source.clone(), &values, &x);
        }
        let table = backend.table(source).expect("a valid matrix");
        let mut out = backend.activations(1, cols).expect("memory");
        backend.embed(&table, &[30], &mut out);
        for (i, found) in read(backend, &out).into_iter().enumerate() {
            let expected = values[30 * cols + i];
            assert_close("embed in parts", i, found, expected, expected.abs() * f32_error(1));
        }
    }
}

fn embed<B: Backend>(backend: &B, random: &mut Random, format: Format) {
    let (rows, cols) = (9, 256);
    let (source, values) = random.matrix(format, rows, cols);
    let table = backend.table(source).expect("a valid matrix");
    let mut out = backend.activations(4, cols).expect("memory");
    let ids = [8u32, 0, 3, 3];
    backend.embed(&table, &ids, &mut out);
    let expected = ids.iter().flat_map(|id| &values[*id as usize * cols..][..cols]);
    for (i, (found, expected)) in read(backend, &out).into_iter().zip(expected).enumerate() {
        assert_close(&format!("embed {format}"), i, found, *expected, expected.abs() * f32_error(1));
    }
}

fn norm<B: Backend>(backend: &B, random: &mut Random) {
    for (n, dim) in [(1, 256), (5, 100), (3, 4096)] {
        let (x, weight) = (random.values(n * dim), random.values(dim));
        let mut out = backend.activations(n, dim).expect("memory");
        backend.rms_norm(&rows_of(backend, &x, dim), &backend.vector(&weight).expect("memory"), 1e-5, &mut out);
        let out = read(backend, &out);
        for (token, x) in x.chunks_exact(dim).enumerate() {
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / dim as f64;
            for (i, (x, w)) in x.iter().zip(&weight).enumerate() {
                let expected = f64::from(*w) * f64::from(*x) / (mean + f64::from(1e-5f32)).sqrt();
                let tolerance = expected.abs() * f32_error(dim);
                assert_close("rms_norm", token * dim + i, out[token * dim + i], expected, tolerance);
            }
        }
    }
}

fn rope<B: Backend>(backend: &B, random: &mut Random) {
    for pairing in [Pairing::Interleaved, Pairing::Halves] {
        let (hd, n_heads, positions) = (12, 3, [0usize, 5, 4000]);
        let frequencies = random.values(hd / 2);
        let rotation = Rotation::new(pairing, &frequencies, &positions);
        let x = random.values(positions.len() * n_heads * hd);
        let mut rotated = rows_of(backend, &x, n_heads * hd);
        backend.rope(&mut rotated, &rotation);
        let rotated = read(backend, &rotated);
        for (head, (x, found)) in x.chunks_exact(hd).zip(rotated.chunks_exact(hd)).enumerate() {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (a, b) = match pairing {
                    Pairing::Interleaved => (2 * i, 2 * i + 1),
                    Pairing::Halves => (i, i + hd / 2),
                };
                let (sin, cos) = f64::from(positions[head / n_heads] as f32 * frequency).sin_cos();
                let (xa, xb) = (f64::from(x[a]), f64::from(x[b]));
                let tolerance = (xa.abs() + xb.abs()) * f32_error(2);
                assert_close("rope", head * hd + a, found[a], xa * cos - xb * sin, tolerance);
                assert_close("rope", head * hd + b, found[b], xb * cos + xa * sin, tolerance);
            }
        }
    }
}

fn elementwise<B: Backend>(backend: &B, random: &mut Random) {
    let (n, dim) = (4, 100);
    let a: Vec<f32> = random.values(n * dim).into_iter().map(|v| v * 100.0).collect();
    let b = random.values(n * dim);
    let (mut sum, y) = (rows_of(backend, &a, dim), rows_of(backend, &b, dim));
    backend.add(&mut sum, &y);
    let mut product = rows_of(backend, &a, dim);
    backend.swiglu(&mut product, &y);
    let mut picked = backend.activations(2, dim).expect("memory");
    backend.gather(&sum, &[3, 1], &mut picked);
    let (sum, product, picked) = (read(backend, &sum), read(backend, &product), read(backend, &picked));
    for i in 0..n * dim {
        let (x, y) = (f64::from(a[i]), f64::from(b[i]));
        assert_close("add", i, sum[i], x + y, (x + y).abs() * f32_error(1));
        let expected = x / (1.0 + (-x).exp()) * y;
        // Below -87 the exponential leaves the range of f32, where the result is nothing to speak of.
        assert_close("swiglu", i, product[i], expected, expected.abs() * f32_error(8) + 1e-35);
    }
    let mut scaled = rows_of(backend, &a, dim);
    backend.scale(&mut scaled, 0.3);
    for (i, found) in read(backend, &scaled).into_iter().enumerate() {
        let expected = f64::from(a[i]) * f64::from(0.3f32);
        assert_close("scale", i, found, expected, expected.abs() * f32_error(1));
    }
    assert_eq!(picked, [&sum[3 * dim..], &sum[dim..2 * dim]].concat(), "gather");
}

/// Heads of an attention.
#[derive(Clone, Copy)]
struct Heads {
    n_heads: usize,
    n_kv_heads: usize,
    hd: usize,
}

impl From<(usize, usize, usize)> for Heads {
    fn from((n_heads, n_kv_heads, hd): (usize, usize, usize)) -> Heads {
        Heads { n_heads, n_kv_heads, hd }
    }
}

impl Heads {
    fn name(&self, what: &str, format: KvFormat) -> String {
        format!("{what} {} {}/{} heads of {}", format.name(), self.n_heads, self.n_kv_heads, self.hd)
    }

    /// Checks what a query `[h·hd]` at `position` found among keys and values `[≥ position + 1, g·hd]`.
    fn check<'a>(&self, what: &str, format: KvFormat, position: usize, [q, k, v]: [&'a [f32]; 3], out: &[f32]) {
        let Heads { n_heads, n_kv_heads, hd } = *self;
        // What storage does to a value: relative error of f16, half a step of Q8_0 (inputs are within ±1).
        let (relative, absolute) = match format {
            KvFormat::F32 => (0.0, 0.0),
            KvFormat::F16 => (2f64.powi(-11), 1e-7),
            KvFormat::Q8_0 => (2f64.powi(-11), 1.0 / 254.0),
        };
        for head in 0..n_heads {
            let q = &q[head * hd..][..hd];
            let kv_head = head / (n_heads / n_kv_heads);
            let rows = |x: &'a [f32]| {
                x.chunks_exact(n_kv_heads * hd).map(move |row| &row[kv_head * hd..][..hd]).take(position + 1)
            };
            let scale = 1.0 / (hd as f64).sqrt();
            let magnitude = q.iter().map(|q| f64::from(q.abs())).sum::<f64>() * scale;
            let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
            let scores: Vec<f64> = rows(k).map(|k| dot(k) * scale).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            // A score off by e scales its weight by at most exp(e), and so does the total.
            let score_error = magnitude * (relative + absolute + f32_error(hd));
            let weight_error = (2.0 * score_error).exp_m1() + f32_error(position) + 1e-6;
            let mut expected = vec![0.0; hd];
            for (weight, v) in weights.iter().zip(rows(v)) {
                expected.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight / total * f64::from(*v));
            }
            let tolerance = weight_error + relative + absolute;
            for (i, expected) in expected.into_iter().enumerate() {
                assert_close(what, (position * n_heads + head) * hd + i, out[head * hd + i], expected, tolerance);
            }
        }
    }
}

/// Two sequences with pages in no order, filled in chunks of several sizes; each size must give the same bits.
fn attention<B: Backend>(backend: &B, random: &mut Random, format: KvFormat, heads: Heads) {
    const LENGTHS: [usize; 2] = [2 * PAGE_LEN + 9, 17];
    let Heads { n_heads, n_kv_heads, hd } = heads;
    let pages: [&[u32]; 2] = [&[3, 0, 2], &[1]];
    let shape = KvShape { n_layers: 2, n_kv_heads, head_dim: hd, format, n_pages: 4 };
    let what = heads.name("attention", format);
    let inputs = LENGTHS.map(|n| {
        (random.values(n * n_heads * hd), random.values(n * n_kv_heads * hd), random.values(n * n_kv_heads * hd))
    });
    let run = |chunk: usize| -> [Vec<f32>; 2] {
        let mut cache = backend.kv_cache(shape).expect("memory");
        let mut outputs = [Vec::new(), Vec::new()];
        let mut starts = [0, 0];
        while starts != LENGTHS {
            let lens: [usize; 2] = std::array::from_fn(|s| chunk.min(LENGTHS[s] - starts[s]));
            let spans: Vec<Span<'_>> =
                (0..2).map(|s| Span { start: starts[s], len: lens[s], pages: pages[s] }).collect();
            let ids = vec![0; lens.iter().sum()];
            let batch = Batch { ids: &ids, spans: &spans, outputs: &[] };
            // The chunk's rows of one of the inputs, both sequences one after the other.
            let rows = |values: [&[f32]; 2], cols: usize| {
                let of = |s: usize| &values[s][starts[s] * cols..][..lens[s] * cols];
                rows_of(backend, &[of(0), of(1)].concat(), cols)
            };
            let [first, second] = &inputs;
            let q = rows([&first.0, &second.0], n_heads * hd);
            let k = rows([&first.1, &second.1], n_kv_heads * hd);
            let v = rows([&first.2, &second.2], n_kv_heads * hd);
            let mut out = backend.activations(ids.len(), n_heads * hd).expect("memory");
            backend.store_kv(&mut cache, 1, &batch, &k, &v).expect("memory");
            backend.attend(&q, &cache, 1, &batch, &mut out);
            let out = read(backend, &out);
            let (first, second) = out.split_at(lens[0] * n_heads * hd);
            outputs[0].extend_from_slice(first);
            outputs[1].extend_from_slice(second);
            starts = std::array::from_fn(|s| starts[s] + lens[s]);
        }
        outputs
    };
    let outputs = run(1000);
    for chunk in [1, 7, PAGE_LEN] {
        assert_eq!(run(chunk), outputs, "{what}: in chunks of {chunk} and all at once");
    }
    for (s, (q, k, v)) in inputs.iter().enumerate() {
        let cols = n_heads * hd;
        for position in 0..LENGTHS[s] {
            let row = position * cols..(position + 1) * cols;
            heads.check(&what, format, position, [&q[row.clone()], k, v], &outputs[s][row]);
        }
    }
}

/// Single tokens and spans deep in a long sequence: together, each span by itself, and each token by itself must give the
/// same bits, however a back-end cuts the cache, and do not see what is stored behind them. So must another cache into which the
/// pages were copied.
fn long_attention<B: Backend>(backend: &B, random: &mut Random, format: KvFormat, heads: Heads) {
    const LENGTH: usize = 2500;
    const SPANS: [(usize, usize); 7] = [(2499, 1), (1020, 9), (2000, 50), (1024, 1), (0, 1), (1470, 70), (511, 2)];
    let Heads { n_heads, n_kv_heads, hd } = heads;
    let n_pages = LENGTH.div_ceil(PAGE_LEN);
    // In no order.
    let pages: Vec<u32> = (0..n_pages).map(|page| ((page * 7 + 3) % n_pages) as u32).collect();
    let shape = KvShape { n_layers: 2, n_kv_heads, head_dim: hd, format, n_pages };
    let what = heads.name("long attention", format);
    let (k, v) = (random.values(LENGTH * n_kv_heads * hd), random.values(LENGTH * n_kv_heads * hd));
    let mut cache = backend.kv_cache(shape).expect("memory");
    for start in (0..LENGTH).step_by(700) {
        let len = 700.min(LENGTH - start);
        let batch = Batch { ids: &vec![0; len], spans: &[Span { start, len, pages: &pages }], outputs: &[] };
        let rows = |x: &[f32]| {
            let cols = n_kv_heads * hd;
            rows_of(backend, &x[start * cols..(start + len) * cols], cols)
        };
        backend.store_kv(&mut cache, 1, &batch, &rows(&k), &rows(&v)).expect("memory");
    }
    let cols = n_heads * hd;
    let attend_in = |cache: &B::KvCache, pages: &[u32], spans: &[(usize, usize)], q: &[f32]| {
        let spans: Vec<Span<'_>> = spans.iter().map(|&(start, len)| Span { start, len, pages }).collect();
        let ids = vec![0; spans.iter().map(|span| span.len).sum()];
        let mut out = backend.activations(ids.len(), cols).expect("memory");
        let batch = Batch { ids: &ids, spans: &spans, outputs: &[] };
        backend.attend(&rows_of(backend, q, cols), cache, 1, &batch, &mut out);
        read(backend, &out)
    };
    let attend = |spans: &[(usize, usize)], q: &[f32]| attend_in(&cache, &pages, spans, q);
    // Larger than the values, so that some tokens weigh much more than others.
    let n_rows: usize = SPANS.iter().map(|(_, len)| len).sum();
    let q: Vec<f32> = random.values(n_rows * cols).into_iter().map(|q| q * 3.0).collect();
    let outputs = attend(&SPANS, &q);
    let mut copy = backend.kv_cache(KvShape { n_pages: n_pages + 3, ..shape }).expect("memory");
    let elsewhere: Vec<u32> = pages.iter().map(|page| n_pages as u32 + 2 - page).collect();
    let mut bytes = vec![1];
    for (from, to) in pages.iter().zip(&elsewhere) {
        backend.read_page(&cache, *from, &mut bytes);
        assert_eq!(bytes.len(), shape.page_bytes(), "{what}: bytes of a page");
        backend.write_page(&mut copy, *to, &bytes).expect("memory");
    }
    assert_eq!(attend_in(&copy, &elsewhere, &SPANS, &q), outputs, "{what}: in a copy of the pages");
    let mut first = 0;
    for (start, len) in SPANS {
        let rows = first * cols..(first + len) * cols;
        first += len;
        let (q, outputs) = (&q[rows.clone()], &outputs[rows]);
        assert_eq!(attend(&[(start, len)], q), outputs, "{what}: {len} from {start} alone and in the batch");
        for (i, (q, out)) in q.chunks_exact(cols).zip(outputs.chunks_exact(cols)).enumerate() {
            assert_eq!(attend(&[(start + i, 1)], q), out, "{what}: {} alone and in the batch", start + i);
            if i == 0 || i + 1 == len {
                heads.check(&what, format, start + i, [q, &k, &v], out);
            }
        }
    }
}
