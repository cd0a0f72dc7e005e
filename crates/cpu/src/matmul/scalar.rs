//! Any format on any processor: rows are decoded to f32 and multiplied one value at a time.

use super::Tile;
use puna_format::Format;

pub(super) fn tile(format: Format, tile: &Tile<'_, '_, f32>) {
    let n = tile.segment.cols.len();
    let mut weights = vec![0f32; n];
    for row in 0..tile.n_rows {
        format.decode(tile.segment.row(tile.row0 + row), &mut weights);
        for token in 0..tile.n_tokens {
            let x = &tile.x[token * tile.x_stride..][..n];
            // Eight sums, so that a compiler may use whatever vectors the target has.
            let mut sums = [0f32; 8];
            let (w8, w_rest) = weights.as_chunks::<8>();
            let (x8, x_rest) = x.as_chunks::<8>();
            for (w, x) in w8.iter().zip(x8) {
                for lane in 0..8 {
                    sums[lane] += w[lane] * x[lane];
                }
            }
            let rest: f32 = w_rest.iter().zip(x_rest).map(|(w, x)| w * x).sum();
            tile.put(token, row, sums.iter().sum::<f32>() + rest);
        }
    }
}
