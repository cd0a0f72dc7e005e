//! Where text meets the engine: messages become tokens, tokens become text events.
//!
//! Reading order: [`Session::answer`] is the whole path of an answer; [`Service`] answers many at once, on a thread of its
//! own; [`text`] makes text of tokens, and [`stop`] watches it for stop strings; [`constraint`] makes grammars of answers;
//! [`open`] puts a model's files, tokenizer and engine together, and [`kept`] what the engine knew when it ended.

pub mod kept;
mod open;
mod service;
mod session;
mod text;

pub mod constraint;
mod stop;

pub use constraint::{Grammar, GrammarCompiler, GrammarConstraint, GrammarError, ToolCalls, ToolChoice};
pub use open::{check_draft, gguf_vocabulary, load_tokenizer, tokenizer};
pub use service::{Pulse, Refusal, Service, ServiceLimits, Sink, Status, Ticket};
pub use session::{Answer, Event, Options, Session, Timings, random_seed, speculator};
pub use text::AnswerText;

/// What can go wrong in a session. Messages are complete in themselves; none relies on a `source` chain being printed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine's own errors.
    #[error(transparent)]
    Engine(#[from] puna_engine::Error),
    /// A grammar of answers that can't be used.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A tokenizer that can't be used.
    #[error("{path}: {error}")]
    Tokenizer {
        /// Where it came from.
        path: String,
        /// What is wrong with it.
        error: puna_text::TokenizerError,
    },
    /// A file that can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Files that don't belong together.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What is wrong.
        what: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
}
