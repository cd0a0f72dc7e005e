//! Are the bytes what they were? Needs no network, no store and no trust: any folder with a manifest can be checked.
//!
//! Files are read by position, not mapped: one that got shorter, or lies on a disk that fails, is a fault that is
//! reported, not the end of the program.

use crate::digest::Hex;
use crate::disk::{self, DiskError};
use crate::hashing::{self, Progress};
use crate::manifest;
use crate::model::{Model, by_hash};
use crate::tree::{Tree, extent, n_groups, node};
use blake3::hazmat::ChainingValue;
use puna_checkpoint::{Bytes, gguf, pth, safetensors};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Depth {
    /// That each file is there, of the right size, read-only, and the store's. Reads none of them.
    Quick,
    /// [`Depth::Quick`], and some of the bytes: in every file at least one group of [`GROUP`](crate::tree::GROUP) bytes.
    Sample {
        /// The share of groups to read, from 0 to 1.
        share: f64,
        /// Which ones: other seeds read others.
        seed: u64,
    },
    /// [`Depth::Quick`], and every byte.
    Deep {
        /// Whether to compute the SHA-256 of each file, too. The BLAKE3 alone tells that no byte has changed; this
        /// tells that the hash which other programs know is that of the same bytes.
        sha256: bool,
    },
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files looked at.
    pub n_files: usize,
    /// Bytes read.
    pub n_bytes: u64,
    /// What is not as it was, in the order of the manifest.
    pub faults: Vec<Fault>,
}

/// Something that is not as it was.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The file, as the manifest has it.
    pub file: manifest::File,
    /// What is wrong with it.
    pub what: What,
}

/// What is wrong with a file.
#[derive(Clone, Debug)]
pub enum What {
    /// It is not there.
    Missing,
    /// Something else has its name.
    NotAFile,
    /// It has another size; found, in bytes.
    Size(u64),
    /// Bytes of it are not what they were.
    Damaged(Damage),
    /// Its bytes are those of the manifest's BLAKE3, and have another SHA-256 than it says.
    Sha256(Hex<32>),
    /// It can be written, so that programs can change it by mistake.
    Writable,
    /// It is another file than the store's of the same hash, or the store has none: it takes room twice.
    Apart,
    /// The tree over it is lost, so that damage would be found and not located.
    NoTree,
}

/// Where a file is damaged.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The groups that are not what they were, in order; what has to be fetched again. All of them, when the tree over
    /// the file is lost.
    pub groups: Vec<u64>,
    /// The bytes of these groups.
    pub ranges: Vec<Range<u64>>,
    /// The tensors that have bytes there, in the order of the file, by their names in it. Empty where the file has none,
    /// or its directory of tensors is itself not readable.
    pub tensors: Vec<String>,
    /// What the system said, if part of it can't be read at all.
    pub unreadable: Option<String>,
    /// The tree to check new bytes with.
    pub tree: Option<Tree>,
}

impl What {
    /// Whether the file's bytes are affected, rather than how it is kept.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, What::Writable | What::Apart | What::NoTree)
    }
}

impl Report {
    /// Whether all bytes that were looked at are what they were.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.faults.iter().any(|fault| fault.what.is_damage())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manifest::File { path, size, sha256, .. } = &self.file;
        write!(f, "{path}: ")?;
        match &self.what {
            What::Missing => f.write_str("it is missing"),
            What::NotAFile => f.write_str("expected a regular file, found something else"),
            What::Size(found) => write!(f, "expected {size} bytes, found {found}"),
            What::Damaged(damage) => damage.fmt(f),
            What::Sha256(found) => write!(f, "expected the SHA-256 {sha256}, found {found}: the manifest is wrong"),
            What::Writable => f.write_str("it can be written; expected it to be read-only"),
            What::Apart => f.write_str("it is not the store's own file; it takes room twice, or can't be shared"),
            What::NoTree => f.write_str("the tree of hashes over it is lost: damage could not be located"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        f.write_str("damaged in bytes ")?;
        for (i, range) in self.ranges.iter().take(SHOWN).enumerate() {
            write!(f, "{}{} to {}", if i > 0 { ", " } else { "" }, range.start, range.end)?;
        }
        if self.ranges.len() > SHOWN {
            write!(f, " and {} more ranges", self.ranges.len() - SHOWN)?;
        }
        if let Some(why) = &self.unreadable {
            write!(f, " ({why})")?;
        }
        for (i, tensor) in self.tensors.iter().take(SHOWN).enumerate() {
            write!(f, "{}{tensor}", if i > 0 { ", " } else { ", in the tensors " })?;
        }
        if self.tensors.len() > SHOWN {
            write!(f, " and {} more", self.tensors.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// A file that is there, to be read.
struct Task<'m> {
    file_idx: usize,
    file: &'m manifest::File,
    tree: Option<Tree>,
    /// What was found of each group; `None` of one that was not looked at.
    groups: Mutex<Vec<Option<Result<ChainingValue, String>>>>,
    /// Another SHA-256 than the manifest's.
    sha256: Mutex<Option<Hex<32>>>,
    done: std::sync::atomic::AtomicBool,
}

/// Checks a model. `n_threads` read and hash.
///
/// # Errors
/// When the system does not let itself be asked. Files that are missing or can't be read are faults in the report.
pub fn verify(model: &Model, depth: Depth, n_threads: usize, progress: Progress<'_>) -> Result<Report, DiskError> {
    let mut faults: Vec<(usize, What)> = Vec::new();
    let mut tasks = Vec::new();
    for (file_idx, file) in model.manifest.files.iter().enumerate() {
        let (found, is_there) = quick(model, file)?;
        faults.extend(found.into_iter().map(|what| (file_idx, what)));
        let tree = model.tree(file)?;
        if tree.is_none() {
            faults.push((file_idx, What::NoTree));
        }
        // Without a tree there is nothing to hold single groups against.
        let can_sample = tree.is_some() || !matches!(depth, Depth::Sample { .. });
        if is_there && can_sample && depth != Depth::Quick {
            let n = usize::try_from(n_groups(file.size)).unwrap_or(usize::MAX);
            tasks.push(Task {
                file_idx,
                file,
                tree,
                groups: Mutex::new(vec![None; n]),
                sha256: Mutex::new(None),
                done: false.into(),
            });
        }
    }
    let work = Work { model, tasks: &tasks, done: AtomicU64::new(0), total: total(&tasks, depth), progress };
    if depth == (Depth::Deep { sha256: true }) {
        work.whole_files(n_threads);
    }
    work.groups(n_threads, depth);
    let n_bytes = work.done.load(Ordering::Relaxed);
    for task in tasks {
        let Task { file_idx, file, tree, groups, sha256, .. } = task;
        let groups = groups.into_inner().expect("no thread panicked");
        let damage = damage(&model.dir, file, tree, &groups);
        let sha256 = sha256.into_inner().expect("no thread panicked").filter(|_| damage.is_none());
        faults.extend(damage.map(|damage| (file_idx, What::Damaged(damage))));
        faults.extend(sha256.map(|found| (file_idx, What::Sha256(found))));
    }
    faults.sort_by_key(|(file_idx, _)| *file_idx);
    let faults =
        faults.into_iter().map(|(idx, what)| Fault { file: model.manifest.files[idx].clone(), what }).collect();
    Ok(Report { n_files: model.manifest.files.len(), n_bytes, faults })
}

/// What can be seen of a file without reading it, and whether there is anything to read.
fn quick(model: &Model, file: &manifest::File) -> Result<(Vec<What>, bool), DiskError> {
    let path = file.path.below(&model.dir);
    let kind = match std::fs::symlink_metadata(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok((vec![What::Missing], false));
        }
        kind => kind.map_err(DiskError::of("look at it", &path))?,
    };
    if !kind.is_file() {
        return Ok((vec![What::NotAFile], false));
    }
    let mut found = Vec::new();
    if kind.len() != file.size {
        found.push(What::Size(kind.len()));
    }
    if let Some(blobs) = &model.blobs {
        if !disk::is_sealed(&kind) {
            found.push(What::Writable);
        }
        let blob = std::fs::symlink_metadata(by_hash(blobs, file.blake3)).ok();
        if blob.is_none_or(|blob| disk::are_one(&blob, &kind) == Some(false)) {
            found.push(What::Apart);
        }
    }
    Ok((found, true))
}

fn total(tasks: &[Task<'_>], depth: Depth) -> u64 {
    let bytes = tasks.iter().enumerate().flat_map(|(idx, task)| {
        (0..n_groups(task.file.size))
            .filter(move |&group| is_chosen(depth, idx, group, n_groups(task.file.size)))
            .map(|group| extent(task.file.size, group).1)
    });
    bytes.sum()
}

/// Whether a group is to be read.
fn is_chosen(depth: Depth, file_idx: usize, group_idx: u64, n_groups: u64) -> bool {
    let Depth::Sample { share, seed } = depth else { return true };
    // SplitMix64, over the seed and which group it is.
    let random = |salt: u64| {
        let mut x = seed ^ (file_idx as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt << 1 | 1);
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    // 53 bits, as many as an f64 has.
    let uniform = (random(group_idx) >> 11) as f64 / (1u64 << 53) as f64;
    uniform < share || random(u64::MAX >> 1) % n_groups == group_idx
}

struct Work<'w> {
    model: &'w Model,
    tasks: &'w [Task<'w>],
    done: AtomicU64,
    total: u64,
    progress: Progress<'w>,
}

impl Work<'_> {
    fn add(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        (self.progress)(done, self.total);
    }

    /// Computes both hashes of whole files, one file a thread. Those that can't be read to their end are left for
    /// [`Work::groups`].
    fn whole_files(&self, n_threads: usize) {
        // The largest first, so that no thread is alone with it at the end.
        let mut order: Vec<&Task<'_>> = self.tasks.iter().collect();
        order.sort_by_key(|task| std::cmp::Reverse(task.file.size));
        let next = AtomicUsize::new(0);
        on_threads(n_threads, || {
            while let Some(task) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = task.file.path.below(&self.model.dir);
                let mut shown = 0;
                let read = disk::open(&path).and_then(|file| {
                    hashing::read(&file, &path, task.file.size, None, &mut |bytes| {
                        shown += bytes.len() as u64;
                        self.add(bytes.len() as u64);
                        Ok(())
                    })
                });
                match read {
                    Ok((hasher, nodes)) => {
                        let sha256 = hasher.finish().expect("there is no published hash to differ from");
                        *task.sha256.lock().expect("no thread panicked") =
                            Some(sha256).filter(|found| *found != task.file.sha256);
                        let nodes = nodes.into_iter().map(|node| Some(Ok(node)));
                        *task.groups.lock().expect("no thread panicked") = nodes.collect();
                        task.done.store(true, Ordering::Release);
                    }
                    // Those bytes are read again.
                    Err(_) => drop(self.done.fetch_sub(shown, Ordering::Relaxed)),
                }
            }
        });
    }

    /// Hashes groups of files that were not read yet, one group a thread.
    fn groups(&self, n_threads: usize, depth: Depth) {
        let chosen: Vec<(usize, u64)> = (self.tasks.iter().enumerate())
            .filter(|(_, task)| !task.done.load(Ordering::Acquire))
            .flat_map(|(idx, task)| {
                let n = n_groups(task.file.size);
                (0..n).filter(move |&group| is_chosen(depth, idx, group, n)).map(move |group| (idx, group))
            })
            .collect();
        let next = AtomicUsize::new(0);
        on_threads(n_threads, || {
            let mut bytes = Vec::new();
            let mut opened: Option<(usize, io::Result<File>)> = None;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(&(task_idx, group)) = chosen.get(i) else { return };
                let task = &self.tasks[task_idx];
                let len = task.file.size;
                if opened.as_ref().is_none_or(|(idx, _)| *idx != task_idx) {
                    let file = disk::open(&task.file.path.below(&self.model.dir)).map_err(|error| error.error);
                    opened = Some((task_idx, file));
                }
                let Some((_, file)) = &opened else { return };
                let found = file.as_ref().map_err(ToString::to_string).and_then(|file| {
                    // What this thread will probably read next.
                    if let Some(&(_, group)) = chosen.get(i + n_threads).filter(|(idx, _)| *idx == task_idx) {
                        let (start, n) = extent(len, group);
                        disk::will_need(file, start, n);
                    }
                    hashing::read_group(file, len, group, &mut bytes).map_err(|error| error.to_string())?;
                    Ok(node(len, group, &bytes))
                });
                let mut groups = task.groups.lock().expect("no thread panicked");
                if let Some(place) = usize::try_from(group).ok().and_then(|group| groups.get_mut(group)) {
                    *place = Some(found);
                }
                drop(groups);
                self.add(extent(len, group).1);
            }
        });
    }
}

/// Runs something on several threads at once.
pub(crate) fn on_threads(n_threads: usize, run: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 1..n_threads.max(1) {
            scope.spawn(&run);
        }
        run();
    });
}

/// What is damaged of a file, by what was found of its groups.
fn damage(
    dir: &Path,
    file: &manifest::File,
    tree: Option<Tree>,
    groups: &[Option<Result<ChainingValue, String>>],
) -> Option<Damage> {
    let mut unreadable = None;
    let mut damaged: Vec<u64> = Vec::new();
    for (i, found) in groups.iter().enumerate() {
        match found {
            Some(Err(why)) => {
                unreadable.get_or_insert_with(|| why.clone());
                damaged.push(i as u64);
            }
            Some(Ok(node)) if tree.as_ref().is_some_and(|tree| !tree.has(i as u64, node)) => damaged.push(i as u64),
            _ => {}
        }
    }
    if tree.is_none() && !groups.is_empty() {
        let nodes = groups.iter().map(|found| found.as_ref().and_then(|found| found.as_ref().ok()).copied());
        let found = nodes.collect::<Option<Vec<_>>>().and_then(|nodes| Tree::new(file.size, nodes));
        if found.is_some_and(|found| found.root() == file.blake3) {
            return None;
        }
        damaged = (0..n_groups(file.size)).collect();
    }
    if damaged.is_empty() {
        return None;
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &group in &damaged {
        let (start, n) = extent(file.size, group);
        match ranges.last_mut() {
            Some(range) if range.end == start => range.end = start + n,
            _ => ranges.push(start..start + n),
        }
    }
    // A directory of tensors is read from a mapping, and a disk that fails to read would end the program there.
    let tensors = if unreadable.is_none() { tensors(&file.path.below(dir), file, &ranges) } else { Vec::new() };
    Some(Damage { groups: damaged, ranges, tensors, unreadable, tree })
}

/// The tensors of a file of weights that have bytes in these ranges.
fn tensors(path: &Path, file: &manifest::File, ranges: &[Range<u64>]) -> Vec<String> {
    let Ok(bytes) = Bytes::map(path) else { return Vec::new() };
    if bytes.len() as u64 != file.size {
        return Vec::new();
    }
    let mut all: Vec<(u64, u64, String)> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => safetensors::Header::parse(&bytes).ok().map(|header| {
            header.entries.iter().map(|entry| (entry.start, entry.len, entry.name.to_string())).collect()
        }),
        Some("gguf") => gguf::Header::parse(&bytes)
            .ok()
            .map(|header| header.tensors.iter().map(|info| (info.start, info.len, info.name.to_owned())).collect()),
        Some("pth" | "pt") => pth::read(&bytes)
            .ok()
            .map(|views| views.iter().map(|view| (view.start, view.len, view.key.to_owned())).collect()),
        _ => None,
    }
    .unwrap_or_default();
    all.sort();
    let lies_in = |start: u64, len: u64| ranges.iter().any(|range| start < range.end && range.start < start + len);
    all.into_iter().filter(|(start, len, _)| lies_in(*start, *len)).map(|(_, _, name)| name).collect()
}
