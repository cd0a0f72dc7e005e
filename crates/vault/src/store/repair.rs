//! Damaged bytes are replaced, in a fresh copy that takes the old file's place.

use super::{Store, StoreError};
use crate::disk::{self, Disk, DiskError};
use crate::events;
use crate::hashing;
use crate::manifest::File;
use crate::model::{EVENTS, Model, RECORDS, by_hash};
use crate::path::SafePath;
use crate::tree::{Tree, extent, n_groups};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A file that is being made anew. Dropped before [`Repair::finish`], it leaves everything as it was.
pub struct Repair<'s> {
    store: &'s Store,
    file: File,
    tree: Tree,
    copy: std::fs::File,
    at: PathBuf,
    missing: BTreeSet<u64>,
    replaced: Vec<u64>,
}

impl Store {
    /// Begins to repair a file of a model: copies every group that is what it was, from the model's folder, the store,
    /// other models, or `others`: files elsewhere that may have the same bytes, such as those of a bundle. What none of
    /// them has is in [`Repair::missing`].
    ///
    /// # Errors
    /// When the tree over the file is lost and no copy is whole, or the store can't be changed.
    pub fn repair(&self, model: &Model, file: &File, others: &[PathBuf]) -> Result<Repair<'_>, StoreError> {
        self.prepare()?;
        let mut candidates = vec![file.path.below(&model.dir), self.blob(file.blake3)];
        for holder in self.list()?.models {
            let same = holder.manifest.files.iter().filter(|other| other.blake3 == file.blake3);
            candidates.extend(same.map(|other| other.path.below(&holder.dir)));
        }
        candidates.extend_from_slice(others);
        let tree = match model.tree(file)? {
            Some(tree) => tree,
            None => candidates
                .iter()
                .find_map(|path| tree_of(path, file))
                .ok_or_else(|| StoreError::NoTree(file.path.clone()))?,
        };
        let at = self.temporary();
        let copy = self.disk.create(&at)?;
        let n = n_groups(file.size);
        let (file, replaced) = (file.clone(), Vec::new());
        let mut repair = Repair { store: self, file, tree, copy, at, missing: (0..n).collect(), replaced };
        for (i, path) in candidates.iter().enumerate() {
            if !repair.missing.is_empty() {
                repair.fill(path, i == 0)?;
            }
        }
        Ok(repair)
    }

    /// Computes the trees that were lost of a model's files, where these are what they were. Tells how many it made.
    ///
    /// # Errors
    /// When a file can't be read, or the store can't be changed.
    pub fn restore_trees(&self, model: &Model) -> Result<usize, StoreError> {
        let _lock = self.change()?;
        let mut made = 0;
        for file in &model.manifest.files {
            if model.tree(file)?.is_none()
                && let Some(tree) = tree_of(&file.path.below(&model.dir), file)
            {
                self.keep_tree(&tree)?;
                made += 1;
            }
        }
        Ok(made)
    }
}

/// The tree over a copy that is whole.
fn tree_of(path: &Path, file: &File) -> Option<Tree> {
    let read = hashing::hash(&disk::open(path).ok()?, path, file.size, None, &mut |_| Ok(()));
    read.ok().map(|hashed| hashed.tree).filter(|tree| tree.root() == file.blake3)
}

impl Repair<'_> {
    /// The groups that are still to be written. Where they lie in the file: [`extent`].
    #[must_use]
    pub fn missing(&self) -> &BTreeSet<u64> {
        &self.missing
    }

    /// The file.
    pub(crate) fn path(&self) -> &SafePath {
        &self.file.path
    }

    /// The nodes that its groups must have.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Takes what is intact of a file that may have the same bytes.
    fn fill(&mut self, path: &Path, is_own: bool) -> Result<(), StoreError> {
        let Ok(from) = disk::open(path) else { return Ok(()) };
        let mut bytes = Vec::new();
        for group in self.missing.clone() {
            // What can't be read is not there.
            if hashing::read_group(&from, self.tree.len(), group, &mut bytes).is_ok()
                && self.tree.is_intact(group, &bytes)
            {
                self.put(group, &bytes, !is_own)?;
            }
        }
        Ok(())
    }

    /// Writes the bytes of a group.
    ///
    /// # Errors
    /// When they are not those that were kept, or the disk refuses.
    pub fn write(&mut self, group: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let fits = group < n_groups(self.tree.len()) && extent(self.tree.len(), group).1 == bytes.len() as u64;
        if !fits || !self.tree.is_intact(group, bytes) {
            return Err(StoreError::WrongBytes { path: self.file.path.clone(), group });
        }
        self.put(group, bytes, true)
    }

    fn put(&mut self, group: u64, bytes: &[u8], is_new: bool) -> Result<(), StoreError> {
        self.store.disk.write_at(&self.copy, &self.at, bytes, extent(self.tree.len(), group).0)?;
        self.missing.remove(&group);
        if is_new {
            self.replaced.push(group);
        }
        Ok(())
    }

    /// Puts the new file in the place of the old one, in the store and in every model that has it. `now` is in
    /// milliseconds since 1970.
    ///
    /// # Errors
    /// When groups are missing, or the store can't be changed. Whatever happens, each name is that of the old file or of
    /// the new one.
    pub fn finish(self, now: i64) -> Result<(), StoreError> {
        let Repair { store, file, tree, copy, at, missing, replaced } = &self;
        if !missing.is_empty() {
            return Err(StoreError::StillDamaged { path: file.path.clone(), n: missing.len() });
        }
        let disk: &Disk = &store.disk;
        disk.sync(copy, at)?;
        disk.seal(at)?;
        let _lock = store.change()?;
        let blob = by_hash(&store.blobs(), file.blake3);
        let parent = blob.parent().expect("it lies in a folder of the store");
        disk.make_dirs(&store.home, parent)?;
        disk.rename(at, &blob)?;
        disk.sync_dir(parent)?;
        store.keep_tree(tree)?;
        for model in store.list()?.models {
            let mut paths = Vec::new();
            for same in model.manifest.files.iter().filter(|same| same.blake3 == file.blake3) {
                replace(store, &blob, &model.dir, &same.path.below(&model.dir), tree)?;
                paths.push(same.path.to_string());
            }
            if !paths.is_empty() {
                let payload = json!({ "files": paths, "blake3": file.blake3, "groups": replaced });
                events::append_on(disk, &model.dir.join(RECORDS).join(EVENTS), now, "repaired", payload)?;
            }
        }
        Ok(())
    }
}

/// Gives a name in a model's folder to a blob, whatever had it.
fn replace(store: &Store, blob: &Path, dir: &Path, to: &Path, tree: &Tree) -> Result<(), DiskError> {
    let parent = to.parent().expect("it lies in the model's folder");
    store.disk.make_dirs(dir, parent)?;
    store.place(blob, to, &dir.join(RECORDS).join(disk::temporary_name()), tree, false)?;
    store.disk.sync_dir(parent)
}

impl Drop for Repair<'_> {
    fn drop(&mut self) {
        // After `finish` there is nothing of this name, and before it nothing that anybody needs.
        let _ = self.store.disk.remove(&self.at);
    }
}
