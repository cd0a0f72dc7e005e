//! Models that are on this machine already: a folder in any published form, GGUF files, the cache of Hugging Face's
//! tools, a folder of Meta's. They are opened to see that they can be, hashed, held against the hashes that lie beside
//! them, and kept.

use crate::checklist::{self, ChecklistError, MAX_CHECKLIST};
use crate::digest::{Hex, Published};
use crate::disk::{self, DiskError};
use crate::hashing::{self, Progress};
use crate::manifest::{MAX_FILES, ModelName};
use crate::model::{PROVENANCE, RECORDS, split_set};
use crate::path::{PathError, SafePath};
use crate::record::{self, DocumentKind, Folder, RecordError};
use crate::store::{Adopted, Origin, Staged, Store, StoreError};
use crate::tree::Tree;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What to import.
#[derive(Clone, Debug)]
pub struct Import<'a> {
    /// A folder with a model, a cache folder `models--OWNER--NAME` or a snapshot in it, or a `.gguf` file, any one of a
    /// split set.
    pub path: &'a Path,
    /// What to call it.
    pub name: ModelName,
    /// Which revision it is; by itself, that of a cache's snapshot, or the beginning of its hash.
    pub revision: Option<String>,
    /// Whether to take the folder `original/`, too: in Meta's repositories it has all weights a second time.
    pub original: bool,
    /// Whether to link files rather than to copy them, where they are read-only already; a link to any other would make
    /// a user's own file read-only. Whoever changes such a file later changes it in the store.
    pub link: bool,
}

/// A model that was imported.
#[derive(Debug)]
pub struct Imported {
    /// How it is kept.
    pub adopted: Adopted,
    /// Bytes of files that were linked.
    pub linked: u64,
    /// Bytes that were copied without being written, because the file system lets files share them.
    pub cloned: u64,
    /// Files that have the hash that lay beside them.
    pub n_checked: usize,
    /// Files that `checklist.chk` names and that are not there.
    pub absent: Vec<String>,
    /// Files in `original/` that were left out.
    pub n_left_out: usize,
}

/// What can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The store could not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of its terms is none.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Not enough room.
    #[error("{}: {need} bytes are to be copied, {free} are free: make room, or name another folder with PUNA_HOME", home.display())]
    Space {
        /// The store.
        home: PathBuf,
        /// Bytes.
        need: u64,
        /// Bytes.
        free: u64,
    },
    /// It can't be opened as a model.
    #[error("{0}; nothing was imported")]
    Model(Box<puna_checkpoint::Error>),
    /// A name that the vault has no place for.
    #[error("in {}: {error}; rename the file, or leave it out", dir.display())]
    Name {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with the name.
        error: PathError,
    },
    /// A symbolic link or something else that is no file.
    #[error("{}: {why}; copy what it is to stand for there, or leave it out", path.display())]
    NotAFile {
        /// What it is.
        path: PathBuf,
        /// Why it is not followed.
        why: &'static str,
    },
    /// A folder with more files than any model has.
    #[error("{}: expected at most {MAX_FILES} files; is this the folder of one model?", .0.display())]
    TooMany(PathBuf),
    /// A cache with no snapshot, or several of which none is current.
    #[error("{}: expected one snapshot, or a current one in refs/main, found {n}; name the folder of one", path.display())]
    Snapshot {
        /// The cache.
        path: PathBuf,
        /// How many snapshots it has.
        n: usize,
    },
    /// A list of hashes that is none.
    #[error("{}: {error}", path.display())]
    Checklist {
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        error: ChecklistError,
    },
    /// A file that has not the hash that lies beside it.
    #[error(
        "{}: expected the {expected} of {beside}, found the {found}: the file is damaged or another; get it again. \
         Nothing was imported",
        path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// Where the hash is from.
        beside: &'static str,
        /// The hash there.
        expected: Published,
        /// The hash of the file.
        found: Published,
    },
}

impl From<puna_checkpoint::Error> for ImportError {
    fn from(error: puna_checkpoint::Error) -> ImportError {
        ImportError::Model(Box::new(error))
    }
}

/// Folders in folders that are looked at.
const MAX_DEPTH: usize = 16;

/// A file to import.
struct Found {
    path: SafePath,
    at: PathBuf,
    size: u64,
    published: Option<(&'static str, Published)>,
}

/// Imports a model. `now` is in milliseconds since 1970.
///
/// # Errors
/// When it can't be read as a Llama, a file is not what a hash beside it says, or the store can't be changed. Then the
/// store is as it was.
pub fn import(store: &Store, what: &Import<'_>, now: i64, progress: Progress<'_>) -> Result<Imported, ImportError> {
    let path = what.path.canonicalize().map_err(DiskError::of("open it", what.path))?;
    store.prepare()?;
    let snapshot = Snapshot::of(&path)?;
    let mut gathered = match &snapshot {
        Some(snapshot) => Gathered::folder(&snapshot.dir, Some(&snapshot.blobs), what.original)?,
        None if path.is_dir() => Gathered::folder(&path, None, what.original)?,
        None => Gathered::gguf(&path)?,
    };
    let absent = gathered.hold_against_checklists()?;

    let staging = Staging::create(store)?;
    let total: u64 = gathered.files.iter().map(|file| file.size).sum();
    let mut done = 0;
    let mut imported = Counts::default();
    let mut staged = Vec::new();
    for (i, found) in gathered.files.iter().enumerate() {
        let at = staging.dir.join(i.to_string());
        let before = done;
        let (sha256, tree) = bring(store, found, &at, what.link, total - before, &mut imported, &mut |n| {
            done += n;
            progress(done, total);
        })?;
        done = before + found.size;
        staged.push(Staged { path: found.path.clone(), sha256, tree, at });
    }
    let origin = Origin {
        name: what.name.clone(),
        revision: what.revision.clone().or(snapshot.and_then(|snapshot| snapshot.commit)),
        source: format!("import of {}", what.path.display()),
    };
    let adopted = store.adopt(&origin, &staged, now)?;
    if path.is_dir() {
        carry(&Folder::of(&path), &Folder::of(&adopted.model.dir))?;
    }
    // Begun now, while the store can be written: later it may lie where only reading is possible. The model is kept also with
    // texts that can't be read, which whoever asks for them is told.
    let _ = record::of_model(&adopted.model, now);
    Ok(Imported {
        adopted,
        linked: imported.linked,
        cloned: imported.cloned,
        n_checked: gathered.files.iter().filter(|file| file.published.is_some()).count(),
        absent,
        n_left_out: gathered.n_left_out,
    })
}

/// Takes the record of the terms along that lies beside the model, of a bundle for instance, unless there is one.
fn carry(from: &Folder, to: &Folder) -> Result<(), RecordError> {
    let (Some(record), None) = (from.read()?, to.read()?) else { return Ok(()) };
    for document in &record.terms {
        if let Some(bytes) = from.document(document.sha256_raw)? {
            to.keep(&bytes)?;
        }
    }
    to.write(&record.imported())
}

#[derive(Default)]
struct Counts {
    linked: u64,
    cloned: u64,
}

/// A folder for files that are on their way in; dropped, it is removed.
struct Staging<'s> {
    store: &'s Store,
    dir: PathBuf,
}

impl<'s> Staging<'s> {
    fn create(store: &'s Store) -> Result<Staging<'s>, DiskError> {
        let dir = store.partial().join(disk::temporary_name());
        store.disk().make_dirs(store.home(), &dir)?;
        Ok(Staging { store, dir })
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // What is kept was moved out. If the rest can't be removed, `puna gc` will.
        let _ = self.store.disk().remove_all(&self.dir);
    }
}

/// Puts a file where the store can take it from, and hashes it. With those behind it, it has `to_come` bytes.
fn bring(
    store: &Store,
    found: &Found,
    at: &Path,
    link: bool,
    to_come: u64,
    counts: &mut Counts,
    progress: &mut dyn FnMut(u64),
) -> Result<(Hex<32>, Tree), ImportError> {
    let published = found.published.map(|(_, published)| published);
    let is_sealed = || std::fs::metadata(&found.at).is_ok_and(|kind| disk::is_sealed(&kind));
    let hash_there = |progress: &mut dyn FnMut(u64)| {
        hashing::hash(&disk::open(at)?, at, found.size, published, &mut |bytes| {
            progress(bytes.len() as u64);
            Ok(())
        })
    };
    let hashed = if link && is_sealed() && store.disk().link(&found.at, at).is_ok() {
        counts.linked += found.size;
        hash_there(progress)?
    } else {
        let file = store.disk().create(at)?;
        if disk::clone_file(&disk::open(&found.at)?, &file) {
            counts.cloned += found.size;
            hash_there(progress)?
        } else {
            store.disk().remove(at)?;
            if let Some(free) = store.free()?.filter(|free| *free < to_come) {
                return Err(ImportError::Space { home: store.home().to_owned(), need: to_come, free });
            }
            hashing::copy(store.disk(), &found.at, found.size, at, published, progress)?
        }
    };
    match (hashed.sha256, found.published) {
        (Ok(sha256), _) => Ok((sha256, hashed.tree)),
        (Err(actual), Some((beside, expected))) => {
            Err(ImportError::Hash { path: found.at.clone(), beside, expected, found: actual })
        }
        (Err(_), None) => unreachable!("only a published hash can differ"),
    }
}

/// A snapshot in a cache of Hugging Face's tools: links with the names of a repository's files, to files that have the
/// hub's hashes for names.
struct Snapshot {
    dir: PathBuf,
    blobs: PathBuf,
    commit: Option<String>,
}

impl Snapshot {
    fn of(path: &Path) -> Result<Option<Snapshot>, ImportError> {
        let is_commit = |name: &str| name.parse::<Hex<20>>().is_ok();
        let dir = if path.join("snapshots").is_dir() && path.join("blobs").is_dir() {
            let current = disk::read_bounded(&path.join("refs").join("main"), 100)?.unwrap_or_default();
            let current = std::str::from_utf8(&current).unwrap_or_default().trim();
            let all = disk::names_in(&path.join("snapshots"))?;
            match &all[..] {
                [one] => one.clone(),
                _ if is_commit(current) && path.join("snapshots").join(current).is_dir() => {
                    path.join("snapshots").join(current)
                }
                _ => return Err(ImportError::Snapshot { path: path.to_owned(), n: all.len() }),
            }
        } else {
            path.to_owned()
        };
        let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(None) };
        let Some(blobs) = above.parent().map(|cache| cache.join("blobs")) else { return Ok(None) };
        if above.file_name().is_none_or(|above| above != "snapshots") || !blobs.is_dir() {
            return Ok(None);
        }
        let commit = name.to_str().filter(|name| is_commit(name)).map(str::to_owned);
        let blobs = blobs.canonicalize().map_err(DiskError::of("open it", &blobs))?;
        Ok(Some(Snapshot { dir, blobs, commit }))
    }
}

#[derive(Default)]
struct Gathered {
    files: Vec<Found>,
    n_left_out: usize,
}

impl Gathered {
    /// A GGUF file, with the others of its set, and with what lies beside it under its name: its licence, its card, what it
    /// was made from.
    fn gguf(path: &Path) -> Result<Gathered, ImportError> {
        let files = puna_checkpoint::open(path)?.files;
        let dir = path.parent().unwrap_or(path);
        let mut gathered = Gathered::default();
        for file in files {
            let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            gathered.add(dir, name.to_owned(), file.path.clone(), None, None)?;
        }
        let own = format!("{}.", path.file_stem().unwrap_or_default().to_string_lossy());
        for at in disk::names_in(dir)? {
            let name = at.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            // `a.b.LICENSE` is the one of `a.b.gguf`, not of `a.gguf`.
            let is_document = |name: &str| name.split('.').next().and_then(DocumentKind::of_file).is_some();
            let goes_along = |name: &str| name == PROVENANCE || is_document(name);
            if name.strip_prefix(&own).is_some_and(goes_along) {
                gathered.add(dir, name, at, None, None)?;
            }
        }
        Ok(gathered)
    }

    /// A folder. `cache` is where its links may lead.
    fn folder(dir: &Path, cache: Option<&Path>, original: bool) -> Result<Gathered, ImportError> {
        let mut gathered = Gathered::default();
        gathered.walk(dir, "", cache, original, 0)?;
        let has = |end: &str| gathered.files.iter().any(|found| found.path.as_str().ends_with(end));
        let ggufs: Vec<&Found> = gathered.files.iter().filter(|found| is_first_gguf(found.path.as_str())).collect();
        if ggufs.is_empty() || has(".safetensors") || has(".pth") {
            puna_checkpoint::open(dir)?;
        }
        for gguf in ggufs {
            puna_checkpoint::open(&gguf.path.below(dir))?;
        }
        Ok(gathered)
    }

    fn walk(
        &mut self,
        dir: &Path,
        prefix: &str,
        cache: Option<&Path>,
        original: bool,
        depth: usize,
    ) -> Result<(), ImportError> {
        /// Not a model's: what tools and puna itself keep beside.
        const BESIDE: [&str; 4] = [".git", ".cache", ".DS_Store", RECORDS];
        if depth > MAX_DEPTH {
            return Err(ImportError::TooMany(dir.to_owned()));
        }
        for at in disk::names_in(dir)? {
            let called = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if BESIDE.contains(&called.as_str()) {
                continue;
            }
            let name = format!("{prefix}{called}");
            let kind = std::fs::symlink_metadata(&at).map_err(DiskError::of("look at it", &at))?;
            if kind.is_dir() {
                if name == "original" && !original {
                    self.n_left_out += disk::names_in(&at)?.len();
                } else {
                    self.walk(&at, &format!("{name}/"), cache, original, depth + 1)?;
                }
            } else if kind.is_symlink() {
                let to = at.canonicalize().map_err(DiskError::of("follow it", &at))?;
                let why = "a symbolic link out of its folder, which is not followed";
                let Some(cache) = cache.filter(|cache| to.parent() == Some(cache)) else {
                    return Err(ImportError::NotAFile { path: at, why });
                };
                let hash = to.strip_prefix(cache).ok().and_then(Path::to_str).unwrap_or_default();
                let sha256 = hash.parse().ok().map(Published::Sha256);
                let published = sha256.or_else(|| hash.parse().ok().map(Published::GitBlob));
                self.add(dir, name, to.clone(), published.map(|hash| ("its name in the cache", hash)), Some(at))?;
            } else {
                self.add(dir, name, at, None, None)?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        dir: &Path,
        name: String,
        at: PathBuf,
        published: Option<(&'static str, Published)>,
        link: Option<PathBuf>,
    ) -> Result<(), ImportError> {
        if self.files.len() >= MAX_FILES {
            return Err(ImportError::TooMany(dir.to_owned()));
        }
        let path = name.parse().map_err(|error| ImportError::Name { dir: dir.to_owned(), error })?;
        let kind = std::fs::metadata(&at).map_err(DiskError::of("look at it", &at))?;
        if !kind.is_file() {
            let why = "neither a file nor a folder";
            return Err(ImportError::NotAFile { path: link.unwrap_or(at), why });
        }
        self.files.push(Found { path, at, size: kind.len(), published });
        Ok(())
    }

    /// Takes hashes from each `checklist.chk` for the files in its folder. Gives those that are not there.
    fn hold_against_checklists(&mut self) -> Result<Vec<String>, ImportError> {
        let mut listed = BTreeMap::new();
        for list in self.files.iter().filter(|found| found.path.file_name() == "checklist.chk") {
            let bytes = disk::read_bounded(&list.at, MAX_CHECKLIST)?.unwrap_or_default();
            let folder = list.path.as_str().trim_end_matches("checklist.chk");
            let lines =
                checklist::parse(&bytes).map_err(|error| ImportError::Checklist { path: list.at.clone(), error })?;
            listed.extend(lines.into_iter().map(|(path, md5)| (format!("{folder}{path}"), md5)));
        }
        for found in &mut self.files {
            if let Some(md5) = listed.remove(found.path.as_str()) {
                found.published.get_or_insert(("checklist.chk", Published::Md5(md5)));
            }
        }
        Ok(listed.into_keys().collect())
    }
}

/// Whether a file is a GGUF file, and the first of its set if it is of one.
fn is_first_gguf(path: &str) -> bool {
    path.ends_with(".gguf") && split_set(path).is_none_or(|(_, number, _)| number == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_gguf_files() {
        assert!(is_first_gguf("a.gguf") && is_first_gguf("a-00001-of-00003.gguf"));
        assert!(!is_first_gguf("a-00002-of-00003.gguf") && !is_first_gguf("a.bin"));
    }
}
