//! Continuing a prompt token by token.

use crate::engine::check_finite;
use crate::{Engine, Error, Sampler, Sequence, Speculator};
use std::collections::VecDeque;

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

/// The state of one answer. [`Generation::take`] hands out its tokens one by one.
pub struct Generation {
    sampler: Sampler,
    limits: Limits,
    /// Tokens that are picked and not handed out yet. All but the last are in the sequence. None when the answer has
    /// ended.
    upcoming: VecDeque<Token>,
    /// Tokens picked.
    n_tokens: usize,
    n_passes: usize,
    finish: Option<Finish>,
}

impl Generation {
    /// Begins after a prefill: `logits` are those after the last token of the sequence.
    pub fn new(sampler: Sampler, limits: Limits, logits: &[f32]) -> Generation {
        let mut generation =
            Generation { sampler, limits, upcoming: VecDeque::new(), n_tokens: 0, n_passes: 0, finish: None };
        if generation.limits.max_tokens > 0 {
            generation.pick(logits);
        } else {
            generation.finish = Some(Finish::Length);
        }
        generation
    }

    /// Picks the token after those so far.
    fn pick(&mut self, logits: &[f32]) -> Token {
        let token = self.sampler.pick(logits, None);
        self.sampler.accept(token.id);
        self.n_tokens += 1;
        self.upcoming.push_back(token);
        token
    }

    /// Why the answer ends with this token, if it is the last that was picked.
    fn ends_with(&self, token: Token) -> Option<Finish> {
        if self.limits.stop_tokens.contains(&token.id) {
            Some(Finish::Stop(token.id))
        } else {
            (self.n_tokens >= self.limits.max_tokens).then_some(Finish::Length)
        }
    }

    /// The next token, or none at the end of the answer. A stop token is returned too, as the last.
    ///
    /// The token is handed out before the one after it is computed, so that a caller can show it at once.
    pub fn take(&mut self) -> Option<Token> {
        let token = self.upcoming.pop_front()?;
        if self.upcoming.is_empty() {
            self.finish = self.ends_with(token);
        }
        Some(token)
    }

    /// Computes what follows `token`, the last that [`Generation::take`] returned, unless the answer has ended.
    pub fn advance(&mut self, engine: &mut Engine, sequence: &mut Sequence, token: Token) -> Result<(), Error> {
        self.advance_by(engine, sequence, token, None)
    }

    /// The same with guesses of what follows, of which those that are right are computed together: the tokens are
    /// those of [`Generation::advance`], whatever is guessed.
    pub fn speculate(
        &mut self,
        engine: &mut Engine,
        sequence: &mut Sequence,
        token: Token,
        speculator: &mut Speculator,
    ) -> Result<(), Error> {
        self.advance_by(engine, sequence, token, Some(speculator))
    }

    fn advance_by(
        &mut self,
        engine: &mut Engine,
        sequence: &mut Sequence,
        token: Token,
        mut speculator: Option<&mut Speculator>,
    ) -> Result<(), Error> {
        if self.finish.is_some() || !self.upcoming.is_empty() {
            return Ok(());
        }
        if sequence.ids().len() >= engine.context() {
            self.finish = Some(Finish::Context);
            return Ok(());
        }
        // The token itself takes a place, and brings one token of the answer.
        let max = engine.room(sequence).min(self.limits.max_tokens - self.n_tokens).saturating_sub(1);
        let vocab_size = engine.model().config().vocab_size;
        let start = sequence.ids().len();
        let mut ids = vec![token.id];
        let mut started = None;
        if let Some(speculator) = &mut speculator {
            let guesses = speculator.propose(sequence.ids(), token.id, max);
            ids.extend(guesses.iter().take(max).take_while(|id| (**id as usize) < vocab_size));
            started = speculator.now();
        }
        if let Err(error) = engine.verify(sequence, &ids) {
            if ids.len() == 1 {
                return Err(error);
            }
            // Guesses take memory, which may be short; the answer does not depend on them.
            ids.truncate(1);
            started = None;
            engine.verify(sequence, &ids)?;
        }
        let seconds = speculator.as_mut().and_then(|speculator| Some(speculator.now()? - started?));
        self.n_passes += 1;
        let guesses = &ids[1..];
        // How many guesses are right, whether the one behind them is wrong, and how many tokens are computed for good.
        let (mut n_right, mut wrong, mut n_kept) = (0, false, 0);
        let mut damaged = None;
        for (row, logits) in engine.logits().chunks_exact(vocab_size).enumerate() {
            damaged = check_finite(logits, start + row).err();
            if damaged.is_some() {
                break;
            }
            n_kept += 1;
            let picked = self.pick(logits);
            let guess = guesses.get(row);
            let right = guess == Some(&picked.id);
            n_right += usize::from(right);
            wrong = guess.is_some() && !right;
            if !right || self.ends_with(picked).is_some() {
                break;
            }
        }
        engine.truncate(sequence, start + n_kept);
        // Behind a guess that was right, plain decoding says so when it comes there, after the tokens before.
        if let Some(error) = damaged.filter(|_| n_kept == 0) {
            return Err(error);
        }
        if let Some(speculator) = speculator {
            speculator.learn(guesses.len(), n_right, wrong, seconds);
        }
        Ok(())
    }

    /// Forgets the tokens that were not handed out; the sequence then ends before the last token that was. For an answer
    /// that ends before its end.
    pub fn abandon(&mut self, engine: &mut Engine, sequence: &mut Sequence) {
        if self.n_tokens > self.upcoming.len() {
            engine.truncate(sequence, sequence.ids().len() - self.upcoming.len());
        }
        self.upcoming.clear();
    }

    /// Forward passes that the answer took so far, the prompt's not counted.
    pub fn n_passes(&self) -> usize {
        self.n_passes
    }

    /// Why the answer ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }
}
