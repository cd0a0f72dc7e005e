//! Block-quantized weights as the products want them: panels of sixteen rows, word by word.
//!
//! A panel holds, block by block, the [arranged](Blocks::arrange) blocks of sixteen rows with each of their words side by
//! side:
//!
//! ```text
//! block 0                                          | block 1 …
//! word 0 of rows 0..16 | word 1 of rows 0..16 | …  |
//! ```
//!
//! A word is two bytes where the block keeps an f16 (or u16) and four otherwise, so a panel is as large as its rows, and
//! byte `o` of an arranged block becomes byte `16 · o` of the panel's. Rows past the last are
//! zeros.

use crate::blocks::{self, Blocks};
use crate::pool::Pool;
use crate::share::SharedMut;
use memmap2::MmapMut;
use puna_backend::Error;
use puna_format::Format;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;

/// Sixteen rows' pieces, one behind the other in `rows`, into a panel's place: each piece whole blocks, all equally many.
pub(crate) fn interleave(format: Format, rows: [&[u8]; ROWS], out: &mut [u8]) {
    blocks::with!(format, B => interleave_blocks::<B>(rows, out), else unreachable!("{format} has no panels"));
}

fn interleave_blocks<B: Blocks>(rows: [&[u8]; ROWS], out: &mut [u8]) {
    let n = B::FORMAT.info().block_bytes;
    let n_blocks = out.len() / (ROWS * n);
    let rows = rows.map(|row| &row[..n_blocks * n]);
    // Room for a block of any format.
    let mut arranged = [[0; 256]; ROWS];
    for (block, out) in out.chunks_exact_mut(ROWS * n).enumerate() {
        for (arranged, row) in arranged.iter_mut().zip(rows) {
            B::arrange(&row[block * n..][..n], &mut arranged[..n]);
        }
        let rows = arranged.each_ref().map(|row| &row[..n]);
        let mut offset = 0;
        while offset < n {
            let out = &mut out[ROWS * offset..];
            if B::HALVES.contains(&offset) {
                words::<2>(&rows, offset, out);
                offset += 2;
            } else {
                words::<4>(&rows, offset, out);
                offset += 4;
            }
        }
    }
}

/// The `N` bytes at `offset` of each row.
#[inline(always)]
fn words<const N: usize>(rows: &[&[u8]; ROWS], offset: usize, out: &mut [u8]) {
    for (word, row) in out[..ROWS * N].as_chunks_mut::<N>().0.iter_mut().zip(rows) {
        word.copy_from_slice(&row[offset..][..N]);
    }
}

/// All panels of a matrix, in memory of their own.
pub(crate) struct Panels {
    bytes: MmapMut,
    panel_bytes: usize,
}

impl Panels {
    /// Panels for `rows` rows of `row_bytes` bytes, each filled by `fill(panel, its place)`.
    pub fn new(
        pool: &Pool,
        rows: usize,
        row_bytes: usize,
        fill: &(dyn Fn(usize, &mut [u8]) + Sync),
    ) -> Result<Panels, Error> {
        let (n_panels, panel_bytes) = (rows.div_ceil(ROWS), ROWS * row_bytes);
        let n_bytes = n_panels * panel_bytes;
        // Fresh from the system: zeroed only as pages are first written, which all threads do together.
        let out_of_memory = |_| Error::OutOfMemory { what: "a repacked matrix".into(), bytes: n_bytes as u64 };
        let mut bytes = MmapMut::map_anon(n_bytes.max(1)).map_err(out_of_memory)?;
        #[cfg(target_os = "linux")]
        // A wish: where the system has no large pages to give, small ones do.
        let _ = bytes.advise(memmap2::Advice::HugePage);
        let all = SharedMut::new(&mut bytes);
        pool.run(n_panels, &|panel| {
            // SAFETY: each task has a panel of its own.
            fill(panel, unsafe { all.slice(panel * panel_bytes, panel_bytes) });
        });
        Ok(Panels { bytes, panel_bytes })
    }

    /// Panel `panel`.
    pub fn get(&self, panel: usize) -> &[u8] {
        &self.bytes[panel * self.panel_bytes..][..self.panel_bytes]
    }
}
