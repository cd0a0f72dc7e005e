//! What this machine can do at best: the limits that a benchmark's figures are held against.

use crate::Cpu;
use crate::simd::{Kernel, Simd};
use std::time::Instant;

/// Bytes read to measure memory: far more than any cache holds.
const READ_BYTES: usize = 512 << 20;

/// A buffer far larger than the caches, to measure how fast main memory is read.
pub struct Memory(Vec<u64>);

impl Memory {
    /// Takes the memory: 512 MiB.
    #[allow(clippy::new_without_default, reason = "half a gigabyte is no default")]
    pub fn new() -> Memory {
        // Written, so that the pages are real and distinct.
        Memory((0..READ_BYTES as u64 / 8).collect())
    }

    /// Read bandwidth with all of the back-end's threads, in bytes a second: the best of `repeats` passes, each thread
    /// reading pieces in order.
    pub fn read_bandwidth(&self, cpu: &Cpu, repeats: usize) -> f64 {
        const PIECE: usize = 1 << 20;
        let pieces: Vec<&[u64]> = self.0.chunks(PIECE / 8).collect();
        let mut best = f64::INFINITY;
        for _ in 0..repeats.max(1) {
            let start = Instant::now();
            cpu.pool.run(pieces.len(), &|i| {
                std::hint::black_box(cpu.instructions.run(Sum(pieces[i])));
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
        READ_BYTES as f64 / best
    }
}

struct Sum<'a>(&'a [u64]);

impl Kernel for Sum<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> i32 {
        let mut sums = [s.splat(0); 8];
        for piece in self.0.chunks_exact(4 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: eight vectors of lanes of half a u64.
                *sum = s.or(*sum, unsafe { s.load(piece.as_ptr().cast::<u8>().add(4 * S::LANES * i)) });
            }
        }
        let total = sums.into_iter().reduce(|a, b| s.or(a, b)).expect("eight sums");
        let mut lanes = [0; 16];
        // SAFETY: room for a vector.
        unsafe { s.store(total, lanes.as_mut_ptr().cast()) };
        lanes[0]
    }
}

/// Peak f32 arithmetic of the back-end's instructions with all of its threads, in operations a second (a fused
/// multiply-add counts two): the best of `repeats`.
pub fn f32_peak(cpu: &Cpu, repeats: usize) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        cpu.pool.run(cpu.n_threads(), &|_| {
            std::hint::black_box(cpu.instructions.run(MultiplyAdd));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (cpu.n_threads() * ITERATIONS * SUMS * cpu.instructions.run(Lanes) * 2) as f64 / best
}

/// Independent sums, enough to hide the latency of a multiply-add on every processor in use.
const SUMS: usize = 12;
const ITERATIONS: usize = 4_000_000;

struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let a = s.splat_f32(std::hint::black_box(0.999));
        let mut sums = [s.splat_f32(1.0); SUMS];
        for _ in 0..ITERATIONS {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, a);
            }
        }
        s.sum(sums.into_iter().reduce(|a, b| s.add_f32(a, b)).expect("twelve sums"))
    }
}
