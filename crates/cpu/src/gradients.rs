//! The operations of training: gradients, over the same matrices, threads and instructions as inference.
//!
//! Weights of any format meet gradients in f32, decoded piece by piece as they are packed for the [product](crate::gemm).

mod attention;
mod rows;

use crate::gemm::{self, Product, View, Weights};
use crate::matrix::{Activations, Matrix, Table};
use crate::{Cpu, elementwise};
use puna_backend::{Backend, Error, Gradients, Heads, MatrixSource, Values};
use puna_format::Format;
use std::borrow::Cow;
use std::sync::Arc;

impl Gradients for Cpu {
    fn trainable(&self, name: &str, rows: usize, cols: usize, values: Vec<f32>) -> Result<Matrix, Error> {
        self.matrix(MatrixSource::whole(name, Format::F32, rows, cols, Arc::new(Values(values))))
    }

    fn update(&self, w: &mut Matrix, f: &mut dyn FnMut(&mut [f32])) {
        f(w.table.values_mut().expect("a trainable matrix"));
    }

    fn table_of<'a>(&self, w: &'a Matrix) -> &'a Table {
        &w.table
    }

    fn view<'a>(&self, x: &'a Activations) -> Cow<'a, [f32]> {
        Cow::Borrowed(x.data())
    }

    fn zero(&self, rows: usize, x: &mut Activations) {
        x.set_rows(rows);
        elementwise::for_each_row(&self.pool, x, |_, x| x.fill(0.0));
    }

    fn copy(&self, x: &Activations, out: &mut Activations) {
        assert_eq!(x.cols, out.cols, "copy: columns");
        out.set_rows(x.rows);
        elementwise::for_each_row(&self.pool, out, |row, out| out.copy_from_slice(x.row(row)));
    }

    fn matmul_backward(&self, d_out: &Activations, w: &Matrix, d_x: &mut Activations) {
        let (rows, depth, cols) = (d_out.rows, w.table.rows, w.table.cols);
        assert_eq!((d_out.cols, d_x.rows, d_x.cols), (depth, rows, cols), "matmul_backward: shapes");
        let right = &Weights { instructions: self.instructions, table: &w.table };
        let left = View::rows(d_out.data(), depth);
        let product = Product { rows, cols, depth, scale: 1.0, left, right };
        gemm::add(&self.pool, self.instructions, &product, d_x.data_mut());
    }

    fn outer_products(&self, d_out: &Activations, x: &Activations, scale: f32, d_w: &mut Activations) {
        let (rows, depth, cols) = (d_out.cols, x.rows, x.cols);
        assert_eq!((d_out.rows, d_w.rows, d_w.cols), (depth, rows, cols), "outer_products: shapes");
        let left = View::rows(d_out.data(), rows).transposed();
        let product = Product { rows, cols, depth, scale, left, right: &View::rows(x.data(), cols) };
        gemm::add(&self.pool, self.instructions, &product, d_w.data_mut());
    }

    fn rms_norm_backward(
        &self,
        x: &Activations,
        weight: &Vec<f32>,
        eps: f32,
        d_out: &Activations,
        d_x: &mut Activations,
        d_weight: Option<&mut Activations>,
    ) {
        rows::rms_norm(self, x, weight, eps, d_out, d_x, d_weight);
    }

    fn attend_backward(
        &self,
        heads: Heads,
        documents: &[usize],
        q: &Activations,
        k: &Activations,
        v: &Activations,
        out: &Activations,
        d_out: &Activations,
        d_q: &mut Activations,
        d_k: &mut Activations,
        d_v: &mut Activations,
    ) {
        let gradients = [d_q, d_k, d_v];
        attention::backward(self, &attention::Inputs { heads, documents, q, k, v, out, d_out }, gradients);
    }

    fn swiglu_backward(&self, gate: &Activations, up: &Activations, d: &mut Activations, d_up: &mut Activations) {
        rows::swiglu(self, gate, up, d, d_up);
    }

    fn log_softmax_backward(
        &self,
        logits: &mut Activations,
        targets: &[u32],
        coefficients: &[f32],
        log_probabilities: &mut Vec<f32>,
    ) {
        rows::log_softmax(self, logits, targets, coefficients, log_probabilities);
    }

    fn embed_backward(&self, ids: &[u32], d_out: &Activations, d_table: &mut Activations) {
        rows::embed(self, ids, d_out, d_table);
    }

    fn dropout(&self, x: &mut Activations, rate: f32, key: u64) {
        rows::dropout(self, x, rate, key);
    }
}
