//! cria, the small model that is part of the program; and every model that the command line names.

use crate::vault;
use anyhow::Result;
use puna_checkpoint::{Bytes, Checkpoint, gguf};
use puna_vault::provenance::Role;
use std::path::Path;

/// What the command line calls it.
pub const NAME: &str = "cria";

/// Who it is, in few words.
pub const ABOUT: &str = "puna's own toy model, a part of the program; open source in every sense: data, code, weights";

/// The model as a GGUF file.
pub static FILE: &[u8] = include_bytes!("../../../cria/model/cria.gguf");

/// A very small model is surer of its first choices than right about the others.
const TEMPERATURE: f32 = 0.3;

/// Whether this names the model in the program: it is called `cria`, and no other model lies under that name. (A
/// directory of other things may: puna's own repository has one.)
pub fn is_meant(model: &Path) -> bool {
    model == Path::new(NAME)
        && !model.is_file()
        && !["config.json", "params.json"].iter().any(|config| model.join(config).exists())
}

/// Opens the model in the program, or the one on disk, if it is to be opened.
pub fn open(model: &Path) -> Result<Checkpoint> {
    if !is_meant(model) {
        vault::trust::check(Role::Base, model)?;
        return Ok(puna_checkpoint::open(model)?);
    }
    let mut checkpoint = gguf::from_bytes(Path::new(NAME), Bytes::from(FILE))?;
    checkpoint.generation.temperature.get_or_insert(TEMPERATURE);
    Ok(checkpoint)
}
