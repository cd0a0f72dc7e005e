//! llama.cpp, through its binding: flash attention, keys and values in f16, OpenMP as its own builds have it.

use crate::phase::{Phase, Runner, UBATCH};
use anyhow::{Context, Result, ensure};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use std::ffi::CStr;
use std::num::NonZeroU32;
use std::path::Path;

/// The library, once a process.
pub struct Backend(LlamaBackend);

impl Backend {
    pub fn new() -> Result<Backend> {
        let mut backend = LlamaBackend::init()?;
        backend.void_logs();
        Ok(Backend(backend))
    }

    pub fn load(&self, file: &Path) -> Result<Model<'_>> {
        Ok(Model { backend: &self.0, model: LlamaModel::load_from_file(&self.0, file, &LlamaModelParams::default())? })
    }

    /// What it was built with, in its own words.
    pub fn describe(&self) -> String {
        // SAFETY: a string that ends in 0 and lives until the next call; this thread makes the only one.
        let info = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
        info.to_string_lossy().trim_matches([' ', '|']).to_owned()
    }
}

pub struct Model<'a> {
    backend: &'a LlamaBackend,
    model: LlamaModel,
}

impl Model<'_> {
    pub fn runner(&self, threads: usize) -> LlamaCpp<'_> {
        LlamaCpp { model: self, threads, context: None, batch: LlamaBatch::new(UBATCH, 1), len: 0 }
    }

    fn context(&self, phase: Phase, threads: usize) -> Result<LlamaContext<'_>> {
        let threads = i32::try_from(threads)?;
        // Each sequence has its own part of the cache, which is what reads least: the library's default.
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new((phase.context() * phase.sequences()) as u32))
            .with_n_seq_max(phase.sequences() as u32)
            .with_type_k(KvCacheType::F16)
            .with_type_v(KvCacheType::F16)
            .with_n_batch(UBATCH as u32)
            .with_n_ubatch(UBATCH as u32)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            // LLAMA_FLASH_ATTN_TYPE_ENABLED
            .with_flash_attention_policy(1);
        Ok(self.model.new_context(self.backend, params)?)
    }
}

pub struct LlamaCpp<'a> {
    model: &'a Model<'a>,
    threads: usize,
    /// Of the phase; the cache is taken whole when it is made.
    context: Option<LlamaContext<'a>>,
    batch: LlamaBatch<'static>,
    /// Tokens in each sequence.
    len: usize,
}

impl LlamaCpp<'_> {
    fn compute(&mut self) -> Result<()> {
        let context = self.context.as_mut().context("a phase has begun")?;
        context.decode(&mut self.batch)?;
        // It may compute later than asked; reading waits for it.
        context.synchronize();
        Ok(())
    }
}

impl Runner for LlamaCpp<'_> {
    fn start(&mut self, phase: Phase) -> Result<()> {
        // The old cache goes before the new one comes.
        self.context = None;
        self.context = Some(self.model.context(phase, self.threads)?);
        self.len = 0;
        Ok(())
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        let last = self.len + ids.len() - 1;
        for chunk in ids.chunks(UBATCH) {
            self.batch.clear();
            for id in chunk {
                self.batch.add(LlamaToken(*id as i32), self.len as i32, &[0], self.len == last)?;
                self.len += 1;
            }
            self.compute()?;
        }
        Ok(())
    }

    fn decode(&mut self, ids: &[u32]) -> Result<()> {
        self.batch.clear();
        for (sequence, id) in ids.iter().enumerate() {
            self.batch.add(LlamaToken(*id as i32), self.len as i32, &[sequence as i32], true)?;
        }
        self.len += 1;
        self.compute()
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        let context = self.context.as_mut().context("a phase has begun")?;
        ensure!(context.clear_kv_cache_seq(None, Some(len as u32), None)?, "llama.cpp keeps what it should forget");
        self.len = len;
        Ok(())
    }
}
