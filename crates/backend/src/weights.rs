//! A weight matrix as it is handed to a back-end.

use puna_format::Format;
use std::sync::Arc;

/// Where a part's bytes are.
pub trait Storage: Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// They will be read soon: where they come from a file, reading may begin.
    fn will_need(&self) {}
    /// They were copied and will hardly be read again: where they can be had from a file, their memory may be taken.
    fn copied(&self) {}
    /// The values, if they are f32 that may be changed.
    fn values_mut(&mut self) -> Option<&mut [f32]> {
        None
    }
}

impl Storage for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Weights in f32 that training changes.
pub struct Values(pub Vec<f32>);

impl Storage for Values {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn values_mut(&mut self) -> Option<&mut [f32]> {
        Some(&mut self.0)
    }
}

/// A rectangle of a matrix, row-major and contiguous, in memory that stays valid as long as it is held.
#[derive(Clone)]
pub struct MatrixPart {
    /// First row.
    pub row0: usize,
    /// Rows.
    pub rows: usize,
    /// First column.
    pub col0: usize,
    /// Columns: whole blocks of the format.
    pub cols: usize,
    /// The encoded values, usually a range of a mapped file.
    pub bytes: Arc<dyn Storage>,
    /// One factor per row of the part, if the format keeps its scales apart (row-wise FP8); never with a block format.
    pub row_scales: Option<Arc<[f32]>>,
}

/// A weight matrix `[rows, cols]` = `[out, in]`, of parts that tile it: one in ordinary files; bands of rows or of
/// columns where a model-parallel release cut it. Whoever makes one has checked that the parts tile the matrix and
/// that the bytes fit.
#[derive(Clone)]
pub struct MatrixSource {
    /// What it is, for messages.
    pub name: String,
    /// Format of every part.
    pub format: Format,
    /// Output width.
    pub rows: usize,
    /// Input width.
    pub cols: usize,
    /// The parts, ordered by row and then column.
    pub parts: Vec<MatrixPart>,
}

impl MatrixSource {
    /// One part with all the values.
    pub fn whole(name: &str, format: Format, rows: usize, cols: usize, bytes: Arc<dyn Storage>) -> Self {
        let part = MatrixPart { row0: 0, rows, col0: 0, cols, bytes, row_scales: None };
        MatrixSource { name: name.into(), format, rows, cols, parts: vec![part] }
    }

    /// Bytes of all parts.
    pub fn n_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.bytes().len() as u64).sum()
    }
}
