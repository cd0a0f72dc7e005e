//! Sizes of models to write.

use crate::config::{Config, ConfigError, Keys, Rope, RopePairing, RopeScaling};
use serde::Deserialize;

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    name: String,
    config: Config,
    /// The vocabulary's size was given, and not taken from Llama 3.1.
    says_vocab_size: bool,
}

/// The sizes as JSON. Vocabulary and constants default to those of Llama 3.1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object of sizes: `dim`, `n_layers`, `n_heads`, `ffn_dim`")]
struct Sizes {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    ffn_dim: usize,
    vocab_size: Option<usize>,
    context_length: Option<usize>,
    norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    /// Factor of the llama3 scaling; 0 for none.
    rope_factor: Option<f32>,
    tied_embeddings: Option<bool>,
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
    theta: "rope_theta",
    scaling: "rope_factor",
};

impl Shape {
    /// Names that [`Shape::named`] knows.
    pub const NAMES: [&'static str; 4] = ["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "llama-3.2-1b"];

    /// A published model.
    pub fn named(name: &str) -> Option<Shape> {
        let (dim, n_layers, n_heads, ffn_dim, rope_factor, tied) = match name {
            "llama-3.1-8b" => (4096, 32, 32, 14_336, 8.0, false),
            "llama-3.1-70b" => (8192, 80, 64, 28_672, 8.0, false),
            "llama-3.1-405b" => (16_384, 126, 128, 53_248, 8.0, false),
            "llama-3.2-1b" => (2048, 16, 32, 8192, 32.0, true),
            _ => return None,
        };
        let sizes = Sizes {
            dim,
            n_layers,
            n_heads,
            n_kv_heads: Some(8),
            head_dim: None,
            ffn_dim,
            vocab_size: None,
            context_length: None,
            norm_eps: None,
            rope_theta: None,
            rope_factor: Some(rope_factor),
            tied_embeddings: Some(tied),
        };
        Some(Shape { name: name.to_owned(), config: sizes.config(), says_vocab_size: false })
    }

    /// Sizes from JSON: `dim`, `n_layers`, `n_heads`, `ffn_dim`; where they differ from Llama 3.1's also `n_kv_heads`
    /// (8 there; as many as `n_heads` if that is less), `head_dim` (`dim / n_heads`), `vocab_size`, `context_length`,
    /// `norm_eps`, `rope_theta`, `rope_factor` (0 for no scaling), `tied_embeddings`. Where a vocabulary is given
    /// ([`write_initial`](super::write_initial)), `vocab_size` is what it has.
    ///
    /// # Errors
    /// Names the key that is missing, unknown or out of range.
    pub fn from_json(name: &str, json: &str) -> Result<Shape, ConfigError> {
        let sizes: Sizes = serde_json::from_str(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        let config = sizes.config();
        config.check(&KEYS)?;
        Ok(Shape { name: name.to_owned(), config, says_vocab_size: sizes.vocab_size.is_some() })
    }

    /// The same with another number of layers.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn with_layers(mut self, n_layers: usize) -> Result<Shape, ConfigError> {
        self.config.n_layers = n_layers;
        self.config.check(&KEYS)?;
        Ok(self)
    }

    /// The sizes with a vocabulary of so many tokens.
    pub(super) fn config_for(&self, n_tokens: usize) -> Result<Config, ConfigError> {
        if self.says_vocab_size && self.config.vocab_size != n_tokens {
            let expected = format_args!("{n_tokens}, the tokens of the vocabulary, or no such key");
            return Err(ConfigError::range(KEYS.vocab_size, self.config.vocab_size, expected));
        }
        let config = Config { vocab_size: n_tokens, ..self.config.clone() };
        config.check(&KEYS)?;
        Ok(config)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Sizes {
    fn config(&self) -> Config {
        let factor = self.rope_factor.unwrap_or(8.0);
        let scaling = if factor == 0.0 {
            RopeScaling::None
        } else {
            RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 }
        };
        Config {
            dim: self.dim,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads.unwrap_or(self.n_heads.min(8)),
            head_dim: self.head_dim.unwrap_or_else(|| self.dim.checked_div(self.n_heads).unwrap_or(0)),
            ffn_dim: self.ffn_dim,
            vocab_size: self.vocab_size.unwrap_or(128_256),
            context_length: self.context_length.unwrap_or(131_072),
            norm_eps: self.norm_eps.unwrap_or(1e-5),
            rope: Rope {
                theta: self.rope_theta.unwrap_or(500_000.0),
                scaling,
                // Of no account for random weights; the containers set their own.
                pairing: RopePairing::Interleaved,
            },
            tied_embeddings: self.tied_embeddings.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    #[test]
    fn named_shapes_have_the_published_number_of_parameters() {
        let parameters = |name| {
            let shape = Shape::named(name).unwrap();
            let config = shape.config();
            assert!(config.check(&KEYS).is_ok());
            config.required().map(|name| config.shape(name)).map(|(rows, cols)| (rows * cols) as u64).sum::<u64>()
        };
        assert_eq!(parameters("llama-3.1-8b"), 8_030_261_248);
        assert_eq!(parameters("llama-3.1-70b"), 70_553_706_496);
        assert_eq!(parameters("llama-3.1-405b"), 405_853_388_800);
        assert_eq!(parameters("llama-3.2-1b"), 1_235_814_400);
        assert!(Shape::NAMES.iter().all(|name| Shape::named(name).is_some()));
        assert_eq!(Shape::named("llama-3.2-1b").unwrap().config().shape(Name::Output), (128_256, 2048));
    }

    #[test]
    fn json_is_checked() {
        let ok = Shape::from_json("x", r#"{"dim":64,"n_layers":1,"n_heads":4,"ffn_dim":96}"#).unwrap();
        assert_eq!((ok.config().head_dim, ok.config().n_kv_heads), (16, 4));
        for bad in [
            r#"{"dim":64,"n_layers":1,"n_heads":4}"#,
            r#"{"dim":64,"n_layers":1,"n_heads":0,"ffn_dim":96}"#,
            r#"{"dim":64,"n_layers":1,"n_heads":4,"ffn_dim":96,"experts":8}"#,
        ] {
            assert!(Shape::from_json("x", bad).is_err());
        }
        assert!(ok.with_layers(0).is_err());
    }
}
