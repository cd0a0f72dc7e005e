//! Weights on disk: every form in which a Llama is published, opened in place.
//!
//! [`open`] takes a Hugging Face directory, one of Meta's, or a GGUF file, and gives one [`Checkpoint`]: canonical
//! names, sizes inside closed ranges, tensors as checked ranges of mapped files. Nothing is copied or permuted, and
//! nothing here computes with weights. Every tensor in a file is claimed, or opening fails and names it.
//!
//! Whatever a file says is checked before it is believed: see the limits in each reader.
//!
//! Modules import only from those below them.

mod hugging_face;
mod gguf;
mod pth;
pub mod safetensors;
mod tensor;
mod json;
mod config;
mod mapped;
mod name;
mod error;

pub use config::{Config, ConfigError, Rope, RopePairing, RopeScaling};
pub use error::Error;
pub use mapped::Bytes;
pub use name::{LayerTensor, Name};
pub use tensor::{Part, Tensor};

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
