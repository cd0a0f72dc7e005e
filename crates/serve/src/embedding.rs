//! Texts as vectors: the mean of the model's final hidden states over all tokens of a text, scaled to length 1.
//!
//! A Llama was made to go on with texts and not to compare them, so these vectors are no match for those of a model
//! that was made for it; but they are what this one knows of a text.

use crate::access::Caller;
use crate::answer::Pooling;
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
pub async fn take(app: &App, fields: &mut Fields) -> Result<Vec<Vec<u32>>, ApiError> {
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
    let tokenizer = app.model.tokenizer.clone();
    let encode = move |text: &str| raw::begun(&tokenizer, tokenizer.encode(text));
    let prompts = raw::aside(move || raw::prompts(INPUT.name, input, encode)).await??;
    for (idx, prompt) in prompts.iter().enumerate() {
        let limits = Limits { max_tokens: 0, stop_tokens: Vec::new() };
        let request = Request { pool: true, ..Request::new(prompt.clone(), Sampling::default(), limits) };
        app.model.service.check(&request).map_err(|error| ApiError::from(error).at(INPUT.name, idx))?;
    }
    Ok(prompts)
}

/// Vectors of some prompts.
pub struct Embedded {
    /// In the order of the prompts, `[dim]` each.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that were computed for them.
    pub n_tokens: usize,
}

/// Makes vectors of some prompts. Those that are equal are computed once, and count once.
///
/// # Errors
/// When one of them can't be computed, the caller may not have them, or there is no room now for even one.
pub async fn embed(
    app: &App,
    caller: Caller,
    prompts: &[Vec<u32>],
    adapter: Option<u32>,
) -> Result<Embedded, ApiError> {
    let mut distinct = prompts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let pooling = Pooling::new(app, caller, &distinct, adapter)?;
    let (mut vectors, mut running, mut next) = (Vec::new(), FuturesOrdered::new(), 0);
    while vectors.len() < distinct.len() {
        while next < distinct.len() && running.len() < AT_ONCE {
            match pooling.begin(next, distinct[next].clone()) {
                Ok(mean) => running.push_back(mean),
                // As soon as one of these is done there is room.
                Err(error) if error.status() == StatusCode::TOO_MANY_REQUESTS && !running.is_empty() => break,
                Err(error) => return Err(pooling.refuse(error)),
            }
            next += 1;
        }
        vectors.push(unit(running.next().await.expect("somebody is running")?));
    }
    let vector = |prompt| vectors[distinct.binary_search(prompt).expect("it is one of them")].clone();
    Ok(Embedded { vectors: prompts.iter().map(vector).collect(), n_tokens: distinct.iter().map(Vec::len).sum() })
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
