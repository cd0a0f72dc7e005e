//! The parsers that [`open`](crate::open) finds files for, on bytes, for the targets in `fuzz/`. No part of the interface.

use crate::{Checkpoint, Config, ConfigError, Error, Generation, adapter, gguf, hugging_face, mapped::Bytes, meta};
use std::path::Path;

/// `config.json`.
pub fn config_json(bytes: &[u8]) -> Result<Config, ConfigError> {
    hugging_face::HfConfig::parse(bytes)?.config()
}

/// `generation_config.json`.
pub fn generation_config_json(bytes: &[u8]) -> Result<Generation, ConfigError> {
    hugging_face::generation_config_json(bytes)
}

/// The template in `tokenizer_config.json`.
pub fn tokenizer_config_json(bytes: &[u8]) -> Result<Option<String>, ConfigError> {
    hugging_face::tokenizer_config_json(bytes)
}

/// `model.safetensors.index.json`: the files that it names.
pub fn index_json(bytes: &[u8]) -> Result<Vec<String>, ConfigError> {
    Ok(hugging_face::Index::parse(bytes)?.files().into_iter().map(str::to_owned).collect())
}

/// `params.json`, beside `n_ranks` shards with a token embedding of this shape.
pub fn params_json(bytes: &[u8], embedding: Option<&[u64]>, n_ranks: u64) -> Result<Config, ConfigError> {
    meta::Params::parse(bytes)?.config(embedding, n_ranks, false)
}

/// A GGUF file that is no part of a set.
pub fn gguf(bytes: &[u8]) -> Result<Checkpoint, Error> {
    gguf::from_bytes(Path::new("bytes.gguf"), Bytes::from(bytes.to_vec()))
}

/// A GGUF adapter.
pub fn gguf_adapter(bytes: &[u8]) -> Result<adapter::Listing, Error> {
    adapter::read_gguf(Path::new("bytes.gguf"), &Bytes::from(bytes.to_vec()))
}

/// `adapter_config.json` and `adapter_model.safetensors`.
pub fn peft_adapter(config: &[u8], weights: &[u8]) -> Result<adapter::Listing, Error> {
    let weights = Bytes::from(weights.to_vec());
    adapter::read_peft((Path::new("config.json"), config), (Path::new("weights.safetensors"), &weights))
}
