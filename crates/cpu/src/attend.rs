//! Causal attention over the paged cache, in memory that does not grow with the context.
//!
//! A task takes one KV head and a tile of query tokens, and goes once over the pages they see. A page's keys and values
//! are decoded to f32 once and meet all query rows of the tile: all query heads that share the KV head, of all the
//! tile's tokens. Each row keeps a running maximum `m`, sum `l` and output `o` (online softmax: Milakov and Gimelshein
//! 2018, arXiv 1805.02867), rescaled whenever a page brings a larger score.
//!
//! A row's result depends on its position and on the cache alone: pages come in order, scores are sums over `hd` in
//! order, outputs are sums over tokens in order, whatever else is in the tile.

use crate::kv::{KvCache, decode_keys, decode_values};
use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::{Instructions, Kernel, Simd};
use puna_backend::{Batch, PAGE_LEN, Span};

/// Query tokens per task: with four heads a group, 64 rows meet each decoded page.
const TILE: usize = 16;

struct Task<'a> {
    span: Span<'a>,
    kv_head: usize,
    /// The tile's tokens: rows of the batch, and position of the first.
    first_row: usize,
    first_position: usize,
    n_tokens: usize,
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
    let mut tasks = Vec::new();
    let mut span_row = 0;
    for span in batch.spans {
        for tile in (0..span.len).step_by(TILE) {
            for kv_head in 0..n_kv_heads {
                tasks.push(Task {
                    span: *span,
                    kv_head,
                    first_row: span_row + tile,
                    first_position: span.start + tile,
                    n_tokens: TILE.min(span.len - tile),
                });
            }
        }
        span_row += span.len;
    }
    assert_eq!(span_row, q.rows, "attend: the spans' tokens are the batch's");
    // Later tiles see more pages: start with the longest, so that threads end together.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.first_position));
    out.set_rows(q.rows);
    let out_cols = out.cols;
    let out = SharedMut::new(out.data_mut());
    pool.run(tasks.len(), &|index| {
        let rows = Rows::new(&tasks[index], q, cache);
        instructions.run(Attend { rows, cache, layer, out, out_cols });
    });
}

/// The query rows of one task and what they have gathered so far.
struct Rows<'a> {
    task: &'a Task<'a>,
    /// Query heads per KV head.
    group: usize,
    hd: usize,
    /// `hd` rounded up to whole vectors, with zeros behind.
    width: usize,
    /// `[rows][hd]`, already times `1/sqrt(hd)`; row `t · group + j` is head `j` of the group of token `t`.
    q: Vec<f32>,
    /// Running maximum, sum and output of each row.
    m: Vec<f32>,
    l: Vec<f32>,
    o: Vec<f32>,
}

impl<'a> Rows<'a> {
    fn new(task: &'a Task<'a>, q: &Activations, cache: &KvCache) -> Rows<'a> {
        let hd = cache.shape.head_dim;
        let group = q.cols / hd / cache.shape.n_kv_heads;
        let n_rows = task.n_tokens * group;
        let width = hd.next_multiple_of(16);
        let scale = 1.0 / (hd as f32).sqrt();
        let mut rows = Vec::with_capacity(n_rows * hd);
        for token in 0..task.n_tokens {
            let heads = &q.row(task.first_row + token)[task.kv_head * group * hd..][..group * hd];
            rows.extend(heads.iter().map(|v| v * scale));
        }
        let (m, l, o) = (vec![f32::NEG_INFINITY; n_rows], vec![0.0; n_rows], vec![0.0; n_rows * width]);
        Rows { task, group, hd, width, q: rows, m, l, o }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, cache: &KvCache, layer: usize, out: SharedMut<'_, f32>, out_cols: usize) {
        let (hd, width, group, task) = (self.hd, self.width, self.group, self.task);
        let mut keys = vec![0f32; hd * PAGE_LEN];
        let mut values = vec![0f32; PAGE_LEN * width];
        let n_visible_last = task.first_position + task.n_tokens;
        for (page_idx, &page) in task.span.pages[..n_visible_last.div_ceil(PAGE_LEN)].iter().enumerate() {
            let (k, v) = cache.head(page, layer, task.kv_head);
            decode_keys(cache.shape.format, k, &mut keys);
            if width == hd {
                decode_values(cache.shape.format, v, &mut values);
            } else {
                let n = cache.shape.format.head_bytes(hd);
                for (v, out) in v.chunks_exact(n).zip(values.chunks_exact_mut(width)) {
                    decode_values(cache.shape.format, v, &mut out[..hd]);
                }
            }
            let n_rows = self.m.len();
            let n_visible =
                |row: usize| (task.first_position + row / group + 1).saturating_sub(page_idx * PAGE_LEN).min(PAGE_LEN);
            let mut row = 0;
            while row < n_rows {
                let n = n_visible(row);
                // Two rows that see the same tokens share the loads of keys and values.
                let pair = row + 1 < n_rows && n_visible(row + 1) == n;
                if n > 0 {
                    // SAFETY: the buffers have the sizes above.
                    unsafe {
                        if pair {
                            self.page::<S, 2>(s, row, n, &keys, &values);
                        } else {
                            self.page::<S, 1>(s, row, n, &keys, &values);
                        }
                    }
                }
                row += 1 + usize::from(pair);
            }
        }
        for (row, (o, l)) in self.o.chunks_exact(width).zip(&self.l).enumerate() {
            let (token, head) = (row / group, task.kv_head * group + row % group);
            // SAFETY: these heads of these tokens belong to this task.
            let out = unsafe { out.slice((task.first_row + token) * out_cols + head * hd, hd) };
            out.iter_mut().zip(o).for_each(|(out, o)| *out = o / l);
        }
    }

    /// `R` rows from `row` on and the first `n` tokens of a page.
    ///
    /// # Safety
    /// `keys` is `[hd][PAGE_LEN]`, `values` `[PAGE_LEN][width]`.
    #[inline(always)]
    unsafe fn page<S: Simd, const R: usize>(&mut self, s: S, row: usize, n: usize, keys: &[f32], values: &[f32]) {
        assert!(keys.len() == self.hd * PAGE_LEN && values.len() == PAGE_LEN * self.width && n <= PAGE_LEN);
        let q = &self.q[row * self.hd..][..R * self.hd];
        let mut scores = [[0f32; PAGE_LEN]; R];
        // Scores: four vectors of tokens at a time, so that with two rows the sums stay in registers.
        for tokens in (0..PAGE_LEN).step_by(4 * S::LANES) {
            let mut sums = [[s.splat_f32(0.0); 4]; R];
            for i in 0..self.hd {
                // SAFETY: row i of the keys has PAGE_LEN tokens; q has R rows of hd.
                unsafe {
                    let keys = keys.as_ptr().add(i * PAGE_LEN + tokens);
                    let k: [S::F; 4] = std::array::from_fn(|j| s.load_f32(keys.add(S::LANES * j)));
                    for r in 0..R {
                        let q = s.splat_f32(*q.get_unchecked(r * self.hd + i));
                        for j in 0..4 {
                            sums[r][j] = s.fma(q, k[j], sums[r][j]);
                        }
                    }
                }
            }
            for r in 0..R {
                for j in 0..4 {
                    // SAFETY: these tokens are within the page.
                    unsafe { s.store_f32(sums[r][j], scores[r].as_mut_ptr().add(tokens + S::LANES * j)) };
                }
            }
        }
        let mut corrections = [s.splat_f32(0.0); R];
        for r in 0..R {
            let scores = &mut scores[r];
            scores[n..].fill(f32::NEG_INFINITY);
            let mut max = s.splat_f32(self.m[row + r]);
            for vector in scores.chunks_exact(S::LANES) {
                // SAFETY: whole vectors; so for all below.
                max = s.max(max, unsafe { s.load_f32(vector.as_ptr()) });
            }
            let m = s.max_lane(max);
            let mut sum = s.splat_f32(0.0);
            for vector in scores.chunks_exact_mut(S::LANES) {
                // SAFETY: see above.
                unsafe {
                    let p = s.exp(s.sub_f32(s.load_f32(vector.as_ptr()), s.splat_f32(m)));
                    s.store_f32(p, vector.as_mut_ptr());
                }
            }
            // `exp` gives 1e-38 for what is hidden; it must be nothing.
            scores[n..].fill(0.0);
            for vector in scores.chunks_exact(S::LANES) {
                // SAFETY: see above.
                sum = s.add_f32(sum, unsafe { s.load_f32(vector.as_ptr()) });
            }
            corrections[r] = s.exp(s.splat_f32(self.m[row + r] - m));
            let mut correction = [0f32; 16];
            // SAFETY: room for a vector.
            unsafe { s.store_f32(corrections[r], correction.as_mut_ptr()) };
            self.l[row + r] = self.l[row + r] * correction[0] + s.sum(sum);
            self.m[row + r] = m;
        }
        // Outputs: four vectors of the head at a time.
        let o = &mut self.o[row * self.width..][..R * self.width];
        let mut i = 0;
        while i < self.width {
            let n_vectors = ((self.width - i) / S::LANES).min(4);
            // SAFETY: the vectors are within the rows of `o` and `values`.
            unsafe {
                match n_vectors {
                    4 => weighted_sum::<S, R, 4>(s, o, &corrections, &scores, values, n, i, self.width),
                    3 => weighted_sum::<S, R, 3>(s, o, &corrections, &scores, values, n, i, self.width),
                    2 => weighted_sum::<S, R, 2>(s, o, &corrections, &scores, values, n, i, self.width),
                    _ => weighted_sum::<S, R, 1>(s, o, &corrections, &scores, values, n, i, self.width),
                }
            }
            i += S::LANES * n_vectors;
        }
    }
}

/// One task's rows, to be computed.
struct Attend<'a, 'o> {
    rows: Rows<'a>,
    cache: &'a KvCache,
    layer: usize,
    out: SharedMut<'o, f32>,
    out_cols: usize,
}

impl Kernel for Attend<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.rows.run(s, self.cache, self.layer, self.out, self.out_cols);
    }
}

/// `o[r][i..] = o[r][i..] · correction[r] + Σ_t p[r][t] · values[t][i..]` over `V` vectors of the head.
///
/// # Safety
/// `o` is `[R][width]`, `values` `[≥ n][width]`, `i + V · LANES ≤ width`, `n ≤ PAGE_LEN`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "to be inlined")]
unsafe fn weighted_sum<S: Simd, const R: usize, const V: usize>(
    s: S,
    o: &mut [f32],
    corrections: &[S::F; R],
    p: &[[f32; PAGE_LEN]; R],
    values: &[f32],
    n: usize,
    i: usize,
    width: usize,
) {
    // SAFETY: all indices are within the bounds of the contract.
    unsafe {
        let mut sums = [[s.splat_f32(0.0); V]; R];
        for r in 0..R {
            for j in 0..V {
                sums[r][j] = s.mul(s.load_f32(o.as_ptr().add(r * width + i + S::LANES * j)), corrections[r]);
            }
        }
        for t in 0..n {
            let values = values.as_ptr().add(t * width + i);
            let v: [S::F; V] = std::array::from_fn(|j| s.load_f32(values.add(S::LANES * j)));
            for r in 0..R {
                let p = s.splat_f32(*p[r].get_unchecked(t));
                for j in 0..V {
                    sums[r][j] = s.fma(p, v[j], sums[r][j]);
                }
            }
        }
        for r in 0..R {
            for j in 0..V {
                s.store_f32(sums[r][j], o.as_mut_ptr().add(r * width + i + S::LANES * j));
            }
        }
    }
}
