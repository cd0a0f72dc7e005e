//! Tensors as they lie in their files, and the set of them that makes a model.
//!
//! Nothing here copies weights. Decoding to f32 is for tests, tools and slow paths; kernels read [`Part::bytes`].

use crate::{Error, config::Config, error::shown, mapped::Bytes, name::Name};
use puna_format::Format;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// A matrix `[rows, cols]`; a vector is one row.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Which tensor of the model.
    pub name: Name,
    /// How its values are stored.
    pub format: Format,
    /// Rows: outputs of a matrix, y = W·x.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    /// Rectangles that tile the matrix exactly, in order.
    pub parts: Vec<Part>,
}

/// A rectangle of the matrix, stored contiguously row-major in one file.
///
/// Ordinary files have one per tensor; model-parallel shards give row bands (column-parallel matrices) or column bands
/// (row-parallel ones), in order.
#[derive(Clone, Debug)]
pub struct Part {
    /// First row.
    pub row0: usize,
    /// Number of rows.
    pub rows: usize,
    /// First column; a multiple of the format's block.
    pub col0: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows · format.row_bytes(cols)` bytes.
    pub bytes: Bytes,
    /// FP8: one factor per row of this part; a value is the stored number times the factor of its row.
    pub row_scales: Option<Arc<[f32]>>,
}

impl Tensor {
    /// Decodes one row to f32.
    ///
    /// # Panics
    /// When `row` or `out.len()` does not fit the tensor.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "{}: row {row} of {}", self.name, self.rows);
        assert_eq!(out.len(), self.cols, "{}: values of a row", self.name);
        for part in self.parts.iter().filter(|part| (part.row0..part.row0 + part.rows).contains(&row)) {
            let bytes = self.format.row_bytes(part.cols).expect("checked when the tensor was claimed");
            let row = row - part.row0;
            let out = &mut out[part.col0..part.col0 + part.cols];
            self.format.decode(&part.bytes[row * bytes..(row + 1) * bytes], out);
            if let Some(scales) = &part.row_scales {
                out.iter_mut().for_each(|v| *v *= scales[row]);
            }
        }
    }

    /// Copies the bytes of one row.
    ///
    /// # Panics
    /// When `row` or `out.len()` does not fit the tensor.
    pub(crate) fn copy_row(&self, row: usize, out: &mut [u8]) {
        let bytes = |cols| self.format.row_bytes(cols).expect("checked when the tensor was claimed");
        for part in self.parts.iter().filter(|part| (part.row0..part.row0 + part.rows).contains(&row)) {
            let (n, row) = (bytes(part.cols), row - part.row0);
            out[bytes(part.col0)..][..n].copy_from_slice(&part.bytes[row * n..][..n]);
        }
    }

    /// FP8: the factor of a row, where one file holds all of it.
    pub(crate) fn row_scale(&self, row: usize) -> Option<f32> {
        let part = self.parts.iter().find(|part| (part.row0..part.row0 + part.rows).contains(&row))?;
        part.row_scales.as_ref().filter(|_| part.cols == self.cols).map(|scales| scales[row - part.row0])
    }

    /// Decodes all of it to f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.decode_row(row, out);
        }
        out
    }

    /// Bytes of weights, without scales that lie beside them.
    pub fn n_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }
}

/// The tensors of a model while they are being claimed: each once, of the shape that the configuration gives.
pub(crate) struct Claims<'a> {
    config: &'a Config,
    tensors: BTreeMap<Name, Tensor>,
}

impl<'a> Claims<'a> {
    pub(crate) fn new(config: &'a Config) -> Claims<'a> {
        Claims { config, tensors: BTreeMap::new() }
    }

    /// Claims `parts` as the whole tensor `name`, which the file `path` calls `called`. Norms are small enough to be
    /// looked through: all of their values are finite.
    pub(crate) fn claim(
        &mut self,
        path: &Path,
        called: &str,
        name: Name,
        format: Format,
        parts: Vec<Part>,
    ) -> Result<(), Error> {
        if let Name::Layer { layer, .. } = name
            && layer >= self.config.n_layers
        {
            return Err(unknown(path, called, "the configuration has fewer layers"));
        }
        let (rows, cols) = self.config.shape(name);
        for part in &parts {
            let row = format.row_bytes(part.cols).ok_or_else(|| Error::Tensor {
                path: path.to_owned(),
                tensor: shown(called),
                what: "row length",
                found: part.cols.to_string(),
                expected: format!("a multiple of {} for {format}", format.info().block_elems),
            })?;
            if row.checked_mul(part.rows) != Some(part.bytes.len()) {
                return Err(Error::Tensor {
                    path: path.to_owned(),
                    tensor: shown(called),
                    what: "size in bytes",
                    found: part.bytes.len().to_string(),
                    expected: format!("{} rows of {row} bytes", part.rows),
                });
            }
        }
        if !tiles(&parts, rows, cols) {
            return Err(Error::Tensor {
                path: path.to_owned(),
                tensor: shown(called),
                what: "shape",
                found: Parts(&parts).to_string(),
                expected: format!("[{rows}, {cols}]"),
            });
        }
        if parts.iter().any(|part| part.row_scales.as_ref().is_some_and(|scales| scales.len() != part.rows)) {
            return Err(Error::Tensor {
                path: path.to_owned(),
                tensor: shown(called),
                what: "number of scales",
                found: "another".into(),
                expected: "one per row".into(),
            });
        }
        let tensor = Tensor { name, format, rows, cols, parts };
        if name.is_norm()
            && let Some((i, value)) = tensor.to_f32().iter().enumerate().find(|(_, value)| !value.is_finite())
        {
            return Err(Error::Tensor {
                path: path.to_owned(),
                tensor: shown(called),
                what: "a norm weight",
                found: format!("{value} at {i}"),
                expected: "a finite number".into(),
            });
        }
        if self.tensors.insert(name, tensor).is_some() {
            return Err(Error::RepeatedTensor { path: path.to_owned(), tensor: shown(called) });
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: Name) -> Option<&Tensor> {
        self.tensors.get(&name)
    }

    pub(crate) fn remove(&mut self, name: Name) -> Option<Tensor> {
        self.tensors.remove(&name)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        self.tensors.values_mut()
    }

    /// The complete set: nothing required is missing.
    pub(crate) fn finish(self, path: &Path) -> Result<BTreeMap<Name, Tensor>, Error> {
        let missing: Vec<Name> = self.config.required().filter(|name| !self.tensors.contains_key(name)).collect();
        if !missing.is_empty() {
            return Err(Error::MissingTensors { path: path.to_owned(), missing });
        }
        Ok(self.tensors)
    }
}

pub(crate) fn unknown(path: &Path, tensor: &str, why: &'static str) -> Error {
    Error::UnknownTensor { path: path.to_owned(), tensor: shown(tensor), why }
}

/// FP8 scales as f32, each finite and above zero.
pub(crate) fn checked_scales(path: &Path, called: &str, bytes: &[u8]) -> Result<Arc<[f32]>, Error> {
    let scales: Arc<[f32]> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match scales.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
        None => Ok(scales),
        Some(i) => Err(Error::Tensor {
            path: path.to_owned(),
            tensor: shown(called),
            what: "a scale",
            found: format!("{} at row {i}", scales[i]),
            expected: "finite and above zero".into(),
        }),
    }
}

/// Whether the parts are, in order, row bands or column bands of exactly `[rows, cols]`.
fn tiles(parts: &[Part], rows: usize, cols: usize) -> bool {
    let mut row = 0usize;
    let mut col = 0usize;
    let row_bands = parts.iter().all(|p| {
        let fits = p.row0 == row && p.col0 == 0 && p.cols == cols;
        row = row.saturating_add(p.rows);
        fits
    }) && row == rows;
    let column_bands = parts.iter().all(|p| {
        let fits = p.col0 == col && p.row0 == 0 && p.rows == rows;
        col = col.saturating_add(p.cols);
        fits
    }) && col == cols;
    row_bands || column_bands
}

struct Parts<'a>(&'a [Part]);

impl std::fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shapes: Vec<String> = self.0.iter().map(|p| format!("[{}, {}]", p.rows, p.cols)).collect();
        crate::error::Listed(&shapes).fmt(f)
    }
}
