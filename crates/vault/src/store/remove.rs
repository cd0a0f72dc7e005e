//! Models, and what nothing needs, go.

use super::{NEXT, OUTLIVING, Store, StoreError, folders};
use crate::digest::Hex;
use crate::disk::{self, DiskError, TEMPORARY};
use crate::events::{self, EventsError};
use crate::manifest::{Manifest, ModelName};
use crate::model::{self, EVENTS, MANIFEST, Model, RECORDS};
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What nothing needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Blobs that no model has, and their sizes in bytes.
    pub blobs: Vec<(Hex<32>, u64)>,
    /// Trees over blobs that no model has.
    pub trees: Vec<Hex<32>>,
    /// Downloads that nothing was added to for long.
    pub partial: Vec<PathBuf>,
    /// Folders of models that were begun, or not wholly removed.
    pub unfinished: Vec<PathBuf>,
    /// Bytes of all that.
    pub bytes: u64,
}

impl Store {
    /// Removes a model. Its bytes stay until [`Store::gc`], and the records of its terms and of what happened for longer:
    /// see [`Store::forget`]. Files in its folder that are not its own stay, too. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// When the store can't be changed, or has no such model.
    pub fn remove(&self, model: &Model, now: i64) -> Result<(), StoreError> {
        let dir = self.model_dir(&model.manifest.name, &model.manifest.revision)?;
        let _lock = self.change()?;
        // As it is now: another process may have changed it.
        let model = self.open_model(&dir)?.ok_or_else(|| self.unknown(&model.full_name()))?;
        let records = model.dir.join(RECORDS);
        if let Some(begun) = model::read_manifest(&records.join(NEXT))? {
            self.discard_files(&model.dir, &begun)?;
        }
        let payload = json!({ "root": model.manifest.root() });
        match events::append_on(&self.disk, &records.join(EVENTS), now, "removed", payload) {
            // Whoever removes a model may do it because the disk is full.
            Err(EventsError::Disk(DiskError { error, .. })) if error.kind() == io::ErrorKind::StorageFull => {}
            told => told?,
        }
        // From here on it is not there, and whatever is left is what `gc` takes away.
        self.disk.rename(&records.join(MANIFEST), &records.join(NEXT))?;
        self.disk.sync_dir(&records)?;
        self.discard(&model.dir, &model.manifest)
    }

    /// Removes a model, if it is there, with the records of its terms and of what happened.
    ///
    /// # Errors
    /// When the store can't be changed, or has nothing of this model.
    pub fn forget(&self, name: &ModelName, revision: &str, now: i64) -> Result<(), StoreError> {
        let dir = self.model_dir(name, revision)?;
        if !dir.join(RECORDS).is_dir() {
            return Err(self.unknown(&format!("{name}@{revision}")));
        }
        if let Some(model) = self.open_model(&dir)? {
            self.remove(&model, now)?;
        }
        let _lock = self.change()?;
        if let Some(next) = model::read_manifest(&dir.join(RECORDS).join(NEXT))? {
            self.discard(&dir, &next)?;
        }
        self.disk.remove_all(&dir.join(RECORDS))?;
        self.remove_empty_up(&dir)
    }

    fn unknown(&self, wanted: &str) -> StoreError {
        let known = self.list().map(|listing| listing.models.iter().map(Model::full_name).collect());
        StoreError::Unknown { wanted: wanted.to_owned(), known: known.unwrap_or_default() }
    }

    /// Takes the files of the manifest of a change that is given up out of a folder, with the manifest, and with the
    /// model's records if it is not there.
    fn discard(&self, dir: &Path, next: &Manifest) -> Result<(), StoreError> {
        let records = dir.join(RECORDS);
        self.discard_files(dir, next)?;
        if !records.join(MANIFEST).exists() {
            for path in disk::names_in(&records)? {
                let name = path.file_name().unwrap_or_default();
                if name != NEXT && !OUTLIVING.iter().any(|outliving| name == *outliving) {
                    self.disk.remove_all(&path)?;
                }
            }
        }
        self.disk.remove(&records.join(NEXT))?;
        Ok(self.disk.sync_dir(&records)?)
    }

    /// Takes the files of a manifest out of a folder, but for those of the model that is there.
    pub(super) fn discard_files(&self, dir: &Path, next: &Manifest) -> Result<(), StoreError> {
        let kept = model::read_manifest(&dir.join(RECORDS).join(MANIFEST))?;
        let needed: BTreeSet<&str> = kept.iter().flat_map(|kept| &kept.files).map(|file| file.path.as_str()).collect();
        for file in next.files.iter().filter(|file| !needed.contains(file.path.as_str())) {
            let path = file.path.below(dir);
            // A link in place of a folder would lead elsewhere.
            if is_plain(dir, &path) {
                self.disk.remove(&path)?;
                self.remove_empty_below(dir, &path)?;
            }
        }
        Ok(self.disk.sync_dir(dir)?)
    }

    /// Removes the folders that were left empty between a file that was removed and the model's folder.
    fn remove_empty_below(&self, dir: &Path, path: &Path) -> Result<(), DiskError> {
        path.ancestors().skip(1).take_while(|above| *above != dir).try_for_each(|above| self.disk.remove_empty(above))
    }

    /// Removes a model's folder and those above it, as far as they are empty.
    fn remove_empty_up(&self, dir: &Path) -> Result<(), StoreError> {
        let models = self.models();
        for above in dir.ancestors().take_while(|above| *above != models) {
            self.disk.remove_empty(above)?;
        }
        Ok(self.disk.sync_dir(&models)?)
    }

    /// Removes blobs and trees that no model has, and what downloads, imports and changes left that ended more than
    /// `age` before `now` (milliseconds since 1970); on a `dry_run`, only tells.
    ///
    /// # Errors
    /// When a manifest can't be read: its files would be taken for garbage, so nothing is removed. Or when the store
    /// can't be changed.
    pub fn gc(&self, now: i64, age: Duration, dry_run: bool) -> Result<Garbage, StoreError> {
        let _lock = if dry_run { None } else { Some(self.change()?) };
        let listing = self.list()?;
        if let Some(error) = listing.broken.into_iter().next() {
            return Err(StoreError::Unclear(Box::new(error)));
        }
        let is_old = |path: &Path| {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            last_change(path, 0).saturating_add(age) <= now
        };
        let mut garbage = Garbage::default();
        let mut needed: BTreeSet<Hex<32>> =
            listing.models.iter().flat_map(|model| &model.manifest.files).map(|file| file.blake3).collect();
        for dir in listing.models.iter().map(|model| &model.dir).chain(&listing.remains) {
            let path = dir.join(RECORDS).join(NEXT);
            let next = model::read_manifest(&path).map_err(|error| StoreError::Unclear(Box::new(error.into())))?;
            match next {
                None => {}
                Some(next) if !is_old(&path) => needed.extend(next.files.iter().map(|file| file.blake3)),
                Some(next) => {
                    garbage.unfinished.push(dir.clone());
                    if !dry_run {
                        self.discard(dir, &next)?;
                    }
                }
            }
            self.remove_temporaries(&dir.join(RECORDS), &is_old, dry_run)?;
        }
        for (path, blob) in hashes_in(&self.blobs())?.into_iter().filter(|(_, hash)| !needed.contains(hash)) {
            let size = std::fs::symlink_metadata(&path).map_or(0, |kind| kind.len());
            garbage.blobs.push((blob, size));
            garbage.bytes = garbage.bytes.saturating_add(size);
            if !dry_run {
                self.disk.remove(&path)?;
            }
        }
        for (path, tree) in hashes_in(&self.trees())?.into_iter().filter(|(_, hash)| !needed.contains(hash)) {
            garbage.trees.push(tree);
            garbage.bytes = garbage.bytes.saturating_add(std::fs::symlink_metadata(&path).map_or(0, |kind| kind.len()));
            if !dry_run {
                self.disk.remove(&path)?;
            }
        }
        for path in disk::names_in(&self.partial())?.into_iter().filter(|path| is_old(path)) {
            garbage.bytes = garbage.bytes.saturating_add(size_of(&path, 0));
            if !dry_run {
                self.disk.remove_all(&path)?;
            }
            garbage.partial.push(path);
        }
        Ok(garbage)
    }

    fn remove_temporaries(&self, dir: &Path, is_old: &dyn Fn(&Path) -> bool, dry_run: bool) -> Result<(), StoreError> {
        for path in disk::names_in(dir)? {
            let is_ours =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(TEMPORARY));
            if is_ours && is_old(&path) && !dry_run {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Whether all folders between `dir` and `path` are such, and no links.
fn is_plain(dir: &Path, path: &Path) -> bool {
    let is_dir = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
    path.ancestors().skip(1).take_while(|above| *above != dir).all(is_dir)
}

/// The files that have a hash for their name, in the folders that have its beginning for theirs. Others are not ours.
fn hashes_in(dir: &Path) -> Result<Vec<(PathBuf, Hex<32>)>, DiskError> {
    let mut found = Vec::new();
    for dir in folders(dir)? {
        for path in disk::names_in(&dir)? {
            if let Some(hash) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) {
                found.push((path, hash));
            }
        }
    }
    Ok(found)
}

/// Folders in folders that are looked at: more than any download has.
const MAX_DEPTH: usize = 64;

/// When anything in a folder was last changed, in milliseconds since 1970.
fn last_change(path: &Path, depth: usize) -> i64 {
    // What can't be looked at may be in use.
    let Ok(kind) = std::fs::symlink_metadata(path) else { return i64::MAX };
    if depth > MAX_DEPTH {
        return i64::MAX;
    }
    let own = disk::changed_at(&kind);
    if !kind.is_dir() {
        return own;
    }
    let inside = disk::names_in(path).unwrap_or_default();
    inside.iter().map(|path| last_change(path, depth + 1)).fold(own, i64::max)
}

/// Bytes of the files in a folder.
fn size_of(path: &Path, depth: usize) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(kind) if kind.is_dir() && depth <= MAX_DEPTH => {
            let inside = disk::names_in(path).unwrap_or_default();
            inside.iter().map(|path| size_of(path, depth + 1)).fold(0, u64::saturating_add)
        }
        Ok(kind) => kind.len(),
        Err(_) => 0,
    }
}
