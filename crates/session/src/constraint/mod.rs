//! Grammars of answers: JSON, JSON schemas, regular expressions, Lark grammars, choices and tool calls, over the tokens of a
//! model's vocabulary.
//!
//! Reading order: a [`Grammar`] says what an answer may look like; [`GrammarCompiler`], of which a model has one, makes a
//! [`GrammarConstraint`] of it, which goes through one answer token by token.
//!
//! Grammars come from strangers. Their size and nesting are looked at before anything else, the library's work on them has
//! limits in its own units, and compiling has a thread with a stack that the nesting allowed can't exhaust.

mod compiler;
mod grammar;
mod tools;

mod limits;
mod vocabulary;

pub use compiler::{GrammarCompiler, GrammarConstraint};
pub use grammar::Grammar;
pub use tools::{ToolCalls, ToolChoice};

/// Why there is no constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Larger than any grammar that is meant well.
    #[error("{what}: expected at most {limit} {unit}, found {found}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// As much as is allowed.
        limit: usize,
        /// What is counted.
        unit: &'static str,
        /// As much as there is; where counting stopped, the first too many.
        found: usize,
    },
    /// Not a grammar, or one that can't be enforced.
    #[error("{what}: {problem}")]
    Invalid {
        /// Which part of the request.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A vocabulary that can't be constrained.
    #[error("the vocabulary: {0}; answers can't be constrained")]
    Vocabulary(String),
}

impl GrammarError {
    fn invalid(what: impl Into<String>, problem: impl Into<String>) -> GrammarError {
        GrammarError::Invalid { what: what.into(), problem: problem.into() }
    }
}
