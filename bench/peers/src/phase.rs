//! What is measured, and what a runner must do for it.

use anyhow::Result;
use clap::ValueEnum;
use std::time::{Duration, Instant};

/// Tokens of a prompt, and of the batches in which longer ones are computed.
const PROMPT: usize = 512;
pub const UBATCH: usize = 512;
const TOKENS: usize = 128;
const MIDDLE: usize = 4000;
const DEPTH: usize = 16_384;
const DEPTH_TOKENS: usize = 32;
const STEPS: usize = 64;

/// For the threads of the one before to fall asleep.
pub const PAUSE: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// A prompt of 512 tokens
    Prefill,
    /// 128 tokens, one by one, from an empty cache
    Decode,
    /// 32 tokens behind 4000
    Middle,
    /// 32 tokens behind 16384
    Depth,
    /// Four sequences of 64 tokens, four tokens a step
    Together,
    /// Eight sequences of 64 tokens, eight tokens a step
    Eight,
}

/// What of the machine bounds a phase.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes a second that are read from memory
    Bandwidth,
    /// FLOP a second in f32
    F32Peak,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Limit::Bandwidth => "memory bandwidth",
            Limit::F32Peak => "f32 peak",
        }
    }

    /// A billion of what it counts, a second.
    pub fn unit(self) -> &'static str {
        match self {
            Limit::Bandwidth => "GB/s",
            Limit::F32Peak => "GFLOP/s",
        }
    }
}

impl Phase {
    pub fn name(self) -> String {
        match self {
            Phase::Prefill => format!("prefill {PROMPT}"),
            Phase::Decode => format!("decode {TOKENS}"),
            Phase::Middle | Phase::Depth => format!("decode {DEPTH_TOKENS} at {}", self.filled()),
            Phase::Together | Phase::Eight => format!("decode {} x {STEPS}", self.sequences()),
        }
    }

    /// What bounds it.
    pub fn limit(self) -> Limit {
        if self == Phase::Prefill { Limit::F32Peak } else { Limit::Bandwidth }
    }

    /// Tokens of a turn in each sequence.
    pub fn tokens(self) -> usize {
        match self {
            Phase::Prefill => PROMPT,
            Phase::Decode => TOKENS,
            Phase::Middle | Phase::Depth => DEPTH_TOKENS,
            Phase::Together | Phase::Eight => STEPS,
        }
    }

    pub fn sequences(self) -> usize {
        match self {
            Phase::Together => 4,
            Phase::Eight => 8,
            _ => 1,
        }
    }

    /// Room for a sequence, in tokens: llama.cpp has it in steps of 256.
    pub fn context(self) -> usize {
        (self.filled() + self.tokens()).next_multiple_of(256)
    }

    /// Tokens in the cache before a turn.
    pub fn filled(self) -> usize {
        match self {
            Phase::Middle => MIDDLE,
            Phase::Depth => DEPTH,
            _ => 0,
        }
    }

    /// One turn, in tokens a second. It leaves the cache as it was.
    pub fn turn(self, runner: &mut dyn Runner) -> Result<f64> {
        let ids = ids(self.tokens() * self.sequences());
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        match self {
            Phase::Prefill => runner.prefill(&ids)?,
            _ => ids.chunks(self.sequences()).try_for_each(|ids| runner.decode(ids))?,
        }
        let seconds = start.elapsed().as_secs_f64();
        runner.truncate(self.filled())?;
        Ok(ids.len() as f64 / seconds)
    }
}

/// Who runs a model. Its sequences are equally long.
pub trait Runner {
    /// Forgets everything and makes room for what the phase needs.
    fn start(&mut self, phase: Phase) -> Result<()>;
    /// Computes a prompt in the first sequence, which is empty; the logits after it are wanted.
    fn prefill(&mut self, ids: &[u32]) -> Result<()>;
    /// Computes one token, and its logits, in each sequence of the phase: all in one batch.
    fn decode(&mut self, ids: &[u32]) -> Result<()>;
    /// Forgets each sequence's tokens from `len` on.
    fn truncate(&mut self, len: usize) -> Result<()>;
}

/// Tokens of no meaning, the same for all.
pub fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| i * 7919 % 128_000).collect()
}
