//! `params.json` under a closed schema, as the reference code of Llama 2 and 3 reads it.

use crate::{
    config::{Config, ConfigError, Keys, Rope, RopePairing, RopeScaling},
    json::{self, Object, at, set, skip},
};
use serde::de::{IgnoredAny, MapAccess};
use std::borrow::Cow;

/// What `params.json` says.
#[derive(Debug, Default)]
pub struct Params {
    dim: Option<usize>,
    n_layers: Option<usize>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    vocab_size: Option<i64>,
    multiple_of: Option<usize>,
    ffn_dim_multiplier: Option<f64>,
    norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    use_scaled_rope: Option<bool>,
    rope_scaling_factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
}

const KEYS: Keys = Keys {
    dim: "dim",
    n_layers: "n_layers",
    n_heads: "n_heads",
    n_kv_heads: "n_kv_heads",
    head_dim: "dim / n_heads",
    ffn_dim: "ffn_dim_multiplier",
    vocab_size: "vocab_size",
    context_length: "use_scaled_rope",
    norm_eps: "norm_eps",
    theta: "rope_theta",
    scaling: "rope_scaling_factor",
};

/// Keys with no influence on the weights' meaning.
const HARMLESS: &[&str] = &["max_batch_size", "max_seq_len", "model_parallel_size"];

impl<'a> Object<'a> for Params {
    const WHAT: &'static str = "model parameters";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        match &**key {
            "dim" => set(&mut self.dim, key, map),
            "n_layers" => set(&mut self.n_layers, key, map),
            "n_heads" => set(&mut self.n_heads, key, map),
            "n_kv_heads" => set(&mut self.n_kv_heads, key, map),
            "vocab_size" => set(&mut self.vocab_size, key, map),
            "multiple_of" => set(&mut self.multiple_of, key, map),
            "ffn_dim_multiplier" => set(&mut self.ffn_dim_multiplier, key, map),
            "norm_eps" => set(&mut self.norm_eps, key, map),
            "rope_theta" => set(&mut self.rope_theta, key, map),
            "use_scaled_rope" => set(&mut self.use_scaled_rope, key, map),
            "rope_scaling_factor" => set(&mut self.rope_scaling_factor, key, map),
            "low_freq_factor" | "rope_low_freq_factor" => set(&mut self.low_freq_factor, key, map),
            "high_freq_factor" | "rope_high_freq_factor" => set(&mut self.high_freq_factor, key, map),
            "quantization_args" | "lora_args" => {
                let mut value: Option<IgnoredAny> = None;
                set(&mut value, key, map)?;
                match value {
                    None => Ok(()),
                    Some(_) => {
                        Err(at(key, &"present, but quantized and adapted checkpoints of this form are not supported"))
                    }
                }
            }
            harmless if HARMLESS.contains(&harmless) => skip(map),
            _ => Err(at(key, &"not known; it may change what the model computes, so it is not ignored")),
        }
    }
}

impl Params {
    /// Reads the JSON.
    ///
    /// # Errors
    /// Names the key that is unknown, repeated or of the wrong type.
    pub fn parse(bytes: &[u8]) -> Result<Params, ConfigError> {
        json::read(bytes, Params::default())
    }

    /// The sizes, every one inside its range.
    ///
    /// `embedding` is the shape of one rank's token embedding, from which the vocabulary is taken where the file does
    /// not say it, as in Llama 2.
    ///
    /// The file says no context length. With `use_scaled_rope` (Llama 3.1 and later) it is 131,072, with a `rope_theta`
    /// of 500,000 (Llama 3) 8,192, else (Llama 2) 4,096.
    ///
    /// # Errors
    /// Names the key that is missing or out of range.
    pub fn config(&self, embedding: Option<&[u64]>, n_ranks: u64, tied: bool) -> Result<Config, ConfigError> {
        const ORIGINAL_CONTEXT: usize = 8192;
        let need = |value: Option<usize>, key| value.ok_or(ConfigError::Missing(key));
        let dim = need(self.dim, KEYS.dim)?;
        let n_heads = need(self.n_heads, KEYS.n_heads)?;
        if n_heads == 0 || !dim.is_multiple_of(n_heads) {
            return Err(ConfigError::range(KEYS.n_heads, n_heads, format_args!("a divisor of dim, {dim}")));
        }
        let vocab_size = match self.vocab_size {
            // Llama 2 writes -1.
            None | Some(-1) => match embedding {
                Some(&[rows, cols]) if cols == dim as u64 => rows.checked_mul(n_ranks),
                Some(&[rows, _]) => Some(rows),
                _ => None,
            },
            Some(n) => u64::try_from(n).ok(),
        };
        let vocab_size = vocab_size.and_then(|n| usize::try_from(n).ok());
        let theta = self.rope_theta.unwrap_or(10_000.0);
        let scaled = self.use_scaled_rope.unwrap_or(false);
        let scaling = if scaled {
            RopeScaling::Llama3 {
                factor: self.rope_scaling_factor.unwrap_or(8.0),
                low_freq_factor: self.low_freq_factor.unwrap_or(1.0),
                high_freq_factor: self.high_freq_factor.unwrap_or(4.0),
                original_context: ORIGINAL_CONTEXT,
            }
        } else {
            RopeScaling::None
        };
        let config = Config {
            dim,
            n_layers: need(self.n_layers, KEYS.n_layers)?,
            n_heads,
            n_kv_heads: self.n_kv_heads.unwrap_or(n_heads),
            head_dim: dim / n_heads,
            ffn_dim: self.ffn_dim(dim)?,
            vocab_size: vocab_size.ok_or_else(|| {
                let found = self.vocab_size.map_or("missing".into(), |n| n.to_string());
                ConfigError::range(KEYS.vocab_size, found, "the number of tokens, or a token embedding to take it from")
            })?,
            context_length: if scaled {
                131_072
            } else if theta == 500_000.0 {
                ORIGINAL_CONTEXT
            } else {
                4096
            },
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            rope: Rope { theta, scaling, pairing: RopePairing::Interleaved },
            tied_embeddings: tied,
        };
        config.check(&KEYS)?;
        Ok(config)
    }

    /// ⌊multiplier · ⌊8·dim/3⌋⌋ rounded up to `multiple_of`, as the reference code computes it.
    fn ffn_dim(&self, dim: usize) -> Result<usize, ConfigError> {
        const MAX: f64 = (1u64 << 40) as f64;
        let multiple_of = self.multiple_of.unwrap_or(256);
        if !(1..=1 << 20).contains(&multiple_of) {
            return Err(ConfigError::range("multiple_of", multiple_of, "1 to 1048576"));
        }
        let base = dim.checked_mul(8).ok_or_else(|| ConfigError::range(KEYS.dim, dim, "a smaller one"))? / 3;
        let multiplier = self.ffn_dim_multiplier.unwrap_or(1.0);
        let scaled = (multiplier * base as f64).floor();
        // Written so that NaN fails.
        if !(1.0..=MAX).contains(&scaled) {
            return Err(ConfigError::range(KEYS.ffn_dim, multiplier, "a factor near 1"));
        }
        Ok((scaled as usize).next_multiple_of(multiple_of))
    }
}
