//! llama.cpp, through its binding, with flash attention.

use crate::{CONTEXT, Runner};
use anyhow::Result;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
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
}

pub struct Model<'a> {
    backend: &'a LlamaBackend,
    model: LlamaModel,
}

impl Model<'_> {
    pub fn context(&self, threads: usize) -> Result<LlamaCpp<'_>> {
        let threads = i32::try_from(threads)?;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT as u32))
            .with_n_batch(512)
            .with_n_ubatch(512)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            // LLAMA_FLASH_ATTN_TYPE_ENABLED
            .with_flash_attention_policy(1);
        let context = self.model.new_context(self.backend, params)?;
        Ok(LlamaCpp { context, batch: LlamaBatch::new(512, 1), position: 0 })
    }
}

pub struct LlamaCpp<'a> {
    context: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    position: i32,
}

impl Runner for LlamaCpp<'_> {
    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        let last = self.position + ids.len() as i32 - 1;
        for chunk in ids.chunks(512) {
            self.batch.clear();
            for id in chunk {
                self.batch.add(LlamaToken(*id as i32), self.position, &[0], self.position == last)?;
                self.position += 1;
            }
            self.context.decode(&mut self.batch)?;
        }
        // It may compute later than asked; reading waits for it.
        self.context.synchronize();
        Ok(())
    }

    fn decode(&mut self, id: u32) -> Result<()> {
        self.prefill(&[id])
    }

    fn clear(&mut self) -> Result<()> {
        self.context.clear_kv_cache();
        self.position = 0;
        Ok(())
    }
}
