//! Text to tokens and back: `/tokenize`, `/detokenize`, `/apply-template`, `/tokenizer_info`.

use crate::app::App;
use crate::chat::Turn;
use crate::error::ApiError;
use crate::fields::{ADD_GENERATION_PROMPT, CONTINUE_FINAL_MESSAGE, Field, Fields, MESSAGES, MODEL, TOOLS};
use crate::{logprobs, raw};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use puna_text::chat::{Conversation, Message};
use serde_json::{Value, json};
use std::sync::Arc;

/// Fields of `/tokenize`.
pub const TOKENIZE: &[Field] = &[
    MODEL,
    Field {
        name: "prompt",
        schema: r#"{"type": "string"}"#,
        about: "The text; names of special tokens are meant",
        example: r#""Hello<|eot_id|>""#,
    },
    Field { name: "content", schema: r#"{"type": "string"}"#, about: "Another name of prompt", example: "null" },
    Field {
        name: "add_special_tokens",
        schema: r#"{"type": "boolean"}"#,
        about: "Puts the vocabulary's first token in front; it does not without it",
        example: "false",
    },
];

/// Fields of `/detokenize`.
pub const DETOKENIZE: &[Field] = &[
    MODEL,
    Field {
        name: "tokens",
        schema: r#"{"type": "array", "items": {"type": "integer"}}"#,
        about: "Token ids",
        example: "[1, 2, 3]",
    },
];

/// Fields of `/apply-template`.
pub const APPLY_TEMPLATE: &[Field] = &[MODEL, MESSAGES, TOOLS, ADD_GENERATION_PROMPT, CONTINUE_FINAL_MESSAGE];

/// The tokens of a text.
pub async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&body, &[TOKENIZE], &[])?;
    app.asked(&mut fields)?;
    let content: Option<String> = fields.take("content")?;
    let text = match content {
        Some(text) => text,
        None => fields.require("prompt")?,
    };
    let tokenizer = app.model.tokenizer.clone();
    let bos = if fields.take("add_special_tokens")?.unwrap_or(false) { tokenizer.bos() } else { None };
    let ids = raw::aside(move || raw::encode(&tokenizer, &text)).await?;
    let ids: Vec<u32> = bos.into_iter().chain(ids).collect();
    Ok(Json(json!({"count": ids.len(), "max_model_len": app.model.service.context(), "tokens": ids})))
}

/// The text of tokens.
pub async fn detokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&body, &[DETOKENIZE], &[])?;
    app.asked(&mut fields)?;
    let ids: Vec<u32> = fields.require("tokens")?;
    let tokenizer = &app.model.tokenizer;
    if let Some(id) = ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
        let message = format!("expected ids below the vocabulary's {}, found {id}", tokenizer.vocab_size());
        return Err(ApiError::field("tokens", message));
    }
    let text = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
    Ok(Json(json!({"prompt": text, "content": text})))
}

/// The exact prompt of a conversation: its text, its tokens, and what each of them stands for.
pub async fn apply_template(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::read(&body, &[APPLY_TEMPLATE], &[])?;
    app.asked(&mut fields)?;
    let mut conversation = Conversation::new(fields.require::<Vec<Message>>("messages")?);
    conversation.tools = fields.tools()?;
    conversation.add_generation_prompt = fields.take("add_generation_prompt")?.unwrap_or(true);
    let continues = fields.take("continue_final_message")?;
    let ids = Turn { continues, ..Turn::new(conversation) }.prompt(&app).await?;
    let context = app.model.service.context();
    if ids.len() > context {
        return Err(puna_engine::Error::TooLong { found: ids.len(), context }.into());
    }
    let tokenizer = &app.model.tokenizer;
    let pieces: Vec<String> = ids.iter().map(|id| logprobs::token_text(tokenizer, *id)).collect();
    let text = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
    Ok(Json(json!({"prompt": text, "tokens": ids, "pieces": pieces})))
}

/// What a client's own templates may want to know of the vocabulary.
pub async fn info(State(app): State<Arc<App>>) -> Json<Value> {
    let tokenizer = &app.model.tokenizer;
    let name = |id: Option<u32>| id.map(|id| logprobs::token_text(tokenizer, id));
    let eos = app.model.stop_tokens.first().copied().or_else(|| tokenizer.end_of_text());
    Json(json!({
        "bos_token": name(tokenizer.bos()),
        "eos_token": name(eos),
        "pad_token": null,
        "vocab_size": tokenizer.vocab_size(),
        "chat_template": app.model.format.describe(),
    }))
}
