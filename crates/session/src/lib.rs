//! Where text meets the engine: messages become tokens, tokens become text events.
//!
//! Reading order: [`Session::answer`] is the whole path of an answer; [`stop`] watches for stop strings;
//! [`open`] puts a model's files, tokenizer and engine together.

mod open;
mod session;
mod stop;

pub use open::{load_tokenizer, tokenizer};
pub use session::{Answer, Event, Options, Session, Timings};

/// What can go wrong in a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine's own errors.
    #[error(transparent)]
    Engine(#[from] puna_engine::Error),
    /// A tokenizer that can't be used.
    #[error("{path}: {source}")]
    Tokenizer {
        /// Where it came from.
        path: String,
        /// What is wrong with it.
        source: puna_text::TokenizerError,
    },
    /// A file that can't be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
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
