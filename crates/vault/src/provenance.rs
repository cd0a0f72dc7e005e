//! What a model was made from: a record beside what was made, which a signature over it covers like every other file.
//!
//! Each parent is told by a hash over its files, so that whoever has the parent can see that it is the one; and by the
//! signature that lay with it, if there was one. What the parent's own record said is taken along, so that the chain from
//! the first base to the last export stays whole where the files between are gone. It is what was said there: nobody
//! checked it, and whoever signs this vouches for it no further than by having found it so.

use crate::digest::{Hex, sha256};
use crate::disk;
use crate::hashing::Progress;
use crate::manifest::{File, checksums};
use crate::model::{Model, PROVENANCE};
use crate::path::SafePath;
use crate::signing::{self, Method, Selection, SigningError};
use crate::store::{Store, StoreError};
use puna_text::Date;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The form of these records.
pub const FORMAT: &str = "puna.provenance/1";
/// Longest record that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;
/// Longest signature that is hashed, in bytes.
const MAX_SIGNATURE: u64 = 64 << 20;

/// What a model, or an adapter, was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// [`FORMAT`].
    pub format: String,
    /// When: `2026-11-28T19:56:00.000Z`.
    pub made_at: String,
    /// By which program: `puna 0.1.0`.
    pub program: String,
    /// By which of its verbs: `adapter merge`.
    pub verb: String,
    /// With which settings.
    #[serde(default)]
    pub options: serde_json::Value,
    /// Of what.
    pub made_from: Vec<Parent>,
}

/// Something that a model was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// What it was for: `base`, `adapter`.
    pub role: String,
    /// What it was called: of a model that was kept, `owner/name@revision`.
    pub name: String,
    /// The SHA-256 of the lines that `sha256sum` writes of its files, sorted by path: see
    /// [`Manifest::root`](crate::manifest::Manifest::root). Of an adapter in a folder, those called `adapter_…`.
    pub root: Hex<32>,
    /// The SHA-256 of the signature that lay with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Hex<32>>,
    /// What it was made from itself, as its own record had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Box<Provenance>>,
}

/// A record that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: not a record of what a model was made from: {why}", path.display())]
pub struct ProvenanceError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Provenance {
    /// A record of what is made now; `now` is in milliseconds since 1970.
    #[must_use]
    pub fn new(program: &str, verb: &str, options: serde_json::Value, made_from: Vec<Parent>, now: i64) -> Provenance {
        Provenance {
            format: FORMAT.into(),
            made_at: Date::timestamp(now),
            program: program.into(),
            verb: verb.into(),
            options,
            made_from,
        }
    }

    /// The record as a file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a record is JSON");
        json.push(b'\n');
        json
    }

    /// Reads the record that lies with a model or an adapter, a folder or a file; `None` if there is none of ours.
    ///
    /// # Errors
    /// When there is one that can't be read, or another one than the manifest of a model that is kept has.
    pub fn of(path: &Path) -> Result<Option<Provenance>, ProvenanceError> {
        let at = if path.is_dir() {
            path.join(PROVENANCE)
        } else {
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(".");
            name.push(PROVENANCE);
            path.with_file_name(name)
        };
        let error = |why: String| ProvenanceError { path: at.clone(), why };
        let bytes = disk::read_bounded(&at, MAX_RECORD).map_err(|refused| error(refused.error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        if let Some(model) = Model::at(path) {
            let is_it = |file: &File| file.path.below(&model.dir) == at && file.sha256 == sha256(&bytes);
            if !model.manifest.files.iter().any(is_it) {
                return Err(error(format!("it is not what the manifest of {} says", model.full_name())));
            }
        }
        // How deep records lie in records is bounded by the reader of JSON.
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|refused| error(refused.to_string()))?;
        match json["format"].as_str() {
            Some(FORMAT) => {}
            Some(other) if other.starts_with("puna.provenance/") => {
                return Err(error(format!("expected the form {FORMAT}, found {other:?}")));
            }
            // Others may call a file so, too.
            _ => return Ok(None),
        }
        serde_json::from_value(json).map(Some).map_err(|refused| error(refused.to_string()))
    }

    /// One line for each step of the chain, the last one first; what belongs to an earlier step is further in.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.add_lines(&mut lines, 0);
        lines
    }

    /// [`Provenance::of`] what a kept model opens.
    ///
    /// # Errors
    /// As there.
    pub fn of_kept(model: &Model) -> Result<Option<Provenance>, ProvenanceError> {
        Provenance::of(&model.weights().unwrap_or_else(|_| model.dir.clone()))
    }

    /// What the store says otherwise of models that this was made from, in words: it has them with other files, or made
    /// from something else.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub fn contradictions(&self, store: &Store) -> Result<Vec<String>, StoreError> {
        let models = store.list()?.models;
        let mut found = Vec::new();
        let mut records = vec![self];
        while let Some(record) = records.pop() {
            records.extend(record.made_from.iter().filter_map(|parent| parent.provenance.as_deref()));
            for Parent { role, name, root, provenance, .. } in &record.made_from {
                let Some(model) = models.iter().find(|model| model.full_name() == *name) else { continue };
                let here = model.manifest.root();
                if here != *root {
                    found.push(format!("made from the {role} {name}, {root}; the one that is kept here is {here}"));
                } else if Provenance::of_kept(model).is_ok_and(|own| own.as_ref() != provenance.as_deref()) {
                    found.push(format!(
                        "made from the {role} {name}, which says otherwise what it was made from itself"
                    ));
                }
            }
        }
        Ok(found)
    }

    fn add_lines(&self, lines: &mut Vec<String>, depth: usize) {
        let indent = "  ".repeat(depth);
        lines.push(format!("{indent}by `{}` of {}, {}", self.verb, self.program, self.made_at));
        for parent in &self.made_from {
            let signed = if parent.signature.is_some() { ", signed" } else { "" };
            let Parent { role, name, root, provenance, .. } = parent;
            lines.push(format!("{indent}from the {role} {name}, {root}{signed}"));
            if let Some(provenance) = provenance {
                provenance.add_lines(lines, depth + 1);
            }
        }
    }
}

/// What a parent was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The model that was changed.
    Base,
    /// Something that changed it. Of a folder, what else lies there (the run that it comes from) is not part of it.
    Adapter,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Base => "base",
            Role::Adapter => "adapter",
        }
    }
}

impl Parent {
    /// What lies at a path: of a model that is kept, what its manifest says; else its files are read and hashed. Where its
    /// own record can't be read, that is told beside it.
    ///
    /// # Errors
    /// When files can't be read.
    pub fn of(
        role: Role,
        path: &Path,
        n_threads: usize,
        progress: Progress<'_>,
    ) -> Result<(Parent, Option<ProvenanceError>), SigningError> {
        let kept = Model::at(path);
        let dir = kept.as_ref().map_or(path, |model| model.dir.as_path());
        let signature = signing::usual_place(dir);
        let (name, root) = match &kept {
            Some(model) => (model.full_name(), model.manifest.root()),
            None => hash(role, path, &signature, n_threads, progress)?,
        };
        let (provenance, unreadable) = match Provenance::of(path) {
            Ok(found) => (found.map(Box::new), None),
            Err(error) => (None, Some(error)),
        };
        let signature = disk::read_bounded(&signature, MAX_SIGNATURE)?.map(|bytes| sha256(&bytes));
        Ok((Parent { role: role.name().into(), name, root, signature, provenance }, unreadable))
    }

    /// A base that is part of a program.
    #[must_use]
    pub fn of_bytes(name: &str, file: &SafePath, bytes: &[u8]) -> Parent {
        let root = sha256(checksums([(file, sha256(bytes))].into_iter()).as_bytes());
        Parent { role: Role::Base.name().into(), name: name.into(), root, signature: None, provenance: None }
    }
}

/// What a folder or a file is called, and the hash over it.
fn hash(
    role: Role,
    path: &Path,
    signature: &Path,
    n_threads: usize,
    progress: Progress<'_>,
) -> Result<(String, Hex<32>), SigningError> {
    let mut ignored: Vec<SafePath> = Vec::new();
    if role == Role::Adapter && path.is_dir() {
        let names = disk::names_in(path)?;
        let names = names.iter().filter_map(|path| path.file_name()?.to_str());
        ignored.extend(names.filter(|name| !name.starts_with("adapter_")).filter_map(|name| name.parse().ok()));
    }
    // What lies in a cache is links.
    let selection =
        Selection { method: Method::Files, ignored: &ignored, allow_symlinks: true, only_files: true, signature };
    let statement = signing::survey(path, &selection, n_threads, progress)?;
    let lines = statement.files.iter().filter_map(|(path, signed)| {
        let hash = <[u8; 32]>::try_from(signed.hashes.first()?.as_slice()).ok()?;
        Some((path, Hex(hash)))
    });
    let root = sha256(checksums(lines).as_bytes());
    Ok((statement.name, root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_795_891_560_000;

    fn quiet(_: u64, _: u64) {}

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_chain_is_carried_on() {
        let dir = tempfile::tempdir().unwrap();
        let (base, adapter, merged) = (dir.path().join("base"), dir.path().join("run"), dir.path().join("merged.gguf"));
        write(&base.join("config.json"), b"{}");
        write(&base.join("weights/a.bin"), b"a");
        let of = |role, path: &Path| Parent::of(role, path, 1, &quiet).unwrap().0;
        let first = of(Role::Base, &base);
        let lines = format!("{}  config.json\n{}  weights/a.bin\n", sha256(b"{}"), sha256(b"a"));
        assert_eq!((first.root, first.name.as_str(), first.signature), (sha256(lines.as_bytes()), "base", None));

        // A signature is told, and is no part of what it signs.
        write(&base.join("model.sig"), b"signature");
        let signed = of(Role::Base, &base);
        assert_eq!((signed.root, signed.signature), (first.root, Some(sha256(b"signature"))));

        write(&adapter.join("adapter_config.json"), b"{}");
        let record = Provenance::new("puna 0.1.0", "tune run", json!({ "data": "d" }), vec![signed.clone()], NOW);
        write(&adapter.join(PROVENANCE), &record.to_json());
        write(&adapter.join("log.jsonl"), b"changes");
        let tuned = of(Role::Adapter, &adapter);
        write(&adapter.join("log.jsonl"), b"changed");
        assert_eq!(of(Role::Adapter, &adapter), tuned);
        assert_eq!(tuned.provenance.as_deref(), Some(&record));

        let record = Provenance::new("puna 0.1.0", "adapter merge", json!(null), vec![signed, tuned], NOW);
        write(&merged, b"GGUF");
        write(&dir.path().join("merged.provenance.json"), &record.to_json());
        assert_eq!(Provenance::of(&merged).unwrap().as_ref(), Some(&record));
        let last = of(Role::Base, &merged);
        assert_eq!(last.root, sha256(format!("{}  merged.gguf\n", sha256(b"GGUF")).as_bytes()));
        let lines = Provenance::new("p", "v", json!(null), vec![last], NOW).lines();
        let starts: Vec<String> = lines.iter().map(|line| line.chars().take(22).collect()).collect();
        assert_eq!(
            starts,
            [
                "by `v` of p, 2026-11-2",
                "from the base merged.g",
                "  by `adapter merge` o",
                "  from the base base, ",
                "  from the adapter run",
                "    by `tune run` of p",
                "    from the base base",
            ]
        );
        assert!(lines[3].ends_with(", signed") && !lines[1].contains("signed"), "{lines:?}");
    }

    #[test]
    fn records_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::of(dir.path()).unwrap(), None);
        write(&dir.path().join("adapter_config.json"), b"{}");
        let record = Provenance::new("puna", "verb", json!({}), Vec::new(), NOW);
        let other = String::from_utf8(record.to_json()).unwrap().replace("provenance/1", "provenance/2");
        let deep = "{\"made_from\":[".repeat(10_000);
        write(&dir.path().join(PROVENANCE), b"{\"format\": \"another one\"}");
        assert_eq!(Provenance::of(dir.path()).unwrap(), None);
        for (text, expected) in [
            (r#"{"format": "puna.provenance/1"}"#, "missing field"),
            (other.as_str(), "puna.provenance/2"),
            (deep.as_str(), "not a record"),
        ] {
            write(&dir.path().join(PROVENANCE), text.as_bytes());
            let error = Provenance::of(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(PROVENANCE), "{error}");
            // It keeps nobody from making something.
            let (parent, unreadable) = Parent::of(Role::Adapter, dir.path(), 1, &quiet).unwrap();
            assert!(parent.provenance.is_none() && unreadable.is_some());
        }
    }

    proptest! {
        #[test]
        fn anything_is_read(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let dir = tempfile::tempdir().unwrap();
            let parent = Parent::of_bytes("name", &"file".parse().unwrap(), b"bytes");
            let mut json = Provenance::new("puna", "verb", json!({}), vec![parent], NOW).to_json();
            let at = at.index(json.len());
            json[at] = byte;
            write(&dir.path().join(PROVENANCE), &json);
            if let Ok(Some(found)) = Provenance::of(dir.path()) {
                prop_assert_eq!(found.lines().len(), 1 + found.made_from.len());
            }
        }
    }
}
