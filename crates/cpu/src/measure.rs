//! What this machine can do at best: the limits that a benchmark's figures are held against.

use crate::Cpu;
use crate::share::SharedMut;
use crate::simd::{Kernel, Simd};
use memmap2::MmapMut;
use puna_backend::Error;
use std::time::Instant;

/// Bytes that each thread reads to measure memory: more than its share of any cache.
const THREAD_BYTES: usize = 64 << 20;

/// A buffer larger than the caches, to measure how fast main memory is read.
pub struct Memory(MmapMut);

impl Memory {
    /// Bytes that [`Memory::new`] takes: 64 MiB for each thread, but 128 MiB at least and 512 MiB at most.
    pub fn bytes(cpu: &Cpu) -> usize {
        (THREAD_BYTES * cpu.n_threads()).clamp(128 << 20, 512 << 20)
    }

    /// Takes the memory, in large pages where the system has them, as weights are held.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn new(cpu: &Cpu) -> Result<Memory, Error> {
        let n_bytes = Memory::bytes(cpu);
        let out_of_memory = |_| Error::OutOfMemory { what: "measuring the memory".into(), bytes: n_bytes as u64 };
        let mut memory = MmapMut::map_anon(n_bytes).map_err(out_of_memory)?;
        #[cfg(target_os = "linux")]
        // A wish: where the system has no large pages to give, small ones do.
        let _ = memory.advise(memmap2::Advice::HugePage);
        // Written, so that the pages are real and distinct.
        let all = SharedMut::new(&mut memory);
        // SAFETY: each task has a piece of its own.
        cpu.pool.run(n_bytes / PIECE, &|i| unsafe { all.slice(i * PIECE, PIECE) }.fill(1));
        Ok(Memory(memory))
    }

    /// Read bandwidth with all of the back-end's threads, in bytes a second: the best of `repeats` passes, each thread
    /// reading pieces in order, each piece as four streams.
    pub fn read_bandwidth(&self, cpu: &Cpu, repeats: usize) -> f64 {
        let pieces: Vec<&[u8]> = self.0.chunks(PIECE).collect();
        let mut best = f64::INFINITY;
        for _ in 0..repeats.max(1) {
            let start = Instant::now();
            cpu.pool.run(pieces.len(), &|i| {
                std::hint::black_box(cpu.instructions.run(Sum(pieces[i])));
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
        self.0.len() as f64 / best
    }
}

/// Bytes of a task, of which the buffer has a whole number.
const PIECE: usize = 1 << 20;

/// Streams that a thread reads side by side: on some machines one alone gets much less than several.
const STREAMS: usize = 4;

struct Sum<'a>(&'a [u8]);

impl Kernel for Sum<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> i32 {
        let step = 4 * S::LANES;
        let stream = self.0.len() / STREAMS / (2 * step) * (2 * step);
        let mut sums = [[s.splat(0); 2]; STREAMS];
        for i in (0..stream).step_by(2 * step) {
            for (n, sums) in sums.iter_mut().enumerate() {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a stream is whole pairs of vectors, and there are so many streams.
                    *sum = s.or(*sum, unsafe { s.load(self.0.as_ptr().add(n * stream + i + half * step)) });
                }
            }
        }
        let total = sums.into_iter().flatten().reduce(|a, b| s.or(a, b)).expect("sums");
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
