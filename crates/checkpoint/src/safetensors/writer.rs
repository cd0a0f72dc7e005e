//! The streaming writer.

use super::header::MAX_HEADER;
use crate::{
    Error,
    stream::{Pending, Tensors, wrong},
};
use puna_format::Format;
use std::{collections::BTreeSet, fmt::Write as _, path::Path};

/// A tensor that will be written.
#[derive(Clone, Debug)]
pub struct Declaration {
    /// Its name.
    pub name: String,
    /// Its format, one that safetensors has.
    pub format: Format,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl Declaration {
    /// Bytes of its data; `None` when its rows are no whole blocks, or on overflow.
    pub fn n_bytes(&self) -> Option<u64> {
        let (cols, rows) = self.shape.split_last()?;
        let row = self.format.row_bytes(*cols)? as u64;
        rows.iter().try_fold(row, |n, &d| n.checked_mul(d as u64))
    }

    /// The same, or what the writer of the file `path` has against it.
    pub(crate) fn checked_bytes(&self, path: &Path) -> Result<u64, Error> {
        self.n_bytes().ok_or_else(|| {
            let block = self.format.info().block_elems;
            wrong(path, format!("tensor `{}`: {} needs rows of a multiple of {block} values", self.name, self.format))
        })
    }
}

/// Writes a file whose tensors are declared first and then appended in the same order, in memory of its own small
/// buffer.
pub struct Writer(Tensors);

impl Writer {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// When a tensor can't be expressed (format, repeated name, or a beginning that its element size does not divide:
    /// declare larger elements first), or the file can't be made.
    pub fn create(path: &Path, tensors: &[Declaration]) -> Result<Writer, Error> {
        Writer::create_with_metadata(path, &[], tensors)
    }

    /// The same with pairs for `__metadata__`, each key once.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with_metadata(
        path: &Path,
        metadata: &[(&str, String)],
        tensors: &[Declaration],
    ) -> Result<Writer, Error> {
        let mut json = String::from(r#"{"__metadata__":{"format":"pt""#);
        for (key, value) in metadata {
            let (key, value) = (serde_json::Value::from(*key), serde_json::Value::from(value.as_str()));
            write!(json, ",{key}:{value}").expect("writing to a String does not fail");
        }
        json.push('}');
        let mut names = BTreeSet::new();
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut start = 0u64;
        for tensor in tensors {
            let fail = |what: &str| wrong(path, format!("tensor `{}`: {what}", tensor.name));
            let dtype =
                tensor.format.info().safetensors_dtype.ok_or_else(|| fail("a format that safetensors has not"))?;
            let size = tensor.n_bytes().ok_or_else(|| fail("its rows are no whole blocks"))?;
            let end = start.checked_add(size).ok_or_else(|| fail("too large"))?;
            if !names.insert(&tensor.name) || tensor.name == "__metadata__" {
                return Err(fail("its name is taken"));
            }
            if !start.is_multiple_of(tensor.format.info().block_bytes as u64) {
                return Err(fail("would begin between two elements; declare larger elements first"));
            }
            let name = serde_json::Value::from(tensor.name.as_str());
            write!(json, r#",{name}:{{"dtype":"{dtype}","shape":{:?},"data_offsets":[{start},{end}]}}"#, tensor.shape)
                .expect("writing to a String does not fail");
            sizes.push((tensor.name.clone(), size));
            start = end;
        }
        json.push('}');
        // Data begins at a multiple of 8.
        json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
        if json.len() as u64 > MAX_HEADER {
            return Err(wrong(path, format!("a header of {} bytes, at most {MAX_HEADER} are allowed", json.len())));
        }
        let mut file = Pending::create(path)?;
        file.write(&(json.len() as u64).to_le_bytes())?;
        file.write(json.as_bytes())?;
        Ok(Writer(Tensors::new(file, sizes, 1)))
    }

    /// Appends data of the current tensor: the first that is not complete. A call must not reach into the next.
    ///
    /// # Errors
    /// When there is more than was declared, or on a fault of the file system.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.append(bytes)
    }

    /// Appends `n` zeros to the current tensor that take no room on disks whose file system has holes.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn skip(&mut self, n: u64) -> Result<(), Error> {
        self.0.skip(n)
    }

    /// Syncs the file and gives it its name. Dropped without this, the writer leaves nothing behind.
    ///
    /// # Errors
    /// When a tensor is not complete, or on a fault of the file system.
    pub fn finish(self) -> Result<(), Error> {
        self.0.finish()
    }
}
