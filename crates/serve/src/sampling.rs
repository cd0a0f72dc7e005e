//! How an answer is sampled: the fields that all APIs share.

use crate::error::ApiError;
use crate::fields::{Field, Fields};
use puna_engine::Sampling;
use serde_json::{Map, Value};

/// How far from the most probable token.
pub const TEMPERATURE: Field = Field {
    name: "temperature",
    schema: r#"{"type": "number", "minimum": 0, "maximum": 100}"#,
    about: "Divides the logits; 0 always takes the most probable token",
    example: "0.7",
};

/// Nucleus sampling.
pub const TOP_P: Field = Field {
    name: "top_p",
    schema: r#"{"type": "number", "exclusiveMinimum": 0, "maximum": 1}"#,
    about: "Samples from the most probable tokens that together reach this probability",
    example: "0.9",
};

/// Sampling from the most probable tokens.
pub const TOP_K: Field = Field {
    name: "top_k",
    schema: r#"{"type": "integer", "minimum": 0}"#,
    about: "Samples from so many most probable tokens; 0 for all",
    example: "40",
};

/// Fields of sampling under OpenAI's names, and those that other servers of open models add.
pub const SAMPLING: &[Field] = &[
    TEMPERATURE,
    TOP_P,
    TOP_K,
    Field {
        name: "min_p",
        schema: r#"{"type": "number", "minimum": 0, "maximum": 1}"#,
        about: "Samples from tokens with at least this share of the most probable one's probability",
        example: "0.05",
    },
    Field {
        name: "typical_p",
        schema: r#"{"type": "number", "exclusiveMinimum": 0, "maximum": 1}"#,
        about: "Locally typical sampling; 1 for off",
        example: "1.0",
    },
    Field {
        name: "repetition_penalty",
        schema: r#"{"type": "number", "minimum": 0.01, "maximum": 100}"#,
        about: "Divides the logits of tokens that occurred already; 1 for off",
        example: "1.1",
    },
    Field {
        name: "frequency_penalty",
        schema: r#"{"type": "number", "minimum": -100, "maximum": 100}"#,
        about: "Subtracted from a token's logit for each time it was generated",
        example: "0.1",
    },
    Field {
        name: "presence_penalty",
        schema: r#"{"type": "number", "minimum": -100, "maximum": 100}"#,
        about: "Subtracted from a token's logit if it was generated",
        example: "0.1",
    },
    Field {
        name: "logit_bias",
        schema: r#"{"type": "object", "additionalProperties": {"type": "number"}}"#,
        about: "Added to the logits of these token ids",
        example: r#"{"10": -1.5}"#,
    },
    Field { name: "seed", schema: r#"{"type": "integer"}"#, about: "Equal seeds give equal answers", example: "7" },
];

/// Tokens that a `logit_bias` may name.
const MAX_BIASES: usize = 1024;

/// Takes the sampling of a request; what it leaves open is as in `defaults`.
///
/// # Errors
/// When a field is of the wrong type. Ranges are the engine's to check.
pub fn take(fields: &mut Fields, defaults: &Sampling) -> Result<Sampling, ApiError> {
    let mut sampling = defaults.clone();
    for (name, value) in [
        ("temperature", &mut sampling.temperature),
        ("top_p", &mut sampling.top_p),
        ("min_p", &mut sampling.min_p),
        ("typical_p", &mut sampling.typical),
        ("repetition_penalty", &mut sampling.repetition_penalty),
        ("frequency_penalty", &mut sampling.frequency_penalty),
        ("presence_penalty", &mut sampling.presence_penalty),
    ] {
        if let Some(found) = fields.take::<f32>(name)? {
            *value = found;
        }
    }
    if let Some(top_k) = fields.integer("top_k", 0..=u64::from(u32::MAX))? {
        sampling.top_k = top_k as usize;
    }
    if let Some(biases) = fields.take::<Map<String, Value>>("logit_bias")? {
        if biases.len() > MAX_BIASES {
            let message = format!("expected at most {MAX_BIASES} tokens, found {}", biases.len());
            return Err(ApiError::field("logit_bias", message));
        }
        let parse = |(id, bias): (String, Value)| {
            let parsed = id.parse().ok().zip(bias.as_f64().map(|bias| bias as f32));
            parsed.ok_or_else(|| {
                ApiError::field("logit_bias", format!("expected token ids with numbers, found {id:?}: {bias}"))
            })
        };
        sampling.logit_bias = biases.into_iter().map(parse).collect::<Result<_, _>>()?;
    }
    if let Some(seed) = fields.take::<i64>("seed")? {
        sampling.seed = Some(seed as u64);
    }
    Ok(sampling)
}
