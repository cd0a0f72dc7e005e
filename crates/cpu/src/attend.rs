//! Causal attention over the paged cache, in memory that does not grow with the context.
//!
//! A task takes one KV head and a tile of query tokens, and goes once over the pages they see. A page's keys and values
//! are decoded to f32 once and meet all query rows of the tile: all query heads that share the KV head, of all the
//! tile's tokens. Each row keeps a running maximum `m`, sum `l` and output `o` (online softmax: Milakov and Gimelshein
//! 2018, arXiv 1805.02867), rescaled whenever a page brings a larger score.
//!
//! A row's result depends on its position and on the cache alone: pages come in order, scores are sums over `hd` in
//! order, outputs are sums over tokens in order, whatever else is in the tile.

use crate::capability::Avx2;
use crate::kv::{KvCache, decode_keys, decode_values};
use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
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
    avx2: Option<Avx2>,
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
    pool.run(tasks.len(), &|index| Rows::new(&tasks[index], q, cache).run(avx2, cache, layer, out, out_cols));
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
        let width = hd.next_multiple_of(8);
        let scale = 1.0 / (hd as f32).sqrt();
        let mut rows = Vec::with_capacity(n_rows * hd);
        for token in 0..task.n_tokens {
            let heads = &q.row(task.first_row + token)[task.kv_head * group * hd..][..group * hd];
            rows.extend(heads.iter().map(|v| v * scale));
        }
        let (m, l, o) = (vec![f32::NEG_INFINITY; n_rows], vec![0.0; n_rows], vec![0.0; n_rows * width]);
        Rows { task, group, hd, width, q: rows, m, l, o }
    }

    fn run(mut self, avx2: Option<Avx2>, cache: &KvCache, layer: usize, out: SharedMut<'_, f32>, out_cols: usize) {
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
                    match avx2 {
                        #[cfg(target_arch = "x86_64")]
                        // SAFETY: the token proves the instructions; the buffers have the sizes above.
                        Some(_) => unsafe {
                            if pair {
                                self.page_avx2::<2>(row, n, &keys, &values);
                            } else {
                                self.page_avx2::<1>(row, n, &keys, &values);
                            }
                        },
                        _ => (row..=row + usize::from(pair)).for_each(|row| self.page(row, n, &keys, &values)),
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

    /// One row and the first `n` tokens of a page, one value at a time.
    fn page(&mut self, row: usize, n: usize, keys: &[f32], values: &[f32]) {
        let q = &self.q[row * self.hd..][..self.hd];
        let mut scores = [0f32; PAGE_LEN];
        for (q, keys) in q.iter().zip(keys.as_chunks::<PAGE_LEN>().0) {
            scores.iter_mut().zip(keys).for_each(|(score, k)| *score += q * k);
        }
        let m = scores[..n].iter().fold(self.m[row], |m, score| m.max(*score));
        let correction = (self.m[row] - m).exp();
        let o = &mut self.o[row * self.width..][..self.width];
        o.iter_mut().for_each(|o| *o *= correction);
        let mut sum = 0.0;
        for (score, values) in scores[..n].iter().zip(values.chunks_exact(self.width)) {
            let p = (score - m).exp();
            sum += p;
            o.iter_mut().zip(values).for_each(|(o, v)| *o += p * v);
        }
        self.l[row] = self.l[row] * correction + sum;
        self.m[row] = m;
    }

    /// `R` rows from `row` on and the first `n` tokens of a page.
    ///
    /// # Safety
    /// AVX2 and FMA exist; `keys` is `[hd][PAGE_LEN]`, `values` `[PAGE_LEN][width]`.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn page_avx2<const R: usize>(&mut self, row: usize, n: usize, keys: &[f32], values: &[f32]) {
        use crate::simd::{exp8, max8, sum8};
        use std::arch::x86_64::*;
        assert!(keys.len() == self.hd * PAGE_LEN && values.len() == PAGE_LEN * self.width && n <= PAGE_LEN);
        let q = &self.q[row * self.hd..][..R * self.hd];
        let mut scores = [[0f32; PAGE_LEN]; R];
        // Scores: 32 tokens at a time, so that with two rows the sums stay in registers.
        for tokens in (0..PAGE_LEN).step_by(32) {
            let mut sums = [[_mm256_setzero_ps(); 4]; R];
            for i in 0..self.hd {
                // SAFETY: row i of the keys has PAGE_LEN tokens; q has R rows of hd.
                unsafe {
                    let keys = keys.as_ptr().add(i * PAGE_LEN + tokens);
                    let k: [__m256; 4] = std::array::from_fn(|j| _mm256_loadu_ps(keys.add(8 * j)));
                    for r in 0..R {
                        let q = _mm256_set1_ps(*q.get_unchecked(r * self.hd + i));
                        for j in 0..4 {
                            sums[r][j] = _mm256_fmadd_ps(q, k[j], sums[r][j]);
                        }
                    }
                }
            }
            for r in 0..R {
                for j in 0..4 {
                    // SAFETY: 32 tokens from `tokens` on are within the page.
                    unsafe { _mm256_storeu_ps(scores[r].as_mut_ptr().add(tokens + 8 * j), sums[r][j]) };
                }
            }
        }
        let mut corrections = [_mm256_setzero_ps(); R];
        for r in 0..R {
            let scores = &mut scores[r];
            scores[n..].fill(f32::NEG_INFINITY);
            let mut max = _mm256_set1_ps(self.m[row + r]);
            for eight in scores.as_chunks::<8>().0 {
                // SAFETY: eight values.
                max = _mm256_max_ps(max, unsafe { _mm256_loadu_ps(eight.as_ptr()) });
            }
            let m = max8(max);
            let mut sum = _mm256_setzero_ps();
            for eight in scores.as_chunks_mut::<8>().0 {
                // SAFETY: eight values.
                unsafe {
                    let p = exp8(_mm256_sub_ps(_mm256_loadu_ps(eight.as_ptr()), _mm256_set1_ps(m)));
                    _mm256_storeu_ps(eight.as_mut_ptr(), p);
                }
            }
            // `exp8` gives 1e-38 for what is hidden; it must be nothing.
            scores[n..].fill(0.0);
            for eight in scores.as_chunks::<8>().0 {
                // SAFETY: eight values.
                sum = _mm256_add_ps(sum, unsafe { _mm256_loadu_ps(eight.as_ptr()) });
            }
            corrections[r] = exp8(_mm256_set1_ps(self.m[row + r] - m));
            self.l[row + r] = self.l[row + r] * _mm256_cvtss_f32(corrections[r]) + sum8(sum);
            self.m[row + r] = m;
        }
        // Outputs: 32 of the head at a time.
        let o = &mut self.o[row * self.width..][..R * self.width];
        let mut i = 0;
        while i < self.width {
            let n_vectors = ((self.width - i) / 8).min(4);
            // SAFETY: the vectors are within the rows of `o` and `values`.
            unsafe {
                match n_vectors {
                    4 => weighted_sum::<R, 4>(o, &corrections, &scores, values, n, i, self.width),
                    3 => weighted_sum::<R, 3>(o, &corrections, &scores, values, n, i, self.width),
                    2 => weighted_sum::<R, 2>(o, &corrections, &scores, values, n, i, self.width),
                    _ => weighted_sum::<R, 1>(o, &corrections, &scores, values, n, i, self.width),
                }
            }
            i += 8 * n_vectors;
        }
    }
}

/// `o[r][i..] = o[r][i..] · correction[r] + Σ_t p[r][t] · values[t][i..]` over `8 · V` of the head.
///
/// # Safety
/// AVX2 and FMA exist; `o` is `[R][width]`, `values` `[≥ n][width]`, `i + 8 · V ≤ width`, `n ≤ PAGE_LEN`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn weighted_sum<const R: usize, const V: usize>(
    o: &mut [f32],
    corrections: &[std::arch::x86_64::__m256; R],
    p: &[[f32; PAGE_LEN]; R],
    values: &[f32],
    n: usize,
    i: usize,
    width: usize,
) {
    use std::arch::x86_64::*;
    // SAFETY: all indices are within the bounds of the contract.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); V]; R];
        for r in 0..R {
            for j in 0..V {
                sums[r][j] = _mm256_mul_ps(_mm256_loadu_ps(o.as_ptr().add(r * width + i + 8 * j)), corrections[r]);
            }
        }
        for t in 0..n {
            let values = values.as_ptr().add(t * width + i);
            let v: [__m256; V] = std::array::from_fn(|j| _mm256_loadu_ps(values.add(8 * j)));
            for r in 0..R {
                let p = _mm256_set1_ps(*p[r].get_unchecked(t));
                for j in 0..V {
                    sums[r][j] = _mm256_fmadd_ps(p, v[j], sums[r][j]);
                }
            }
        }
        for r in 0..R {
            for j in 0..V {
                _mm256_storeu_ps(o.as_mut_ptr().add(r * width + i + 8 * j), sums[r][j]);
            }
        }
    }
}
