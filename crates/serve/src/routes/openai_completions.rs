//! OpenAI's `/v1/completions`: prompts without a chat format, with what evaluation programs ask of it.

use super::openai::{BOTH, Common, HARMLESS, usage};
use crate::access::Caller;
use crate::answer::{self, Ask, Piece};
use crate::app::{App, new_id};
use crate::chat::repeat;
use crate::constraint::{CONSTRAINT, compile};
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::logprobs::Completion;
use crate::sampling::SAMPLING;
use crate::time::Time;
use crate::{raw, sse};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use puna_engine::PromptScores;
use serde_json::{Value, json};
use std::sync::Arc;

/// The endpoint's own fields.
pub const FIELDS: &[Field] = &[
    Field {
        name: "prompt",
        schema: r#"{"anyOf": [{"type": "string"}, {"type": "array"}]}"#,
        about: "A text, several texts, token ids, or several lists of token ids. Names of special tokens in texts are meant",
        example: r#""Once upon a time""#,
    },
    Field {
        name: "add_special_tokens",
        schema: r#"{"type": "boolean"}"#,
        about: "Whether texts begin with the vocabulary's first token; they do",
        example: "true",
    },
    Field {
        name: "max_tokens",
        schema: r#"{"type": "integer", "minimum": 0}"#,
        about: "Tokens to generate at most; 16 without it",
        example: "4",
    },
    Field {
        name: "echo",
        schema: r#"{"type": "boolean"}"#,
        about: "The prompt is part of the text, and of the log-probabilities",
        example: "true",
    },
    Field {
        name: "logprobs",
        schema: r#"{"type": "integer", "minimum": 0, "maximum": 20}"#,
        about: "Tells the log-probability of each token, and so many of the most probable ones",
        example: "2",
    },
];

/// A continuation as it comes.
struct Choice<'a> {
    app: &'a App,
    scores: Option<Completion>,
    text: String,
    n_tokens: usize,
    cached: usize,
    finish_reason: Value,
}

impl<'a> Choice<'a> {
    /// Of this prompt, which is part of the text if `echo`.
    fn new(app: &'a App, prompt: &[u32], echo: bool, logprobs: bool) -> Self {
        let tokenizer = &app.model.tokenizer;
        let mut scores = logprobs.then(Completion::default);
        let mut text = String::new();
        if echo {
            text = String::from_utf8_lossy(&tokenizer.decode(prompt)).into_owned();
            if let (Some(scores), Some(first)) = (&mut scores, prompt.first()) {
                scores.push_given(tokenizer, *first);
            }
        }
        Choice { app, scores, text, n_tokens: 0, cached: 0, finish_reason: Value::Null }
    }

    fn push(&mut self, piece: Piece) {
        let tokenizer = &self.app.model.tokenizer;
        match piece {
            Piece::Begun { cached } => self.cached = cached,
            // No tools are offered here.
            Piece::Tool(_) => {}
            Piece::PromptScore(scored) => {
                if let Some(scores) = &mut self.scores {
                    scores.push(tokenizer, &scored);
                }
            }
            Piece::Token(text, scored) => {
                self.n_tokens += 1;
                self.text += &text;
                if let Some(scores) = &mut self.scores {
                    scores.push(tokenizer, &scored);
                }
            }
            Piece::End(text, reason) => {
                self.text += &text;
                self.finish_reason = reason.openai().into();
            }
        }
    }

    /// What came since the last time.
    fn take(&mut self, index: usize) -> Value {
        json!({
            "index": index,
            "text": std::mem::take(&mut self.text),
            "logprobs": self.scores.as_mut().map(Completion::take),
            "finish_reason": self.finish_reason,
        })
    }
}

/// What the choices begin with.
struct Begin {
    prompts: Vec<Vec<u32>>,
    n: usize,
    echo: bool,
    logprobs: bool,
}

impl Begin {
    fn choices<'a>(&self, app: &'a App) -> Vec<Choice<'a>> {
        let all = self.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, self.n));
        all.map(|prompt| Choice::new(app, prompt, self.echo, self.logprobs)).collect()
    }
}

/// Continues prompts.
pub async fn create(State(app): State<Arc<App>>, caller: Caller, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS, BOTH, CONSTRAINT, SAMPLING], HARMLESS)?;
    let Common { ask, grammar, n, stream, include_usage } = Common::take(&app, &mut fields)?;
    let adds_bos = fields.take("add_special_tokens")?.unwrap_or(true);
    let (tokenizer, prompt) = (app.model.tokenizer.clone(), fields.require("prompt")?);
    let encode = move |text: &str| {
        let ids = raw::encode(&tokenizer, text);
        if adds_bos { raw::begun(&tokenizer, ids) } else { ids }
    };
    let prompts = raw::aside(move || raw::prompts("prompt", prompt, encode)).await??;
    let max_tokens = fields.integer("max_tokens", 0..=u64::from(u32::MAX))?.unwrap_or(16) as usize;
    let echo = fields.take("echo")?.unwrap_or(false);
    let logprobs = fields.integer("logprobs", 0..=20)?.map(|n| n as usize);
    let ask = Ask {
        max_tokens: Some(max_tokens),
        top: logprobs.unwrap_or(0),
        constraint: compile(&app, grammar).await?,
        prompt_scores: logprobs.filter(|_| echo).map(|top| PromptScores { from: 1, top }),
        ..ask
    };
    let adapter = ask.adapter;
    let asks = prompts.iter().flat_map(|prompt| repeat(Ask { prompt: prompt.clone(), ..ask.clone() }, n));
    let n_prompt: usize = prompts.iter().map(Vec::len).sum();
    let mut pieces = answer::start(&app, caller, asks)?;
    let (id, created) = (new_id("cmpl-"), Time::now().seconds());
    let model = app.name(adapter).to_owned();
    let object = move |choices: Value, usage: Value| {
        let mut object =
            json!({"id": id, "object": "text_completion", "created": created, "model": model, "choices": choices});
        if !usage.is_null() {
            object["usage"] = usage;
        }
        object
    };
    let begin = Begin { prompts, n, echo, logprobs: logprobs.is_some() };
    if !stream {
        let mut choices = begin.choices(&app);
        while let Some((idx, piece)) = pieces.recv().await {
            choices[idx].push(piece?);
        }
        let all: Vec<Value> = choices.iter_mut().enumerate().map(|(idx, choice)| choice.take(idx)).collect();
        return Ok(Json(object(all.into(), count(n_prompt, &choices))).into_response());
    }
    Ok(sse::stream(sse::EVENT_STREAM, move |events| async move {
        let mut choices = begin.choices(&app);
        while let Some((idx, piece)) = pieces.recv().await {
            let told = matches!(piece, Ok(Piece::Token(..) | Piece::End(..)));
            match piece {
                Ok(piece) => choices[idx].push(piece),
                Err(error) => {
                    events.data(&error.openai()).await?;
                    return events.done().await;
                }
            }
            if told {
                events.data(&object(json!([choices[idx].take(idx)]), Value::Null)).await?;
            }
        }
        if include_usage {
            events.data(&object(json!([]), count(n_prompt, &choices))).await?;
        }
        events.done().await
    }))
}

/// Tokens of all prompts and all their continuations.
fn count(n_prompt: usize, choices: &[Choice<'_>]) -> Value {
    let n_completion = choices.iter().map(|choice| choice.n_tokens).sum();
    usage(n_prompt, n_completion, choices.iter().map(|choice| choice.cached).sum())
}
