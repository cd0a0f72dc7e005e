//! Whom puna is beside, what they can't do, and what they take.

use crate::candle;
use crate::model::Model;
use crate::phase::Phase;
use clap::ValueEnum;

/// Whom puna is beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    #[value(name = "llama.cpp")]
    LlamaCpp,
    Candle,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::LlamaCpp => "llama.cpp",
            Peer::Candle => "candle",
        }
    }

    /// Why it can't run a phase.
    pub fn refuses(self, phase: Phase) -> Option<String> {
        match self {
            Peer::LlamaCpp => None,
            Peer::Candle => candle::refuses(phase),
        }
    }

    /// Bytes that its weights take, about, beside the mapped file, which it shares with puna.
    pub fn bytes(self, model: &Model) -> u64 {
        match (self, model.format) {
            // Floats stay where they are mapped; the others may be repacked.
            (Peer::LlamaCpp, "F16") => 0,
            (Peer::LlamaCpp, _) => model.bytes,
            // Nothing is mapped, and the embedding is f32. K-quants and Q8_0 stay beside their repacked form; floats all
            // become f32.
            (Peer::Candle, format) => model.f32_embedding + model.bytes * if format == "Q4_0" { 1 } else { 2 },
        }
    }
}
