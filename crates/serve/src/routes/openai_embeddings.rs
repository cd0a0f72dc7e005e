//! OpenAI's `/v1/embeddings`: texts as vectors.

use crate::access::Caller;
use crate::app::App;
use crate::embedding::{self, DIMENSIONS, Embedded, INPUT};
use crate::error::ApiError;
use crate::fields::{Field, Fields, MODEL};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_text::base64;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The endpoint's fields.
pub const FIELDS: &[Field] = &[
    MODEL,
    INPUT,
    Field {
        name: "encoding_format",
        schema: r#"{"enum": ["float", "base64"]}"#,
        about: "Numbers, or base64 of little-endian numbers of 32 bits; numbers without it",
        example: r#""float""#,
    },
    DIMENSIONS,
];

/// Fields that change no vector.
const HARMLESS: &[&str] = &["user"];

/// How vectors are written.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    Base64,
}

/// The answer. Written as it is: as a [`serde_json::Value`] it would take many times the memory.
#[derive(Serialize)]
struct Embeddings<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Vector {
    fn new(values: Vec<f32>, encoding: Encoding) -> Vector {
        match encoding {
            Encoding::Float => Vector::Float(values),
            Encoding::Base64 => {
                let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                let mut text = String::new();
                base64::encode(&bytes, &mut text);
                Vector::Base64(text)
            }
        }
    }
}

/// Makes vectors of texts.
pub async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS], HARMLESS)?;
    let adapter = app.asked(&mut fields)?;
    let encoding = fields.take("encoding_format")?.unwrap_or_default();
    let prompts = embedding::take(&app, &mut fields).await?;
    let Embedded { vectors, n_tokens } = embedding::embed(&app, caller, &prompts, adapter).await?;
    let embedding =
        |(index, values)| Embedding { object: "embedding", index, embedding: Vector::new(values, encoding) };
    Ok(Json(Embeddings {
        object: "list",
        data: vectors.into_iter().enumerate().map(embedding).collect(),
        model: app.name(adapter),
        usage: Usage { prompt_tokens: n_tokens, total_tokens: n_tokens },
    })
    .into_response())
}
