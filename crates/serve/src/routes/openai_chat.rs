//! OpenAI's `/v1/chat/completions`.

use crate::answer::{self, Ask};
use crate::app::{App, new_id};
use crate::chat::{Assembly, Reply, collect, prompt, repeat};
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::sampling::{self, SAMPLING};
use crate::time::Time;
use crate::{logprobs, sse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_text::chat::{Conversation, Message};
use serde_json::{Value, json};
use std::sync::Arc;

/// The endpoint's own fields.
pub const FIELDS: &[Field] = &[
    Field {
        name: "model",
        schema: r#"{"type": "string"}"#,
        about: "The model's name, or an adapter's; the model without it",
        example: "null",
    },
    Field {
        name: "messages",
        schema: r#"{"type": "array", "items": {"type": "object"}}"#,
        about: "The conversation, oldest first; a last message of the assistant is gone on with",
        example: r#"[{"role": "user", "content": "Hello!"}]"#,
    },
    Field {
        name: "max_completion_tokens",
        schema: r#"{"type": "integer", "minimum": 0}"#,
        about: "Tokens of the answer at most; as many as the context has room for without it",
        example: "16",
    },
    Field {
        name: "max_tokens",
        schema: r#"{"type": "integer", "minimum": 0}"#,
        about: "The older name of max_completion_tokens",
        example: "16",
    },
    Field {
        name: "n",
        schema: r#"{"type": "integer", "minimum": 1, "maximum": 128}"#,
        about: "Answers to make",
        example: "2",
    },
    Field {
        name: "stop",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}"#,
        about: "Texts before which the answer ends",
        example: r#"["END"]"#,
    },
    Field {
        name: "stream",
        schema: r#"{"type": "boolean"}"#,
        about: "Sends the answer as server-sent events while it is made",
        example: "false",
    },
    Field {
        name: "stream_options",
        schema: r#"{"type": "object", "properties": {"include_usage": {"type": "boolean"}}}"#,
        about: "include_usage: a last event tells how many tokens it were",
        example: r#"{"include_usage": true}"#,
    },
    Field {
        name: "logprobs",
        schema: r#"{"type": "boolean"}"#,
        about: "Tells the log-probability of each token",
        example: "true",
    },
    Field {
        name: "top_logprobs",
        schema: r#"{"type": "integer", "minimum": 0, "maximum": 20}"#,
        about: "Tells so many of the most probable tokens with each; needs logprobs",
        example: "3",
    },
    Field {
        name: "tools",
        schema: r#"{"type": "array", "items": {"type": "object"}}"#,
        about: "Functions that the model may call",
        example: r#"[{"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}}]"#,
    },
    Field {
        name: "tool_choice",
        schema: r#"{"enum": ["auto", "none"]}"#,
        about: "Whether tools are offered",
        example: r#""auto""#,
    },
    Field {
        name: "ignore_eos",
        schema: r#"{"type": "boolean"}"#,
        about: "Goes on after the model's end tokens",
        example: "false",
    },
    Field {
        name: "continue_final_message",
        schema: r#"{"type": "boolean"}"#,
        about: "Whether the last message, of the assistant, is gone on with",
        example: "false",
    },
    Field {
        name: "add_generation_prompt",
        schema: r#"{"type": "boolean"}"#,
        about: "Whether the prompt ends with the header of the answer",
        example: "true",
    },
];

/// Fields that change no answer.
pub const HARMLESS: &[&str] = &["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"];

/// Stop texts at most.
pub const MAX_STOPS: usize = 64;

/// Takes the number of tokens that an answer may have, under either name.
fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let most = u64::from(u32::MAX);
    let older = fields.integer("max_tokens", 0..=most)?;
    Ok(fields.integer("max_completion_tokens", 0..=most)?.or(older).map(|n| n as usize))
}

/// What a stream is to tell besides the answer.
#[derive(serde::Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    #[serde(default)]
    /// How many tokens it were, at the end.
    pub include_usage: bool,
    /// Padding against guesses by length; none is added.
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: bool,
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS, SAMPLING], HARMLESS)?;
    let adapter = app.adapter(fields.take::<String>("model")?.as_deref())?;
    let sampling = sampling::take(&mut fields, &app.model.sampling)?;
    let max_tokens = max_tokens(&mut fields)?;
    let n = fields.integer("n", 1..=128)?.unwrap_or(1) as usize;
    let stop = fields.texts("stop", MAX_STOPS)?;
    let stream = fields.take("stream")?.unwrap_or(false);
    let options: StreamOptions = fields.take("stream_options")?.unwrap_or_default();
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=20)?;
    if top.is_some() && !logprobs {
        return Err(ApiError::field("top_logprobs", "expected logprobs: true beside it"));
    }
    let ignore_end = fields.take("ignore_eos")?.unwrap_or(false);
    let continues = fields.take("continue_final_message")?;
    let mut conversation = Conversation::new(fields.require::<Vec<Message>>("messages")?);
    let tools: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    match fields.take::<String>("tool_choice")?.as_deref() {
        None | Some("auto") => conversation.tools = tools,
        Some("none") => {}
        Some(other) => {
            return Err(ApiError::field("tool_choice", format!("expected \"auto\" or \"none\", found {other:?}")));
        }
    }
    conversation.add_generation_prompt = fields.take("add_generation_prompt")?.unwrap_or(true);
    let tools = !conversation.tools.is_empty();
    let ids = prompt(&app, conversation, continues).await?;
    let n_prompt = ids.len();
    let top = top.unwrap_or(0) as usize;
    let ask = Ask { max_tokens, stop, ignore_end, top, ..Ask::new(ids, sampling, adapter) };
    let mut pieces = answer::start(&app, repeat(ask, n))?;
    let (id, created) = (new_id("chatcmpl-"), Time::now().seconds());
    let model = app.name(adapter).to_owned();
    if !stream {
        let replies = collect(&app, pieces, n, tools).await?;
        let tokenizer = &app.model.tokenizer;
        let choice = |(index, reply): (usize, &Reply)| {
            let mut message = json!({"role": "assistant", "content": reply.text, "refusal": null});
            if !reply.tool_calls.is_empty() {
                message["tool_calls"] = json!(reply.tool_calls);
            }
            let scores = logprobs.then(|| {
                let content: Vec<Value> = reply.scored.iter().map(|scored| logprobs::chat(tokenizer, scored)).collect();
                json!({"content": content, "refusal": null})
            });
            json!({"index": index, "message": message, "logprobs": scores, "finish_reason": reply.finish_reason()})
        };
        let choices: Vec<Value> = replies.iter().enumerate().map(choice).collect();
        return Ok(Json(json!({
            "id": id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage(n_prompt, &replies),
        }))
        .into_response());
    }
    Ok(sse::stream(sse::EVENT_STREAM, move |events| async move {
        let chunk = |choices: Value| json!({"id": id, "object": "chat.completion.chunk", "created": created, "model": model, "choices": choices});
        let delta = |index: usize, delta: Value, scores: Value, reason: Value| {
            chunk(json!([{"index": index, "delta": delta, "logprobs": scores, "finish_reason": reason}]))
        };
        for index in 0..n {
            events.data(&delta(index, json!({"role": "assistant", "content": ""}), Value::Null, Value::Null)).await?;
        }
        let mut answers: Vec<Assembly<'_>> = (0..n).map(|_| Assembly::new(&app, tools)).collect();
        while let Some((index, piece)) = pieces.recv().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    events.data(&error.openai()).await?;
                    return events.done().await;
                }
            };
            let (text, scored) = answers[index].push(piece);
            let scores = scored.as_ref().filter(|_| logprobs).map_or(
                Value::Null,
                |scored| json!({"content": [logprobs::chat(&app.model.tokenizer, scored)], "refusal": null}),
            );
            if !text.is_empty() || !scores.is_null() {
                events.data(&delta(index, json!({"content": text}), scores, Value::Null)).await?;
            }
            answers[index].keep(&text, None);
        }
        let replies: Vec<Reply> = answers.into_iter().map(Assembly::finish).collect();
        for (index, reply) in replies.iter().enumerate() {
            if !reply.tool_calls.is_empty() {
                let calls: Vec<Value> = reply
                    .tool_calls
                    .iter()
                    .enumerate()
                    .map(|(at, call)| {
                        let mut call = json!(call);
                        call["index"] = at.into();
                        call
                    })
                    .collect();
                events.data(&delta(index, json!({"tool_calls": calls}), Value::Null, Value::Null)).await?;
            }
            events.data(&delta(index, json!({}), Value::Null, reply.finish_reason().into())).await?;
        }
        if options.include_usage {
            let mut last = chunk(json!([]));
            last["usage"] = usage(n_prompt, &replies);
            events.data(&last).await?;
        }
        events.done().await
    }))
}

/// OpenAI's count of tokens.
fn usage(n_prompt: usize, replies: &[Reply]) -> Value {
    let n_completion: usize = replies.iter().map(|reply| reply.n_tokens).sum();
    let cached = replies.iter().map(|reply| reply.cached).max().unwrap_or(0);
    json!({
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}
