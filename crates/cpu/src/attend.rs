//! Causal attention over the paged cache, in memory that does not grow with the context.
//!
//! The cache of a sequence is cut into chunks of [`CHUNK`] tokens. A query row goes over a chunk page by page and keeps a
//! running maximum `m` of its scores, a sum `l` and an output `o` (online softmax: Milakov and Gimelshein 2018, arXiv
//! 1805.02867), rescaled whenever a page brings a larger score; what the chunks give is [merged](rows::Merge) in order.
//!
//! So a row's result depends on its position and on the cache alone: the order of its sums is fixed, whatever else is in
//! the batch, and whoever does it. One task may do all chunks of its rows; or, where there are few rows, as when one
//! sequence decodes, each chunk is a task, and what they give is merged in a second stage.

mod rows;

use crate::aligned::Aligned;
use crate::kv::KvCache;
use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::Instructions;
use puna_backend::{Batch, PAGE_LEN, Span};
use std::cell::RefCell;
use std::ops::Range;

/// Tokens of a chunk: several pages, so that merging costs nothing to speak of, and few enough that long contexts are cut
/// finely.
const CHUNK: usize = 16 * PAGE_LEN;

/// Query rows of a KV head in a tile, about: so many meet each decoded page, and stay in the second-level cache.
const TILE_ROWS: usize = 128;

/// Query rows of a KV head up to which they are few: what bounds attention is then reading the cache.
const FEW: usize = 32;

/// Tasks per thread that are enough for the threads to end together.
const TASKS_PER_THREAD: usize = 8;

/// Query rows that go over the same pages: of some KV heads, the rows of a tile of tokens.
#[derive(Clone)]
struct Tile<'a> {
    span: Span<'a>,
    heads: Range<usize>,
    /// Query heads per KV head.
    group: usize,
    /// The tile's tokens: rows of the batch, and position of the first.
    first_row: usize,
    first_position: usize,
    n_tokens: usize,
    /// Where in the buffer of partial results those of its chunks are, if they are tasks of their own.
    partial: Option<usize>,
}

impl Tile<'_> {
    /// Tokens that its last token sees.
    fn n_visible(&self) -> usize {
        self.first_position + self.n_tokens
    }

    fn n_chunks(&self) -> usize {
        self.n_visible().div_ceil(CHUNK)
    }

    /// Chunks that a row sees something of.
    fn n_chunks_of(&self, row: usize) -> usize {
        let token = row % self.n_rows_of_head() / self.group;
        (self.first_position + token + 1).div_ceil(CHUNK)
    }

    /// Query rows of one KV head: row `t · group + j` is head `j` of its group, of token `t`.
    fn n_rows_of_head(&self) -> usize {
        self.n_tokens * self.group
    }

    /// Query rows, head by head.
    fn n_rows(&self) -> usize {
        self.heads.len() * self.n_rows_of_head()
    }

    fn is_few(&self) -> bool {
        self.n_rows_of_head() <= FEW
    }

    /// Where a row belongs: its row of the batch, and its query head.
    fn place(&self, row: usize) -> (usize, usize) {
        let (head, row) = (self.heads.start + row / self.n_rows_of_head(), row % self.n_rows_of_head());
        (self.first_row + row / self.group, head * self.group + row % self.group)
    }
}

/// Memory that a thread's tasks work in.
#[derive(Default)]
struct Scratch {
    /// The query rows.
    q: Aligned,
    /// What they gathered, of a chunk and of all before it.
    chunk: Aligned,
    total: Aligned,
    pages: rows::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Of the thread that calls: what the chunks of few rows gave.
    static PARTIAL: RefCell<Aligned> = RefCell::default();
}

pub(crate) fn attend(
    pool: &Pool,
    instructions: Instructions,
    q: &Activations,
    cache: &KvCache,
    layer: usize,
    batch: &Batch<'_>,
    out: &mut Activations,
) {
    let (hd, n_kv_heads) = (cache.shape.head_dim, cache.shape.n_kv_heads);
    assert_eq!(q.cols, out.cols, "attend: columns");
    assert_eq!(q.cols % (n_kv_heads * hd), 0, "attend: query heads in whole groups");
    let n_tokens: usize = batch.spans.iter().map(|span| span.len).sum();
    assert_eq!(q.rows, n_tokens, "attend: the spans' tokens are the batch's");
    let (row_len, group) = (rows::row_len(hd), q.cols / hd / n_kv_heads);
    let mut tiles = tiles(batch, n_kv_heads, group, pool.n_threads());
    // All chunks of a tile, or one.
    let mut tasks: Vec<(usize, Range<usize>)> = Vec::new();
    // The rows of tiles whose chunks are tasks of their own.
    let mut split: Vec<(usize, usize)> = Vec::new();
    let mut n_partial = 0;
    for (index, tile) in tiles.iter_mut().enumerate() {
        match &mut tile.partial {
            Some(place) => {
                *place = n_partial;
                n_partial += tile.n_chunks() * tile.n_rows() * row_len;
                tasks.extend((0..tile.n_chunks()).map(|chunk| (index, chunk..chunk + 1)));
                split.extend((0..tile.n_rows()).map(|row| (index, row)));
            }
            None => tasks.push((index, 0..tile.n_chunks())),
        }
    }
    out.set_rows(q.rows);
    let out_cols = out.cols;
    let out = SharedMut::new(out.data_mut());
    let finish = |tile: &Tile<'_>, row: usize, gathered: &[f32]| {
        let (token, head) = tile.place(row);
        // SAFETY: a row belongs to one tile and is finished once.
        let out = unsafe { out.slice(token * out_cols + head * hd, hd) };
        instructions.run(rows::Finish { gathered, out });
    };
    let mut buffer = PARTIAL.take();
    let partial = SharedMut::new(buffer.floats(n_partial));
    pool.run(tasks.len(), &|index| {
        let (tile, chunks) = (&tiles[tasks[index].0], tasks[index].1.clone());
        let n = tile.n_rows() * row_len;
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { q: scaled, chunk: of_chunk, total, pages } = scratch;
            let scaled = scaled.floats(tile.n_rows() * hd);
            let scale = 1.0 / (hd as f32).sqrt();
            for (row, scaled) in scaled.chunks_exact_mut(hd).enumerate() {
                let (token, head) = tile.place(row);
                let q = &q.row(token)[head * hd..][..hd];
                scaled.iter_mut().zip(q).for_each(|(scaled, q)| *scaled = q * scale);
            }
            let mut gather = |chunk: usize, gathered: &mut [f32]| {
                instructions.run(rows::Gather { tile, chunk, cache, layer, q: scaled, gathered, scratch: pages });
            };
            if let Some(place) = tile.partial {
                for chunk in chunks {
                    // SAFETY: a chunk of a tile is one task's.
                    gather(chunk, unsafe { partial.slice(place + chunk * n, n) });
                }
                return;
            }
            let (total, of_chunk) = (total.floats(n), of_chunk.floats(n));
            gather(0, total);
            for chunk in 1..chunks.end {
                gather(chunk, of_chunk);
                let pairs = total.chunks_exact_mut(row_len).zip(of_chunk.chunks_exact(row_len));
                for (row, (into, from)) in pairs.enumerate() {
                    if chunk < tile.n_chunks_of(row) {
                        instructions.run(rows::Merge { into, from });
                    }
                }
            }
            for (row, gathered) in total.chunks_exact(row_len).enumerate() {
                finish(tile, row, gathered);
            }
        });
    });
    let step = split.len().div_ceil(2 * pool.n_threads()).max(1);
    pool.run(split.len().div_ceil(step), &|task| {
        for &(tile, row) in &split[task * step..split.len().min((task + 1) * step)] {
            let tile = &tiles[tile];
            let place = tile.partial.expect("the tile is split");
            let of_chunk = |chunk: usize| {
                // SAFETY: the partial results of a row belong to one task.
                unsafe { partial.slice(place + (chunk * tile.n_rows() + row) * row_len, row_len) }
            };
            let into = of_chunk(0);
            for chunk in 1..tile.n_chunks_of(row) {
                instructions.run(rows::Merge { into, from: of_chunk(chunk) });
            }
            finish(tile, row, into);
        }
    });
    PARTIAL.set(buffer);
}

/// Cuts the batch into tiles: as large as leaves enough tasks for the threads.
fn tiles<'a>(batch: &Batch<'a>, n_kv_heads: usize, group: usize, n_threads: usize) -> Vec<Tile<'a>> {
    let mut tiles = Vec::new();
    let tile = (TILE_ROWS / group).max(1);
    let mut span_row = 0;
    for span in batch.spans {
        for first in (0..span.len).step_by(tile) {
            tiles.push(Tile {
                span: *span,
                heads: 0..n_kv_heads,
                group,
                first_row: span_row + first,
                first_position: span.start + first,
                n_tokens: tile.min(span.len - first),
                partial: None,
            });
        }
        span_row += span.len;
    }
    let enough = TASKS_PER_THREAD * n_threads;
    let n_whole = tiles.len() * n_kv_heads;
    for tile in &mut tiles {
        // Partial results of many rows would take much memory: only where threads would have nothing to do.
        let split = if tile.is_few() { n_whole < enough } else { n_whole < 2 * n_threads };
        tile.partial = (split && tile.n_chunks() > 1).then_some(0);
    }
    // Few rows read the page for all heads, which is one piece of memory, if there is enough to do besides.
    let heads = |tile: &Tile<'_>, n: usize| if tile.is_few() { n } else { 1 };
    let tasks = |tile: &Tile<'_>, n: usize| {
        let chunks = if tile.partial.is_some() { tile.n_chunks() } else { 1 };
        n_kv_heads.div_ceil(heads(tile, n)) * chunks
    };
    let mut n = n_kv_heads;
    while n > 1 && tiles.iter().map(|tile| tasks(tile, n)).sum::<usize>() < enough {
        n = n.div_ceil(2);
    }
    let of_heads = |tile: Tile<'a>| {
        let step = heads(&tile, n);
        (0..n_kv_heads).step_by(step).map(move |head| Tile { heads: head..n_kv_heads.min(head + step), ..tile.clone() })
    };
    tiles.into_iter().flat_map(of_heads).collect()
}
