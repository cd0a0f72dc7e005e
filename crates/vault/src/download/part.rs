//! A file that is not complete, and its journal: which of its groups are on the disk.
//!
//! Both lie in a folder [`FOLDER`] beside what is complete. The part has the file's size from the beginning, and holes
//! where nothing is yet. The journal grows by a line for each group, after the group was synced: what it claims survives
//! a power cut. Each line carries a checksum, since its own end may not survive.
//!
//! Whose they are is in their names. A program that goes on with what another one left makes it its own by renaming it,
//! which only one can, and leaves alone what belongs to a program that runs. So two that pull one thing at the same time
//! never write to one file, even on file systems whose locks always succeed.

use super::disk::Disk;
use super::{DownloadError, FOLDER};
use crate::digest::{Hex, Published, sha256};
use crate::path::SafePath;
use crate::tree::n_groups;
use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How every journal begins.
const FORMAT: &str = "puna.part/1";

/// A journal, or a part, of another machine that grew during the last ten minutes, by this machine's clock, may belong to
/// a program that runs there: it is watched for so long.
const WATCH: Duration = Duration::from_secs(60);
const RECENT: Duration = Duration::from_secs(600);

/// How long the last write of a download that was dropped may take.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// How long taking a part may take, from its journal to itself.
const TAKING: Duration = Duration::from_secs(1);

/// What the bytes of a part belong to. Parts of anything else are thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subject {
    /// The file.
    pub path: SafePath,
    /// Its size in bytes.
    pub size: u64,
    /// The hash that its publisher gave, as text.
    pub published: Option<String>,
    /// What the server says that differs between versions of the file: its `ETag`.
    pub version: Option<String>,
}

impl Subject {
    pub(super) fn new(path: &SafePath, size: u64, published: Option<Published>, version: Option<String>) -> Subject {
        Subject { path: path.clone(), size, published: published.map(|hash| hash.to_string()), version }
    }
}

/// The beginning of the names of all that belongs to the file `path`.
pub(super) fn key(path: &SafePath) -> String {
    sha256(path.as_str().as_bytes()).to_string()[..24].to_owned()
}

/// A program that runs, or ran, and the one download in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    /// Differs between machines, and each time that one is started.
    boot: String,
    pid: u32,
    id: u32,
}

/// Downloads of this program whose parts are open.
static OPEN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    Ended,
    Unknown,
}

/// An open part of this program's. Closed, it is free for others.
struct Mine(Owner);

impl Mine {
    fn new() -> Mine {
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id = crate::http::random() as u32;
        OPEN.lock().expect("nothing panics with it").insert(id);
        Mine(Owner { boot: sha256(&boot).to_string()[..8].to_owned(), pid: std::process::id(), id })
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        OPEN.lock().expect("nothing panics with it").remove(&self.0.id);
    }
}

impl Owner {
    fn state(&self, me: &Owner) -> State {
        if self.boot != me.boot {
            return State::Unknown;
        }
        let runs = if self.pid == me.pid {
            OPEN.lock().expect("nothing panics with it").contains(&self.id)
        } else {
            is_running(self.pid)
        };
        if runs { State::Runs } else { State::Ended }
    }
}

#[cfg(unix)]
fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Another user's process is one that runs, too.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_running(_: u32) -> bool {
    // There the lock can be relied on.
    false
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.boot, self.pid, self.id)
    }
}

impl FromStr for Owner {
    type Err = ();

    fn from_str(text: &str) -> Result<Owner, ()> {
        let parts: Vec<&str> = text.split('-').collect();
        let [boot, pid, id] = parts[..] else {
            return Err(());
        };
        let boot = boot.parse::<Hex<4>>().map_err(|_| ())?.to_string();
        let id = u32::from_str_radix(id, 16).map_err(|_| ())?;
        Ok(Owner { boot, pid: pid.parse().map_err(|_| ())?, id })
    }
}

/// What a journal claims: the nodes of the groups that are there.
pub(super) type Claims = Vec<Option<ChainingValue>>;

/// A file that is not complete.
pub(super) struct Part {
    path: PathBuf,
    journal_path: PathBuf,
    file: File,
    journal: Mutex<File>,
    disk: Arc<dyn Disk>,
    // Last, so that the part is given up when its files are closed.
    _owner: Mine,
}

/// What was found of an earlier download.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A part of the file as it was, which has changed.
    Changed,
    /// A part of this file.
    Part,
}

impl Part {
    /// Goes on with a part that nobody works on, or begins one. May take a minute, when a part is another machine's.
    pub(super) fn open(
        dir: &Path,
        subject: &Subject,
        disk: Arc<dyn Disk>,
    ) -> Result<(Part, Claims, Found), DownloadError> {
        let owner = Mine::new();
        let mut found = Found::Nothing;
        let mut parts = Vec::new();
        let key = key(&subject.path);
        for (other, part) in files(dir, &key, "part")? {
            // Somebody was ended between two steps; nothing says any more what is in it. Or is between them.
            let has_no_journal = || matches!(part.with_extension("journal").try_exists(), Ok(false));
            if has_no_journal() && is_left(&other, &part, &owner.0) {
                std::thread::sleep(TAKING);
                if has_no_journal() {
                    remove(&part);
                }
            }
        }
        for (other, journal) in files(dir, &key, "journal")? {
            if !is_left(&other, &journal, &owner.0) {
                continue;
            }
            match read(&journal, subject) {
                Some(Ok(claims)) => parts.push((claims, journal)),
                // It is of something else, or of an earlier version, or says nothing.
                other => {
                    if matches!(other, Some(Err(()))) {
                        found = Found::Changed;
                    }
                    remove_both(&journal);
                }
            }
        }
        parts.sort_by_key(|(claims, _)| claims.iter().flatten().count());
        let mut taken = None;
        while let Some((claims, journal)) = parts.pop() {
            if taken.is_none() {
                taken = take(dir, subject, &owner.0, &journal).map(|paths| (claims, paths));
                continue;
            }
            remove_both(&journal);
        }
        if let Some((claims, (journal_path, path))) = taken {
            let io = DownloadError::io;
            let mut journal = OpenOptions::new().append(true).open(&journal_path).map_err(io(&journal_path))?;
            // Behind the end of a torn line a new one would be a part of it.
            journal.write_all(b"\n").map_err(io(&journal_path))?;
            let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io(&path))?;
            file.set_len(subject.size).map_err(io(&path))?;
            let part = Part { path, journal_path, file, journal: Mutex::new(journal), disk, _owner: owner };
            return Ok((part, claims, Found::Part));
        }
        Ok((Part::create(dir, subject, disk, owner)?, vec![None; n_groups(subject.size) as usize], found))
    }

    fn create(dir: &Path, subject: &Subject, disk: Arc<dyn Disk>, owner: Mine) -> Result<Part, DownloadError> {
        let (journal_path, path) = paths(dir, subject, &owner.0);
        let io = DownloadError::io;
        let mut journal =
            OpenOptions::new().append(true).create_new(true).open(&journal_path).map_err(io(&journal_path))?;
        journal.write_all(header(subject).as_bytes()).map_err(io(&journal_path))?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).map_err(io(&path))?;
        file.set_len(subject.size).map_err(io(&path))?;
        Ok(Part { path, journal_path, file, journal: Mutex::new(journal), disk, _owner: owner })
    }

    /// Writes bytes at a position. They are claimed by nobody yet.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), DownloadError> {
        self.disk.write(&self.file, bytes, at).map_err(DownloadError::io(&self.path))
    }

    /// Fills `bytes` from a position.
    pub(super) fn read(&self, bytes: &mut [u8], at: u64) -> Result<(), DownloadError> {
        self.disk.read(&self.file, bytes, at).map_err(DownloadError::io(&self.path))
    }

    /// Syncs what was written, then claims groups of it.
    pub(super) fn claim(&self, groups: &[(u64, ChainingValue)]) -> Result<(), DownloadError> {
        self.disk.sync(&self.file).map_err(DownloadError::io(&self.path))?;
        let mut lines = String::new();
        for (group_idx, node) in groups {
            lines.push_str(&line(&format!("{group_idx} {}", Hex(*node))));
        }
        let mut journal = self.journal.lock().expect("nothing panics with it");
        journal.write_all(lines.as_bytes()).map_err(DownloadError::io(&self.journal_path))
    }

    /// Takes all claims back.
    pub(super) fn restart(&self, subject: &Subject) -> Result<(), DownloadError> {
        let mut journal = self.journal.lock().expect("nothing panics with it");
        let io = DownloadError::io(&self.journal_path);
        journal.set_len(0).and_then(|()| journal.write_all(header(subject).as_bytes())).map_err(io)
    }

    /// When the part was last written, in nanoseconds since 1970.
    pub(super) fn modified(&self) -> Result<u128, DownloadError> {
        modified(&self.file).map_err(DownloadError::io(&self.path))
    }

    /// Writes a small file beside it: under a name that nobody else has first, so that whoever looks finds the old file or
    /// the complete new one.
    pub(super) fn write_record(&self, path: &Path, bytes: &[u8]) -> Result<(), DownloadError> {
        let temporary = self.path.with_extension("record");
        Ok(crate::disk::Disk::default().write_whole(&temporary, path, bytes)?)
    }

    /// Syncs the part and gives it its name.
    pub(super) fn finish(&self, path: &Path) -> Result<(), DownloadError> {
        self.disk.sync(&self.file).map_err(DownloadError::io(&self.path))?;
        std::fs::rename(&self.path, path).map_err(DownloadError::io(path))?;
        crate::disk::Disk::default().sync_dir(path.parent().unwrap_or(path))?;
        remove(&self.journal_path);
        Ok(())
    }

    /// Removes it all.
    pub(super) fn discard(&self) {
        remove_both(&self.journal_path);
    }
}

/// When a file was last written, in nanoseconds since 1970.
pub(super) fn modified(file: &File) -> std::io::Result<u128> {
    let modified = file.metadata()?.modified()?;
    Ok(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos())
}

/// Bytes that parts of a file already take on the disk.
pub(super) fn allocated(dir: &Path, path: &SafePath) -> u64 {
    let parts = files(dir, &key(path), "part").unwrap_or_default();
    parts.iter().filter_map(|(_, part)| part.metadata().ok()).map(|part| crate::disk::allocated(&part)).sum()
}

fn paths(dir: &Path, subject: &Subject, owner: &Owner) -> (PathBuf, PathBuf) {
    let journal = dir.join(format!("{}.{owner}.journal", key(&subject.path)));
    let part = journal.with_extension("part");
    (journal, part)
}

/// The parts of a file, or their journals, and whose they are.
fn files(dir: &Path, key: &str, extension: &str) -> Result<Vec<(Owner, PathBuf)>, DownloadError> {
    let entries = std::fs::read_dir(dir).map_err(DownloadError::io(dir))?;
    let owner = |path: &Path| {
        let owner = path.file_name()?.to_str()?.strip_prefix(key)?.strip_prefix('.')?;
        owner.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
    };
    let files = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        Some((owner(&path)?, path))
    });
    Ok(files.collect())
}

/// Whether nobody works on a part any more.
fn is_left(other: &Owner, file: &Path, me: &Owner) -> bool {
    let modified = || file.metadata().and_then(|metadata| metadata.modified()).ok();
    match other.state(me) {
        // A download of this program that was dropped ends as soon as its last write does: disks can take seconds.
        State::Runs if other.pid == me.pid => (0..LAST_WRITE.as_millis() / 10).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            other.state(me) == State::Ended
        }),
        State::Runs => false,
        State::Ended => true,
        State::Unknown => {
            let before = modified();
            let is_recent = before.is_some_and(|at| at.elapsed().is_ok_and(|age| age < RECENT));
            if is_recent {
                std::thread::sleep(WATCH);
            }
            modified() == before
        }
    }
}

/// Makes a part this program's own. `None` if another one was faster.
fn take(dir: &Path, subject: &Subject, owner: &Owner, journal: &Path) -> Option<(PathBuf, PathBuf)> {
    let (journal_path, path) = paths(dir, subject, owner);
    std::fs::rename(journal, &journal_path).ok()?;
    if std::fs::rename(journal.with_extension("part"), &path).is_err() {
        remove(&journal_path);
        return None;
    }
    Some((journal_path, path))
}

fn remove(path: &Path) {
    // A file that stays is in nobody's way, and is found again.
    let _ = std::fs::remove_file(path);
}

/// Removes a part and its journal.
fn remove_both(journal: &Path) {
    // In this order: a journal without a part is found again, too.
    remove(&journal.with_extension("part"));
    remove(journal);
}

fn line(text: &str) -> String {
    let hash = blake3::hash(text.as_bytes());
    let mut line = hash.as_bytes()[..8].iter().fold(String::new(), |mut line, byte| {
        let _ = write!(line, "{byte:02x}");
        line
    });
    let _ = writeln!(line, " {text}");
    line
}

fn header(subject: &Subject) -> String {
    let subject = serde_json::to_string(subject).expect("texts and a number");
    line(&format!("{FORMAT} {subject}"))
}

/// What a journal claims, if it is one: `Err` when it is of another version of the file than `subject`.
fn read(path: &Path, subject: &Subject) -> Option<Result<Claims, ()>> {
    let n_groups = n_groups(subject.size);
    // A line for each group, twice over for those that were fetched again.
    let limit = 8192 + n_groups.saturating_mul(256);
    let mut file = File::open(path).ok()?;
    let len = file.seek(SeekFrom::End(0)).ok().filter(|len| *len <= limit)?;
    file.rewind().ok()?;
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(limit).read_to_end(&mut bytes).ok()?;
    parse(&bytes, subject)
}

fn parse(bytes: &[u8], subject: &Subject) -> Option<Result<Claims, ()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter_map(checked);
    let header = lines.next()?.strip_prefix(FORMAT)?.trim_start();
    let found: Subject = serde_json::from_str(header).ok()?;
    let version = found.version.clone();
    if (Subject { version: subject.version.clone(), ..found }) != *subject {
        return None;
    }
    if version != subject.version {
        return Some(Err(()));
    }
    let mut claims: Claims = vec![None; n_groups(subject.size) as usize];
    for line in lines {
        let Some((group_idx, node)) = line.split_once(' ') else { continue };
        let claim = group_idx.parse::<usize>().ok().and_then(|idx| claims.get_mut(idx));
        if let (Some(claim), Ok(node)) = (claim, node.parse::<Hex<32>>()) {
            *claim = Some(node.0);
        }
    }
    Some(Ok(claims))
}

/// A line without its checksum, if that is right.
fn checked(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, rest) = text.split_once(' ')?;
    (line(rest).trim_end_matches('\n') == text).then_some(rest)
}

/// The folder of parts.
pub(super) fn folder(staging: &Path) -> PathBuf {
    staging.join(FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::disk::FileSystem;
    use crate::tree::GROUP;
    use proptest::prelude::*;

    fn subject(version: &str) -> Subject {
        Subject::new(&"a/b".parse().unwrap(), 3 * GROUP, None, Some(version.to_owned()))
    }

    fn open(dir: &Path, version: &str) -> (Part, Vec<usize>, Found) {
        let (part, claims, found) = Part::open(dir, &subject(version), Arc::new(FileSystem)).unwrap();
        let groups = claims.iter().enumerate().filter_map(|(idx, node)| node.map(|_| idx));
        (part, groups.collect(), found)
    }

    fn n_files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn parts_are_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let (part, claims, _) = open(dir.path(), "1");
        assert!(claims.is_empty());
        part.write(b"bytes", GROUP).unwrap();
        part.claim(&[(1, [7; 32])]).unwrap();
        part.claim(&[(2, [8; 32])]).unwrap();
        // One that is worked on is left alone.
        let (other, claims, _) = open(dir.path(), "1");
        assert!(claims.is_empty());
        assert_eq!(n_files(dir.path()), 4);
        drop((part, other));
        let (part, claims, found) = open(dir.path(), "1");
        assert_eq!(claims, [1, 2]);
        assert!(matches!(found, Found::Part));
        assert_eq!(n_files(dir.path()), 2);
        let mut bytes = [0; 5];
        part.read(&mut bytes, GROUP).unwrap();
        assert_eq!(&bytes, b"bytes");
        // What was claimed later is read, too.
        part.claim(&[(0, [9; 32])]).unwrap();
        drop(part);
        assert_eq!(open(dir.path(), "1").1, [0, 1, 2]);
        // Of another version nothing is kept.
        let (part, claims, found) = open(dir.path(), "2");
        assert!(claims.is_empty() && matches!(found, Found::Changed));
        part.claim(&[(0, [9; 32])]).unwrap();
        part.restart(&subject("2")).unwrap();
        part.claim(&[(1, [9; 32])]).unwrap();
        drop(part);
        assert_eq!(open(dir.path(), "2").1, [1]);
    }

    #[test]
    fn a_part_without_a_journal_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (part, ..) = open(dir.path(), "1");
        remove(&part.journal_path);
        drop(part);
        let (part, claims, found) = open(dir.path(), "1");
        assert!(claims.is_empty() && matches!(found, Found::Nothing));
        assert_eq!(n_files(dir.path()), 2);
        part.discard();
        assert_eq!(n_files(dir.path()), 0);
    }

    #[test]
    fn a_part_is_finished_or_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        open(dir.path(), "1").0.discard();
        assert_eq!(n_files(dir.path()), 0);
        open(dir.path(), "1").0.finish(&to).unwrap();
        assert_eq!(n_files(dir.path()), 1);
        assert_eq!(to.metadata().unwrap().len(), 3 * GROUP);
    }

    #[test]
    fn lines_that_did_not_survive() {
        let subject = subject("1");
        let whole = header(&subject) + &line(&format!("0 {}", Hex([1; 32]))) + &line(&format!("1 {}", Hex([2; 32])));
        let claims = |bytes: &[u8]| parse(bytes, &subject).map(|claims| claims.unwrap().iter().flatten().count());
        assert_eq!(claims(whole.as_bytes()), Some(2));
        for end in 0..whole.len() {
            assert!(claims(&whole.as_bytes()[..end]).unwrap_or(0) < 2 || end + 1 == whole.len(), "{end}");
        }
        let mut bytes = whole.clone().into_bytes();
        for i in 0..bytes.len() {
            bytes[i] ^= 4;
            assert!(claims(&bytes).unwrap_or(0) < 2, "{i}");
            bytes[i] ^= 4;
        }
        // A torn line, and one behind it.
        let torn = format!("{}\n{}", &whole[..whole.len() - 9], line(&format!("2 {}", Hex([2; 32]))));
        assert_eq!(claims(torn.as_bytes()), Some(2));
    }

    #[test]
    fn owners() {
        let mine = Mine::new();
        let me = &mine.0;
        assert_eq!(me.to_string().parse(), Ok(me.clone()));
        assert_eq!(me.state(me), State::Runs);
        let state = |text: String| text.parse::<Owner>().unwrap().state(me);
        let ended = Mine::new().0.to_string();
        assert_eq!(state(ended), State::Ended);
        assert_eq!(state(format!("{}-{}-00000000", me.boot, i32::MAX)), State::Ended);
        assert_eq!(state(format!("{}-1-00000000", me.boot)), State::Runs);
        assert_eq!(state("00000000-1-00000000".into()), State::Unknown);
        for text in ["", "a-b-c", "00000000-1", "00000000-1-2-3"] {
            assert!(text.parse::<Owner>().is_err());
        }
    }

    proptest! {
        #[test]
        fn no_journal_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes, &subject("1")).is_none());
        }
    }
}
