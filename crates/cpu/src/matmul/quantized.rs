//! Block-quantized weights with 8-bit activations, with AVX2.
//!
//! The dot product of 32 weights with 32 activations is exact in integers; its eight partial sums are then scaled and
//! added to a vector of eight f32 sums, group by group along the row. The kernels are generic over the formats'
//! [`Groups`], which say how 32 weights are unpacked.

use super::Tile;
use crate::capability::Avx2;
use crate::groups::{self, Group, Groups};
use crate::quantize::ActBlock;
use crate::simd::sum8;
use puna_format::Format;
use std::arch::x86_64::*;

/// Bytes from a weight to those that are fetched while it is used: what memory delivers in its latency, some 100 ns, to
/// one core, a stream of two.
const AHEAD: usize = 4096;

/// Groups between two requests: 256 weights are some cache lines in any format.
const STRETCH: usize = 8;

/// Tokens that meet two rows at once. With a fourth, and signs to handle, the sums no longer stay in sixteen registers: a
/// quarter slower; without the signs a tenth faster.
const fn tokens_at_once<G: Groups>() -> usize {
    if G::HAS_MIN { 4 } else { 3 }
}

/// Rows unpacked at once for a batch.
const ROWS: usize = 16;

/// A [`Group`] in memory; halves instead of whole vectors of factors.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
struct Unpacked {
    q: [i8; 32],
    scale: [f32; 2],
    min: [f32; 2],
}

pub(super) fn tile(avx2: Avx2, format: Format, tile: &Tile<'_, '_, ActBlock>) {
    let n_groups = tile.segment.cols.len() / 32;
    assert!(tile.n_tokens == 0 || tile.x.len() >= (tile.n_tokens - 1) * tile.x_stride + n_groups);
    groups::with!(format, G => {
        // SAFETY: the token proves the instructions, the assertion the inputs; rows hold whole blocks.
        unsafe { if avx2.vnni() { with_vnni::<G>(tile) } else { without_vnni::<G>(tile) } }
    }, else unreachable!("{format} has no groups"));
}

/// # Safety
/// AVX2, FMA, F16C and AVX-VNNI exist, and `tile.x` has the segment's groups of all tokens.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn with_vnni<G: Groups>(tile: &Tile<'_, '_, ActBlock>) {
    // SAFETY: the caller's promise.
    unsafe { if tile.n_tokens == 1 { one_token::<G, Vnni>(tile) } else { many_tokens::<G, Vnni>(tile) } }
}

/// # Safety
/// AVX2, FMA and F16C exist, and `tile.x` has the segment's groups of all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn without_vnni<G: Groups>(tile: &Tile<'_, '_, ActBlock>) {
    // SAFETY: the caller's promise.
    unsafe { if tile.n_tokens == 1 { one_token::<G, Pairs>(tile) } else { many_tokens::<G, Pairs>(tile) } }
}

/// How bytes are multiplied and added by fours. Exact, so all ways agree in every bit.
///
/// Like all below, `dot` is always inlined and carries no `#[target_feature]`: it becomes part of the two functions above.
trait Dot {
    /// `sums[i] + Σ u[4i..4i + 4] · s[4i..4i + 4]`, `u` unsigned and at most 128, `s` signed and at least −127.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn dot(sums: __m256i, u: __m256i, s: __m256i) -> __m256i;
}

/// AVX2: by pairs, then by fours.
struct Pairs;

impl Dot for Pairs {
    #[inline(always)]
    unsafe fn dot(sums: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            // Pairs add up to at most 2 · 128 · 127 < 2¹⁵: no saturation.
            let pairs = _mm256_maddubs_epi16(u, s);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

/// AVX-VNNI: at once.
struct Vnni;

impl Dot for Vnni {
    #[inline(always)]
    unsafe fn dot(sums: __m256i, u: __m256i, s: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sums, u, s) }
    }
}

/// Adds one group's product to the sums. The only place where products are formed, so all paths agree in every bit.
/// `offset` is subtracted from every code.
///
/// # Safety
/// AVX2 and FMA exist, and what `D` needs.
#[inline(always)]
unsafe fn accumulate<G: Groups, D: Dot>(sums: __m256, group: Group, offset: i8, x: &ActBlock) -> __m256 {
    // SAFETY: the caller vouches for the instructions; a block has 32 bytes of q and of minus_fours.
    unsafe {
        let q = _mm256_loadu_si256(x.q.as_ptr().cast());
        let d = _mm256_set1_ps(x.d);
        // Bytes times bytes wants one side unsigned.
        let products = if !G::HAS_MIN && offset == 0 {
            let magnitudes = _mm256_sign_epi8(group.q, group.q);
            D::dot(_mm256_setzero_si256(), magnitudes, _mm256_sign_epi8(q, group.q))
        } else {
            let minus_fours = _mm256_loadu_si256(x.minus_fours.as_ptr().cast());
            let start = match offset {
                0 => _mm256_setzero_si256(),
                _ => _mm256_mullo_epi32(minus_fours, _mm256_set1_epi32(offset.into())),
            };
            D::dot(start, group.q, q)
        };
        let sums = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products), _mm256_mul_ps(group.scale, d), sums);
        if G::HAS_MIN {
            // One lane of each half carries the half's sum of activations.
            let halves = _mm256_set_m128(_mm_set_ss(x.sums[1]), _mm_set_ss(x.sums[0]));
            _mm256_fnmadd_ps(group.min, halves, sums)
        } else {
            sums
        }
    }
}

/// Has memory bring `n_bytes` of two rows from byte `from` on, which may lie behind their ends. The processor by itself
/// follows neither two streams nor their jumps well.
#[inline(always)]
fn request(rows: [&[u8]; 2], from: usize, n_bytes: usize) {
    for line in (0..n_bytes).step_by(64) {
        for row in rows {
            // SAFETY: every x86-64 processor has the instruction, and it may be given any address.
            unsafe { _mm_prefetch(row.as_ptr().wrapping_add(from + line).cast(), _MM_HINT_T0) };
        }
    }
}

/// Weights are unpacked in registers as they stream by, two rows at a time.
///
/// # Safety
/// AVX2, FMA, F16C and what `D` needs exist, and `tile.x` has the segment's groups.
#[inline(always)]
unsafe fn one_token<G: Groups, D: Dot>(tile: &Tile<'_, '_, ActBlock>) {
    let info = G::FORMAT.info();
    let n_blocks = tile.segment.cols.len() / info.block_elems;
    let x = &tile.x[..n_blocks * G::PER_BLOCK];
    let stretch_bytes = STRETCH / G::PER_BLOCK * info.block_bytes;
    let mut row = 0;
    while row < tile.n_rows {
        let n_rows = (tile.n_rows - row).min(2);
        let rows: [&[u8]; 2] = std::array::from_fn(|r| tile.segment.row(tile.row0 + row + r.min(n_rows - 1)));
        if row == 0 {
            request(rows, 0, AHEAD);
        }
        // SAFETY: AVX exists.
        let mut sums = unsafe { [_mm256_setzero_ps(); 2] };
        for (stretch, x) in x.chunks(STRETCH).enumerate() {
            let offset = stretch * stretch_bytes;
            // At the end of a row its stream goes on with the row after next.
            let jump = if offset + AHEAD < rows[0].len() { 0 } else { rows[0].len() };
            request(rows, offset + AHEAD + jump, stretch_bytes);
            for (block, x) in x.chunks_exact(G::PER_BLOCK).enumerate() {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    // SAFETY: a row holds n_blocks blocks; x has PER_BLOCK groups and so the index exists.
                    unsafe {
                        let weights = row.as_ptr().add(offset + block * info.block_bytes);
                        G::unpack(weights, |i, group| {
                            *sum = accumulate::<G, D>(*sum, group, G::OFFSET, x.get_unchecked(i));
                        });
                    }
                }
            }
        }
        for r in 0..n_rows {
            // SAFETY: AVX2 exists.
            tile.put(0, row + r, unsafe { sum8(sums[r]) });
        }
        row += n_rows;
    }
}

/// Puts the products of the first `n_rows` of two rows with `C` tokens in their places.
fn put<const C: usize>(
    tile: &Tile<'_, '_, ActBlock>,
    token: usize,
    row: usize,
    n_rows: usize,
    products: [[f32; C]; 2],
) {
    for (r, products) in products[..n_rows].iter().enumerate() {
        for (c, product) in products.iter().enumerate() {
            tile.put(token + c, row + r, *product);
        }
    }
}

/// Rows are unpacked to bytes once and then meet all tokens.
///
/// # Safety
/// As [`one_token`], for all of the tile's tokens.
#[inline(always)]
unsafe fn many_tokens<G: Groups, D: Dot>(tile: &Tile<'_, '_, ActBlock>) {
    let info = G::FORMAT.info();
    let n_blocks = tile.segment.cols.len() / info.block_elems;
    let n_groups = n_blocks * G::PER_BLOCK;
    let mut weights = vec![Unpacked::default(); ROWS * n_groups];
    for row0 in (0..tile.n_rows).step_by(ROWS) {
        let n_rows = (tile.n_rows - row0).min(ROWS);
        for row in 0..n_rows {
            let bytes = tile.segment.row(tile.row0 + row0 + row);
            for block in 0..n_blocks {
                // SAFETY: the row holds n_blocks blocks, and `weights` the groups of ROWS rows.
                unsafe {
                    let out = weights.as_mut_ptr().add(row * n_groups + block * G::PER_BLOCK);
                    G::unpack(bytes.as_ptr().add(block * info.block_bytes), |i, group| {
                        let out = &mut *out.add(i);
                        // Many tokens share the subtraction.
                        let q = _mm256_sub_epi8(group.q, _mm256_set1_epi8(G::OFFSET));
                        _mm256_storeu_si256(out.q.as_mut_ptr().cast(), q);
                        out.scale = halves(group.scale);
                        out.min = halves(group.min);
                    });
                }
            }
        }
        let mut token = 0;
        while token < tile.n_tokens {
            let n_tokens = (tile.n_tokens - token).min(tokens_at_once::<G>());
            for row in (0..n_rows).step_by(2) {
                // SAFETY: `weights` has ROWS rows (one past n_rows holds old values, whose products are dropped) and
                // the tokens exist.
                unsafe {
                    let w = weights.as_ptr().add(row * n_groups);
                    let x = tile.x.as_ptr().add(token * tile.x_stride);
                    let n_rows = (n_rows - row).min(2);
                    match n_tokens {
                        4 => put(tile, token, row0 + row, n_rows, product::<G, D, 4>(n_groups, w, x, tile.x_stride)),
                        3 => put(tile, token, row0 + row, n_rows, product::<G, D, 3>(n_groups, w, x, tile.x_stride)),
                        2 => put(tile, token, row0 + row, n_rows, product::<G, D, 2>(n_groups, w, x, tile.x_stride)),
                        _ => put(tile, token, row0 + row, n_rows, product::<G, D, 1>(n_groups, w, x, tile.x_stride)),
                    }
                }
            }
            token += n_tokens;
        }
    }
}

/// Lane 0 and lane 4.
///
/// # Safety
/// AVX exists.
#[inline(always)]
unsafe fn halves(v: __m256) -> [f32; 2] {
    // SAFETY: the caller vouches for the instructions.
    unsafe { [_mm256_cvtss_f32(v), _mm_cvtss_f32(_mm256_extractf128_ps(v, 1))] }
}

/// Two rows by `C` tokens, at most [`tokens_at_once`]: `w` has the rows, `x` the tokens, `x_stride` apart, all of `n_groups` groups.
///
/// # Safety
/// AVX2, FMA, F16C and what `D` needs exist, and so do the groups.
#[inline(always)]
unsafe fn product<G: Groups, D: Dot, const C: usize>(
    n_groups: usize,
    w: *const Unpacked,
    x: *const ActBlock,
    x_stride: usize,
) -> [[f32; C]; 2] {
    // SAFETY: the caller's promises; group g of both rows and of the C tokens exists.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); C]; 2];
        for g in 0..n_groups {
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = &*w.add(r * n_groups + g);
                let group = Group {
                    q: _mm256_loadu_si256(w.q.as_ptr().cast()),
                    scale: _mm256_set_m128(_mm_set1_ps(w.scale[1]), _mm_set1_ps(w.scale[0])),
                    min: _mm256_set_m128(_mm_set1_ps(w.min[1]), _mm_set1_ps(w.min[0])),
                };
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = accumulate::<G, D>(*sum, group, 0, &*x.add(c * x_stride + g));
                }
            }
        }
        sums.map(|row| row.map(|sums| sum8(sums)))
    }
}
