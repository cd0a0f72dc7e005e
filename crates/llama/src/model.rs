//! The forward pass of inference: embedding, [layers](crate::layer), hidden states, logits.

use crate::layer::{Pass, State};
use crate::weights::{LoadOptions, Loader, Weights, source};
use crate::{Error, inverse_frequencies};
use puna_backend::{Backend, Batch, KvFormat, KvShape, MatrixSource, PAGE_LEN, Values};
use puna_checkpoint::{Checkpoint, Config, Name, adapter::Adapter};
use puna_format::Format;
use std::sync::Arc;

/// What a forward pass computes.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its tokens; among them, those whose logits are wanted.
    pub batch: Batch<'a>,
    /// The adapter of each span, if it has one.
    pub adapters: &'a [Option<u32>],
    /// Rows whose final hidden states are wanted, ascending.
    pub states: &'a [usize],
}

/// What a forward pass gives; each replaces what was there.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// `[input.batch.outputs.len(), vocab_size]`
    pub logits: Vec<f32>,
    /// Hidden states behind the final norm, which the output matrix would make logits of, `[input.states.len(), dim]`.
    pub states: Vec<f32>,
}

/// A loaded model with its KV cache, whatever computes it.
pub trait Model: Send {
    /// Sizes and constants.
    fn config(&self) -> &Config;
    /// The KV cache's sizes.
    fn kv_shape(&self) -> &KvShape;
    /// Tokens of one forward pass at most.
    fn max_batch(&self) -> usize;
    /// What computes, for people.
    fn describe(&self) -> String;
    /// Weights that one token reads, in bytes: all but the embedding, of which a token reads one row.
    fn bytes_per_token(&self) -> u64;
    /// Computes the batch's tokens, appends their keys and values to the cache, and leaves what is wanted in `outputs`.
    ///
    /// # Errors
    /// When a token id is not in the vocabulary or the machine gives no more memory for the cache.
    fn forward(&mut self, input: &Input<'_>, outputs: &mut Outputs) -> Result<(), Error>;
    /// Copies a page of the KV cache in which there are tokens; its bytes replace what `out` held.
    fn read_page(&self, page: u32, out: &mut Vec<u8>);
    /// Sets a page of the KV cache to what [`Model::read_page`] gave: of this model, computed by the same.
    ///
    /// # Errors
    /// When the machine gives no more memory for the cache.
    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error>;
}

/// Runs a forward pass of the model that it is given; the rest is as in [`Model::forward`].
type Forward = dyn FnMut(&mut dyn Model, &Input<'_>, &mut Outputs) -> Result<(), Error> + Send;

/// A model whose forward passes go through a function: it runs them, and may watch them or change their outputs. All
/// else is the model's own.
pub struct Through {
    model: Box<dyn Model>,
    forward: Box<Forward>,
}

impl Through {
    /// Puts a function in front of a model.
    pub fn new(
        model: Box<dyn Model>,
        forward: impl FnMut(&mut dyn Model, &Input<'_>, &mut Outputs) -> Result<(), Error> + Send + 'static,
    ) -> Through {
        Through { model, forward: Box::new(forward) }
    }
}

impl Model for Through {
    fn config(&self) -> &Config {
        self.model.config()
    }

    fn kv_shape(&self) -> &KvShape {
        self.model.kv_shape()
    }

    fn max_batch(&self) -> usize {
        self.model.max_batch()
    }

    fn describe(&self) -> String {
        self.model.describe()
    }

    fn bytes_per_token(&self) -> u64 {
        self.model.bytes_per_token()
    }

    fn forward(&mut self, input: &Input<'_>, outputs: &mut Outputs) -> Result<(), Error> {
        (self.forward)(&mut *self.model, input, outputs)
    }

    fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        self.model.read_page(page, out);
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error> {
        self.model.write_page(page, bytes)
    }
}

/// The KV cache that a model needs for `n_tokens` tokens.
pub fn kv_shape(config: &Config, format: KvFormat, n_tokens: usize) -> KvShape {
    KvShape {
        n_layers: config.n_layers,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        format,
        n_pages: n_tokens.div_ceil(PAGE_LEN),
    }
}

/// A Llama model on the back-end `B`.
pub struct Llama<B: Backend> {
    backend: B,
    config: Config,
    /// `[vocab_size, dim]`
    embedding: B::Table,
    weights: Weights<B>,
    bytes_per_token: u64,
    inverse_frequencies: Vec<f32>,
    kv_shape: KvShape,
    cache: B::KvCache,
    max_batch: usize,
    state: State<B>,
}

impl<B: Backend> Llama<B> {
    /// Hands a checkpoint's tensors to the back-end; `progress(bytes taken, bytes in all)`.
    pub fn load(
        backend: B,
        checkpoint: &Checkpoint,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let config = checkpoint.config.clone();
        let mut loader = Loader::new(checkpoint, progress);
        let weights = Weights::load(&backend, &mut loader, |tensor| Ok(backend.matrix(source(tensor))?))?;
        let embedding = loader.take(Name::TokenEmbedding)?;
        let embedding_bytes = if config.tied_embeddings { 0 } else { embedding.n_bytes() };
        let embedding = backend.table(source(embedding))?;
        loader.end();
        let kv_shape = kv_shape(&config, options.kv_format, options.cache_tokens);
        Ok(Llama {
            inverse_frequencies: inverse_frequencies(&config.rope, config.head_dim),
            cache: backend.kv_cache(kv_shape)?,
            state: State::new(&backend, &config, options.max_batch)?,
            bytes_per_token: checkpoint.tensor_bytes() - embedding_bytes,
            max_batch: options.max_batch,
            kv_shape,
            embedding,
            backend,
            config,
            weights,
        })
    }

    /// Puts an adapter on the model, in f32, that counts `weight` times; what several say of a matrix adds up. With an
    /// `id` it is there for those spans alone that name it.
    ///
    /// # Errors
    /// [`Error::Adapter`], and memory.
    pub fn adapt(&mut self, adapter: Adapter, weight: f32, id: Option<u32>) -> Result<(), Error> {
        self.weights.adapt(&self.config, adapter, weight, id, |name, rows, cols, values| {
            let values = Arc::new(Values(values));
            self.backend.matrix(MatrixSource::whole(name, Format::F32, rows, cols, values))
        })
    }
}

impl<B: Backend> Model for Llama<B> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn kv_shape(&self) -> &KvShape {
        &self.kv_shape
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn bytes_per_token(&self) -> u64 {
        self.bytes_per_token
    }

    fn forward(&mut self, input: &Input<'_>, outputs: &mut Outputs) -> Result<(), Error> {
        let (backend, config, weights, s) = (&self.backend, &self.config, &self.weights, &mut self.state);
        let Input { batch, adapters, states } = input;
        assert!(batch.ids.len() <= self.max_batch, "{} tokens in a batch of {}", batch.ids.len(), self.max_batch);
        if let Some(&id) = batch.ids.iter().find(|id| **id as usize >= config.vocab_size) {
            return Err(Error::Token { id, vocab_size: config.vocab_size });
        }
        assert_eq!(batch.spans.len(), adapters.len(), "an adapter or none for each span");
        let asked: Vec<Option<u32>> = batch
            .spans
            .iter()
            .zip(*adapters)
            .flat_map(|(span, adapter)| std::iter::repeat_n(*adapter, span.len))
            .collect();
        let pass = Pass::new(backend, config, &self.inverse_frequencies, batch, &asked);

        backend.embed(&self.embedding, batch.ids, &mut s.x);
        for (i, layer) in weights.layers.iter().enumerate() {
            let next = weights.layers.get(i + 1).map_or(vec![&weights.output], |next| next.linears().to_vec());
            next.into_iter().for_each(|linear| backend.expect(&linear.weight));
            pass.layer(layer, &mut self.cache, i, s, &mut ())?;
        }
        outputs.logits.clear();
        outputs.states.clear();
        let final_norm = |rows: &[usize], s: &mut State<B>| {
            backend.gather(&s.x, rows, &mut s.block);
            backend.rms_norm(&s.block, &weights.output_norm, config.norm_eps, &mut s.normed);
        };
        if !states.is_empty() {
            final_norm(states, s);
            backend.read(&s.normed, &mut outputs.states);
        }
        if !batch.outputs.is_empty() {
            // Only the rows that are asked for: the output matrix is a tenth to a fifth of a small model.
            final_norm(batch.outputs, s);
            let mut out = backend.activations(batch.outputs.len(), config.vocab_size)?;
            backend.matmul(&s.normed, &weights.output.weight, &mut out);
            let asked: Vec<Option<u32>> = batch.outputs.iter().map(|row| asked[*row]).collect();
            weights.output.add_adapters(backend, &s.normed, batch.outputs.len(), &asked, &mut out)?;
            backend.read(&out, &mut outputs.logits);
        }
        Ok(())
    }

    fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        self.backend.read_page(&self.cache, page, out);
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.backend.write_page(&mut self.cache, page, bytes)?)
    }
}
