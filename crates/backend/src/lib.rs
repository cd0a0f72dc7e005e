//! What a machine must be able to do to run Llama: one trait, in Llama's words.
//!
//! A back-end brings the required operations and is then complete; the fused forms have default bodies that are right,
//! and are overridden only where fusing is faster. [`conformance`] holds every operation of every back-end to an f64
//! reference. Nothing here knows files, tokenizers or schedulers.
//!
//! **Batch invariance.** Every operation gives a token's row the same bits whatever other rows are in the batch, in
//! whatever chunks its sequence came, and on however many threads it ran: each output element is reduced in one
//! fixed order. The conformance suite checks that too.
//!
//! Letters in shapes: `n` tokens of the batch, `dim` width of the model, `h` query heads, `g` KV heads, `hd` head size.

mod batch;
pub mod conformance;
mod gradients;
mod kv;
mod rotation;
mod weights;

pub use batch::{Batch, Span};
pub use gradients::{Gradients, Heads};
pub use kv::{KvFormat, KvShape, PAGE_LEN};
pub use rotation::{Pairing, Rotation};
pub use weights::{MatrixPart, MatrixSource, Storage, Values};

/// What can go wrong when a back-end is asked for memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An allocation that the machine refused.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// A weight that this back-end can't hold.
    #[error("{what}: expected {expected}, found {found}")]
    Unsupported {
        /// The weight or option.
        what: String,
        /// What the back-end can do.
        expected: String,
        /// What was asked.
        found: String,
    },
}

/// The operations of the Llama architecture on one device.
///
/// Activations are row-major f32, one row a token. An operation that writes `out` sets its number of rows itself.
///
/// # Panics
/// Shapes that don't fit are mistakes of the caller, not of a file, and panic.
pub trait Backend: Send + Sync + 'static {
    /// `[rows, cols]` f32, in the memory of the device; `cols` is fixed, `rows` varies up to the capacity.
    type Activations: Send;
    /// A weight matrix `[out, in]` in any format.
    type Matrix: Send + Sync;
    /// A matrix of which single rows are read: the embedding.
    type Table: Send + Sync;
    /// A vector of f32, e.g. a norm's weights.
    type Vector: Send + Sync;
    /// Keys and values of all layers, in pages.
    type KvCache: Send;

    /// What computes, for people: instruction set or device, and threads.
    fn describe(&self) -> String;

    /// Takes a matrix to look rows up in.
    fn table(&self, source: MatrixSource) -> Result<Self::Table, Error>;
    /// Takes a weight matrix: copies it to where and how it is fastest to multiply with, or goes on reading it in place.
    fn matrix(&self, source: MatrixSource) -> Result<Self::Matrix, Error>;
    /// Takes a vector.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Error>;
    /// Room for at most `max_rows` rows of `cols` activations.
    fn activations(&self, max_rows: usize, cols: usize) -> Result<Self::Activations, Error>;
    /// An empty cache that can hold `shape.n_pages` pages; memory is taken as pages are first written.
    fn kv_cache(&self, shape: KvShape) -> Result<Self::KvCache, Error>;
    /// Copies all rows to host memory, replacing what `out` held.
    fn read(&self, x: &Self::Activations, out: &mut Vec<f32>);
    /// Sets the rows from host memory; `values.len()` is a multiple of `cols`.
    fn write(&self, values: &[f32], out: &mut Self::Activations);

    /// `out[i] = table[ids[i]]`.
    fn embed(&self, table: &Self::Table, ids: &[u32], out: &mut Self::Activations);
    /// `out[i] = weight · x[i] / sqrt(mean(x[i]²) + eps)`.
    fn rms_norm(&self, x: &Self::Activations, weight: &Self::Vector, eps: f32, out: &mut Self::Activations);
    /// `out[i] = W · x[i]`.
    fn matmul(&self, x: &Self::Activations, w: &Self::Matrix, out: &mut Self::Activations);
    /// `out[i] += W · x[i]`.
    fn matmul_add(&self, x: &Self::Activations, w: &Self::Matrix, out: &mut Self::Activations);
    /// Rotates every head of every row in place, row `i` by row `i` of the rotation.
    fn rope(&self, x: &mut Self::Activations, rotation: &Rotation);
    /// Appends keys and values `[n, g·hd]` of the batch's tokens to one layer of the cache.
    fn store_kv(
        &self,
        cache: &mut Self::KvCache,
        layer: usize,
        batch: &Batch<'_>,
        k: &Self::Activations,
        v: &Self::Activations,
    ) -> Result<(), Error>;
    /// Causal attention of the batch's queries `[n, h·hd]` over the cache: token at position `p` sees positions `0..=p`
    /// of its own span. Scores are scaled by `1/sqrt(hd)`; query head `j` reads KV head `j / (h/g)`.
    fn attend(
        &self,
        q: &Self::Activations,
        cache: &Self::KvCache,
        layer: usize,
        batch: &Batch<'_>,
        out: &mut Self::Activations,
    );
    /// Copies a page that was written, of all layers, to host memory: [`KvShape::page_bytes`] that replace what `out` held.
    /// How they are laid out is the back-end's affair: they are for [`Backend::write_page`] of the same one.
    fn read_page(&self, cache: &Self::KvCache, page: u32, out: &mut Vec<u8>);
    /// Sets a page to what [`Backend::read_page`] gave for a cache of the same format, layers and heads.
    fn write_page(&self, cache: &mut Self::KvCache, page: u32, bytes: &[u8]) -> Result<(), Error>;
    /// `gate[i] = silu(gate[i]) · up[i]`, elementwise.
    fn swiglu(&self, gate: &mut Self::Activations, up: &Self::Activations);
    /// `x += y`.
    fn add(&self, x: &mut Self::Activations, y: &Self::Activations);
    /// `x *= factor`.
    fn scale(&self, x: &mut Self::Activations, factor: f32);
    /// `out[i] = x[rows[i]]`.
    fn gather(&self, x: &Self::Activations, rows: &[usize], out: &mut Self::Activations);

    /// A matrix will be multiplied with soon: if its weights must come from a file, reading them may begin.
    fn expect(&self, _: &Self::Matrix) {}

    /// Several products of one input: a back-end that prepares its input (quantizes, packs) does so once.
    fn matmul_shared(&self, x: &Self::Activations, products: &mut [(&Self::Matrix, &mut Self::Activations)]) {
        for (w, out) in products {
            self.matmul(x, w, out);
        }
    }
}
