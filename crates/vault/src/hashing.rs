//! Files read once: each group of bytes is hashed in the order of the file, and beside that by itself, on other threads
//! than the one that reads.

use crate::digest::{Hasher, Hex, Published};
use crate::disk::{self, Disk, DiskError};
use crate::tree::{Tree, extent, n_groups, node};
use blake3::hazmat::ChainingValue;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;

/// What is told of work under way: bytes done, and bytes in all.
pub type Progress<'p> = &'p (dyn Fn(u64, u64) + Sync);

/// Groups of a file that are in memory at once.
const N_BUFFERS: usize = 4;

/// What a file is.
pub(crate) struct Hashed {
    /// Its SHA-256, or the hash that was found in place of the one that was published.
    pub(crate) sha256: Result<Hex<32>, Published>,
    pub(crate) tree: Tree,
}

/// Hashes `len` bytes of a file, and shows each group to `each`, in order.
pub(crate) fn hash(
    file: &File,
    path: &Path,
    len: u64,
    published: Option<Published>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DiskError>,
) -> Result<Hashed, DiskError> {
    let (hasher, nodes) = read(file, path, len, published, each)?;
    let tree = Tree::new(len, nodes).expect("there is a node for each group");
    Ok(Hashed { sha256: hasher.finish(), tree })
}

/// Copies `len` bytes of a file to the new file `to`, hashes them on the way, and syncs.
pub(crate) fn copy(
    disk: &Disk,
    from: &Path,
    len: u64,
    to: &Path,
    published: Option<Published>,
    progress: &mut dyn FnMut(u64),
) -> Result<Hashed, DiskError> {
    let source = disk::open(from)?;
    let file = disk.create(to)?;
    let hashed = hash(&source, from, len, published, &mut |bytes| {
        disk.write(&file, to, bytes)?;
        progress(bytes.len() as u64);
        Ok(())
    })?;
    disk.sync(&file, to)?;
    Ok(hashed)
}

/// The nodes of all groups of a file, and its hash in order: one thread reads, one computes nodes, this one the hash.
pub(crate) fn read(
    file: &File,
    path: &Path,
    len: u64,
    published: Option<Published>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DiskError>,
) -> Result<(Hasher, Vec<ChainingValue>), DiskError> {
    let mut hasher = Hasher::new(len, published);
    let n = n_groups(len);
    if n == 1 {
        let mut bytes = Vec::new();
        read_group(file, len, 0, &mut bytes).map_err(DiskError::of("read it", path))?;
        hasher.update(&bytes);
        each(&bytes)?;
        return Ok((hasher, vec![node(len, 0, &bytes)]));
    }
    let nodes = std::thread::scope(|scope| {
        let (filled, to_hash) = mpsc::sync_channel::<io::Result<Vec<u8>>>(N_BUFFERS);
        let (hashed, to_node) = mpsc::sync_channel::<Vec<u8>>(N_BUFFERS);
        let (emptied, free) = mpsc::sync_channel::<Vec<u8>>(N_BUFFERS);
        for _ in 0..N_BUFFERS {
            emptied.send(Vec::new()).expect("the channel has room for all buffers");
        }
        scope.spawn(move || {
            for (idx, mut bytes) in (0..n).zip(free) {
                let read = read_group(file, len, idx, &mut bytes).map(|()| bytes);
                let is_end = read.is_err();
                // Nobody takes it any more after an error.
                if filled.send(read).is_err() || is_end {
                    break;
                }
            }
        });
        let beside = scope.spawn(move || {
            let mut nodes = Vec::new();
            for (idx, bytes) in (0..n).zip(to_node) {
                nodes.push(node(len, idx, &bytes));
                // Nobody waits for a buffer after the last group, or after an error.
                let _ = emptied.send(bytes);
            }
            nodes
        });
        let read = to_hash.into_iter().try_for_each(|bytes| {
            let bytes = bytes.map_err(DiskError::of("read it", path))?;
            hasher.update(&bytes);
            each(&bytes)?;
            hashed.send(bytes).expect("the other thread takes every group");
            Ok(())
        });
        drop(hashed);
        let nodes = beside.join().expect("hashing does not panic");
        read.map(|()| nodes)
    })?;
    Ok((hasher, nodes))
}

/// Reads one group of a file of `len` bytes.
pub(crate) fn read_group(file: &File, len: u64, group_idx: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let (start, n) = extent(len, group_idx);
    bytes.resize(usize::try_from(n).expect("a group is of some megabytes"), 0);
    disk::read_exact_at(file, bytes, start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;
    use crate::tree::GROUP;

    #[test]
    fn copies_are_hashed_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for len in [0, 1, GROUP, GROUP + 1, 5 * GROUP + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + i / 255) as u8).collect();
            std::fs::write(&from, &bytes).unwrap();
            let mut done = 0;
            let hashed = copy(&Disk::default(), &from, len, &to, None, &mut |n| done += n).unwrap();
            assert_eq!(hashed.sha256.unwrap(), sha256(&bytes));
            assert_eq!(hashed.tree.root().0, *blake3::hash(&bytes).as_bytes());
            assert_eq!(std::fs::read(&to).unwrap(), bytes);
            assert_eq!(done, len);
            // A file that got shorter is an error, not less of a file.
            std::fs::remove_file(&to).unwrap();
            let error = copy(&Disk::default(), &from, len + 1, &to, None, &mut |_| ()).err().unwrap();
            assert_eq!(error.error.kind(), io::ErrorKind::UnexpectedEof);
            std::fs::remove_file(&to).unwrap();
        }
    }
}
