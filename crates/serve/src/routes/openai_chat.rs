//! OpenAI's `/v1/chat/completions`.

use super::openai::{BOTH, Common, HARMLESS, usage};
use crate::access::Caller;
use crate::answer::{Ask, Piece};
use crate::app::{App, new_id};
use crate::builtin::{Call, Outcome, Step};
use crate::chat::{Assembly, Reply, Turn, collect};
use crate::constraint::CONSTRAINT;
use crate::error::ApiError;
use crate::fields::{
    ADD_GENERATION_PROMPT, CONTINUE_FINAL_MESSAGE, Field, Fields, MESSAGES, PARALLEL_TOOL_CALLS, TOOLS,
};
use crate::sampling::SAMPLING;
use crate::time::Time;
use crate::{logprobs, rounds, sse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_session::ToolChoice;
use puna_text::chat::{Conversation, Message};
use serde_json::{Value, json};
use std::sync::Arc;

/// The endpoint's own fields.
pub const FIELDS: &[Field] = &[
    MESSAGES,
    TOOLS,
    CONTINUE_FINAL_MESSAGE,
    ADD_GENERATION_PROMPT,
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
        name: "tool_choice",
        schema: r#"{"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object"}]}"#,
        about: "Whether a tool may be called, can't, or must; or which one: {\"type\": \"function\", \"function\": {\"name\": …}}",
        example: r#""auto""#,
    },
    PARALLEL_TOOL_CALLS,
    Field {
        name: "builtin_tools",
        schema: r#"{"type": "array", "items": {"enum": ["code_interpreter", "brave_search", "wolfram_alpha"]}}"#,
        about: "Llama's own tools that the server runs for the answer, where its operator turned them on; the message's \
                builtin_tool_calls tell what was run",
        example: "[]",
    },
];

/// Takes the number of tokens that an answer may have, under either name.
fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let most = u64::from(u32::MAX);
    let older = fields.integer("max_tokens", 0..=most)?;
    Ok(fields.integer("max_completion_tokens", 0..=most)?.or(older).map(|n| n as usize))
}

/// Takes whether tools are called; none where they are not to be offered.
fn tool_choice(fields: &mut Fields) -> Result<Option<ToolChoice>, ApiError> {
    let Some(choice) = fields.take::<Value>("tool_choice")? else { return Ok(Some(ToolChoice::Auto)) };
    Ok(match choice.as_str() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => None,
        Some("required") => Some(ToolChoice::Required),
        _ => match (choice["type"].as_str(), choice["function"]["name"].as_str()) {
            (Some("function"), Some(name)) => Some(ToolChoice::Named(name.to_owned())),
            _ => {
                let message = "expected \"auto\", \"none\", \"required\" or the name of a function";
                return Err(ApiError::field("tool_choice", format!("{message}, found {choice}")));
            }
        },
    })
}

/// Answers a conversation.
pub async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS, BOTH, CONSTRAINT, SAMPLING], HARMLESS)?;
    let Common { ask, grammar, n, stream, include_usage } = Common::take(&app, &mut fields)?;
    let max_tokens = max_tokens(&mut fields)?;
    let logprobs = fields.take("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=20)?;
    if top.is_some() && !logprobs {
        return Err(ApiError::field("top_logprobs", "expected logprobs: true beside it"));
    }
    let continues = fields.take("continue_final_message")?;
    let mut conversation = Conversation::new(fields.require::<Vec<Message>>("messages")?);
    let tools = fields.tools()?;
    let builtin_tools: Vec<String> = fields.take("builtin_tools")?.unwrap_or_default();
    app.tools.check("builtin_tools", &builtin_tools)?;
    let tool_choice = tool_choice(&mut fields)?;
    if tool_choice.is_some() {
        conversation.tools = tools;
        conversation.builtin_tools = Some(builtin_tools).filter(|tools| !tools.is_empty());
    }
    conversation.add_generation_prompt = fields.take("add_generation_prompt")?.unwrap_or(true);
    let turn = Turn {
        continues,
        tool_choice: tool_choice.unwrap_or_default(),
        parallel: fields.take(PARALLEL_TOOL_CALLS.name)?.unwrap_or(true),
        grammar,
        ..Turn::new(conversation)
    };
    let tools = turn.offers_tools();
    let (adapter, top) = (ask.adapter, top.unwrap_or(0) as usize);
    let ask = Ask { max_tokens, top, ..ask };
    let (n_prompt, mut pieces) = rounds::start(&app, caller, turn, ask, n, rounds::MAX_CALLS).await?;
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
            if !reply.runs.is_empty() {
                let run = |(call, outcome): &(Call, Outcome)| builtin_call(call, Some(outcome));
                message["builtin_tool_calls"] = reply.runs.iter().map(run).collect();
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
            "usage": count(n_prompt, &replies),
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
            if let Some(run) = told(&piece, &answers[index]) {
                events.data(&delta(index, json!({"builtin_tool_calls": [run]}), Value::Null, Value::Null)).await?;
            }
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
        if include_usage {
            let mut last = chunk(json!([]));
            last["usage"] = count(n_prompt, &replies);
            events.data(&last).await?;
        }
        events.done().await
    }))
}

/// A call that the server runs or has run.
fn builtin_call(call: &Call, outcome: Option<&Outcome>) -> Value {
    json!({
        "id": call.id,
        "type": call.tool,
        "arguments": call.arguments(),
        "status": outcome.map_or("in_progress", |outcome| outcome.status.as_str()),
        "output": outcome.map(|outcome| &outcome.output),
    })
}

/// What a stream tells of a tool: the call when it begins, and again with what came of it.
fn told(piece: &Piece, answer: &Assembly<'_>) -> Option<Value> {
    let (call, outcome) = match piece {
        Piece::Tool(Step::Called(call)) => (call, None),
        Piece::Tool(Step::Ran(outcome)) => (answer.running()?, Some(outcome)),
        _ => return None,
    };
    let mut told = builtin_call(call, outcome);
    told["index"] = answer.n_runs().into();
    Some(told)
}

/// Tokens of the prompt, and of all answers to it.
fn count(n_prompt: usize, replies: &[Reply]) -> Value {
    let cached = replies.iter().map(|reply| reply.cached).max().unwrap_or(0);
    let n_further: usize = replies.iter().map(|reply| reply.n_further).sum();
    usage(n_prompt + n_further, replies.iter().map(|reply| reply.n_tokens).sum(), cached)
}
