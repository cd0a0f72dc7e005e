//! One conversation with a model.

use crate::Error;
use crate::stop::StopStrings;
use puna_engine::{Drafter, Engine, Finish, Generation, Limits, PromptLookup, Sampler, Sampling, Sequence, Speculator};
use puna_text::Tokenizer;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A model that answers, one conversation at a time; what a prompt shares with the one before is not computed again.
pub struct Session {
    engine: Engine,
    tokenizer: Tokenizer,
    sequence: Sequence,
    /// Tokens that end an answer.
    stop_tokens: Vec<u32>,
    /// None without drafters.
    speculator: Option<Speculator>,
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
        let mut session = Session { engine, tokenizer, sequence: Sequence::default(), stop_tokens, speculator: None };
        session.set_drafters(vec![Box::new(PromptLookup::new())]);
        session
    }

    /// Lets these guess the next tokens, or nobody. Answers take more or less time for it, and are the same.
    pub fn set_drafters(&mut self, drafters: Vec<Box<dyn Drafter>>) {
        let start = Instant::now();
        let clock = Box::new(move || start.elapsed().as_secs_f64());
        self.speculator = (!drafters.is_empty()).then(|| Speculator::new(drafters, Some(clock)));
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to be used directly.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Bytes of weights and cache that the model and its drafters have read so far.
    fn bytes_read(&self) -> u64 {
        self.engine.bytes_read() + self.speculator.as_ref().map_or(0, Speculator::bytes_read)
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
        let vocab_size = self.engine.model().config().vocab_size;
        let sampler = Sampler::new(options.sampling.clone(), vocab_size, prompt, random_seed())?;
        let limits = Limits {
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            stop_tokens: if options.ignore_end { Vec::new() } else { self.stop_tokens.clone() },
        };
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
        let timings = &mut answer.timings;
        let logits = self.engine.prefill(&mut self.sequence, prompt, &mut |done, total| {
            timings.prefill_tokens = done;
            on_event(Event::Prefill { done, total }).is_continue()
        })?;
        timings.prefill = start.elapsed();
        let Some(logits) = logits else { return Ok(answer) };
        let mut generation = Generation::new(sampler, limits, logits);
        if let Some(speculator) = &mut self.speculator {
            speculator.begin();
        }
        let mut decoder = self.tokenizer.decoder().show_specials(options.ignore_end);
        let mut stops = StopStrings::new(&options.stop);
        let (decode_start, read_before) = (Instant::now(), self.bytes_read());
        let mut ended = false;
        while let Some(token) = generation.take() {
            answer.ids.push(token.id);
            answer.logprobs.push(token.logprob);
            if !matches!(generation.finish(), Some(Finish::Stop(_))) {
                let (text, stopped) = stops.push(&decoder.push(token.id));
                answer.text += &text;
                let cancelled = on_event(Event::Text(&text)).is_break();
                if stopped || cancelled {
                    answer.finish_reason = if stopped { "stop" } else { "cancelled" };
                    ended = true;
                    break;
                }
            }
            match &mut self.speculator {
                Some(speculator) => {
                    generation.speculate(&mut self.engine, &mut self.sequence, token, speculator)?;
                }
                None => generation.advance(&mut self.engine, &mut self.sequence, token)?,
            }
        }
        // What was computed ahead of an answer that ended early is no part of the conversation.
        generation.abandon(&mut self.engine, &mut self.sequence);
        if !ended {
            let (mut text, stopped) = stops.push(&decoder.finish());
            if !stopped {
                text += &stops.finish();
            }
            answer.text += &text;
            if !text.is_empty() {
                // The answer is complete; there is nothing left to break off.
                let _ = on_event(Event::Text(&text));
            }
            answer.finish_reason = match generation.finish() {
                Some(Finish::Stop(id)) => {
                    answer.stop_token = Some(id);
                    "stop"
                }
                _ if stopped => "stop",
                _ => "length",
            };
        }
        answer.timings.decode_tokens = answer.ids.len().saturating_sub(1);
        answer.timings.decode_passes = generation.n_passes();
        answer.timings.decode = decode_start.elapsed();
        answer.timings.decode_bytes = self.bytes_read() - read_before;
        if let Some(speculator) = &self.speculator {
            let counts = speculator.counts();
            (answer.timings.drafted, answer.timings.accepted) = (counts.drafted, counts.accepted);
            answer.draft_error = speculator.failure().map(ToString::to_string);
        }
        Ok(answer)
    }
}

/// A seed for an answer whose sampling names none.
fn random_seed() -> u64 {
    // The standard library's hasher keys are random and need no further dependency.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
