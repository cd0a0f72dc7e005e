//! The CPU back-end: one file per operation, SIMD by capability tokens, a thread pool of its own.
//!
//! Reading order: [`matmul`] is where the time goes; [`attend`] is the other product; the rest is small.

mod aligned;
mod attend;
mod blocks;
mod elementwise;
mod gemm;
mod gradients;
mod kv;
mod matmul;
mod matrix;
pub mod measure;
mod panel;
mod pool;
mod share;
mod simd;
mod tokens;

pub use kv::KvCache;
pub use matrix::{Activations, Matrix, Table};
pub use simd::Instructions;

use matmul::Store;
use panel::Panels;
use pool::Pool;
use puna_backend::{Backend, Batch, Error, KvShape, MatrixSource, Rotation, Storage};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// A processor and its memory. Clones compute on the same threads, one operation at a time, and hold weights out of the
/// same budget.
#[derive(Clone)]
pub struct Cpu {
    pool: Arc<Pool>,
    instructions: Instructions,
    room: Arc<Room>,
}

/// Memory for weights.
struct Room {
    /// Bytes that weights may still take.
    left: AtomicU64,
    /// Bytes of the copies.
    copied: AtomicU64,
}

impl Room {
    fn new(bytes: u64) -> Arc<Room> {
        Arc::new(Room { left: AtomicU64::new(bytes), copied: AtomicU64::new(0) })
    }
}

impl Cpu {
    /// A back-end that computes on `n_threads` threads with the best instructions that the processor has.
    pub fn new(n_threads: usize) -> Cpu {
        Cpu { pool: Arc::new(Pool::new(n_threads)), instructions: Instructions::best(), room: Room::new(u64::MAX) }
    }

    /// The same with other instructions.
    pub fn with_instructions(self, instructions: Instructions) -> Cpu {
        Cpu { instructions, ..self }
    }

    /// The same with at most so many bytes of memory for weights, apart from what its clones may take. Within that, block
    /// formats are copied to an order that is faster to read, and floats are believed to stay in memory where they lie.
    /// Matrices beyond that are read where they lie, and asked for ahead each time, with the same results.
    pub fn with_budget(self, bytes: u64) -> Cpu {
        Cpu { room: Room::new(bytes), ..self }
    }

    /// Bytes that are left for weights.
    pub fn budget(&self) -> u64 {
        self.room.left.load(Relaxed)
    }

    /// Bytes of weights that were copied.
    pub fn copied(&self) -> u64 {
        self.room.copied.load(Relaxed)
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
    type Table = Table;
    type Vector = Vec<f32>;
    type KvCache = KvCache;

    fn describe(&self) -> String {
        format!("CPU, {}, {} threads", self.instructions.name(), self.n_threads())
    }

    fn table(&self, source: MatrixSource) -> Result<Table, Error> {
        Table::new(source)
    }

    fn matrix(&self, source: MatrixSource) -> Result<Matrix, Error> {
        let table = Table::new(source)?;
        let n_bytes = (table.rows.next_multiple_of(panel::ROWS) * table.row_bytes()) as u64;
        let take = |left: u64| left.checked_sub(n_bytes);
        let stays = self.room.left.fetch_update(Relaxed, Relaxed, take).is_ok();
        let panels = match stays && blocks::has(table.format) {
            true => {
                let fill = |panel: usize, out: &mut [u8]| table.interleave(panel, out);
                let panels = Panels::new(&self.pool, table.rows, table.row_bytes(), &fill)?;
                table.storage().for_each(Storage::copied);
                self.room.copied.fetch_add(n_bytes, Relaxed);
                Some(panels)
            }
            false => None,
        };
        Ok(Matrix { table, panels, stays, asked: AtomicBool::new(false) })
    }

    fn expect(&self, matrix: &Matrix) {
        // Asking takes as long as finding each page, which is no small part of a token's time.
        let done = matrix.asked.swap(true, Relaxed) && matrix.stays;
        if matrix.panels.is_none() && !done {
            matrix.table.storage().for_each(Storage::will_need);
        }
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

    fn embed(&self, table: &Table, ids: &[u32], out: &mut Activations) {
        elementwise::embed(&self.pool, self.instructions, table, ids, out);
    }

    fn rms_norm(&self, x: &Activations, weight: &Vec<f32>, eps: f32, out: &mut Activations) {
        elementwise::rms_norm(&self.pool, self.instructions, x, weight, eps, out);
    }

    fn matmul(&self, x: &Activations, w: &Matrix, out: &mut Activations) {
        self.matmul_shared(x, &mut [(w, out)]);
    }

    fn matmul_shared(&self, x: &Activations, products: &mut [(&Matrix, &mut Activations)]) {
        matmul::matmul(&self.pool, self.instructions, x, products, Store::Set);
    }

    fn matmul_add(&self, x: &Activations, w: &Matrix, out: &mut Activations) {
        matmul::matmul(&self.pool, self.instructions, x, &mut [(w, out)], Store::Add);
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
        cache.store(&self.pool, self.instructions, layer, batch, k, v)
    }

    fn attend(&self, q: &Activations, cache: &KvCache, layer: usize, batch: &Batch<'_>, out: &mut Activations) {
        attend::attend(&self.pool, self.instructions, q, cache, layer, batch, out);
    }

    fn read_page(&self, cache: &KvCache, page: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(cache.read(page));
    }

    fn write_page(&self, cache: &mut KvCache, page: u32, bytes: &[u8]) -> Result<(), Error> {
        cache.write(page, bytes)
    }

    fn swiglu(&self, gate: &mut Activations, up: &Activations) {
        elementwise::swiglu(&self.pool, self.instructions, gate, up);
    }

    fn add(&self, x: &mut Activations, y: &Activations) {
        elementwise::add(&self.pool, x, y);
    }

    fn scale(&self, x: &mut Activations, factor: f32) {
        elementwise::scale(&self.pool, x, factor);
    }

    fn gather(&self, x: &Activations, rows: &[usize], out: &mut Activations) {
        elementwise::gather(x, rows, out);
    }
}
