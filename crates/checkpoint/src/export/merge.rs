//! Adapters made part of the weights: W + Σ scale·B·A.

use super::{Options, Rounded};
use crate::{
    Checkpoint, Error, Name, Tensor,
    adapter::{Adapter, LowRank},
    stream::wrong,
};
use rayon::prelude::*;
use std::path::Path;

/// Writes a model with what adapters add to it, as [`super::write`] does; what several say of a matrix adds up, each times
/// its weight.
///
/// # Errors
/// Those of [`super::write`], an adapter that does not fit the model, and one of an output matrix that is the token
/// embedding too, which would be changed with it.
pub fn write_merged(
    checkpoint: &Checkpoint,
    adapters: Vec<(Adapter, f32)>,
    out: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Rounded>, Error> {
    let config = &checkpoint.config;
    for (adapter, _) in &adapters {
        adapter.check(config).map_err(|what| wrong(out, what))?;
        if config.tied_embeddings && adapter.matrices.contains_key(&Name::Output) {
            let what = "the model's output matrix is its token embedding, and merging can't change only one of them";
            return Err(wrong(out, what.into()));
        }
    }
    let in_order = |(adapter, weight): (Adapter, f32)| (adapter.with_pairing(config.rope.pairing, config), weight);
    let adapters: Vec<(Adapter, f32)> = adapters.into_iter().map(in_order).collect();
    super::write(checkpoint, out, options, &mut |tensor| merged(tensor, &adapters), progress)
}

/// A tensor with what adapters add, whose rows are in its order; `None` where none of them does.
fn merged(tensor: &Tensor, adapters: &[(Adapter, f32)]) -> Option<Vec<f32>> {
    let matrices: Vec<(f32, &LowRank)> = adapters
        .iter()
        .filter_map(|(adapter, weight)| Some((adapter, weight, adapter.matrices.get(&tensor.name)?)))
        .map(|(adapter, weight, matrix)| (weight * adapter.scale(matrix), matrix))
        .collect();
    if matrices.is_empty() {
        return None;
    }
    let cols = tensor.cols;
    let mut values = vec![0.0; tensor.rows * cols];
    let add = |product: &mut Vec<f32>, (row, values): (usize, &mut [f32])| {
        tensor.decode_row(row, values);
        for (scale, LowRank { rank, a, b, .. }) in &matrices {
            // B·A first: its terms are of one size, and small beside W.
            product.fill(0.0);
            for (b, a) in b[row * rank..][..*rank].iter().zip(a.chunks_exact(cols)) {
                product.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
            }
            values.iter_mut().zip(&*product).for_each(|(value, product)| *value += scale * product);
        }
    };
    values.par_chunks_exact_mut(cols).enumerate().for_each_init(|| vec![0f32; cols], add);
    Some(values)
}
