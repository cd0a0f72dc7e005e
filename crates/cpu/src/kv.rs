//! The paged KV cache in host memory.
//!
//! A page holds [`PAGE_LEN`] tokens of all layers; within a layer, all heads' keys and then all heads' values:
//!
//! ```text
//! page:   layer 0 | layer 1 | …            layer: K head 0 | K head 1 | … | V head 0 | V head 1 | …
//! K head: [hd][PAGE_LEN]                   V head: [PAGE_LEN][hd]
//! ```
//!
//! Keys lie transposed, so that the scores of a query with all tokens of a page are vectors over tokens and need no
//! horizontal sums. Pages may be kept in files: with another layout, those of before must not be read (`LAYOUT` in
//! `puna/prefix_cache.rs`). [`stored`] says where a head's values are and how they become f32, [`store`] writes them.

mod store;
pub(crate) mod stored;

use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::Instructions;
use memmap2::MmapMut;
use puna_backend::{Batch, Error, KvFormat, KvShape, PAGE_LEN};
use std::ops::Range;
use store::Rows;

/// Bytes that are asked of the system at a time, unless a page is larger: room for many of its large pages. It gives
/// memory only to what is written.
const SLAB_BYTES: usize = 32 << 20;

/// Keys or values that a task stores at least: enough to outweigh handing it over.
const VALUES_PER_TASK: usize = 4 * 1024;

/// Keys and values of all layers.
pub struct KvCache {
    pub(crate) shape: KvShape,
    /// Pages `i · n..`, `n` being [`Self::pages_per_slab`], from when one of them is first written.
    slabs: Vec<Option<MmapMut>>,
}

/// Tokens of consecutive slots of one page.
struct Run {
    /// The first one's row in the batch.
    row: usize,
    page: u32,
    /// The first one's slot.
    slot: usize,
    n: usize,
}

impl KvCache {
    pub(crate) fn new(shape: KvShape) -> Result<KvCache, Error> {
        if shape.format == KvFormat::Q8_0 && !shape.head_dim.is_multiple_of(32) {
            return Err(Error::Unsupported {
                what: "a q8_0 KV cache".into(),
                expected: "a head size that is a multiple of 32".into(),
                found: shape.head_dim.to_string(),
            });
        }
        let mut cache = KvCache { shape, slabs: Vec::new() };
        cache.slabs.resize_with(shape.n_pages.div_ceil(cache.pages_per_slab()), || None);
        Ok(cache)
    }

    fn pages_per_slab(&self) -> usize {
        (SLAB_BYTES / self.shape.page_bytes().max(1)).clamp(1, self.shape.n_pages.max(1))
    }

    /// Encoded keys and values of one KV head of one page of one layer.
    pub(crate) fn head(&self, page: u32, layer: usize, head: usize) -> (&[u8], &[u8]) {
        let per_slab = self.pages_per_slab();
        let slab = self.slabs[page as usize / per_slab].as_ref().expect("a page is written before it is read");
        let (k, v) = place(&self.shape, page as usize % per_slab, layer, head);
        let n = head_bytes(&self.shape);
        (&slab[k..k + n], &slab[v..v + n])
    }

    /// The slab of a page, and where in it the page lies.
    fn page(&self, page: u32) -> (usize, Range<usize>) {
        assert!((page as usize) < self.shape.n_pages, "page {page} of {}", self.shape.n_pages);
        let (per_slab, n_bytes) = (self.pages_per_slab(), self.shape.page_bytes());
        let start = page as usize % per_slab * n_bytes;
        (page as usize / per_slab, start..start + n_bytes)
    }

    /// All bytes of a page.
    pub(crate) fn read(&self, page: u32) -> &[u8] {
        let (slab, at) = self.page(page);
        &self.slabs[slab].as_ref().expect("a page is written before it is read")[at]
    }

    /// Sets all bytes of a page.
    pub(crate) fn write(&mut self, page: u32, bytes: &[u8]) -> Result<(), Error> {
        let (slab, at) = self.page(page);
        self.touch(page)?;
        self.slabs[slab].as_mut().expect("touched above")[at].copy_from_slice(bytes);
        Ok(())
    }

    /// Makes sure that a page has memory.
    fn touch(&mut self, page: u32) -> Result<(), Error> {
        let per_slab = self.pages_per_slab();
        let slab = page as usize / per_slab;
        if self.slabs[slab].is_none() {
            let n_pages = per_slab.min(self.shape.n_pages - slab * per_slab);
            let n_bytes = n_pages * self.shape.page_bytes();
            let out_of_memory = |_| Error::OutOfMemory { what: "pages of the KV cache".into(), bytes: n_bytes as u64 };
            let bytes = MmapMut::map_anon(n_bytes.max(1)).map_err(out_of_memory)?;
            #[cfg(target_os = "linux")]
            // A wish: where the system has no large pages to give, small ones do.
            let _ = bytes.advise(memmap2::Advice::HugePage);
            self.slabs[slab] = Some(bytes);
        }
        Ok(())
    }

    /// Writes keys and values `[n, g·hd]` of the batch's tokens.
    pub(crate) fn store(
        &mut self,
        pool: &Pool,
        instructions: Instructions,
        layer: usize,
        batch: &Batch<'_>,
        k: &Activations,
        v: &Activations,
    ) -> Result<(), Error> {
        let (n_heads, hd) = (self.shape.n_kv_heads, self.shape.head_dim);
        assert_eq!((k.cols, v.cols), (n_heads * hd, n_heads * hd), "store_kv: columns");
        let mut runs: Vec<Run> = Vec::new();
        for (row, _, page, slot) in batch.slots() {
            match runs.last_mut() {
                Some(run) if run.page == page && run.slot + run.n == slot => run.n += 1,
                _ => {
                    self.touch(page)?;
                    runs.push(Run { row, page, slot, n: 1 });
                }
            }
        }
        // Tasks write to the slots of their runs, so no two runs may have one in common.
        runs.sort_unstable_by_key(|run| (run.page, run.slot));
        let apart = |runs: &[Run]| runs[0].page != runs[1].page || runs[0].slot + runs[0].n <= runs[1].slot;
        assert!(runs.windows(2).all(apart), "store_kv: every token of the batch has a slot of its own");
        let (shape, per_slab) = (self.shape, self.pages_per_slab());
        let slabs: Vec<Option<SharedMut<'_, u8>>> =
            self.slabs.iter_mut().map(|slab| slab.as_mut().map(|bytes| SharedMut::new(bytes))).collect();
        // Items are heads of runs; a task takes several where they are short.
        let n_items = runs.len() * n_heads;
        let step = (VALUES_PER_TASK * runs.len()).div_ceil(k.rows.max(1) * hd).max(1);
        pool.run(n_items.div_ceil(step), &|task| {
            for item in task * step..n_items.min((task + 1) * step) {
                let (run, head) = (&runs[item / n_heads], item % n_heads);
                let slab = slabs[run.page as usize / per_slab].expect("touched above");
                let (keys, values) = place(&shape, run.page as usize % per_slab, layer, head);
                store::keys(instructions, shape.format, Rows::new(k, run, head, hd), slab, keys, run.slot);
                store::values(instructions, shape.format, Rows::new(v, run, head, hd), slab, values, run.slot);
            }
        });
        Ok(())
    }
}

/// Bytes of the keys, or values, of a head in a page.
fn head_bytes(shape: &KvShape) -> usize {
    PAGE_LEN * shape.format.head_bytes(shape.head_dim)
}

/// Where in its slab the keys of a head begin, and where its values do.
fn place(shape: &KvShape, page: usize, layer: usize, head: usize) -> (usize, usize) {
    assert!(layer < shape.n_layers && head < shape.n_kv_heads, "the layer and the head exist");
    let (layer, n) = (page * shape.page_bytes() + layer * shape.layer_bytes(), head_bytes(shape));
    (layer + head * n, layer + (shape.n_kv_heads + head) * n)
}
