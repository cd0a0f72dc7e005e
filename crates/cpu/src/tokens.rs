//! Activations as 8-bit blocks, for products with block-quantized weights: the tokens of a batch side by side, by panels.
//!
//! A panel of `C` tokens holds, for each 32 columns, twelve words of each token, the same word of all tokens side by
//! side, so that a kernel reads along one stream:
//!
//! | words | |
//! |---|---|
//! | 0..8 | 32 bytes `q`, in −127..=127: value i is about `d · q[i]` |
//! | 8 | `d`, f32: the largest magnitude / 127 |
//! | 9, 10, 11 | `d ·` the sum of `q`, f32: of the first 16, of the last 16, of all |

use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::{Instructions, Kernel, Simd};

/// Words of 32 activations.
const WORDS: usize = 12;
/// Where `d` is.
const SCALE: usize = 8;
/// Where the sums are.
const SUMS: usize = 9;

/// A batch of tokens, quantized.
pub(crate) struct Tokens {
    words: Vec<u32>,
    /// Groups of 32 columns.
    n_groups: usize,
    n_tokens: usize,
    /// Tokens of a panel. Those of the last past `n_tokens` are zeros.
    width: usize,
}

/// The `C` tokens of a panel, at a group of 32 columns.
#[derive(Clone, Copy)]
pub(crate) struct Group<const C: usize>(*const u32);

impl<const C: usize> Group<C> {
    /// The first group of a panel.
    #[inline(always)]
    pub fn new(panel: *const u32) -> Self {
        Group(panel)
    }

    /// Bytes `4 · word..` of a token, in every lane.
    ///
    /// # Safety
    /// The group is within its panel; so for all below.
    #[inline(always)]
    pub unsafe fn q<S: Simd>(self, s: S, word: usize, token: usize) -> S::I {
        // SAFETY: the caller's promise; so for all below.
        s.splat(unsafe { *self.0.add(word * C + token) }.cast_signed())
    }

    /// The scale of a token.
    ///
    /// # Safety
    /// See [`Self::q`].
    #[inline(always)]
    pub unsafe fn scale<S: Simd>(self, s: S, token: usize) -> S::F {
        // SAFETY: see above.
        s.splat_f32(f32::from_bits(unsafe { *self.0.add(SCALE * C + token) }))
    }

    /// The sum of a token's values, as far as its bytes tell: of half 0 or 1 of the group, or of all of it (2).
    ///
    /// # Safety
    /// See [`Self::q`].
    #[inline(always)]
    pub unsafe fn scaled_sum<S: Simd>(self, s: S, half: usize, token: usize) -> S::F {
        // SAFETY: see above.
        s.splat_f32(f32::from_bits(unsafe { *self.0.add((SUMS + half) * C + token) }))
    }

    /// The group `n` further on.
    ///
    /// # Safety
    /// It is within the panel, or right behind it.
    #[inline(always)]
    pub unsafe fn add(self, n: usize) -> Self {
        // SAFETY: the caller's promise.
        Group(unsafe { self.0.add(n * WORDS * C) })
    }
}

impl Tokens {
    /// Quantizes the rows of `x`, whose width is a multiple of 32, to panels of `width` tokens.
    pub fn quantize(pool: &Pool, instructions: Instructions, x: &Activations, width: usize) -> Tokens {
        assert_eq!(x.cols % 32, 0, "activations in groups of 32");
        let n_groups = x.cols / 32;
        let (n_panels, len) = (x.rows.div_ceil(width), width * n_groups * WORDS);
        let mut words = vec![0; n_panels * len];
        let shared = SharedMut::new(&mut words);
        pool.run(n_panels, &|panel| {
            // SAFETY: each task has a panel of its own.
            let words = unsafe { shared.slice(panel * len, len) };
            for (token, row) in (panel * width..x.rows).take(width).enumerate() {
                instructions.run(Quantize { row: x.row(row), words, token, width });
            }
        });
        Tokens { words, n_groups, n_tokens: x.rows, width }
    }

    /// Tokens in all.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Tokens of a panel.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Panels.
    pub fn n_panels(&self) -> usize {
        self.n_tokens.div_ceil(self.width)
    }

    /// The words of a panel, `n_groups` [groups](Group) of `C` = [`Self::width`] tokens.
    pub fn panel(&self, panel: usize) -> *const u32 {
        self.words[panel * self.width * self.n_groups * WORDS..].as_ptr()
    }

    /// Groups of 32 columns.
    pub fn n_groups(&self) -> usize {
        self.n_groups
    }
}

/// Quantizes one token's row to its place in a panel. The same bits with all instruction sets.
struct Quantize<'a> {
    row: &'a [f32],
    words: &'a mut [u32],
    token: usize,
    width: usize,
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let groups = self.words.chunks_exact_mut(WORDS * self.width);
        for (values, words) in self.row.as_chunks::<32>().0.iter().zip(groups) {
            // Magnitudes are ordered as their bits are, and NaN above all: it must reach the logits, where it is noticed.
            let max = values.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
            let max = f32::from_bits(max);
            let d = max / 127.0;
            let inverse = 127.0 / max;
            let inverse = s.splat_f32(if inverse.is_finite() { inverse } else { 0.0 });
            let (mut bytes, mut totals) = ([0u8; 32], [s.splat(0); 2]);
            for i in (0..32).step_by(S::LANES) {
                // SAFETY: a vector of values, and as many bytes.
                unsafe {
                    let q = s.to_i32(s.mul(s.load_f32(values.as_ptr().add(i)), inverse));
                    s.store_i8(q, bytes.as_mut_ptr().add(i));
                    totals[i / 16] = s.add(totals[i / 16], q);
                }
            }
            let mut put = |word: usize, value: u32| words[word * self.width + self.token] = value;
            for (word, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                put(word, u32::from_le_bytes(*four));
            }
            put(SCALE, d.to_bits());
            let (first, last) = (s.sum(s.to_f32(totals[0])), s.sum(s.to_f32(totals[1])));
            for (i, sum) in [first, last, first + last].into_iter().enumerate() {
                put(SUMS + i, (d * sum).to_bits());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_instruction_sets_agree() {
        let mut state = 1u32;
        let (rows, cols) = (5, 320);
        let values: Vec<f32> = (0..rows * cols)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 1e6 - 8.0
            })
            .collect();
        let mut x = Activations::new(rows, cols).expect("memory");
        x.set_rows(rows).copy_from_slice(&values);
        x.data_mut()[64..96].fill(0.0);
        let pool = Pool::new(2);
        let expected = Tokens::quantize(&pool, *Instructions::available().last().expect("portable"), &x, 3);
        for instructions in Instructions::available() {
            let tokens = Tokens::quantize(&pool, instructions, &x, 3);
            assert_eq!(tokens.words, expected.words, "{instructions:?}");
        }
        assert_eq!((expected.n_panels(), expected.n_tokens()), (2, 5));
        for panel in 0..2 {
            for token in 0..3 {
                for g in 0..cols / 32 {
                    let at = |word: usize| expected.words[((panel * 10 + g) * WORDS + word) * 3 + token];
                    let d = f32::from_bits(at(SCALE));
                    let q: Vec<i8> = (0..8).flat_map(|word| at(word).to_le_bytes()).map(u8::cast_signed).collect();
                    for (i, q) in q.iter().enumerate() {
                        // Half a step, and the rounding of d.
                        let value = if panel * 3 + token < rows { x.row(panel * 3 + token)[g * 32 + i] } else { 0.0 };
                        assert!((f32::from(*q) * d - value).abs() <= d * 0.5001);
                    }
                    let sum = |q: &[i8]| q.iter().map(|q| i32::from(*q)).sum::<i32>();
                    let sums = [sum(&q[..16]), sum(&q[16..]), sum(&q)];
                    for (i, sum) in sums.into_iter().enumerate() {
                        assert_eq!(f32::from_bits(at(SUMS + i)), d * sum as f32);
                    }
                }
            }
        }
    }

    #[test]
    fn nan_stays() {
        let mut x = Activations::new(1, 32).expect("memory");
        x.set_rows(1)[7] = f32::NAN;
        let tokens = Tokens::quantize(&Pool::new(1), Instructions::best(), &x, 1);
        assert!(f32::from_bits(tokens.words[SCALE]).is_nan());
    }
}
