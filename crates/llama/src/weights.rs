//! From a checkpoint's tensors to a back-end's.

use crate::Error;
use crate::linear::{Linear, LowRank};
use puna_backend::{Backend, KvFormat, MatrixPart, MatrixSource, Storage};
use puna_checkpoint::{Bytes, Checkpoint, Config, LayerTensor, Name, Tensor, adapter::Adapter};
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
    pub q: Linear<B>,
    /// `[g·hd, dim]`
    pub k: Linear<B>,
    /// `[g·hd, dim]`
    pub v: Linear<B>,
    /// `[dim, h·hd]`
    pub o: Linear<B>,
    pub ffn_norm: B::Vector,
    /// `[ffn_dim, dim]`
    pub gate: Linear<B>,
    /// `[ffn_dim, dim]`
    pub up: Linear<B>,
    /// `[dim, ffn_dim]`
    pub down: Linear<B>,
}

impl<B: Backend> Layer<B> {
    /// The matrices, in the order of [`LINEARS`].
    pub fn linears(&self) -> [&Linear<B>; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> [&mut Linear<B>; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }
}

/// The matrices of a layer, in the order of their use.
pub(crate) const LINEARS: [LayerTensor; 7] = [
    LayerTensor::Query,
    LayerTensor::Key,
    LayerTensor::Value,
    LayerTensor::AttentionOutput,
    LayerTensor::Gate,
    LayerTensor::Up,
    LayerTensor::Down,
];

/// All weights but the embedding.
pub(crate) struct Weights<B: Backend> {
    pub layers: Vec<Layer<B>>,
    pub output_norm: B::Vector,
    /// `[vocab_size, dim]`; the same tensor as the embedding where the two are tied.
    pub output: Linear<B>,
}

/// Takes a checkpoint's tensors one by one and tells how far it is.
pub(crate) struct Loader<'a> {
    pub checkpoint: &'a Checkpoint,
    done: u64,
    /// Is told the bytes taken, and the bytes in all.
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Loader<'a> {
    pub fn new(checkpoint: &'a Checkpoint, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Loader { checkpoint, done: 0, progress }
    }

    pub fn take(&mut self, name: Name) -> Result<&'a Tensor, Error> {
        let tensor = self.checkpoint.tensor(name).ok_or(Error::Missing(name))?;
        (self.progress)(self.done, self.checkpoint.tensor_bytes());
        self.done += tensor.n_bytes();
        Ok(tensor)
    }

    /// All that is needed has been taken.
    pub fn end(self) {
        (self.progress)(self.checkpoint.tensor_bytes(), self.checkpoint.tensor_bytes());
    }
}

impl<B: Backend> Weights<B> {
    /// Takes the tensors, those to multiply with by `matrix`.
    pub fn load(
        backend: &B,
        loader: &mut Loader<'_>,
        matrix: impl Fn(&Tensor) -> Result<B::Matrix, Error>,
    ) -> Result<Self, Error> {
        let linear = |tensor: &Tensor| matrix(tensor).map(Linear::new);
        let config: &Config = &loader.checkpoint.config;
        let mut layer = |layer: usize| {
            let mut take = |tensor| loader.take(Name::Layer { layer, tensor });
            Ok::<_, Error>(Layer {
                attention_norm: backend.vector(&take(LayerTensor::AttentionNorm)?.to_f32())?,
                q: linear(take(LayerTensor::Query)?)?,
                k: linear(take(LayerTensor::Key)?)?,
                v: linear(take(LayerTensor::Value)?)?,
                o: linear(take(LayerTensor::AttentionOutput)?)?,
                ffn_norm: backend.vector(&take(LayerTensor::FfnNorm)?.to_f32())?,
                gate: linear(take(LayerTensor::Gate)?)?,
                up: linear(take(LayerTensor::Up)?)?,
                down: linear(take(LayerTensor::Down)?)?,
            })
        };
        let layers = (0..config.n_layers).map(&mut layer).collect::<Result<_, _>>()?;
        let output = if config.tied_embeddings { Name::TokenEmbedding } else { Name::Output };
        Ok(Weights {
            layers,
            output_norm: backend.vector(&loader.take(Name::OutputNorm)?.to_f32())?,
            output: linear(loader.take(output)?)?,
        })
    }

    /// Adds an adapter that counts `weight` times, for the rows that ask for it if it has an `id`, else for all; its
    /// matrices are made by `matrix(name, rows, cols, values)`.
    ///
    /// # Errors
    /// [`Error::Adapter`], and those of `matrix`.
    pub fn adapt(
        &mut self,
        config: &Config,
        adapter: Adapter,
        weight: f32,
        id: Option<u32>,
        matrix: impl Fn(&str, usize, usize, Vec<f32>) -> Result<B::Matrix, puna_backend::Error>,
    ) -> Result<(), Error> {
        adapter.check(config).map_err(Error::Adapter)?;
        let Adapter { settings, matrices, .. } = adapter.with_pairing(config.rope.pairing, config);
        for (name, low_rank) in matrices {
            let (rows, cols) = config.shape(name);
            let (rank, scale) = (low_rank.rank, weight * settings.scale(low_rank.rank, low_rank.alpha));
            let a = matrix(&format!("{name}, A of an adapter"), rank, cols, low_rank.a)?;
            let b = matrix(&format!("{name}, B of an adapter"), rows, rank, low_rank.b)?;
            self.linear_mut(name).ok_or(Error::Missing(name))?.adapters.push(LowRank {
                adapter: id,
                a,
                b,
                rank,
                scale,
            });
        }
        Ok(())
    }

    /// A matrix by its name; none if it is no matrix to multiply with, or the model does not have it.
    fn linear_mut(&mut self, name: Name) -> Option<&mut Linear<B>> {
        match name {
            Name::Output => Some(&mut self.output),
            Name::Layer { layer, tensor } => {
                let idx = LINEARS.iter().position(|linear| *linear == tensor)?;
                self.layers.get_mut(layer)?.linears_mut().into_iter().nth(idx)
            }
            Name::TokenEmbedding | Name::OutputNorm => None,
        }
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
pub(crate) fn source(tensor: &Tensor) -> MatrixSource {
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
