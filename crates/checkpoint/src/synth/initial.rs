//! The model that training from scratch begins with.

use super::{Container, Content, Pools, Shape, Weights, Written, file, plan};
use crate::{
    Error, GgufVocabulary, gguf,
    name::{LayerTensor, Name},
    weight_format::WeightFormat,
};
use puna_format::Format;
use std::{collections::BTreeMap, path::Path};

/// Standard deviation of the weights.
const STD: f32 = 0.02;

/// Writes a model that knows nothing yet, as a GGUF file of f32 weights, which is replaced if it is there; `progress`
/// hears of bytes done and bytes in all. The model is called by the shape's name and has the vocabulary's tokens.
///
/// Every weight is drawn by itself from a normal distribution with standard deviation 0.02; those of matrices that add
/// to the residual stream (attention output and down) with 0.02/√(2·layers), so that the sum does not grow with the
/// number of layers (Radford et al. 2019). Norms are 1. Equal seeds give equal files, whatever the threads.
///
/// # Errors
/// When the shape says another number of tokens than the vocabulary has, or on a fault of the file system.
pub fn write_initial(
    shape: &Shape,
    vocabulary: &GgufVocabulary,
    chat_template: Option<&str>,
    out: &Path,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let config = shape.config_for(vocabulary.tokens.len());
    let config = config.map_err(|error| Error::Config { path: shape.name().into(), error })?;
    let mut tensors = plan(&config, WeightFormat::Pure(Format::F32), Container::Gguf);
    for tensor in &mut tensors {
        if let Content::Random { tensor: number } = tensor.content {
            let std = match Name::from_gguf(&tensor.declaration.name) {
                Some(Name::Layer { tensor: LayerTensor::AttentionOutput | LayerTensor::Down, .. }) => {
                    STD / (2.0 * config.n_layers as f32).sqrt()
                }
                _ => STD,
            };
            tensor.content = Content::Drawn { tensor: number, std };
        }
    }
    let metadata = gguf::metadata(shape.name(), &config, vocabulary, chat_template);
    let mut pools = Pools { weights: Weights::Random { seed }, pools: BTreeMap::new(), scratch: Vec::new() };
    let mut written = Written::new(&tensors, out, progress)?;
    file(&metadata, &tensors, out, &mut pools, &mut written)
}
