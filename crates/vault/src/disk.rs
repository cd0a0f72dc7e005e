//! What is done to the disk, one step at a time: what must survive a power cut is synced here, and errors say what was
//! being done to which file.
//!
//! Every change of the store goes through a [`Disk`], so that tests can end the program before any step.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Something that the disk, or the system, refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: can't {doing}: {error}{}", path.display(), advice(error))]
pub struct DiskError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was to be done to it.
    pub doing: &'static str,
    /// What the system said.
    pub error: io::Error,
}

/// What helps, where that is known.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room, and repeat the command",
        io::ErrorKind::ReadOnlyFilesystem => "; models there can be used and checked, but not changed",
        _ => "",
    }
}

impl DiskError {
    pub(crate) fn of(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
        let path = path.to_owned();
        move |error| DiskError { path, doing, error }
    }
}

/// One step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    MakeDir,
    Create,
    Write,
    Sync,
    SyncDir,
    Rename,
    Link,
    Seal,
    Remove,
    RemoveDir,
}

impl Step {
    fn doing(self) -> &'static str {
        match self {
            Step::MakeDir => "make this folder",
            Step::Create => "create it",
            Step::Write => "write it",
            Step::Sync | Step::SyncDir => "sync it",
            Step::Rename => "rename to it",
            Step::Link => "link to it",
            Step::Seal => "make it read-only",
            Step::Remove | Step::RemoveDir => "remove it",
        }
    }
}

/// Hears of every step before it is taken, with the path that it changes and the one that it takes from, and may refuse
/// it.
#[cfg(test)]
pub(crate) type Watch = std::sync::Arc<dyn Fn(Step, &Path, Option<&Path>) -> io::Result<()> + Send + Sync>;

/// Changes files.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) watch: Option<Watch>,
}

impl Disk {
    fn step<T>(
        &self,
        step: Step,
        path: &Path,
        from: Option<&Path>,
        take: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DiskError> {
        #[cfg(test)]
        if let Some(watch) = &self.watch {
            watch(step, path, from).map_err(DiskError::of(step.doing(), path))?;
        }
        let _ = from;
        take().map_err(DiskError::of(step.doing(), path))
    }

    /// Whether a test says what a power cut would leave, so that nothing need be synced for it.
    fn is_simulated(&self) -> bool {
        #[cfg(test)]
        return self.watch.is_some();
        #[cfg(not(test))]
        false
    }

    /// Makes `dir` and the folders above it, up to `above`, which is there or made too. A symbolic link below `above`
    /// is refused: it would lead elsewhere.
    pub(crate) fn make_dirs(&self, above: &Path, dir: &Path) -> Result<(), DiskError> {
        match std::fs::metadata(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.step(Step::MakeDir, above, None, || std::fs::create_dir_all(above))?;
                self.sync_dir(above.parent().unwrap_or(above))?;
            }
            _ => {}
        }
        let below = dir.strip_prefix(above).expect("callers name a folder below");
        let mut dir = above.to_owned();
        for part in below {
            let parent = dir.clone();
            dir.push(part);
            let kind = match std::fs::symlink_metadata(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                kind => Some(kind.map_err(DiskError::of(Step::MakeDir.doing(), &dir))?),
            };
            match kind {
                Some(kind) if kind.is_dir() => continue,
                Some(_) => {
                    let error = io::Error::new(io::ErrorKind::AlreadyExists, "something else has its name");
                    return Err(DiskError::of(Step::MakeDir.doing(), &dir)(error));
                }
                None => {}
            }
            self.step(Step::MakeDir, &dir, None, || match std::fs::create_dir(&dir) {
                // By another process, a moment ago.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
                made => made,
            })?;
            self.sync_dir(&parent)?;
        }
        Ok(())
    }

    /// Creates a file that nothing has the name of.
    pub(crate) fn create(&self, path: &Path) -> Result<File, DiskError> {
        self.step(Step::Create, path, None, || OpenOptions::new().read(true).write(true).create_new(true).open(path))
    }

    /// Appends to a file that was opened at its end.
    pub(crate) fn write(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        self.step(Step::Write, path, None, || file.write_all(bytes))
    }

    /// Writes somewhere into a file.
    pub(crate) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], start: u64) -> Result<(), DiskError> {
        self.step(Step::Write, path, None, || write_all_at(file, bytes, start))
    }

    pub(crate) fn truncate(&self, file: &File, path: &Path, len: u64) -> Result<(), DiskError> {
        self.step(Step::Write, path, None, || file.set_len(len))
    }

    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        self.step(Step::Sync, path, None, || if self.is_simulated() { Ok(()) } else { file.sync_all() })
    }

    /// Makes names in a folder last.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        self.step(Step::SyncDir, dir, None, || {
            // Windows can't open folders, and needs no sync for a rename to last.
            if cfg!(unix) && !self.is_simulated() { File::open(dir)?.sync_all() } else { Ok(()) }
        })
    }

    /// Renames, over whatever has the name `to`.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step(Step::Rename, to, Some(from), || std::fs::rename(from, to))
    }

    pub(crate) fn link(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.step(Step::Link, to, Some(from), || std::fs::hard_link(from, to))
    }

    /// Makes a file read-only that is not.
    pub(crate) fn seal(&self, path: &Path) -> Result<(), DiskError> {
        let kind = std::fs::symlink_metadata(path).map_err(DiskError::of(Step::Seal.doing(), path))?;
        if is_sealed(&kind) {
            return Ok(());
        }
        self.step(Step::Seal, path, None, || {
            let mut permissions = kind.permissions();
            #[cfg(unix)]
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o444);
            #[cfg(not(unix))]
            permissions.set_readonly(true);
            std::fs::set_permissions(path, permissions)
        })
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.step(Step::Remove, path, None, || absent_is_fine(std::fs::remove_file(path)))
    }

    /// Removes a folder, if it is there and empty.
    pub(crate) fn remove_empty(&self, dir: &Path) -> Result<(), DiskError> {
        self.step(Step::RemoveDir, dir, None, || match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => absent_is_fine(removed),
        })
    }

    /// Removes a folder with all that is in it, or a file, if it is there. Links are removed, not followed.
    pub(crate) fn remove_all(&self, path: &Path) -> Result<(), DiskError> {
        self.step(Step::RemoveDir, path, None, || {
            let is_dir = std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir());
            absent_is_fine(if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) })
        })
    }

    /// Writes a small file under a name of its own in `temporary`'s place first, so that whoever looks under its own
    /// finds the old file or the complete new one, after a power cut too.
    pub(crate) fn write_whole(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.create(temporary)?;
        let written = self
            .write(&file, temporary, bytes)
            .and_then(|()| self.sync(&file, temporary))
            .and_then(|()| self.rename(temporary, path))
            .and_then(|()| self.sync_dir(path.parent().unwrap_or(path)));
        if written.is_err() {
            // The error that led here is the one to tell.
            let _ = self.remove(temporary);
        }
        written
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// A name that nothing in a folder has.
pub(crate) fn temporary_name() -> String {
    let mut random = [0; 8];
    // Without random bits of the system there is still the number of the process, and creating refuses a name twice.
    let _ = getrandom::fill(&mut random);
    format!("{TEMPORARY}{}-{:016x}", std::process::id(), u64::from_le_bytes(random))
}

/// How [`temporary_name`]s begin.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Reads a small file that is a regular one, and no longer than `limit` bytes; `None` if there is none.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    let read = || {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("expected at most {limit} bytes, found more")));
        }
        Ok(Some(bytes))
    };
    read().map_err(DiskError::of("read it", path))
}

/// Makes a folder, and those above it.
pub(crate) fn make_dir(dir: &Path) -> Result<(), DiskError> {
    std::fs::create_dir_all(dir).map_err(DiskError::of("make it", dir))
}

/// The names in a folder, sorted; none if there is no such folder.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let read = || {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(DiskError::of("list it", dir))
}

/// Opens a file to read it from its beginning to its end.
pub(crate) fn open(path: &Path) -> Result<File, DiskError> {
    let file = File::open(path).map_err(DiskError::of("open it", path))?;
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok(file)
}

/// Begins to read what will be needed soon. A hint.
pub(crate) fn will_need(file: &File, start: u64, len: u64) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, start, std::num::NonZeroU64::new(len), rustix::fs::Advice::WillNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = (file, start, len);
}

/// Lets go of what the system remembers of a file that was synced, so that reading it asks the disk. A hint.
pub(crate) fn forget(file: &File) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Makes `to`, a new and empty file, share the bytes of `from`, where the file system can.
pub(crate) fn clone_file(from: &File, to: &File) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::ioctl_ficlone(to, from).is_ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (from, to);
        false
    }
}

/// Bytes that are free where `dir` lies; `None` if the system does not say.
pub(crate) fn free(dir: &Path) -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        Ok(None)
    }
}

/// Fills `bytes` from the place `start` of a file.
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, start);
    #[cfg(windows)]
    {
        let (mut done, mut at) = (0, start);
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (done, at) = (done + n, at + n as u64),
            }
        }
        Ok(())
    }
}

/// Writes all bytes from the place `start` of a file on.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, start);
    #[cfg(windows)]
    {
        let (mut done, mut at) = (0, start);
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], at)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => (done, at) = (done + n, at + n as u64),
            }
        }
        Ok(())
    }
}

/// Whether nobody may write a file.
pub(crate) fn is_sealed(kind: &Metadata) -> bool {
    kind.permissions().readonly()
}

/// Whether two names are one file; `None` where the system does not tell.
pub(crate) fn are_one(a: &Metadata, b: &Metadata) -> Option<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Some((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        None
    }
}

/// Bytes that a file takes of the disk.
pub(crate) fn allocated(kind: &Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(kind).saturating_mul(512);
    #[cfg(not(unix))]
    kind.len()
}

/// When a file was last changed, in milliseconds since 1970; 0 where the system does not tell.
pub(crate) fn changed_at(kind: &Metadata) -> i64 {
    let since = kind.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
