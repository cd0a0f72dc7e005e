//! Pieces that the AVX2 kernels share.

use std::arch::x86_64::*;

/// The sum of eight lanes, always in the same order.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn sum8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// The largest of eight lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn max8(v: __m256) -> f32 {
    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
}

/// `e^x` of eight lanes, to about 1 ulp; 0 or close to it below -87, infinity never (inputs are clamped at 88).
///
/// `e^x = 2^n · e^r` with `n = round(x / ln 2)` and `|r| ≤ ln 2 / 2`; `e^r` by its Taylor series to the seventh order,
/// whose error there is under 6e-9 of the value.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn exp8(x: __m256) -> __m256 {
    // The operand order hands a NaN through.
    let x = _mm256_max_ps(_mm256_set1_ps(-87.3), _mm256_min_ps(_mm256_set1_ps(88.0), x));
    let n = _mm256_round_ps(
        _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC,
    );
    // ln 2 in two pieces, the first with few enough bits that n times it is exact.
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(355.0 / 512.0), x);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
    let mut p = _mm256_set1_ps(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    _mm256_mul_ps(p, _mm256_castsi256_ps(power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Avx2;

    #[test]
    fn exp_is_exact_to_a_few_ulps() {
        if Avx2::detect().is_none() {
            return eprintln!("skipped: no AVX2");
        }
        let mut out = [0f32; 8];
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            // SAFETY: AVX2 was detected; eight values fit.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), exp8(_mm256_set1_ps(x))) };
            let exact = f64::from(x).exp();
            assert!((f64::from(out[3]) / exact - 1.0).abs() < 3e-7, "e^{x}: {} for {exact}", out[3]);
        }
    }
}
