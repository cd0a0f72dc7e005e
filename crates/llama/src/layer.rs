//! One layer forward, as the equations read: the only definition, for inference and training.
//!
//! Letters in shapes: `n` tokens of the batch, `dim` width of the model, `h` query heads, `g` KV heads, `hd` head size.

use crate::linear::Linear;
use crate::weights::Layer;
use crate::{Config, Error};
use puna_backend::{Backend, Batch, Pairing, Rotation};
use puna_checkpoint::{LayerTensor, RopePairing};

/// Activations of one forward pass, kept to be used again.
pub(crate) struct State<B: Backend> {
    /// The residual stream, `[n, dim]`.
    pub x: B::Activations,
    /// Output of a block before it is added to the residual, `[n, dim]`.
    pub block: B::Activations,
    /// Normed input of a block, `[n, dim]`.
    pub normed: B::Activations,
    /// `[n, h·hd]`
    pub q: B::Activations,
    /// `[n, g·hd]`
    pub k: B::Activations,
    pub v: B::Activations,
    /// `[n, h·hd]`
    pub attended: B::Activations,
    /// `[n, ffn_dim]`
    pub gate: B::Activations,
    pub up: B::Activations,
}

/// Widths of the activations, in the order of [`State`].
pub(crate) fn activation_widths(config: &Config) -> [usize; 9] {
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    [config.dim, config.dim, config.dim, q, kv, kv, q, config.ffn_dim, config.ffn_dim]
}

impl<B: Backend> State<B> {
    /// For at most `n` tokens.
    pub fn new(backend: &B, config: &Config, n: usize) -> Result<Self, puna_backend::Error> {
        let [x, block, normed, q, k, v, attended, gate, up] =
            activation_widths(config).map(|width| backend.activations(n, width));
        Ok(State {
            x: x?,
            block: block?,
            normed: normed?,
            q: q?,
            k: k?,
            v: v?,
            attended: attended?,
            gate: gate?,
            up: up?,
        })
    }
}

/// A value that a layer computes on its way, and that its gradient needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// What the layer was given, `[n, dim]`.
    Input,
    /// Rotated, `[n, h·hd]`.
    Query,
    /// Rotated, `[n, g·hd]`.
    Key,
    /// `[n, g·hd]`
    Value,
    /// What attention gave, `[n, h·hd]`.
    Attended,
    /// The residual stream between the two blocks, `[n, dim]`.
    Middle,
    /// Before the activation, `[n, ffn_dim]`.
    Gate,
    /// `[n, ffn_dim]`
    Up,
}

/// All kinds.
pub(crate) const KEPT: [Kept; 8] =
    [Kept::Input, Kept::Query, Kept::Key, Kept::Value, Kept::Attended, Kept::Middle, Kept::Gate, Kept::Up];

/// Somebody who watches a layer's values go by. Inference does not: [`()`](unit).
pub(crate) trait Tape<B: Backend> {
    /// A value, before it is overwritten.
    fn keep(&mut self, _: Kept, _: &B::Activations) {}
    /// What the adapters of this matrix are to see instead of its input, if anything.
    fn seen(&self, _: LayerTensor, _: &B::Activations) -> Result<Option<B::Activations>, puna_backend::Error> {
        Ok(None)
    }
    /// Whether adapters take part.
    fn adapts(&self) -> bool {
        true
    }
}

impl<B: Backend> Tape<B> for () {}

/// What all layers of a pass have in common.
pub(crate) struct Pass<'a, B: Backend> {
    pub backend: &'a B,
    pub norm_eps: f32,
    pub batch: &'a Batch<'a>,
    /// Which named adapter each row asks for; empty where there are none.
    pub adapters: &'a [Option<u32>],
    pub rotation: Rotation,
}

impl<'a, B: Backend> Pass<'a, B> {
    pub fn new(
        backend: &'a B,
        config: &Config,
        inverse_frequencies: &[f32],
        batch: &'a Batch<'a>,
        adapters: &'a [Option<u32>],
    ) -> Self {
        let pairing = match config.rope.pairing {
            RopePairing::Interleaved => Pairing::Interleaved,
            RopePairing::Halves => Pairing::Halves,
        };
        let positions: Vec<usize> = batch.positions().collect();
        let rotation = Rotation::new(pairing, inverse_frequencies, &positions);
        Pass { backend, norm_eps: config.norm_eps, batch, adapters, rotation }
    }

    /// Takes the residual stream in `s.x` through a layer, whose keys and values go to layer `cache_layer` of the cache.
    pub fn layer(
        &self,
        layer: &Layer<B>,
        cache: &mut B::KvCache,
        cache_layer: usize,
        s: &mut State<B>,
        tape: &mut impl Tape<B>,
    ) -> Result<(), Error> {
        let backend = self.backend;
        tape.keep(Kept::Input, &s.x);
        backend.rms_norm(&s.x, &layer.attention_norm, self.norm_eps, &mut s.normed);
        let mut products = [(&layer.q, &mut s.q), (&layer.k, &mut s.k), (&layer.v, &mut s.v)];
        let names = [LayerTensor::Query, LayerTensor::Key, LayerTensor::Value];
        self.products(&s.normed, &names, &mut products, tape)?;
        backend.rope(&mut s.q, &self.rotation);
        backend.rope(&mut s.k, &self.rotation);
        tape.keep(Kept::Query, &s.q);
        tape.keep(Kept::Key, &s.k);
        tape.keep(Kept::Value, &s.v);
        backend.store_kv(cache, cache_layer, self.batch, &s.k, &s.v)?;
        backend.attend(&s.q, cache, cache_layer, self.batch, &mut s.attended);
        tape.keep(Kept::Attended, &s.attended);
        self.products(&s.attended, &[LayerTensor::AttentionOutput], &mut [(&layer.o, &mut s.block)], tape)?;
        backend.add(&mut s.x, &s.block);

        tape.keep(Kept::Middle, &s.x);
        backend.rms_norm(&s.x, &layer.ffn_norm, self.norm_eps, &mut s.normed);
        let mut products = [(&layer.gate, &mut s.gate), (&layer.up, &mut s.up)];
        self.products(&s.normed, &[LayerTensor::Gate, LayerTensor::Up], &mut products, tape)?;
        tape.keep(Kept::Gate, &s.gate);
        tape.keep(Kept::Up, &s.up);
        backend.swiglu(&mut s.gate, &s.up);
        self.products(&s.gate, &[LayerTensor::Down], &mut [(&layer.down, &mut s.block)], tape)?;
        backend.add(&mut s.x, &s.block);
        Ok(())
    }

    /// Several products of one input, each with what its adapters add.
    fn products(
        &self,
        x: &B::Activations,
        names: &[LayerTensor],
        products: &mut [(&Linear<B>, &mut B::Activations)],
        tape: &mut impl Tape<B>,
    ) -> Result<(), Error> {
        let mut whole: Vec<(&B::Matrix, &mut B::Activations)> =
            products.iter_mut().map(|(linear, out)| (&linear.weight, &mut **out)).collect();
        self.backend.matmul_shared(x, &mut whole);
        if tape.adapts() {
            for ((linear, out), name) in products.iter_mut().zip(names) {
                let seen = if linear.adapters.is_empty() { None } else { tape.seen(*name, x)? };
                let (x, n) = (seen.as_ref().unwrap_or(x), self.batch.ids.len());
                linear.add_adapters(self.backend, x, n, self.adapters, out)?;
            }
        }
        Ok(())
    }
}
