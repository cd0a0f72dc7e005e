//! Float weights (F32, F16, BF16, FP8), and any format without a kernel of its own: f32 throughout.
//!
//! A product is a vector of partial sums over columns, column `c` in lane `c % LANES`, added up at the end; columns at
//! the edges that are no whole vector are added last. Columns are taken by stretches, so that what four rows and all
//! tokens need of a stretch stays in the nearest cache; from stretch to stretch the partial sums are kept in memory.
//!
//! With few tokens the weights are used as they stream by; a float needs one instruction to unpack wherever it is. With
//! many, a stretch of the rows is decoded once and then meets all tokens.

use super::Tile;
use crate::aligned::Aligned;
use crate::matrix::Activations;
use crate::pool::Pool;
use crate::share::SharedMut;
use crate::simd::{Kernel, Simd};
use puna_format::Format;
use std::ops::Range;

/// Rows that meet a vector of activations together.
const ROWS: usize = 4;

/// Columns of a stretch, whole vectors and whole blocks of any format.
const STRETCH: usize = 256;

/// Rows of which a stretch is decoded together: half of a first-level cache.
const DECODED_ROWS: usize = 16;

/// Tokens that meet decoded rows before the next stretch: their sums stay in the second-level cache.
const DECODED_TOKENS: usize = 192;

/// Vectors of a turn of the innermost loop: with fewer, its bookkeeping takes slots that products need.
const UNROLL: usize = 4;

/// Up to so many tokens weights are used as they stream by.
const STREAMED_TOKENS: usize = 8;

/// Bytes of a stream from a weight to those that are fetched while it is used.
const AHEAD: usize = 512;

/// Activations by stretches of columns, `[stretch][token][column]`: those that meet lie together.
pub(super) struct Stretches<'a> {
    values: &'a [f32],
    n_tokens: usize,
    cols: usize,
}

impl<'a> Stretches<'a> {
    /// A copy in `scratch`, unless there is one token, which has this order.
    pub fn new(pool: &Pool, x: &'a Activations, scratch: &'a mut Aligned) -> Stretches<'a> {
        let (n_tokens, cols) = (x.rows, x.cols);
        if n_tokens == 1 {
            return Stretches { values: x.data(), n_tokens, cols };
        }
        let values = scratch.floats(n_tokens * cols);
        let shared = SharedMut::new(values);
        pool.run(cols.div_ceil(STRETCH), &|i| {
            let cols = i * STRETCH..cols.min((i + 1) * STRETCH);
            // SAFETY: each task has a stretch of its own.
            let out = unsafe { shared.slice(cols.start * n_tokens, cols.len() * n_tokens) };
            for (token, out) in out.chunks_exact_mut(cols.len()).enumerate() {
                out.copy_from_slice(&x.row(token)[cols.clone()]);
            }
        });
        Stretches { values, n_tokens, cols }
    }

    /// Tokens in all.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The values of a token from column `col` to the end of its stretch, at least. Those of the next token are
    /// [`Self::stride`] further on.
    #[inline(always)]
    fn get(&self, token: usize, col: usize) -> &[f32] {
        let start = col / STRETCH * STRETCH;
        &self.values[start * self.n_tokens + token * self.stride(col) + col - start..]
    }

    /// Columns of the stretch that column `col` is in.
    #[inline(always)]
    fn stride(&self, col: usize) -> usize {
        STRETCH.min(self.cols - col / STRETCH * STRETCH)
    }
}

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

/// Tokens that meet [`ROWS`] rows at once: the sums, each token's vector and a row's fill the registers.
const fn tokens_at_once<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 6 } else { 3 }
}

/// One tile's products.
pub(super) struct Product<'a, 'o> {
    pub format: Format,
    pub tile: &'a Tile<'a, 'o>,
    pub scratch: &'a mut Scratch,
}

/// Memory of a tile's products.
#[derive(Default)]
pub(super) struct Scratch {
    /// A stretch of some rows.
    decoded: Aligned,
    /// Partial sums, a vector for each row of each token.
    sums: Aligned,
}

impl Kernel for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { format, tile, scratch } = self;
        let few = tile.x.n_tokens() <= STREAMED_TOKENS;
        match format {
            Format::F32 if few => streamed::<S, F32>(s, format, tile, scratch),
            Format::F16 if few => streamed::<S, F16>(s, format, tile, scratch),
            Format::BF16 if few => streamed::<S, Bf16>(s, format, tile, scratch),
            // Too dear to unpack more than once.
            Format::F8E4M3 if tile.x.n_tokens() <= const { tokens_at_once::<S>() } => {
                streamed::<S, F8E4M3>(s, format, tile, scratch)
            }
            _ => decoded(s, format, tile, scratch),
        }
    }
}

/// Columns of a segment that are whole vectors.
#[inline(always)]
fn whole<S: Simd>(cols: &Range<usize>) -> Range<usize> {
    let start = cols.start.next_multiple_of(S::LANES).min(cols.end);
    start..(cols.end / S::LANES * S::LANES).max(start)
}

/// The same by stretches.
#[inline(always)]
fn pieces<S: Simd>(cols: &Range<usize>, stretch: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { mut start, end } = whole::<S>(cols);
    std::iter::from_fn(move || {
        let piece = start..end.min((start / stretch + 1) * stretch);
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The weights of [`ROWS`] rows from a column on.
struct Rows {
    at: [*const u8; ROWS],
    /// Whether they stream from memory, rather than lie in a cache.
    streams: bool,
}

/// Weights are used as they stream by: the tile's rows as [`ROWS`] streams, each of consecutive rows. Rows next to each
/// other would be streams that end with each row.
#[inline(always)]
fn streamed<S: Simd, L: Load>(s: S, format: Format, tile: &Tile<'_, '_>, scratch: &mut Scratch) {
    let cols = &tile.segment.cols;
    // One token has no other to meet the weights of a stretch while they are near.
    let stretch = if tile.x.n_tokens() == 1 { cols.end.max(1) } else { STRETCH };
    let stream_rows = tile.n_rows.div_ceil(ROWS);
    for first in 0..stream_rows {
        let rows: [usize; ROWS] = std::array::from_fn(|r| first + r * stream_rows);
        // Behind the last row it is read again.
        let weights = rows.map(|row| tile.segment.row(tile.row0 + row.min(tile.n_rows - 1)));
        let sums = scratch.sums.floats(tile.x.n_tokens() * ROWS * S::LANES);
        sums.fill(0.0);
        for piece in pieces::<S>(cols, stretch) {
            let offset = (piece.start - cols.start) * L::BYTES;
            let at = weights.map(|row| row[offset..][..piece.len() * L::BYTES].as_ptr());
            let weights = Rows { at, streams: true };
            let mut token = 0;
            while token < tile.x.n_tokens() {
                // SAFETY: the rows have the piece's columns.
                token += unsafe {
                    let sums = &mut sums[token * ROWS * S::LANES..];
                    products::<S, L>(s, &weights, tile.x, token..tile.x.n_tokens(), &piece, sums, ROWS)
                };
            }
        }
        let rows = rows.into_iter().take_while(|row| *row < tile.n_rows);
        put(s, format, tile, rows, 0..tile.x.n_tokens(), sums, ROWS);
    }
}

/// A stretch of the rows is decoded once and then meets many tokens.
#[inline(always)]
fn decoded<S: Simd>(s: S, format: Format, tile: &Tile<'_, '_>, scratch: &mut Scratch) {
    let cols = &tile.segment.cols;
    for row0 in (0..tile.n_rows).step_by(DECODED_ROWS) {
        let n_rows = (tile.n_rows - row0).min(DECODED_ROWS);
        for token0 in (0..tile.x.n_tokens()).step_by(DECODED_TOKENS) {
            let tokens = token0..tile.x.n_tokens().min(token0 + DECODED_TOKENS);
            let sums = scratch.sums.floats(tokens.len() * DECODED_ROWS * S::LANES);
            sums.fill(0.0);
            for piece in pieces::<S>(cols, STRETCH) {
                // Rows past n_rows hold old values, whose products are dropped.
                let weights = scratch.decoded.floats(DECODED_ROWS * piece.len());
                for (row, out) in weights.chunks_exact_mut(piece.len()).take(n_rows).enumerate() {
                    let row = tile.segment.row(tile.row0 + row0 + row);
                    decode(s, format, row, piece.start - cols.start, out);
                }
                let mut token = tokens.start;
                while token < tokens.end {
                    let mut done = 0;
                    for row in (0..n_rows).step_by(ROWS) {
                        // The next tokens are fetched meanwhile, a part of them with each group of rows.
                        let part = const { tokens_at_once::<S>() } * piece.len() / (DECODED_ROWS / ROWS);
                        let next = const { tokens_at_once::<S>() } * piece.len() + row / ROWS * part;
                        let next = tile.x.get(token, piece.start).as_ptr().wrapping_add(next);
                        for line in (0..part).step_by(16) {
                            s.prefetch(next.wrapping_add(line).cast());
                        }
                        let mut rows = Rows { at: [std::ptr::null(); ROWS], streams: false };
                        for r in 0..ROWS {
                            rows.at[r] = weights[(row + r) * piece.len()..].as_ptr().cast();
                        }
                        let sums = &mut sums[((token - tokens.start) * DECODED_ROWS + row) * S::LANES..];
                        // SAFETY: the rows have the piece's columns.
                        done = unsafe {
                            products::<S, F32>(s, &rows, tile.x, token..tokens.end, &piece, sums, DECODED_ROWS)
                        };
                    }
                    token += done;
                }
            }
            put(s, format, tile, row0..row0 + n_rows, tokens, sums, DECODED_ROWS);
        }
    }
}

/// The weights of a row from its column `start` on.
#[inline(always)]
fn decode<S: Simd>(s: S, format: Format, row: &[u8], start: usize, out: &mut [f32]) {
    /// Whole vectors, and the rest one by one.
    #[inline(always)]
    fn load<S: Simd, L: Load>(s: S, format: Format, bytes: &[u8], out: &mut [f32]) {
        assert!(bytes.len() >= out.len() * L::BYTES);
        let whole = out.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: a whole vector is left of both.
            unsafe { s.store_f32(L::load(s, bytes.as_ptr().add(i * L::BYTES)), out.as_mut_ptr().add(i)) };
        }
        format.decode(&bytes[whole * L::BYTES..], &mut out[whole..]);
    }
    let offset = |cols| format.row_bytes(cols).expect("whole blocks");
    let bytes = &row[offset(start)..offset(start + out.len())];
    match format {
        Format::F32 => load::<S, F32>(s, format, bytes, out),
        Format::F16 => load::<S, F16>(s, format, bytes, out),
        Format::BF16 => load::<S, Bf16>(s, format, bytes, out),
        Format::F8E4M3 => load::<S, F8E4M3>(s, format, bytes, out),
        _ => format.decode(bytes, out),
    }
}

/// Decodes the weights of a row from its column `start` on; of a block format whole blocks.
pub(crate) struct Decode<'a> {
    pub format: Format,
    pub row: &'a [u8],
    pub start: usize,
    pub out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        decode(s, self.format, self.row, self.start, self.out);
    }
}

/// Adds to the partial sums of the first of some tokens, and says of how many.
///
/// # Safety
/// See [`product`].
#[inline(always)]
unsafe fn products<S: Simd, L: Load>(
    s: S,
    rows: &Rows,
    x: &Stretches<'_>,
    tokens: Range<usize>,
    cols: &Range<usize>,
    sums: &mut [f32],
    row_stride: usize,
) -> usize {
    let n_tokens = tokens.len().min(const { tokens_at_once::<S>() });
    let stride = x.stride(cols.start);
    assert!(sums.len() >= ((n_tokens - 1) * row_stride + ROWS) * S::LANES);
    let x = x.get(tokens.start, cols.start);
    assert!(x.len() >= (n_tokens - 1) * stride + cols.len());
    let (x, n, sums) = (x.as_ptr(), cols.len(), sums.as_mut_ptr());
    // SAFETY: the caller's promise, and the assertions.
    unsafe {
        match n_tokens {
            6 if const { tokens_at_once::<S>() >= 6 } => product::<S, L, 6>(s, rows, x, stride, n, sums, row_stride),
            5 if const { tokens_at_once::<S>() >= 6 } => product::<S, L, 5>(s, rows, x, stride, n, sums, row_stride),
            4 if const { tokens_at_once::<S>() >= 6 } => product::<S, L, 4>(s, rows, x, stride, n, sums, row_stride),
            3 => product::<S, L, 3>(s, rows, x, stride, n, sums, row_stride),
            2 => product::<S, L, 2>(s, rows, x, stride, n, sums, row_stride),
            _ => product::<S, L, 1>(s, rows, x, stride, n, sums, row_stride),
        }
    }
    n_tokens
}

/// Adds the products of [`ROWS`] rows and `C` tokens, over `n` columns, to their partial sums.
///
/// # Safety
/// There are as many weights in each row, as many activations in each token, `stride` apart, and sums of [`ROWS`] rows in
/// each token, `row_stride` vectors apart.
#[inline(always)]
unsafe fn product<S: Simd, L: Load, const C: usize>(
    s: S,
    rows: &Rows,
    x: *const f32,
    stride: usize,
    n: usize,
    sums: *mut f32,
    row_stride: usize,
) {
    // SAFETY: vectors within these bounds.
    unsafe {
        let mut vectors = [[s.splat_f32(0.0); C]; ROWS];
        for r in 0..ROWS {
            for c in 0..C {
                vectors[r][c] = s.load_f32(sums.add((c * row_stride + r) * S::LANES));
            }
        }
        let mut i = 0;
        while i + UNROLL * S::LANES <= n {
            if rows.streams {
                for r in 0..ROWS {
                    for line in (0..UNROLL * S::LANES * L::BYTES).step_by(64) {
                        s.prefetch(rows.at[r].wrapping_add(i * L::BYTES + line + AHEAD));
                    }
                }
            }
            for u in 0..UNROLL {
                step::<S, L, C>(s, &rows.at, x, stride, i + u * S::LANES, &mut vectors);
            }
            i += UNROLL * S::LANES;
        }
        while i < n {
            step::<S, L, C>(s, &rows.at, x, stride, i, &mut vectors);
            i += S::LANES;
        }
        for r in 0..ROWS {
            for c in 0..C {
                s.store_f32(vectors[r][c], sums.add((c * row_stride + r) * S::LANES));
            }
        }
    }
}

/// The products of a vector of columns, from `i` on.
///
/// # Safety
/// See [`product`].
#[inline(always)]
unsafe fn step<S: Simd, L: Load, const C: usize>(
    s: S,
    w: &[*const u8; ROWS],
    x: *const f32,
    stride: usize,
    i: usize,
    sums: &mut [[S::F; C]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut activations = [s.splat_f32(0.0); C];
        for c in 0..C {
            activations[c] = s.load_f32(x.add(c * stride + i));
        }
        for r in 0..ROWS {
            let weights = L::load(s, w[r].add(i * L::BYTES));
            for c in 0..C {
                sums[r][c] = s.fma(weights, activations[c], sums[r][c]);
            }
        }
    }
}

/// Adds up partial sums, `[tokens][row_stride]` vectors, and the columns outside of whole vectors. The first sums of a token
/// are of these rows.
#[inline(always)]
fn put<S: Simd>(
    s: S,
    format: Format,
    tile: &Tile<'_, '_>,
    rows: impl Iterator<Item = usize>,
    tokens: Range<usize>,
    sums: &[f32],
    row_stride: usize,
) {
    let cols = &tile.segment.cols;
    let whole = whole::<S>(cols);
    for (slot, row) in rows.enumerate() {
        let edges = [cols.start..whole.start, whole.end..cols.end];
        let mut weights = [[0f32; 16]; 2];
        for side in 0..2 {
            let edge = &edges[side];
            if !edge.is_empty() {
                let offset = |cols| format.row_bytes(cols).expect("whole blocks");
                let bytes = offset(edge.start - cols.start)..offset(edge.end - cols.start);
                format.decode(&tile.segment.row(tile.row0 + row)[bytes], &mut weights[side][..edge.len()]);
            }
        }
        for token in tokens.clone() {
            let sums = &sums[((token - tokens.start) * row_stride + slot) * S::LANES..][..S::LANES];
            // SAFETY: that is a whole vector.
            let mut total = s.sum(unsafe { s.load_f32(sums.as_ptr()) });
            for side in 0..2 {
                for i in 0..edges[side].len() {
                    total += weights[side][i] * tile.x.get(token, edges[side].start)[i];
                }
            }
            tile.put(token, row, total);
        }
    }
}
