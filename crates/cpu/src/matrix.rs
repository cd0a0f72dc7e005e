//! Weight matrices and activations in host memory. Weights are read where they lie, usually in a mapped file, or as
//! [panels](crate::panel) from a copy.

use crate::blocks;
use crate::matmul::Decode;
use crate::panel::{self, Panels};
use crate::simd::Instructions;
use puna_backend::{Error, MatrixSource, Storage};
use puna_format::Format;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The values of a matrix `[rows, cols]` where they lie, cut into bands of rows, each band into segments of columns. An
/// ordinary file has one band of one segment; model-parallel releases have several of either.
pub struct Table {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bands: Vec<Band>,
}

/// A weight matrix to be multiplied with.
pub struct Matrix {
    pub(crate) table: Table,
    /// A copy in panels, if its format has them and memory was given for it.
    pub(crate) panels: Option<Panels>,
    /// Whether there is memory for it, here or where it lies.
    pub(crate) stays: bool,
    /// Whether it was asked for.
    pub(crate) asked: AtomicBool,
}

/// Some rows of a matrix.
pub(crate) struct Band {
    pub rows: Range<usize>,
    pub segments: Vec<Segment>,
}

/// Some columns of a band, contiguous row by row.
pub(crate) struct Segment {
    bytes: Arc<dyn Storage>,
    /// Factor of each row of the band, or none for 1.
    pub row_scales: Option<Arc<[f32]>>,
    pub cols: Range<usize>,
    row_bytes: usize,
}

impl Segment {
    /// The encoded row `row`, counted from the band's first.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.bytes.bytes()[row * self.row_bytes..][..self.row_bytes]
    }

    /// What the products of row `row` are multiplied with.
    pub fn scale(&self, row: usize) -> f32 {
        self.row_scales.as_ref().map_or(1.0, |scales| scales[row])
    }
}

impl Table {
    pub(crate) fn new(source: MatrixSource) -> Result<Table, Error> {
        let unsupported = |expected: &str, found: String| Error::Unsupported {
            what: source.name.clone(),
            expected: expected.into(),
            found,
        };
        let mut bands: Vec<Band> = Vec::new();
        for part in &source.parts {
            let row_bytes = source.format.row_bytes(part.cols).ok_or_else(|| {
                unsupported("columns in whole blocks", format!("{} columns of {}", part.cols, source.format))
            })?;
            let n_bytes = part.bytes.bytes().len();
            if Some(n_bytes) != row_bytes.checked_mul(part.rows) {
                return Err(unsupported("as many bytes as the shape says", format!("{n_bytes} bytes")));
            }
            if part.row_scales.is_some() && blocks::has(source.format) {
                return Err(unsupported("block formats with their scales in the blocks", "row scales".into()));
            }
            if part.row_scales.as_ref().is_some_and(|scales| scales.len() != part.rows) {
                return Err(unsupported("one scale a row", format!("{} rows, other scales", part.rows)));
            }
            let rows = part.row0..part.row0 + part.rows;
            let cols = part.col0..part.col0 + part.cols;
            let segment = Segment { bytes: part.bytes.clone(), row_scales: part.row_scales.clone(), cols, row_bytes };
            match bands.last_mut() {
                Some(band) if band.rows == rows => band.segments.push(segment),
                _ => bands.push(Band { rows, segments: vec![segment] }),
            }
        }
        let mut row = 0;
        for band in &bands {
            if blocks::has(source.format)
                && !band.segments.iter().map(|s| &s.cols).eq(bands[0].segments.iter().map(|s| &s.cols))
            {
                return Err(unsupported("all rows of a block format cut at the same columns", "others".into()));
            }
            let mut col = 0;
            for segment in &band.segments {
                if segment.cols.start != col || band.rows.start != row {
                    return Err(unsupported("parts that tile the matrix", format!("{:?}", segment.cols)));
                }
                col = segment.cols.end;
            }
            if col != source.cols {
                return Err(unsupported("parts that tile the matrix", format!("{col} of {} columns", source.cols)));
            }
            row = band.rows.end;
        }
        if row != source.rows {
            return Err(unsupported("parts that tile the matrix", format!("{row} of {} rows", source.rows)));
        }
        Ok(Table { format: source.format, rows: source.rows, cols: source.cols, bands })
    }

    /// Encoded bytes of a row, all segments together.
    pub(crate) fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols).expect("segments of whole blocks")
    }

    /// Where the bytes are.
    pub(crate) fn storage(&self) -> impl Iterator<Item = &dyn Storage> {
        self.bands.iter().flat_map(|band| &band.segments).map(|segment| &*segment.bytes)
    }

    /// Interleaves panel `panel` to `out`.
    pub(crate) fn interleave(&self, panel: usize, out: &mut [u8]) {
        let rows = panel * panel::ROWS..self.rows.min((panel + 1) * panel::ROWS);
        let bands: [Option<&Band>; panel::ROWS] = std::array::from_fn(|i| {
            self.bands.iter().find(|band| rows.contains(&(rows.start + i)) && band.rows.contains(&(rows.start + i)))
        });
        // All bands are cut into the same columns, or a row of this panel would end up in the wrong place.
        let mut start = 0;
        for (i, segment) in self.bands[0].segments.iter().enumerate() {
            let zeros = if rows.len() < panel::ROWS { vec![0; segment.row_bytes] } else { Vec::new() };
            let pieces = std::array::from_fn(|row| match bands[row] {
                Some(band) => band.segments[i].row(rows.start + row - band.rows.start),
                None => &zeros,
            });
            let len = panel::ROWS * segment.row_bytes;
            panel::interleave(self.format, pieces, &mut out[start..start + len]);
            start += len;
        }
    }

    /// Decodes columns `cols` of row `row`, of a block format whole blocks.
    pub(crate) fn decode(&self, instructions: Instructions, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let band = self.bands.iter().find(|band| band.rows.contains(&row)).expect("the row exists");
        for segment in &band.segments {
            let (start, end) = (segment.cols.start.max(cols.start), segment.cols.end.min(cols.end));
            if start >= end {
                continue;
            }
            let out = &mut out[start - cols.start..end - cols.start];
            let row = row - band.rows.start;
            let (format, start) = (self.format, start - segment.cols.start);
            instructions.run(Decode { format, row: segment.row(row), start, out });
            if segment.row_scales.is_some() {
                let scale = segment.scale(row);
                out.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// The values, if they are one piece of f32 that may be changed and nobody else holds.
    pub(crate) fn values_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.bands[..] {
            [Band { segments, .. }] => match &mut segments[..] {
                [segment] => Arc::get_mut(&mut segment.bytes)?.values_mut(),
                _ => None,
            },
            _ => None,
        }
    }
}

/// `[rows, cols]` f32, row-major.
pub struct Activations {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    max_rows: usize,
    data: Vec<f32>,
}

impl Activations {
    pub(crate) fn new(max_rows: usize, cols: usize) -> Result<Activations, Error> {
        let out_of_memory =
            || Error::OutOfMemory { what: "activations".into(), bytes: max_rows as u64 * cols as u64 * 4 };
        let mut data = Vec::new();
        let len = max_rows.checked_mul(cols).ok_or_else(out_of_memory)?;
        data.try_reserve_exact(len).map_err(|_| out_of_memory())?;
        Ok(Activations { rows: 0, cols, max_rows, data })
    }

    /// Sets the number of rows; what they hold is unspecified.
    pub(crate) fn set_rows(&mut self, rows: usize) -> &mut [f32] {
        assert!(rows <= self.max_rows, "{rows} rows in activations of at most {}", self.max_rows);
        self.rows = rows;
        self.data.resize(rows * self.cols, 0.0);
        &mut self.data
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }
}
