//! Continuing a prompt token by token.

use crate::{Engine, Error, Sampler, Sequence};

/// When to stop.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Tokens that end the answer. They are reported, but not decoded further.
    pub stop_tokens: Vec<u32>,
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

/// One generated token.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability under the model, before sampling changed the distribution.
    pub logprob: f32,
}

/// The state of one answer. Each [`Generation::take`] computes one token.
pub struct Generation {
    sampler: Sampler,
    limits: Limits,
    /// The next token, picked from the logits that are there already; none when the answer has ended.
    upcoming: Option<Token>,
    n_tokens: usize,
    finish: Option<Finish>,
}

impl Generation {
    /// Begins after a prefill: `logits` are those after the last token of the sequence.
    pub fn new(mut sampler: Sampler, limits: Limits, logits: &[f32]) -> Generation {
        let upcoming = (limits.max_tokens > 0).then(|| sampler.pick(logits));
        let finish = upcoming.is_none().then_some(Finish::Length);
        Generation { sampler, limits, upcoming, n_tokens: 0, finish }
    }

    /// The next token, or none at the end of the answer. A stop token is returned too, as the last.
    ///
    /// The token is handed out before the one after it is computed, so that a caller can show it at once.
    pub fn take(&mut self) -> Option<Token> {
        let token = self.upcoming.take()?;
        self.n_tokens += 1;
        self.sampler.accept(token.id);
        if self.limits.stop_tokens.contains(&token.id) {
            self.finish = Some(Finish::Stop(token.id));
        } else if self.n_tokens >= self.limits.max_tokens {
            self.finish = Some(Finish::Length);
        }
        Some(token)
    }

    /// Computes what follows `token`, the last that [`Generation::take`] returned, unless the answer has ended.
    pub fn advance(&mut self, engine: &mut Engine, sequence: &mut Sequence, token: Token) -> Result<(), Error> {
        if self.finish.is_some() {
            return Ok(());
        }
        if sequence.ids().len() >= engine.context() {
            self.finish = Some(Finish::Context);
            return Ok(());
        }
        let logits = engine.decode(sequence, token.id)?;
        self.upcoming = Some(self.sampler.pick(logits));
        Ok(())
    }

    /// Why the answer ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}
