//! What a chunk of the cache gives to query rows, and how it is brought together: one set of kernels for any number of
//! rows, in one order.
//!
//! A row gathers into [`row_len`] floats: the output `o`, `[width]`, not yet divided; the sum `l`, in [`LANES`] lanes to be
//! added up at the end; and the maximum `m`. `width` is the head size in whole vectors, with zeros behind.
//!
//! Up to [`ROWS`] rows pass together, so that a vector of keys, or of values, is loaded once for all of them. Few rows
//! take them from the page as they are encoded. For many, a page is decoded first.

use super::{CHUNK, Tile};
use crate::aligned::Aligned;
use crate::kv::KvCache;
use crate::kv::stored::{F16, F32, GROUP, Q8_0, Stored};
use crate::simd::{Kernel, Simd};
use puna_backend::{KvFormat, PAGE_LEN};

/// Rows that pass together at most: with four vectors of tokens (or of the head), sixteen of 32 registers hold sums;
/// with two, eight of sixteen.
const ROWS: usize = 6;

/// Lanes of the largest vector.
const LANES: usize = 16;

/// Vectors beside each other that a row's sums are kept of.
const fn vectors<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 4 } else { 2 }
}

/// Floats of the output.
fn width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

/// Floats that a row gathers into.
pub(super) fn row_len(head_dim: usize) -> usize {
    width(head_dim) + 2 * LANES
}

/// Pages decoded.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Aligned,
    values: Aligned,
    scales: Aligned,
}

/// What the rows of a tile gather of a chunk.
pub(super) struct Gather<'a> {
    pub tile: &'a Tile<'a>,
    pub chunk: usize,
    pub cache: &'a KvCache,
    pub layer: usize,
    /// `[rows][hd]`, already times `1/sqrt(hd)`.
    pub q: &'a [f32],
    /// `[rows][row_len]`, to be overwritten.
    pub gathered: &'a mut [f32],
    pub scratch: &'a mut Scratch,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.cache.shape.format {
            KvFormat::F32 => gather::<S, F32>(s, self),
            KvFormat::F16 => gather::<S, F16>(s, self),
            KvFormat::Q8_0 => gather::<S, Q8_0>(s, self),
        }
    }
}

/// Keys and values of a head of a page.
struct Head {
    keys: *const u8,
    values: *const u8,
    /// Of values that have scales, `[PAGE_LEN][hd / GROUP]`.
    scales: *const f32,
    /// Keys and values that come next, to be fetched meanwhile.
    next: [*const u8; 2],
    /// Bytes of either.
    n_bytes: usize,
}

#[inline(always)]
fn gather<S: Simd, L: Stored>(s: S, task: Gather<'_>) {
    let Gather { tile, chunk, cache, layer, q, gathered, scratch } = task;
    let hd = cache.shape.head_dim;
    let (width, row_len) = (width(hd), row_len(hd));
    assert!(q.len() == tile.n_rows() * hd && gathered.len() == tile.n_rows() * row_len);
    for row in gathered.chunks_exact_mut(row_len) {
        row.fill(0.0);
        row[width + LANES] = f32::NEG_INFINITY;
    }
    let n_pages = tile.n_visible().div_ceil(PAGE_LEN);
    let n_rows = tile.n_rows_of_head();
    let few = tile.is_few() && width == hd;
    let is_f32 = L::BYTES == 4 && width == hd;
    let keys = scratch.keys.floats(hd * PAGE_LEN);
    let values = scratch.values.floats(PAGE_LEN * width);
    let scales = scratch.scales.floats(PAGE_LEN * hd.div_ceil(GROUP));
    for page in chunk * CHUNK / PAGE_LEN..n_pages.min((chunk + 1) * CHUNK / PAGE_LEN) {
        let rows = q.chunks_exact(n_rows * hd).zip(gathered.chunks_exact_mut(n_rows * row_len));
        for (head, (q, gathered)) in tile.heads.clone().zip(rows) {
            let (k, v) = cache.head(tile.span.pages[page], layer, head);
            // Behind the last page nothing is fetched that is not there already.
            let next = match head + 1 < tile.heads.end {
                true => cache.head(tile.span.pages[page], layer, head + 1),
                false => cache.head(tile.span.pages[(page + 1).min(n_pages - 1)], layer, tile.heads.start),
            };
            let next = [next.0.as_ptr(), next.1.as_ptr()];
            let mut encoded =
                Head { keys: k.as_ptr(), values: v.as_ptr(), scales: scales.as_ptr(), next, n_bytes: k.len() };
            let rows = Rows { tile, page, q: q.as_ptr(), gathered: gathered.as_mut_ptr(), hd };
            // SAFETY: a head has keys and values of PAGE_LEN tokens; the buffers have room for them, and the rows are those
            // of the head.
            unsafe {
                if L::SCALED {
                    for i in (0..scales.len()).step_by(S::LANES) {
                        s.store_f32(s.load_f16(encoded.values.add(2 * i)), scales.as_mut_ptr().add(i));
                    }
                }
                if few {
                    rows.meet::<S, L, true>(s, &encoded);
                } else {
                    if !is_f32 {
                        decode_keys::<S, L>(s, &encoded, hd, keys);
                        decode_values::<S, L>(s, &encoded, hd, values);
                        encoded.keys = keys.as_ptr().cast();
                        encoded.values = values.as_ptr().cast();
                    }
                    rows.meet::<S, F32, false>(s, &encoded);
                }
            }
        }
    }
}

/// Fetches the lines that begin in bytes `from..from + n` behind `at`, the start of one.
#[inline(always)]
fn fetch<S: Simd>(s: S, at: *const u8, from: usize, n: usize) {
    if from % 64 < n {
        for line in (0..n).step_by(64) {
            s.prefetch(at.wrapping_add(from + line));
        }
    }
}

/// The keys of a head to f32, `[hd][PAGE_LEN]`.
///
/// # Safety
/// It has so many.
#[inline(always)]
unsafe fn decode_keys<S: Simd, L: Stored>(s: S, head: &Head, hd: usize, out: &mut [f32]) {
    for token in (0..PAGE_LEN).step_by(S::LANES) {
        let mut scale = s.splat_f32(1.0);
        for i in 0..hd {
            // SAFETY: the caller's promise.
            unsafe {
                if L::SCALED && i % GROUP == 0 {
                    scale = s.load_f16(head.keys.add(L::key_scale(i, token)));
                }
                let k = L::load(s, head.keys.add(L::key(i, token)));
                let k = if L::SCALED { s.mul(k, scale) } else { k };
                s.store_f32(k, out[i * PAGE_LEN + token..][..S::LANES].as_mut_ptr());
            }
        }
    }
}

/// The values of a head to f32, `[PAGE_LEN][width]`.
///
/// # Safety
/// It has so many, and `head.scales` are theirs.
#[inline(always)]
unsafe fn decode_values<S: Simd, L: Stored>(s: S, head: &Head, hd: usize, out: &mut [f32]) {
    let whole = hd / S::LANES * S::LANES;
    let width = width(hd);
    for token in 0..PAGE_LEN {
        let out = &mut out[token * width..][..width];
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe { s.store_f32(value::<S, L>(s, head, hd, token, i), out.as_mut_ptr().add(i)) };
        }
        if whole < hd {
            let (mut bytes, mut values) = ([0u8; 4 * LANES], [0f32; LANES]);
            // SAFETY: less than a vector is left, for which the buffers have room; heads of such sizes have no scales.
            unsafe {
                let at = head.values.add(L::value(hd, token, whole));
                bytes.as_mut_ptr().copy_from_nonoverlapping(at, (hd - whole) * L::BYTES);
                s.store_f32(L::load(s, bytes.as_ptr()), values.as_mut_ptr());
            }
            out[whole..].copy_from_slice(&values[..width - whole]);
        }
    }
}

/// Values `i..i + LANES` of a token; `width` from one token's to the next one's.
///
/// # Safety
/// The head has them.
#[inline(always)]
unsafe fn value<S: Simd, L: Stored>(s: S, head: &Head, width: usize, token: usize, i: usize) -> S::F {
    // SAFETY: the caller's promise.
    unsafe {
        let v = L::load(s, head.values.add(L::value(width, token, i)));
        if L::SCALED { s.mul(v, s.splat_f32(*head.scales.add(token * (width / GROUP) + i / GROUP))) } else { v }
    }
}

/// The rows of a head that meet a page.
struct Rows<'a> {
    tile: &'a Tile<'a>,
    page: usize,
    q: *const f32,
    gathered: *mut f32,
    hd: usize,
}

/// What the tokens of a page weigh, for each row.
#[repr(align(64))]
struct Weights([[f32; PAGE_LEN]; ROWS]);

impl Rows<'_> {
    /// # Safety
    /// The pointers are to the rows of a head, and to keys and values (and scales) of a page.
    #[inline(always)]
    unsafe fn meet<S: Simd, L: Stored, const AHEAD: bool>(&self, s: S, head: &Head) {
        let Rows { tile, hd, .. } = *self;
        let mut weights = Weights([[0.0; PAGE_LEN]; ROWS]);
        // Rows that see the same tokens: on most pages all, on the last ones those of a token.
        let first = self.page * PAGE_LEN;
        let all = tile.first_position + 1 >= first + PAGE_LEN;
        let (n_runs, n_rows) = if all { (1, tile.n_rows_of_head()) } else { (tile.n_tokens, tile.group) };
        for run in 0..n_runs {
            let n = if all { PAGE_LEN } else { (tile.first_position + run + 1).saturating_sub(first).min(PAGE_LEN) };
            if n == 0 {
                continue;
            }
            let step = if AHEAD { 4 } else { ROWS };
            for row in (0..n_rows).step_by(step) {
                let (n_rows, row) = ((n_rows - row).min(step), run * n_rows + row);
                if !AHEAD {
                    // A share of what comes next, so that fetching it takes as long as the work on this.
                    let share = head.n_bytes * n_rows / tile.n_rows_of_head();
                    let first = head.n_bytes * row / tile.n_rows_of_head();
                    for line in (first / 64 * 64..first + share).step_by(64) {
                        s.prefetch(head.next[0].wrapping_add(line));
                        s.prefetch(head.next[1].wrapping_add(line));
                    }
                }
                // SAFETY: so many rows are there from this one on.
                unsafe {
                    let q = self.q.add(row * hd);
                    let gathered = self.gathered.add(row * row_len(hd));
                    match n_rows {
                        6 if !AHEAD => meet::<S, L, 6, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                        5 if !AHEAD => meet::<S, L, 5, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                        4 => meet::<S, L, 4, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                        3 => meet::<S, L, 3, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                        2 => meet::<S, L, 2, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                        _ => meet::<S, L, 1, AHEAD>(s, q, gathered, hd, head, n, &mut weights),
                    }
                }
            }
        }
    }
}

/// `R` rows and the first `n` tokens of a page.
///
/// # Safety
/// The pointers are to so many rows, and to keys and values (and scales) of a page.
#[inline(always)]
unsafe fn meet<S: Simd, L: Stored, const R: usize, const AHEAD: bool>(
    s: S,
    q: *const f32,
    gathered: *mut f32,
    hd: usize,
    head: &Head,
    n: usize,
    weights: &mut Weights,
) {
    let (width, row_len) = (width(hd), row_len(hd));
    // SAFETY: the caller's promise.
    unsafe {
        match const { vectors::<S>() } {
            4 => scores::<S, L, R, 4, AHEAD>(s, q, hd, head, weights),
            _ => scores::<S, L, R, 2, AHEAD>(s, q, hd, head, weights),
        }
        let mut corrections = [s.splat_f32(0.0); R];
        for r in 0..R {
            let (l, m) = (gathered.add(r * row_len + width), gathered.add(r * row_len + width + LANES));
            corrections[r] = soften(s, &mut weights.0[r], n, l, m);
        }
        let mut i = 0;
        while i < width {
            let columns = Columns { gathered: gathered.add(i), row_len, width, i };
            let vectors = const { vectors::<S>() };
            if i + vectors * S::LANES <= width {
                match vectors {
                    4 => columns.add::<S, L, R, 4, AHEAD>(s, &corrections, weights, head, n),
                    _ => columns.add::<S, L, R, 2, AHEAD>(s, &corrections, weights, head, n),
                }
                i += vectors * S::LANES;
            } else {
                columns.add::<S, L, R, 1, AHEAD>(s, &corrections, weights, head, n);
                i += S::LANES;
            }
        }
    }
}

/// Scores of `R` rows with all tokens of a page, `V` vectors of tokens at a time; sums over `hd` in order.
///
/// # Safety
/// See [`meet`].
#[inline(always)]
unsafe fn scores<S: Simd, L: Stored, const R: usize, const V: usize, const AHEAD: bool>(
    s: S,
    q: *const f32,
    hd: usize,
    head: &Head,
    out: &mut Weights,
) {
    for token in (0..PAGE_LEN).step_by(V * S::LANES) {
        let mut sums = [[s.splat_f32(0.0); V]; R];
        for group in (0..hd).step_by(GROUP) {
            let mut scales = [s.splat_f32(1.0); V];
            if L::SCALED {
                for j in 0..V {
                    // SAFETY: a page has so many keys; so below.
                    scales[j] = unsafe { s.load_f16(head.keys.add(L::key_scale(group, token + j * S::LANES))) };
                }
                if AHEAD {
                    fetch(s, head.next[0], L::key_scale(group, token), V * S::LANES * 2);
                }
            }
            for i in group..hd.min(group + GROUP) {
                let at = L::key(i, token);
                if AHEAD {
                    fetch(s, head.next[0], at, V * S::LANES * L::BYTES);
                }
                let mut k = [s.splat_f32(0.0); V];
                for j in 0..V {
                    // SAFETY: see above.
                    k[j] = unsafe { L::load(s, head.keys.add(at + j * S::LANES * L::BYTES)) };
                    if L::SCALED {
                        k[j] = s.mul(k[j], scales[j]);
                    }
                }
                for r in 0..R {
                    // SAFETY: q has R rows of hd.
                    let q = s.splat_f32(unsafe { *q.add(r * hd + i) });
                    for j in 0..V {
                        sums[r][j] = s.fma(q, k[j], sums[r][j]);
                    }
                }
            }
        }
        for r in 0..R {
            for j in 0..V {
                // SAFETY: these tokens are of the page.
                unsafe { s.store_f32(sums[r][j], out.0[r].as_mut_ptr().add(token + j * S::LANES)) };
            }
        }
    }
}

/// Turns the scores of the first `n` tokens into weights, and those of the others into zeros; brings the row's maximum and
/// sum up to date. What was gathered before is to be multiplied with the result.
///
/// # Safety
/// `l` is to a vector, `m` to a float.
#[inline(always)]
unsafe fn soften<S: Simd>(s: S, weights: &mut [f32; PAGE_LEN], n: usize, l: *mut f32, m: *mut f32) -> S::F {
    weights[n..].fill(f32::NEG_INFINITY);
    let at = weights.as_mut_ptr();
    // SAFETY: a page is whole vectors; the caller's promise.
    unsafe {
        let before = s.splat_f32(*m);
        let mut max = before;
        for i in (0..PAGE_LEN).step_by(S::LANES) {
            max = s.max(max, s.load_f32(at.add(i)));
        }
        let largest = s.max_lane(max);
        *m = largest;
        let largest = s.splat_f32(largest);
        for i in (0..PAGE_LEN).step_by(S::LANES) {
            s.store_f32(s.exp(s.sub_f32(s.load_f32(at.add(i)), largest)), at.add(i));
        }
        // `exp` gives 1e-38 for what is hidden; it must be nothing.
        std::slice::from_raw_parts_mut(at, PAGE_LEN)[n..].fill(0.0);
        let mut sum = s.splat_f32(0.0);
        for i in (0..PAGE_LEN).step_by(S::LANES) {
            sum = s.add_f32(sum, s.load_f32(at.add(i)));
        }
        let correction = s.exp(s.sub_f32(before, largest));
        s.store_f32(s.fma(s.load_f32(l), correction, sum), l);
        correction
    }
}

/// Columns of the output from `i` on.
struct Columns {
    gathered: *mut f32,
    row_len: usize,
    /// From a token's values to the next one's.
    width: usize,
    i: usize,
}

impl Columns {
    /// `o = o · correction + Σ_t weight[t] · value[t]` over the first `n` tokens, in order, for `R` rows and `V` vectors of
    /// the head.
    ///
    /// # Safety
    /// See [`meet`].
    #[inline(always)]
    unsafe fn add<S: Simd, L: Stored, const R: usize, const V: usize, const AHEAD: bool>(
        &self,
        s: S,
        corrections: &[S::F; R],
        weights: &Weights,
        head: &Head,
        n: usize,
    ) {
        let Columns { gathered, row_len, width, i } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[s.splat_f32(0.0); V]; R];
            for r in 0..R {
                for j in 0..V {
                    sums[r][j] = s.mul(s.load_f32(gathered.add(r * row_len + j * S::LANES)), corrections[r]);
                }
            }
            for t in 0..n {
                if AHEAD {
                    fetch(s, head.next[1], L::value(width, t, i), V * S::LANES * L::BYTES);
                }
                let mut v = [s.splat_f32(0.0); V];
                for j in 0..V {
                    v[j] = value::<S, L>(s, head, width, t, i + j * S::LANES);
                }
                for r in 0..R {
                    let weight = s.splat_f32(*weights.0[r].as_ptr().add(t));
                    for j in 0..V {
                        sums[r][j] = s.fma(weight, v[j], sums[r][j]);
                    }
                }
            }
            for r in 0..R {
                for j in 0..V {
                    s.store_f32(sums[r][j], gathered.add(r * row_len + j * S::LANES));
                }
            }
        }
    }
}

/// Adds what a row gathered of its next chunk to what it did of those before.
pub(super) struct Merge<'a> {
    pub into: &'a mut [f32],
    pub from: &'a [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Merge { into, from } = self;
        assert!(into.len() == from.len() && into.len().is_multiple_of(LANES));
        let n = into.len() - LANES;
        let (before, new) = (s.splat_f32(into[n]), s.splat_f32(from[n]));
        let largest = s.max(before, new);
        let (before, new) = (s.exp(s.sub_f32(before, largest)), s.exp(s.sub_f32(new, largest)));
        // SAFETY: whole vectors of both.
        unsafe {
            for i in (0..n).step_by(S::LANES) {
                let at = into.as_mut_ptr().add(i);
                s.store_f32(s.fma(s.load_f32(from.as_ptr().add(i)), new, s.mul(s.load_f32(at), before)), at);
            }
            s.store_f32(largest, into.as_mut_ptr().add(n));
        }
    }
}

/// Divides what a row gathered by the sum.
pub(super) struct Finish<'a> {
    pub gathered: &'a [f32],
    /// `[hd]`
    pub out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { gathered, out } = self;
        let sum = &gathered[width(out.len())..][..LANES];
        // SAFETY: room for a vector.
        let sum = s.sum(unsafe { s.load_f32(sum.as_ptr()) });
        for (out, o) in out.iter_mut().zip(gathered) {
            *out = o / sum;
        }
    }
}
