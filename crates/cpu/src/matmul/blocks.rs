//! Block-quantized weights with 8-bit activations.
//!
//! A panel's codes and factors are unpacked, and then all tokens pass: the product of a group of weights with a group of
//! activations is exact in integers, each row in a lane of its own; it is scaled and added to the row's f32 sum, group by
//! group along the row. That is one function in one order, so a token's products have the same bits however many tokens
//! there are, and with every instruction set but the portable one.
//!
//! With few tokens, some columns of the panel at a time are unpacked, so little that they stay in the first-level cache,
//! and what bounds the product is reading the weights. With many, the whole panel is, and stays in the second level.

use crate::blocks::{At, Blocks, offset};
use crate::panel::ROWS;
use crate::simd::{Kernel, Simd};
use crate::tokens::{Group, Tokens};
use std::marker::PhantomData;

/// Thirty-twos that are unpacked at a time for few tokens: whole blocks of every format.
const STRETCH: usize = 8;

/// Bytes from a weight to those that are fetched while it is used: what memory delivers to one core in its latency.
const AHEAD: usize = 4096;

/// Tokens at most whose sums are kept from stretch to stretch.
const MAX_TOKENS: usize = 12;

/// The width of the token panels for so many tokens.
pub(super) struct Width(pub usize);

impl Kernel for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        let Width(n_tokens) = self;
        // The widths that there are kernels for; tokens of zeros fill the last panel up.
        [1, 2, 4, 6, 8, 12].into_iter().find(|width| *width >= n_tokens.min(S::TOKENS)).expect("at most twelve")
    }
}

/// The products of a panel of weights with all tokens.
pub(super) struct Product<'a, B, P> {
    /// The panel, whole.
    pub weights: &'a [u8],
    /// Tokens, in panels as [`Width`] says.
    pub x: &'a Tokens,
    /// Takes the products of one token.
    pub put: P,
    /// Where the panel is unpacked to. Kept from product to product: fresh memory costs more than unpacking to it.
    pub unpacked: &'a mut Unpacked,
    pub blocks: PhantomData<B>,
}

/// A value of each row, in a cache line: vectors that straddled two would be twice the work to store and to load.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Lanes<T>([T; ROWS]);

/// Some columns of a panel, unpacked.
#[derive(Default)]
pub(super) struct Unpacked {
    /// `[thirty-two][word][row]`
    codes: Vec<Lanes<u32>>,
    /// `[group][row]`, scale and minimum.
    factors: Vec<[Lanes<f32>; 2]>,
}

impl<B: Blocks, P: Fn(usize, &[f32; ROWS])> Kernel for Product<'_, B, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_groups = self.x.n_groups();
        let block_bytes = ROWS * B::FORMAT.info().block_bytes;
        let weights = self.weights;
        assert_eq!(weights.len(), n_groups / B::PER_BLOCK * block_bytes, "the bytes of a panel");
        let few = self.x.n_panels() == 1;
        let stretch = if few { STRETCH.min(n_groups) } else { n_groups };
        let unpacked = self.unpacked;
        unpacked.codes.resize(stretch * 8, Lanes::default());
        unpacked.factors.resize(stretch * (32 / B::GROUP), Default::default());
        let mut sums = [Lanes::<f32>::default(); MAX_TOKENS];
        let mut first = 0;
        while first < n_groups {
            let groups = first..n_groups.min(first + stretch);
            let bytes = first / B::PER_BLOCK * block_bytes..groups.end / B::PER_BLOCK * block_bytes;
            if few {
                for line in bytes.clone().step_by(64) {
                    s.prefetch(weights.as_ptr().wrapping_add(AHEAD + line));
                }
            }
            // SAFETY: so many groups are in `unpacked` as in these bytes.
            unsafe { unpack::<S, B>(s, &weights[bytes], unpacked) };
            for (panel, first_token) in (0..self.x.n_tokens()).step_by(self.x.width()).enumerate() {
                let (x, n) = (self.x.panel(panel), groups.len());
                // SAFETY: the panel has all groups, `unpacked` has these.
                unsafe {
                    match self.x.width() {
                        1 => pass::<S, B, 1>(s, unpacked, x, first, n, &mut sums),
                        2 => pass::<S, B, 2>(s, unpacked, x, first, n, &mut sums),
                        4 => pass::<S, B, 4>(s, unpacked, x, first, n, &mut sums),
                        6 if S::TOKENS >= 6 => pass::<S, B, 6>(s, unpacked, x, first, n, &mut sums),
                        8 if S::TOKENS >= 8 => pass::<S, B, 8>(s, unpacked, x, first, n, &mut sums),
                        12 if S::TOKENS >= 12 => pass::<S, B, 12>(s, unpacked, x, first, n, &mut sums),
                        width => unreachable!("a kernel for {width} tokens"),
                    }
                }
                if groups.end == n_groups {
                    for (token, sums) in (first_token..self.x.n_tokens()).zip(&sums[..self.x.width()]) {
                        (self.put)(token, &sums.0);
                    }
                }
            }
            first = groups.end;
        }
    }
}

/// Repeats a block with `$i` = 0, 1, … 7 in it, each a constant that folds what depends on it.
macro_rules! eight_times {
    ($i:ident => $body:block) => {
        eight_times!(@ $i, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $body:block, $($n:literal)+) => {
        $({
            let $i: usize = $n;
            $body
        })+
    };
}

/// Unpacks whole blocks of a panel.
///
/// # Safety
/// `out` has room for what is in `weights`.
#[inline(always)]
unsafe fn unpack<S: Simd, B: Blocks>(s: S, weights: &[u8], out: &mut Unpacked) {
    let block_bytes = ROWS * B::FORMAT.info().block_bytes;
    let groups = const { 32 / B::GROUP };
    let (mut codes, mut factors) = (out.codes.as_mut_ptr().cast::<u32>(), out.factors.as_mut_ptr().cast::<f32>());
    for block in weights.chunks_exact(block_bytes) {
        for lane in (0..ROWS).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let at = At { block: block.as_ptr(), lane };
                let head = B::head(s, at);
                eight_times!(i => {
                    if i < B::PER_BLOCK {
                        eight_times!(word => {
                            s.store(B::codes(s, at, i, word), codes.add((i * 8 + word) * ROWS + lane).cast());
                        });
                        for group in i * groups..(i + 1) * groups {
                            let (scale, min) = B::factors(s, at, head, group);
                            s.store_f32(scale, factors.add(group * 2 * ROWS + lane));
                            if B::HAS_MIN {
                                s.store_f32(min, factors.add((group * 2 + 1) * ROWS + lane));
                            }
                        }
                    }
                });
            }
        }
        // SAFETY: the caller's promise: within the buffers or right behind them.
        unsafe {
            codes = codes.add(B::PER_BLOCK * 8 * ROWS);
            factors = factors.add(B::PER_BLOCK * groups * 2 * ROWS);
        }
    }
}

/// Adds the products of `n` thirty-twos of the panel, beginning with its `first`, to the sums of `C` tokens; if that is
/// the first of all, to zero.
///
/// # Safety
/// `unpacked` has the thirty-twos, the panel of tokens `first` more.
#[inline(always)]
unsafe fn pass<S: Simd, B: Blocks, const C: usize>(
    s: S,
    unpacked: &Unpacked,
    x: *const u32,
    first: usize,
    n: usize,
    all: &mut [Lanes<f32>; MAX_TOKENS],
) {
    let groups = const { 32 / B::GROUP };
    for lane in (0..ROWS).step_by(S::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = Group::<C>::new(x).add(first);
            let mut codes = unpacked.codes.as_ptr().cast::<u32>().add(lane);
            let mut factors = unpacked.factors.as_ptr().cast::<f32>().add(lane);
            let mut sums: [S::F; C] = match first {
                0 => [s.splat_f32(0.0); C],
                _ => std::array::from_fn(|c| s.load_f32(all[c].0[lane..].as_ptr())),
            };
            for _ in 0..n {
                accumulate::<S, B, C>(s, &mut sums, x, codes, factors);
                x = x.add(1);
                codes = codes.add(8 * ROWS);
                factors = factors.add(groups * 2 * ROWS);
            }
            for c in 0..C {
                s.store_f32(sums[c], all[c].0[lane..].as_mut_ptr());
            }
        }
    }
}

/// Words of a group whose products [`Simd::dot`] may add up before they are widened.
const fn run<S: Simd, B: Blocks>() -> usize {
    let group = B::GROUP / 4;
    if !S::SATURATES {
        return group;
    }
    if B::SIGNED {
        return 1;
    }
    // Each adds two products.
    let depth = 32767 / (2 * 127 * B::MAX_CODE as usize);
    let mut run = 1;
    while run * 2 <= depth && run < group {
        run *= 2;
    }
    run
}

/// Adds the products of thirty-two weights of `LANES` rows with `C` tokens to the sums. The only place where products are
/// formed.
///
/// # Safety
/// Codes, factors and activations of the thirty-two can be read.
#[inline(always)]
unsafe fn accumulate<S: Simd, B: Blocks, const C: usize>(
    s: S,
    sums: &mut [S::F; C],
    x: Group<C>,
    codes: *const u32,
    factors: *const f32,
) {
    let (group_words, run) = (const { B::GROUP / 4 }, const { run::<S, B>() });
    let mut totals = [s.splat(0); C];
    let mut parts = [s.begin(s.splat(0)); C];
    eight_times!(word => {
        // Which sum of the activations belongs to the group.
        let half = if group_words == 8 { 2 } else { word / group_words };
        // SAFETY: the caller's promise.
        unsafe {
            if word.is_multiple_of(group_words) {
                for c in 0..C {
                    totals[c] = match const { offset::<S, B>() } {
                        Some(power) => s.shl(x.minus_sum(s, half, c), power),
                        None => s.splat(0),
                    };
                }
            }
            if word.is_multiple_of(run) {
                for c in 0..C {
                    parts[c] = s.begin(totals[c]);
                }
            }
            let w = s.load(codes.add(word * ROWS).cast());
            for c in 0..C {
                parts[c] = s.dot(parts[c], w, x.q(s, word, c), B::SIGNED);
            }
            if (word + 1).is_multiple_of(run) {
                for c in 0..C {
                    totals[c] = s.end(totals[c], parts[c]);
                }
            }
            if (word + 1).is_multiple_of(group_words) {
                let factors = factors.add(word / group_words * 2 * ROWS);
                let scale = s.load_f32(factors);
                for c in 0..C {
                    sums[c] = s.fma(s.to_f32(totals[c]), s.mul(scale, x.scale(s, c)), sums[c]);
                }
                if B::HAS_MIN {
                    let min = s.load_f32(factors.add(ROWS));
                    for c in 0..C {
                        sums[c] = s.fnma(min, x.scaled_sum(s, half, c), sums[c]);
                    }
                }
            }
        }
    });
}
