//! The streaming writer: version 3, alignment 32.

use super::header::DEFAULT_ALIGNMENT;
use crate::{
    Error,
    safetensors::Declaration,
    stream::{Pending, Tensors, wrong},
};
use std::{collections::BTreeSet, path::Path};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// u32.
    U32(u32),
    /// f32.
    F32(f32),
    /// bool.
    Bool(bool),
    /// string.
    String(String),
    /// Array of strings.
    Strings(Vec<String>),
    /// Array of i32.
    I32s(Vec<i32>),
    /// Array of f32.
    F32s(Vec<f32>),
    /// Type and value of any kind, as the bytes of another file have them.
    Encoded(Vec<u8>),
}

/// Writes a file whose tensors are declared first and then appended in the same order, in memory of its own small
/// buffer.
pub struct Writer(Tensors);

impl Writer {
    /// Begins the file `path`.
    ///
    /// # Errors
    /// When a tensor can't be expressed (format, repeated name, shape), a key is repeated, or the file can't be made.
    pub fn create(path: &Path, metadata: &[(String, MetadataValue)], tensors: &[Declaration]) -> Result<Writer, Error> {
        let mut file = Pending::create(path)?;
        let mut at = 0u64;
        let mut put = |bytes: &[u8]| {
            at += bytes.len() as u64;
            file.write(bytes)
        };
        put(b"GGUF")?;
        put(&3u32.to_le_bytes())?;
        put(&(tensors.len() as u64).to_le_bytes())?;
        put(&(metadata.len() as u64).to_le_bytes())?;
        let mut keys = BTreeSet::new();
        for (key, value) in metadata {
            if key.is_empty() || !keys.insert(key) {
                return Err(wrong(path, format!("metadata key `{key}` is empty or taken")));
            }
            string(&mut put, key)?;
            put_value(&mut put, value)?;
        }
        let mut names = BTreeSet::new();
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut start = 0u64;
        for tensor in tensors {
            let fail = |what: &str| wrong(path, format!("tensor `{}`: {what}", tensor.name));
            let ggml_type = tensor.format.info().ggml_type.ok_or_else(|| fail("a format that GGUF has not"))?;
            let size = tensor.n_bytes().ok_or_else(|| fail("its rows are no whole blocks"))?;
            if size == 0 || tensor.shape.len() > 4 {
                return Err(fail("GGUF has no empty tensors, and none of more than four dimensions"));
            }
            if tensor.name.is_empty() || !names.insert(&tensor.name) {
                return Err(fail("its name is empty or taken"));
            }
            string(&mut put, &tensor.name)?;
            put(&(tensor.shape.len() as u32).to_le_bytes())?;
            for &dim in tensor.shape.iter().rev() {
                put(&(dim as u64).to_le_bytes())?;
            }
            put(&ggml_type.to_le_bytes())?;
            put(&start.to_le_bytes())?;
            sizes.push((tensor.name.clone(), size));
            let end = start.checked_add(size).and_then(|end| end.checked_next_multiple_of(DEFAULT_ALIGNMENT));
            start = end.ok_or_else(|| fail("too large"))?;
        }
        file.pad(at.next_multiple_of(DEFAULT_ALIGNMENT) - at)?;
        Ok(Writer(Tensors::new(file, sizes, DEFAULT_ALIGNMENT)))
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

type Put<'p> = &'p mut dyn FnMut(&[u8]) -> Result<(), Error>;

fn string(put: Put<'_>, s: &str) -> Result<(), Error> {
    put(&(s.len() as u64).to_le_bytes())?;
    put(s.as_bytes())
}

fn put_value(put: Put<'_>, value: &MetadataValue) -> Result<(), Error> {
    use super::header::ValueType as T;
    let kind = |put: Put<'_>, kind: T| put(&(kind as u32).to_le_bytes());
    let array = |put: Put<'_>, of: T, len: usize| {
        put(&(T::Array as u32).to_le_bytes())?;
        put(&(of as u32).to_le_bytes())?;
        put(&(len as u64).to_le_bytes())
    };
    match value {
        MetadataValue::U32(n) => {
            kind(put, T::U32)?;
            put(&n.to_le_bytes())
        }
        MetadataValue::F32(x) => {
            kind(put, T::F32)?;
            put(&x.to_le_bytes())
        }
        MetadataValue::Bool(b) => {
            kind(put, T::Bool)?;
            put(&[u8::from(*b)])
        }
        MetadataValue::String(s) => {
            kind(put, T::String)?;
            string(put, s)
        }
        MetadataValue::Strings(strings) => {
            array(put, T::String, strings.len())?;
            strings.iter().try_for_each(|s| string(put, s))
        }
        MetadataValue::I32s(numbers) => {
            array(put, T::I32, numbers.len())?;
            numbers.iter().try_for_each(|n| put(&n.to_le_bytes()))
        }
        MetadataValue::F32s(numbers) => {
            array(put, T::F32, numbers.len())?;
            numbers.iter().try_for_each(|x| put(&x.to_le_bytes()))
        }
        MetadataValue::Encoded(bytes) => put(bytes),
    }
}
