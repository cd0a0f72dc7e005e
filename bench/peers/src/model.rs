//! The files, written by `puna synth`: random weights run as fast as any.

use anyhow::{Context, Result};
use puna_checkpoint::synth::{Container, Shape, Weights, write};
use puna_checkpoint::{Name, WeightFormat};
use puna_llama::KvFormat;
use std::path::{Path, PathBuf};

pub const SHAPES: [&str; 2] = ["llama-3.2-1b", "llama-3.1-8b"];
pub const FORMATS: [&str; 4] = ["Q4_0", "Q4_K_M", "Q8_0", "F16"];

/// A shape in a format.
pub struct Model {
    pub shape: &'static str,
    pub format: &'static str,
    pub path: PathBuf,
    pub bytes: u64,
    /// Bytes of the embedding in f32.
    pub f32_embedding: u64,
    /// Bytes of a token's keys and values in f16.
    pub kv_bytes: u64,
}

impl Model {
    /// The file of a shape in a format, written if it is not there.
    pub fn new(dir: &Path, shape: &'static str, format: &'static str) -> Result<Model> {
        let path = dir.join(format!("{shape}-{format}.gguf"));
        let sizes = Shape::named(shape).context("a named shape")?;
        if !path.exists() {
            let synth: WeightFormat = format.parse().ok().context("a format that synth writes")?;
            let bar = indicatif::ProgressBar::new(0).with_message(path.display().to_string());
            write(&sizes, synth, Container::Gguf, &path, Weights::Random { seed: 0 }, &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
        }
        let config = sizes.config();
        let (rows, cols) = config.shape(Name::TokenEmbedding);
        let kv_bytes = 2 * config.n_layers * config.n_kv_heads * KvFormat::F16.head_bytes(config.head_dim);
        let bytes = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        Ok(Model { shape, format, path, bytes, f32_embedding: (rows * cols * 4) as u64, kv_bytes: kv_bytes as u64 })
    }
}
