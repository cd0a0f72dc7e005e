//! A directory as Meta publishes it. Not read yet: recognised, so that the message can say so.

use crate::{Checkpoint, Error};
use std::path::Path;

pub(crate) fn open(dir: &Path) -> Result<Checkpoint, Error> {
    let why = "Meta's form (params.json, consolidated.NN.pth) is not read yet; use the Hugging Face or GGUF form";
    Err(Error::NotAModel { path: dir.to_owned(), why: why.into() })
}
