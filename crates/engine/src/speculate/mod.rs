//! Speculation: guessing the next tokens cheaply, so that one forward pass of the model may yield several.
//!
//! [`Batcher`](crate::Batcher) runs the upcoming token and the guesses behind it in one forward pass, then picks
//! token after token from the logits as it would without guesses. A guess that is what was picked spares a forward
//! pass; the first that is not, and all behind it, are forgotten. Nothing else depends on them: logits do not depend on
//! the batch, picks are made in the same order with the same random numbers, so every answer, sampled ones too, is
//! the one without speculation. (For guesses that are single tokens this is the rule of Leviathan et al. 2023, arXiv
//! 2211.17192, with the random numbers drawn in another order.)
//!
//! Here lives who guesses ([`Drafter`]: [`PromptLookup`], [`DraftModel`]) and how many guesses pay ([`Speculator`]).
//! No clock: whoever has one may lend it, so that costs are measured; without, they are assumed.

mod draft_model;
mod lookup;
mod policy;

pub use draft_model::DraftModel;
pub use lookup::PromptLookup;

use crate::Error;
use policy::{Acceptance, Cost};

/// Guesses of one forward pass at most.
pub const MAX_DRAFT: usize = 15;

/// Somebody who guesses the next tokens of a text.
pub trait Drafter: Send {
    /// The chance that a guess is right, before anything is known, for each class of situations that
    /// [`Drafter::look`] tells apart.
    fn priors(&self) -> &[f64];
    /// What guessing one token takes, in forward passes of the model with one token, before it was measured.
    fn cost(&self) -> f64;
    /// A new text begins.
    fn begin(&mut self);
    /// Sees the text so far, which is that of the last time with more behind it; the class of its situation, or none
    /// where there is nothing to guess from.
    ///
    /// # Errors
    /// When it can't go on; the text goes on without it.
    fn look(&mut self, ids: &[u32]) -> Result<Option<usize>, Error>;
    /// Appends to `out` at most `n` tokens that may follow `ids`, the text that [`Drafter::look`] saw last.
    ///
    /// # Errors
    /// As for `look`.
    fn draft(&mut self, ids: &[u32], n: usize, out: &mut Vec<u32>) -> Result<(), Error>;
    /// Bytes of weights and cache that a model of its own has read so far ([`Engine::bytes_read`](crate::Engine)).
    fn bytes_read(&self) -> u64 {
        0
    }
}

/// What came of the guesses in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Guesses that the model checked.
    pub drafted: usize,
    /// Guesses that were right.
    pub accepted: usize,
}

/// Seconds since some moment.
pub type Clock = Box<dyn FnMut() -> f64 + Send>;

/// Decides who guesses and how much, from what came of earlier guesses and from what they cost.
pub struct Speculator {
    guessers: Vec<Guesser>,
    cost: Cost,
    clock: Option<Clock>,
    /// The text so far.
    ids: Vec<u32>,
    /// The guesses to be checked.
    draft: Vec<u32>,
    /// Whose they are, and of which class.
    author: Option<(usize, usize)>,
    counts: Drafted,
    failure: Option<Error>,
}

/// A drafter and what is known of it.
struct Guesser {
    drafter: Box<dyn Drafter>,
    classes: Vec<Acceptance>,
    /// Forward passes of the model that guessing one token takes.
    cost: f64,
    failed: bool,
}

impl Speculator {
    /// With these drafters; in each situation the one that promises most guesses. With a clock the cost of checking and
    /// of guessing is measured.
    pub fn new(drafters: Vec<Box<dyn Drafter>>, clock: Option<Clock>) -> Speculator {
        let guesser = |drafter: Box<dyn Drafter>| Guesser {
            classes: drafter.priors().iter().map(|prior| Acceptance::new(*prior)).collect(),
            cost: drafter.cost(),
            failed: false,
            drafter,
        };
        Speculator {
            guessers: drafters.into_iter().map(guesser).collect(),
            cost: Cost::new(clock.is_some()),
            clock,
            ids: Vec::new(),
            draft: Vec::new(),
            author: None,
            counts: Drafted::default(),
            failure: None,
        }
    }

    /// A new answer begins. What is known of costs and chances stays.
    pub fn begin(&mut self) {
        self.ids.clear();
        self.counts = Drafted::default();
        self.failure = None;
        for guesser in &mut self.guessers {
            guesser.failed = false;
            guesser.drafter.begin();
        }
    }

    /// What came of the guesses since [`Speculator::begin`].
    pub fn counts(&self) -> Drafted {
        self.counts
    }

    /// Why a drafter gave up since [`Speculator::begin`], if one did. The answer went on without it.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Bytes of weights and cache that the drafters' own models have read so far.
    pub fn bytes_read(&self) -> u64 {
        self.guessers.iter().map(|guesser| guesser.drafter.bytes_read()).sum()
    }

    /// Guesses at most `max` tokens that follow `id`, which follows the `computed` ones.
    pub(crate) fn propose(&mut self, computed: &[u32], id: u32, max: usize) -> &[u32] {
        // What is here is a beginning of the text, unless another text began without a word.
        if !computed.starts_with(&self.ids) {
            self.begin();
        }
        self.ids.extend_from_slice(&computed[self.ids.len()..]);
        self.ids.push(id);
        self.draft.clear();
        self.author = None;
        let max = max.min(MAX_DRAFT);
        let mut best: Option<(f64, usize, usize, usize)> = None;
        for (who, guesser) in self.guessers.iter_mut().enumerate().filter(|(_, guesser)| !guesser.failed) {
            let class = match guesser.drafter.look(&self.ids) {
                Ok(class) => class,
                Err(error) => {
                    guesser.failed = true;
                    self.failure = Some(error);
                    None
                }
            };
            let Some(class) = class else { continue };
            let (n, gain) = guesser.classes[class].best(&self.cost, guesser.cost, max);
            if n > 0 && best.is_none_or(|(best, ..)| gain > best) {
                best = Some((gain, who, class, n));
            }
        }
        if let Some((_, who, class, n)) = best.filter(|_| !self.cost.wants_plain()) {
            let guesser = &mut self.guessers[who];
            let start = self.clock.as_mut().map(|clock| clock());
            if let Err(error) = guesser.drafter.draft(&self.ids, n, &mut self.draft) {
                guesser.failed = true;
                self.failure = Some(error);
                self.draft.clear();
            }
            self.draft.truncate(n);
            if let (Some(start), Some(clock)) = (start, &mut self.clock) {
                let each = (clock() - start) / self.draft.len().max(1) as f64;
                self.cost.learn_relative(&mut guesser.cost, each);
            }
            self.author = Some((who, class));
        }
        &self.draft
    }

    /// Seconds, where there is a clock.
    pub(crate) fn now(&mut self) -> Option<f64> {
        self.clock.as_mut().map(|clock| clock())
    }

    /// Tells what came of the guesses: `n_right` were right, and the one behind them was `wrong`, or none was looked at.
    /// The model took `seconds` for a forward pass of them all and the token in front.
    pub(crate) fn learn(&mut self, n_drafted: usize, n_right: usize, wrong: bool, seconds: Option<f64>) {
        if let Some(seconds) = seconds {
            self.cost.learn(n_drafted, seconds);
        }
        self.counts.drafted += n_drafted;
        self.counts.accepted += n_right;
        if let Some((who, class)) = self.author.take().filter(|_| n_drafted > 0) {
            self.guessers[who].classes[class].learn(n_right, wrong);
        }
    }
}
