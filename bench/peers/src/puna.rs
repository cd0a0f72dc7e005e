//! puna.

use crate::phase::{Limit, Phase, Runner, UBATCH};
use anyhow::Result;
use puna_cpu::Cpu;
use puna_engine::{Engine, Sequence};
use puna_llama::{KvFormat, Llama, LoadOptions, operations};
use std::path::Path;

pub struct Puna {
    engine: Engine,
    sequences: Vec<Sequence>,
}

impl Puna {
    /// Loads a model whose cache has room for each of the phases; it takes memory as it is filled.
    pub fn new(file: &Path, cpu: Cpu, phases: &[Phase]) -> Result<Puna> {
        let context = phases.iter().map(|phase| phase.context()).max().unwrap_or(0);
        let cache_tokens = phases.iter().map(|phase| phase.context() * phase.sequences()).max().unwrap_or(0);
        let options = LoadOptions { kv_format: KvFormat::F16, cache_tokens, max_batch: UBATCH };
        let model = Llama::load(cpu, &puna_checkpoint::open(file)?, options, &mut |_, _| ())?;
        Ok(Puna { engine: Engine::new(Box::new(model), context), sequences: Vec::new() })
    }

    /// What a token of a phase costs in the mean, whoever computes it: FLOP or bytes, as `puna bench` counts them.
    pub fn per_token(&self, phase: Phase) -> f64 {
        let (model, filled, tokens) = (self.engine.model(), phase.filled(), phase.tokens());
        match phase.limit() {
            Limit::F32Peak => operations(model.config(), filled, tokens, 1) as f64 / tokens as f64,
            Limit::Bandwidth => {
                // A step reads the weights once for all sequences, and each sequence's keys and values.
                let weights = model.bytes_per_token() as f64 / phase.sequences() as f64;
                let kv: u64 = (1..=tokens).map(|n| model.kv_shape().bytes_at(filled + n)).sum();
                weights + kv as f64 / tokens as f64
            }
        }
    }
}

impl Runner for Puna {
    fn start(&mut self, phase: Phase) -> Result<()> {
        self.truncate(0)?;
        self.sequences = (0..phase.sequences()).map(|_| Sequence::default()).collect();
        Ok(())
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        self.engine.prefill(&mut self.sequences[0], ids, &mut |_, _| true)?;
        Ok(())
    }

    fn decode(&mut self, ids: &[u32]) -> Result<()> {
        match (&mut self.sequences[..], ids) {
            ([sequence], [id]) => self.engine.decode(sequence, *id)?,
            (sequences, ids) => self.engine.decode_together(&mut sequences.iter_mut().collect::<Vec<_>>(), ids)?,
        };
        Ok(())
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        self.sequences.iter_mut().for_each(|sequence| self.engine.truncate(sequence, len));
        Ok(())
    }
}
