//! What a machine must be able to do to train Llama, beside running it: the operations backwards, in a trait of their own.

use crate::{Backend, Error};
use std::borrow::Cow;

/// Heads of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads, `h`.
    pub n_heads: usize,
    /// KV heads, `g`; query head `j` reads KV head `j / (h/g)`.
    pub n_kv_heads: usize,
    /// Head size, `hd`.
    pub head_dim: usize,
}

/// The gradients of the operations of [`Backend`].
///
/// `d_x` is the gradient of the loss in `x`, of the same shape. Where a value is used more than once its gradients add up,
/// so operations add to `d_x`, unless they say that they set it; [`Self::zero`] begins. As in [`Backend`], no row's
/// gradient depends on what other rows are in the batch; sums over tokens (the gradients of weights) are taken in one
/// order, on however many threads.
///
/// The rotation needs no gradient of its own: it is turned back by [`Rotation::inverse`](crate::Rotation::inverse).
///
/// # Panics
/// As [`Backend`]: shapes that don't fit are mistakes of the caller.
pub trait Gradients: Backend + Clone {
    /// A matrix `[rows, cols]` of f32 whose values can be changed, and nothing else holds.
    fn trainable(&self, name: &str, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self::Matrix, Error>;
    /// Hands the values `[rows, cols]` of a [trainable](Self::trainable) matrix to `f`, which may change them.
    fn update(&self, w: &mut Self::Matrix, f: &mut dyn FnMut(&mut [f32]));
    /// The same values to look rows up in.
    fn table_of<'a>(&self, w: &'a Self::Matrix) -> &'a Self::Table;

    /// The values, where they are or as a copy.
    fn view<'a>(&self, x: &'a Self::Activations) -> Cow<'a, [f32]>;
    /// `rows` rows of zeros.
    fn zero(&self, rows: usize, x: &mut Self::Activations);
    /// `out = x`.
    fn copy(&self, x: &Self::Activations, out: &mut Self::Activations);

    /// `d_x += d_out · W`, for weights in any format.
    fn matmul_backward(&self, d_out: &Self::Activations, w: &Self::Matrix, d_x: &mut Self::Activations);
    /// `d_w += scale · d_outᵀ · x`, `[out, in]`: the gradient of the weights.
    fn outer_products(&self, d_out: &Self::Activations, x: &Self::Activations, scale: f32, d_w: &mut Self::Activations);
    /// With `x̂ = x / sqrt(mean(x²) + eps)` and `z = weight · d_out`: `d_x += (z − x̂ · mean(z · x̂)) / sqrt(mean(x²) + eps)`
    /// and, `[1, dim]`, `d_weight += Σ d_out · x̂` over the tokens.
    fn rms_norm_backward(
        &self,
        x: &Self::Activations,
        weight: &Self::Vector,
        eps: f32,
        d_out: &Self::Activations,
        d_x: &mut Self::Activations,
        d_weight: Option<&mut Self::Activations>,
    );
    /// Causal attention within documents that lie one after another, each so many tokens long. `q` and `k` are rotated;
    /// `out` is what [`Backend::attend`] made of them. Sets `d_q`, `d_k` and `d_v`. Probabilities are computed again, in
    /// memory that is linear in the length of a document.
    #[allow(clippy::too_many_arguments, reason = "attention has three inputs, and each has a gradient")]
    fn attend_backward(
        &self,
        heads: Heads,
        documents: &[usize],
        q: &Self::Activations,
        k: &Self::Activations,
        v: &Self::Activations,
        out: &Self::Activations,
        d_out: &Self::Activations,
        d_q: &mut Self::Activations,
        d_k: &mut Self::Activations,
        d_v: &mut Self::Activations,
    );
    /// Of `silu(gate) · up`, the inputs of [`Backend::swiglu`]: turns the gradient of the product, `d`, into that of
    /// `gate`, and sets `d_up`.
    fn swiglu_backward(
        &self,
        gate: &Self::Activations,
        up: &Self::Activations,
        d: &mut Self::Activations,
        d_up: &mut Self::Activations,
    );
    /// `log softmax(logits[i])[targets[i]]` of each row, appended to `log_probabilities`, where row `i` counts
    /// `coefficients[i]` times in the loss: `logits[i]` becomes its gradient, `coefficients[i] · (onehot − softmax)`.
    fn log_softmax_backward(
        &self,
        logits: &mut Self::Activations,
        targets: &[u32],
        coefficients: &[f32],
        log_probabilities: &mut Vec<f32>,
    );
    /// `d_table[ids[i]] += d_out[i]`.
    fn embed_backward(&self, ids: &[u32], d_out: &Self::Activations, d_table: &mut Self::Activations);
    /// Sets each value to zero with probability `rate` and divides the others by `1 − rate`. Which ones depends on
    /// `key`, row and column alone: the same call on a gradient is the operation backwards.
    fn dropout(&self, x: &mut Self::Activations, rate: f32, key: u64);
}
