//! Sequences of token ids through a model: requests, steps, pages of the KV cache, sampling.
//!
//! Reading order: [`Batcher`] answers requests, many in one forward pass; [`Engine`] runs tokens of sequences; [`sampler`]
//! picks each token, of those that a [`constraint`] allows; [`speculate`] makes several tokens of one forward pass.
//! No text, files, sockets or clock here, so that all of it can be tested with a small fake model.

mod batcher;
mod mean;
mod request;
mod schedule;

pub mod speculate;

mod kept;

mod engine;
mod pages;
pub mod sampler;

pub mod constraint;

pub use batcher::{BatchLimits, Batcher, Load};
pub use constraint::{Constraint, ConstraintError};
pub use engine::{Engine, Sequence};
pub use kept::{Kept, Restoring};
pub use pages::{Parent, Scope};
pub use puna_llama::PAGE_LEN;
pub use request::{Event, Finish, Limits, PromptScores, Request, RequestId, Scored, Token};
pub use sampler::{Sampler, Sampling};
pub use speculate::{DraftModel, Drafted, Drafter, PromptLookup, Speculator};

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model's own errors.
    #[error(transparent)]
    Model(#[from] puna_llama::Error),
    /// More tokens than the context has room for.
    #[error("the prompt has {found} tokens: expected at most {context}, the context; shorten it or raise --context")]
    TooLong {
        /// Tokens asked for.
        found: usize,
        /// Tokens there is room for.
        context: usize,
    },
    /// Nothing to continue.
    #[error("the prompt is empty: expected at least one token")]
    Empty,
    /// The model computed NaN or infinity.
    #[error(
        "what the model computed of token {position} is not finite: the weights are damaged, or overflow on this input"
    )]
    NotFinite {
        /// Position of the token whose logits, or hidden states, they are.
        position: usize,
    },
    /// A page that was kept elsewhere and can't be put back.
    #[error("{what}: expected {expected}, found {found}")]
    Kept {
        /// What is wrong with it.
        what: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The answer's constraint can't go on.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A sampling parameter out of its range.
    #[error("{name}: expected {expected}, found {found}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// Its range.
        expected: String,
        /// What was given.
        found: String,
    },
}
