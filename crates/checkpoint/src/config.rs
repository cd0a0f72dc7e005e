//! The sizes of a model: what every source of weights says, in one form, inside closed ranges.
//!
//! How `config.json`, `params.json` and GGUF metadata spell it belongs to their readers.

use crate::name::{LayerTensor, Name};
use std::sync::Arc;

/// Sizes and constants of a Llama.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub dim: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Values per head; even.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub ffn_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Tokens that the model was made for.
    pub context_length: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// The output matrix is the token embedding.
    pub tied_embeddings: bool,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// How frequencies are changed for long contexts.
    pub scaling: RopeScaling,
    /// Which values of a head form a pair.
    pub pairing: RopePairing,
}

/// How rotary frequencies are changed for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every angle divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's: low frequencies divided by `factor`, high ones kept, a ramp in between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Context of the model before it was extended.
        original_context: usize,
    },
    /// GGUF's `rope_freqs.weight`, one entry a pair: the angle of pair `i` is divided by `factors[i]`.
    Factors(Arc<[f32]>),
}

/// Which values of a head are rotated together. Rows of q and k are never permuted on load; the forward pass rotates
/// by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// Pairs `(2i, 2i + 1)`: Meta's files and GGUF.
    Interleaved,
    /// Pairs `(i, i + head_dim / 2)`: Hugging Face.
    Halves,
}

impl RopePairing {
    /// Where row `row` of q or k, counted in this order, lies in the order of `other`: within a head of c rows,
    /// interleaved row 2i + b is row b·c/2 + i of the halves. `head_dim` is even.
    pub(crate) fn row_in(self, other: RopePairing, row: usize, head_dim: usize) -> usize {
        let (half, i) = (head_dim / 2, row % head_dim);
        let place = match (self, other) {
            (RopePairing::Interleaved, RopePairing::Halves) => i % 2 * half + i / 2,
            (RopePairing::Halves, RopePairing::Interleaved) => i % half * 2 + i / half,
            _ => i,
        };
        row - i + place
    }
}

impl Rope {
    /// The divisor of every pair's angle that the scaling amounts to: `head_dim / 2` entries.
    ///
    /// The llama3 ramp is that of Meta's reference code: with wavelength λ and original context c, the frequency is
    /// `(1 − s)·f/factor + s·f` where `s = (c/λ − low)/(high − low)`, clamped to [0, 1].
    pub fn divisors(&self, head_dim: usize) -> Vec<f32> {
        let n = head_dim / 2;
        match &self.scaling {
            RopeScaling::None => vec![1.0; n],
            RopeScaling::Linear { factor } => vec![*factor; n],
            RopeScaling::Factors(factors) => factors.to_vec(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let (factor, low, high) =
                    (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
                (0..n)
                    .map(|i| {
                        let frequency = f64::from(self.theta).powf(-2.0 * i as f64 / head_dim as f64);
                        let wavelength = 2.0 * std::f64::consts::PI / frequency;
                        let s = ((*original_context as f64 / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                        (1.0 / ((1.0 - s) / factor + s)) as f32
                    })
                    .collect()
            }
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or not of the schema; the text names key, line and column.
    #[error("{0}")]
    Json(String),
    /// A key that must be there.
    #[error("key `{0}` is missing")]
    Missing(&'static str),
    /// A value outside of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    Range {
        /// The key as the file spells it.
        key: &'static str,
        /// What it says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}

impl ConfigError {
    pub(crate) fn range(
        key: &'static str,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> ConfigError {
        ConfigError::Range { key, found: crate::error::shown(&found.to_string()), expected: expected.to_string() }
    }
}

/// How one kind of file spells the fields, for messages.
pub(crate) struct Keys {
    pub(crate) dim: &'static str,
    pub(crate) n_layers: &'static str,
    pub(crate) n_heads: &'static str,
    pub(crate) n_kv_heads: &'static str,
    pub(crate) head_dim: &'static str,
    pub(crate) ffn_dim: &'static str,
    pub(crate) vocab_size: &'static str,
    pub(crate) context_length: &'static str,
    pub(crate) norm_eps: &'static str,
    pub(crate) theta: &'static str,
    pub(crate) scaling: &'static str,
}

/// Bounds well above any published Llama, low enough that no product of two sizes comes near 2⁶³.
const MAX_DIM: usize = 1 << 18;
pub(crate) const MAX_LAYERS: usize = 1024;
const MAX_HEADS: usize = 4096;
const MAX_HEAD_DIM: usize = 1024;
const MAX_FFN: usize = 1 << 20;
/// Above the largest vocabulary of any published model, and what bounds the strings read from GGUF.
pub(crate) const MAX_VOCAB: usize = 1 << 21;
const MAX_CONTEXT: usize = 1 << 28;

impl Config {
    /// Shape `(rows, cols)` of a tensor; vectors are one row.
    pub fn shape(&self, name: Name) -> (usize, usize) {
        let q = self.n_heads * self.head_dim;
        let kv = self.n_kv_heads * self.head_dim;
        match name {
            Name::TokenEmbedding | Name::Output => (self.vocab_size, self.dim),
            Name::OutputNorm => (1, self.dim),
            Name::Layer { tensor, .. } => match tensor {
                LayerTensor::AttentionNorm | LayerTensor::FfnNorm => (1, self.dim),
                LayerTensor::Query => (q, self.dim),
                LayerTensor::Key | LayerTensor::Value => (kv, self.dim),
                LayerTensor::AttentionOutput => (self.dim, q),
                LayerTensor::Gate | LayerTensor::Up => (self.ffn_dim, self.dim),
                LayerTensor::Down => (self.dim, self.ffn_dim),
            },
        }
    }

    /// Where row `row` of a tensor, counted in the order of `pairing`, lies in the model's own order. The two differ for
    /// q and k alone.
    pub(crate) fn stored_row(&self, name: Name, row: usize, pairing: RopePairing) -> usize {
        if name.is_rotated() { pairing.row_in(self.rope.pairing, row, self.head_dim) } else { row }
    }

    /// Every tensor that a model of this configuration must bring.
    pub fn required(&self) -> impl Iterator<Item = Name> {
        let tied = self.tied_embeddings;
        Name::all(self.n_layers).filter(move |&name| !(tied && name == Name::Output))
    }

    /// Holds every field against its closed range.
    pub(crate) fn check(&self, keys: &Keys) -> Result<(), ConfigError> {
        let count = |key, found: usize, max: usize| {
            if (1..=max).contains(&found) {
                return Ok(());
            }
            Err(ConfigError::range(key, found, format_args!("1 to {max}")))
        };
        let real = |key, found: f32, min: f32, max: f32| {
            // Written so that NaN fails.
            if found >= min && found <= max {
                return Ok(());
            }
            Err(ConfigError::range(key, found, format_args!("{min} to {max}")))
        };
        count(keys.dim, self.dim, MAX_DIM)?;
        count(keys.n_layers, self.n_layers, MAX_LAYERS)?;
        count(keys.n_heads, self.n_heads, MAX_HEADS)?;
        count(keys.n_kv_heads, self.n_kv_heads, self.n_heads)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(ConfigError::range(
                keys.n_kv_heads,
                self.n_kv_heads,
                format_args!("a divisor of {}", self.n_heads),
            ));
        }
        count(keys.head_dim, self.head_dim, MAX_HEAD_DIM)?;
        if !self.head_dim.is_multiple_of(2) {
            return Err(ConfigError::range(keys.head_dim, self.head_dim, "an even number"));
        }
        count(keys.ffn_dim, self.ffn_dim, MAX_FFN)?;
        count(keys.vocab_size, self.vocab_size, MAX_VOCAB)?;
        count(keys.context_length, self.context_length, MAX_CONTEXT)?;
        real(keys.norm_eps, self.norm_eps, 1e-12, 1e-1)?;
        real(keys.theta, self.rope.theta, 1.0, 1e12)?;
        match &self.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => real(keys.scaling, *factor, 1e-3, 1e6)?,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                real(keys.scaling, *factor, 1e-3, 1e6)?;
                real("low_freq_factor", *low_freq_factor, 1e-3, 1e6)?;
                real("high_freq_factor", *high_freq_factor, 1e-3, 1e6)?;
                if low_freq_factor >= high_freq_factor {
                    return Err(ConfigError::range(
                        "low_freq_factor",
                        low_freq_factor,
                        format_args!("less than high_freq_factor, {high_freq_factor}"),
                    ));
                }
                count("original_max_position_embeddings", *original_context, MAX_CONTEXT)?;
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != self.head_dim / 2 {
                    return Err(ConfigError::range(
                        keys.scaling,
                        format_args!("{} factors", factors.len()),
                        self.head_dim / 2,
                    ));
                }
                factors.iter().try_for_each(|&factor| real(keys.scaling, factor, 1e-6, 1e6))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn tiny() -> Config {
        Config {
            dim: 64,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            ffn_dim: 96,
            vocab_size: 520,
            context_length: 128,
            norm_eps: 1e-5,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None, pairing: RopePairing::Halves },
            tied_embeddings: false,
        }
    }

    const KEYS: Keys = Keys {
        dim: "dim",
        n_layers: "n_layers",
        n_heads: "n_heads",
        n_kv_heads: "n_kv_heads",
        head_dim: "head_dim",
        ffn_dim: "ffn_dim",
        vocab_size: "vocab_size",
        context_length: "context_length",
        norm_eps: "norm_eps",
        theta: "theta",
        scaling: "factor",
    };

    #[test]
    fn absurd_values_are_named() {
        assert!(tiny().check(&KEYS).is_ok());
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 14] = [
            ("dim", |c| c.dim = 0),
            ("n_layers", |c| c.n_layers = 1 << 31),
            ("n_heads", |c| c.n_heads = 0),
            ("n_kv_heads", |c| c.n_kv_heads = 3),
            ("n_kv_heads", |c| c.n_kv_heads = 0),
            ("head_dim", |c| c.head_dim = 15),
            ("ffn_dim", |c| c.ffn_dim = usize::MAX),
            ("vocab_size", |c| c.vocab_size = 0),
            ("context_length", |c| c.context_length = usize::MAX),
            ("norm_eps", |c| c.norm_eps = f32::NAN),
            ("norm_eps", |c| c.norm_eps = 0.0),
            ("theta", |c| c.rope.theta = f32::INFINITY),
            ("factor", |c| c.rope.scaling = RopeScaling::Linear { factor: f32::NAN }),
            ("factor", |c| c.rope.scaling = RopeScaling::Factors(vec![1.0; 7].into())),
        ];
        for (key, change) in cases {
            let mut config = tiny();
            change(&mut config);
            let message = config.check(&KEYS).unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{message}");
        }
    }

    #[test]
    fn rows_of_a_head_change_places() {
        use RopePairing::{Halves, Interleaved};
        // The second head of six rows.
        let places: Vec<usize> = (6..12).map(|row| Interleaved.row_in(Halves, row, 6)).collect();
        assert_eq!(places, [6, 9, 7, 10, 8, 11]);
        assert!((0..24).all(|row| Halves.row_in(Interleaved, Interleaved.row_in(Halves, row, 6), 6) == row));
        assert!((0..24).all(|row| Halves.row_in(Halves, row, 6) == row));
    }

    #[test]
    fn llama3_divisors_run_from_one_to_the_factor() {
        let rope = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
            pairing: RopePairing::Halves,
        };
        let divisors = rope.divisors(128);
        assert_eq!((divisors.len(), divisors[0], divisors[63]), (64, 1.0, 8.0));
        assert!(divisors.is_sorted());
    }
}
