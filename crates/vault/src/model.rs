//! A folder that holds a model and its manifest: in the store, or a bundle that `puna keep` made.

use crate::digest::Hex;
use crate::disk::{self, DiskError};
use crate::manifest::{self, Manifest, ManifestError};
use crate::tree::{Tree, n_groups};
use std::path::{Path, PathBuf};

/// The folder of records in a model's folder. No file of a model may lie in it.
pub const RECORDS: &str = ".puna";
/// The manifest, among the records.
pub const MANIFEST: &str = "manifest.json";
/// A signature over the files, among the records: see [`signing`](crate::signing).
pub const SIGNATURE: &str = "manifest.sig";
/// What a model was made from, among its files: see [`provenance`](crate::provenance). Beside a GGUF file it has that one's
/// name before it: `model.provenance.json`.
pub const PROVENANCE: &str = "provenance.json";
/// The log of what happened, among the records: see [`events`](crate::events).
pub const EVENTS: &str = "events.jsonl";
/// The trees of a bundle's files, among its records.
pub const TREES: &str = "trees";

/// Longest manifest that is read, in bytes: ten thousand files with the longest names.
const MAX_MANIFEST: u64 = 16 << 20;

/// A model in a folder.
#[derive(Clone, Debug)]
pub struct Model {
    /// The folder.
    pub dir: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// Where the trees of its files lie.
    pub(crate) trees: PathBuf,
    /// Where the store that it is in keeps the same bytes.
    pub(crate) blobs: Option<PathBuf>,
}

/// A folder that is not a model's.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no manifest.
    #[error("{}: not a kept model: there is no {RECORDS}/{MANIFEST} in it; `puna import` takes in models of other forms", dir.display())]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// A manifest that is none.
    #[error("{}: {error}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// A folder from which no one thing can be run.
    #[error(
        "{name}: expected config.json with safetensors, params.json with .pth files, or one GGUF file, found {found}"
    )]
    NothingToOpen {
        /// The model.
        name: String,
        /// What there is in place of it.
        found: String,
    },
}

impl Model {
    /// Opens a folder by its manifest. Its files are not looked at: see [`verify`](crate::verify).
    ///
    /// # Errors
    /// When there is no manifest, or one that can't be read.
    pub fn open(dir: &Path) -> Result<Model, ModelError> {
        let manifest = read_manifest(&dir.join(RECORDS).join(MANIFEST))?;
        let manifest = manifest.ok_or_else(|| ModelError::NoManifest { dir: dir.to_owned() })?;
        Ok(Model { dir: dir.to_owned(), manifest, trees: dir.join(RECORDS).join(TREES), blobs: None })
    }

    /// The kept model that a path opens: its folder, or a GGUF file in it. `None` if it is none's.
    #[must_use]
    pub fn at(path: &Path) -> Option<Model> {
        let is_opened_by = |model: &Model| model.weights().is_ok_and(|weights| weights == path);
        Model::open(path).ok().or_else(|| Model::open(path.parent()?).ok().filter(is_opened_by))
    }

    /// What `-m` opens: the folder, or the GGUF file in it; of a split one, the first.
    ///
    /// # Errors
    /// When it has neither configuration nor GGUF file, or several GGUF files that are not of one set.
    pub fn weights(&self) -> Result<PathBuf, ModelError> {
        let paths = || self.manifest.files.iter().map(|file| &file.path);
        // Repositories of GGUF files may have a configuration, too.
        let has = |is_it: fn(&str) -> bool| paths().any(|path| is_it(path.as_str()));
        if has(|path| matches!(path, "config.json" | "params.json"))
            && has(|path| !path.contains('/') && (path.ends_with(".safetensors") || path.ends_with(".pth")))
        {
            return Ok(self.dir.clone());
        }
        let mut ggufs: Vec<_> = paths().filter(|path| path.folded().ends_with(".gguf")).collect();
        ggufs.sort();
        let set = |path: &str| split_set(path).map(|(prefix, _, n)| (prefix.to_owned(), n));
        let nothing = |found: String| ModelError::NothingToOpen { name: self.manifest.name.to_string(), found };
        match ggufs[..] {
            [] => Err(nothing(format!("{} files that are neither", self.manifest.files.len()))),
            [one] => Ok(one.below(&self.dir)),
            [first, .., last] => match (set(first.as_str()), set(last.as_str())) {
                (Some(a), Some(b)) if a == b && ggufs.len() as u64 == a.1 => Ok(first.below(&self.dir)),
                _ => Err(nothing(format!("{} GGUF files, such as {first} and {last}", ggufs.len()))),
            },
        }
    }

    /// `owner/name@revision`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.manifest.name, self.manifest.revision)
    }

    /// The tree of one of its files, if it is kept and belongs to it.
    pub(crate) fn tree(&self, file: &manifest::File) -> Result<Option<Tree>, DiskError> {
        read_tree(&self.trees, file.blake3, file.size)
    }
}

/// The parts of the name of a file of a split GGUF: what comes before `-00001-of-00004.gguf`, and the two numbers.
pub(crate) fn split_set(path: &str) -> Option<(&str, u64, u64)> {
    let (rest, n) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parse = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((prefix, parse(number)?, parse(n)?))
}

/// Reads a manifest; `None` if there is none.
pub(crate) fn read_manifest(path: &Path) -> Result<Option<Manifest>, ModelError> {
    let Some(bytes) = disk::read_bounded(path, MAX_MANIFEST)? else { return Ok(None) };
    let manifest = Manifest::parse(&bytes).map_err(|error| ModelError::Manifest { path: path.to_owned(), error })?;
    Ok(Some(manifest))
}

/// Where a file of this hash lies below a folder of such files.
pub(crate) fn by_hash(dir: &Path, hash: Hex<32>) -> PathBuf {
    let hash = hash.to_string();
    dir.join(&hash[..2]).join(hash)
}

/// Reads the tree of a file; `None` if there is none there, or one of another file.
pub(crate) fn read_tree(trees: &Path, blake3: Hex<32>, len: u64) -> Result<Option<Tree>, DiskError> {
    if n_groups(len) == 1 {
        return Ok(Tree::from_bytes(len, blake3, &[]));
    }
    let limit = n_groups(len).saturating_mul(32);
    // A tree that is longer is as useless as none: files can be checked without it, as a whole.
    let Ok(Some(bytes)) = disk::read_bounded(&by_hash(trees, blake3), limit) else { return Ok(None) };
    Ok(Tree::from_bytes(len, blake3, &bytes))
}
