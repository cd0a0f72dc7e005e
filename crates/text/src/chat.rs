//! Conversations to prompts, and a model's answer back to the tools it calls.
//!
//! The formats of the Llama family are written out natively, with special tokens and text kept apart from the start: what a
//! user, a tool or a document says is text whatever it spells. No template is run here; that is `template`'s.

mod calls;
mod llama2;
mod llama3;
mod message;
mod prompt;

pub use calls::{Answer, parse_tool_calls};
pub use message::{Content, Conversation, Message, Role, ToolCall, ToolStyle};
pub use prompt::{Prompt, Segment};

use crate::python_json::TooLarge;
use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

/// Which format of the Llama family a conversation is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// What the template published with Llama 3.1 renders: a system message with the date, contents trimmed. What everyone's
    /// deployments use.
    #[default]
    Template,
    /// What Meta's reference encoder for Llama 3.1 gives: the messages as they are, nothing added and nothing trimmed.
    Meta,
    /// Llama 2's: `[INST]`, `<<SYS>>`.
    Llama2,
}

impl Dialect {
    /// The default for a vocabulary.
    #[must_use]
    pub fn for_tokenizer(tokenizer: &Tokenizer) -> Dialect {
        if tokenizer.is_sentence_piece() { Dialect::Llama2 } else { Dialect::Template }
    }

    /// What the format writes of the text of a system's, a user's or an assistant's message.
    #[must_use]
    pub fn trim(self, text: &str) -> &str {
        match self {
            Dialect::Template | Dialect::Llama2 => strip(text),
            Dialect::Meta => text,
        }
    }
}

/// Why a conversation can't be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// No messages at all.
    #[error("the conversation has no messages")]
    Empty,
    /// The format offers tools in the first user message, and there is none.
    #[error("Cannot put tools in the first user message when there's no first user message!")]
    NoUserMessage,
    /// The format has room for one tool call in a message.
    #[error("This model only supports single tool-calls at once!")]
    ManyToolCalls,
    /// A message that this format can't hold.
    #[error("messages[{idx}]: {problem}")]
    Message {
        /// Which message, from 0.
        idx: usize,
        /// Why not.
        problem: String,
    },
    /// Something that the chosen format has no words for.
    #[error("the {dialect} chat format has no {what}")]
    NotInFormat {
        /// The format.
        dialect: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
    /// A JSON value that is too deep or too long.
    #[error("{what} is nested too deeply or too long")]
    TooLarge {
        /// Which value.
        what: &'static str,
    },
    /// The format needs a special token that this vocabulary does not have.
    #[error("the vocabulary has no special token {token:?}; the model needs another chat format")]
    NoSpecialToken {
        /// Its name.
        token: String,
    },
    /// The template that came with the model failed.
    #[error("the model's chat template: {0}")]
    Template(String),
}

impl ChatError {
    fn too_large(what: &'static str) -> impl FnOnce(TooLarge) -> ChatError {
        move |TooLarge| ChatError::TooLarge { what }
    }
}

/// Writes a conversation as the prompt for a model.
///
/// # Errors
/// A conversation that the format can't express; the messages of [`Dialect::Template`]'s errors are the published
/// template's.
pub fn render(conversation: &Conversation, dialect: Dialect) -> Result<Prompt, ChatError> {
    match dialect {
        Dialect::Template => llama3::render_as_template(conversation),
        Dialect::Meta => llama3::render_as_meta(conversation),
        Dialect::Llama2 => llama2::render(conversation),
    }
}

/// Python's `str.strip`, which the published formats trim with: white space and the four separators of ASCII.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}
