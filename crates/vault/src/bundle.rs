//! A model in a folder of its own, to be carried anywhere: its files, its records, and hashes that `sha256sum -c` reads.

use crate::digest::{Hex, sha256};
use crate::disk::{self, Disk, DiskError};
use crate::hashing::{self, Progress};
use crate::manifest::File;
use crate::model::{MANIFEST, Model, ModelError, RECORDS, TREES, by_hash};
use crate::path::SafePath;
use crate::record::{self, Record, RecordError};
use crate::tree::n_groups;
use crate::verify::{self, Depth, Fault};
use puna_text::Date;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longest record that is taken along, in bytes.
const MAX_RECORD: u64 = 64 << 20;
/// Folders in folders of records.
const MAX_DEPTH: usize = 8;

/// What could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The model's folder is none.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The record of its terms is none.
    #[error(transparent)]
    Terms(#[from] RecordError),
    /// Something has the name.
    #[error("{}: exists already; name a folder that does not", .0.display())]
    Exists(PathBuf),
    /// A further file with the name of another.
    #[error("{0}: the model or its records have a file of this name; call the further one otherwise")]
    Taken(String),
    /// A record that is no file, or lies too deep.
    #[error("{}: not a record that can be taken along: no regular file, or too many folders deep", .0.display())]
    Record(PathBuf),
    /// A file of the model is not what it was.
    #[error("{path}: it is not what its manifest says; find the damage with `puna verify --deep`, which can repair it")]
    Damaged {
        /// The file.
        path: SafePath,
    },
    /// What was written is not what is read back.
    #[error("{}: what was written can't be read back whole ({fault}): don't trust this disk", dir.display())]
    Written {
        /// The bundle.
        dir: PathBuf,
        /// The first thing that is wrong with it.
        fault: String,
    },
}

/// A bundle that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Files in it, `SHA256SUMS` not counted.
    pub n_files: usize,
    /// Bytes of these.
    pub n_bytes: u64,
}

/// What to keep.
#[derive(Clone, Copy)]
pub struct Keep<'a> {
    /// The model.
    pub model: &'a Model,
    /// The new folder.
    pub to: &'a Path,
    /// Further files, such as those that its licence asks for.
    pub beside: &'a [(SafePath, Vec<u8>)],
    /// Whether the record of its terms tells who accepted them.
    pub with_person: bool,
}

/// Copies a model into a new folder, and reads all of it back. The folder appears when that is done, or not at all. `now`
/// is in milliseconds since 1970.
///
/// # Errors
/// When something has the name, the model is damaged, or the disk refuses or gives back something else.
pub fn keep(what: Keep<'_>, n_threads: usize, now: i64, progress: Progress<'_>) -> Result<Kept, KeepError> {
    keep_on(&Disk::default(), what, n_threads, now, progress)
}

pub(crate) fn keep_on(
    disk: &Disk,
    what: Keep<'_>,
    n_threads: usize,
    now: i64,
    progress: Progress<'_>,
) -> Result<Kept, KeepError> {
    let to = what.to;
    expect_free(to)?;
    let parent = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = parent.join(disk::temporary_name());
    let mut bundle = Bundle { disk, dir: &dir, sums: BTreeMap::new(), n_bytes: 0 };
    let made = bundle.fill(what, n_threads, now, progress).and_then(|()| {
        expect_free(to)?;
        disk.rename(&dir, to)?;
        Ok(disk.sync_dir(parent)?)
    });
    if let Err(error) = made {
        // The error that led here is the one to tell.
        let _ = disk.remove_all(&dir);
        return Err(error);
    }
    Ok(Kept { n_files: bundle.sums.len(), n_bytes: bundle.n_bytes })
}

fn expect_free(path: &Path) -> Result<(), KeepError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(KeepError::Exists(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::of("look at it", path)(error).into()),
    }
}

struct Bundle<'b> {
    disk: &'b Disk,
    dir: &'b Path,
    /// The SHA-256 of each file, by its path.
    sums: BTreeMap<String, Hex<32>>,
    n_bytes: u64,
}

impl Bundle<'_> {
    fn fill(&mut self, what: Keep<'_>, n_threads: usize, now: i64, progress: Progress<'_>) -> Result<(), KeepError> {
        let Keep { model, beside, with_person, .. } = what;
        // Every byte is written, and read back.
        let total = model.manifest.size().saturating_mul(2);
        let mut done = 0;
        self.disk.make_dirs(self.dir, &self.dir.join(RECORDS))?;
        for file in &model.manifest.files {
            self.copy(model, file, &mut |n| {
                done += n;
                progress(done, total);
            })?;
        }
        self.records(&model.dir.join(RECORDS), Path::new(RECORDS), with_person, 0)?;
        for (path, bytes) in beside {
            self.write(path.as_str(), bytes)?;
        }
        let [sums_name, readme_name] = names_beside(self.sums.keys().map(String::as_str));
        self.write(&readme_name, readme(model, &sums_name, now).as_bytes())?;
        let sums: String = self.sums.iter().map(|(path, sum)| format!("{sum}  {path}\n")).collect();
        let (at, bytes) = (self.dir.join(&sums_name), sums.as_bytes());
        self.disk.write_whole(&self.dir.join(disk::temporary_name()), &at, bytes)?;
        self.sync_dirs(self.dir, 0)?;
        self.read_back(n_threads, &|verified, _| progress(done + verified, total))
    }

    fn copy(&mut self, model: &Model, file: &File, progress: &mut dyn FnMut(u64)) -> Result<(), KeepError> {
        let to = file.path.below(self.dir);
        self.make_parent(&to)?;
        let copy = hashing::copy(self.disk, &file.path.below(&model.dir), file.size, &to, None, progress)?;
        if copy.tree.root() != file.blake3 || copy.sha256 != Ok(file.sha256) {
            return Err(KeepError::Damaged { path: file.path.clone() });
        }
        self.disk.seal(&to)?;
        self.sums.insert(file.path.to_string(), file.sha256);
        self.n_bytes = self.n_bytes.saturating_add(file.size);
        if n_groups(file.size) > 1 {
            let tree = by_hash(&Path::new(RECORDS).join(TREES), file.blake3);
            let name = tree.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            if !self.sums.contains_key(&name) {
                self.write(&name, &copy.tree.to_bytes())?;
            }
        }
        Ok(())
    }

    /// Takes records along: all but those of changes under way.
    fn records(&mut self, from: &Path, to: &Path, with_person: bool, depth: usize) -> Result<(), KeepError> {
        for path in disk::names_in(from)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kind = std::fs::symlink_metadata(&path).map_err(DiskError::of("look at it", &path))?;
            if name.starts_with(disk::TEMPORARY) || name == crate::store::NEXT || (depth == 0 && name == TREES) {
                continue;
            }
            let to = to.join(&name);
            if kind.is_dir() && depth < MAX_DEPTH {
                self.records(&path, &to, with_person, depth + 1)?;
                continue;
            }
            let called = to.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            let is_record = kind.is_file() && called.parse::<SafePath>().is_ok();
            match disk::read_bounded(&path, MAX_RECORD)?.filter(|_| is_record) {
                Some(bytes) if depth == 0 && name == record::RECORD && !with_person => {
                    self.write(&called, &Record::parse(&bytes)?.redacted().to_json()?)?;
                }
                Some(bytes) => self.write(&called, &bytes)?,
                None => return Err(KeepError::Record(path)),
            }
        }
        Ok(())
    }

    /// Writes a small file.
    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), KeepError> {
        let to = self.dir.join(name);
        self.make_parent(&to)?;
        if self.sums.contains_key(name) || std::fs::symlink_metadata(&to).is_ok() {
            return Err(KeepError::Taken(name.to_owned()));
        }
        self.disk.write_whole(&self.dir.join(disk::temporary_name()), &to, bytes)?;
        self.sums.insert(name.to_owned(), sha256(bytes));
        self.n_bytes = self.n_bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn make_parent(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.make_dirs(self.dir, path.parent().expect("it lies in the bundle"))
    }

    fn sync_dirs(&self, dir: &Path, depth: usize) -> Result<(), DiskError> {
        for path in disk::names_in(dir)? {
            // Paths of a model have no more parts than this.
            if depth < 512 && std::fs::symlink_metadata(&path).is_ok_and(|kind| kind.is_dir()) {
                self.sync_dirs(&path, depth + 1)?;
            }
        }
        self.disk.sync_dir(dir)
    }

    /// Reads all of it from the disk again.
    fn read_back(&self, n_threads: usize, progress: Progress<'_>) -> Result<(), KeepError> {
        let written = |fault: String| KeepError::Written { dir: self.dir.to_owned(), fault };
        for path in self.sums.keys() {
            disk::forget(&disk::open(&self.dir.join(path))?);
        }
        let model = Model::open(self.dir)?;
        let report = verify::verify(&model, Depth::Deep { sha256: true }, n_threads, progress)?;
        if let Some(fault) = report.faults.first() {
            return Err(written(Fault::to_string(fault)));
        }
        let of_model: Vec<&str> = model.manifest.files.iter().map(|file| file.path.as_str()).collect();
        for (path, sum) in self.sums.iter().filter(|(path, _)| !of_model.contains(&path.as_str())) {
            let found = disk::read_bounded(&self.dir.join(path), MAX_RECORD)?;
            if found.is_none_or(|found| sha256(&found) != *sum) {
                return Err(written(format!("{path} has another SHA-256")));
            }
        }
        Ok(())
    }
}

/// What a bundle's hashes and its explanation are called: as no file of the model is, on any file system.
pub(crate) fn names_beside<'n>(files: impl Iterator<Item = &'n str> + Clone) -> [String; 2] {
    ["SHA256SUMS", "READ-ME-FIRST.txt"].map(|name| {
        let mut name = name.to_owned();
        while files.clone().any(|path| path.eq_ignore_ascii_case(&name)) {
            name = format!("puna-{name}");
        }
        name
    })
}

fn readme(model: &Model, sums: &str, now: i64) -> String {
    let manifest = &model.manifest;
    format!(
        "This folder holds a complete copy of a language model.\n\n\
         Model     {name}\n\
         Revision  {revision}\n\
         From      {source}\n\
         Obtained  {kept_at}\n\
         Copied    {now}\n\
         Size      {n} files, {bytes} bytes\n\n\
         Nothing here needs the network, or anybody's permission to be read. To see that no byte has changed, on any\n\
         system that has sha256sum, in this folder:\n\n    \
             sha256sum --check --quiet {sums}\n\n\
         No output means that all is well. puna finds out more, namely which part of a file is damaged:\n\n    \
             puna verify --offline --deep THIS-FOLDER\n\n\
         What may be done with the model is said by its licence, whose files lie beside the weights. The folder {RECORDS}\n\
         has what was recorded: {RECORDS}/{MANIFEST} (the files and their hashes), the terms as they were when the model\n\
         was obtained, and what happened since. Keep a second copy on another disk.\n",
        name = manifest.name,
        revision = manifest.revision,
        source = manifest.source,
        kept_at = manifest.kept_at,
        now = Date::timestamp(now),
        n = manifest.files.len(),
        bytes = manifest.size(),
    )
}
