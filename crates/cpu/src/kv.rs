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
//! horizontal sums. Q8_0 quantizes along the head for both: K head is, for each 32 of `hd`, `PAGE_LEN` f16 scales and
//! then `[32][PAGE_LEN]` bytes; V head is rows of ordinary Q8_0 blocks.

use half::f16;
use puna_backend::{Error, KvFormat, KvShape, PAGE_LEN};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Keys and values of all layers.
pub struct KvCache {
    pub(crate) shape: KvShape,
    pages: Vec<Option<Page>>,
}

/// One page, zeroed until written.
struct Page {
    bytes: *mut u8,
    layout: Layout,
}

// SAFETY: the page owns its memory, like a Box<[u8]>.
unsafe impl Send for Page {}
// SAFETY: shared access only reads.
unsafe impl Sync for Page {}

impl Page {
    fn new(n_bytes: usize) -> Result<Page, Error> {
        let out_of_memory = || Error::OutOfMemory { what: "a page of the KV cache".into(), bytes: n_bytes as u64 };
        // A cache line: rows of vectors then never straddle two.
        let layout = Layout::from_size_align(n_bytes.max(1), 64).map_err(|_| out_of_memory())?;
        // SAFETY: the layout has a size.
        let bytes = unsafe { alloc_zeroed(layout) };
        if bytes.is_null() { Err(out_of_memory()) } else { Ok(Page { bytes, layout }) }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size, zeroed, owned.
        unsafe { std::slice::from_raw_parts(self.bytes, self.layout.size()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.layout.size()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.bytes, self.layout) }
    }
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
        Ok(KvCache { shape, pages: (0..shape.n_pages).map(|_| None).collect() })
    }

    fn head_bytes(&self) -> usize {
        PAGE_LEN * self.shape.format.head_bytes(self.shape.head_dim)
    }

    /// Encoded keys and values of one KV head of one page of one layer.
    pub(crate) fn head(&self, page: u32, layer: usize, head: usize) -> (&[u8], &[u8]) {
        let page = self.pages[page as usize].as_ref().expect("a page is written before it is read");
        let (n, n_heads) = (self.head_bytes(), self.shape.n_kv_heads);
        let layer = &page.bytes()[layer * self.shape.layer_bytes()..][..self.shape.layer_bytes()];
        (&layer[head * n..][..n], &layer[(n_heads + head) * n..][..n])
    }

    /// Makes sure that a page has memory.
    pub(crate) fn touch(&mut self, page: u32) -> Result<(), Error> {
        let slot = &mut self.pages[page as usize];
        if slot.is_none() {
            *slot = Some(Page::new(self.shape.page_bytes())?);
        }
        Ok(())
    }

    /// One token's keys and values `[g·hd]` into a slot of a page that has memory.
    pub(crate) fn store(&mut self, page: u32, layer: usize, slot: usize, k: &[f32], v: &[f32]) {
        let (n, hd, n_heads) = (self.head_bytes(), self.shape.head_dim, self.shape.n_kv_heads);
        let (format, layer_bytes) = (self.shape.format, self.shape.layer_bytes());
        let page = self.pages[page as usize].as_mut().expect("touched before");
        let layer = &mut page.bytes_mut()[layer * layer_bytes..][..layer_bytes];
        let (keys, values) = layer.split_at_mut(n_heads * n);
        for head in 0..n_heads {
            let (k, v) = (&k[head * hd..][..hd], &v[head * hd..][..hd]);
            store_key(format, &mut keys[head * n..][..n], slot, k);
            store_value(format, &mut values[head * n..][..n], slot, v);
        }
    }
}

fn store_key(format: KvFormat, head: &mut [u8], slot: usize, k: &[f32]) {
    match format {
        KvFormat::F32 => {
            for (i, k) in k.iter().enumerate() {
                head[(i * PAGE_LEN + slot) * 4..][..4].copy_from_slice(&k.to_le_bytes());
            }
        }
        KvFormat::F16 => {
            for (i, k) in k.iter().enumerate() {
                head[(i * PAGE_LEN + slot) * 2..][..2].copy_from_slice(&f16::from_f32(*k).to_le_bytes());
            }
        }
        KvFormat::Q8_0 => {
            for (block, k) in head.chunks_exact_mut(34 * PAGE_LEN).zip(k.chunks_exact(32)) {
                let mut encoded = [0u8; 34];
                puna_format::Format::Q8_0.encode(k, &mut encoded);
                block[slot * 2..][..2].copy_from_slice(&encoded[..2]);
                for (i, q) in encoded[2..].iter().enumerate() {
                    block[(2 + i) * PAGE_LEN + slot] = *q;
                }
            }
        }
    }
}

fn store_value(format: KvFormat, head: &mut [u8], slot: usize, v: &[f32]) {
    let n = format.head_bytes(v.len());
    storage_format(format).encode(v, &mut head[slot * n..][..n]);
}

/// How a row of values is encoded.
fn storage_format(format: KvFormat) -> puna_format::Format {
    match format {
        KvFormat::F32 => puna_format::Format::F32,
        KvFormat::F16 => puna_format::Format::F16,
        KvFormat::Q8_0 => puna_format::Format::Q8_0,
    }
}

/// Keys of a head of a page to f32, `[hd][PAGE_LEN]`.
pub(crate) fn decode_keys(format: KvFormat, head: &[u8], out: &mut [f32]) {
    match format {
        KvFormat::F32 | KvFormat::F16 => storage_format(format).decode(head, out),
        KvFormat::Q8_0 => {
            let mut scales = [0f32; PAGE_LEN];
            for (block, out) in head.chunks_exact(34 * PAGE_LEN).zip(out.chunks_exact_mut(32 * PAGE_LEN)) {
                let (d, q) = block.split_at(2 * PAGE_LEN);
                puna_format::Format::F16.decode(d, &mut scales);
                for (q, out) in q.chunks_exact(PAGE_LEN).zip(out.chunks_exact_mut(PAGE_LEN)) {
                    for ((out, q), d) in out.iter_mut().zip(q).zip(&scales) {
                        *out = d * f32::from(q.cast_signed());
                    }
                }
            }
        }
    }
}

/// Values of a head of a page to f32, `[PAGE_LEN][hd]`.
pub(crate) fn decode_values(format: KvFormat, head: &[u8], out: &mut [f32]) {
    storage_format(format).decode(head, out);
}
