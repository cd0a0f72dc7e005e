//! Texts as vectors: the mean of the model's final hidden states over all tokens of a text, scaled to length 1.
//!
//! A Llama was made to go on with texts and not to compare them, so these vectors are no match for those of a model that
//! was; but they are what it knows of a text, and its adapters can be trained to make more of it.

use crate::answer::{self, Ask};
use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::raw;
use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use puna_engine::{Limits, Request, Sampling};
use serde_json::Value;

/// What is embedded.
pub const INPUT: Field = Field {
    name: "input",
    schema: r#"{"anyOf": [{"type": "string"}, {"type": "array"}]}"#,
    about: "A text, several texts, token ids, or several lists of token ids. Texts begin with the vocabulary's first token; names of special tokens in them are only text",
    example: r#"["A llama eats grass.", "A train is late."]"#,
};

/// Width of the vectors.
pub const DIMENSIONS: Field = Field {
    name: "dimensions",
    schema: r#"{"type": "integer", "minimum": 1}"#,
    about: "Width of the vectors; that of the model's hidden states is the only one",
    example: "null",
};

/// Inputs of one request that are in the engine at once at most; enough to fill its forward passes with short texts.
const AT_ONCE: usize = 32;

/// Takes what is to be embedded: its tokens.
///
/// # Errors
/// When it is no text, an empty one or one that does not fit the context, or when vectors of another width are wanted.
pub fn take(app: &App, fields: &mut Fields) -> Result<Vec<Vec<u32>>, ApiError> {
    let dim = app.model.service.dim() as u64;
    if let Some(found) = fields.take::<u64>(DIMENSIONS.name)?.filter(|found| *found != dim) {
        let message = format!("expected {dim}, the width of this model's vectors, found {found}");
        return Err(ApiError::field(DIMENSIONS.name, message));
    }
    let input: Value = fields.require(INPUT.name)?;
    let is_empty = |value: &Value| value.as_str() == Some("");
    if is_empty(&input) || input.as_array().is_some_and(|list| list.iter().any(is_empty)) {
        return Err(ApiError::field(INPUT.name, "expected texts with something in them, found an empty one"));
    }
    let tokenizer = &app.model.tokenizer;
    let prompts = raw::prompts(INPUT.name, input, |text| raw::begun(tokenizer, tokenizer.encode(text)))?;
    for (idx, prompt) in prompts.iter().enumerate() {
        let limits = Limits { max_tokens: 0, stop_tokens: Vec::new() };
        let request = Request { pool: true, ..Request::new(prompt.clone(), Sampling::default(), limits) };
        app.model.service.check(&request).map_err(|error| ApiError::from(error).about(&format!("input[{idx}]")))?;
    }
    Ok(prompts)
}

/// The vectors of some prompts, in their order.
///
/// # Errors
/// When one of them can't be computed, or there is no room now for even one.
pub async fn embed(app: &App, prompts: Vec<Vec<u32>>, adapter: Option<u32>) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut vectors = Vec::with_capacity(prompts.len());
    let mut running = FuturesOrdered::new();
    let mut rest = prompts.into_iter().peekable();
    loop {
        while let Some(prompt) = rest.peek().filter(|_| running.len() < AT_ONCE) {
            match answer::pool(app, Ask::new(prompt.clone(), Sampling::default(), adapter)) {
                Ok(pooling) => running.push_back(pooling),
                // As soon as one of these is done there is room.
                Err(error) if error.status() == StatusCode::TOO_MANY_REQUESTS && !running.is_empty() => break,
                Err(error) => return Err(error),
            }
            rest.next();
        }
        match running.next().await {
            Some(mean) => vectors.push(unit(mean?)),
            None => return Ok(vectors),
        }
    }
}

/// The vector of length 1 in the same direction; that of length 0 has none, and stays.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let square: f64 = vector.iter().map(|value| f64::from(*value).powi(2)).sum();
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vectors_have_length_1(vector in proptest::collection::vec(-1e38f32..1e38, 1..50), scale in 1e-30f32..1.0) {
            let vector: Vec<f32> = vector.into_iter().map(|value| value * scale).collect();
            let found = unit(vector.clone());
            let length = found.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            prop_assert!((length - 1.0).abs() < 1e-6, "{}", length);
            prop_assert!(found.iter().zip(&vector).all(|(a, b)| a * b >= 0.0));
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        assert_eq!(unit(vec![0.0; 3]), [0.0; 3]);
    }
}
