//! Anthropic's `/v1/messages`, and how many tokens a request has.

use crate::access::Caller;
use crate::answer::{self, Ask, Reason};
use crate::app::{App, new_id};
use crate::chat::{Assembly, Reply, Turn, collect};
use crate::error::ApiError;
use crate::fields::{Field, Fields, MESSAGES, MODEL, STREAM};
use crate::sampling::{TEMPERATURE, TOP_K, TOP_P};
use crate::sse;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_session::ToolChoice;
use puna_text::chat::{Content, Conversation, Message, Role, ToolCall};
use serde_json::{Value, json};
use std::sync::Arc;

/// What `/v1/messages/count_tokens` takes too.
pub const CONVERSATION: &[Field] = &[
    MODEL,
    MESSAGES,
    Field {
        name: "system",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array"}]}"#,
        about: "Instructions for the whole conversation",
        example: r#""Be brief.""#,
    },
    Field {
        name: "tools",
        schema: r#"{"type": "array", "items": {"type": "object"}}"#,
        about: "Functions that the model may call",
        example: r#"[{"name": "now", "description": "The time", "input_schema": {"type": "object", "properties": {}}}]"#,
    },
    Field {
        name: "tool_choice",
        schema: r#"{"type": "object", "properties": {"type": {"enum": ["auto", "any", "tool", "none"]}}}"#,
        about: "Whether a tool may be called, must be, which one by its name, or none; disable_parallel_tool_use: one at most",
        example: r#"{"type": "auto"}"#,
    },
];

/// What else `/v1/messages` takes.
pub const FIELDS: &[Field] = &[
    TEMPERATURE,
    TOP_P,
    TOP_K,
    STREAM,
    Field {
        name: "max_tokens",
        schema: r#"{"type": "integer", "minimum": 1}"#,
        about: "Tokens of the answer at most",
        example: "16",
    },
    Field {
        name: "stop_sequences",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}"#,
        about: "Texts before which the answer ends",
        example: r#"["END"]"#,
    },
];

/// Fields that change no answer.
pub const HARMLESS: &[&str] = &["metadata", "service_tier"];

/// A block of a message's content.
#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        #[serde(default)]
        content: Option<Blocks>,
    },
}

/// Text, or blocks.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Blocks {
    Text(String),
    Blocks(Vec<Block>),
}

impl Blocks {
    /// The text of blocks that are nothing else.
    fn text(self, name: &str) -> Result<String, ApiError> {
        match self {
            Blocks::Text(text) => Ok(text),
            Blocks::Blocks(blocks) => {
                let text = |block| match block {
                    Block::Text { text } => Ok(text),
                    _ => Err(ApiError::field(name, "expected blocks of text, found another kind")),
                };
                Ok(blocks.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Given {
    role: Role,
    content: Blocks,
}

#[derive(serde::Deserialize)]
struct Tool {
    name: String,
    #[serde(default)]
    description: String,
    input_schema: Value,
}

/// Whether tools are called.
#[derive(serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Choice {
    Auto {
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    Any {
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    Tool {
        name: String,
        #[serde(default)]
        disable_parallel_tool_use: bool,
    },
    None {},
}

/// Takes the conversation of a request.
fn turn(fields: &mut Fields) -> Result<Turn, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take::<Blocks>("system")? {
        messages.push(Message::system(system.text("system")?));
    }
    for Given { role, content } in fields.require::<Vec<Given>>("messages")? {
        if !matches!(role, Role::User | Role::Assistant) {
            return Err(ApiError::field(
                "messages",
                format!("expected roles user and assistant, found {}", role.as_str()),
            ));
        }
        push(&mut messages, role, content)?;
    }
    let mut turn = Turn::new(Conversation::new(messages));
    let tool = |Tool { name, description, input_schema }: Tool| json!({"type": "function", "function": {"name": name, "description": description, "parameters": input_schema}});
    let tools: Vec<Tool> = fields.take("tools")?.unwrap_or_default();
    let (choice, one) = match fields.take("tool_choice")? {
        None => (ToolChoice::Auto, false),
        Some(Choice::Auto { disable_parallel_tool_use }) => (ToolChoice::Auto, disable_parallel_tool_use),
        Some(Choice::Any { disable_parallel_tool_use }) => (ToolChoice::Required, disable_parallel_tool_use),
        Some(Choice::Tool { name, disable_parallel_tool_use }) => (ToolChoice::Named(name), disable_parallel_tool_use),
        Some(Choice::None {}) => return Ok(turn),
    };
    turn.conversation.tools = tools.into_iter().map(tool).collect();
    Ok(Turn { tool_choice: choice, parallel: !one, ..turn })
}

/// A turn's blocks become one message, or several where it has results of tools.
fn push(messages: &mut Vec<Message>, role: Role, content: Blocks) -> Result<(), ApiError> {
    let blocks = match content {
        Blocks::Text(text) => {
            messages.push(Message::new(role, text));
            return Ok(());
        }
        Blocks::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::new();
    let mut tool_calls = Vec::new();
    for block in blocks {
        match block {
            Block::Text { text } => texts.push(text),
            Block::ToolUse { id, name, input } => tool_calls.push(ToolCall { id: Some(id), name, arguments: input }),
            Block::ToolResult { tool_use_id, content } => {
                let text = content.map_or(Ok(String::new()), |content| content.text("tool_result"))?;
                let result = Message::new(Role::Tool, Content::Text(text));
                messages.push(Message { tool_call_id: Some(tool_use_id), ..result });
            }
        }
    }
    if !texts.is_empty() || !tool_calls.is_empty() {
        messages.push(Message { tool_calls, ..Message::new(role, texts.join("\n")) });
    }
    Ok(())
}

/// Anthropic's words for why an answer ended, and the text that ended it.
fn stop_reason(reply: &Reply) -> (&'static str, Value) {
    match &reply.end {
        _ if !reply.tool_calls.is_empty() => ("tool_use", Value::Null),
        Some(Reason::StopText(text)) => ("stop_sequence", json!(text)),
        Some(Reason::Length | Reason::Tools) => ("max_tokens", Value::Null),
        Some(Reason::EndToken) | None => ("end_turn", Value::Null),
    }
}

fn tool_use(call: &ToolCall) -> Value {
    json!({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
}

fn usage(n_prompt: usize, reply: &Reply) -> Value {
    json!({
        "input_tokens": n_prompt - reply.cached,
        "cache_read_input_tokens": reply.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": reply.n_tokens,
    })
}

/// Answers a conversation.
pub async fn create(state: State<Arc<App>>, caller: Caller, body: Bytes) -> Response {
    answer(state, caller, body).await.unwrap_or_else(|error| error.with_body(&error.anthropic()))
}

async fn answer(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[CONVERSATION, FIELDS], HARMLESS)?;
    let adapter = app.asked(&mut fields)?;
    let mut sampling = app.model.sampling.clone();
    sampling.temperature = fields.take("temperature")?.unwrap_or(sampling.temperature);
    sampling.top_p = fields.take("top_p")?.unwrap_or(sampling.top_p);
    sampling.top_k = fields.integer("top_k", 0..=u64::from(u32::MAX))?.map_or(sampling.top_k, |k| k as usize);
    let max_tokens = fields.integer("max_tokens", 1..=u64::from(u32::MAX))?;
    let max_tokens = max_tokens.ok_or_else(|| ApiError::field("max_tokens", "expected a number, found none"))?;
    let stop = fields.stop_texts("stop_sequences")?;
    let stream = fields.take("stream")?.unwrap_or(false);
    let turn = turn(&mut fields)?;
    let tools = !turn.conversation.tools.is_empty();
    let (ids, constraint) = turn.prepare(&app).await?;
    let n_prompt = ids.len();
    let ask = Ask { max_tokens: Some(max_tokens as usize), stop, constraint, ..Ask::new(ids, sampling, adapter) };
    let mut pieces = answer::start(&app, caller, vec![ask])?;
    let (id, model) = (new_id("msg_"), app.name(adapter).to_owned());
    let message = move |content: Value, reason: Value, stop: Value, usage: Value| {
        json!({
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        })
    };
    if !stream {
        let reply = collect(&app, pieces, 1, tools).await?.remove(0);
        let text = (!reply.text.is_empty()).then(|| json!({"type": "text", "text": reply.text}));
        let content: Vec<Value> = text.into_iter().chain(reply.tool_calls.iter().map(tool_use)).collect();
        let (reason, stop) = stop_reason(&reply);
        return Ok(Json(message(content.into(), reason.into(), stop, usage(n_prompt, &reply))).into_response());
    }
    Ok(sse::stream(sse::EVENT_STREAM, move |events| async move {
        let begun = message(json!([]), Value::Null, Value::Null, usage(n_prompt, &Reply::default()));
        events.named("message_start", &json!({"type": "message_start", "message": begun})).await?;
        let mut assembly = Assembly::new(&app, tools);
        // Blocks come one after another; that of text begins with the first text.
        let mut index = 0;
        let mut in_text = false;
        while let Some((_, piece)) = pieces.recv().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return events.named("error", &error.anthropic()).await,
            };
            let (text, _) = assembly.push(piece);
            if text.is_empty() {
                continue;
            }
            if !in_text {
                in_text = true;
                let block = json!({"type": "text", "text": ""});
                let start = json!({"type": "content_block_start", "index": index, "content_block": block});
                events.named("content_block_start", &start).await?;
            }
            let delta = json!({"type": "text_delta", "text": text});
            let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.named("content_block_delta", &delta).await?;
        }
        if in_text {
            events.named("content_block_stop", &json!({"type": "content_block_stop", "index": index})).await?;
            index += 1;
        }
        let reply = assembly.finish();
        for call in &reply.tool_calls {
            let block = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
            let start = json!({"type": "content_block_start", "index": index, "content_block": block});
            events.named("content_block_start", &start).await?;
            let delta = json!({"type": "input_json_delta", "partial_json": call.arguments.to_string()});
            let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
            events.named("content_block_delta", &delta).await?;
            events.named("content_block_stop", &json!({"type": "content_block_stop", "index": index})).await?;
            index += 1;
        }
        let (reason, stop) = stop_reason(&reply);
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let end = json!({"type": "message_delta", "delta": delta, "usage": usage(n_prompt, &reply)});
        events.named("message_delta", &end).await?;
        events.named("message_stop", &json!({"type": "message_stop"})).await
    }))
}

/// How many tokens a request's conversation has.
pub async fn count_tokens(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let count = async {
        let mut fields = Fields::read(&body, &[CONVERSATION], HARMLESS)?;
        app.asked(&mut fields)?;
        Ok(turn(&mut fields)?.prompt(&app).await?.len())
    };
    match count.await {
        Ok(n) => Json(json!({"input_tokens": n})).into_response(),
        Err(error) => ApiError::with_body(&error, &error.anthropic()),
    }
}
