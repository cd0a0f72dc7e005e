//! AVX2 with FMA and F16C, and the same with AVX-VNNI, which multiplies and adds four bytes in one instruction.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that AVX2, FMA and F16C exist, and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl Avx2<false> {
    /// The proof, where the processor has the instructions.
    pub fn detect() -> Option<Self> {
        let detected =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        detected.then_some(Avx2(()))
    }
}

impl Avx2<true> {
    /// The proof, where the processor has the instructions.
    pub fn detect_vnni() -> Option<Self> {
        (Avx2::detect().is_some() && is_x86_feature_detected!("avxvnni")).then_some(Avx2(()))
    }
}

/// # Safety
/// The token is the proof.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(s: Avx2<false>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// # Safety
/// The token is the proof.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn run_vnni<K: Kernel>(s: Avx2<true>, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Calls an intrinsic, or some.
macro_rules! avx2 {
    ($($body:tt)*) => {
        // SAFETY: `self` proves the instructions; of pointers the caller promises what can be read or written.
        unsafe { $($body)* }
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    // Six sums of products, two vectors of weights, activations and a product in sixteen registers.
    const TOKENS: usize = 3;
    const REGISTERS: usize = 16;
    const UNPACKS: bool = true;
    const SATURATES: bool = !VNNI;
    const SIGNED_OFFSET: Option<u32> = if VNNI { Some(7) } else { None };

    type I = __m256i;
    type F = __m256;
    type Part = __m256i;

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m256i {
        avx2!(_mm256_loadu_si256(at.cast()))
    }
    #[inline(always)]
    unsafe fn load_u16(self, at: *const u8) -> __m256i {
        avx2!(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, v: __m256i, at: *mut u8) {
        avx2!(_mm256_storeu_si256(at.cast(), v))
    }
    #[inline(always)]
    fn splat(self, v: i32) -> __m256i {
        avx2!(_mm256_set1_epi32(v))
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        avx2!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn shl(self, v: __m256i, n: u32) -> __m256i {
        avx2!(_mm256_sll_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: __m256i, n: u32) -> __m256i {
        avx2!(_mm256_srl_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], bytes: __m256i) -> __m256i {
        avx2!(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), bytes))
    }
    #[inline(always)]
    fn to_f32(self, v: __m256i) -> __m256 {
        avx2!(_mm256_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn to_i32(self, v: __m256) -> __m256i {
        avx2!(_mm256_cvtps_epi32(v))
    }
    #[inline(always)]
    fn bits_as_f32(self, v: __m256i) -> __m256 {
        avx2!(_mm256_castsi256_ps(v))
    }
    #[inline(always)]
    unsafe fn load_f32(self, at: *const f32) -> __m256 {
        avx2!(_mm256_loadu_ps(at))
    }
    #[inline(always)]
    unsafe fn store_f32(self, v: __m256, at: *mut f32) {
        avx2!(_mm256_storeu_ps(at, v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(at.cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(self, v: __m256, at: *mut u8) {
        avx2!(_mm_storeu_si128(at.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)))
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> __m256i {
        avx2!(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())))
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: __m256i, at: *mut u8) {
        avx2! {
            // Within 128 bits the bytes of four lanes become one lane.
            let fours = _mm256_shuffle_epi8(v, _mm256_set1_epi32(0x0c08_0400));
            let (low, high) = (_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
            _mm_storel_epi64(at.cast(), _mm_unpacklo_epi32(low, high))
        }
    }
    #[inline(always)]
    fn f16_to_f32(self, v: __m256i) -> __m256 {
        avx2! {
            // Within 128 bits the low halves of four lanes become eight bytes.
            let packed = _mm256_packus_epi32(v, v);
            _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(packed)))
        }
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> __m256 {
        avx2!(_mm256_set1_ps(v))
    }
    #[inline(always)]
    fn add_f32(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub_f32(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        avx2! {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn max_lane(self, v: __m256) -> f32 {
        avx2! {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn signed(self, bytes: __m256i) -> __m256i {
        if VNNI { avx2!(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128))) } else { bytes }
    }
    #[inline(always)]
    fn zero(self) -> __m256i {
        self.splat(0)
    }
    #[inline(always)]
    fn dot(self, part: __m256i, w: __m256i, x: __m256i, signed: bool) -> __m256i {
        avx2! {
            if VNNI {
                _mm256_dpbusd_avx_epi32(part, w, x)
            } else if signed {
                // Bytes times bytes wants one side unsigned. At most 2 · 128 · 127 < 2¹⁵: no saturation.
                _mm256_add_epi16(part, _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)))
            } else {
                _mm256_add_epi16(part, _mm256_maddubs_epi16(w, x))
            }
        }
    }
    #[inline(always)]
    fn total(self, part: __m256i) -> __m256i {
        if VNNI { part } else { avx2!(_mm256_madd_epi16(part, _mm256_set1_epi16(1))) }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        avx2!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}
