//! Ollama's `/api/chat`, `/api/generate`, `/api/embed`, `/api/tags`, `/api/show`, `/api/version`.

use crate::access::Caller;
use crate::answer::{self, Ask, Piece};
use crate::app::App;
use crate::chat::{Assembly, Turn};
use crate::constraint::compile;
use crate::embedding::{self, DIMENSIONS, Embedded, INPUT};
use crate::error::ApiError;
use crate::fields::{Field, Fields, MESSAGES, TOOLS, stop_texts};
use crate::time::Time;
use crate::{raw, sse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_engine::Sampling;
use puna_session::Grammar;
use puna_text::chat::{Conversation, Message};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Which model answers.
const MODEL: Field = Field {
    name: "model",
    schema: r#"{"type": "string"}"#,
    about: "The model's name, or an adapter's; :latest behind it is passed over",
    example: "null",
};

/// What `/api/chat` and `/api/generate` both take.
pub const BOTH: &[Field] = &[
    MODEL,
    Field {
        name: "stream",
        schema: r#"{"type": "boolean"}"#,
        about: "Sends the answer as lines of JSON while it is made; it does unless this is false",
        example: "false",
    },
    Field {
        name: "options",
        schema: r#"{"type": "object"}"#,
        about: "temperature, top_k, top_p, min_p, typical_p, repeat_penalty, frequency_penalty, presence_penalty, seed, stop, num_predict, num_ctx",
        example: r#"{"temperature": 0, "num_predict": 8, "stop": ["END"], "seed": 1}"#,
    },
    Field {
        name: "format",
        schema: r#"{"anyOf": [{"enum": ["", "json"]}, {"type": "object"}]}"#,
        about: "The answer is any JSON object, or JSON that fits this schema",
        example: r#"{"type": "integer"}"#,
    },
];

/// What `/api/chat` takes besides.
pub const CHAT: &[Field] = &[MESSAGES, TOOLS];

/// What `/api/generate` takes besides.
pub const GENERATE: &[Field] = &[
    Field { name: "prompt", schema: r#"{"type": "string"}"#, about: "What the person says", example: r#""Hello!""# },
    Field {
        name: "system",
        schema: r#"{"type": "string"}"#,
        about: "Instructions for the answer",
        example: r#""Be brief.""#,
    },
    Field {
        name: "raw",
        schema: r#"{"type": "boolean"}"#,
        about: "The prompt is gone on with as it is, without a chat format",
        example: "false",
    },
];

/// Fields that change no answer: the model is always there.
pub const HARMLESS: &[&str] = &["keep_alive"];

/// Options of Ollama that are of its own machine, and change no answer here.
const HARMLESS_OPTIONS: &[&str] = &["num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "numa", "num_keep"];

/// What Ollama's `options` ask for.
struct Options {
    sampling: Sampling,
    max_tokens: Option<usize>,
    stop: Vec<String>,
}

fn options(app: &App, fields: &mut Fields) -> Result<Options, ApiError> {
    let values: Map<String, Value> = fields.take("options")?.unwrap_or_default();
    let mut options = Options { sampling: app.model.sampling.clone(), max_tokens: None, stop: Vec::new() };
    let s = &mut options.sampling;
    for (name, value) in values {
        let field = format!("options.{name}");
        let wrong = |expected: &str| ApiError::field(&field, format!("expected {expected}, found {value}"));
        let number = || value.as_f64().map(|value| value as f32).ok_or_else(|| wrong("a number"));
        let integer = || value.as_i64().ok_or_else(|| wrong("a whole number"));
        match name.as_str() {
            "temperature" => s.temperature = number()?,
            "top_p" => s.top_p = number()?,
            "min_p" => s.min_p = number()?,
            "typical_p" => s.typical = number()?,
            "repeat_penalty" => s.repetition_penalty = number()?,
            "frequency_penalty" => s.frequency_penalty = number()?,
            "presence_penalty" => s.presence_penalty = number()?,
            "top_k" => s.top_k = usize::try_from(integer()?).map_err(|_| wrong("0 or more"))?,
            "seed" => s.seed = Some(integer()? as u64),
            // A negative number is no limit.
            "num_predict" => options.max_tokens = usize::try_from(integer()?).ok(),
            "num_ctx" => {
                let context = app.model.service.context();
                if usize::try_from(integer()?).map_or(true, |found| found > context) {
                    return Err(wrong(&format!("at most {context}, the context of this server")));
                }
            }
            "stop" => options.stop = stop_texts(&field, value)?,
            name if HARMLESS_OPTIONS.contains(&name) => {}
            _ => return Err(ApiError::field(&field, "this server has no such setting; leave it out")),
        }
    }
    // Ranges are the engine's to know, which has names of its own.
    options.sampling.check(app.model.tokenizer.vocab_size()).map_err(|error| match error {
        puna_engine::Error::Parameter { name, expected, found } => {
            let name = match name {
                "typical" => "typical_p",
                "repetition_penalty" => "repeat_penalty",
                name => name,
            };
            ApiError::field(&format!("options.{name}"), format!("expected {expected}, found {found}"))
        }
        error => error.into(),
    })?;
    Ok(options)
}

/// The adapter that a request asks for, by either name of the field.
fn adapter(app: &App, fields: &mut Fields, names: &[&str]) -> Result<Option<u32>, ApiError> {
    let mut asked = None;
    for name in names {
        asked = asked.or(fields.take::<String>(name)?);
    }
    app.adapter(asked.as_deref().map(|name| name.strip_suffix(":latest").unwrap_or(name)))
}

/// Takes what the answer is to look like.
fn format(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    match fields.take::<Value>("format")? {
        None => Ok(None),
        Some(Value::String(format)) if format.is_empty() => Ok(None),
        Some(Value::String(format)) if format == "json" => Ok(Some(Grammar::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(Some(Grammar::JsonSchema(schema))),
        Some(other) => Err(ApiError::field("format", format!("expected \"json\" or a schema, found {other}"))),
    }
}

/// An answer under way: in which member of the lines its text goes, and how it is asked for.
struct Job {
    member: &'static str,
    ask: Ask,
    tools: bool,
    stream: bool,
}

/// Answers a conversation.
pub async fn chat(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Response {
    let job = async {
        let mut fields = Fields::read(&body, &[BOTH, CHAT], HARMLESS)?;
        let adapter = adapter(&app, &mut fields, &["model"])?;
        let options = options(&app, &mut fields)?;
        let stream = fields.take("stream")?.unwrap_or(true);
        let mut conversation = Conversation::new(fields.require::<Vec<Message>>("messages")?);
        conversation.tools = fields.tools()?;
        let tools = !conversation.tools.is_empty();
        let grammar = format(&mut fields)?;
        let (ids, constraint) = Turn { grammar, ..Turn::new(conversation) }.prepare(&app).await?;
        Ok(Job { member: "message", ask: Ask { constraint, ..ask(ids, options, adapter) }, tools, stream })
    };
    run(&app, caller, job.await).await
}

/// Answers one prompt.
pub async fn generate(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Response {
    let job = async {
        let mut fields = Fields::read(&body, &[BOTH, GENERATE], HARMLESS)?;
        let adapter = adapter(&app, &mut fields, &["model"])?;
        let options = options(&app, &mut fields)?;
        let stream = fields.take("stream")?.unwrap_or(true);
        let text: String = fields.require("prompt")?;
        let system: Option<String> = fields.take("system")?;
        let grammar = format(&mut fields)?;
        let (ids, constraint) = if fields.take("raw")?.unwrap_or(false) {
            if system.is_some() {
                return Err(ApiError::field("system", "expected none beside raw, which has no chat format"));
            }
            let tokenizer = app.model.tokenizer.clone();
            let ids = raw::aside(move || raw::encode(&tokenizer, &text)).await?;
            (ids, compile(&app, grammar).await?)
        } else {
            let messages = system.map(Message::system).into_iter().chain([Message::user(text)]);
            Turn { grammar, ..Turn::new(Conversation::new(messages.collect())) }.prepare(&app).await?
        };
        Ok(Job { member: "response", ask: Ask { constraint, ..ask(ids, options, adapter) }, tools: false, stream })
    };
    run(&app, caller, job.await).await
}

fn ask(prompt: Vec<u32>, options: Options, adapter: Option<u32>) -> Ask {
    Ask { max_tokens: options.max_tokens, stop: options.stop, ..Ask::new(prompt, options.sampling, adapter) }
}

async fn run(app: &Arc<App>, caller: Caller, job: Result<Job, ApiError>) -> Response {
    answer(app, caller, job).await.unwrap_or_else(|error| error.with_body(&error.ollama()))
}

async fn answer(app: &Arc<App>, caller: Caller, job: Result<Job, ApiError>) -> Result<Response, ApiError> {
    let Job { member, ask, tools, stream } = job?;
    let start = Instant::now();
    let (n_prompt, model) = (ask.prompt.len(), app.name(ask.adapter).to_owned());
    let mut pieces = answer::start(app, caller, vec![ask])?;
    let line = move |text: &str, calls: Vec<Value>| {
        let mut said = json!(text);
        if member == "message" {
            said = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                said["tool_calls"] = calls.into();
            }
        }
        json!({"model": model, "created_at": Time::now().rfc3339(), member: said, "done": false})
    };
    let app = app.clone();
    let mut begun = None;
    let end = move |assembly: Assembly<'_>,
                    begun: Option<Instant>,
                    text: &str,
                    line: &dyn Fn(&str, Vec<Value>) -> Value| {
        let reply = assembly.finish();
        let calls =
            reply.tool_calls.iter().map(|call| json!({"function": {"name": call.name, "arguments": call.arguments}}));
        let mut last = line(text, calls.collect());
        let (now, begun) = (Instant::now(), begun.unwrap_or(start));
        let nanoseconds = |from: Instant, to: Instant| (to - from).as_nanos() as u64;
        last["done"] = true.into();
        last["done_reason"] = reply.end.as_ref().map_or("stop", |reason| reason.openai()).into();
        last["total_duration"] = nanoseconds(start, now).into();
        last["load_duration"] = 0.into();
        last["prompt_eval_count"] = n_prompt.into();
        last["prompt_eval_duration"] = nanoseconds(start, begun).into();
        last["eval_count"] = reply.n_tokens.into();
        last["eval_duration"] = nanoseconds(begun, now).into();
        last
    };
    if !stream {
        let mut assembly = Assembly::new(&app, tools);
        let mut whole = String::new();
        while let Some((_, piece)) = pieces.recv().await {
            let piece = piece?;
            if matches!(piece, Piece::Begun { .. }) {
                begun = Some(Instant::now());
            }
            whole += &assembly.push(piece).0;
        }
        return Ok(Json(end(assembly, begun, &whole, &line)).into_response());
    }
    Ok(sse::stream(sse::JSON_LINES, move |events| async move {
        let mut assembly = Assembly::new(&app, tools);
        while let Some((_, piece)) = pieces.recv().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return events.line(&error.ollama()).await,
            };
            if matches!(piece, Piece::Begun { .. }) {
                begun = Some(Instant::now());
            }
            let (text, _) = assembly.push(piece);
            if !text.is_empty() {
                events.line(&line(&text, Vec::new())).await?;
            }
        }
        events.line(&end(assembly, begun, "", &line)).await
    }))
}

/// Fields of `/api/embed`.
pub const EMBED: &[Field] = &[
    MODEL,
    INPUT,
    Field {
        name: "truncate",
        schema: r#"{"enum": [false]}"#,
        about: "Whether what does not fit the context is cut; it is always refused",
        example: "false",
    },
    DIMENSIONS,
];

/// The answer of `/api/embed`.
#[derive(Serialize)]
struct Embeddings<'a> {
    model: &'a str,
    embeddings: Vec<Vec<f32>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

/// Makes vectors of texts.
pub async fn embed(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Response {
    let embedded = async {
        let start = Instant::now();
        let mut fields = Fields::read(&body, &[EMBED], HARMLESS)?;
        let adapter = adapter(&app, &mut fields, &["model"])?;
        if fields.take("truncate")?.unwrap_or(false) {
            return Err(ApiError::field("truncate", "expected false: this server cuts no text"));
        }
        let prompts = embedding::take(&app, &mut fields).await?;
        let Embedded { vectors, n_tokens } = embedding::embed(&app, caller, &prompts, adapter).await?;
        Ok(Json(Embeddings {
            model: app.name(adapter),
            embeddings: vectors,
            total_duration: start.elapsed().as_nanos() as u64,
            load_duration: 0,
            prompt_eval_count: n_tokens,
        })
        .into_response())
    };
    embedded.await.unwrap_or_else(|error: ApiError| error.with_body(&error.ollama()))
}

/// What there is to say of a model in a list.
fn details(app: &App) -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": app.model.about.parameters(),
        "quantization_level": app.model.about.format,
    })
}

/// The model and its adapters.
pub async fn tags(State(app): State<Arc<App>>, caller: Caller) -> Json<Value> {
    let model = |name: &str| {
        json!({
            "name": name,
            "model": name,
            "modified_at": app.started.rfc3339(),
            "size": app.model.about.n_bytes,
            "digest": "",
            "details": details(&app),
        })
    };
    let models: Vec<Value> = app.names().filter(|name| caller.may_use(name)).map(model).collect();
    Json(json!({"models": models}))
}

/// Fields of `/api/show`.
pub const SHOW: &[Field] = &[
    Field { name: "model", schema: r#"{"type": "string"}"#, about: "The model's name", example: "null" },
    Field { name: "name", schema: r#"{"type": "string"}"#, about: "The older name of model", example: "null" },
    Field { name: "verbose", schema: r#"{"type": "boolean"}"#, about: "Tells no more and no less", example: "false" },
];

/// What there is to say of a model.
pub async fn show(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let shown = (|| {
        let mut fields = Fields::read(&body, &[SHOW], &[])?;
        adapter(&app, &mut fields, &["model", "name"])?;
        fields.take::<bool>("verbose")?;
        Ok(Json(json!({
            "modelfile": "",
            "parameters": "",
            "template": app.model.format.describe(),
            "details": details(&app),
            "model_info": {
                "general.architecture": "llama",
                "general.parameter_count": app.model.about.n_parameters,
                "llama.context_length": app.model.service.context(),
            },
            "capabilities": ["completion", "tools"],
        })))
    })();
    match shown {
        Ok(json) => json.into_response(),
        Err(error) => ApiError::with_body(&error, &error.ollama()),
    }
}

/// The program's version.
pub async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}
