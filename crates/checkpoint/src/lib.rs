//! Weights on disk: every form in which a Llama is published, opened in place.
//!
//! [`open`] takes a Hugging Face directory, one of Meta's, or a GGUF file, and gives one [`Checkpoint`]: canonical
//! names, sizes inside closed ranges, tensors as checked ranges of mapped files. Nothing is copied or permuted, and
//! nothing here computes with weights. Every tensor in a file is claimed, or opening fails and names it.
//!
//! Whatever a file says is checked before it is believed: see the limits in each reader.
//!
//! Modules import only from those in groups below theirs.

pub mod synth;

pub mod export;

#[doc(hidden)]
pub mod fuzzing;

pub mod adapter;

mod hugging_face;
mod meta;

pub mod gguf;
pub mod pth;
pub mod safetensors;

mod stream;
mod tensor;

mod json;
mod weight_format;

mod config;
mod container;
mod mapped;

// Names the parsers' own errors, and is named by everything.
mod error;
mod name;

pub use config::{Config, ConfigError, Rope, RopePairing, RopeScaling};
pub use container::Container;
pub use error::Error;
pub use mapped::Bytes;
pub use name::{LayerTensor, Name};
pub use stream::{Pending, is_left_of, write_file};
pub use tensor::{Part, Tensor};
pub use weight_format::WeightFormat;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Opens a model.
///
/// `path` is a Hugging Face directory (`config.json` and safetensors), one of Meta's (`params.json` and
/// `consolidated.NN.pth`), or a `.gguf` file, any one of a split set. What it is, is decided by content.
///
/// # Errors
/// See [`Error`]; each names the file and what in it is wrong.
pub fn open(path: &Path) -> Result<Checkpoint, Error> {
    let kind = std::fs::metadata(path).map_err(Error::io(path))?;
    if !kind.is_dir() {
        return gguf::open(path);
    }
    let has = |name: &str| path.join(name).is_file();
    match (has("config.json"), has("params.json")) {
        // Repositories that carry both forms side by side keep Meta's under `original/`; where both lie in one
        // directory, the weights that are there decide.
        (true, true) if !hugging_face::has_weights(path) => meta::open(path),
        (true, _) => hugging_face::open(path),
        (false, true) => meta::open(path),
        (false, false) => Err(Error::NotAModel {
            path: path.to_owned(),
            why: "a directory without config.json (Hugging Face) or params.json (Meta); a GGUF model is opened by \
                  its file"
                .into(),
        }),
    }
}

/// An opened model: everything that its files say, weights still in place.
#[derive(Debug)]
pub struct Checkpoint {
    /// Which form the files have.
    pub layout: Layout,
    /// Sizes and constants.
    pub config: Config,
    /// What the publisher recommends for sampling, and the tokens that begin and end a text.
    pub generation: Generation,
    /// Where the vocabulary is.
    pub tokenizer: TokenizerSource,
    /// The chat template, in the language of Jinja, never run here.
    pub chat_template: Option<String>,
    /// The files with weights.
    pub files: Vec<FileInfo>,
    tensors: BTreeMap<Name, Tensor>,
}

impl Checkpoint {
    /// A tensor. [`Name::Output`] is absent when it is tied to the embedding; every other one is there.
    pub fn tensor(&self, name: Name) -> Option<&Tensor> {
        self.tensors.get(&name)
    }

    /// All tensors, in the order of [`Name`].
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.tensors.values()
    }

    /// Bytes of all weights.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::n_bytes).sum()
    }
}

/// The form in which a model is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` and safetensors.
    HuggingFace,
    /// `params.json` and `consolidated.NN.pth`.
    Meta,
    /// `.gguf`.
    Gguf,
}

/// A file with weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What a publisher says about generating text. Values are as found; whether they make sense is for the sampler to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// Tokens that end it.
    pub eos: Vec<u32>,
    /// The token that fills unused places.
    pub pad: Option<u32>,
    /// Whether to sample at all.
    pub do_sample: Option<bool>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus sampling: smallest set with this probability.
    pub top_p: Option<f32>,
    /// Sampling from this many tokens.
    pub top_k: Option<u32>,
    /// Least probability relative to the likeliest token.
    pub min_p: Option<f32>,
    /// Locally typical sampling.
    pub typical_p: Option<f32>,
    /// Divisor of the logits of tokens that were seen.
    pub repetition_penalty: Option<f32>,
}

/// Where the vocabulary is.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// `tokenizer.model`: Meta's tiktoken form (or, for Llama 2, SentencePiece's).
    Tiktoken(PathBuf),
    /// `tokenizer.json` of Hugging Face's tokenizers.
    TokenizerJson(PathBuf),
    /// Inside of a GGUF file.
    Gguf(GgufVocabulary),
    /// Nowhere.
    None,
}

/// The vocabulary in the metadata of a GGUF file, keys `tokenizer.ggml.*`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: String,
    /// `pre`: how text is split before merging, e.g. `llama-bpe`.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty when absent.
    pub token_types: Vec<i32>,
    /// `scores`, by id. Empty when absent.
    pub scores: Vec<f32>,
    /// `merges`, best first: two tokens with a space between.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}
