//! Everything that can be wrong with weights on disk, as one closed list.
//!
//! Parsers work on bytes and know no paths: each has its own error that names field, expected and found. Here the
//! file is added. Messages are complete in themselves; none relies on a `source` chain being printed.

use crate::{config::ConfigError, gguf, name::Name, pth, safetensors};
use std::{fmt, io, path::PathBuf};

/// Why weights could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The path is not a model in any known form.
    #[error("{}: not a model: {why}", path.display())]
    NotAModel {
        /// What was opened.
        path: PathBuf,
        /// What was looked for and what was found.
        why: String,
    },
    /// The path is not an adapter in any known form.
    #[error("{}: not an adapter: {why}", path.display())]
    NotAnAdapter {
        /// What was opened.
        path: PathBuf,
        /// What was looked for and what was found.
        why: String,
    },
    /// Files that an index or a shard count promises are absent.
    #[error("{}: {} of {promised} files are missing: {}", dir.display(), missing.len(), Listed(missing))]
    MissingFiles {
        /// Where they should be.
        dir: PathBuf,
        /// Their names.
        missing: Vec<String>,
        /// How many files the set has.
        promised: usize,
    },
    /// A file is larger than anything of its kind should be.
    #[error("{}: {found} bytes, expected at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit for this kind of file.
        limit: u64,
    },
    /// A configuration says something impossible or unsupported.
    #[error("{}: {error}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: ConfigError,
    },
    /// A malformed safetensors file.
    #[error("{}: {error}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: safetensors::HeaderError,
    },
    /// A malformed GGUF file.
    #[error("{}: {error}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: gguf::HeaderError,
    },
    /// A malformed Meta checkpoint shard.
    #[error("{}: {error}", path.display())]
    Pth {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        error: pth::PthError,
    },
    /// A tensor that the architecture has no place for.
    #[error("{}: unknown tensor `{tensor}`: {why}", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Why it has no place.
        why: &'static str,
    },
    /// A tensor occurs twice.
    #[error("{}: tensor `{tensor}` was already read from another file", path.display())]
    RepeatedTensor {
        /// The second file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
    },
    /// The files hold too little.
    #[error("{}: {} required tensors are missing: {}", path.display(), missing.len(), Listed(missing))]
    MissingTensors {
        /// The model.
        path: PathBuf,
        /// Which, by canonical name.
        missing: Vec<Name>,
    },
    /// A tensor that can't be used as it is stored.
    #[error("{}: tensor `{tensor}`: {what} is {found}, expected {expected}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The property, e.g. `shape`.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What the configuration asks for.
        expected: String,
    },
    /// Two files of one model disagree.
    #[error("{}: {what} is {found}, expected {expected} as in {}", path.display(), other.display())]
    Disagree {
        /// The file.
        path: PathBuf,
        /// The file that it disagrees with.
        other: PathBuf,
        /// The property.
        what: String,
        /// What `path` says.
        found: String,
        /// What `other` says.
        expected: String,
    },
    /// A writer was given something else than it was promised.
    #[error("{}: {what}", path.display())]
    Write {
        /// The file being written.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
}

impl Error {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    }
}

/// A list that stays readable: the first few items, then how many more.
pub(crate) struct Listed<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        for (i, item) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

/// Text from a file, for a message: control characters escaped, length bounded.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut out: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}
