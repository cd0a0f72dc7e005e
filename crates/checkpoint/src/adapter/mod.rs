//! LoRA adapters on disk: PEFT's directories and llama.cpp's GGUF files, read and written.
//!
//! An adapter changes matrices W of a base model into W + s·B·A, with A of a few rows and B of as many columns.
//! [`open`] reads one for a base whose sizes are known; [`list`] opens the files without a base and leaves the values
//! in place.
//! Every tensor is claimed and finite, and every setting that would change what the adapter does is understood, or
//! opening fails and names it.
//!
//! PEFT keeps rows of q and k in the order of Hugging Face, llama.cpp in the interleaved one. An [`Adapter`] says which
//! it has; [`Adapter::with_pairing`] and the writers change it.

mod llama_cpp;
mod peft;

mod listing;

mod adapter_config;
mod lora;

mod identity;

pub use identity::{BaseIdentity, Digest, Likeness, digest_of_weights};
pub use listing::{Factor, Form, Listing, Stored};
pub use llama_cpp::write as write_gguf;
pub use lora::{Adapter, LowRank, Settings};
pub use peft::{replace as replace_peft, write as write_peft};

pub(crate) use llama_cpp::read as read_gguf;
pub(crate) use peft::read as read_peft;

use crate::{Config, Error, mapped::Bytes};
use std::path::Path;

/// Opens an adapter without its base: names, settings and shapes, checked against each other; values stay in place.
///
/// `path` is a directory of PEFT's (`adapter_config.json` and `adapter_model.safetensors`) or a GGUF file.
///
/// # Errors
/// See [`Error`]; each names the file and what in it is wrong.
pub fn list(path: &Path) -> Result<Listing, Error> {
    if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        return peft::list(path);
    }
    let bytes = Bytes::map(path)?;
    if !bytes.starts_with(b"GGUF") {
        let why = "expected a directory of PEFT's (adapter_config.json, adapter_model.safetensors) or a GGUF file";
        return Err(Error::NotAnAdapter { path: path.to_owned(), why: why.into() });
    }
    llama_cpp::read(path, &bytes)
}

/// Opens an adapter for a base of these sizes, values as f32.
///
/// # Errors
/// Those of [`list`], and a matrix that does not fit the base, by name.
pub fn open(path: &Path, config: &Config) -> Result<Adapter, Error> {
    list(path)?.load(config)
}
