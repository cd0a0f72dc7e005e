//! What a model in the vault is: its files, their hashes, and where they came from. Facts only, all from bytes.

use crate::digest::{Hex, sha256};
use crate::path::SafePath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The form of these manifests.
pub const FORMAT: &str = "puna.manifest/1";

/// The most files that a model may have. Llama 3.1 405B has some two hundred.
pub const MAX_FILES: usize = 10_000;

/// A model's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The model's name in the vault: `meta-llama/Llama-3.1-8B-Instruct`.
    pub name: ModelName,
    /// Which version of it: a commit of the hub, or, of whatever has none, the beginning of [`Manifest::root`].
    pub revision: String,
    /// Where it came from, as `puna pull` or `puna import` was told; a signed link without its signature.
    pub source: String,
    /// When it was complete here: `2026-11-28T19:56:00.000Z`.
    pub kept_at: String,
    /// Its files, by path.
    pub files: Vec<File>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it lies in the model's folder.
    pub path: SafePath,
    /// In bytes.
    pub size: u64,
    /// Its SHA-256, which other programs can check.
    pub sha256: Hex<32>,
    /// Its BLAKE3, by which the store keeps it: see [`tree`](crate::tree).
    pub blake3: Hex<32>,
}

/// The name of a model: an owner and a name, as the hub has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName {
    /// Who published it; `local` for what was made or imported here.
    pub owner: String,
    /// What it is called.
    pub name: String,
}

/// A manifest or a name of a model that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the name of a model.
    #[error(
        "expected a model's name such as meta-llama/Llama-3.1-8B, of letters, digits, '-', '_' and '.', found {0:?}"
    )]
    Name(String),
    /// JSON that is not a manifest.
    #[error("not a manifest: {0}")]
    Json(String),
    /// A manifest of another form.
    #[error("expected a manifest of the form {FORMAT}, found {0:?}: it is of another version of puna")]
    Format(String),
    /// Two files of a model would be one on some file system.
    #[error("two files of the model are called {0}, but for the case of letters")]
    Twice(SafePath),
    /// Too many files.
    #[error("expected at most {MAX_FILES} files, found {0}")]
    TooMany(usize),
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When it is none, or one of another version, or no model could have such files.
    pub fn parse(json: &[u8]) -> Result<Manifest, ManifestError> {
        let manifest: Manifest =
            serde_json::from_slice(json).map_err(|error| ManifestError::Json(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format(manifest.format.chars().take(80).collect()));
        }
        check_paths(manifest.files.iter().map(|file| &file.path))?;
        Ok(manifest)
    }

    /// One hash over all files: the SHA-256 of the lines `sha256sum` writes of them, sorted by path. Equal for two models
    /// exactly when their files are equal, wherever they came from.
    #[must_use]
    pub fn root(&self) -> Hex<32> {
        sha256(self.checksums().as_bytes())
    }

    /// What `sha256sum -c` reads.
    #[must_use]
    pub fn checksums(&self) -> String {
        checksums(self.files.iter().map(|file| (&file.path, file.sha256)))
    }

    /// The sum of the files' sizes, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size))
    }
}

/// The lines that `sha256sum` writes of some files, sorted by path.
pub(crate) fn checksums<'a>(files: impl Iterator<Item = (&'a SafePath, Hex<32>)>) -> String {
    let mut files: Vec<(&SafePath, Hex<32>)> = files.collect();
    files.sort_by_key(|(path, _)| *path);
    files.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect()
}

/// Whether files of these names can lie in one folder on any file system.
///
/// # Errors
/// When two are one, or there are too many.
pub fn check_paths<'a>(paths: impl ExactSizeIterator<Item = &'a SafePath>) -> Result<(), ManifestError> {
    if paths.len() > MAX_FILES {
        return Err(ManifestError::TooMany(paths.len()));
    }
    let mut seen = BTreeSet::new();
    for path in paths {
        if !seen.insert(path.folded()) {
            return Err(ManifestError::Twice(path.clone()));
        }
    }
    Ok(())
}

impl std::str::FromStr for ModelName {
    type Err = ManifestError;

    fn from_str(text: &str) -> Result<ModelName, ManifestError> {
        let error = || ManifestError::Name(text.chars().take(120).collect());
        let (owner, name) = text.split_once('/').ok_or_else(error)?;
        let is_name = |name: &str| {
            name.len() <= 96
                && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                && name.parse::<SafePath>().is_ok()
        };
        if !is_name(owner) || !is_name(name) {
            return Err(error());
        }
        Ok(ModelName { owner: owner.to_owned(), name: name.to_owned() })
    }
}

impl TryFrom<String> for ModelName {
    type Error = ManifestError;

    fn try_from(text: String) -> Result<ModelName, ManifestError> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> String {
        name.to_string()
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, byte: u8) -> File {
        File { path: path.parse().unwrap(), size: 3, sha256: Hex([byte; 32]), blake3: Hex([byte; 32]) }
    }

    fn manifest(files: Vec<File>) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            name: "owner/model".parse().unwrap(),
            revision: "main".into(),
            source: "test".into(),
            kept_at: "2026-11-28T19:56:00.000Z".into(),
            files,
        }
    }

    #[test]
    fn manifests_are_read_as_written() {
        let written = manifest(vec![file("b", 2), file("a/c", 1)]);
        let json = serde_json::to_vec(&written).unwrap();
        assert_eq!(Manifest::parse(&json).unwrap(), written);
        assert_eq!(written.size(), 6);
        assert_eq!(written.checksums(), format!("{}  a/c\n{}  b\n", "01".repeat(32), "02".repeat(32)));
        let other_order = manifest(vec![file("a/c", 1), file("b", 2)]);
        assert_eq!(other_order.root(), written.root());
        assert_ne!(manifest(vec![file("a/c", 2), file("b", 2)]).root(), written.root());
    }

    #[test]
    fn manifests_that_are_none() {
        let parse =
            |manifest: &Manifest| Manifest::parse(&serde_json::to_vec(manifest).unwrap()).unwrap_err().to_string();
        let twice = parse(&manifest(vec![file("A", 1), file("a", 1)]));
        assert_eq!(twice, "two files of the model are called a, but for the case of letters");
        let many = manifest((0..=MAX_FILES).map(|i| file(&i.to_string(), 1)).collect());
        assert_eq!(parse(&many), "expected at most 10000 files, found 10001");
        let other = Manifest { format: "puna.manifest/2".into(), ..manifest(Vec::new()) };
        assert!(parse(&other).contains("found \"puna.manifest/2\""));
        let json = serde_json::to_string(&manifest(vec![file("a", 1)])).unwrap().replace("\"a\"", "\"../a\"");
        assert!(Manifest::parse(json.as_bytes()).unwrap_err().to_string().contains("leads out of its folder"));
    }

    #[test]
    fn names() {
        for name in ["meta-llama/Llama-3.1-8B", "a/b", "_x/y.z"] {
            assert_eq!(name.parse::<ModelName>().unwrap().to_string(), name);
        }
        for name in ["", "a", "a/", "/a", "a/b/c", "../a", "a/..", "a/.b", "a b/c", "a/nul", "a/b.", "é/a", "-a/b"] {
            assert!(name.parse::<ModelName>().is_err(), "{name}");
        }
    }
}
