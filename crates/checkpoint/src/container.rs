//! The forms in which models are written.

use std::path::Path;

/// The form of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One `.gguf` file.
    Gguf,
    /// A Hugging Face directory.
    Safetensors,
}

impl Container {
    /// What the name of an output asks for: a file if it ends in `.gguf`, else a directory.
    pub fn of(out: &Path) -> Container {
        let is_gguf = out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if is_gguf { Container::Gguf } else { Container::Safetensors }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Container::Gguf => "GGUF",
            Container::Safetensors => "safetensors",
        }
    }
}
