//! Attention backwards.
//!
//! With scores `S = τ q kᵀ`, probabilities `P = softmax(S)` and `D = Σ d_out · out` of each query:
//! `d_v = Pᵀ d_out`, `d_P = d_out vᵀ`, `d_S = P (d_P − D)`, `d_q = τ d_S k`, `d_k = τ d_Sᵀ q` (Dao et al. 2022, arXiv
//! 2205.14135, appendix B). A KV head of a document is one task: it sums over the query heads that read it, in order.

use crate::Cpu;
use crate::aligned::Aligned;
use crate::gemm::{self, Out, Product, Right, View};
use crate::matrix::Activations;
use crate::share::SharedMut;
use crate::simd::{Kernel, Simd};
use puna_backend::Heads;
use std::cell::RefCell;

/// Queries of a head whose scores are computed together.
const QUERIES: usize = 64;

/// What attention had, and the gradient of what it gave.
pub(super) struct Inputs<'a> {
    pub heads: Heads,
    pub documents: &'a [usize],
    pub q: &'a Activations,
    pub k: &'a Activations,
    pub v: &'a Activations,
    pub out: &'a Activations,
    pub d_out: &'a Activations,
}

/// Memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Probabilities, then gradients of scores, `[queries][keys]`.
    p: Aligned,
    d_s: Aligned,
    gemm: gemm::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Sets the gradients of `q`, `k` and `v`.
pub(super) fn backward(cpu: &Cpu, x: &Inputs<'_>, gradients: [&mut Activations; 3]) {
    let Heads { n_heads, n_kv_heads, head_dim } = x.heads;
    let n_tokens = x.documents.iter().sum();
    let widths = [n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim];
    for (x, width) in
        [x.q, x.k, x.v, x.out, x.d_out].iter().zip([widths[0], widths[1], widths[2], widths[0], widths[0]])
    {
        assert_eq!((x.rows, x.cols), (n_tokens, width), "attend_backward: shapes");
    }
    let mut widths = widths.into_iter();
    let gradients = gradients.map(|d| {
        assert_eq!(Some(d.cols), widths.next(), "attend_backward: shapes of gradients");
        let values = d.set_rows(n_tokens);
        values.fill(0.0);
        SharedMut::new(values)
    });
    let mut end = 0;
    let start = |len: &usize| {
        end += len;
        end - len
    };
    let starts: Vec<usize> = x.documents.iter().map(start).collect();
    cpu.pool.run(x.documents.len() * n_kv_heads, &|task| {
        let (document, kv_head) = (task / n_kv_heads, task % n_kv_heads);
        let head = Head { cpu, x, start: starts[document], len: x.documents[document], kv_head };
        SCRATCH.with_borrow_mut(|scratch| head.backward(gradients, scratch));
    });
}

/// A KV head of a document.
struct Head<'a> {
    cpu: &'a Cpu,
    x: &'a Inputs<'a>,
    /// The document's first token.
    start: usize,
    len: usize,
    kv_head: usize,
}

impl Head<'_> {
    fn backward(&self, [d_q, d_k, d_v]: [SharedMut<'_, f32>; 3], scratch: &mut Scratch) {
        let Heads { n_heads, n_kv_heads, head_dim } = self.x.heads;
        let (q_cols, kv_cols, group) = (n_heads * head_dim, n_kv_heads * head_dim, n_heads / n_kv_heads);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let kv_start = self.start * kv_cols + self.kv_head * head_dim;
        let k = View::rows(&self.x.k.data()[kv_start..], kv_cols);
        let v = View::rows(&self.x.v.data()[kv_start..], kv_cols);
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            for first in (0..self.len).step_by(QUERIES) {
                let rows = QUERIES.min(self.len - first);
                // What the last of them sees.
                let n_keys = first + rows;
                let q_start = (self.start + first) * q_cols + head * head_dim;
                let q = View::rows(&self.x.q.data()[q_start..], q_cols);
                let d_out = View::rows(&self.x.d_out.data()[q_start..], q_cols);
                let Scratch { p, d_s, gemm } = &mut *scratch;
                let (p, d_s) = (p.floats(rows * n_keys), d_s.floats(rows * n_keys));
                let mut add = |shape: [usize; 3], scale: f32, left: View<'_>, right: &dyn Right, out: Out<'_>| {
                    let [rows, cols, depth] = shape;
                    let product = Product { rows, cols, depth, scale, left, right };
                    gemm::add_here(self.cpu.instructions, &product, out, gemm);
                };
                fn whole(data: &mut [f32], stride: usize) -> Out<'_> {
                    data.fill(0.0);
                    Out { data: SharedMut::new(data), start: 0, stride }
                }
                add([rows, n_keys, head_dim], scale, q, &k.transposed(), whole(p, n_keys));
                add([rows, n_keys, head_dim], 1.0, d_out, &v.transposed(), whole(d_s, n_keys));
                for row in 0..rows {
                    let visible = first + row + 1;
                    let (p, d_s) = (&mut p[row * n_keys..][..n_keys], &mut d_s[row * n_keys..][..n_keys]);
                    let at = q_start + row * q_cols;
                    let (out, d_out) = (&self.x.out.data()[at..][..head_dim], &self.x.d_out.data()[at..][..head_dim]);
                    let d = out.iter().zip(d_out).map(|(out, d)| out * d).sum();
                    let (hidden, hidden_d_s) = (p.split_at_mut(visible), d_s.split_at_mut(visible));
                    self.cpu.instructions.run(Scores { p: hidden.0, d_s: hidden_d_s.0, d });
                    hidden.1.fill(0.0);
                    hidden_d_s.1.fill(0.0);
                }
                let (p, d_s) = (View::rows(p, n_keys), View::rows(d_s, n_keys));
                let of_keys = |data| Out { data, start: kv_start, stride: kv_cols };
                add([n_keys, head_dim, rows], 1.0, p.transposed(), &d_out, of_keys(d_v));
                add([n_keys, head_dim, rows], scale, d_s.transposed(), &q, of_keys(d_k));
                add([rows, head_dim, n_keys], scale, d_s, &k, Out { data: d_q, start: q_start, stride: q_cols });
            }
        }
    }
}

/// Turns a query's scores into probabilities, and the gradients of these into those of the scores.
struct Scores<'a> {
    p: &'a mut [f32],
    d_s: &'a mut [f32],
    /// `Σ d_out · out`, which is `Σ P · d_P`.
    d: f32,
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scores { p, d_s, d } = self;
        let largest = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let whole = p.len() / S::LANES * S::LANES;
        let mut sums = s.splat_f32(0.0);
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: a whole vector is left; so below, where d_s is as long.
            unsafe {
                let e = s.exp(s.sub_f32(s.load_f32(p.as_ptr().add(i)), s.splat_f32(largest)));
                s.store_f32(e, p.as_mut_ptr().add(i));
                sums = s.add_f32(sums, e);
            }
        }
        let mut total = s.sum(sums);
        for p in &mut p[whole..] {
            *p = (*p - largest).exp();
            total += *p;
        }
        let scale = 1.0 / total;
        assert_eq!(p.len(), d_s.len());
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: see above.
            unsafe {
                let probability = s.mul(s.load_f32(p.as_ptr().add(i)), s.splat_f32(scale));
                s.store_f32(probability, p.as_mut_ptr().add(i));
                let at = d_s.as_mut_ptr().add(i);
                s.store_f32(s.mul(probability, s.sub_f32(s.load_f32(at), s.splat_f32(d))), at);
            }
        }
        for (p, d_s) in p[whole..].iter_mut().zip(&mut d_s[whole..]) {
            *p *= scale;
            *d_s = *p * (*d_s - d);
        }
    }
}
