//! What the encoders of block formats share: rounding, and the least-squares search for a block's scale.
//!
//! Everything is written over eight independent lanes, because the compiler may not reorder float additions by itself:
//! so the sums run in vector registers and are still the same on every machine. No layout of any format is known here.
//!
//! The searches minimise the plain squared error of the values. It is what the error of a matrix product is made of
//! when nothing is known of the activations.

use half::f16;

/// Larger magnitudes are cut to this before encoding: beyond what any block format can hold (the largest is
/// 65504·128·32 of `Q6_K`), and small enough that no sum of squares overflows.
const LIMIT: f32 = 1e9;

/// 1.5·2²³: adding it leaves an f32 no room for a fraction, so the hardware rounds to an integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The values as the encoders of block formats see them: NaN becomes 0, huge and infinite values become ±[`LIMIT`].
pub(crate) fn finite<const N: usize>(values: &[f32; N]) -> [f32; N] {
    values.map(|v| if v.is_nan() { 0.0 } else { v.clamp(-LIMIT, LIMIT) })
}

/// Rounds to the nearest integer, ties to even; for |x| < 2²².
pub(crate) fn nearest(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// Rounds to the nearest code of `low..=high`. NaN gives one of them too.
pub(crate) fn code(x: f32, low: f32, high: f32) -> i32 {
    (x.max(low).min(high) + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32
}

/// The factor that turns values into codes of step `d`; 0 where there is no such factor, so that all codes become 0.
pub(crate) fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// A scale as a block stores it: rounded to f16, but never to an infinity.
pub(crate) fn stored(d: f32) -> f16 {
    f16::from_f32(d.clamp(-65504.0, 65504.0))
}

/// The smallest and the largest of the values.
pub(crate) fn range<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; 8], [f32::NEG_INFINITY; 8]);
    for x in x.as_chunks::<8>().0 {
        for lane in 0..8 {
            low[lane] = if x[lane] < low[lane] { x[lane] } else { low[lane] };
            high[lane] = if x[lane] > high[lane] { x[lane] } else { high[lane] };
        }
    }
    (low.into_iter().fold(f32::INFINITY, f32::min), high.into_iter().fold(f32::NEG_INFINITY, f32::max))
}

/// The value of the largest magnitude, with its sign; the first of them where both signs reach it.
pub(crate) fn peak<const N: usize>(x: &[f32; N]) -> f32 {
    let (low, high) = range(x);
    match high.total_cmp(&-low) {
        std::cmp::Ordering::Greater => high,
        std::cmp::Ordering::Less => low,
        std::cmp::Ordering::Equal => x.iter().copied().find(|v| v.abs() == high).unwrap_or(0.0),
    }
}

fn sum(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The scale s of the model x ≈ s·q, q = `quantize`(x·i), that has the least squared error over the candidate
/// inverse scales i. For each candidate's codes the best s has a closed form, and it need not be 1/i.
pub(crate) fn scale<const N: usize>(
    x: &[f32; N],
    candidates: impl IntoIterator<Item = f32>,
    quantize: impl Fn(f32) -> f32,
) -> f32 {
    let (mut best, mut best_gain) = (0.0, 0.0);
    for inverse in candidates {
        let (mut xq, mut qq) = ([0f32; 8], [0f32; 8]);
        for x in x.as_chunks::<8>().0 {
            for lane in 0..8 {
                let q = quantize(x[lane] * inverse);
                xq[lane] += x[lane] * q;
                qq[lane] += q * q;
            }
        }
        let (xq, qq) = (sum(xq), sum(qq));
        // The error at s = xq/qq is Σx² − xq²/qq: the largest subtrahend wins. A NaN never does.
        let gain = xq * xq / qq;
        if gain > best_gain {
            (best, best_gain) = (xq / qq, gain);
        }
    }
    best
}

/// Candidates that [`scale_and_min`] tries, from 0.8 codes less than the range of the values to one code more.
const SPREADS: usize = 10;

/// Rounds of settling that follow. More gain nothing that can be measured.
const SETTLINGS: usize = 2;

/// Scale s ≥ 0 and minimum m ≥ 0 of the model x ≈ s·q − m with q in 0..=`q_max`, least squared error.
///
/// The search: spread the codes over a little less and a little more than the range of the values, solve for s and m
/// at each (linear least squares in closed form), keep the best, and let it settle (round with it, solve again).
pub(crate) fn scale_and_min<const N: usize>(x: &[f32; N], q_max: f32) -> (f32, f32) {
    let (low, high) = range(x);
    // m ≥ 0: zero is always within the range of the codes.
    let low = low.min(0.0);
    let width = high - low;
    if width <= 0.0 {
        return (0.0, -low);
    }
    // y = x − low keeps the sums free of a common offset.
    let y: [f32; N] = x.map(|x| x - low);
    let mut fit = Affine { y: &y, low, q_max, y_sum: 0.0, y_squares: 0.0, best: (width / q_max, low, f32::INFINITY) };
    let (mut sums, mut squares) = ([0f32; 8], [0f32; 8]);
    for y in y.as_chunks::<8>().0 {
        for lane in 0..8 {
            sums[lane] += y[lane];
            squares[lane] += y[lane] * y[lane];
        }
    }
    (fit.y_sum, fit.y_squares) = (sum(sums), sum(squares));
    for step in 0..SPREADS {
        fit.consider((q_max - 0.8 + 0.2 * step as f32) / width, 0.0);
    }
    for _ in 0..SETTLINGS {
        let (scale, offset, _) = fit.best;
        let inverse = inverse(scale);
        fit.consider(inverse, (low - offset) * inverse);
    }
    let (scale, offset, _) = fit.best;
    (scale, -offset)
}

/// A search for the best x ≈ s·q + o, o ≤ 0.
struct Affine<'a, const N: usize> {
    /// x − low
    y: &'a [f32; N],
    low: f32,
    q_max: f32,
    y_sum: f32,
    y_squares: f32,
    /// (s, o, squared error)
    best: (f32, f32, f32),
}

impl<const N: usize> Affine<'_, N> {
    /// Solves for s and o at the codes q = round(y·inverse + shift) and keeps them if they are better.
    fn consider(&mut self, inverse: f32, shift: f32) {
        let (mut q_sum, mut qq, mut yq) = ([0f32; 8], [0f32; 8], [0f32; 8]);
        for y in self.y.as_chunks::<8>().0 {
            for lane in 0..8 {
                let q = nearest((y[lane] * inverse + shift).max(0.0).min(self.q_max));
                q_sum[lane] += q;
                qq[lane] += q * q;
                yq[lane] += y[lane] * q;
            }
        }
        let (q_sum, qq, yq) = (sum(q_sum), sum(qq), sum(yq));
        let n = N as f32;
        // y ≈ s·q + b
        let mut s = (n * yq - q_sum * self.y_sum) / (n * qq - q_sum * q_sum);
        let mut b = (self.y_sum - s * q_sum) / n;
        if b + self.low > 0.0 {
            // o = b + low may not be positive: then the best is at its edge, with the s that goes with it.
            b = -self.low;
            s = (yq - b * q_sum) / qq;
        }
        let error = self.y_squares - 2.0 * (s * yq + b * self.y_sum) + s * s * qq + 2.0 * s * b * q_sum + n * b * b;
        // False for NaN (all codes equal).
        if s >= 0.0 && error < self.best.2 {
            self.best = (s, b + self.low, error);
        }
    }
}

/// Σ(x − (scale · q − min))², with the codes q in 0..=`q_max` that are nearest.
fn squared_error<const N: usize>(x: &[f32; N], scale: f32, min: f32, q_max: f32) -> f32 {
    let inverse = inverse(scale);
    let mut squares = [0f32; 8];
    for x in x.as_chunks::<8>().0 {
        for lane in 0..8 {
            let q = nearest(((x[lane] + min) * inverse).max(0.0).min(q_max));
            let error = x[lane] - (scale * q - min);
            squares[lane] += error * error;
        }
    }
    sum(squares)
}

/// The scales of a super-block of 256 values and what its blocks need for their codes.
pub(crate) struct SuperBlock<const BLOCKS: usize> {
    /// The super-block's scale.
    pub d: f16,
    /// The super-block's scale of the minima, if the format has them.
    pub dmin: f16,
    /// The integer that multiplies `d` in each block.
    pub scales: [i32; BLOCKS],
    /// The integer that multiplies `dmin` in each block.
    pub mins: [i32; BLOCKS],
}

impl<const BLOCKS: usize> SuperBlock<BLOCKS> {
    /// Fits value = d · scale · q, with `scale` in `low..=high` and the codes that `quantize` knows.
    ///
    /// `candidates` gives the inverse scales to try for a block whose value of largest magnitude is its argument.
    pub(crate) fn signed<const N: usize, I: IntoIterator<Item = f32>>(
        x: &[f32; 256],
        (low, high): (f32, f32),
        candidates: impl Fn(f32) -> I,
        quantize: impl Fn(f32) -> f32,
    ) -> Self {
        let blocks = x.as_chunks::<N>().0;
        let fitted: [f32; BLOCKS] = std::array::from_fn(|j| scale(&blocks[j], candidates(peak(&blocks[j])), &quantize));
        // The largest scale takes the end of the range that reaches further.
        let d = stored(peak(&fitted) / low);
        let inverse = inverse(d.to_f32());
        SuperBlock { d, dmin: f16::ZERO, scales: fitted.map(|s| code(s * inverse, low, high)), mins: [0; BLOCKS] }
    }

    /// Fits value = d · scale · q − dmin · min, with q in 0..=`q_max`, `scale` and `min` in 0..=`top`.
    pub(crate) fn affine<const N: usize>(x: &[f32; 256], q_max: f32, top: f32) -> Self {
        let blocks = x.as_chunks::<N>().0;
        let fitted: [(f32, f32); BLOCKS] = std::array::from_fn(|j| scale_and_min(&blocks[j], q_max));
        let largest = |values: [f32; BLOCKS]| values.into_iter().fold(0.0, f32::max);
        let (scales, mins) = (fitted.map(|fit| fit.0), fitted.map(|fit| fit.1));
        let (d, dmin) = (stored(largest(scales) / top), stored(largest(mins) / top));
        let (inverse_d, inverse_dmin) = (inverse(d.to_f32()), inverse(dmin.to_f32()));
        let (mut scales, mut mins) =
            (scales.map(|s| code(s * inverse_d, 0.0, top)), mins.map(|m| code(m * inverse_dmin, 0.0, top)));
        // Rounded apart, a scale and a min need not be the best pair: their neighbours are tried too.
        let near = |rounded: i32| (rounded - 1).max(0)..=(rounded + 1).min(top as i32);
        for (j, x) in blocks.iter().enumerate() {
            let (near_scales, near_mins) = (near(scales[j]), near(mins[j]));
            let mut least = f32::INFINITY;
            for s in near_scales {
                for m in near_mins.clone() {
                    let error = squared_error(x, d.to_f32() * s as f32, dmin.to_f32() * m as f32, q_max);
                    if error < least {
                        (least, scales[j], mins[j]) = (error, s, m);
                    }
                }
            }
        }
        SuperBlock { d, dmin, scales, mins }
    }

    /// The codes of the values in block `j`, rounded to the scale and minimum as they are stored.
    pub(crate) fn codes<const N: usize>(&self, x: &[f32; N], j: usize, low: f32, high: f32) -> [i32; N] {
        let inverse = inverse(self.d.to_f32() * self.scales[j] as f32);
        let min = self.dmin.to_f32() * self.mins[j] as f32;
        x.map(|x| code((x + min) * inverse, low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_ties_to_even_and_survives_nan() {
        assert_eq!([2.5, 3.5, -2.5, 0.49999997, -7.51].map(nearest), [2.0, 4.0, -2.0, 0.0, -8.0]);
        assert_eq!(code(1e30, -8.0, 7.0), 7);
        assert_eq!(code(-1e30, -8.0, 7.0), -8);
        assert!((-8..8).contains(&code(f32::NAN, -8.0, 7.0)));
    }

    #[test]
    fn peak_keeps_the_sign_and_takes_the_first_of_equals() {
        let mut x = [0.0; 16];
        assert_eq!(peak(&x), 0.0);
        (x[3], x[9]) = (-2.0, 2.0);
        assert_eq!(peak(&x), -2.0);
        x[11] = 2.5;
        assert_eq!(peak(&x), 2.5);
    }

    #[test]
    fn finds_a_grid_that_the_values_lie_on() {
        let x: [f32; 32] = std::array::from_fn(|i| 0.25 * (i % 16) as f32 - 1.5);
        let (s, m) = scale_and_min(&x, 15.0);
        assert!((s - 0.25).abs() < 1e-6 && (m - 1.5).abs() < 1e-5, "{s} {m}");
        let s = scale(&x.map(|x| x + 0.5), [3.0, 4.0, 5.0], |x| nearest(x).clamp(-32.0, 31.0));
        assert!((s - 0.25).abs() < 1e-6, "{s}");
    }
}
