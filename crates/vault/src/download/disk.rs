//! What a download asks of the file system, so that tests can let it fail.

use crate::disk;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file system under the parts of files.
pub trait Disk: Send + Sync {
    /// Writes all bytes at a position.
    ///
    /// # Errors
    /// As the file system says.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Fills `bytes` from a position.
    ///
    /// # Errors
    /// As the file system says.
    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()>;

    /// Returns when what was written would survive a power cut.
    ///
    /// # Errors
    /// As the file system says.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Bytes that are free where `dir` lies; `None` if the system does not say.
    ///
    /// # Errors
    /// As the file system says.
    fn free(&self, dir: &Path) -> io::Result<Option<u64>>;
}

/// The file system itself.
pub struct FileSystem;

impl Disk for FileSystem {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        disk::write_all_at(file, bytes, at)
    }

    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
        disk::read_exact_at(file, bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn free(&self, dir: &Path) -> io::Result<Option<u64>> {
        disk::free(dir)
    }
}
