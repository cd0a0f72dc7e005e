//! Files that are whole become a model.

use super::{NEXT, Store, StoreError};
use crate::digest::Hex;
use crate::disk::{self, DiskError};
use crate::events;
use crate::hashing;
use crate::manifest::{self, FORMAT, File, Manifest, ModelName};
use crate::model::{self, EVENTS, MANIFEST, Model, RECORDS};
use crate::path::SafePath;
use crate::tree::{Tree, n_groups};
use puna_text::Date;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// A file that is whole and checked, and to be kept. It is moved from where it lies.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Its name in the model.
    pub path: SafePath,
    /// Its SHA-256.
    pub sha256: Hex<32>,
    /// Its BLAKE3, and its length.
    pub tree: Tree,
    /// Where it lies.
    pub at: PathBuf,
}

/// What files are to be kept as.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The model.
    pub name: ModelName,
    /// A commit of the hub; where there is none, the files' own hash tells revisions apart.
    pub revision: Option<String>,
    /// Where they came from, as the user put it.
    pub source: String,
}

/// A model that is now kept.
#[derive(Debug)]
pub struct Adopted {
    /// The model.
    pub model: Model,
    /// Bytes of files that the store had already, from this or another model.
    pub shared: u64,
    /// Bytes that are on the disk twice, because the file system has no hard links.
    pub copied: u64,
}

impl Store {
    /// Keeps files as a model. `now` is in milliseconds since 1970.
    ///
    /// Files move: into the store, from where the model's folder has them by hard links. When it fails, whether by an
    /// error, by a kill or by a power cut, the model is there and whole or is not there, and the same call can be made
    /// again: files that were moved already are found where they are. A model that is there gets further files; those
    /// that it has must be the same.
    ///
    /// # Errors
    /// When the store can't be changed, the files can't be one model's, one of them is not what it is said to be, or the
    /// model is there with other files.
    pub fn adopt(&self, origin: &Origin, files: &[Staged], now: i64) -> Result<Adopted, StoreError> {
        check_names(files)?;
        let new = files.iter().map(|file| File {
            path: file.path.clone(),
            size: file.tree.len(),
            sha256: file.sha256,
            blake3: file.tree.root(),
        });
        let mut manifest = Manifest {
            format: FORMAT.into(),
            name: origin.name.clone(),
            revision: String::new(),
            source: origin.source.clone(),
            kept_at: Date::timestamp(now),
            files: new.collect(),
        };
        manifest.revision = match &origin.revision {
            Some(revision) => revision.clone(),
            None => manifest.root().to_string()[..16].to_owned(),
        };
        let dir = self.model_dir(&manifest.name, &manifest.revision)?;

        let _lock = self.change()?;
        let kept = self.open_model(&dir)?;
        if let Some(kept) = &kept {
            manifest = merge(&kept.manifest, manifest)?;
        }
        let records = dir.join(RECORDS);
        let is_new = kept.is_none_or(|kept| kept.manifest != manifest);
        let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest is JSON");
        text.push(b'\n');
        let write = |name| self.disk.write_whole(&records.join(disk::temporary_name()), &records.join(name), &text);
        if is_new {
            self.disk.make_dirs(&self.home, &records)?;
            // Of another change that ended in between. One like this is gone on with.
            if let Some(other) = model::read_manifest(&records.join(NEXT))?.filter(|next| next.files != manifest.files)
            {
                self.discard_files(&dir, &other)?;
            }
            // Before anything moves: whose blobs these are has to be known.
            write(NEXT)?;
        }
        let mut shared = 0;
        let mut synced = BTreeSet::new();
        for file in files {
            shared += self.keep(file)?;
            synced.extend(self.blob(file.tree.root()).parent().map(Path::to_owned));
        }
        synced.iter().try_for_each(|dir| self.disk.sync_dir(dir))?;

        let copied = self.place_all(&dir, files)?;
        if is_new {
            let root = manifest.root();
            let payload = json!({
                "source": manifest.source, "root": root, "files": manifest.files.len(), "bytes": manifest.size(),
            });
            let log = records.join(EVENTS);
            // Of a try that ended behind this line.
            let last = events::read(&log)?.events.pop();
            let told = last.is_some_and(|last| last.kind == "kept" && last.payload == payload);
            if !told {
                events::append_on(&self.disk, &log, now, "kept", payload)?;
            }
            write(MANIFEST)?;
            self.disk.remove(&records.join(NEXT))?;
        }
        // Those whose bytes the store had, and those that were copied from another disk.
        files.iter().try_for_each(|file| self.disk.remove(&file.at))?;
        Ok(Adopted { model: self.model(&dir, manifest), shared, copied })
    }

    /// Makes a file a blob, and keeps its tree. Tells its bytes if it was one already.
    fn keep(&self, file: &Staged) -> Result<u64, StoreError> {
        let blob = self.blob(file.tree.root());
        let wrong = |why: String| StoreError::Staged { path: file.path.clone(), at: file.at.clone(), why };
        // What has another size is no blob but what is left of one.
        let is_kept =
            std::fs::symlink_metadata(&blob).is_ok_and(|kind| kind.is_file() && kind.len() == file.tree.len());
        if !is_kept {
            let kind = std::fs::symlink_metadata(&file.at).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => wrong("it is not there".into()),
                _ => DiskError::of("look at it", &file.at)(error).into(),
            })?;
            if !kind.is_file() {
                return Err(wrong("it is no regular file".into()));
            }
            if kind.len() != file.tree.len() {
                return Err(wrong(format!("it has {} bytes, expected {}", kind.len(), file.tree.len())));
            }
            self.make_parent(&blob)?;
            self.disk.sync(&disk::open(&file.at)?, &file.at)?;
            match self.move_in(&file.at, &blob) {
                Err(error) if error.error.kind() == io::ErrorKind::CrossesDevices => {
                    let temporary = self.temporary();
                    let copied = self.copy_in(file, &temporary, &blob);
                    if copied.is_err() {
                        // The error that led here is the one to tell.
                        let _ = self.disk.remove(&temporary);
                    }
                    copied?;
                }
                moved => moved?,
            }
        }
        self.keep_tree(&file.tree)?;
        Ok(if is_kept { file.tree.len() } else { 0 })
    }

    fn move_in(&self, from: &Path, blob: &Path) -> Result<(), DiskError> {
        self.disk.seal(from)?;
        self.disk.rename(from, blob)
    }

    /// From another file system: its bytes are read anyway, so they are checked.
    fn copy_in(&self, file: &Staged, temporary: &Path, blob: &Path) -> Result<(), StoreError> {
        let copy = hashing::copy(&self.disk, &file.at, file.tree.len(), temporary, None, &mut |_| ())?;
        if copy.tree.root() != file.tree.root() {
            let why = format!("its BLAKE3 is {}, expected {}", copy.tree.root(), file.tree.root());
            return Err(StoreError::Staged { path: file.path.clone(), at: file.at.clone(), why });
        }
        Ok(self.move_in(temporary, blob)?)
    }

    fn make_parent(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.make_dirs(&self.home, path.parent().expect("it lies below the home"))
    }

    /// Writes the tree over a blob, unless it is there.
    pub(super) fn keep_tree(&self, tree: &Tree) -> Result<(), StoreError> {
        if n_groups(tree.len()) == 1 || model::read_tree(&self.trees(), tree.root(), tree.len())?.is_some() {
            return Ok(());
        }
        let path = model::by_hash(&self.trees(), tree.root());
        self.make_parent(&path)?;
        Ok(self.disk.write_whole(&self.temporary(), &path, &tree.to_bytes())?)
    }

    /// Gives files their names in a model's folder. Tells the bytes that had to be copied.
    fn place_all(&self, dir: &Path, files: &[Staged]) -> Result<u64, StoreError> {
        let mut copied = 0;
        let mut dirs = BTreeSet::new();
        for file in files {
            let to = file.path.below(dir);
            self.make_parent(&to)?;
            let temporary = dir.join(RECORDS).join(disk::temporary_name());
            copied += self.place(&self.blob(file.tree.root()), &to, &temporary, &file.tree, true)?;
            dirs.extend(to.parent().map(Path::to_owned));
        }
        dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir))?;
        Ok(copied)
    }
}

/// Whether files of these names can be a model's: on any file system, and apart from the records.
fn check_names(files: &[Staged]) -> Result<(), StoreError> {
    manifest::check_paths(files.iter().map(|file| &file.path))?;
    let all: BTreeSet<String> = files.iter().map(|file| file.path.folded()).collect();
    for file in files {
        let folded = file.path.folded();
        if folded.split('/').next() == Some(RECORDS) {
            return Err(StoreError::Reserved(file.path.clone()));
        }
        let mut above = folded.as_str();
        while let Some((dir, _)) = above.rsplit_once('/') {
            if all.contains(dir) {
                let path = dir.parse().unwrap_or_else(|_| file.path.clone());
                return Err(StoreError::FileAndFolder(path));
            }
            above = dir;
        }
    }
    Ok(())
}

/// The manifest of a model that is there and gets further files.
fn merge(kept: &Manifest, new: Manifest) -> Result<Manifest, StoreError> {
    let mut files: BTreeMap<String, File> = kept.files.iter().map(|file| (file.path.folded(), file.clone())).collect();
    let n = files.len();
    for file in new.files {
        match files.get(&file.path.folded()) {
            Some(old) if old.blake3 == file.blake3 && old.path == file.path => {}
            Some(old) => {
                return Err(StoreError::Different {
                    model: format!("{}@{}", kept.name, kept.revision),
                    path: file.path,
                    kept: old.blake3,
                    offered: file.blake3,
                });
            }
            None => drop(files.insert(file.path.folded(), file)),
        }
    }
    if files.len() == n {
        return Ok(kept.clone());
    }
    let merged =
        Manifest { files: files.into_values().collect(), kept_at: new.kept_at, source: new.source, ..kept.clone() };
    manifest::check_paths(merged.files.iter().map(|file| &file.path))?;
    Ok(merged)
}
