//! Float weights (F32, F16, BF16, FP8) and every format without a quantized kernel, with AVX2: f32 throughout.
//!
//! An output element is one vector of eight sums over columns `8i + lane`, added up at the end; the columns after the
//! last whole eight are added last.

use super::Tile;
use crate::capability::Avx2;
use crate::simd::sum8;
use puna_format::Format;
use std::arch::x86_64::*;

/// Rows decoded at once for a batch: their f32 values stay in the second-level cache while all tokens pass.
const ROWS: usize = 16;

/// Eight consecutive weights of a row as f32.
trait Load8 {
    /// Bytes of one weight.
    const BYTES: usize;
    /// # Safety
    /// AVX2, FMA and F16C exist; eight weights are readable at `weights`.
    unsafe fn load8(weights: *const u8) -> __m256;
}

struct F32;
struct F16;
struct Bf16;
struct F8E4M3;

// SAFETY (all four): eight weights are readable by the trait's contract; the instructions exist.
impl Load8 for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load8(weights: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(weights.cast()) }
    }
}

impl Load8 for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load8(weights: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())) }
    }
}

impl Load8 for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load8(weights: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(weights.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32(words, 16))
        }
    }
}

impl Load8 for F8E4M3 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load8(weights: *const u8) -> __m256 {
        // E4M3 shifted into the fields of an f16 is the value · 2⁻⁸, subnormals included, as the exponent biases
        // differ by 8. Its only special value is NaN, magnitude 0x7f.
        // SAFETY: see above.
        unsafe {
            let words = _mm_cvtepu8_epi16(_mm_loadl_epi64(weights.cast()));
            let magnitude = _mm_and_si128(words, _mm_set1_epi16(0x7f));
            let sign = _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), words), 8);
            let nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
            let half = _mm_or_si128(_mm_or_si128(sign, _mm_slli_epi16(magnitude, 7)), nan);
            _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0))
        }
    }
}

pub(super) fn tile(_: Avx2, format: Format, tile: &Tile<'_, '_, f32>) {
    let n = tile.segment.cols.len();
    assert!(tile.n_tokens == 0 || tile.x.len() >= (tile.n_tokens - 1) * tile.x_stride + n);
    // SAFETY: the token proves the instructions, the assertion the inputs; the kernels read whole rows of the segment.
    unsafe {
        match (format, tile.n_tokens) {
            (Format::F32, 1) => one_token::<F32>(tile),
            (Format::F16, 1) => one_token::<F16>(tile),
            (Format::BF16, 1) => one_token::<Bf16>(tile),
            (Format::F8E4M3, 1) => one_token::<F8E4M3>(tile),
            _ => many_tokens(format, tile),
        }
    }
}

/// Weights are used as they stream by, four rows at a time.
///
/// # Safety
/// AVX2, FMA and F16C exist, and `tile.x` has the segment's columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn one_token<L: Load8>(tile: &Tile<'_, '_, f32>) {
    let n = tile.segment.cols.len();
    let x = &tile.x[..n];
    let mut row = 0;
    while row < tile.n_rows {
        let n_rows = (tile.n_rows - row).min(4);
        // A group of fewer than four repeats its last row.
        let rows: [&[u8]; 4] = std::array::from_fn(|r| tile.segment.row(tile.row0 + row + r.min(n_rows - 1)));
        let mut sums = [_mm256_setzero_ps(); 4];
        for i in (0..n / 8 * 8).step_by(8) {
            // SAFETY: columns i..i+8 of x and of each row exist.
            unsafe {
                let x = _mm256_loadu_ps(x.as_ptr().add(i));
                for r in 0..4 {
                    let weights = rows[r].as_ptr().add(i * L::BYTES);
                    _mm_prefetch(weights.wrapping_add(1024).cast(), _MM_HINT_T0);
                    sums[r] = _mm256_fmadd_ps(L::load8(weights), x, sums[r]);
                }
            }
        }
        for r in 0..n_rows {
            let mut total = sum8(sums[r]);
            for i in n / 8 * 8..n {
                let mut last = [0u8; 32];
                last[..L::BYTES].copy_from_slice(&rows[r][i * L::BYTES..][..L::BYTES]);
                // SAFETY: the buffer has room for eight weights.
                total += _mm256_cvtss_f32(unsafe { L::load8(last.as_ptr()) }) * x[i];
            }
            tile.put(0, row + r, total);
        }
        row += n_rows;
    }
}

/// Rows are decoded to f32 once and then meet all tokens.
///
/// # Safety
/// As [`one_token`], for all of the tile's tokens.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many_tokens(format: Format, tile: &Tile<'_, '_, f32>) {
    let n = tile.segment.cols.len();
    let mut weights = vec![0f32; ROWS * n];
    for row0 in (0..tile.n_rows).step_by(ROWS) {
        let n_rows = (tile.n_rows - row0).min(ROWS);
        for row in 0..n_rows {
            let out = &mut weights[row * n..][..n];
            let bytes = tile.segment.row(tile.row0 + row0 + row);
            // SAFETY: out and bytes hold the same n weights.
            unsafe {
                match format {
                    Format::F16 => decode::<F16>(bytes, out),
                    Format::BF16 => decode::<Bf16>(bytes, out),
                    Format::F8E4M3 => decode::<F8E4M3>(bytes, out),
                    _ => format.decode(bytes, out),
                }
            }
        }
        let mut token = 0;
        while token < tile.n_tokens {
            let n_tokens = (tile.n_tokens - token).min(3);
            for row in (0..n_rows).step_by(4) {
                // SAFETY: `weights` has ROWS rows (those past n_rows hold old values, whose products are dropped) and
                // the tokens exist.
                unsafe {
                    let w = weights.as_ptr().add(row * n);
                    let x = tile.x.as_ptr().add(token * tile.x_stride);
                    match n_tokens {
                        3 => product::<3>(tile, n, w, x, row0 + row, (n_rows - row).min(4), token),
                        2 => product::<2>(tile, n, w, x, row0 + row, (n_rows - row).min(4), token),
                        _ => product::<1>(tile, n, w, x, row0 + row, (n_rows - row).min(4), token),
                    }
                }
            }
            token += n_tokens;
        }
    }
}

/// # Safety
/// AVX2, FMA and F16C exist; `bytes` holds `out.len()` weights.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode<L: Load8>(bytes: &[u8], out: &mut [f32]) {
    let n = out.len();
    assert!(bytes.len() >= n * L::BYTES);
    for i in (0..n / 8 * 8).step_by(8) {
        // SAFETY: weights i..i+8 exist on both sides.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(i), L::load8(bytes.as_ptr().add(i * L::BYTES))) };
    }
    for i in n / 8 * 8..n {
        let mut last = [0u8; 32];
        last[..L::BYTES].copy_from_slice(&bytes[i * L::BYTES..][..L::BYTES]);
        // SAFETY: the buffer has room for eight weights.
        out[i] = _mm256_cvtss_f32(unsafe { L::load8(last.as_ptr()) });
    }
}

/// Four rows by `C` tokens: with `C` = 3 the twelve sums, a token's and a row's vector fill the sixteen registers.
///
/// # Safety
/// AVX2 and FMA exist; `w` has four rows of `n`, `x` has `C` tokens of `n`, `tile.x_stride` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product<const C: usize>(
    tile: &Tile<'_, '_, f32>,
    n: usize,
    w: *const f32,
    x: *const f32,
    row: usize,
    n_rows: usize,
    token: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); C]; 4];
    let n8 = n / 8 * 8;
    for i in (0..n8).step_by(8) {
        // SAFETY: columns i..i+8 exist by the contract.
        unsafe {
            let x: [__m256; C] = std::array::from_fn(|c| _mm256_loadu_ps(x.add(c * tile.x_stride + i)));
            for r in 0..4 {
                let w = _mm256_loadu_ps(w.add(r * n + i));
                for c in 0..C {
                    sums[r][c] = _mm256_fmadd_ps(w, x[c], sums[r][c]);
                }
            }
        }
    }
    for r in 0..n_rows {
        for c in 0..C {
            let mut total = sum8(sums[r][c]);
            for i in n8..n {
                // SAFETY: column i exists by the contract.
                total += unsafe { *w.add(r * n + i) * *x.add(c * tile.x_stride + i) };
            }
            tile.put(token + c, row + r, total);
        }
    }
}
