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
    #[cfg(unix)]
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
    }

    #[cfg(unix)]
    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
    }

    #[cfg(windows)]
    fn write(&self, file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
            (bytes, at) = (&bytes[n..], at + n as u64);
        }
        Ok(())
    }

    #[cfg(windows)]
    fn read(&self, file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => (bytes, at) = (&mut bytes[n..], at + n as u64),
            }
        }
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn free(&self, dir: &Path) -> io::Result<Option<u64>> {
        disk::free(dir)
    }
}
