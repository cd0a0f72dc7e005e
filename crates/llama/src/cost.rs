//! What a model takes: operations to hold measured times against, and memory beside the weights.

use crate::layer::{KEPT, activation_widths};
use crate::training::{TrainingOptions, head_rows, kept_width, scratch_widths};
use puna_checkpoint::{Config, Name};

/// Floating-point operations that are useful for `n` tokens of one sequence behind `start` others, with logits for
/// `n_outputs` of them.
///
/// Two for each weight of a matrix and token, and four for each token that a token attends to, head and dimension
/// (q·k, and the weighted sum of v). Norms, rotations and softmax are not counted: they are below one in a hundred.
pub fn operations(config: &Config, start: usize, n: usize, n_outputs: usize) -> u64 {
    let weights = |name: Name| match config.shape(name) {
        (1, _) => 0,
        (rows, cols) => rows as u64 * cols as u64,
    };
    let in_layers: u64 = config.required().filter(|name| matches!(name, Name::Layer { .. })).map(weights).sum();
    2 * in_layers * n as u64 + attention(config, start, n) + 2 * weights(Name::Output) * n_outputs as u64
}

/// Those of attention among them.
fn attention(config: &Config, start: usize, n: usize) -> u64 {
    // Position p attends to p + 1 tokens.
    let (start, n) = (start as u64, n as u64);
    let attended = n * start + n * (n + 1) / 2;
    4 * attended * (config.n_layers * config.n_heads * config.head_dim) as u64
}

/// Bytes of the activations that a loaded model keeps, for `max_batch` tokens in one forward pass.
pub fn activation_bytes(config: &Config, max_batch: usize) -> u64 {
    4 * max_batch as u64 * activation_widths(config).iter().sum::<usize>() as u64
}

/// What training takes beside weights and moments, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingBytes {
    /// Values of adapters, or of all weights in f32.
    pub parameters: u64,
    /// Their gradients.
    pub gradients: u64,
    /// What the forward pass leaves for the way back, of all layers.
    pub record: u64,
    /// Activations of a layer, their gradients, and its keys and values.
    pub activations: u64,
    /// Logits of the labels that are computed together.
    pub logits: u64,
}

/// What training `n_parameters` values takes.
pub fn training_bytes(config: &Config, n_parameters: u64, options: TrainingOptions) -> TrainingBytes {
    let n = 4 * options.max_tokens as u64;
    let sum = |widths: &[usize]| widths.iter().sum::<usize>() as u64;
    let kept = n * sum(&KEPT.map(|kept| kept_width(config, kept)));
    let n_layers = config.n_layers as u64;
    let keys_and_values = 2 * config.n_kv_heads * config.head_dim;
    TrainingBytes {
        parameters: 4 * n_parameters,
        gradients: 4 * n_parameters,
        record: if options.recompute { kept + n * n_layers * config.dim as u64 } else { kept * n_layers },
        activations: n * (sum(&activation_widths(config)) + sum(&scratch_widths(config)) + keys_and_values as u64),
        logits: 4 * (head_rows(config, options.max_tokens) * config.vocab_size) as u64,
    }
}

/// Floating-point operations of training on one sequence of `n` tokens, all of which are labels: forward, again if layers
/// are recomputed, and backward.
///
/// Backward takes as many as forward for the gradient of each input, as many again for that of the weights if `whole`, and
/// attention two and a half times those of forward, since it computes scores again.
pub fn training_operations(config: &Config, n: usize, recompute: bool, whole: bool) -> [u64; 2] {
    let forward = operations(config, 0, n, n);
    let attention = attention(config, 0, n);
    let products = forward - attention;
    let again = if recompute { operations(config, 0, n, 0) } else { 0 };
    [forward + again, products * if whole { 2 } else { 1 } + attention * 5 / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_checkpoint::{Rope, RopePairing, RopeScaling};

    #[test]
    fn counted_by_hand() {
        let config = Config {
            dim: 8,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 4,
            ffn_dim: 16,
            vocab_size: 10,
            context_length: 64,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None, pairing: RopePairing::Halves },
            tied_embeddings: true,
        };
        // A layer: q and o 8·8, k and v 4·8, gate, up and down 16·8; norms are no matrices.
        let layer = 2 * 64 + 2 * 32 + 3 * 128;
        // Three tokens behind five attend to 6, 7 and 8.
        let attention = 4 * (6 + 7 + 8) * 2 * 8;
        assert_eq!(operations(&config, 5, 3, 1), 2 * 2 * layer * 3 + attention + 2 * 80);
    }
}
