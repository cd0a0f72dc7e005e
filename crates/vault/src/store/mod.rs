//! The store: every model that is kept, each byte once.
//!
//! ```text
//! home/
//!   store/blobs/blake3/ab/abcd…    files, read-only, under their BLAKE3
//!   store/trees/ab/abcd…           the tree over each that is longer than a group: see tree.rs
//!   store/lock
//!   partial/                       where downloads and imports are until they are whole
//!   models/OWNER/NAME/REVISION/    the same files, hard-linked, under their names
//!     .puna/manifest.json          written last: a model is there exactly when this is
//!     .puna/manifest.next          a manifest whose files are being put here, or taken away
//!     .puna/events.jsonl           what happened; it outlives the model, as the licence's records do
//! ```
//!
//! A change is a row of steps, each of which can be the last: files and folders are synced before anything relies on
//! them, names appear by rename or link, and doing it again goes on where it ended. Changes take a lock; should a file
//! system only claim to lock, two that run at once still end with whole files, because what has a hash for its name can
//! only be written in one way.

mod adopt;
mod remove;
mod repair;

#[cfg(test)]
mod tests;

pub use adopt::{Adopted, Origin, Staged};
pub use remove::Garbage;
pub use repair::Repair;

use crate::digest::Hex;
use crate::disk::{self, Disk, DiskError};
use crate::events::EventsError;
use crate::hashing;
use crate::manifest::{Manifest, ManifestError, ModelName};
use crate::model::{self, MANIFEST, Model, ModelError, RECORDS};
use crate::path::SafePath;
use crate::record;
use crate::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A manifest whose files are being put into the model's folder, or taken away.
pub(crate) const NEXT: &str = "manifest.next";

/// The records that outlive a model: what was agreed to, and what happened.
const OUTLIVING: [&str; 4] = [record::RECORD, record::TERMS, model::EVENTS, "events.jsonl.torn"];

/// Models in one home folder.
#[derive(Clone)]
pub struct Store {
    home: PathBuf,
    disk: Disk,
}

/// What the store can't do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A folder that is not a model's.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The log of a model.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The home is something else.
    #[error("{}: expected a folder for models, found a file; name another with PUNA_HOME", .0.display())]
    NotAFolder(PathBuf),
    /// The home can only be read.
    #[error(
        "{}: models there can be used and checked, but nothing can be changed ({error}); name another folder with \
         PUNA_HOME, or ask for permission to write this one",
        home.display()
    )]
    ReadOnly {
        /// The home.
        home: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A manifest that lies in the folder of another model.
    #[error("{}: the manifest is that of {found}: the folder was moved, or only the case of letters differs", dir.display())]
    Elsewhere {
        /// The folder.
        dir: PathBuf,
        /// The model that the manifest names.
        found: String,
    },
    /// Files that can't lie in one folder.
    #[error(transparent)]
    Files(#[from] ManifestError),
    /// A file that would lie among the records.
    #[error("a file of the model is called {0}; the folder {RECORDS} is for puna's records")]
    Reserved(SafePath),
    /// A file with the name of a folder.
    #[error("the model has a file {0}, and files in a folder of that name")]
    FileAndFolder(SafePath),
    /// A revision that is no name of a folder.
    #[error("expected a revision such as a commit, of letters, digits, '-', '_' and '.', found {0:?}")]
    Revision(String),
    /// A file that was to be taken in is not what it was said to be.
    #[error("{}: to be kept as {path}, but {why}; fetch or import it again", at.display())]
    Staged {
        /// Its name in the model.
        path: SafePath,
        /// Where it lies.
        at: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The store has this revision of this model, with other bytes.
    #[error(
        "{model} is here already, with another {path} (BLAKE3 {kept}, now {offered}): one revision has one content; \
         what is kept stays. Remove it first, or name another"
    )]
    Different {
        /// The model.
        model: String,
        /// The file.
        path: SafePath,
        /// What the store has.
        kept: Hex<32>,
        /// What was to be taken in.
        offered: Hex<32>,
    },
    /// No model of this name.
    #[error("there is no model {wanted:?} here; {}", there_is(known))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Several models of this name.
    #[error("{wanted:?} could be {}; say which", candidates.join(" or "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// What it could be.
        candidates: Vec<String>,
    },
    /// Something that needs all manifests while one can't be read.
    #[error("nothing was removed, because not all that is needed is known: {0}")]
    Unclear(Box<StoreError>),
    /// Nothing to check new bytes with.
    #[error("{0}: the tree of hashes over it is lost, so that it can only be fetched again as a whole")]
    NoTree(SafePath),
    /// New bytes that are not the old ones.
    #[error("{path}: the new bytes of group {group} are not those that were kept: nothing was changed")]
    WrongBytes {
        /// The file.
        path: SafePath,
        /// The group.
        group: u64,
    },
    /// A repair that is not done.
    #[error("{path}: {n} damaged groups are still to be replaced")]
    StillDamaged {
        /// The file.
        path: SafePath,
        /// How many.
        n: usize,
    },
}

fn there_is(known: &[String]) -> String {
    const SHOWN: usize = 12;
    match known.len() {
        0 => "there is none at all yet: get one with `puna pull` or `puna import`".into(),
        n if n > SHOWN => format!("there are {} and {} more", known[..SHOWN].join(", "), n - SHOWN),
        _ => format!("there are {}", known.join(", ")),
    }
}

/// What is in a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// The models, by name and revision.
    pub models: Vec<Model>,
    /// Manifests that can't be read, or lie in the wrong place.
    pub broken: Vec<StoreError>,
    /// Folders of models that are not there: removed ones whose records remain, and those that are only begun.
    pub remains: Vec<PathBuf>,
}

/// What a model takes of the disk.
#[derive(Debug)]
pub struct Room {
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that they take of the disk, each file once.
    pub on_disk: u64,
    /// Bytes of files that no other model has: what removing it would free.
    pub alone: u64,
    /// Files that other models have, too, and which.
    pub shared: Vec<(SafePath, Vec<String>)>,
}

impl Store {
    /// The store in the folder `home`, which need not be there yet: the first change makes it. Nothing is written here.
    ///
    /// # Errors
    /// When something else than a folder has the name, or it can't be listed.
    pub fn open(home: &Path) -> Result<Store, StoreError> {
        let store = Store { home: home.to_owned(), disk: Disk::default() };
        match std::fs::metadata(home) {
            Ok(kind) if !kind.is_dir() => return Err(StoreError::NotAFolder(home.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(StoreError::NotAFolder(home.to_owned()));
            }
            _ => disk::names_in(home)?,
        };
        Ok(store)
    }

    /// Its folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where downloads are until they are whole.
    #[must_use]
    pub fn partial(&self) -> PathBuf {
        self.home.join("partial")
    }

    /// Where a file of this BLAKE3 lies, if it is kept.
    #[must_use]
    pub fn blob(&self, blake3: Hex<32>) -> PathBuf {
        model::by_hash(&self.blobs(), blake3)
    }

    /// Where a model lies, or would lie. Its records can be there before it is.
    ///
    /// # Errors
    /// When no folder can be called like the revision.
    pub fn model_dir(&self, name: &ModelName, revision: &str) -> Result<PathBuf, StoreError> {
        let is_name = revision.len() <= 96
            && revision.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && revision.parse::<SafePath>().is_ok();
        if !is_name {
            return Err(StoreError::Revision(revision.chars().take(80).collect()));
        }
        Ok(self.models().join(&name.owner).join(&name.name).join(revision))
    }

    /// Makes the folders of the store, and finds out whether it can be changed: to be asked before a long download.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] when it can't.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.change().map(drop)
    }

    /// Whether a model lies in it, rather than in a bundle.
    #[must_use]
    pub fn has(&self, model: &Model) -> bool {
        let Ok(home) = self.home.canonicalize() else { return false };
        model.dir.canonicalize().is_ok_and(|dir| dir.starts_with(home))
    }

    /// Bytes that are free where it lies, or will lie; `None` if the system does not say.
    ///
    /// # Errors
    /// When the system does not let itself be asked.
    pub fn free(&self) -> Result<Option<u64>, DiskError> {
        let there = self.home.ancestors().find(|dir| dir.is_dir()).unwrap_or(&self.home);
        disk::free(there).map_err(DiskError::of("look how much is free", there))
    }

    /// Through which everything in it is changed.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    fn models(&self) -> PathBuf {
        self.home.join("models")
    }

    fn blobs(&self) -> PathBuf {
        self.home.join("store").join("blobs").join("blake3")
    }

    fn trees(&self) -> PathBuf {
        self.home.join("store").join("trees")
    }

    /// A name for a file that is not yet what it will be, on the file system of the blobs.
    fn temporary(&self) -> PathBuf {
        self.partial().join(disk::temporary_name())
    }

    /// Begins a change: makes the folders, and waits for other changes to end.
    fn change(&self) -> Result<Lock, StoreError> {
        let begin = || {
            for dir in [self.blobs(), self.trees(), self.partial(), self.models()] {
                self.disk.make_dirs(&self.home, &dir)?;
            }
            let path = self.home.join("store").join("lock");
            let opened = File::options().create(true).truncate(false).write(true).open(&path);
            let file = opened.map_err(DiskError::of("open it", &path))?;
            // Without locks, as on some network file systems, the steps alone must do: see above.
            let _ = file.lock();
            Ok(Lock { _file: file })
        };
        begin().map_err(|DiskError { path, doing, error }| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                StoreError::ReadOnly { home: self.home.clone(), error }
            }
            _ => DiskError { path, doing, error }.into(),
        })
    }

    /// What is in the store, by its manifests.
    ///
    /// # Errors
    /// When folders can't be listed. A manifest that is broken is not an error here: see [`Listing::broken`].
    pub fn list(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        for owner in disk::names_in(&self.models())? {
            for name in folders(&owner)? {
                for dir in folders(&name)? {
                    match self.open_model(&dir) {
                        Ok(Some(model)) => listing.models.push(model),
                        Ok(None) => listing.remains.push(dir),
                        Err(error) => listing.broken.push(error),
                    }
                }
            }
        }
        Ok(listing)
    }

    /// The model in a folder of the store; `None` if its manifest is not there.
    fn open_model(&self, dir: &Path) -> Result<Option<Model>, StoreError> {
        let Some(manifest) = model::read_manifest(&dir.join(RECORDS).join(MANIFEST))? else { return Ok(None) };
        let expected = self.model_dir(&manifest.name, &manifest.revision);
        if expected.is_ok_and(|expected| expected == dir) {
            return Ok(Some(self.model(dir, manifest)));
        }
        let found = format!("{}@{}", manifest.name, manifest.revision.chars().take(80).collect::<String>());
        Err(StoreError::Elsewhere { dir: dir.to_owned(), found })
    }

    fn model(&self, dir: &Path, manifest: Manifest) -> Model {
        Model { dir: dir.to_owned(), manifest, trees: self.trees(), blobs: Some(self.blobs()) }
    }

    /// The model that somebody means by `owner/name` or `name`, with `@` and a revision or the beginning of one, if it
    /// is not to be the one that was kept last. The case of letters makes no difference where only one is meant.
    ///
    /// # Errors
    /// When there is none, or several could be meant.
    pub fn find(&self, wanted: &str) -> Result<Model, StoreError> {
        let (name, revision) = match wanted.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (wanted, None),
        };
        let models = self.list()?.models;
        let called = |model: &Model| {
            let ModelName { name, .. } = &model.manifest.name;
            if wanted.contains('/') { model.manifest.name.to_string() } else { name.clone() }
        };
        let is_exact = models.iter().any(|model| called(model) == name);
        let known = || models.iter().map(Model::full_name).collect();
        let mut found: Vec<&Model> = models
            .iter()
            .filter(|model| if is_exact { called(model) == name } else { called(model).eq_ignore_ascii_case(name) })
            .filter(|model| revision.is_none_or(|revision| model.manifest.revision.starts_with(revision)))
            .collect();
        if let Some(exact) = revision.and_then(|revision| found.iter().find(|m| m.manifest.revision == revision)) {
            found = vec![exact];
        }
        let names: BTreeSet<&ModelName> = found.iter().map(|model| &model.manifest.name).collect();
        if names.len() > 1 || (revision.is_some() && found.len() > 1) {
            let candidates = found.iter().map(|model| model.full_name()).collect();
            return Err(StoreError::Ambiguous { wanted: wanted.to_owned(), candidates });
        }
        let latest = found.into_iter().max_by_key(|model| (&model.manifest.kept_at, &model.manifest.revision));
        latest.cloned().ok_or_else(|| StoreError::Unknown { wanted: wanted.to_owned(), known: known() })
    }

    /// What a model takes of the disk, and what of it others have, too.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub fn room(&self, model: &Model) -> Result<Room, StoreError> {
        let mut others: BTreeMap<Hex<32>, BTreeSet<String>> = BTreeMap::new();
        for other in self.list()?.models.iter().filter(|other| other.dir != model.dir) {
            for file in &other.manifest.files {
                others.entry(file.blake3).or_default().insert(other.full_name());
            }
        }
        let mut room = Room { bytes: model.manifest.size(), on_disk: 0, alone: 0, shared: Vec::new() };
        let mut seen = BTreeSet::new();
        for file in &model.manifest.files {
            if let Some(others) = others.get(&file.blake3) {
                room.shared.push((file.path.clone(), others.iter().cloned().collect()));
            }
            if seen.insert(file.blake3) {
                let kind = std::fs::symlink_metadata(file.path.below(&model.dir));
                room.on_disk = room.on_disk.saturating_add(kind.map_or(0, |kind| disk::allocated(&kind)));
                if !others.contains_key(&file.blake3) {
                    room.alone = room.alone.saturating_add(file.size);
                }
            }
        }
        Ok(room)
    }

    /// Makes `to` a hard link to a blob, over whatever has that name; where the file system has no hard links, a copy,
    /// unless `to` can be `trusted` to be one. Tells the bytes that had to be copied.
    fn place(
        &self,
        blob: &Path,
        to: &Path,
        temporary: &Path,
        expected: &Tree,
        trusted: bool,
    ) -> Result<u64, DiskError> {
        let kind = std::fs::symlink_metadata(blob).map_err(DiskError::of("look at it", blob))?;
        let there = std::fs::symlink_metadata(to).ok();
        if there.as_ref().is_some_and(|there| disk::are_one(there, &kind) == Some(true)) {
            return Ok(0);
        }
        let clean_up = |error| {
            // The error that led here is the one to tell.
            let _ = self.disk.remove(temporary);
            error
        };
        match self.disk.link(blob, temporary) {
            Ok(()) => return self.disk.rename(temporary, to).map(|()| 0).map_err(clean_up),
            Err(error) if has_no_links(&error.error) => {}
            Err(error) => return Err(error),
        }
        // Names appear by rename of what is whole: what is there with this size was copied by an earlier try.
        if trusted && there.is_some_and(|there| there.is_file() && there.len() == kind.len() && disk::is_sealed(&there))
        {
            return Ok(0);
        }
        let copied = hashing::copy(&self.disk, blob, kind.len(), temporary, None, &mut |_| ()).and_then(|copy| {
            if copy.tree.root() != expected.root() {
                let error = io::Error::other("it is damaged; repair it with `puna verify --deep`");
                return Err(DiskError::of("copy it", blob)(error));
            }
            self.disk.seal(temporary)?;
            self.disk.rename(temporary, to)
        });
        copied.map(|()| kind.len()).map_err(clean_up)
    }
}

/// Whether a link was refused because it can't be, rather than because something is wrong.
fn has_no_links(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Holds off other changes until it is dropped.
struct Lock {
    _file: File,
}

/// The folders in a folder; links are none.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let is_dir = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
    if !is_dir(&dir.to_owned()) {
        return Ok(Vec::new());
    }
    Ok(disk::names_in(dir)?.into_iter().filter(is_dir).collect())
}
