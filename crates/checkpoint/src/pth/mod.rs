//! PyTorch's container as Meta's checkpoints use it: a stored zip with one small pickle that says what tensors there
//! are, and their bytes as members. Read without a pickle machine; nothing in a file can run or be unpacked. No model
//! knowledge.
//!
//! Members, all below one folder: `data.pkl`; `data/KEY`, one a storage; `byteorder`; and bookkeeping.

mod pickle;
mod zip;

pub use pickle::{PickleError, PickledTensor, interpret};
pub use zip::{Archive, Member, ZipError, crc32};

use crate::error::shown;
use puna_format::Format;

/// Longest `data.pkl`. That of a shard of the 405B is a tenth of it.
const MAX_PICKLE: u64 = 1 << 20;
/// Longest of the other small members.
const MAX_NOTE: u64 = 64;

/// What is wrong with a `.pth` file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PthError {
    /// The zip container.
    #[error("{0}")]
    Zip(#[from] ZipError),
    /// The pickle.
    #[error("data.pkl: {0}")]
    Pickle(#[from] PickleError),
    /// A member that must be there.
    #[error("zip member `{0}` is missing")]
    MissingMember(String),
    /// A member that has no place, or that no tensor uses.
    #[error("zip member `{member}`: {why}")]
    Member {
        /// The member.
        member: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor that does not fit its storage.
    #[error("tensor `{tensor}`: {what} is {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The property.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its type, spelled as safetensors does.
    pub dtype: &'static str,
    /// Its dimensions, outermost first; at most two.
    pub shape: Vec<u64>,
    /// Where its data begins, from the beginning of the file.
    pub start: u64,
    /// Bytes of its data.
    pub len: u64,
}

impl View<'_> {
    /// Its format, if it is one that weights can have.
    pub fn format(&self) -> Option<Format> {
        Format::from_safetensors_dtype(self.dtype)
    }
}

/// Reads the directory of a whole file: its tensors, sorted by key, each inside of the file and contiguous.
///
/// # Errors
/// See [`PthError`].
pub fn read(file: &[u8]) -> Result<Vec<View<'_>>, PthError> {
    let archive = Archive::parse(file)?;
    // The folder is named after the file that was first written.
    let mut roots = archive.members.iter().filter_map(|m| m.name.strip_suffix("/data.pkl"));
    let root = roots.find(|root| !root.contains('/')).ok_or_else(|| PthError::MissingMember("data.pkl".into()))?;
    let full = |name: &str| format!("{root}/{name}");
    let content = |member: &Member<'_>, limit: u64| -> Result<&[u8], PthError> {
        let wrong = |why| PthError::Member { member: shown(member.name), why };
        if member.len > limit {
            return Err(wrong(format!("{} bytes, expected at most {limit}", member.len)));
        }
        let range = usize::try_from(member.start).ok().zip(usize::try_from(member.start + member.len).ok());
        let bytes = range.and_then(|(start, end)| file.get(start..end)).expect("Archive::parse checked every member");
        let crc = crc32(bytes);
        if crc != member.crc {
            return Err(wrong(format!("CRC-32 is {crc:08x}, expected {:08x}: the file is damaged", member.crc)));
        }
        Ok(bytes)
    };

    for member in &archive.members {
        match inner(root, member.name) {
            Some("data.pkl") => {}
            Some("byteorder") => {
                let order = content(member, MAX_NOTE)?;
                if order != b"little" {
                    let why = format!("`{}`, expected `little`", String::from_utf8_lossy(order).escape_debug());
                    return Err(PthError::Member { member: shown(member.name), why });
                }
            }
            Some("version" | ".format_version" | ".storage_alignment" | ".data/serialization_id") => {
                content(member, MAX_NOTE)?;
            }
            Some(storage) if storage.strip_prefix("data/").is_some_and(|key| !key.contains('/')) => {}
            _ => {
                let why = "no part of a checkpoint of tensors".into();
                return Err(PthError::Member { member: shown(member.name), why });
            }
        }
    }

    let pickle = full("data.pkl");
    let pickle =
        archive.find(&pickle).and_then(|i| archive.members.get(i)).ok_or(PthError::MissingMember(shown(&pickle)))?;
    let tensors = interpret(content(pickle, MAX_PICKLE)?)?;
    let mut views = Vec::with_capacity(tensors.len());
    // One flag a member: whether a tensor has used it.
    let mut used = vec![false; archive.members.len()];
    for tensor in tensors {
        let name = full(&format!("data/{}", tensor.storage));
        let found = archive.find(&name).and_then(|i| Some((used.get_mut(i)?, archive.members.get(i)?)));
        let (used, member) = found.ok_or_else(|| PthError::MissingMember(shown(&name)))?;
        *used = true;
        let wrong = |what, found: String, expected: String| PthError::Tensor {
            tensor: shown(tensor.key),
            what,
            found,
            expected,
        };
        let element = tensor.element_bytes;
        let storage = tensor.storage_len.checked_mul(element);
        if storage != Some(member.len) {
            let found = format!("{} elements of {element} bytes", tensor.storage_len);
            return Err(wrong("storage", found, format!("{} bytes, the size of `{}`", member.len, shown(member.name))));
        }
        // `interpret` checked that offset and extent lie inside of the storage, which was just found to be this member.
        let start = tensor.offset.checked_mul(element).and_then(|n| n.checked_add(member.start));
        let len = tensor.n_elements.checked_mul(element);
        let (Some(start), Some(len)) = (start, len) else {
            return Err(wrong("size", tensor.n_elements.to_string(), "something addressable".into()));
        };
        views.push(View { key: tensor.key, dtype: tensor.dtype, shape: tensor.shape().to_vec(), start, len });
    }
    for (member, used) in archive.members.iter().zip(used) {
        if !used && inner(root, member.name).is_some_and(|name| name.starts_with("data/")) {
            let why = "no tensor uses it".into();
            return Err(PthError::Member { member: shown(member.name), why });
        }
    }
    views.sort_unstable_by_key(|view| view.key);
    Ok(views)
}

/// A member's name below the archive's one folder.
fn inner<'a>(root: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(root)?.strip_prefix('/')
}
