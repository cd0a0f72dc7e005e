//! Writing a safetensors file as a stream: the header first, then the data in the order declared.

use crate::Error;
use puna_format::Format;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file being written. It has its name only once it is whole: data goes to `NAME.partial`, which
/// [`Writer::finish`] makes durable and renames.
pub struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    /// Bytes declared and not written yet.
    left: u64,
}

impl Writer {
    /// Begins a file with these tensors: name, format, shape.
    ///
    /// # Errors
    /// When safetensors has no such format, a size overflows, or the system refuses.
    pub fn create(path: &Path, tensors: &[(String, Format, Vec<usize>)]) -> Result<Writer, Error> {
        let wrong = |what: String| Error::Write { path: path.to_owned(), what };
        let mut header = serde_json::Map::new();
        let mut offset = 0u64;
        for (name, format, shape) in tensors {
            let dtype = format.info().safetensors_dtype;
            let dtype = dtype.ok_or_else(|| wrong(format!("safetensors has no format {format}")))?;
            let n_values = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
            let n_bytes = n_values.and_then(|n| format.row_bytes(n)).and_then(|n| u64::try_from(n).ok());
            let end = n_bytes.and_then(|n| offset.checked_add(n));
            let end = end.ok_or_else(|| wrong(format!("tensor `{name}`: {shape:?} is too large")))?;
            let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
            if header.insert(name.clone(), entry).is_some() {
                return Err(wrong(format!("tensor `{name}` was declared twice")));
            }
            offset = end;
        }
        let mut header = serde_json::Value::Object(header).to_string();
        // Data begins at a multiple of eight; the format pads with spaces.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut file = BufWriter::new(File::create(&partial).map_err(Error::io(&partial))?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(&partial))?;
        file.write_all(header.as_bytes()).map_err(Error::io(&partial))?;
        Ok(Writer { path: path.to_owned(), partial, file, left: offset })
    }

    /// Appends data, in any pieces.
    ///
    /// # Errors
    /// When there is more than was declared, or the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| Error::Write {
            path: self.path.clone(),
            what: format!("{} bytes more than declared", bytes.len() as u64 - self.left),
        })?;
        self.file.write_all(bytes).map_err(Error::io(&self.partial))
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// When data is missing, or the system refuses.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.left != 0 {
            return Err(Error::Write { path: self.path, what: format!("{} bytes fewer than declared", self.left) });
        }
        self.file.flush().map_err(Error::io(&self.partial))?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.partial))?;
        std::fs::rename(&self.partial, &self.path).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors::Header;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors = [("a".to_string(), Format::F32, vec![2, 3]), ("b".to_string(), Format::BF16, vec![5])];
        let mut writer = Writer::create(&path, &tensors).unwrap();
        writer.write(&[1; 24]).unwrap();
        writer.write(&[2; 10]).unwrap();
        assert!(writer.write(&[0]).is_err());
        let writer = Writer::create(&path, &tensors).unwrap();
        assert!(writer.finish().is_err(), "nothing was written");
        let mut writer = Writer::create(&path, &tensors).unwrap();
        writer.write(&[7; 34]).unwrap();
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = Header::parse(&bytes).unwrap();
        let b = header.get("b").unwrap();
        assert_eq!((b.dtype, b.start + b.len), ("BF16", bytes.len() as u64));
    }
}
