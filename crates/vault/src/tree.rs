//! A file's BLAKE3, kept so that a damaged part of the file is found.
//!
//! BLAKE3 is a tree over pieces of 1 KiB. Of that tree we keep the nodes over [`GROUP`] bytes each: whoever has them, and
//! the root, can hash groups in any order and on any number of threads, and can tell which one is not what it was.
//! (<https://github.com/BLAKE3-team/BLAKE3-specs>, section 2.1; the nodes are called chaining values there.)

use crate::digest::Hex;
use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};

/// Bytes below one node that is kept: 4 MiB. 810 GB then have 6 MB of nodes.
pub const GROUP: u64 = 4 << 20;

/// The nodes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    len: u64,
    /// One for each group; none for a file of one group, whose node is the root.
    nodes: Vec<ChainingValue>,
    root: Hex<32>,
}

/// The number of groups of a file of `len` bytes; an empty file has one, too.
#[must_use]
pub fn n_groups(len: u64) -> u64 {
    len.div_ceil(GROUP).max(1)
}

/// Where a group lies in a file of `len` bytes: its first byte, and its length.
#[must_use]
pub fn extent(len: u64, group_idx: u64) -> (u64, u64) {
    let start = group_idx * GROUP;
    (start, GROUP.min(len.saturating_sub(start)))
}

/// The node over the group `group_idx` of a file of `len` bytes.
///
/// # Panics
/// When `bytes` are not as many as the group has.
#[must_use]
pub fn node(len: u64, group_idx: u64, bytes: &[u8]) -> ChainingValue {
    let (start, group_len) = extent(len, group_idx);
    assert_eq!(bytes.len() as u64, group_len, "the bytes of one group");
    if n_groups(len) == 1 {
        return *blake3::hash(bytes).as_bytes();
    }
    blake3::Hasher::new().set_input_offset(start).update(bytes).finalize_non_root()
}

impl Tree {
    /// From the nodes of all groups, in order. `None` unless there are as many as a file of `len` bytes has.
    #[must_use]
    pub fn new(len: u64, nodes: Vec<ChainingValue>) -> Option<Tree> {
        if nodes.len() as u64 != n_groups(len) {
            return None;
        }
        Some(match nodes[..] {
            [root] => Tree { len, nodes: Vec::new(), root: Hex(root) },
            _ => {
                let (left, right) = halves(len, &nodes);
                let root = hazmat::merge_subtrees_root(&left, &right, Mode::Hash);
                Tree { len, nodes, root: Hex(*root.as_bytes()) }
            }
        })
    }

    /// The BLAKE3 of the file.
    #[must_use]
    pub fn root(&self) -> Hex<32> {
        self.root
    }

    /// The length of the file, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is a length of bytes, not a number of nodes")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether a group is what it was.
    ///
    /// # Panics
    /// As [`node`].
    #[must_use]
    pub fn is_intact(&self, group_idx: u64, bytes: &[u8]) -> bool {
        self.has(group_idx, &node(self.len, group_idx, bytes))
    }

    /// Whether this is the [`node`] over a group.
    #[must_use]
    pub fn has(&self, group_idx: u64, node: &ChainingValue) -> bool {
        let expected = match usize::try_from(group_idx).ok().and_then(|idx| self.nodes.get(idx)) {
            Some(node) => node,
            None => &self.root.0,
        };
        node == expected
    }

    /// The nodes one behind another, 32 bytes each; nothing for a file of one group.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.nodes.concat()
    }

    /// The inverse of [`Tree::to_bytes`]. `None` if the nodes are not those of the file with this root.
    #[must_use]
    pub fn from_bytes(len: u64, root: Hex<32>, bytes: &[u8]) -> Option<Tree> {
        let (nodes, rest) = bytes.as_chunks::<32>();
        let tree = match nodes {
            [] => Tree::new(len, vec![root.0]),
            _ => Tree::new(len, nodes.to_vec()),
        };
        tree.filter(|tree| rest.is_empty() && tree.root == root)
    }
}

/// The nodes over the two halves of a text of `len` bytes, of which `nodes` are those of its groups, two or more.
fn halves(len: u64, nodes: &[ChainingValue]) -> (ChainingValue, ChainingValue) {
    let left = hazmat::left_subtree_len(len);
    // The left half is the largest power of two below the length, and so of whole groups.
    let (left_nodes, right_nodes) = nodes.split_at((left / GROUP) as usize);
    (over(left, left_nodes), over(len - left, right_nodes))
}

fn over(len: u64, nodes: &[ChainingValue]) -> ChainingValue {
    match nodes {
        [node] => *node,
        _ => {
            let (left, right) = halves(len, nodes);
            hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    fn tree(bytes: &[u8]) -> Tree {
        let len = bytes.len() as u64;
        let nodes = (0..n_groups(len)).map(|idx| {
            let (start, n) = extent(len, idx);
            node(len, idx, &bytes[start as usize..(start + n) as usize])
        });
        Tree::new(len, nodes.collect()).unwrap()
    }

    #[test]
    fn the_root_is_the_hash_of_the_file() {
        for len in [0, 1, 1024, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 3 * GROUP + 5, 5 * GROUP - 1] {
            let bytes = file(len);
            let tree = tree(&bytes);
            assert_eq!(tree.root().0, *blake3::hash(&bytes).as_bytes(), "{len} bytes");
            let kept = tree.to_bytes();
            assert_eq!(Tree::from_bytes(len, tree.root(), &kept), Some(tree.clone()));
            let other = Hex([1; 32]);
            assert_eq!(Tree::from_bytes(len, other, &kept).is_none(), n_groups(len) > 1);
            assert_eq!(Tree::from_bytes(len + GROUP + 1, tree.root(), &kept), None);
            assert_eq!(Tree::from_bytes(len, tree.root(), &[kept, vec![0]].concat()), None);
        }
    }

    #[test]
    fn a_damaged_group_is_found() {
        let mut bytes = file(3 * GROUP + 5);
        let tree = tree(&bytes);
        bytes[(GROUP + 17) as usize] ^= 4;
        let intact = (0..4).map(|idx| {
            let (start, n) = extent(tree.len(), idx);
            tree.is_intact(idx, &bytes[start as usize..(start + n) as usize])
        });
        assert_eq!(intact.collect::<Vec<_>>(), [true, false, true, true]);
    }
}
