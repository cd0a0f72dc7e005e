//! Block-quantized weights with 8-bit activations.
//!
//! The product of a group of weights with a group of activations is exact in integers, each row in a lane of its own; it
//! is scaled and added to the row's f32 sum, group by group along the row. That is one function in one order, so a
//! token's products have the same bits however many tokens there are. They have the same bits with AVX2, AVX-VNNI and
//! AVX-512, too, but for the signed codes of `Q8_0` and `IQ4`, which only the latter two make unsigned.
//!
//! With few tokens, weights are unpacked in registers as they stream by, and what bounds the product is reading them.
//! With many, some columns of the panel at a time are unpacked once, so few that they stay in the first-level cache while
//! all tokens pass.

use crate::blocks::{At, Blocks, offset};
use crate::panel::ROWS;
use crate::simd::{Kernel, Simd};
use crate::tokens::{Group, Tokens};
use std::hint::black_box;
use std::marker::PhantomData;

/// Thirty-twos that are unpacked at a time for many tokens: whole blocks of every format.
const STRETCH: usize = 16;

/// Panels that are read side by side where reading bounds the product: memory gives one core more as some streams than as
/// one, and more yet only if they are fetched less far ahead.
pub(super) const STREAMS: usize = 3;

/// Bytes from a weight to those of its stream that are fetched while it is used. All streams together are what memory
/// delivers to one core in its latency.
const AHEAD: usize = 768;

/// Tokens up to which blocks are unpacked in registers.
const FEW: usize = 4;

/// How many panels of weights meet so many tokens together.
pub(super) fn streams(n_tokens: usize) -> usize {
    if n_tokens <= FEW { STREAMS } else { 1 }
}

/// The width of the token panels for so many tokens.
pub(super) struct Width(pub usize);

impl Kernel for Width {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        // Tokens of zeros fill the last panel up.
        match self.0 {
            0 | 1 => 1,
            2..=FEW => FEW,
            5..=8 if S::TOKENS > 8 => 8,
            _ => S::TOKENS,
        }
    }
}

/// The products of some panels of weights with all tokens.
pub(super) struct Product<'a, B, P> {
    /// The panels, whole: one, or some where there are few tokens.
    pub weights: &'a [&'a [u8]],
    /// Tokens, in panels as [`Width`] says.
    pub x: &'a Tokens,
    /// Takes the products of a panel with one token.
    pub put: P,
    /// Kept from product to product: fresh memory costs more than unpacking to it.
    pub scratch: &'a mut Scratch,
    pub blocks: PhantomData<B>,
}

/// A value of each row, in a cache line: vectors that straddled two would be twice the work to store and to load.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Lanes<T>([T; ROWS]);

/// Memory that products work in.
#[derive(Default)]
pub(super) struct Scratch {
    /// Some columns of a panel, unpacked: `[thirty-two][word][row]`.
    codes: Vec<Lanes<u32>>,
    /// Their factors: `[group][row]`, scale and minimum.
    factors: Vec<[Lanes<f32>; 2]>,
    /// `[token][row]`
    sums: Vec<Lanes<f32>>,
}

impl<B: Blocks, P: Fn(usize, usize, &[f32; ROWS])> Kernel for Product<'_, B, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product { weights, x, put, scratch, .. } = self;
        let n_blocks = x.n_groups() / B::PER_BLOCK;
        assert!(weights.iter().all(|panel| panel.len() == n_blocks * block_bytes::<B>()), "the bytes of a panel");
        let n_tokens = x.n_panels() * x.width();
        scratch.sums.clear();
        scratch.sums.resize(weights.len() * n_tokens, Lanes::default());
        // SAFETY: the panel and the tokens have as many groups; there is a sum for each token.
        unsafe {
            match const { ROWS / S::LANES } {
                1 => products::<S, B, 1>(s, weights, x, scratch),
                2 => products::<S, B, 2>(s, weights, x, scratch),
                4 => products::<S, B, 4>(s, weights, x, scratch),
                _ => unreachable!("4, 8 or 16 lanes"),
            }
        }
        for (panel, sums) in scratch.sums.chunks_exact(n_tokens).enumerate() {
            for (token, sums) in sums[..x.n_tokens()].iter().enumerate() {
                put(panel, token, &sums.0);
            }
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

/// Bytes of a panel's block: factors, then the codes of all thirty-twos.
const fn block_bytes<B: Blocks>() -> usize {
    ROWS * (B::CODES + B::PER_BLOCK * B::STRIDE)
}

/// The products, with a panel's rows in `V` vectors.
///
/// # Safety
/// The panels of tokens have as many groups as there are in `weights`; there is a sum for each token.
#[inline(always)]
unsafe fn products<S: Simd, B: Blocks, const V: usize>(s: S, weights: &[&[u8]], x: &Tokens, scratch: &mut Scratch) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.width() {
            1 if S::UNPACKS => few::<S, B, V, 1>(s, weights, x, scratch),
            FEW if S::UNPACKS && x.n_panels() == 1 => few::<S, B, 1, FEW>(s, weights, x, scratch),
            1 => many::<S, B, V, 1>(s, weights, x, scratch),
            3 if S::TOKENS == 3 => many::<S, B, V, 3>(s, weights, x, scratch),
            4 if S::TOKENS == 4 => many::<S, B, V, 4>(s, weights, x, scratch),
            8 if S::TOKENS > 8 => many::<S, B, V, 8>(s, weights, x, scratch),
            12 if S::TOKENS == 12 => many::<S, B, V, 12>(s, weights, x, scratch),
            width => unreachable!("a kernel for {width} tokens"),
        }
    }
}

/// Sums of `C` tokens with a panel's rows in `V` vectors.
type Sums<S, const V: usize, const C: usize> = [[<S as Simd>::F; V]; C];

#[inline(always)]
fn load<S: Simd, const V: usize, const C: usize>(s: S, sums: &[Lanes<f32>], lane: usize) -> Sums<S, V, C> {
    let mut to = [[s.splat_f32(0.0); V]; C];
    for c in 0..C {
        for v in 0..V {
            // SAFETY: a slice of a vector.
            to[c][v] = unsafe { s.load_f32(sums[c].0[lane + v * S::LANES..][..S::LANES].as_ptr()) };
        }
    }
    to
}

#[inline(always)]
fn store<S: Simd, const V: usize, const C: usize>(s: S, from: Sums<S, V, C>, sums: &mut [Lanes<f32>], lane: usize) {
    for c in 0..C {
        for v in 0..V {
            // SAFETY: a slice of a vector.
            unsafe { s.store_f32(from[c][v], sums[c].0[lane + v * S::LANES..][..S::LANES].as_mut_ptr()) };
        }
    }
}

/// All products of one panel of `C` tokens; weights are unpacked in registers, `V` vectors of rows at a time.
///
/// # Safety
/// `x` is a panel of `C` tokens with as many groups as there are in each panel of weights; there is a sum for each.
#[inline(always)]
unsafe fn few<S: Simd, B: Blocks, const V: usize, const C: usize>(
    s: S,
    weights: &[&[u8]],
    x: &Tokens,
    scratch: &mut Scratch,
) {
    let Scratch { factors, sums, .. } = scratch;
    let n_groups = const { B::PER_BLOCK * 32 / B::GROUP };
    factors.resize(weights.len() * n_groups, Default::default());
    let mut x = Group::<C>::new(x.panel(0));
    let share = block_bytes::<B>() / B::PER_BLOCK;
    for start in (0..weights[0].len()).step_by(block_bytes::<B>()) {
        if const { B::PER_BLOCK > 1 } {
            for (panel, factors) in weights.iter().zip(factors.chunks_exact_mut(n_groups)) {
                let block = panel[start..][..block_bytes::<B>()].as_ptr();
                // SAFETY: the block is in memory, and these are its factors' places.
                unsafe { unpack_factors::<S, B>(s, block, factors.as_mut_ptr().cast()) };
            }
        }
        // From panel to panel with each thirty-two: memory is read faster as some streams side by side than as one.
        for i in 0..B::PER_BLOCK {
            let panels = weights.iter().zip(sums.chunks_exact_mut(C)).zip(factors.chunks_exact(n_groups));
            for ((panel, all), factors) in panels {
                let block = panel[start..][..block_bytes::<B>()].as_ptr();
                for line in (0..share).step_by(64) {
                    s.prefetch(block.wrapping_add(AHEAD + i * share + line));
                }
                for lane in (0..ROWS).step_by(V * S::LANES) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let codes = block.add(ROWS * (B::CODES + i * B::STRIDE));
                        let factors = factors.as_ptr().add(i * const { 32 / B::GROUP }).cast();
                        let weights = Encoded::<B> { block, codes, factors, lane, blocks: PhantomData };
                        let mut sums = load::<S, V, C>(s, all, lane);
                        accumulate::<S, B, _, V, C>(s, &mut sums, x.add(i), &weights);
                        store(s, sums, all, lane);
                    }
                }
            }
        }
        // SAFETY: the next group, or the end.
        x = unsafe { x.add(B::PER_BLOCK) };
    }
}

/// All products of any panels of `C` tokens.
///
/// # Safety
/// The panels have as many groups as there are in `weights`; there is a sum for each token.
#[inline(always)]
unsafe fn many<S: Simd, B: Blocks, const V: usize, const C: usize>(
    s: S,
    weights: &[&[u8]],
    x: &Tokens,
    scratch: &mut Scratch,
) {
    let Scratch { codes, factors, sums } = scratch;
    codes.resize(STRETCH * 8, Lanes::default());
    factors.resize(STRETCH * (32 / B::GROUP), Default::default());
    for (weights, sums) in weights.iter().zip(sums.chunks_exact_mut(x.n_panels() * C)) {
        let stretches = weights.chunks(STRETCH / B::PER_BLOCK * block_bytes::<B>());
        for (stretch, weights) in stretches.enumerate() {
            let n = weights.len() / block_bytes::<B>() * B::PER_BLOCK;
            // SAFETY: there is room for a stretch.
            unsafe { unpack::<S, B>(s, weights, codes, factors) };
            let next = weights.as_ptr().wrapping_add(weights.len());
            for (panel, all) in sums.chunks_exact_mut(C).enumerate() {
                // SAFETY: the panel has all groups; these are unpacked.
                unsafe {
                    let x = Group::<C>::new(x.panel(panel)).add(stretch * STRETCH);
                    let unpacked = Unpacked::<B>::new(codes, factors);
                    if panel == 0 {
                        pass::<S, B, V, C, true>(s, n, x, unpacked, all, next);
                    } else {
                        pass::<S, B, V, C, false>(s, n, x, unpacked, all, next);
                    }
                }
            }
        }
    }
}

/// One panel of tokens meets `n` thirty-twos. With `FETCH`, what is at `next` comes to the cache meanwhile: with few panels of
/// tokens, memory and arithmetic would take turns otherwise.
///
/// # Safety
/// There are as many groups of tokens, and of weights; `sums` has one for each token.
#[inline(always)]
unsafe fn pass<S: Simd, B: Blocks, const V: usize, const C: usize, const FETCH: bool>(
    s: S,
    n: usize,
    mut x: Group<C>,
    mut unpacked: Unpacked<B>,
    all: &mut [Lanes<f32>],
    next: *const u8,
) {
    let share = block_bytes::<B>() / B::PER_BLOCK;
    let mut sums = load::<S, V, C>(s, all, 0);
    for i in 0..n {
        if FETCH {
            for line in (0..share).step_by(64) {
                s.prefetch(next.wrapping_add(i * share + line));
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            accumulate::<S, B, _, V, C>(s, &mut sums, x, &unpacked);
            (x, unpacked) = (x.add(1), unpacked.next());
        }
    }
    store(s, sums, all, 0);
}

/// Unpacks whole blocks of a panel.
///
/// # Safety
/// `codes` and `factors` have room for what is in `weights`.
#[inline(always)]
unsafe fn unpack<S: Simd, B: Blocks>(s: S, weights: &[u8], codes: &mut [Lanes<u32>], factors: &mut [[Lanes<f32>; 2]]) {
    let groups = const { 32 / B::GROUP };
    let (mut codes, mut factors) = (codes.as_mut_ptr().cast::<u32>(), factors.as_mut_ptr().cast::<f32>());
    for block in weights.chunks_exact(block_bytes::<B>()) {
        // SAFETY: the caller's promise: within the buffers or right behind them.
        unsafe {
            unpack_factors::<S, B>(s, block.as_ptr(), factors);
            factors = factors.add(B::PER_BLOCK * groups * 2 * ROWS);
            for i in 0..B::PER_BLOCK {
                for lane in (0..ROWS).step_by(S::LANES) {
                    let at = At { bytes: block.as_ptr().add(ROWS * (B::CODES + i * B::STRIDE)), lane };
                    eight_times!(word => {
                        s.store(B::codes(s, at, word), codes.add(word * ROWS + lane).cast());
                    });
                }
                codes = codes.add(8 * ROWS);
            }
        }
    }
}

/// Unpacks a block's factors, `[group][scale, minimum][row]`.
///
/// # Safety
/// The block is in memory, and there is room for its factors.
#[inline(always)]
unsafe fn unpack_factors<S: Simd, B: Blocks>(s: S, block: *const u8, factors: *mut f32) {
    let groups = const { 32 / B::GROUP };
    for lane in (0..ROWS).step_by(S::LANES) {
        let at = At { bytes: block, lane };
        // SAFETY: the caller's promise.
        unsafe {
            let head = B::head(s, at);
            eight_times!(i => {
                if i < B::PER_BLOCK {
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
}

/// Thirty-two weights of a panel's rows.
trait Weights<S: Simd> {
    /// Whether the products of the words, all of one group, are loops rather than unrolled.
    const LOOPS: bool;

    /// Codes `4 · word..` of vector `v` of the rows.
    ///
    /// # Safety
    /// The weights are in memory; so below.
    unsafe fn codes(&self, s: S, word: usize, v: usize) -> S::I;

    /// Scale and minimum of a group of them.
    ///
    /// # Safety
    /// See [`Self::codes`].
    unsafe fn factors(&self, s: S, group: usize, v: usize) -> (S::F, S::F);
}

/// As the panel holds them, of the rows from `lane` on.
struct Encoded<B> {
    /// Their block.
    block: *const u8,
    codes: *const u8,
    /// Unpacked, unless the block is no longer than this.
    factors: *const f32,
    lane: usize,
    blocks: PhantomData<B>,
}

impl<S: Simd, B: Blocks> Weights<S> for Encoded<B> {
    // Which bits of a word are wanted is a constant.
    const LOOPS: bool = false;

    #[inline(always)]
    unsafe fn codes(&self, s: S, word: usize, v: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { B::codes(s, At { bytes: self.codes, lane: self.lane + v * S::LANES }, word) }
    }

    #[inline(always)]
    unsafe fn factors(&self, s: S, group: usize, v: usize) -> (S::F, S::F) {
        let lane = self.lane + v * S::LANES;
        let at = At { bytes: self.block, lane };
        // SAFETY: the caller's promise.
        unsafe {
            if const { B::PER_BLOCK == 1 } {
                return B::factors(s, at, B::head(s, at), group);
            }
            load_factors::<S, B>(s, self.factors, group, lane)
        }
    }
}

/// Scale and minimum of a group as [`unpack_factors`] stores them.
///
/// # Safety
/// They are in memory.
#[inline(always)]
unsafe fn load_factors<S: Simd, B: Blocks>(s: S, factors: *const f32, group: usize, lane: usize) -> (S::F, S::F) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = factors.add(group * 2 * ROWS + lane);
        (s.load_f32(scale), if B::HAS_MIN { s.load_f32(scale.add(ROWS)) } else { s.splat_f32(0.0) })
    }
}

/// Unpacked, as [`Scratch`] holds them.
struct Unpacked<B> {
    codes: *const u32,
    factors: *const f32,
    blocks: PhantomData<B>,
}

impl<B: Blocks> Unpacked<B> {
    /// The first.
    #[inline(always)]
    fn new(codes: &[Lanes<u32>], factors: &[[Lanes<f32>; 2]]) -> Self {
        Unpacked { codes: codes.as_ptr().cast(), factors: factors.as_ptr().cast(), blocks: PhantomData }
    }

    /// The next.
    ///
    /// # Safety
    /// It is in the scratch, or right behind.
    #[inline(always)]
    unsafe fn next(self) -> Self {
        let groups = const { 32 / B::GROUP };
        // SAFETY: the caller's promise.
        unsafe { Unpacked { codes: self.codes.add(8 * ROWS), factors: self.factors.add(groups * 2 * ROWS), ..self } }
    }
}

impl<S: Simd, B: Blocks> Weights<S> for Unpacked<B> {
    // With more registers there is room for what the compiler likes to keep; groups of sixteen make loops too short.
    const LOOPS: bool = S::REGISTERS < 32 && B::GROUP == 32;

    #[inline(always)]
    unsafe fn codes(&self, s: S, word: usize, v: usize) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { s.load(self.codes.add(word * ROWS + v * S::LANES).cast()) }
    }

    #[inline(always)]
    unsafe fn factors(&self, s: S, group: usize, v: usize) -> (S::F, S::F) {
        // SAFETY: the caller's promise.
        unsafe { load_factors::<S, B>(s, self.factors, group, v * S::LANES) }
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

/// Adds the products of thirty-two weights of a panel's rows, in `V` vectors, with `C` tokens to the sums.
///
/// # Safety
/// The weights and the activations can be read.
#[inline(always)]
unsafe fn accumulate<S: Simd, B: Blocks, W: Weights<S>, const V: usize, const C: usize>(
    s: S,
    sums: &mut Sums<S, V, C>,
    x: Group<C>,
    weights: &W,
) {
    let (group_words, run) = (const { B::GROUP / 4 }, const { run::<S, B>() });
    let mut parts = [[s.zero(); V]; C];
    let mut totals = [[s.splat(0); V]; C];
    // SAFETY: the caller's promise.
    unsafe {
        if W::LOOPS {
            // Were it known how often they run, the compiler would unroll the loops, take one token after the other, and
            // keep what it knows of the weights in memory meanwhile.
            let mut word = 0;
            if run == 1 {
                for _ in 0..black_box(8) {
                    multiply::<S, B, W, V, C>(s, &mut parts, x, weights, word);
                    widen::<S, V, C>(s, &mut totals, &mut parts, false);
                    word += 1;
                }
            } else {
                for _ in 0..8 / run {
                    for _ in 0..black_box(run / 2) {
                        multiply::<S, B, W, V, C>(s, &mut parts, x, weights, word);
                        multiply::<S, B, W, V, C>(s, &mut parts, x, weights, word + 1);
                        word += 2;
                    }
                    widen::<S, V, C>(s, &mut totals, &mut parts, false);
                }
            }
            scale::<S, B, W, V, C>(s, sums, &totals, x, weights, 0);
        } else {
            eight_times!(word => {
                multiply::<S, B, W, V, C>(s, &mut parts, x, weights, word);
                if (word + 1).is_multiple_of(run) {
                    widen::<S, V, C>(s, &mut totals, &mut parts, (word + 1 - run).is_multiple_of(group_words));
                }
                if (word + 1).is_multiple_of(group_words) {
                    scale::<S, B, W, V, C>(s, sums, &totals, x, weights, word / group_words);
                }
            });
        }
    }
}

/// The only place where products are formed: of a word of the weights, for each row and token.
///
/// # Safety
/// See [`accumulate`].
#[inline(always)]
unsafe fn multiply<S: Simd, B: Blocks, W: Weights<S>, const V: usize, const C: usize>(
    s: S,
    parts: &mut [[S::Part; V]; C],
    x: Group<C>,
    weights: &W,
    word: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut w = [s.splat(0); V];
        for v in 0..V {
            w[v] = weights.codes(s, word, v);
        }
        for c in 0..C {
            let q = x.q(s, word, c);
            for v in 0..V {
                parts[c][v] = s.dot(parts[c][v], w[v], q, B::SIGNED);
            }
        }
    }
}

/// Adds the sums of a run of words to those of their group, or sets these, and begins the next run.
#[inline(always)]
fn widen<S: Simd, const V: usize, const C: usize>(
    s: S,
    totals: &mut [[S::I; V]; C],
    parts: &mut [[S::Part; V]; C],
    set: bool,
) {
    for c in 0..C {
        for v in 0..V {
            let total = s.total(parts[c][v]);
            totals[c][v] = if set { total } else { s.add(totals[c][v], total) };
            parts[c][v] = s.zero();
        }
    }
}

/// Scales the sums of a group and adds them to those of the rows.
///
/// # Safety
/// See [`accumulate`].
#[inline(always)]
unsafe fn scale<S: Simd, B: Blocks, W: Weights<S>, const V: usize, const C: usize>(
    s: S,
    sums: &mut Sums<S, V, C>,
    totals: &[[S::I; V]; C],
    x: Group<C>,
    weights: &W,
    group: usize,
) {
    // Which sum of the activations belongs to the group.
    let half = if const { B::GROUP == 32 } { 2 } else { group };
    for v in 0..V {
        // SAFETY: the caller's promise.
        unsafe {
            let (scale, mut min) = weights.factors(s, group, v);
            for c in 0..C {
                sums[c][v] = s.fma(s.to_f32(totals[c][v]), s.mul(scale, x.scale(s, c)), sums[c][v]);
            }
            // Codes that are too large by an offset are as good as a greater minimum.
            if let Some(power) = const { offset::<S, B>() } {
                let surplus = s.splat_f32((1u32 << power) as f32);
                min = if B::HAS_MIN { s.fma(scale, surplus, min) } else { s.mul(scale, surplus) };
            }
            if B::HAS_MIN || const { offset::<S, B>().is_some() } {
                for c in 0..C {
                    sums[c][v] = s.fnma(min, x.scaled_sum(s, half, c), sums[c][v]);
                }
            }
        }
    }
}
