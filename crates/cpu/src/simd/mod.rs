//! Instruction sets: one file each, behind one trait that kernels are written against once.
//!
//! A value of a type that implements [`Simd`] proves that the processor has the instructions, so that everything which
//! stays in registers is safe to call. A kernel is a [`Kernel`]; [`Instructions::run`] runs it inside a function that is
//! compiled for the instruction set. Everything on the way down is `#[inline(always)]` and becomes part of that function:
//! a call that was left standing would be right, but slow, every operation a call.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use portable::Portable;

/// Operations on vectors of [`LANES`](Simd::LANES) lanes of 32 bits: `I` holds integers or four bytes a lane, `F` f32.
///
/// Operations lane by lane give the same bits with every instruction set, but for the portable one, whose
/// [`fma`](Simd::fma) rounds twice.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector: 4, 8 or 16.
    const LANES: usize;
    /// Tokens whose sums with sixteen rows stay in registers: 3, 4 or 12.
    const TOKENS: usize;
    /// Vector registers: 16 or 32.
    const REGISTERS: usize;
    /// Whether blocks are best unpacked in registers: there are enough, and operations are instructions.
    const UNPACKS: bool;
    /// Whether [`Self::dot`] adds up in 16 bits, and may only add so much before [`Self::total`].
    const SATURATES: bool;
    /// What [`Self::signed`] adds to a code, as a power of two, if it adds anything.
    const SIGNED_OFFSET: Option<u32>;

    /// Integers, or bytes by fours.
    type I: Copy;
    /// f32.
    type F: Copy;
    /// Sums of products of bytes.
    type Part: Copy;

    /// `LANES` words.
    ///
    /// # Safety
    /// They can be read at `at`, of whatever alignment.
    unsafe fn load(self, at: *const u8) -> Self::I;
    /// `LANES` u16, each in a lane.
    ///
    /// # Safety
    /// They can be read at `at`, of whatever alignment.
    unsafe fn load_u16(self, at: *const u8) -> Self::I;
    /// # Safety
    /// `LANES` words can be written at `at`.
    unsafe fn store(self, v: Self::I, at: *mut u8);
    fn splat(self, v: i32) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub(self, a: Self::I, b: Self::I) -> Self::I;
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane shifted to the left by `n` in 0..32.
    fn shl(self, v: Self::I, n: u32) -> Self::I;
    /// Each lane shifted to the right by `n` in 0..32, zeros from the left.
    fn shr(self, v: Self::I, n: u32) -> Self::I;
    /// Each byte, in 0..16, replaced by its entry in the table.
    fn lookup(self, table: &[i8; 16], bytes: Self::I) -> Self::I;
    fn to_f32(self, v: Self::I) -> Self::F;
    /// The nearest integers; ties to even.
    fn to_i32(self, v: Self::F) -> Self::I;
    /// The same bits.
    fn bits_as_f32(self, v: Self::I) -> Self::F;

    /// # Safety
    /// `LANES` f32 can be read at `at`.
    unsafe fn load_f32(self, at: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` f32 can be written at `at`.
    unsafe fn store_f32(self, v: Self::F, at: *mut f32);
    /// `LANES` f16 as f32.
    ///
    /// # Safety
    /// They can be read at `at`, of whatever alignment.
    unsafe fn load_f16(self, at: *const u8) -> Self::F;
    /// The lanes as f16, rounded to nearest, ties to even.
    ///
    /// # Safety
    /// `LANES` f16 can be written at `at`, of whatever alignment.
    unsafe fn store_f16(self, v: Self::F, at: *mut u8);
    /// `LANES` signed bytes as integers, each in a lane.
    ///
    /// # Safety
    /// They can be read at `at`.
    unsafe fn load_i8(self, at: *const u8) -> Self::I;
    /// The lowest byte of each lane.
    ///
    /// # Safety
    /// `LANES` bytes can be written at `at`.
    unsafe fn store_i8(self, v: Self::I, at: *mut u8);
    /// f16 in the low halves of the lanes, as f32.
    fn f16_to_f32(self, v: Self::I) -> Self::F;
    fn splat_f32(self, v: f32) -> Self::F;
    fn add_f32(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub_f32(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c − a · b`.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The sum of the lanes: halves onto each other until one is left.
    fn sum(self, v: Self::F) -> f32;
    /// The largest lane.
    fn max_lane(self, v: Self::F) -> f32;

    /// Signed bytes as [`Self::dot`] takes weights, greater by 2^[`SIGNED_OFFSET`](Self::SIGNED_OFFSET) if that is some.
    fn signed(self, bytes: Self::I) -> Self::I;
    /// No products yet.
    fn zero(self) -> Self::Part;
    /// Adds to each lane the products of its four bytes: of `w`, which are 0..=127 or come from [`Self::signed`], and of
    /// `x`, which are −127..=127.
    fn dot(self, part: Self::Part, w: Self::I, x: Self::I, signed: bool) -> Self::Part;
    /// What the products add up to.
    fn total(self, part: Self::Part) -> Self::I;

    /// A hint that the line at `at`, which need not exist, will be read soon.
    fn prefetch(self, at: *const u8);

    /// `e^x`, to about 1 ulp; 0 or close to it below −87, infinity never (inputs are clamped at 88).
    ///
    /// `e^x = 2^n · e^r` with `n = round(x / ln 2)` and `|r| ≤ ln 2 / 2`; `e^r` by its Taylor series to the seventh
    /// order, whose error there is under 6e-9 of the value.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let s = self;
        // The order of the operands hands a NaN through.
        let x = s.max(
            s.splat_f32(-87.3),
            s.sub_f32(s.splat_f32(0.0), s.max(s.splat_f32(-88.0), s.sub_f32(s.splat_f32(0.0), x))),
        );
        let n = s.to_i32(s.mul(x, s.splat_f32(std::f32::consts::LOG2_E)));
        let whole = s.to_f32(n);
        // ln 2 in two pieces, the first with few enough bits that n times it is exact.
        let r = s.fnma(whole, s.splat_f32(355.0 / 512.0), x);
        let r = s.fnma(whole, s.splat_f32(-2.121_944_4e-4), r);
        let mut p = s.splat_f32(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = s.fma(p, r, s.splat_f32(c));
        }
        let power = s.shl(s.add(n, s.splat(127)), 23);
        s.mul(p, s.bits_as_f32(power))
    }
}

/// Something to compute with whatever instructions there are. `run` is to be `#[inline(always)]`.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// Computes it.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Instructions(Set);

#[derive(Clone, Copy)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Instructions {
    /// All that this processor has kernels for, the best first; the last are those of any processor.
    pub fn available() -> Vec<Instructions> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect_vnni().map(Set::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Set::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Set::Neon),
            Some(Set::Portable),
        ];
        sets.into_iter().flatten().map(Instructions).collect()
    }

    /// The best that this processor has.
    pub fn best() -> Instructions {
        Self::available()[0]
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni(_) => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "NEON",
        }
    }

    /// Runs the kernel with these instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves the instructions.
            Set::Avx2(s) => unsafe { avx2::run(s, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves the instructions.
            Set::AvxVnni(s) => unsafe { avx2::run_vnni(s, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves the instructions.
            Set::Avx512(s) => unsafe { avx512::run(s, kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the token proves the instructions.
            Set::Neon(s) => unsafe { neon::run(s, kernel) },
        }
    }
}

impl std::str::FromStr for Instructions {
    type Err = String;

    /// By [name](Instructions::name), in upper or lower case.
    fn from_str(name: &str) -> Result<Instructions, String> {
        let available = Instructions::available();
        available.iter().copied().find(|set| set.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<&str> = available.iter().map(|set| set.name()).collect();
            format!("expected {}, which this processor has", names.join(", "))
        })
    }
}

impl std::fmt::Debug for Instructions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use proptest::array::{uniform4, uniform16};
    use proptest::prelude::*;

    /// Lanes of the inputs: whole vectors of every instruction set.
    const N: usize = 16;

    /// Names of operations, with what comes of each.
    type Results<T> = Vec<(&'static str, [T; N])>;

    /// What is in the words, from the second byte on: aligned to nothing.
    fn odd_bytes(words: &[i32; N]) -> [u8; 1 + 4 * N] {
        let mut bytes = [0; 1 + 4 * N];
        for (four, word) in bytes[1..].as_chunks_mut().0.iter_mut().zip(words) {
            *four = word.to_le_bytes();
        }
        bytes
    }

    /// Every operation that gives integers.
    struct Integers<'a> {
        a: &'a [i32; N],
        b: &'a [i32; N],
        /// Bytes in −127..=127.
        q: &'a [i32; N],
        /// 0..32, and no constant to the compiler.
        n: u32,
    }

    impl Kernel for Integers<'_> {
        type Output = Results<i32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results<i32> {
            let n = self.n;
            let bytes = odd_bytes(self.a);
            let table = std::array::from_fn(|i| bytes[1 + i].cast_signed());
            let mut results = Results::new();
            for at in (0..N).step_by(S::LANES) {
                // SAFETY: a whole vector is left; so in all that follow.
                let int = |words: &[i32; N]| unsafe { s.load(words[at..].as_ptr().cast()) };
                let (a, b, q) = (int(self.a), int(self.b), int(self.q));
                let mut i = 0;
                let mut put = |name, v: S::I| {
                    if at == 0 {
                        results.push((name, [0; N]));
                    }
                    // SAFETY: see above.
                    unsafe { s.store(v, results[i].1[at..].as_mut_ptr().cast()) };
                    i += 1;
                };
                // SAFETY: see above.
                unsafe {
                    put("load", s.load(bytes[1 + 4 * at..].as_ptr()));
                    put("load_u16", s.load_u16(bytes[1 + 2 * at..].as_ptr()));
                    put("load_i8", s.load_i8(bytes[1 + at..].as_ptr()));
                }
                let mut low = [0u8; 1 + N];
                // SAFETY: room for two vectors of bytes; so many are read again.
                put("store_i8", unsafe {
                    s.store_i8(a, low[1..].as_mut_ptr());
                    s.load_i8(low[1..].as_ptr())
                });
                put("splat", s.splat(self.a[0]));
                put("and", s.and(a, b));
                put("or", s.or(a, b));
                put("sub", s.sub(a, b));
                put("add", s.add(a, b));
                put("shl", s.shl(a, n));
                put("shr", s.shr(a, n));
                put("shl by a constant", s.shl(a, 9));
                put("shr by a constant", s.shr(a, 9));
                put("shr by 0", s.shr(a, 0));
                put("lookup", s.lookup(&table, s.and(a, s.splat(0x0f0f_0f0f))));
                // Up to 2²⁴, which f32 has exactly, with halves, which are ties.
                let twice = s.sub(s.and(a, s.splat(0x01ff_ffff)), s.splat(1 << 24));
                put("to_i32", s.to_i32(s.mul(s.to_f32(twice), s.splat_f32(0.5))));

                // 16 bits have room for two products by codes up to 127, for sixteen by codes up to 15.
                put("dot", s.total(s.dot(s.zero(), s.and(a, s.splat(0x7f7f_7f7f)), q, false)));
                let mut part = s.zero();
                for shift in 0..8 {
                    part = s.dot(part, s.and(s.shr(a, 3 * shift), s.splat(0x0f0f_0f0f)), q, false);
                }
                put("dots of nibbles", s.total(part));
                let mut sum = s.total(s.dot(s.zero(), s.signed(a), q, true));
                if let Some(power) = S::SIGNED_OFFSET {
                    for byte in 0..4 {
                        // The byte with its sign: shifted up as itself, down as a number without one, less 256 if need be.
                        let byte = s.and(s.shr(q, 8 * byte), s.splat(255));
                        let byte = s.sub(byte, s.shl(s.and(byte, s.splat(128)), 1));
                        sum = s.sub(sum, s.shl(byte, power));
                    }
                }
                put("dot of signed bytes", sum);
                s.prefetch(std::ptr::null());
                s.prefetch(bytes.as_ptr());
            }
            results
        }
    }

    /// Every operation that gives floats, but for those across lanes and [`Simd::exp`].
    struct Floats<'a> {
        a: &'a [i32; N],
        x: &'a [f32; N],
        y: &'a [f32; N],
        z: &'a [f32; N],
    }

    impl Kernel for Floats<'_> {
        type Output = Results<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Results<f32> {
            let bytes = odd_bytes(self.a);
            let mut results = Results::new();
            for at in (0..N).step_by(S::LANES) {
                // SAFETY: a whole vector is left; so in all that follow.
                let float = |values: &[f32; N]| unsafe { s.load_f32(values[at..].as_ptr()) };
                // SAFETY: see above.
                let a = unsafe { s.load(self.a[at..].as_ptr().cast()) };
                let (x, y, z) = (float(self.x), float(self.y), float(self.z));
                let mut i = 0;
                let mut put = |name, v: S::F| {
                    if at == 0 {
                        results.push((name, [0.0; N]));
                    }
                    // SAFETY: see above.
                    unsafe { s.store_f32(v, results[i].1[at..].as_mut_ptr()) };
                    i += 1;
                };
                put("load_f32", x);
                // SAFETY: see above.
                put("load_f16", unsafe { s.load_f16(bytes[1 + 2 * at..].as_ptr()) });
                let mut halves = [0u8; 1 + 2 * N];
                // SAFETY: room for two vectors of halves; so many are read again.
                put("store_f16", unsafe {
                    s.store_f16(x, halves[1..].as_mut_ptr());
                    s.load_f16(halves[1..].as_ptr())
                });
                put("f16_to_f32", s.f16_to_f32(s.and(a, s.splat(0xffff))));
                put("to_f32", s.to_f32(a));
                put("bits_as_f32", s.bits_as_f32(a));
                put("splat_f32", s.splat_f32(self.x[0]));
                put("add_f32", s.add_f32(x, y));
                put("sub_f32", s.sub_f32(x, y));
                put("mul", s.mul(x, y));
                put("div", s.div(x, y));
                put("max", s.max(x, y));
                put("max of equals", s.max(s.mul(x, s.splat_f32(0.0)), s.splat_f32(0.0)));
                put("fma", s.fma(x, y, z));
                put("fnma", s.fnma(x, y, z));
            }
            results
        }
    }

    /// Sum and maximum of each vector's lanes, with the lanes.
    struct Across<'a>(&'a [f32; N]);

    impl Kernel for Across<'_> {
        type Output = Vec<(f32, f32, Vec<f32>)>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let vectors = self.0.chunks_exact(S::LANES);
            vectors
                .map(|lanes| {
                    // SAFETY: a whole vector.
                    let v = unsafe { s.load_f32(lanes.as_ptr()) };
                    (s.sum(v), s.max_lane(v), lanes.to_vec())
                })
                .collect()
        }
    }

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for lanes in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: a whole vector.
                unsafe { s.store_f32(s.exp(s.load_f32(lanes.as_ptr())), lanes.as_mut_ptr()) };
            }
        }
    }

    fn portable() -> Instructions {
        Instructions(Set::Portable)
    }

    /// The same bits, or NaN both.
    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    fn words() -> impl Strategy<Value = [i32; N]> {
        uniform16(any::<i32>())
    }

    /// Numbers of ordinary size, and whatever f32 has: infinities, NaN, subnormal numbers.
    fn floats() -> impl Strategy<Value = [f32; N]> {
        uniform16(prop_oneof![-8f32..8.0, any::<u32>().prop_map(f32::from_bits)])
    }

    proptest! {
        #[test]
        fn integers_are_those_of_any_processor(
            a in words(),
            b in words(),
            q in uniform16(uniform4(-127i8..=127).prop_map(|q| i32::from_le_bytes(q.map(i8::cast_unsigned)))),
            n in 0u32..32,
        ) {
            let expected = portable().run(Integers { a: &a, b: &b, q: &q, n });
            for set in Instructions::available() {
                for (found, expected) in set.run(Integers { a: &a, b: &b, q: &q, n }).iter().zip(&expected) {
                    prop_assert_eq!(found, expected, "{:?}", set);
                }
            }
        }

        #[test]
        fn floats_are_those_of_any_processor(a in words(), x in floats(), y in floats(), z in floats()) {
            let mut expected = portable().run(Floats { a: &a, x: &x, y: &y, z: &z });
            for set in Instructions::available().into_iter().rev() {
                for ((name, found), (_, expected)) in set.run(Floats { a: &a, x: &x, y: &y, z: &z }).iter().zip(&expected) {
                    for i in 0..N {
                        prop_assert!(
                            same(found[i], expected[i]),
                            "{set:?}: {name} of {:#x}, {}, {}, {}: {} for {}",
                            a[i], x[i], y[i], z[i], found[i], expected[i],
                        );
                    }
                }
                // All sets but the portable one, which is the first here, round once.
                for (name, expected) in &mut expected {
                    match *name {
                        "fma" => *expected = std::array::from_fn(|i| x[i].mul_add(y[i], z[i])),
                        "fnma" => *expected = std::array::from_fn(|i| (-x[i]).mul_add(y[i], z[i])),
                        _ => {}
                    }
                }
            }
        }

        #[test]
        fn lanes_are_added_by_halves(x in uniform16(-8f32..8.0)) {
            for set in Instructions::available() {
                for (sum, max, mut lanes) in set.run(Across(&x)) {
                    prop_assert_eq!(max, lanes.iter().copied().reduce(f32::max).expect("lanes"), "{:?}", set);
                    while lanes.len() > 1 {
                        let high = lanes.split_off(lanes.len() / 2);
                        lanes.iter_mut().zip(high).for_each(|(low, high)| *low += high);
                    }
                    prop_assert_eq!(sum, lanes[0], "{:?}", set);
                }
            }
        }
    }

    #[test]
    fn every_f16_is_itself() {
        let all: Vec<i32> = (0..=0xffff).collect();
        for set in Instructions::available() {
            for a in all.as_chunks::<N>().0 {
                let results = set.run(Floats { a, x: &[0.0; N], y: &[0.0; N], z: &[0.0; N] });
                let (_, found) = results.iter().find(|(name, _)| *name == "f16_to_f32").expect("in the list");
                for i in 0..N {
                    assert!(same(found[i], f16::from_bits(a[i] as u16).to_f32()), "{set:?}: {:#x}, {}", a[i], found[i]);
                }
            }
        }
    }

    #[test]
    fn exp_is_exact_to_a_few_ulps() {
        let inputs: Vec<f32> = (-8704..8800).map(|i| i as f32 / 100.0).collect();
        for set in Instructions::available() {
            let mut found = inputs.clone();
            set.run(Exp(&mut found));
            for (x, found) in inputs.iter().zip(found) {
                let exact = f64::from(*x).exp();
                assert!((f64::from(found) / exact - 1.0).abs() < 3e-7, "{set:?}: e^{x}: {found} for {exact}");
            }
            let mut ends = [f32::NEG_INFINITY, f32::MIN, -88.0, 88.0, f32::MAX, f32::INFINITY, f32::NAN, 0.0].repeat(2);
            set.run(Exp(&mut ends));
            assert!(ends[..3].iter().all(|e| (0.0..1e-37).contains(e)), "{set:?}: {ends:?}");
            assert!(ends[3..6].iter().all(|e| *e > 1e38 && e.is_finite()), "{set:?}: {ends:?}");
            assert!(ends[6].is_nan() && ends[7] == 1.0, "{set:?}: {ends:?}");
        }
    }
}
