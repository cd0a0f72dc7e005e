//! One conversation with a model.

use crate::Error;
use crate::constraint::{Grammar, GrammarCompiler};
use crate::text::AnswerText;
use puna_engine::{
    BatchLimits, Batcher, Constraint, Drafter, Engine, Limits, PromptLookup, Request, Sampling, Scored, Speculator,
};
use puna_text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A model that answers, one conversation at a time; what a prompt shares with the one before is not computed again.
pub struct Session {
    batcher: Batcher,
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end an answer.
    stop_tokens: Vec<u32>,
    /// Made for the first grammar.
    grammars: Option<GrammarCompiler>,
}

/// How to answer.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How to sample.
    pub sampling: Sampling,
    /// Tokens at most; none for as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Goes on after the model's own end tokens, and shows special tokens.
    pub ignore_end: bool,
    /// What the answer may look like. It ends by the model's end tokens, so they must not be passed over.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// What happens while an answer is made.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// So many of the prompt's tokens are computed.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens to do: those that were not in the cache.
        total: usize,
    },
    /// One more token, and what that adds to the answer: whole characters, or nothing.
    Text(&'a str),
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its tokens, the stop token included.
    pub ids: Vec<u32>,
    /// Natural logarithm of each token's probability under the model.
    pub logprobs: Vec<f32>,
    /// Its text.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// `stop`, `length` or `cancelled`.
    pub finish_reason: &'static str,
    /// The end token that the model chose, if it did.
    pub stop_token: Option<u32>,
    /// How long it took.
    pub timings: Timings,
    /// Why a drafter gave up, if one did. The answer does not depend on it.
    pub draft_error: Option<String>,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Prompt tokens that were computed; the rest was in the cache.
    pub prefill_tokens: usize,
    /// From the call to the logits after the prompt.
    pub prefill: Duration,
    /// Tokens of the answer that were computed: all but the last.
    pub decode_tokens: usize,
    /// Forward passes that took: as many as tokens without speculation, fewer with it.
    pub decode_passes: usize,
    /// Bytes of weights and cache that these passes read, and those of a draft model.
    pub decode_bytes: u64,
    /// From then to the end.
    pub decode: Duration,
    /// Guesses at the answer's tokens that were checked.
    pub drafted: usize,
    /// Guesses that were right.
    pub accepted: usize,
}

impl Timings {
    /// Prompt tokens a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prefill_tokens as f64, self.prefill)
    }

    /// Generated tokens a second.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_tokens as f64, self.decode)
    }

    /// Bytes of weights and cache read a second while generating. A pass reads them once, however many tokens it yields.
    pub fn decode_bandwidth(&self) -> f64 {
        rate(self.decode_bytes as f64, self.decode)
    }

    /// The share of the guesses that were right; none where nothing was guessed.
    pub fn acceptance_rate(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }
}

fn rate(n: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n / time.as_secs_f64() }
}

impl Session {
    /// A session with an empty conversation. It guesses tokens by prompt lookup where that pays.
    pub fn new(engine: Engine, tokenizer: Tokenizer, stop_tokens: Vec<u32>) -> Session {
        let batcher = Batcher::new(engine, None, BatchLimits::default());
        let mut session = Session { batcher, tokenizer: Arc::new(tokenizer), stop_tokens, grammars: None };
        session.set_drafters(vec![Box::new(PromptLookup::new())]);
        session
    }

    /// Lets these guess the next tokens, or nobody. Answers take more or less time for it, and are the same.
    pub fn set_drafters(&mut self, drafters: Vec<Box<dyn Drafter>>) {
        self.batcher.set_speculator((!drafters.is_empty()).then(|| speculator(drafters)));
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// A constraint for answers that look like this. For the 128,256 tokens of Llama 3 the first one takes a second.
    ///
    /// # Errors
    /// The grammar can't be used, or the vocabulary can't.
    pub fn constraint(&mut self, grammar: &Grammar) -> Result<Box<dyn Constraint>, Error> {
        let grammars = match &mut self.grammars {
            Some(grammars) => grammars,
            none => none.insert(GrammarCompiler::new(self.tokenizer.clone(), &self.stop_tokens)?),
        };
        Ok(Box::new(grammars.compile(grammar)?))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        self.batcher.engine()
    }

    /// Answers a prompt of token ids. `on_event` is told of everything as it happens, and ends the answer by
    /// `ControlFlow::Break`.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        options: &Options,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer, Error> {
        let start = Instant::now();
        let stop_tokens = if options.ignore_end { Vec::new() } else { self.stop_tokens.clone() };
        let limits = Limits { max_tokens: options.max_tokens.unwrap_or(usize::MAX), stop_tokens: stop_tokens.clone() };
        let request = Request::new(prompt.to_vec(), options.sampling.clone(), limits);
        let constraint = options.constraint.clone();
        let id = self.batcher.submit(Request { seed: random_seed(), constraint, ..request })?;
        let mut answer = Answer {
            ids: Vec::new(),
            logprobs: Vec::new(),
            text: String::new(),
            prompt_tokens: prompt.len(),
            finish_reason: "cancelled",
            stop_token: None,
            timings: Timings::default(),
            draft_error: None,
        };
        let mut text = AnswerText::new(&self.tokenizer, &options.stop, stop_tokens, options.ignore_end);
        // When the first token came, and what had been read by then.
        let (mut decode_start, mut read_before) = (None, None);
        let mut end = None;
        while end.is_none() {
            answer.timings.decode_passes += usize::from(decode_start.is_some());
            self.batcher.step(&mut |_, event| {
                // What comes of the same step behind the end is no part of the answer.
                if end.is_some() {
                    return;
                }
                let (text, more) = match event {
                    puna_engine::Event::Prefill { done, total, .. } => {
                        answer.timings.prefill_tokens = done;
                        if on_event(Event::Prefill { done, total }).is_break() && done < total {
                            end = Some(End::Cancelled);
                        }
                        return;
                    }
                    puna_engine::Event::Token(Scored { token, .. }) => {
                        if decode_start.is_none() {
                            answer.timings.prefill = start.elapsed();
                            decode_start = Some(Instant::now());
                        }
                        answer.ids.push(token.id);
                        answer.logprobs.push(token.logprob);
                        let (piece, stopped) = text.push(token.id);
                        if stopped {
                            end = Some(End::StopString);
                        }
                        // An end token is no text, not even an empty one.
                        (piece, text.stop_token().is_none())
                    }
                    puna_engine::Event::Finished(_) => {
                        let rest = text.finish();
                        end = Some(End::Finished);
                        let more = !rest.is_empty();
                        (rest, more)
                    }
                    puna_engine::Event::Failed(error) => {
                        end = Some(End::Failed(error));
                        return;
                    }
                    puna_engine::Event::PromptScore { .. } | puna_engine::Event::Pooled(_) => return,
                };
                answer.text += &text;
                if more && on_event(Event::Text(&text)).is_break() && end.is_none() {
                    end = Some(End::Cancelled);
                }
            });
            if decode_start.is_some() && read_before.is_none() {
                read_before = Some(self.batcher.bytes_read());
            }
        }
        self.batcher.cancel(id);
        answer.finish_reason = match end {
            Some(End::Failed(error)) => return Err(error.into()),
            Some(End::Cancelled) | None => "cancelled",
            Some(End::StopString) => "stop",
            Some(End::Finished) if text.stop_token().is_some() || text.stop_string().is_some() => "stop",
            Some(End::Finished) => "length",
        };
        answer.stop_token = text.stop_token();
        let timings = &mut answer.timings;
        timings.decode_tokens = answer.ids.len().saturating_sub(1);
        match (decode_start, read_before) {
            (Some(decode_start), Some(read_before)) => {
                timings.decode = decode_start.elapsed();
                timings.decode_bytes = self.batcher.bytes_read() - read_before;
            }
            _ => timings.prefill = start.elapsed(),
        }
        if let Some(speculator) = self.batcher.speculator() {
            let counts = speculator.counts();
            (timings.drafted, timings.accepted) = (counts.drafted, counts.accepted);
            answer.draft_error = speculator.failure().map(ToString::to_string);
        }
        Ok(answer)
    }
}

/// How an answer ended.
enum End {
    Finished,
    StopString,
    Cancelled,
    Failed(puna_engine::Error),
}

/// A speculator that measures with this machine's clock.
pub fn speculator(drafters: Vec<Box<dyn Drafter>>) -> Speculator {
    let start = Instant::now();
    Speculator::new(drafters, Some(Box::new(move || start.elapsed().as_secs_f64())))
}

/// A seed for an answer whose sampling names none.
pub fn random_seed() -> u64 {
    // The standard library's hasher keys are random and need no further dependency.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
