//! A conversation to an ask, and an answer's pieces to messages and tool calls: what the chat APIs have in common.

use crate::answer::{Ask, Piece, Pieces, Reason};
use crate::app::{App, new_id};
use crate::builtin::{Call, Outcome, Step};
use crate::constraint::compile;
use crate::error::ApiError;
use crate::raw::aside;
use puna_engine::{Constraint, Scored};
use puna_session::{Grammar, ToolCalls, ToolChoice};
use puna_text::chat::{Content, Conversation, Message, Role, ToolCall, parse_tool_calls};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes of all tools' JSON at most. Formats write it with every value on a line of its own, indented as deep as it lies: a
/// hundred times as long.
const MAX_TOOL_BYTES: usize = 256 << 10;

/// Bytes of messages that are written where they are, in less than 0.1 ms.
const SHORT: usize = 4 << 10;

/// Bytes that a message has beside its text, at least.
const HEADER: usize = 64;

/// A conversation, and how it is to be gone on with.
#[derive(Clone)]
pub struct Turn {
    /// What was said, and which tools are offered.
    pub conversation: Conversation,
    /// Whether a last message of the assistant is gone on with; where nothing is said, it is.
    pub continues: Option<bool>,
    /// Whether a tool must be called.
    pub tool_choice: ToolChoice,
    /// Several tools may be called at once.
    pub parallel: bool,
    /// What the answer is to look like, where that is not text, or calls of tools.
    pub grammar: Option<Grammar>,
}

impl Turn {
    /// The next turn of a conversation, in which the model is free.
    pub fn new(conversation: Conversation) -> Turn {
        Turn { conversation, continues: None, tool_choice: ToolChoice::Auto, parallel: true, grammar: None }
    }

    /// Whether the last message is gone on with.
    ///
    /// # Errors
    /// When it is to be, and is not the assistant's.
    pub fn continues(&self) -> Result<bool, ApiError> {
        let last = self.conversation.messages.last();
        let open = last.is_some_and(|last| last.role == Role::Assistant && last.tool_calls.is_empty());
        if self.continues == Some(true) && !open {
            let message = "expected a last message of the assistant to go on with, found none";
            return Err(ApiError::field("continue_final_message", message));
        }
        Ok(self.continues.unwrap_or(open))
    }

    /// Whether tools are offered, the model's own or others.
    pub fn offers_tools(&self) -> bool {
        !self.conversation.tools.is_empty() || self.conversation.builtin_tools.is_some()
    }

    /// The grammar that the answer has to follow. That of tools holds for text too, which then can't be read as a call; but a
    /// message that is gone on with has begun already.
    fn grammar(&self, continues: bool) -> Result<Option<Grammar>, ApiError> {
        let tools = self.offers_tools();
        let chosen = self.tool_choice != ToolChoice::Auto;
        match &self.grammar {
            _ if chosen && !tools => Err(ApiError::field("tool_choice", "expected tools beside it, found none")),
            Some(_) if tools => Err(ApiError::field("tools", "expected none beside another format of the answer")),
            Some(_) if continues => {
                let message =
                    "expected none of the assistant as the last, to be gone on with, beside a format of the answer";
                Err(ApiError::field("messages", message))
            }
            Some(grammar) => Ok(Some(grammar.clone())),
            None if chosen && continues => {
                let message = "expected \"auto\" where a last message of the assistant is gone on with";
                Err(ApiError::field("tool_choice", message))
            }
            None if tools && !continues => {
                let calls = ToolCalls::of(&self.conversation, self.tool_choice.clone(), self.parallel);
                Ok(Some(Grammar::ToolCalls(calls)))
            }
            None => Ok(None),
        }
    }

    /// The prompt, and what the answer to it may look like.
    ///
    /// # Errors
    /// What the chat format can't express, and grammars that can't be enforced.
    pub async fn prepare(self, app: &Arc<App>) -> Result<(Vec<u32>, Option<Box<dyn Constraint>>), ApiError> {
        let grammar = self.grammar(self.continues()?)?;
        let ids = self.prompt(app).await?;
        Ok((ids, compile(app, grammar).await?))
    }

    /// The prompt.
    ///
    /// # Errors
    /// What the chat format can't express.
    pub async fn prompt(self, app: &Arc<App>) -> Result<Vec<u32>, ApiError> {
        let continues = self.continues()?;
        let mut conversation = self.conversation;
        conversation.add_generation_prompt &= !continues;
        let n_bytes: usize = conversation.tools.iter().map(|tool| tool.to_string().len()).sum();
        if n_bytes > MAX_TOOL_BYTES {
            let message = format!("expected at most {MAX_TOOL_BYTES} bytes of JSON, found {n_bytes}");
            return Err(ApiError::field("tools", message));
        }
        // A long prompt takes some milliseconds, and a template of the model's own another process. A short one is written
        // sooner than it is handed over.
        let at_once = !app.model.format.waits() && n_bytes == 0 && is_short(&conversation.messages);
        let app = app.clone();
        let write = move || {
            let model = &app.model;
            conversation.messages = one_call_each(conversation.messages);
            let prompt = model.format.write(&conversation).map_err(|error| ApiError::field("messages", error))?;
            let mut ids = prompt.encode(&model.tokenizer).map_err(|error| ApiError::field("messages", error))?;
            if continues {
                // What ends the message would end the answer.
                while ids.last().is_some_and(|id| model.stop_tokens.contains(id)) {
                    ids.pop();
                }
            }
            Ok(ids)
        };
        if at_once { write() } else { aside(write).await? }
    }
}

/// Whether messages are little text, and nothing else.
fn is_short(messages: &[Message]) -> bool {
    let n_bytes = messages.iter().try_fold(0, |n_bytes: usize, message| match &message.content {
        Content::Text(text) if message.tool_calls.is_empty() => n_bytes.checked_add(text.len() + HEADER),
        _ => None,
    });
    n_bytes.is_some_and(|n_bytes| n_bytes <= SHORT)
}

/// The formats have room for one call in a message: several become messages of their own, each with its result behind it.
fn one_call_each(messages: Vec<Message>) -> Vec<Message> {
    let mut single = Vec::with_capacity(messages.len());
    let mut messages = messages.into_iter().peekable();
    while let Some(mut message) = messages.next() {
        if message.tool_calls.len() < 2 {
            single.push(message);
            continue;
        }
        let mut results = Vec::new();
        // Where the results of a call are, by its id.
        let mut places: HashMap<Option<String>, VecDeque<usize>> = HashMap::new();
        while let Some(result) = messages.next_if(|next| next.role == Role::Tool) {
            places.entry(result.tool_call_id.clone()).or_default().push_back(results.len());
            results.push(Some(result));
        }
        for call in std::mem::take(&mut message.tool_calls) {
            let place = places.get_mut(&call.id).and_then(VecDeque::pop_front);
            let result = place.and_then(|place| results[place].take());
            single.push(Message { tool_calls: vec![call], ..message.clone() });
            single.extend(result);
            // Said once.
            message.content = Content::default();
        }
        single.extend(results.into_iter().flatten());
    }
    single
}

/// A whole answer of the assistant.
#[derive(Debug, Default)]
pub struct Reply {
    /// What is said.
    pub text: String,
    /// What is called.
    pub tool_calls: Vec<ToolCall>,
    /// What the server ran for it, and what came of that.
    pub runs: Vec<(Call, Outcome)>,
    /// Each token, the end token not counted.
    pub scored: Vec<Scored>,
    /// Tokens of the answer, the end token counted.
    pub n_tokens: usize,
    /// Tokens of the prompts with which it went on after a tool had run.
    pub n_further: usize,
    /// Prompt tokens from the cache.
    pub cached: usize,
    /// How it ended.
    pub end: Option<Reason>,
}

impl Reply {
    /// OpenAI's `finish_reason`.
    pub fn finish_reason(&self) -> &'static str {
        match &self.end {
            _ if !self.tool_calls.is_empty() => "tool_calls",
            Some(reason) => reason.openai(),
            None => "stop",
        }
    }
}

/// An answer that comes in pieces: tells what may be shown at once, and finds tool calls at the end.
pub struct Assembly<'a> {
    app: &'a App,
    /// Whether tools were offered.
    tools: bool,
    /// Nothing came yet since the prompt.
    first: bool,
    python_tag: bool,
    /// The call that is being run.
    running: Option<Call>,
    /// Text that may be a call, and is not shown until it is clear that it is none.
    held: String,
    reply: Reply,
}

impl<'a> Assembly<'a> {
    /// Of an answer to a conversation that offers tools, or none.
    pub fn new(app: &'a App, tools: bool) -> Self {
        Assembly {
            app,
            tools,
            first: true,
            python_tag: false,
            running: None,
            held: String::new(),
            reply: Reply::default(),
        }
    }

    /// Takes a piece. The text that may be shown now, and the token's score, if it is one of the answer's own.
    pub fn push(&mut self, piece: Piece) -> (String, Option<Scored>) {
        match piece {
            Piece::Begun { cached } => {
                self.reply.cached += cached;
                (String::new(), None)
            }
            Piece::PromptScore(..) => (String::new(), None),
            Piece::Token(text, scored) => {
                self.reply.n_tokens += 1;
                let id = scored.token.id;
                if std::mem::take(&mut self.first) && self.app.model.tokenizer.special("<|python_tag|>") == Some(id) {
                    self.python_tag = true;
                }
                let own = !self.app.model.tokenizer.is_special(id);
                (self.show(&text), own.then_some(scored))
            }
            Piece::Tool(step) => {
                match step {
                    Step::Called(call) => self.running = Some(call),
                    Step::Ran(outcome) => self.reply.runs.extend(self.running.take().map(|call| (call, outcome))),
                    Step::GoesOn(n_prompt) => self.reply.n_further += n_prompt,
                }
                // What was held was the call.
                self.held.clear();
                (self.first, self.python_tag) = (true, false);
                (String::new(), None)
            }
            Piece::End(text, end) => {
                self.reply.end = Some(end);
                let mut shown = self.show(&text);
                if self.holds() {
                    let answer = parse_tool_calls(&self.held, self.python_tag);
                    shown += &answer.content;
                    self.reply.tool_calls = answer.tool_calls;
                    for call in &mut self.reply.tool_calls {
                        call.id.get_or_insert_with(|| new_id("call_"));
                    }
                }
                (shown, None)
            }
        }
    }

    /// The call that the server is running.
    pub fn running(&self) -> Option<&Call> {
        self.running.as_ref()
    }

    /// How many calls the server has run.
    pub fn n_runs(&self) -> usize {
        self.reply.runs.len()
    }

    /// Whether what came so far may be a call.
    fn holds(&self) -> bool {
        let start = self.held.trim_start();
        self.tools && (self.python_tag || start.is_empty() || start.starts_with(['{', '[', '<']))
    }

    fn show(&mut self, text: &str) -> String {
        self.held += text;
        if self.holds() { String::new() } else { std::mem::take(&mut self.held) }
    }

    /// Keeps what was shown.
    pub fn keep(&mut self, text: &str, scored: Option<Scored>) {
        self.reply.text += text;
        self.reply.scored.extend(scored);
    }

    /// The whole answer.
    pub fn finish(self) -> Reply {
        self.reply
    }
}

/// Waits for all answers of `n` asks.
///
/// # Errors
/// That of the first that failed.
pub async fn collect(app: &App, mut pieces: Pieces, n: usize, tools: bool) -> Result<Vec<Reply>, ApiError> {
    let mut answers: Vec<Assembly<'_>> = (0..n).map(|_| Assembly::new(app, tools)).collect();
    while let Some((idx, piece)) = pieces.recv().await {
        let (text, scored) = answers[idx].push(piece?);
        answers[idx].keep(&text, scored);
    }
    Ok(answers.into_iter().map(Assembly::finish).collect())
}

/// Asks the same prompt `n` times; the seeds of the others follow from the first.
pub fn repeat(ask: Ask, n: usize) -> impl Iterator<Item = Ask> {
    (0..n).map(move |idx| {
        let mut ask = ask.clone();
        ask.sampling.seed = ask.sampling.seed.map(|seed| seed.wrapping_add(idx as u64));
        ask
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn calls_stand_before_their_results() {
        let call = |id: &str| ToolCall { id: Some(id.into()), name: "f".into(), arguments: json!({}) };
        let result = |id: &str| Message { tool_call_id: Some(id.into()), ..Message::new(Role::Tool, id) };
        let said = Message { tool_calls: vec![call("a"), call("b"), call("c")], ..Message::assistant("so:") };
        let one = |text: &str, id| Message { tool_calls: vec![call(id)], ..Message::assistant(text) };
        let given = vec![Message::user("?"), said, result("b"), result("x"), result("a"), Message::user("!")];
        let expected = vec![
            Message::user("?"),
            one("so:", "a"),
            result("a"),
            one("", "b"),
            result("b"),
            one("", "c"),
            result("x"),
            Message::user("!"),
        ];
        assert_eq!(one_call_each(given), expected);
    }
}
