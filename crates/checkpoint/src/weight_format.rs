//! Which tensor of a model is written in which format.

use crate::{
    config::Config,
    container::Container,
    name::{LayerTensor, Name},
};
use puna_format::{FORMATS, Format};
use std::{fmt, str::FromStr};

/// A format for all matrices, or one of the mixes that people use by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the field writes them so")]
pub enum WeightFormat {
    /// One format for every matrix.
    Pure(Format),
    /// Row-wise scaled E4M3 for the feed-forward matrices of all but the first and the last layer, bf16 else: Meta's
    /// form of the 405B.
    Fp8,
    /// llama.cpp's `Q2_K`: Q3_K and Q4_K where it hurts most.
    Q2_K,
    /// llama.cpp's `Q3_K_M`.
    Q3_K_M,
    /// llama.cpp's `Q4_K_M`.
    Q4_K_M,
    /// llama.cpp's `Q5_K_M`.
    Q5_K_M,
}

const MIXES: [(&str, WeightFormat); 5] = [
    ("FP8", WeightFormat::Fp8),
    ("Q2_K", WeightFormat::Q2_K),
    ("Q3_K_M", WeightFormat::Q3_K_M),
    ("Q4_K_M", WeightFormat::Q4_K_M),
    ("Q5_K_M", WeightFormat::Q5_K_M),
];

impl WeightFormat {
    /// Every name that is understood.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let mixes = MIXES.iter().map(|(name, _)| *name);
        // Bare FP8 has no scales and no place in GGUF; the mix has.
        let pure = FORMATS.iter().filter(|info| info.ggml_type.is_some()).map(|info| info.name);
        pure.filter(|name| !MIXES.iter().any(|(mix, _)| mix == name)).chain(mixes)
    }

    /// Whether files of this form can hold it.
    pub fn fits(self, container: Container) -> bool {
        match (container, self) {
            (Container::Gguf, mix) => mix != WeightFormat::Fp8,
            (Container::Safetensors, WeightFormat::Pure(format)) => format.info().safetensors_dtype.is_some(),
            (Container::Safetensors, mix) => mix == WeightFormat::Fp8,
        }
    }

    /// The format of a tensor in files of this form. Norms are as exact as the form has them.
    pub(crate) fn tensor(self, config: &Config, container: Container, name: Name) -> Format {
        match container {
            Container::Gguf if name.is_norm() => Format::F32,
            Container::Safetensors if name.is_norm() => self.matrix(config, Name::Output),
            _ => self.matrix(config, name),
        }
    }

    /// The format of a matrix.
    ///
    /// The rules of the mixes are those of llama.cpp's quantizer, as its files show them; the token embedding has the
    /// base format, unless it is the output matrix too.
    fn matrix(self, config: &Config, name: Name) -> Format {
        use LayerTensor::{AttentionOutput, Down, Gate, Up, Value};
        let output = name == Name::Output || (name == Name::TokenEmbedding && config.tied_embeddings);
        let n = config.n_layers;
        let place = match name {
            Name::Layer { layer, tensor } => Some((layer, tensor)),
            _ => None,
        };
        // First eighth, last eighth, every third in between.
        let more_bits = |i: usize| i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        match self {
            WeightFormat::Pure(format) => format,
            WeightFormat::Fp8 => match place {
                Some((i, Gate | Up | Down)) if i > 0 && i + 1 < n => {
                    Format::from_safetensors_dtype("F8_E4M3").unwrap_or(Format::BF16)
                }
                _ => Format::BF16,
            },
            _ if output => Format::Q6_K,
            WeightFormat::Q2_K => match place {
                // Llama 3 shares values between many heads, so their errors count more often.
                Some((_, Value)) if config.n_heads / config.n_kv_heads >= 4 => Format::Q4_K,
                Some((_, Value | Down | AttentionOutput)) => Format::Q3_K,
                _ => Format::Q2_K,
            },
            WeightFormat::Q3_K_M => match place {
                Some((i, Value)) if i < 2 => Format::Q5_K,
                Some((i, Down)) if i < n / 16 => Format::Q5_K,
                Some((_, Value | Down | AttentionOutput)) => Format::Q4_K,
                _ => Format::Q3_K,
            },
            WeightFormat::Q4_K_M => match place {
                Some((i, Value | Down)) if more_bits(i) => Format::Q6_K,
                _ => Format::Q4_K,
            },
            WeightFormat::Q5_K_M => match place {
                Some((i, Value | Down)) if more_bits(i) => Format::Q6_K,
                _ => Format::Q5_K,
            },
        }
    }
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<WeightFormat, String> {
        if let Some((_, mix)) = MIXES.iter().find(|(mix, _)| mix.eq_ignore_ascii_case(name)) {
            return Ok(*mix);
        }
        match Format::from_name(name) {
            Some(format) if format.info().ggml_type.is_some() => Ok(WeightFormat::Pure(format)),
            _ => Err(format!(
                "`{name}` is no format; there are {}",
                WeightFormat::names().collect::<Vec<_>>().join(", ")
            )),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Pure(format) => f.pad(format.name()),
            mix => f.pad(MIXES.iter().find(|(_, m)| m == mix).map_or("", |(name, _)| name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::Shape;

    #[test]
    fn names_read_back() {
        for name in WeightFormat::names() {
            assert_eq!(name.parse::<WeightFormat>().unwrap().to_string(), name);
        }
        assert_eq!("q4_k_m".parse(), Ok(WeightFormat::Q4_K_M));
        assert!("F8_E4M3".parse::<WeightFormat>().is_err());
        assert!("Q4_K_X".parse::<WeightFormat>().unwrap_err().contains("Q4_K_M"));
    }

    #[test]
    fn half_of_the_layers_get_more_bits() {
        let shape = Shape::named("llama-3.1-8b").unwrap();
        let count = |tensor| {
            let format = |layer| WeightFormat::Q4_K_M.matrix(shape.config(), Name::Layer { layer, tensor });
            (0..32).filter(|&layer| format(layer) == Format::Q6_K).count()
        };
        assert_eq!((count(LayerTensor::Down), count(LayerTensor::Value), count(LayerTensor::Up)), (16, 16, 0));
        assert_eq!(WeightFormat::Q4_K_M.matrix(shape.config(), Name::Output), Format::Q6_K);
        assert_eq!(WeightFormat::Q4_K_M.matrix(shape.config(), Name::TokenEmbedding), Format::Q4_K);
    }
}
