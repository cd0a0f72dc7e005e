//! The forward pass.
//!
//! Letters in shapes: `n` tokens of the batch, `dim` width of the model, `h` query heads, `g` KV heads, `hd` head size.

use crate::weights::{LoadOptions, Weights};
use crate::{Error, inverse_frequencies};
use puna_backend::{Backend, Batch, KvFormat, KvShape, PAGE_LEN, Pairing, Rotation};
use puna_checkpoint::{Checkpoint, Config, RopePairing};

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
    /// Computes the batch's tokens, appends their keys and values to the cache, and leaves the logits
    /// `[batch.outputs.len(), vocab_size]` in `logits`.
    ///
    /// # Errors
    /// When a token id is not in the vocabulary or the machine gives no more memory for the cache.
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), Error>;
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
    weights: Weights<B>,
    bytes_per_token: u64,
    inverse_frequencies: Vec<f32>,
    kv_shape: KvShape,
    cache: B::KvCache,
    max_batch: usize,
    state: State<B>,
}

/// Activations of one forward pass, kept to be used again.
struct State<B: Backend> {
    /// The residual stream, `[n, dim]`.
    x: B::Activations,
    /// Normed input of a block, or its output before it is added to the residual, `[n, dim]`.
    block: B::Activations,
    normed: B::Activations,
    /// `[n, h·hd]`
    q: B::Activations,
    /// `[n, g·hd]`
    k: B::Activations,
    v: B::Activations,
    /// `[n, h·hd]`
    attended: B::Activations,
    /// `[n, ffn_dim]`
    gate: B::Activations,
    up: B::Activations,
}

/// Widths of the activations, in the order of [`State`].
pub(crate) fn activation_widths(config: &Config) -> [usize; 9] {
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    [config.dim, config.dim, config.dim, q, kv, kv, q, config.ffn_dim, config.ffn_dim]
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
        let weights = Weights::load(&backend, checkpoint, progress)?;
        let embedding_bytes = checkpoint
            .tensor(puna_checkpoint::Name::TokenEmbedding)
            .filter(|_| !config.tied_embeddings)
            .map_or(0, |tensor| tensor.n_bytes());
        let kv_shape = kv_shape(&config, options.kv_format, options.cache_tokens);
        let n = options.max_batch;
        let [x, block, normed, q, k, v, attended, gate, up] =
            activation_widths(&config).map(|width| backend.activations(n, width));
        Ok(Llama {
            inverse_frequencies: inverse_frequencies(&config.rope, config.head_dim),
            cache: backend.kv_cache(kv_shape)?,
            state: State {
                x: x?,
                block: block?,
                normed: normed?,
                q: q?,
                k: k?,
                v: v?,
                attended: attended?,
                gate: gate?,
                up: up?,
            },
            bytes_per_token: checkpoint.tensor_bytes() - embedding_bytes,
            max_batch: n,
            kv_shape,
            backend,
            config,
            weights,
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

    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), Error> {
        let (backend, config, weights, s) = (&self.backend, &self.config, &self.weights, &mut self.state);
        assert!(batch.ids.len() <= self.max_batch, "{} tokens in a batch of {}", batch.ids.len(), self.max_batch);
        if let Some(&id) = batch.ids.iter().find(|id| **id as usize >= config.vocab_size) {
            return Err(Error::Token { id, vocab_size: config.vocab_size });
        }
        let pairing = match config.rope.pairing {
            RopePairing::Interleaved => Pairing::Interleaved,
            RopePairing::Halves => Pairing::Halves,
        };
        let positions: Vec<usize> = batch.positions().collect();
        let rotation = Rotation::new(pairing, &self.inverse_frequencies, &positions);

        backend.embed(&weights.embedding, batch.ids, &mut s.x);
        for (i, layer) in weights.layers.iter().enumerate() {
            let next = weights.layers.get(i + 1).map_or(vec![&weights.output], |next| next.matrices().to_vec());
            next.into_iter().for_each(|matrix| backend.expect(matrix));
            backend.rms_norm(&s.x, &layer.attention_norm, config.norm_eps, &mut s.normed);
            backend.matmul_shared(&s.normed, &mut [(&layer.q, &mut s.q), (&layer.k, &mut s.k), (&layer.v, &mut s.v)]);
            backend.rope(&mut s.q, &rotation);
            backend.rope(&mut s.k, &rotation);
            backend.store_kv(&mut self.cache, i, batch, &s.k, &s.v)?;
            backend.attend(&s.q, &self.cache, i, batch, &mut s.attended);
            backend.matmul(&s.attended, &layer.o, &mut s.block);
            backend.add(&mut s.x, &s.block);

            backend.rms_norm(&s.x, &layer.ffn_norm, config.norm_eps, &mut s.normed);
            backend.matmul_shared(&s.normed, &mut [(&layer.gate, &mut s.gate), (&layer.up, &mut s.up)]);
            backend.swiglu(&mut s.gate, &s.up);
            backend.matmul(&s.gate, &layer.down, &mut s.block);
            backend.add(&mut s.x, &s.block);
        }
        logits.clear();
        if !batch.outputs.is_empty() {
            // Only the rows that are asked for: the output matrix is a tenth to a fifth of a small model.
            backend.gather(&s.x, batch.outputs, &mut s.block);
            backend.rms_norm(&s.block, &weights.output_norm, config.norm_eps, &mut s.normed);
            let mut out = backend.activations(batch.outputs.len(), config.vocab_size)?;
            backend.matmul(&s.normed, &weights.output, &mut out);
            backend.read(&out, logits);
        }
        Ok(())
    }
}
