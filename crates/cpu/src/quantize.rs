//! Activations as 8-bit blocks, for products with block-quantized weights.

use crate::capability::Avx2;

/// 32 consecutive activations: value `i` is about `d · q[i]`.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub(crate) struct ActBlock {
    /// In -127..=127.
    pub q: [i8; 32],
    /// Minus the sum of each four of `q`: what the offset of a weight's code is multiplied with.
    pub minus_fours: [i32; 8],
    /// The scale: largest magnitude / 127.
    pub d: f32,
    /// `d · Σ q` over the first and over the last 16: what a weight's minimum is multiplied with.
    pub sums: [f32; 2],
}

/// Quantizes one row; its length is a multiple of 32.
pub(crate) fn quantize_row(row: &[f32], out: &mut [ActBlock], avx2: Option<Avx2>) {
    assert_eq!(row.len(), out.len() * 32);
    match avx2 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token proves the instructions; lengths were checked.
        Some(_) => unsafe { quantize_row_avx2(row, out) },
        _ => {
            for (values, block) in row.as_chunks::<32>().0.iter().zip(out) {
                *block = quantize(values);
            }
        }
    }
}

fn quantize(values: &[f32; 32]) -> ActBlock {
    // A NaN stays: it must reach the logits, where it is noticed.
    let max = values.iter().fold(0f32, |max, v| if v.abs() > max || v.is_nan() { v.abs() } else { max });
    let d = max / 127.0;
    let inverse = if max == 0.0 { 0.0 } else { 127.0 / max };
    let mut q = [0i8; 32];
    let mut minus_fours = [0i32; 8];
    let mut sums = [0i32; 2];
    for (i, (q, v)) in q.iter_mut().zip(values).enumerate() {
        *q = (v * inverse).round_ties_even() as i8;
        minus_fours[i / 4] -= i32::from(*q);
        sums[i / 16] += i32::from(*q);
    }
    ActBlock { q, minus_fours, d, sums: sums.map(|sum| d * sum as f32) }
}

/// The same values as [`quantize`], eight at a time.
///
/// # Safety
/// AVX2 exists and `row` has 32 values for each block of `out`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn quantize_row_avx2(row: &[f32], out: &mut [ActBlock]) {
    use std::arch::x86_64::*;
    let no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    for (values, block) in row.as_chunks::<32>().0.iter().zip(out) {
        // SAFETY: four vectors of eight values, 32 in all.
        let v: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * i)) });
        let max = _mm256_max_ps(
            _mm256_max_ps(_mm256_and_ps(v[0], no_sign), _mm256_and_ps(v[1], no_sign)),
            _mm256_max_ps(_mm256_and_ps(v[2], no_sign), _mm256_and_ps(v[3], no_sign)),
        );
        let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
        let max = _mm_max_ps(max, _mm_movehl_ps(max, max));
        let max = _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
        let inverse = _mm256_set1_ps(if max == 0.0 { 0.0 } else { 127.0 / max });
        let i: [__m256i; 4] = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
        // The packs work within 128-bit halves; the permutation puts the runs of four back in order.
        let words = [_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3])];
        let bytes = _mm256_packs_epi16(words[0], words[1]);
        let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
        // SAFETY: 32 bytes each.
        unsafe {
            _mm256_storeu_si256(block.q.as_mut_ptr().cast(), bytes);
            let minus_fours = _mm256_sub_epi32(_mm256_setzero_si256(), fours);
            _mm256_storeu_si256(block.minus_fours.as_mut_ptr().cast(), minus_fours);
        }
        let sum = |half: __m128i| {
            let half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0b01_00_11_10));
            _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0b00_00_00_01)))
        };
        block.d = max / 127.0;
        block.sums = [
            block.d * sum(_mm256_castsi256_si128(fours)) as f32,
            block.d * sum(_mm256_extracti128_si256(fours, 1)) as f32,
        ];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_scalar_agree() {
        let Some(avx2) = Avx2::detect() else { return eprintln!("skipped: no AVX2") };
        let mut state = 1u32;
        let mut row: Vec<f32> = (0..320)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 1e6 - 8.0
            })
            .collect();
        row[64..96].fill(0.0);
        let (mut a, mut b) = (vec![ActBlock::default(); 10], vec![ActBlock::default(); 10]);
        quantize_row(&row, &mut a, None);
        quantize_row(&row, &mut b, Some(avx2));
        for ((a, b), values) in a.iter().zip(&b).zip(row.chunks(32)) {
            assert_eq!((a.q, a.minus_fours, a.d, a.sums), (b.q, b.minus_fours, b.d, b.sums));
            for (q, v) in a.q.iter().zip(values) {
                // Half a step, and the rounding of d.
                assert!((f32::from(*q) * a.d - v).abs() <= a.d * 0.5001);
            }
        }
    }
}
