//! Values per second of every format's `encode` and `decode` on one thread, and the error of one after the other.
//!
//! `cargo run --release -p puna-format --example throughput [FORMAT...]`

use puna_format::{FORMATS, Info};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Values per pass: some of every cache level, as a row by row quantizer sees them.
const N: usize = 1 << 18;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let values = bell_shaped(N);
    println!("{:8} {:>16} {:>16} {:>12}", "format", "encode Mvalues/s", "decode Mvalues/s", "error rms");
    for info in FORMATS.iter().filter(|info| chosen.is_empty() || chosen.iter().any(|name| name == info.name)) {
        let (encode, decode, error) = measure(info, &values);
        println!("{:8} {encode:16.1} {decode:16.1} {error:12.6}", info.name);
    }
}

fn measure(info: &Info, values: &[f32]) -> (f64, f64, f64) {
    let mut bytes = vec![0; N / info.block_elems * info.block_bytes];
    let mut decoded = vec![0.0; N];
    let encode = rate(|| info.format.encode(black_box(values), black_box(&mut bytes)));
    let decode = rate(|| info.format.decode(black_box(&bytes), black_box(&mut decoded)));
    let squares = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let error = squares(&mut values.iter().zip(&decoded).map(|(a, b)| a - b)) / squares(&mut values.iter().copied());
    (encode, decode, error.sqrt())
}

/// Millions of values per second, the best of several passes.
fn rate(mut pass: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), Duration::MAX);
    while start.elapsed() < Duration::from_millis(300) {
        let pass_start = Instant::now();
        pass();
        best = best.min(pass_start.elapsed());
    }
    N as f64 / best.as_secs_f64() / 1e6
}

/// Sums of uniform numbers: close to the normal distribution that weights have.
fn bell_shaped(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| 0.02 * (0..12).map(|_| uniform()).sum::<f32>()).collect()
}
