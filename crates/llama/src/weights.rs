//! From a checkpoint's tensors to a back-end's.

use crate::Error;
use puna_backend::{Backend, KvFormat, MatrixPart, MatrixSource, Storage};
use puna_checkpoint::{Bytes, Checkpoint, Config, LayerTensor, Name, Tensor};
use std::sync::Arc;

/// How a model is held.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Tokens that the KV cache can hold, all sequences together.
    pub cache_tokens: usize,
    /// Tokens of one forward pass at most.
    pub max_batch: usize,
}

/// The weights of one layer.
pub(crate) struct Layer<B: Backend> {
    pub attention_norm: B::Vector,
    /// `[h·hd, dim]`
    pub q: B::Matrix,
    /// `[g·hd, dim]`
    pub k: B::Matrix,
    /// `[g·hd, dim]`
    pub v: B::Matrix,
    /// `[dim, h·hd]`
    pub o: B::Matrix,
    pub ffn_norm: B::Vector,
    /// `[ffn_dim, dim]`
    pub gate: B::Matrix,
    /// `[ffn_dim, dim]`
    pub up: B::Matrix,
    /// `[dim, ffn_dim]`
    pub down: B::Matrix,
}

impl<B: Backend> Layer<B> {
    /// The matrices, in the order of their use.
    pub fn matrices(&self) -> [&B::Matrix; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// All weights.
pub(crate) struct Weights<B: Backend> {
    /// `[vocab_size, dim]`
    pub embedding: B::Table,
    pub layers: Vec<Layer<B>>,
    pub output_norm: B::Vector,
    /// `[vocab_size, dim]`; the same tensor as the embedding where the two are tied.
    pub output: B::Matrix,
}

impl<B: Backend> Weights<B> {
    /// Takes all tensors; `progress(bytes taken, bytes in all)` is called before each, and at the end.
    pub fn load(backend: &B, checkpoint: &Checkpoint, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, Error> {
        let (total, mut done) = (checkpoint.tensor_bytes(), 0);
        let mut take = |name: Name| {
            let tensor = checkpoint.tensor(name).ok_or(Error::Missing(name))?;
            progress(done, total);
            done += tensor.n_bytes();
            Ok::<_, Error>(tensor)
        };
        let mut layer = |layer: usize| {
            let mut take = |tensor| take(Name::Layer { layer, tensor });
            Ok::<_, Error>(Layer {
                attention_norm: backend.vector(&take(LayerTensor::AttentionNorm)?.to_f32())?,
                q: backend.matrix(source(take(LayerTensor::Query)?))?,
                k: backend.matrix(source(take(LayerTensor::Key)?))?,
                v: backend.matrix(source(take(LayerTensor::Value)?))?,
                o: backend.matrix(source(take(LayerTensor::AttentionOutput)?))?,
                ffn_norm: backend.vector(&take(LayerTensor::FfnNorm)?.to_f32())?,
                gate: backend.matrix(source(take(LayerTensor::Gate)?))?,
                up: backend.matrix(source(take(LayerTensor::Up)?))?,
                down: backend.matrix(source(take(LayerTensor::Down)?))?,
            })
        };
        let config: &Config = &checkpoint.config;
        let layers = (0..config.n_layers).map(&mut layer).collect::<Result<_, _>>()?;
        let embedding = take(Name::TokenEmbedding)?;
        let weights = Weights {
            embedding: backend.table(source(embedding))?,
            layers,
            output_norm: backend.vector(&take(Name::OutputNorm)?.to_f32())?,
            output: backend.matrix(source(if config.tied_embeddings { embedding } else { take(Name::Output)? }))?,
        };
        progress(total, total);
        Ok(weights)
    }
}

/// A checkpoint's bytes, as a back-end sees them.
struct Mapped(Bytes);

impl Storage for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn will_need(&self) {
        self.0.will_need();
    }

    fn copied(&self) {
        self.0.forget();
    }
}

/// A tensor as a back-end takes it: the same bytes, shared.
fn source(tensor: &Tensor) -> MatrixSource {
    let parts = tensor.parts.iter().map(|part| MatrixPart {
        row0: part.row0,
        rows: part.rows,
        col0: part.col0,
        cols: part.cols,
        bytes: Arc::new(Mapped(part.bytes.clone())),
        row_scales: part.row_scales.clone(),
    });
    MatrixSource {
        name: tensor.name.to_string(),
        format: tensor.format,
        rows: tensor.rows,
        cols: tensor.cols,
        parts: parts.collect(),
    }
}
