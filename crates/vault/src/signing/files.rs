//! The files of a model, and their hashes.

use super::statement::{Hash, Method, Signed};
use crate::disk::{self, DiskError};
use crate::hashing::Progress;
use crate::path::SafePath;
use crate::verify::on_threads;
use blake2::Blake2b512;
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Names in a folder and those below it that are looked at. A model has some hundred files.
const MAX_NAMES: usize = 100_000;
/// Bytes that are read at once.
const BUFFER: u64 = 1 << 20;

/// What to look for in a folder.
pub(super) struct Rules<'r> {
    /// Files and folders that are not looked at.
    pub(super) ignored: &'r BTreeSet<String>,
    /// Whether links to files are taken for the files.
    pub(super) allow_symlinks: bool,
    /// Files that are looked at although they are ignored.
    pub(super) wanted: Option<&'r BTreeMap<SafePath, Signed>>,
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its files, and their lengths in bytes.
    pub(super) files: BTreeMap<SafePath, u64>,
    /// What is no file that can be signed, by its name as it is shown.
    pub(super) others: BTreeMap<String, Other>,
}

/// Something that is no file that can be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// A symbolic link, where they are not followed.
    Link,
    /// A symbolic link to nothing, or to a folder.
    LinkToNoFile,
    /// A device, a pipe or a socket.
    NoFile,
    /// A name that not every file system can have.
    Name(String),
}

impl Rules<'_> {
    fn passes_over(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        if !above.chain([path]).any(|path| self.ignored.contains(path)) {
            return false;
        }
        let is_wanted = self.wanted.is_some_and(|wanted| {
            wanted.keys().any(|wanted| {
                let rest = wanted.as_str().strip_prefix(path);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        });
        !is_wanted
    }
}

/// Looks at all that is in a folder and in those below it.
pub(super) fn list(root: &Path, rules: &Rules<'_>) -> Result<Found, DiskError> {
    let mut found = Found::default();
    let mut n_names = 0;
    let mut dirs: Vec<Option<SafePath>> = vec![None];
    while let Some(dir) = dirs.pop() {
        let at = dir.as_ref().map_or_else(|| root.to_owned(), |dir| dir.below(root));
        for entry in disk::names_in(&at)? {
            n_names += 1;
            if n_names > MAX_NAMES {
                let error = io::Error::other(format!("it has more than {MAX_NAMES} files: it is no model's"));
                return Err(DiskError::of("list it", root)(error));
            }
            let name = entry.file_name().unwrap_or_default();
            let shown = match &dir {
                Some(dir) => format!("{dir}/{}", name.to_string_lossy()),
                None => name.to_string_lossy().into_owned(),
            };
            if rules.passes_over(&shown) {
                continue;
            }
            let path = match (name.to_str(), shown.parse::<SafePath>()) {
                (Some(_), Ok(path)) => path,
                (_, Err(error)) => {
                    found.others.insert(shown, Other::Name(error.why.into()));
                    continue;
                }
                (None, Ok(_)) => {
                    found.others.insert(shown, Other::Name("it is not UTF-8".into()));
                    continue;
                }
            };
            let kind = std::fs::symlink_metadata(&entry).map_err(DiskError::of("look at it", &entry))?;
            if kind.is_dir() {
                dirs.push(Some(path));
            } else if kind.is_file() {
                found.files.insert(path, kind.len());
            } else if !kind.is_symlink() {
                found.others.insert(shown, Other::NoFile);
            } else if !rules.allow_symlinks {
                found.others.insert(shown, Other::Link);
            } else {
                let target = std::fs::metadata(&entry).ok().filter(std::fs::Metadata::is_file);
                if let Some(target) = target {
                    found.files.insert(path, target.len());
                } else {
                    found.others.insert(shown, Other::LinkToNoFile);
                }
            }
        }
    }
    Ok(found)
}

/// A file to hash.
pub(super) struct Job {
    pub(super) path: PathBuf,
    /// Its length, in bytes, when it was found.
    pub(super) len: u64,
}

/// The hashes of a file's parts, each as far as it could be read.
pub(super) type Hashes = Vec<Result<Vec<u8>, String>>;

/// Hashes all parts of files, whole files one a thread, the longest first, and shards in any order.
pub(super) fn hash(jobs: &[Job], hash: Hash, method: Method, n_threads: usize, progress: Progress<'_>) -> Vec<Hashes> {
    let mut pieces: Vec<(usize, usize)> = (jobs.iter().enumerate())
        .flat_map(|(job_idx, job)| (0..n_parts(job, method)).map(move |part_idx| (job_idx, part_idx)))
        .collect();
    if method == Method::Files {
        pieces.sort_by_key(|(job_idx, _)| std::cmp::Reverse(jobs[*job_idx].len));
    }
    let total = jobs.iter().fold(0, |sum: u64, job| sum.saturating_add(job.len));
    let hashes: Vec<Mutex<Hashes>> =
        jobs.iter().map(|job| Mutex::new(vec![Ok(Vec::new()); n_parts(job, method)])).collect();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    on_threads(n_threads, || {
        let mut buffer = Vec::new();
        let mut opened: Option<(usize, io::Result<File>)> = None;
        while let Some(&(job_idx, part_idx)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let job = &jobs[job_idx];
            if opened.as_ref().is_none_or(|(idx, _)| *idx != job_idx) {
                opened = Some((job_idx, open(job)));
            }
            let Some((_, file)) = &opened else { return };
            let (start, end) = Signed::part(method, job.len, part_idx);
            let found = file.as_ref().map_err(ToString::to_string).and_then(|file| {
                let each = |n: u64| {
                    let done = done.fetch_add(n, Ordering::Relaxed) + n;
                    progress(done, total);
                };
                read(file, start, end, hash, &mut buffer, each).map_err(|error| error.to_string())
            });
            hashes[job_idx].lock().expect("no thread panicked")[part_idx] = found;
        }
    });
    hashes.into_iter().map(|hashes| hashes.into_inner().expect("no thread panicked")).collect()
}

/// As many as callers made sure that there is memory for.
fn n_parts(job: &Job, method: Method) -> usize {
    usize::try_from(Signed::n_parts(method, job.len)).unwrap_or(usize::MAX)
}

fn open(job: &Job) -> io::Result<File> {
    let file = disk::open(&job.path).map_err(|error| error.error)?;
    let kind = file.metadata()?;
    if !kind.is_file() || kind.len() != job.len {
        return Err(io::Error::other("it was changed in the meantime"));
    }
    Ok(file)
}

fn read(
    file: &File,
    start: u64,
    end: u64,
    hash: Hash,
    buffer: &mut Vec<u8>,
    each: impl Fn(u64),
) -> io::Result<Vec<u8>> {
    let mut hasher = Hasher::new(hash);
    let mut at = start;
    while at < end {
        let n = BUFFER.min(end - at);
        buffer.resize(n as usize, 0);
        disk::read_exact_at(file, buffer, at)?;
        hasher.update(buffer);
        each(n);
        at += n;
    }
    Ok(hasher.finish())
}

enum Hasher {
    Sha256(sha2::Sha256),
    Blake2b(Blake2b512),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    fn new(hash: Hash) -> Hasher {
        match hash {
            Hash::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Hash::Blake2b => Hasher::Blake2b(Blake2b512::new()),
            Hash::Blake3 => Hasher::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake2b(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            Hasher::Blake2b(hasher) => hasher.finalize().to_vec(),
            Hasher::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;
    use std::num::NonZeroU64;

    fn hashed(bytes: &[u8], hash_type: Hash, method: Method) -> Hashes {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let jobs = [Job { path, len: bytes.len() as u64 }];
        let seen = AtomicU64::new(0);
        let hashes = hash(&jobs, hash_type, method, 3, &|done, total| {
            assert!(done <= total && total == bytes.len() as u64);
            seen.fetch_max(done, Ordering::Relaxed);
        });
        assert_eq!(seen.into_inner(), bytes.len() as u64);
        hashes.into_iter().next().unwrap()
    }

    #[test]
    fn each_hash_is_the_one_of_its_name() {
        let one = |hash| hashed(b"abc", hash, Method::Files)[0].clone().unwrap();
        assert_eq!(one(Hash::Sha256), sha256(b"abc").0);
        assert_eq!(one(Hash::Blake3), blake3::hash(b"abc").as_bytes());
        // RFC 7693, appendix A.
        assert_eq!(one(Hash::Blake2b)[..8], [0xba, 0x80, 0xa5, 0x3f, 0x98, 0x1c, 0x4d, 0x0d]);
        assert_eq!(one(Hash::Blake2b).len(), 64);
    }

    #[test]
    fn shards_are_hashed_each() {
        let bytes: Vec<u8> = (0..2 * BUFFER + 100).map(|i| (i * 7 + i / 251) as u8).collect();
        for size in [BUFFER - 1, BUFFER + 3, 3 * BUFFER] {
            let method = Method::Shards(NonZeroU64::new(size).unwrap());
            let expected: Vec<Result<Vec<u8>, String>> =
                bytes.chunks(size as usize).map(|shard| Ok(sha256(shard).0.to_vec())).collect();
            assert_eq!(hashed(&bytes, Hash::Sha256, method), expected);
        }
        assert_eq!(hashed(b"", Hash::Sha256, Method::Shards(NonZeroU64::MIN)), []);
        assert_eq!(hashed(b"", Hash::Sha256, Method::Files), [Ok(sha256(b"").0.to_vec())]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["a", ".git/config", "sub/.git/config", "cache/x", "cache/y/z", "cached"] {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), path).unwrap();
        }
        std::os::unix::fs::symlink("a", at("link")).unwrap();
        std::os::unix::fs::symlink("cache", at("folder")).unwrap();
        std::os::unix::fs::symlink("none", at("broken")).unwrap();
        std::fs::write(at("a:b"), "").unwrap();
        let _pipe = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        let ignored: BTreeSet<String> = [".git", "cache", "sock"].map(str::to_owned).into();
        let wanted = [("cache/y/z".parse().unwrap(), Signed { len: None, hashes: Vec::new() })].into();
        let mut rules = Rules { ignored: &ignored, allow_symlinks: false, wanted: None };
        let names = |found: &Found| found.files.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let found = list(dir.path(), &rules).unwrap();
        assert_eq!(names(&found), "a cached sub/.git/config");
        assert_eq!(found.files[&"cached".parse::<SafePath>().unwrap()], 6);
        let others: Vec<&str> = found.others.keys().map(String::as_str).collect();
        assert_eq!(others, ["a:b", "broken", "folder", "link", "socket"]);
        assert_eq!((&found.others["link"], &found.others["socket"]), (&Other::Link, &Other::NoFile));
        rules.allow_symlinks = true;
        rules.wanted = Some(&wanted);
        let found = list(dir.path(), &rules).unwrap();
        assert_eq!(names(&found), "a cache/y/z cached link sub/.git/config");
        assert_eq!(found.others["folder"], Other::LinkToNoFile);
        assert_eq!(found.others["broken"], Other::LinkToNoFile);
    }
}
