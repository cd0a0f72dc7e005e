//! OpenAI's `/v1/responses`: answers that are stored, so that a request may go on from one, or that are not.

mod items;
mod output;

use crate::access::Caller;
use crate::answer::{Ask, Pieces, Reason};
use crate::app::{App, new_id};
use crate::builtin::{BRAVE_SEARCH, CODE_INTERPRETER, WOLFRAM_ALPHA};
use crate::chat::{Reply, Turn};
use crate::database;
use crate::error::ApiError;
use crate::fields::{Field, Fields, MODEL, PARALLEL_TOOL_CALLS, STREAM};
use crate::keys::KeyId;
use crate::responses::{self, Response as Stored};
use crate::sampling::{self, SAMPLING};
use crate::time::Time;
use crate::{rounds, sse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use output::Output;
use puna_session::{Grammar, ToolChoice};
use puna_text::chat::{Conversation, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The endpoint's own fields.
pub const FIELDS: &[Field] = &[
    MODEL,
    Field {
        name: "input",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}"#,
        about: "What is said: a text, or items: messages, function_call, function_call_output, and what an answer had",
        example: r#""Hello!""#,
    },
    Field {
        name: "instructions",
        schema: r#"{"type": "string"}"#,
        about: "Instructions for this answer; a later one does not have them from here",
        example: r#""Be brief.""#,
    },
    Field {
        name: "previous_response_id",
        schema: r#"{"type": "string"}"#,
        about: "The stored response from which the conversation goes on",
        example: "null",
    },
    Field {
        name: "store",
        schema: r#"{"type": "boolean"}"#,
        about: "Whether the response is stored; it is unless this is false",
        example: "false",
    },
    STREAM,
    Field {
        name: "text",
        schema: r#"{"type": "object", "properties": {"format": {"type": "object"}}}"#,
        about: "format: {\"type\": \"text\"}, \"json_object\", or \"json_schema\" with a name and a schema, which the answer fits",
        example: r#"{"format": {"type": "text"}}"#,
    },
    Field {
        name: "tools",
        schema: r#"{"type": "array", "items": {"type": "object"}}"#,
        about: "Functions that the model may call; and code_interpreter, web_search, wolfram_alpha, which the server runs where \
                its operator turned them on",
        example: r#"[{"type": "function", "name": "now", "description": "The time", "parameters": {"type": "object",
            "properties": {}}}]"#,
    },
    Field {
        name: "tool_choice",
        schema: r#"{"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object"}]}"#,
        about: "Whether a tool may be called, can't, or must; or which one: {\"type\": \"function\", \"name\": …}",
        example: r#""auto""#,
    },
    PARALLEL_TOOL_CALLS,
    Field {
        name: "max_tool_calls",
        schema: r#"{"type": "integer", "minimum": 1, "maximum": 8}"#,
        about: "Tools that the server runs for the answer at most",
        example: "2",
    },
    Field {
        name: "max_output_tokens",
        schema: r#"{"type": "integer", "minimum": 1}"#,
        about: "Tokens of the answer at most, calls of tools among them; as many as the context has room for without it",
        example: "16",
    },
    Field {
        name: "top_logprobs",
        schema: r#"{"type": "integer", "minimum": 0, "maximum": 20}"#,
        about: "Tells so many of the most probable tokens with each; needs message.output_text.logprobs in include",
        example: "null",
    },
    Field {
        name: "include",
        schema: r#"{"type": "array", "items": {"enum": ["message.output_text.logprobs", "code_interpreter_call.outputs"]}}"#,
        about: "What is told besides: log-probabilities; what code printed is told in any case",
        example: r#"["message.output_text.logprobs"]"#,
    },
    Field {
        name: "truncation",
        schema: r#"{"enum": ["disabled"]}"#,
        about: "A conversation that does not fit the context is refused, and never cut",
        example: r#""disabled""#,
    },
    Field {
        name: "background",
        schema: r#"{"enum": [false]}"#,
        about: "No response is made in the background",
        example: "false",
    },
    Field {
        name: "metadata",
        schema: r#"{"type": "object", "additionalProperties": {"type": "string"}}"#,
        about: "Kept with the response: up to 16 texts of up to 512 characters, by names of up to 64",
        example: r#"{"topic": "llamas"}"#,
    },
];

/// Fields that change no answer.
const HARMLESS: &[&str] =
    &["user", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "stream_options"];

/// How the text is to look.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Text {
    format: Option<Value>,
}

/// A tool that is offered.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Tool {
    Function {
        name: String,
        #[serde(default)]
        description: Option<String>,
        #[serde(default)]
        parameters: Value,
        /// Arguments always fit the schema.
        #[serde(rename = "strict")]
        _strict: Option<bool>,
    },
    CodeInterpreter {
        #[serde(rename = "container")]
        _container: Option<Container>,
    },
    #[serde(alias = "web_search_preview")]
    WebSearch {},
    WolframAlpha {},
}

/// Where code runs: in a container that is made for it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Container {
    Auto {},
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Choice {
    Function {
        name: String,
    },
    CodeInterpreter {},
    #[serde(alias = "web_search_preview")]
    WebSearch {},
    WolframAlpha {},
}

/// Takes the format of the answer, if it has one.
fn format(fields: &mut Fields) -> Result<(Value, Option<Grammar>), ApiError> {
    let given = fields.take::<Value>("text")?.unwrap_or_else(|| json!({}));
    let text = Text::deserialize(given).map_err(|error| ApiError::field("text", error))?;
    let format = text.format.unwrap_or_else(|| json!({"type": "text"}));
    let grammar = Grammar::from_text_format(&format).map_err(|error| ApiError::field("text", error))?;
    Ok((json!({ "format": format }), grammar))
}

/// Functions in the shape of a conversation's, and Llama's own tools by name.
fn offered(app: &App, given: &[Value]) -> Result<(Vec<Value>, Vec<String>), ApiError> {
    let (mut functions, mut builtin) = (Vec::new(), Vec::new());
    for (idx, tool) in given.iter().enumerate() {
        let wrong = |error: serde_json::Error| ApiError::field("tools", format!("tool {idx}: {error}"));
        let own = match Tool::deserialize(tool).map_err(wrong)? {
            Tool::Function { name, description, parameters, .. } => {
                let mut function = json!({"name": name});
                if let Some(description) = description {
                    function["description"] = description.into();
                }
                function["parameters"] = parameters;
                functions.push(json!({"type": "function", "function": function}));
                continue;
            }
            Tool::CodeInterpreter { .. } => CODE_INTERPRETER,
            Tool::WebSearch {} => BRAVE_SEARCH,
            Tool::WolframAlpha {} => WOLFRAM_ALPHA,
        };
        builtin.push(own.to_owned());
    }
    app.tools.check("tools", &builtin)?;
    Ok((functions, builtin))
}

/// Whether tools are called; none where they are not to be offered.
fn tool_choice(given: &Value) -> Result<Option<ToolChoice>, ApiError> {
    Ok(match given.as_str() {
        Some("auto") => Some(ToolChoice::Auto),
        Some("none") => None,
        Some("required") => Some(ToolChoice::Required),
        _ => {
            let choice = Choice::deserialize(given).map_err(|error| ApiError::field("tool_choice", error))?;
            Some(ToolChoice::Named(match choice {
                Choice::Function { name } => name,
                Choice::CodeInterpreter {} => CODE_INTERPRETER.to_owned(),
                Choice::WebSearch {} => BRAVE_SEARCH.to_owned(),
                Choice::WolframAlpha {} => WOLFRAM_ALPHA.to_owned(),
            }))
        }
    })
}

/// Takes what is kept with a response.
fn metadata(fields: &mut Fields) -> Result<Value, ApiError> {
    let metadata: Map<String, Value> = fields.take("metadata")?.unwrap_or_default();
    let fits = |(name, value): (&String, &Value)| {
        name.chars().count() <= 64 && value.as_str().is_some_and(|value| value.chars().count() <= 512)
    };
    if metadata.len() > 16 || !metadata.iter().all(fits) {
        let message = "expected at most 16 texts of at most 512 characters, by names of at most 64";
        return Err(ApiError::field("metadata", message));
    }
    Ok(metadata.into())
}

/// A number as it was given, without the digits that `f32` adds.
fn shown(number: f32) -> Value {
    ((f64::from(number) * 1e6).round() / 1e6).into()
}

/// A response that is being made.
struct Job {
    app: Arc<App>,
    owner: Option<KeyId>,
    /// What is settled before the answer.
    frame: Value,
    /// The input's items, to be stored; none where the response is not.
    stored: Option<Vec<Value>>,
    logprobs: bool,
    tools: bool,
    n_prompt: usize,
    pieces: Pieces,
}

impl Job {
    /// Reads a request and begins to answer it.
    async fn begin(app: Arc<App>, caller: Caller, fields: &mut Fields) -> Result<Job, ApiError> {
        let adapter = app.asked(fields)?;
        let sampling = sampling::take(fields, &app.model.sampling)?;
        let max_tokens = fields.integer("max_output_tokens", 1..=u64::from(u32::MAX))?;
        let max_calls = fields.integer("max_tool_calls", 1..=rounds::MAX_CALLS as u64)?;
        let top = fields.integer("top_logprobs", 0..=20)?;
        let include: Vec<String> = fields.take("include")?.unwrap_or_default();
        let known = ["message.output_text.logprobs", "code_interpreter_call.outputs"];
        if let Some(other) = include.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(ApiError::field("include", format!("expected {}, found {other:?}", known.join(" or "))));
        }
        let logprobs = include.iter().any(|name| name == known[0]);
        if top.is_some_and(|top| top > 0) && !logprobs {
            return Err(ApiError::field("top_logprobs", format!("expected {:?} in include beside it", known[0])));
        }
        if fields.take::<String>("truncation")?.is_some_and(|truncation| truncation != "disabled") {
            return Err(ApiError::field("truncation", "expected \"disabled\": this server cuts no conversation"));
        }
        if fields.take("background")?.unwrap_or(false) {
            return Err(ApiError::field(
                "background",
                "expected false: this server makes no response in the background",
            ));
        }
        let metadata = metadata(fields)?;
        let (text, grammar) = format(fields)?;
        let instructions: Option<String> = fields.take("instructions")?;
        let previous: Option<String> = fields.take("previous_response_id")?;
        let store = fields.take("store")?;
        if store == Some(true) && app.access.store().is_none() {
            return Err(ApiError::field("store", "expected false: this server has no database"));
        }
        let store = store.unwrap_or(app.access.store().is_some());
        let owner = caller.key().cloned();
        let given_tools = fields.tools()?;
        let (functions, builtin) = offered(&app, &given_tools)?;
        let given_choice = fields.take::<Value>("tool_choice")?.unwrap_or_else(|| "auto".into());
        let choice = tool_choice(&given_choice)?;
        let parallel = fields.take(PARALLEL_TOOL_CALLS.name)?.unwrap_or(true);

        let input = items::listed(fields.require("input")?)?;
        let new = items::read("input", &input)?;
        let offered = if choice.is_some() { builtin } else { Vec::new() };
        let mut said = Vec::new();
        if let Some(id) = &previous {
            for earlier in earlier(&app, owner.clone(), id.clone()).await? {
                let input: &[Value] = earlier.input.as_array().map_or(&[], Vec::as_slice);
                let output: &[Value] = earlier.output["output"].as_array().map_or(&[], Vec::as_slice);
                said.extend(items::read("previous_response_id", input)?);
                said.extend(items::read("previous_response_id", output)?);
            }
        }
        said.extend(new);
        if said.is_empty() {
            return Err(ApiError::field("input", "expected an item, found none"));
        }
        let mut messages: Vec<Message> = instructions.iter().map(Message::system).collect();
        messages.extend(items::messages(&said, &offered)?);
        let mut conversation = Conversation::new(messages);
        if choice.is_some() {
            conversation.tools = functions;
            conversation.builtin_tools = Some(offered).filter(|tools| !tools.is_empty());
        }
        let turn = Turn {
            // An answer is a message of its own here.
            continues: Some(false),
            tool_choice: choice.unwrap_or_default(),
            parallel,
            grammar,
            ..Turn::new(conversation)
        };
        let tools = turn.offers_tools();
        let frame = json!({
            "id": new_id("resp_"),
            "object": "response",
            "created_at": Time::now().seconds(),
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": instructions,
            "max_output_tokens": max_tokens,
            "max_tool_calls": max_calls,
            "model": app.name(adapter),
            "output": [],
            "parallel_tool_calls": parallel,
            "previous_response_id": previous,
            "store": store,
            "temperature": shown(sampling.temperature),
            "text": text,
            "tool_choice": given_choice,
            "tools": given_tools,
            "top_logprobs": top.unwrap_or(0),
            "top_p": shown(sampling.top_p),
            "truncation": "disabled",
            "usage": null,
            "metadata": metadata,
        });
        let ask = Ask {
            max_tokens: max_tokens.map(|n| n as usize),
            top: top.unwrap_or(0) as usize,
            ..Ask::new(Vec::new(), sampling, adapter)
        };
        let max_calls = max_calls.map_or(rounds::MAX_CALLS, |n| n as usize);
        let (n_prompt, pieces) = rounds::start(&app, caller, turn, ask, 1, max_calls).await?;
        Ok(Job { app, owner, frame, stored: store.then_some(input), logprobs, tools, n_prompt, pieces })
    }

    /// Makes the response, stores it if it is to be, and gives it; a stream is told of each step.
    async fn work(self, events: Option<&sse::Events>) -> Result<Result<Value, ApiError>, sse::Gone> {
        let Job { app, owner, frame, stored, logprobs, tools, n_prompt, pieces } = self;
        let mut output = Output::new(&app, events, logprobs);
        for kind in ["response.created", "response.in_progress"] {
            output.tell(kind, json!({ "response": frame })).await?;
        }
        let made = match output.make(pieces, tools).await? {
            Ok(reply) => {
                let mut response = finished(frame.clone(), output.items(), n_prompt, &reply);
                // The answer is there, and paid for; what it went on from may have been deleted meanwhile.
                if keep(&app, owner, stored, &response).await.is_err() {
                    response["store"] = false.into();
                }
                Ok(response)
            }
            Err(error) => Err(error),
        };
        match &made {
            Ok(response) => {
                let kind = format!("response.{}", response["status"].as_str().unwrap_or_default());
                output.tell(&kind, json!({ "response": response })).await?;
            }
            Err(error) => {
                let mut response = frame;
                response["status"] = "failed".into();
                response["output"] = output.items().into();
                response["error"] = json!({"code": error.code(), "message": error.message()});
                output.tell("response.failed", json!({ "response": response })).await?;
            }
        }
        Ok(made)
    }
}

/// The response with its end.
fn finished(mut response: Value, output: &[Value], n_prompt: usize, reply: &Reply) -> Value {
    let n_input = n_prompt + reply.n_further;
    let reason = match reply.end {
        Some(Reason::Length) => Some("max_output_tokens"),
        Some(Reason::Tools) => Some("max_tool_calls"),
        _ => None,
    };
    response["status"] = if reason.is_some() { "incomplete" } else { "completed" }.into();
    if let Some(reason) = reason {
        response["incomplete_details"] = json!({ "reason": reason });
    }
    response["output"] = output.into();
    response["usage"] = json!({
        "input_tokens": n_input,
        "input_tokens_details": {"cached_tokens": reply.cached},
        "output_tokens": reply.n_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n_input + reply.n_tokens,
    });
    response
}

/// Stores a response with its input, if there is one to be stored.
async fn keep(app: &App, owner: Option<KeyId>, input: Option<Vec<Value>>, response: &Value) -> Result<(), ApiError> {
    let (Some(input), Some(store)) = (input, app.access.store()) else { return Ok(()) };
    let text = |name: &str| response[name].as_str().map(str::to_owned);
    let stored = Stored {
        id: text("id").unwrap_or_default(),
        created: Time::now(),
        previous: text("previous_response_id"),
        input: input.into(),
        output: response.clone(),
    };
    Ok(store.call(move |database| responses::add(database, owner.as_ref(), &stored)).await?)
}

/// A response and all from which it went on.
async fn earlier(app: &App, owner: Option<KeyId>, id: String) -> Result<Vec<Stored>, ApiError> {
    let Some(store) = app.access.store() else { return Err(ApiError::field("previous_response_id", no_store(&id))) };
    let chain = store.call(move |database| responses::chain(database, owner.as_ref(), &id)).await;
    chain.map_err(|error| match error {
        error @ (database::Error::NotFound { .. } | database::Error::Invalid { .. }) => {
            ApiError::field("previous_response_id", error)
        }
        error => error.into(),
    })
}

/// What is asked of a server that stores nothing.
fn no_store(id: &str) -> database::Error {
    database::Error::NotFound { what: "response", id: id.to_owned() }
}

/// Answers.
pub async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS, SAMPLING], HARMLESS)?;
    let stream = fields.take("stream")?.unwrap_or(false);
    let job = Job::begin(app, caller, &mut fields).await?;
    if stream {
        return Ok(sse::stream(
            sse::EVENT_STREAM,
            move |events| async move { job.work(Some(&events)).await.map(|_| ()) },
        ));
    }
    match job.work(None).await {
        Ok(response) => Ok(Json(response?).into_response()),
        Err(sse::Gone) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "nobody listens")),
    }
}

/// A stored response of the asker's.
async fn stored(app: &App, caller: &Caller, id: String) -> Result<Stored, ApiError> {
    let store = app.access.store().ok_or_else(|| no_store(&id))?;
    let owner = caller.key().cloned();
    Ok(store.call(move |database| responses::read(database, owner.as_ref(), &id)).await?)
}

/// The parameters of a query, of which only these are known.
fn query(parts: &Parts, known: &[&str]) -> Result<Map<String, Value>, ApiError> {
    let pairs = parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut query = Map::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&name) {
            return Err(ApiError::field(name, "this server has no such parameter; leave it out"));
        }
        query.insert(name.to_owned(), value.into());
    }
    Ok(query)
}

/// Gives a stored response.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    query(&parts, &[])?;
    Ok(Json(stored(&app, &caller, id).await?.output))
}

/// Deletes a stored response. Those that went on from it can't be gone on from any more.
pub async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let store = app.access.store().ok_or_else(|| no_store(&id))?;
    let (owner, name) = (caller.key().cloned(), id.clone());
    store.call(move |database| responses::delete(database, owner.as_ref(), &name)).await?;
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

/// Lists the items of a stored response's input, the newest first.
pub async fn input_items(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
    parts: Parts,
) -> Result<Json<Value>, ApiError> {
    let query = query(&parts, &["order", "limit", "after"])?;
    let text = |name: &str| query.get(name).and_then(Value::as_str);
    let limit = text("limit").map_or(Some(20), |limit| limit.parse().ok().filter(|limit| (1..=100).contains(limit)));
    let limit = limit.ok_or_else(|| ApiError::field("limit", "expected a whole number from 1 to 100"))?;
    let Value::Array(mut items) = stored(&app, &caller, id).await?.input else { return Ok(Json(Value::Null)) };
    match text("order") {
        None | Some("desc") => items.reverse(),
        Some("asc") => {}
        Some(other) => return Err(ApiError::field("order", format!("expected asc or desc, found {other:?}"))),
    }
    if let Some(after) = text("after") {
        let at = items.iter().position(|item| item["id"] == after);
        let at = at.ok_or_else(|| ApiError::field("after", format!("there is no item {after:?} in this list")))?;
        items.drain(..=at);
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
    Ok(Json(json!({
        "object": "list",
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": more,
        "data": items,
    })))
}

/// Refuses: what could be cancelled is a response in the background, and none is made there.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    stored(&app, &caller, id).await?;
    let message = "only a response that is made in the background can be cancelled, and this server makes none there";
    Err(ApiError::new(StatusCode::BAD_REQUEST, "not_in_background", message))
}
