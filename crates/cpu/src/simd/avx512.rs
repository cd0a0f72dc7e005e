//! AVX-512 with BW and VNNI: a panel's sixteen rows are one vector.
//!
//! The BF16 products of some processors are not used: they would round the activations to eight bits of precision, and
//! answers in `BF16` are promised to those of f32 arithmetic.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that AVX-512 F, BW and VNNI exist.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, where the processor has the instructions.
    pub fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
            && super::avx2::Avx2::detect().is_some();
        detected.then_some(Avx512(()))
    }
}

/// # Safety
/// The token is the proof.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Calls an intrinsic, or some.
macro_rules! avx512 {
    ($($body:tt)*) => {
        // SAFETY: `self` proves the instructions; of pointers the caller promises what can be read or written.
        unsafe { $($body)* }
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    // Twelve sums of integers and twelve of f32, weights and a product in 32 registers.
    const TOKENS: usize = 12;
    const REGISTERS: usize = 32;
    const UNPACKS: bool = true;
    const SATURATES: bool = false;
    const SIGNED_OFFSET: Option<u32> = Some(7);

    type I = __m512i;
    type F = __m512;
    type Part = __m512i;

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m512i {
        avx512!(_mm512_loadu_si512(at.cast()))
    }
    #[inline(always)]
    unsafe fn load_u16(self, at: *const u8) -> __m512i {
        avx512!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, v: __m512i, at: *mut u8) {
        avx512!(_mm512_storeu_si512(at.cast(), v))
    }
    #[inline(always)]
    fn splat(self, v: i32) -> __m512i {
        avx512!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        avx512!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn shl(self, v: __m512i, n: u32) -> __m512i {
        avx512!(_mm512_sll_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: __m512i, n: u32) -> __m512i {
        avx512!(_mm512_srl_epi32(v, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], bytes: __m512i) -> __m512i {
        avx512!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), bytes))
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        avx512!(_mm512_cvtepi32_ps(v))
    }
    #[inline(always)]
    fn to_i32(self, v: __m512) -> __m512i {
        avx512!(_mm512_cvtps_epi32(v))
    }
    #[inline(always)]
    fn bits_as_f32(self, v: __m512i) -> __m512 {
        avx512!(_mm512_castsi512_ps(v))
    }
    #[inline(always)]
    unsafe fn load_f32(self, at: *const f32) -> __m512 {
        avx512!(_mm512_loadu_ps(at))
    }
    #[inline(always)]
    unsafe fn store_f32(self, v: __m512, at: *mut f32) {
        avx512!(_mm512_storeu_ps(at, v))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> __m512 {
        avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(self, v: __m512, at: *mut u8) {
        avx512!(_mm256_storeu_si256(at.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)))
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> __m512i {
        avx512!(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast())))
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: __m512i, at: *mut u8) {
        avx512!(_mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(v)))
    }
    #[inline(always)]
    fn f16_to_f32(self, v: __m512i) -> __m512 {
        avx512!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)))
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> __m512 {
        avx512!(_mm512_set1_ps(v))
    }
    #[inline(always)]
    fn add_f32(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub_f32(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        avx512! {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), high);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        avx512!(_mm512_reduce_max_ps(v))
    }
    #[inline(always)]
    fn signed(self, bytes: __m512i) -> __m512i {
        avx512!(_mm512_xor_si512(bytes, _mm512_set1_epi8(-128)))
    }
    #[inline(always)]
    fn zero(self) -> __m512i {
        self.splat(0)
    }
    #[inline(always)]
    fn dot(self, part: __m512i, w: __m512i, x: __m512i, _: bool) -> __m512i {
        avx512!(_mm512_dpbusd_epi32(part, w, x))
    }
    #[inline(always)]
    fn total(self, part: __m512i) -> __m512i {
        part
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        avx512!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
}
