//! puna.

use crate::{CONTEXT, Runner};
use anyhow::Result;
use puna_cpu::Cpu;
use puna_engine::{Engine, Sequence};
use puna_llama::{KvFormat, Llama, LoadOptions};
use std::path::Path;

pub struct Puna {
    engine: Engine,
    sequence: Sequence,
}

impl Puna {
    pub fn new(file: &Path, threads: usize) -> Result<Puna> {
        let options = LoadOptions { kv_format: KvFormat::F16, cache_tokens: CONTEXT, max_batch: 512 };
        let model = Llama::load(Cpu::new(threads), &puna_checkpoint::open(file)?, options, &mut |_, _| ())?;
        Ok(Puna { engine: Engine::new(Box::new(model), CONTEXT), sequence: Sequence::default() })
    }
}

impl Runner for Puna {
    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        self.engine.prefill(&mut self.sequence, ids, &mut |_, _| true)?;
        Ok(())
    }

    fn decode(&mut self, id: u32) -> Result<()> {
        self.engine.decode(&mut self.sequence, id)?;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.engine.truncate(&mut self.sequence, 0);
        Ok(())
    }
}
