//! Float weights (F32, F16, BF16, FP8), and any format without a kernel of its own: f32 throughout.
//!
//! A product is a vector of partial sums over columns `LANES · i + lane`, added up at the end; the columns after the last
//! whole vector are added last. Rows are read as they lie: a float needs one instruction to unpack wherever it is.

use super::Tile;
use crate::simd::{Kernel, Simd};
use puna_format::Format;

/// Rows that meet a vector of activations together.
const ROWS: usize = 4;

/// Bytes of decoded weights that stay in the second-level cache while all tokens pass.
const CACHED: usize = 256 << 10;

/// Bytes of a row from a weight to those that are fetched while it is used.
const AHEAD: usize = 2048;

/// `LANES` consecutive weights of a row as f32.
trait Load {
    /// Bytes of one weight.
    const BYTES: usize;
    /// # Safety
    /// `LANES` weights can be read at `at`.
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F;
}

struct F32;
struct F16;
struct Bf16;
struct F8E4M3;

// SAFETY (all four): the weights can be read by the trait's contract.
impl Load for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        unsafe { s.load_f32(at.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        unsafe { s.load_f16(at) }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // SAFETY: see above.
        s.bits_as_f32(s.shl(unsafe { s.load_u16(at) }, 16))
    }
}

impl Load for F8E4M3 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, at: *const u8) -> S::F {
        // E4M3 shifted into the fields of an f16 is the value · 2⁻⁸, subnormals included, as the exponent biases differ
        // by 8. Its only special value is NaN, magnitude 0x7f: one more reaches the bit that makes it an f16's.
        // SAFETY: see above.
        let byte = unsafe { s.load_i8(at) };
        let magnitude = s.and(byte, s.splat(0x7f));
        let nan = s.and(s.add(magnitude, s.splat(1)), s.splat(0x80));
        let sign = s.shl(s.and(byte, s.splat(0x80)), 8);
        let half = s.or(sign, s.shl(s.or(magnitude, nan), 7));
        s.mul(s.f16_to_f32(half), s.splat_f32(256.0))
    }
}

/// One tile's products.
pub(super) struct Product<'a, 'o> {
    pub format: Format,
    pub tile: &'a Tile<'a, 'o>,
    /// Where rows are decoded to. Kept from product to product: fresh memory costs more than decoding to it.
    pub decoded: &'a mut Vec<f32>,
}

impl Kernel for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { format, tile, decoded } = self;
        let n = tile.segment.cols.len();
        assert!(tile.n_tokens == 0 || tile.x.len() >= (tile.n_tokens - 1) * tile.x_stride + n);
        // SAFETY: the assertion has seen to the activations; rows are whole.
        unsafe {
            match (format, tile.n_tokens) {
                (Format::F32, 1) => one_token::<S, F32>(s, tile),
                (Format::F16, 1) => one_token::<S, F16>(s, tile),
                (Format::BF16, 1) => one_token::<S, Bf16>(s, tile),
                (Format::F8E4M3, 1) => one_token::<S, F8E4M3>(s, tile),
                _ => many_tokens(s, format, tile, decoded),
            }
        }
    }
}

/// `LANES` weights or fewer, zeros behind, as f32.
///
/// # Safety
/// `n` weights, less than `LANES`, can be read at `at`.
#[inline(always)]
unsafe fn last<S: Simd, L: Load>(s: S, at: *const u8, n: usize) -> S::F {
    let mut bytes = [0u8; 64];
    // SAFETY: the caller's promise; the buffer has room for sixteen weights.
    unsafe {
        bytes.as_mut_ptr().copy_from_nonoverlapping(at, n * L::BYTES);
        L::load(s, bytes.as_ptr())
    }
}

/// Weights are used as they stream by.
///
/// # Safety
/// `tile.x` has the segment's columns.
#[inline(always)]
unsafe fn one_token<S: Simd, L: Load>(s: S, tile: &Tile<'_, '_>) {
    let n = tile.segment.cols.len();
    let whole = n / S::LANES * S::LANES;
    let row_bytes = n * L::BYTES;
    let step = S::LANES * L::BYTES;
    let mut row = 0;
    while row < tile.n_rows {
        let n_rows = (tile.n_rows - row).min(ROWS);
        // A group of fewer repeats its last row.
        let rows: [*const u8; ROWS] =
            std::array::from_fn(|r| tile.segment.row(tile.row0 + row + r.min(n_rows - 1)).as_ptr());
        let mut sums = [s.splat_f32(0.0); ROWS];
        for i in (0..whole).step_by(S::LANES) {
            let offset = i * L::BYTES;
            // At the end of a row its stream goes on in the next group of rows.
            let ahead = offset + AHEAD + if offset + AHEAD < row_bytes { 0 } else { (ROWS - 1) * row_bytes };
            // SAFETY: these columns of x and of each row exist.
            unsafe {
                let x = s.load_f32(tile.x.as_ptr().add(i));
                for r in 0..ROWS {
                    if offset % 64 < step {
                        s.prefetch(rows[r].wrapping_add(ahead));
                    }
                    sums[r] = s.fma(L::load(s, rows[r].add(offset)), x, sums[r]);
                }
            }
        }
        for r in 0..n_rows {
            let mut total = s.sum(sums[r]);
            if whole < n {
                let mut rest = [0f32; 16];
                // SAFETY: the weights from `whole` on are less than a vector.
                unsafe { s.store_f32(last::<S, L>(s, rows[r].add(whole * L::BYTES), n - whole), rest.as_mut_ptr()) };
                for (w, x) in rest.iter().zip(&tile.x[whole..n]) {
                    total += w * x;
                }
            }
            tile.put(0, row + r, total);
        }
        row += n_rows;
    }
}

/// Rows are decoded to f32 once and then meet all tokens.
///
/// # Safety
/// `tile.x` has the segment's columns of all tokens.
#[inline(always)]
unsafe fn many_tokens<S: Simd>(s: S, format: Format, tile: &Tile<'_, '_>, weights: &mut Vec<f32>) {
    let n = tile.segment.cols.len();
    let step = (CACHED / (4 * n.max(1)) / ROWS * ROWS).clamp(ROWS, 16);
    if weights.len() < step * n {
        weights.resize(step * n, 0.0);
    }
    for row0 in (0..tile.n_rows).step_by(step) {
        let n_rows = (tile.n_rows - row0).min(step);
        for row in 0..n_rows {
            let out = &mut weights[row * n..][..n];
            let bytes = tile.segment.row(tile.row0 + row0 + row);
            // SAFETY: out and bytes hold the same n weights.
            unsafe {
                match format {
                    Format::F16 => decode::<S, F16>(s, bytes, out),
                    Format::BF16 => decode::<S, Bf16>(s, bytes, out),
                    Format::F8E4M3 => decode::<S, F8E4M3>(s, bytes, out),
                    _ => format.decode(bytes, out),
                }
            }
        }
        let mut token = 0;
        while token < tile.n_tokens {
            let n_tokens = (tile.n_tokens - token).min(const { tokens_at_once::<S>() });
            for row in (0..n_rows).step_by(ROWS) {
                // SAFETY: `weights` has whole groups of rows (those past n_rows hold old values, whose products are
                // dropped) and the tokens exist.
                unsafe {
                    let w = weights.as_ptr().add(row * n);
                    let (row, n_rows) = (row0 + row, (n_rows - row).min(ROWS));
                    match n_tokens {
                        6 if const { tokens_at_once::<S>() } >= 6 => product::<S, 6>(s, tile, w, row, n_rows, token),
                        5 if const { tokens_at_once::<S>() } >= 6 => product::<S, 5>(s, tile, w, row, n_rows, token),
                        4 if const { tokens_at_once::<S>() } >= 6 => product::<S, 4>(s, tile, w, row, n_rows, token),
                        3 => product::<S, 3>(s, tile, w, row, n_rows, token),
                        2 => product::<S, 2>(s, tile, w, row, n_rows, token),
                        _ => product::<S, 1>(s, tile, w, row, n_rows, token),
                    }
                }
            }
            token += n_tokens;
        }
    }
}

/// Tokens that meet [`ROWS`] rows at once: with three, the sums, a token's and a row's vector fill sixteen registers.
const fn tokens_at_once<S: Simd>() -> usize {
    if S::LANES == 16 { 6 } else { 3 }
}

/// # Safety
/// `bytes` holds `out.len()` weights.
#[inline(always)]
unsafe fn decode<S: Simd, L: Load>(s: S, bytes: &[u8], out: &mut [f32]) {
    let n = out.len();
    assert!(bytes.len() >= n * L::BYTES);
    let whole = n / S::LANES * S::LANES;
    // SAFETY: the weights exist on both sides.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            s.store_f32(L::load(s, bytes.as_ptr().add(i * L::BYTES)), out.as_mut_ptr().add(i));
        }
        if whole < n {
            let mut rest = [0f32; 16];
            s.store_f32(last::<S, L>(s, bytes.as_ptr().add(whole * L::BYTES), n - whole), rest.as_mut_ptr());
            out[whole..].copy_from_slice(&rest[..n - whole]);
        }
    }
}

/// [`ROWS`] rows, of which `n_rows` are wanted, by `C` tokens.
///
/// # Safety
/// `w` has the rows, the tile has the tokens.
#[inline(always)]
unsafe fn product<S: Simd, const C: usize>(
    s: S,
    tile: &Tile<'_, '_>,
    w: *const f32,
    row: usize,
    n_rows: usize,
    token: usize,
) {
    let n = tile.segment.cols.len();
    let x = tile.x[token * tile.x_stride..].as_ptr();
    let mut sums = [[s.splat_f32(0.0); C]; ROWS];
    let whole = n / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: these columns exist by the contract.
        unsafe {
            let x: [S::F; C] = std::array::from_fn(|c| s.load_f32(x.add(c * tile.x_stride + i)));
            for r in 0..ROWS {
                let w = s.load_f32(w.add(r * n + i));
                for c in 0..C {
                    sums[r][c] = s.fma(w, x[c], sums[r][c]);
                }
            }
        }
    }
    for r in 0..n_rows {
        for c in 0..C {
            let mut total = s.sum(sums[r][c]);
            for i in whole..n {
                // SAFETY: column i exists by the contract.
                total += unsafe { *w.add(r * n + i) * *x.add(c * tile.x_stride + i) };
            }
            tile.put(token + c, row + r, total);
        }
    }
}
