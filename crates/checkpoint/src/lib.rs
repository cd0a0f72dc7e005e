//! Weights on disk: every form in which a Llama is published, opened in place.
//!
//! [`open`] takes a Hugging Face directory and gives one [`Checkpoint`]: canonical
//! names, sizes inside closed ranges, tensors as checked ranges of mapped files. Nothing is copied or permuted, and
//! nothing here computes with weights. Every tensor in a file is claimed, or opening fails and names it.
//!
//! Whatever a file says is checked before it is believed: see the limits in each reader.
//!
//! Modules import only from those below them.

mod config;
mod error;
mod hugging_face;
mod json;
mod mapped;
mod name;
pub mod safetensors;
mod tensor;

pub use config::{Config, ConfigError, Rope, RopePairing, RopeScaling};
pub use error::Error;
pub use mapped::Bytes;
pub use name::{LayerTensor, Name};
pub use tensor::{Part, Tensor};

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Opens the model at `path`: a directory as published by Hugging Face.
///
/// # Errors
/// When the files are no model, or not whole, or say something impossible; the message names file, field, expected and
/// found.
pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    if path.join("config.json").is_file() {
        return hugging_face::open(path);
    }
    std::fs::metadata(path).map_err(Error::io(path))?;
    Err(Error::NotAModel { path: path.to_owned(), why: "expected a directory with a config.json".into() })
}

/// A model's weights and what came with them.
#[derive(Debug)]
pub struct Checkpoint {
    /// How it was published.
    pub layout: Layout,
    /// Sizes and constants.
    pub config: Config,
    /// How its publisher would sample from it.
    pub generation: Generation,
    /// Where its tokenizer is.
    pub tokenizer: TokenizerSource,
    /// Its Jinja chat template.
    pub chat_template: Option<String>,
    /// The files with the weights.
    pub files: Vec<FileInfo>,
    tensors: BTreeMap<Name, Tensor>,
}

impl Checkpoint {
    /// A tensor by its canonical name.
    pub fn tensor(&self, name: Name) -> Option<&Tensor> {
        self.tensors.get(&name)
    }

    /// All tensors, in canonical order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::n_bytes).sum()
    }
}

/// How a model was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` and safetensors.
    HuggingFace,
}

/// A file with weights.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What a publisher recommends for sampling, as far as the files say.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Begin-of-text token.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Padding token.
    pub pad: Option<u32>,
    /// Whether to sample at all; greedy otherwise.
    pub do_sample: Option<bool>,
    /// Smallest share of the most probable token's probability.
    pub min_p: Option<f32>,
    /// Locally typical sampling.
    pub typical_p: Option<f32>,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Most probable tokens kept.
    pub top_k: Option<u32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
}

/// Where a model's tokenizer is.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// Meta's `tokenizer.model`.
    Tiktoken(PathBuf),
    /// Hugging Face's `tokenizer.json`.
    TokenizerJson(PathBuf),
    /// Nowhere.
    None,
}
