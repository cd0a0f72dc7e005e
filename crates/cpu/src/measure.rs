//! What this machine can do at best: the limits that a benchmark's figures are held against.

use crate::Cpu;
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
                std::hint::black_box(sum(pieces[i], cpu.avx2.is_some()));
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
        READ_BYTES as f64 / best
    }
}

fn sum(piece: &[u64], avx2: bool) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if avx2 {
        // SAFETY: the caller says that the instructions exist.
        return unsafe { sum_avx2(piece) };
    }
    let _ = avx2;
    piece.iter().fold(0, |sum, v| sum ^ v)
}

/// # Safety
/// AVX2 exists.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn sum_avx2(piece: &[u64]) -> u64 {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_si256(); 8];
    for line in piece.as_chunks::<32>().0 {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: 32 u64 are eight vectors.
            *sum = _mm256_xor_si256(*sum, unsafe { _mm256_loadu_si256(line.as_ptr().add(4 * i).cast()) });
        }
    }
    let total = sums.into_iter().reduce(|a, b| _mm256_xor_si256(a, b)).expect("eight sums");
    _mm256_extract_epi64(total, 0) as u64
}

/// Peak f32 arithmetic of the back-end's instructions with all of its threads, in operations a second (a fused
/// multiply-add counts two): the best of `repeats`.
pub fn f32_peak(cpu: &Cpu, repeats: usize) -> f64 {
    const ITERATIONS: usize = 4_000_000;
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        cpu.pool.run(cpu.n_threads(), &|_| {
            std::hint::black_box(multiply_add(ITERATIONS, cpu.avx2.is_some()));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (cpu.n_threads() * ITERATIONS * SUMS * LANES * 2) as f64 / best
}

/// Independent sums, enough to hide the latency of a multiply-add on every processor in use.
const SUMS: usize = 12;
const LANES: usize = 8;

fn multiply_add(iterations: usize, avx2: bool) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if avx2 {
        // SAFETY: the caller says that the instructions exist.
        return unsafe { multiply_add_avx2(iterations) };
    }
    let _ = avx2;
    let (mut sums, a) = ([[1f32; LANES]; SUMS], std::hint::black_box(0.999f32));
    for _ in 0..iterations {
        for sum in sums.iter_mut().flatten() {
            *sum = *sum * a + a;
        }
    }
    sums.iter().flatten().sum()
}

/// # Safety
/// AVX2 and FMA exist.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_add_avx2(iterations: usize) -> f32 {
    use std::arch::x86_64::*;
    let a = _mm256_set1_ps(std::hint::black_box(0.999));
    let mut sums = [_mm256_set1_ps(1.0); SUMS];
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, a);
        }
    }
    let total = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).expect("twelve sums");
    _mm256_cvtss_f32(total)
}
