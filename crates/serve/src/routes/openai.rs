//! What OpenAI's endpoints have in common.

use crate::answer::Ask;
use crate::app::App;
use crate::constraint;
use crate::error::ApiError;
use crate::fields::{Field, Fields, MODEL, STREAM};
use crate::sampling;
use puna_session::Grammar;
use serde_json::{Map, Value, json};

/// Fields of both.
pub const BOTH: &[Field] = &[
    MODEL,
    Field {
        name: "n",
        schema: r#"{"type": "integer", "minimum": 1, "maximum": 128}"#,
        about: "Answers to each prompt",
        example: "2",
    },
    Field {
        name: "stop",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}"#,
        about: "Texts before which the answer ends",
        example: r#"["END"]"#,
    },
    STREAM,
    Field {
        name: "stream_options",
        schema: r#"{"type": "object", "properties": {"include_usage": {"type": "boolean"}}}"#,
        about: "include_usage: a last event tells how many tokens it were",
        example: r#"{"include_usage": true}"#,
    },
    Field {
        name: "ignore_eos",
        schema: r#"{"type": "boolean"}"#,
        about: "Goes on after the model's end tokens",
        example: "false",
    },
];

/// Fields that change no answer.
pub const HARMLESS: &[&str] = &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"];

/// What a stream is to tell besides the answer.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    #[serde(default)]
    /// How many tokens it were, at the end.
    include_usage: bool,
    /// Padding against guesses by length; none is added.
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: bool,
}

/// A request's settings that both have.
pub struct Common {
    /// How to answer; its prompt is still to come.
    pub ask: Ask,
    /// What the answer is to look like.
    pub grammar: Option<Grammar>,
    /// Answers to each prompt.
    pub n: usize,
    /// Whether the answer is sent while it is made.
    pub stream: bool,
    /// Whether a stream's last event tells how many tokens it were.
    pub include_usage: bool,
}

impl Common {
    /// Takes them.
    ///
    /// # Errors
    /// When a field is of the wrong type or names what is not there.
    pub fn take(app: &App, fields: &mut Fields) -> Result<Common, ApiError> {
        let adapter = app.asked(fields)?;
        let sampling = sampling::take(fields, &app.model.sampling)?;
        let stop = fields.stop_texts("stop")?;
        let ignore_end = fields.take("ignore_eos")?.unwrap_or(false);
        // As an object: a list, too, would be read as one.
        let options: Map<String, Value> = fields.take("stream_options")?.unwrap_or_default();
        let options: StreamOptions =
            serde_json::from_value(options.into()).map_err(|error| ApiError::field("stream_options", error))?;
        Ok(Common {
            ask: Ask { stop, ignore_end, ..Ask::new(Vec::new(), sampling, adapter) },
            grammar: constraint::take(fields)?,
            n: fields.integer("n", 1..=128)?.unwrap_or(1) as usize,
            stream: fields.take("stream")?.unwrap_or(false),
            include_usage: options.include_usage,
        })
    }
}

/// OpenAI's count of tokens; `cached` of the prompt's were in the cache.
pub fn usage(n_prompt: usize, n_completion: usize, cached: usize) -> Value {
    json!({
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}
