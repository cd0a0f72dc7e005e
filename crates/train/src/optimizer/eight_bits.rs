//! Numbers in 8 bits, by blocks: each block has the largest magnitude as its scale, and codes that are dense near zero and
//! near one alike (dynamic tree quantization: Dettmers et al. 2022, arXiv 2110.02861).
//!
//! A code is a fraction behind a run of zeros: `k` zeros say a power of ten, `10^-k`, and the bits that are left divide its
//! decade evenly. So a small moment keeps its magnitude beside a large one.

use rayon::prelude::*;
use std::io::{self, Read, Write};
use std::sync::LazyLock;

/// Values of a block.
pub const BLOCK: usize = 256;

/// Values of the codes, ascending.
type Codes = [f32; 256];

/// Fractions of decades: with `bits` bits in all, decade `k` below the first has `2^(bits - k)` of them, each in the middle
/// of its part; and zero and one. Ascending, `2^(bits + 1) + 1` in all.
fn magnitudes(bits: u32) -> Vec<f32> {
    let mut values = vec![0.0, 1.0];
    for k in 0..=bits {
        let n = 1 << (bits - k);
        let decade = 10f64.powi(-(k as i32));
        // From a tenth to the whole of the decade.
        values.extend((0..n).map(|i| (decade * (0.1 + 0.9 * (i as f64 + 0.5) / n as f64)) as f32));
    }
    values.sort_by(f32::total_cmp);
    values
}

/// Zero, one, and 2^7 − 1 = 127 magnitudes of each sign; the least of the negative ones is left out to make 256.
static SIGNED: LazyLock<Codes> = LazyLock::new(|| {
    let positive = magnitudes(6);
    let negative = positive.iter().skip(2).rev().map(|v| -v);
    codes(negative.chain(positive.iter().copied()).collect())
});

/// Zero, one, and 2^8 − 1 magnitudes; the least is left out.
static UNSIGNED: LazyLock<Codes> = LazyLock::new(|| {
    let mut values = magnitudes(7);
    values.remove(1);
    codes(values)
});

fn codes(values: Vec<f32>) -> Codes {
    values.try_into().unwrap_or_else(|_| unreachable!("as many as there are codes"))
}

/// The code whose value is nearest.
fn nearest(codes: &Codes, value: f32) -> u8 {
    let above = codes.partition_point(|code| *code < value).min(255);
    let below = above.saturating_sub(1);
    if value - codes[below] < codes[above] - value { below as u8 } else { above as u8 }
}

/// Numbers in 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    signed: bool,
    /// One a number.
    codes: Vec<u8>,
    /// One a block.
    scales: Vec<f32>,
}

/// Some blocks.
pub(super) struct Blocks<'a> {
    table: &'static Codes,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Quantized {
    fn table(&self) -> &'static Codes {
        if self.signed { &SIGNED } else { &UNSIGNED }
    }

    /// `n` zeros, of numbers that may be negative or not.
    pub fn zeros(signed: bool, n: usize) -> Quantized {
        let mut zeros = Quantized { signed, codes: vec![0; n], scales: vec![0.0; n.div_ceil(BLOCK)] };
        let zero = nearest(zeros.table(), 0.0);
        zeros.codes.fill(zero);
        zeros
    }

    /// Writes codes and scales.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.codes)?;
        out.write_all(bytemuck::cast_slice(&self.scales))
    }

    /// Reads as many as there are.
    pub(super) fn read(&mut self, input: &mut dyn Read) -> io::Result<()> {
        input.read_exact(&mut self.codes)?;
        input.read_exact(bytemuck::cast_slice_mut(&mut self.scales))
    }

    /// Pieces of `n` numbers, whole blocks.
    pub(super) fn par_chunks_mut(&mut self, n: usize) -> impl IndexedParallelIterator<Item = Blocks<'_>> {
        let table = self.table();
        let pieces = self.codes.par_chunks_mut(n).zip(self.scales.par_chunks_mut(n / BLOCK));
        pieces.map(move |(codes, scales)| Blocks { table, codes, scales })
    }
}

impl Blocks<'_> {
    /// The numbers of a block.
    pub fn decode(&self, block: usize, out: &mut [f32]) {
        let scale = self.scales[block];
        let codes = &self.codes[block * BLOCK..];
        out.iter_mut().zip(codes).for_each(|(out, code)| *out = scale * self.table[*code as usize]);
    }

    /// Sets them.
    pub fn encode(&mut self, block: usize, values: &[f32]) {
        let scale = values.iter().fold(0f32, |max, v| max.max(v.abs()));
        self.scales[block] = scale;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let codes = &mut self.codes[block * BLOCK..];
        codes.iter_mut().zip(values).for_each(|(code, v)| *code = nearest(self.table, v * inverse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_their_own() {
        for codes in [&*SIGNED, &*UNSIGNED] {
            assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "ascending");
            assert!(codes.contains(&0.0) && codes.contains(&1.0));
            for (i, code) in codes.iter().enumerate() {
                assert_eq!(nearest(codes, *code) as usize, i);
            }
        }
        assert_eq!(SIGNED[0], -1.0);
    }

    /// Within the first two decades the code is off by a few percent at most.
    #[test]
    fn small_numbers_keep_their_magnitude() {
        for i in 0..1000 {
            let value = 10f32.powf(-2.0 * i as f32 / 1000.0);
            for (codes, error) in [(&*SIGNED, 0.15), (&*UNSIGNED, 0.08)] {
                let found = codes[nearest(codes, value) as usize];
                assert!((found - value).abs() <= error * value, "{value}: {found}");
            }
        }
    }
}
