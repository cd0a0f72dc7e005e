//! Files written as a stream: under a temporary name, bytes counted tensor by tensor, synced, then renamed.
//!
//! Whoever looks under the final name finds the old file or the complete new one, after a power cut too.

use crate::Error;
use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The name under which something is written before it gets that of `path`.
fn temporary(path: &Path) -> Result<PathBuf, Error> {
    let name = path.file_name().ok_or_else(|| wrong(path, "no file name".into()))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.part", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Whether `found` is what a process that was killed left of a file that was to get the name `path`.
#[must_use]
pub fn is_left_of(path: &Path, found: &Path) -> bool {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let (Some(name), Some(found)) = (name(path), name(found)) else { return false };
    let pid = found.strip_prefix(&format!(".{name}.")).and_then(|rest| rest.strip_suffix(".part"));
    pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
}

/// A file that gets its name when it is complete; dropped before, it is removed.
pub struct Pending {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl Pending {
    /// Begins the file.
    ///
    /// # Errors
    /// No file name, or a fault of the file system, as in all that follows.
    pub fn create(path: &Path) -> Result<Pending, Error> {
        Pending::open(path, OpenOptions::new().write(true).create(true).truncate(true))
    }

    /// Begins a file that nobody but its owner may read.
    ///
    /// # Errors
    /// As [`Pending::create`].
    pub fn create_private(path: &Path) -> Result<Pending, Error> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // What another process of this number left here when it was killed.
        let _ = std::fs::remove_file(temporary(path)?);
        Pending::open(path, &options)
    }

    fn open(path: &Path, options: &OpenOptions) -> Result<Pending, Error> {
        let temporary = temporary(path)?;
        let file = options.open(&temporary).map_err(Error::io(path))?;
        Ok(Pending { path: path.to_owned(), temporary, file: BufWriter::with_capacity(1 << 16, file) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io(&self.temporary))
    }

    /// Leaves `n` bytes out: they read as zeros, and take no room where the file system has holes.
    pub(crate) fn skip(&mut self, n: u64) -> Result<(), Error> {
        let too_large = || wrong(&self.path, format!("a hole of {n} bytes"));
        let n = i64::try_from(n).map_err(|_| too_large())?;
        self.file.seek(SeekFrom::Current(n)).map_err(Error::io(&self.temporary))?;
        Ok(())
    }

    pub(crate) fn pad(&mut self, n: u64) -> Result<(), Error> {
        let zeros = vec![0; usize::try_from(n).map_err(|_| wrong(&self.path, format!("{n} bytes of padding")))?];
        self.write(&zeros)
    }

    /// Syncs, renames, and syncs the directory that holds the name.
    ///
    /// # Errors
    /// A fault of the file system; then what had the name still has it.
    pub fn finish(mut self) -> Result<(), Error> {
        let end = self.file.stream_position().map_err(Error::io(&self.temporary))?;
        self.file.flush().map_err(Error::io(&self.temporary))?;
        // A hole at the end is none until the file is that long.
        self.file.get_ref().set_len(end).map_err(Error::io(&self.temporary))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.temporary))?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After `finish` there is nothing of this name; whatever else fails, a leftover file does no harm.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// A directory that gets its name when it is complete; dropped before, it is removed with all that is in it.
pub(crate) struct PendingDirectory {
    path: PathBuf,
    temporary: PathBuf,
}

impl PendingDirectory {
    /// Begins the directory `path`, whose name must be free.
    pub(crate) fn create(path: &Path) -> Result<PendingDirectory, Error> {
        expect_free(path)?;
        let temporary = temporary(path)?;
        std::fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
        Ok(PendingDirectory { path: path.to_owned(), temporary })
    }

    /// Where its files are written.
    pub(crate) fn directory(&self) -> &Path {
        &self.temporary
    }

    /// Renames it, and syncs the directory that holds the name. Its files were synced when they got their own.
    pub(crate) fn finish(self) -> Result<(), Error> {
        expect_free(&self.path)?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path))?;
        sync_directory(self.path.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        // After `finish` there is nothing of this name, and before it nothing but what was written here.
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

/// Refuses a name that something has: nothing is overwritten.
pub(crate) fn expect_free(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(wrong(path, "exists already; name something new".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    // Windows can't open directories, and needs no sync for a rename to last.
    if cfg!(unix) { File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir)) } else { Ok(()) }
}

/// Makes a directory, or finds an empty one: files of two runs must not mix.
pub(crate) fn make_empty(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    match std::fs::read_dir(dir).map_err(Error::io(dir))?.next() {
        None => Ok(()),
        Some(_) => Err(wrong(dir, "the directory is not empty; name a new one".into())),
    }
}

/// Writes a small file: under a temporary name first, so that whoever looks under its own finds the old file or the
/// complete new one.
///
/// # Errors
/// No file name, or a fault of the file system.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = Pending::create(path)?;
    file.write(bytes)?;
    file.finish()
}

/// The data of declared tensors, appended in order.
pub(crate) struct Tensors {
    file: Pending,
    /// Name and bytes of each.
    sizes: Vec<(String, u64)>,
    /// Every tensor is followed by zeros up to a multiple of this.
    alignment: u64,
    current: usize,
    /// Bytes of the current one that were written.
    written: u64,
}

impl Tensors {
    pub(crate) fn new(file: Pending, sizes: Vec<(String, u64)>, alignment: u64) -> Tensors {
        Tensors { file, sizes, alignment, current: 0, written: 0 }
    }

    /// Appends to the current tensor; when it is full the next one becomes current.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.count(bytes.len() as u64)?;
        self.file.write(bytes)?;
        self.advance()
    }

    /// Appends `n` zeros as a hole.
    pub(crate) fn skip(&mut self, n: u64) -> Result<(), Error> {
        self.count(n)?;
        self.file.skip(n)?;
        self.advance()
    }

    /// Counts bytes that the current tensor is about to get.
    fn count(&mut self, n: u64) -> Result<(), Error> {
        let Some((name, size)) = self.sizes.get(self.current) else {
            return Err(wrong(&self.file.path, format!("{n} bytes after the last declared tensor")));
        };
        let written = self.written.saturating_add(n);
        if written > *size {
            let what = format!("tensor `{name}` is given {written} bytes, declared were {size}");
            return Err(wrong(&self.file.path, what));
        }
        self.written = written;
        Ok(())
    }

    /// Goes on to the next tensor if the current one is full.
    fn advance(&mut self) -> Result<(), Error> {
        if let Some((_, size)) = self.sizes.get(self.current).filter(|(_, size)| *size == self.written) {
            self.file.pad(size.next_multiple_of(self.alignment) - size)?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.sizes.get(self.current) {
            None => self.file.finish(),
            Some((name, size)) => {
                let written = self.written;
                Err(wrong(&self.file.path, format!("tensor `{name}` was given {written} bytes, declared were {size}")))
            }
        }
    }
}

pub(crate) fn wrong(path: &Path, what: String) -> Error {
    Error::Write { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_unfinished_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut tensors = Tensors::new(Pending::create(&path).unwrap(), vec![("a".into(), 4), ("b".into(), 3)], 8);
        tensors.append(&[1, 2]).unwrap();
        assert!(tensors.append(&[1, 2, 3]).is_err());
        tensors.append(&[3, 4]).unwrap();
        assert!(tensors.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let mut tensors = Tensors::new(Pending::create(&path).unwrap(), vec![("a".into(), 4), ("b".into(), 3)], 8);
        tensors.append(&[1, 2, 3, 4]).unwrap();
        tensors.append(&[5, 6, 7]).unwrap();
        assert!(tensors.append(&[8]).is_err());
        tensors.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 0, 0, 0, 0, 0]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_are_known() {
        let path = Path::new("dir/out");
        assert!(is_left_of(path, &temporary(path).unwrap()) && is_left_of(path, Path::new("dir/.out.1.part")));
        for other in ["dir/out", "dir/.out.part", "dir/.out.x.part", "dir/.outer.1.part", "dir/.out.1.part.gz"] {
            assert!(!is_left_of(path, Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let begun = || {
            let pending = PendingDirectory::create(&path).unwrap();
            write_file(&pending.directory().join("file"), b"text").unwrap();
            pending
        };
        drop(begun());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let pending = begun();
        assert!(!path.exists());
        pending.finish().unwrap();
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"text");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(PendingDirectory::create(&path).is_err());
    }

    #[test]
    fn holes_are_zeros_at_the_end_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut tensors = Tensors::new(Pending::create(&path).unwrap(), vec![("a".into(), 4), ("b".into(), 3)], 4);
        tensors.append(&[1]).unwrap();
        assert!(tensors.skip(4).is_err());
        tensors.skip(3).unwrap();
        tensors.append(&[2]).unwrap();
        tensors.skip(2).unwrap();
        tensors.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [1, 0, 0, 0, 2, 0, 0, 0]);
    }
}
