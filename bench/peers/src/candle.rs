//! candle, in Rust: its quantized Llama, which reads GGUF.
//!
//! What its interface lacks is not made up for: positions end at 4096, and the cache can only be emptied. Several
//! sequences run as one batch, which its model allows while all of them are equally long. Keys and values are f32.

use crate::phase::{Phase, Runner};
use anyhow::{Context, Result, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Settles what candle reads from the environment when it first computes: its threads, and whether it leaves what is
/// newer than AVX2.
///
/// # Safety
/// No other thread runs yet.
pub unsafe fn configure(threads: usize, avx2: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        std::env::set_var("CANDLE_NUM_THREADS", threads.to_string());
        if avx2 {
            // candle-core's own, whatever its name.
            std::env::set_var("MISTRALRS_FORCE_AVX2", "1");
        }
    }
    candle_core::utils::init_global_threadpool();
}

/// Why a phase can't be run.
pub fn refuses(phase: Phase) -> Option<String> {
    (phase.context() > MAX_SEQ_LEN).then(|| format!("its Llama ends at position {MAX_SEQ_LEN}"))
}

pub struct Candle {
    model: ModelWeights,
    /// Tokens in each sequence.
    len: usize,
}

impl Candle {
    pub fn new(file: &Path) -> Result<Candle> {
        let mut reader = BufReader::new(File::open(file).with_context(|| file.display().to_string())?);
        let content = Content::read(&mut reader)?;
        Ok(Candle { model: ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?, len: 0 })
    }

    /// Computes the next tokens of each sequence, `ids` being `[sequences, tokens]`.
    fn forward(&mut self, ids: &[u32], shape: (usize, usize)) -> Result<()> {
        // Its own threads: without them products of some formats run on one.
        let ids = Tensor::from_slice(ids, shape, &Device::Cpu)?;
        Device::Cpu.with_context(|| self.model.forward(&ids, self.len))?;
        self.len += shape.1;
        Ok(())
    }
}

impl Runner for Candle {
    fn start(&mut self, _: Phase) -> Result<()> {
        self.truncate(0)
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        self.forward(ids, (1, ids.len()))
    }

    fn decode(&mut self, ids: &[u32]) -> Result<()> {
        self.forward(ids, (ids.len(), 1))
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        ensure!(len == 0, "candle's cache can only be emptied");
        self.model.clear_kv_cache();
        self.len = 0;
        Ok(())
    }
}
