//! Files mapped into memory, and checked ranges of them.
//!
//! The one place of this crate with `unsafe`. A [`Bytes`] keeps its mapping alive, so tensors can outlive whatever
//! opened the file.

use crate::Error;
use std::{fs::File, ops::Deref, path::Path, sync::Arc};

/// A checked range of a mapped file, of owned bytes, or of bytes in the program itself. Cloning copies no data.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    start: usize,
    len: usize,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<memmap2::Mmap>),
    Owned(Arc<[u8]>),
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a regular file read-only.
    ///
    /// # Errors
    /// When it can't be opened, or is no regular file (a pipe or a device would block or grow).
    pub fn map(path: &Path) -> Result<Bytes, Error> {
        let kind = std::fs::metadata(path).map_err(Error::io(path))?;
        if !kind.is_file() {
            return Err(Error::NotAModel { path: path.to_owned(), why: "expected a regular file".into() });
        }
        let file = File::open(path).map_err(Error::io(path))?;
        // The size of the opened file counts, not that of the name a moment ago; the mapping asks for it itself.
        // SAFETY: the mapping is private and read-only, and every access goes through `Bytes`, whose ranges were
        // checked against the length mapped. What Rust can't rule out is another process changing the file while it
        // is mapped. The bytes are only ever read as plain numbers (no value of theirs is invalid, nothing is
        // validated once and trusted later except ranges, which are held outside of the mapping), so a changed
        // file gives wrong numbers. A file made shorter ends the process with SIGBUS; model files should be
        // replaced by rename, as our writers do.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        let len = map.len();
        Ok(Bytes { owner: Owner::Mapped(Arc::new(map)), start: 0, len })
    }

    /// The part that begins `start` bytes into this one; `None` when it does not lie inside.
    pub fn slice(&self, start: u64, len: u64) -> Option<Bytes> {
        let start = usize::try_from(start).ok()?;
        let len = usize::try_from(len).ok()?;
        if start.checked_add(len)? > self.len {
            return None;
        }
        Some(Bytes { owner: self.owner.clone(), start: self.start.checked_add(start)?, len })
    }
}

impl Bytes {
    /// Begins to read a mapped range that will be needed soon. A hint.
    pub fn will_need(&self) {
        if let Owner::Mapped(map) = &self.owner {
            #[cfg(unix)]
            let _ = map.advise_range(memmap2::Advice::WillNeed, self.start, self.len);
        }
    }

    /// Gives the memory of a mapped range back that will hardly be needed again: it can be had from the file. A hint.
    pub fn forget(&self) {
        if let Owner::Mapped(map) = &self.owner {
            // SAFETY: the mapping is of a file and read-only, so whoever reads the range again reads the file's bytes
            // again. Its ends are rounded outwards to pages, whose other bytes are the file's too.
            #[cfg(unix)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.start, self.len) };
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        let len = bytes.len();
        Bytes { owner: Owner::Owned(bytes.into()), start: 0, len }
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Bytes {
        Bytes { owner: Owner::Static(bytes), start: 0, len: bytes.len() }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Mapped(map) => map,
            Owner::Owned(bytes) => bytes,
            Owner::Static(bytes) => bytes,
        };
        &whole[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_inside() {
        static NUMBERS: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        for bytes in [Bytes::from(NUMBERS.to_vec()), Bytes::from(&NUMBERS[..])] {
            let middle = bytes.slice(2, 5).unwrap();
            assert_eq!(&*middle, &[2, 3, 4, 5, 6]);
            assert_eq!(&*middle.slice(5, 0).unwrap(), &[] as &[u8]);
            assert!(middle.slice(1, 5).is_none());
            assert!(middle.slice(u64::MAX, 2).is_none());
        }
    }

    #[test]
    fn an_empty_file_maps_to_nothing_and_a_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Bytes::map(file.path()).unwrap().is_empty());
        let dir = tempfile::tempdir().unwrap();
        assert!(Bytes::map(dir.path()).is_err());
    }
}
