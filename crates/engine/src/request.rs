//! What is asked of a [`Batcher`](crate::Batcher), and what it says.

use crate::engine::check_length;
use crate::sampler::{LogProbabilities, largest};
use crate::{Constraint, Error, Sampling, Scope};

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How to sample.
    pub sampling: Sampling,
    /// Draws, where `sampling` has no seed.
    pub seed: u64,
    /// When to stop.
    pub limits: Limits,
    /// What the answer may look like, at its beginning.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Whose the request is: what it has in common with others of the scope is computed once, and scopes take turns.
    pub scope: Scope,
    /// One of the model's named adapters.
    pub adapter: Option<u32>,
    /// With each token of the answer, so many of the most probable are named.
    pub top: usize,
    /// The prompt's tokens are to be scored too.
    pub prompt_scores: Option<PromptScores>,
    /// The mean of the prompt's hidden states is wanted, and nothing else: no tokens, no scores.
    pub pool: bool,
    /// Guesses what follows while nobody else waits for a token. The answer is the same.
    pub speculate: bool,
}

impl Request {
    /// A prompt in the default scope, without constraint, adapter, scores or mean, that may be guessed ahead.
    pub fn new(prompt: Vec<u32>, sampling: Sampling, limits: Limits) -> Request {
        Request {
            prompt,
            sampling,
            seed: 0,
            limits,
            constraint: None,
            scope: Scope::default(),
            adapter: None,
            top: 0,
            prompt_scores: None,
            pool: false,
            speculate: true,
        }
    }

    /// Checks the request for a model of `vocab_size` tokens with room for `context`.
    ///
    /// # Errors
    /// When it can't be answered: no prompt, one longer than the context, a token that the model does not have, a parameter
    /// out of its range, tokens or scores beside a mean.
    pub fn check(&self, vocab_size: usize, context: usize) -> Result<(), Error> {
        check_length(&self.prompt, context)?;
        if let Some(&id) = self.prompt.iter().find(|id| **id as usize >= vocab_size) {
            return Err(puna_llama::Error::Token { id, vocab_size }.into());
        }
        if self.pool && (self.limits.max_tokens > 0 || self.prompt_scores.is_some()) {
            let found = format!("max_tokens {}, prompt_scores {:?}", self.limits.max_tokens, self.prompt_scores);
            return Err(Error::Parameter { name: "pool", expected: "no tokens and no scores beside it".into(), found });
        }
        self.sampling.check(vocab_size)
    }
}

/// How the tokens of a prompt are scored.
#[derive(Clone, Copy, Debug)]
pub struct PromptScores {
    /// The first position whose token is scored; before the first token of all there is nothing to score it by.
    pub from: usize,
    /// At each, so many of the most probable are named.
    pub top: usize,
}

/// When to stop.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the answer. They are reported, but not decoded further.
    pub stop_tokens: Vec<u32>,
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// So many of the prompt's tokens are computed.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens to do: those that were not in the cache.
        total: usize,
        /// Tokens that were in the cache.
        cached: usize,
    },
    /// The prompt's token at a position, if its score was asked for.
    PromptScore {
        /// Position of the token.
        position: usize,
        /// What the model thought of it.
        score: Scored,
    },
    /// The mean of the final hidden states of all the prompt's tokens, `[dim]`, if it was asked for.
    Pooled(Vec<f32>),
    /// One more token of the answer. A stop token is told too, as the last.
    Token(Scored),
    /// The answer has ended. Nothing comes behind it.
    Finished(Finish),
    /// The request failed; others have not. Nothing comes behind it.
    Failed(Error),
}

/// One token with its probability under the model, before sampling changed the distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token.
    pub token: Token,
    /// The most probable tokens, the most probable first, as many as were asked for. The token itself is among them only
    /// if it is one of the most probable; then the two numbers are the same.
    pub top: Vec<Token>,
}

impl Scored {
    /// Scores `id` by finite logits.
    pub(crate) fn new(logits: &[f32], id: u32, n_top: usize) -> Scored {
        let probabilities = LogProbabilities::new(logits);
        let token = |id| Token { id, logprob: probabilities.of(id) };
        let top = largest(logits, n_top).into_iter().map(token).collect();
        Scored { token: token(id), top }
    }
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability under the model.
    pub logprob: f32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it with this token.
    Stop(u32),
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
}
