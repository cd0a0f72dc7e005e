//! The CPU back-end: one file per operation, SIMD by capability tokens, a thread pool of its own.
//!
//! Reading order: [`matmul`] is where the time goes; [`attend`] is the other product; the rest is small.

mod attend;
mod capability;
mod elementwise;
#[cfg(target_arch = "x86_64")]
mod groups;
mod kv;
mod matmul;
mod matrix;
pub mod measure;
mod pool;
mod quantize;
mod share;
#[cfg(target_arch = "x86_64")]
mod simd;

pub use kv::KvCache;
pub use matrix::{Activations, Matrix};

use capability::Avx2;
use pool::Pool;
use puna_backend::{Backend, Batch, Error, KvShape, MatrixSource, Rotation};

/// A processor and its memory.
pub struct Cpu {
    pool: Pool,
    avx2: Option<Avx2>,
}

impl Cpu {
    /// A back-end that computes on `n_threads` threads with the best instructions that the processor has.
    pub fn new(n_threads: usize) -> Cpu {
        Cpu { pool: Pool::new(n_threads), avx2: Avx2::detect() }
    }

    /// The same without AVX-VNNI: what most processors with AVX2 run. For tests and comparisons.
    pub fn without_vnni(n_threads: usize) -> Cpu {
        Cpu { pool: Pool::new(n_threads), avx2: Avx2::detect().map(Avx2::without_vnni) }
    }

    /// The same without SIMD: what a processor without AVX2 runs. For tests and comparisons.
    pub fn scalar(n_threads: usize) -> Cpu {
        Cpu { pool: Pool::new(n_threads), avx2: None }
    }

    /// As many threads as this process may run at once.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Threads.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }
}

impl Backend for Cpu {
    type Activations = Activations;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type KvCache = KvCache;

    fn describe(&self) -> String {
        let instructions = match self.avx2 {
            Some(avx2) if avx2.vnni() => "AVX2+FMA+VNNI",
            Some(_) => "AVX2+FMA",
            None => "scalar",
        };
        format!("CPU, {instructions}, {} threads", self.n_threads())
    }

    fn matrix(&self, source: MatrixSource) -> Result<Matrix, Error> {
        Matrix::new(source)
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(values.to_vec())
    }

    fn activations(&self, max_rows: usize, cols: usize) -> Result<Activations, Error> {
        Activations::new(max_rows, cols)
    }

    fn kv_cache(&self, shape: KvShape) -> Result<KvCache, Error> {
        KvCache::new(shape)
    }

    fn read(&self, x: &Activations, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(x.data());
    }

    fn write(&self, values: &[f32], out: &mut Activations) {
        out.set_rows(values.len() / out.cols).copy_from_slice(values);
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &mut Activations) {
        elementwise::embed(&self.pool, table, ids, out);
    }

    fn rms_norm(&self, x: &Activations, weight: &Vec<f32>, eps: f32, out: &mut Activations) {
        elementwise::rms_norm(&self.pool, self.avx2, x, weight, eps, out);
    }

    fn matmul(&self, x: &Activations, w: &Matrix, out: &mut Activations) {
        self.matmul_shared(x, &mut [(w, out)]);
    }

    fn matmul_shared(&self, x: &Activations, products: &mut [(&Matrix, &mut Activations)]) {
        // Formats may differ between the products (mixes such as Q4_K_M), but there are only two kinds of input.
        let mut input = None;
        for (w, out) in products {
            if !input.as_ref().is_some_and(|input| matmul::fits(self.avx2, w.format, input)) {
                input = Some(matmul::prepare(&self.pool, self.avx2, w.format, x));
            }
            let input = input.as_ref().expect("set above");
            matmul::matmul(&self.pool, self.avx2, x, input, w, out);
        }
    }

    fn rope(&self, x: &mut Activations, rotation: &Rotation) {
        elementwise::rope(&self.pool, x, rotation);
    }

    fn store_kv(
        &self,
        cache: &mut KvCache,
        layer: usize,
        batch: &Batch<'_>,
        k: &Activations,
        v: &Activations,
    ) -> Result<(), Error> {
        for (row, _, page, slot) in batch.slots() {
            cache.touch(page)?;
            cache.store(page, layer, slot, k.row(row), v.row(row));
        }
        Ok(())
    }

    fn attend(&self, q: &Activations, cache: &KvCache, layer: usize, batch: &Batch<'_>, out: &mut Activations) {
        attend::attend(&self.pool, self.avx2, q, cache, layer, batch, out);
    }

    fn swiglu(&self, gate: &mut Activations, up: &Activations) {
        elementwise::swiglu(&self.pool, self.avx2, gate, up);
    }

    fn add(&self, x: &mut Activations, y: &Activations) {
        elementwise::add(&self.pool, x, y);
    }

    fn gather(&self, x: &Activations, rows: &[usize], out: &mut Activations) {
        elementwise::gather(x, rows, out);
    }
}
