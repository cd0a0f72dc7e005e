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
    /// Tokens whose sums with a vector of rows stay in registers: 1, 2, 4, 6, 8 or 12.
    const TOKENS: usize;
    /// Whether [`Self::dot`] adds up in 16 bits, and may only add so much before [`Self::end`].
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
    /// All bits of each byte that has the bit which `mask`, a power of two in each byte, names; zero in the others.
    fn test_bytes(self, bytes: Self::I, mask: Self::I) -> Self::I;
    /// Byte `n` (0..4) of each lane in all four bytes of the lane.
    fn spread_byte(self, v: Self::I, n: u32) -> Self::I;
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
    /// `LANES` signed bytes as integers, each in a lane.
    ///
    /// # Safety
    /// They can be read at `at`.
    unsafe fn load_i8(self, at: *const u8) -> Self::I;
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
    /// A sum that goes on from `total`.
    fn begin(self, total: Self::I) -> Self::Part;
    /// Adds to each lane the products of its four bytes: of `w`, which are 0..=127 or come from [`Self::signed`], and of
    /// `x`, which are −127..=127.
    fn dot(self, part: Self::Part, w: Self::I, x: Self::I, signed: bool) -> Self::Part;
    /// What the sum that began from `total` has become.
    fn end(self, total: Self::I, part: Self::Part) -> Self::I;

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
