//! What an answer may look like: the fields that ask for a grammar, and the way from a grammar to the engine.

use crate::app::App;
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::raw::aside;
use axum::http::StatusCode;
use puna_engine::Constraint;
use puna_session::{Grammar, GrammarError};
use serde_json::Value;
use std::sync::Arc;

/// The fields, under OpenAI's name and vLLM's.
pub const CONSTRAINT: &[Field] = &[
    Field {
        name: "response_format",
        schema: r#"{"type": "object", "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}}}"#,
        about: "The answer is any JSON object, or JSON that fits a schema",
        example: r#"{"type": "json_schema", "json_schema": {"name": "age", "schema": {"type": "integer"}}}"#,
    },
    Field {
        name: "structured_outputs",
        schema: r#"{"type": "object", "minProperties": 1, "maxProperties": 1}"#,
        about: "The answer fits one of json (a schema), json_object (true), regex, choice (a list), grammar (in Lark's notation)",
        example: r#"{"choice": ["yes", "no"]}"#,
    },
];

/// vLLM's `structured_outputs`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Structured {
    Json(Value),
    JsonObject(bool),
    Regex(String),
    Choice(Vec<String>),
    Grammar(String),
}

/// Takes the grammar of a request, if it has one.
///
/// # Errors
/// When a field is of the wrong type, or both are there.
pub fn take(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let format = fields.take::<Value>("response_format")?;
    let format = format.map_or(Ok(None), |format| Grammar::from_response_format(&format))?;
    let structured = match fields.take("structured_outputs")? {
        Some(Structured::Json(schema)) => Some(Grammar::JsonSchema(schema)),
        Some(Structured::JsonObject(json)) => json.then_some(Grammar::JsonObject),
        Some(Structured::Regex(regex)) => Some(Grammar::Regex(regex)),
        Some(Structured::Choice(options)) => Some(Grammar::Choice(options)),
        Some(Structured::Grammar(grammar)) => Some(Grammar::Lark(grammar)),
        None => None,
    };
    match (format, structured) {
        (Some(_), Some(_)) => Err(ApiError::field("structured_outputs", "expected none beside response_format")),
        (format, structured) => Ok(format.or(structured)),
    }
}

/// Compiles a grammar, if there is one.
///
/// # Errors
/// The grammar is wrong, too large, or can't be enforced.
pub async fn compile(app: &Arc<App>, grammar: Option<Grammar>) -> Result<Option<Box<dyn Constraint>>, ApiError> {
    let Some(grammar) = grammar else { return Ok(None) };
    // Some hundred milliseconds of a core at worst; strangers may have a few of them at once, and not all cores.
    let turn = app.compiling.clone().acquire_owned().await.expect("nobody closes it");
    let app = app.clone();
    aside(move || {
        let _turn = turn;
        let constraint = app.grammars()?.compile(&grammar)?;
        Ok(Some(Box::new(constraint) as Box<dyn Constraint>))
    })
    .await?
}

impl From<GrammarError> for ApiError {
    fn from(error: GrammarError) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_grammar", error.to_string())
    }
}
