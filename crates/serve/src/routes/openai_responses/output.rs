//! A response's output, item by item; and the events that tell of it, if somebody listens.

use super::items;
use crate::answer::{Piece, Pieces, Reason};
use crate::app::{App, new_id};
use crate::builtin::{Call, Outcome, Status, Step};
use crate::chat::{Assembly, Reply};
use crate::error::ApiError;
use crate::logprobs;
use crate::sse::{Events, Gone};
use axum::http::StatusCode;
use puna_engine::Scored;
use puna_text::chat::ToolCall;
use serde_json::{Value, json};

/// Output that is being made.
pub struct Output<'a> {
    app: &'a App,
    events: Option<&'a Events>,
    /// Whether the log-probabilities of the text are told.
    logprobs: bool,
    sequence: u64,
    items: Vec<Value>,
    /// The message that is being written.
    message: Option<Message>,
    /// The call that is being run.
    running: Option<Call>,
    /// Scores of tokens whose text has not been shown yet.
    pending: Vec<Value>,
}

struct Message {
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

impl<'a> Output<'a> {
    /// Nothing yet.
    pub fn new(app: &'a App, events: Option<&'a Events>, logprobs: bool) -> Self {
        let (items, pending) = (Vec::new(), Vec::new());
        Output { app, events, logprobs, sequence: 0, items, message: None, running: None, pending }
    }

    /// What there is by now.
    pub fn items(&self) -> &[Value] {
        &self.items
    }

    /// Sends an event.
    pub async fn tell(&mut self, kind: &str, mut event: Value) -> Result<(), Gone> {
        let Some(events) = self.events else { return Ok(()) };
        event["type"] = kind.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        events.named(kind, &event).await
    }

    /// Takes the pieces of an answer. Its tool calls are for the client.
    pub async fn make(&mut self, mut pieces: Pieces, tools: bool) -> Result<Result<Reply, ApiError>, Gone> {
        let app = self.app;
        let mut assembly = Assembly::new(app, tools);
        while let Some((_, piece)) = pieces.recv().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Ok(Err(error)),
            };
            match &piece {
                Piece::Tool(Step::Called(call)) => self.call(call).await?,
                Piece::Tool(Step::Ran(outcome)) => self.ran(outcome).await?,
                _ => {}
            }
            let (text, scored) = assembly.push(piece);
            self.text(&text, scored.as_ref()).await?;
        }
        let reply = assembly.finish();
        if reply.end.is_none() {
            let message = "the answer was broken off";
            return Ok(Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stream_dropped", message)));
        }
        let status = if matches!(reply.end, Some(Reason::Length)) { "incomplete" } else { "completed" };
        // An answer without a word is one, too.
        if self.items.is_empty() && self.message.is_none() && reply.tool_calls.is_empty() {
            self.begin_message().await?;
        }
        self.end_message(status).await?;
        for call in &reply.tool_calls {
            self.function_call(call).await?;
        }
        Ok(Ok(reply))
    }

    async fn text(&mut self, text: &str, scored: Option<&Scored>) -> Result<(), Gone> {
        if self.logprobs {
            self.pending.extend(scored.map(|scored| logprobs::chat(&self.app.model.tokenizer, scored)));
        }
        if text.is_empty() {
            return Ok(());
        }
        if self.message.is_none() {
            self.begin_message().await?;
        }
        let scores = std::mem::take(&mut self.pending);
        let mut id = String::new();
        if let Some(message) = &mut self.message {
            message.text += text;
            message.logprobs.extend(scores.iter().cloned());
            id.clone_from(&message.id);
        }
        let delta = self.at(&id, json!({"content_index": 0, "delta": text, "logprobs": scores}));
        self.tell("response.output_text.delta", delta).await
    }

    /// An event's members, with those that say which item it is about: the one that comes next.
    fn at(&self, id: &str, mut event: Value) -> Value {
        event["item_id"] = id.into();
        event["output_index"] = self.items.len().into();
        event
    }

    async fn begin_item(&mut self, item: Value) -> Result<(), Gone> {
        let event = json!({"output_index": self.items.len(), "item": item});
        self.tell("response.output_item.added", event).await
    }

    async fn end_item(&mut self, item: Value) -> Result<(), Gone> {
        let event = json!({"output_index": self.items.len(), "item": item});
        self.items.push(item);
        self.tell("response.output_item.done", event).await
    }

    async fn begin_message(&mut self) -> Result<(), Gone> {
        let message = Message { id: new_id("msg_"), text: String::new(), logprobs: Vec::new() };
        let id = message.id.clone();
        self.begin_item(message.item("in_progress", Vec::new())).await?;
        let part = self.at(&id, json!({"content_index": 0, "part": message.part()}));
        self.message = Some(message);
        self.tell("response.content_part.added", part).await
    }

    async fn end_message(&mut self, status: &str) -> Result<(), Gone> {
        let Some(message) = self.message.take() else { return Ok(()) };
        let (id, part) = (&message.id, message.part());
        let text = json!({"content_index": 0, "text": message.text, "logprobs": message.logprobs});
        self.tell("response.output_text.done", self.at(id, text)).await?;
        self.tell("response.content_part.done", self.at(id, json!({"content_index": 0, "part": part}))).await?;
        self.end_item(message.item(status, vec![part])).await
    }

    async fn function_call(&mut self, call: &ToolCall) -> Result<(), Gone> {
        let id = new_id("fc_");
        let arguments = call.arguments.to_string();
        let item = |status: &str, arguments: &str| {
            json!({"type": "function_call", "id": id, "status": status, "call_id": call.id, "name": call.name,
                "arguments": arguments})
        };
        self.begin_item(item("in_progress", "")).await?;
        self.tell("response.function_call_arguments.delta", self.at(&id, json!({"delta": arguments}))).await?;
        let done = self.at(&id, json!({"name": call.name, "arguments": arguments}));
        self.tell("response.function_call_arguments.done", done).await?;
        self.end_item(item("completed", &arguments)).await
    }

    /// The server begins to run a call. What is said before it, is a message of its own.
    async fn call(&mut self, call: &Call) -> Result<(), Gone> {
        self.end_message("completed").await?;
        self.pending.clear();
        let mut item = items::builtin(call, "in_progress", None);
        let kind = kind(&item);
        if kind == "code_interpreter_call" {
            // It comes by the events below, and clients put together what comes.
            item["code"] = "".into();
        }
        self.begin_item(item).await?;
        self.tell(&format!("response.{kind}.in_progress"), self.at(&call.id, json!({}))).await?;
        if kind == "code_interpreter_call" {
            let delta = self.at(&call.id, json!({"delta": call.input}));
            self.tell("response.code_interpreter_call_code.delta", delta).await?;
            let done = self.at(&call.id, json!({"code": call.input}));
            self.tell("response.code_interpreter_call_code.done", done).await?;
            self.tell("response.code_interpreter_call.interpreting", self.at(&call.id, json!({}))).await?;
        } else {
            self.tell(&format!("response.{kind}.searching"), self.at(&call.id, json!({}))).await?;
        }
        self.running = Some(call.clone());
        Ok(())
    }

    async fn ran(&mut self, outcome: &Outcome) -> Result<(), Gone> {
        let Some(call) = self.running.take() else { return Ok(()) };
        let item = items::builtin(&call, outcome.status.as_str(), Some(outcome));
        if outcome.status == Status::Completed {
            self.tell(&format!("response.{}.completed", kind(&item)), self.at(&call.id, json!({}))).await?;
        }
        self.end_item(item).await
    }
}

/// An item's type.
fn kind(item: &Value) -> String {
    item["type"].as_str().unwrap_or_default().to_owned()
}

impl Message {
    fn part(&self) -> Value {
        json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
    }

    fn item(&self, status: &str, content: Vec<Value>) -> Value {
        json!({"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content})
    }
}
