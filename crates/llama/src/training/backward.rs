//! A layer backwards, and a matrix with its adapters: the equations of [`crate::layer`] from the last to the first.

use super::gradients::{LayerGradients, LinearGradients};
use super::record::{Dropout, MatrixDropout, Values};
use crate::layer::{Kept, State};
use crate::linear::Linear;
use crate::weights::Layer;
use crate::{Config, Error};
use puna_backend::{Gradients, Heads, Rotation};
use puna_checkpoint::LayerTensor;

/// Gradients of activations, beside the [`State`] whose room is used again.
pub(super) struct Scratch<B: Gradients> {
    /// Of the residual stream, `[n, dim]`.
    pub x: B::Activations,
    /// Of a block's normed input, `[n, dim]`.
    pub normed: B::Activations,
    /// Of what attention gave and took, `[n, h·hd]` and `[n, g·hd]`.
    attended: B::Activations,
    q: B::Activations,
    k: B::Activations,
    v: B::Activations,
    /// `[n, ffn_dim]`
    gate: B::Activations,
}

/// Widths, in the order of [`Scratch`].
pub(crate) fn scratch_widths(config: &Config) -> [usize; 7] {
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    [config.dim, config.dim, q, q, kv, kv, config.ffn_dim]
}

impl<B: Gradients> Scratch<B> {
    /// For at most `n` tokens.
    pub fn new(backend: &B, config: &Config, n: usize) -> Result<Self, Error> {
        let [x, normed, attended, q, k, v, gate] = scratch_widths(config).map(|width| backend.activations(n, width));
        Ok(Scratch { x: x?, normed: normed?, attended: attended?, q: q?, k: k?, v: v?, gate: gate? })
    }
}

/// What all layers of a pass have in common on the way back.
pub(super) struct Back<'a, B: Gradients> {
    pub backend: &'a B,
    pub config: &'a Config,
    /// Lengths of the documents.
    pub documents: &'a [usize],
    /// The inverse of the pass's rotation.
    pub rotation: Rotation,
    /// Adapters' dropout, if they took part.
    pub dropout: Option<Dropout>,
}

impl<B: Gradients> Back<'_, B> {
    /// Takes the gradient of the residual stream, in `d.x`, from behind layer `idx` to before it, and adds those of the layer's
    /// weights to `gradients`.
    pub fn layer(
        &self,
        idx: usize,
        layer: &Layer<B>,
        values: &Values<B>,
        gradients: &mut LayerGradients<B>,
        s: &mut State<B>,
        d: &mut Scratch<B>,
    ) -> Result<(), Error> {
        let (backend, eps, n) = (self.backend, self.config.norm_eps, self.documents.iter().sum());
        let config = self.config;
        let kept = |kept: Kept| &values[kept as usize];
        let [d_q, d_k, d_v, d_o, d_gate, d_up, d_down] = &mut gradients.linears;
        let linear = |tensor, matrix, x: &B::Activations, d_out: &B::Activations, d_x: &mut B::Activations| {
            let dropout = self.dropout.and_then(|dropout| dropout.of(self.config, idx, tensor));
            self.linear(matrix, dropout.as_ref(), n, x, d_out, d_x)
        };

        // x = middle + down(swiglu(gate(norm(middle)), up(norm(middle))))
        backend.copy(kept(Kept::Gate), &mut s.gate);
        backend.swiglu(&mut s.gate, kept(Kept::Up));
        backend.zero(n, &mut d.gate);
        linear(LayerTensor::Down, (&layer.down, d_down), &s.gate, &d.x, &mut d.gate)?;
        backend.swiglu_backward(kept(Kept::Gate), kept(Kept::Up), &mut d.gate, &mut s.up);
        backend.rms_norm(kept(Kept::Middle), &layer.ffn_norm, eps, &mut s.normed);
        backend.zero(n, &mut d.normed);
        linear(LayerTensor::Gate, (&layer.gate, d_gate), &s.normed, &d.gate, &mut d.normed)?;
        linear(LayerTensor::Up, (&layer.up, d_up), &s.normed, &s.up, &mut d.normed)?;
        let norm = gradients.ffn_norm.as_mut().map(|norm| &mut norm.gradient);
        backend.rms_norm_backward(kept(Kept::Middle), &layer.ffn_norm, eps, &d.normed, &mut d.x, norm);

        // middle = input + o(attend(rope(q(norm(input))), rope(k(norm(input))), v(norm(input))))
        backend.zero(n, &mut d.attended);
        linear(LayerTensor::AttentionOutput, (&layer.o, d_o), kept(Kept::Attended), &d.x, &mut d.attended)?;
        backend.attend_backward(
            Heads { n_heads: config.n_heads, n_kv_heads: config.n_kv_heads, head_dim: config.head_dim },
            self.documents,
            kept(Kept::Query),
            kept(Kept::Key),
            kept(Kept::Value),
            kept(Kept::Attended),
            &d.attended,
            &mut d.q,
            &mut d.k,
            &mut d.v,
        );
        backend.rope(&mut d.q, &self.rotation);
        backend.rope(&mut d.k, &self.rotation);
        backend.rms_norm(kept(Kept::Input), &layer.attention_norm, eps, &mut s.normed);
        backend.zero(n, &mut d.normed);
        linear(LayerTensor::Query, (&layer.q, d_q), &s.normed, &d.q, &mut d.normed)?;
        linear(LayerTensor::Key, (&layer.k, d_k), &s.normed, &d.k, &mut d.normed)?;
        linear(LayerTensor::Value, (&layer.v, d_v), &s.normed, &d.v, &mut d.normed)?;
        let norm = gradients.attention_norm.as_mut().map(|norm| &mut norm.gradient);
        backend.rms_norm_backward(kept(Kept::Input), &layer.attention_norm, eps, &d.normed, &mut d.x, norm);
        Ok(())
    }

    /// Of `out = W x + Σ scale · B (A x)`, `n` rows: adds to `d_x` and to the gradients.
    pub fn linear(
        &self,
        (linear, gradients): (&Linear<B>, &mut LinearGradients<B>),
        dropout: Option<&MatrixDropout>,
        n: usize,
        x: &B::Activations,
        d_out: &B::Activations,
        d_x: &mut B::Activations,
    ) -> Result<(), Error> {
        let backend = self.backend;
        backend.matmul_backward(d_out, &linear.weight, d_x);
        if let Some(weight) = &mut gradients.weight {
            backend.outer_products(d_out, x, 1.0, weight);
        }
        if linear.adapters.is_empty() {
            return Ok(());
        }
        let seen = dropout.map(|dropout| dropout.seen(backend, x, n)).transpose()?;
        let seen = seen.as_ref().unwrap_or(x);
        for (adapter, [d_a, d_b]) in linear.adapters.iter().zip(&mut gradients.adapters) {
            let inner = adapter.inner(backend, seen, n)?;
            backend.outer_products(d_out, &inner, 1.0, d_b);
            let mut d_inner = backend.activations(n, adapter.rank)?;
            backend.zero(n, &mut d_inner);
            backend.matmul_backward(d_out, &adapter.b, &mut d_inner);
            backend.scale(&mut d_inner, adapter.scale);
            backend.outer_products(&d_inner, seen, 1.0, d_a);
            match dropout {
                None => backend.matmul_backward(&d_inner, &adapter.a, d_x),
                Some(dropout) => dropout.add_backward(backend, &d_inner, &adapter.a, n, d_x)?,
            }
        }
        Ok(())
    }
}
