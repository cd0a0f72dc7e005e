//! NEON with the dot products of bytes (`sdot`), which Armv8.4 and all of Apple's processors for desktops have.
//!
//! The matrix products of bytes (`smmla`, i8mm) are not used: one multiplies eight bytes of two rows with eight of two
//! tokens, so it would want the words of a row in pairs and the sums of two tokens in one register, where [`Simd::dot`] has
//! a word and a token. It would gain nothing for one token, where memory is what bounds a product.

use super::{Kernel, Simd};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Proof that NEON and its dot products exist.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// The proof, where the processor has the instructions.
    pub fn detect() -> Option<Self> {
        let detected = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
        detected.then_some(Neon(()))
    }
}

/// # Safety
/// The token is the proof.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run<K: Kernel>(s: Neon, kernel: K) -> K::Output {
    kernel.run(s)
}

/// Adds to each lane of `sum` the products of its four signed bytes of `w` and of `x`. In std this is not yet stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: the instruction is enabled, and reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inlateout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Calls an intrinsic, or some.
macro_rules! neon {
    ($($body:tt)*) => {
        // SAFETY: `self` proves the instructions; of pointers the caller promises what can be read or written.
        unsafe { $($body)* }
    };
}

impl Simd for Neon {
    const LANES: usize = 4;
    // Sixteen sums of products, four vectors of weights, activations and a product in 32 registers.
    const TOKENS: usize = 4;
    const REGISTERS: usize = 32;
    const UNPACKS: bool = true;
    const SATURATES: bool = false;
    const SIGNED_OFFSET: Option<u32> = None;

    type I = int32x4_t;
    type F = float32x4_t;
    type Part = int32x4_t;

    // Memory is read and written by bytes where it may have any alignment.
    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> int32x4_t {
        neon!(vreinterpretq_s32_u8(vld1q_u8(at)))
    }
    #[inline(always)]
    unsafe fn load_u16(self, at: *const u8) -> int32x4_t {
        neon!(vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(at)))))
    }
    #[inline(always)]
    unsafe fn store(self, v: int32x4_t, at: *mut u8) {
        neon!(vst1q_u8(at, vreinterpretq_u8_s32(v)))
    }
    #[inline(always)]
    fn splat(self, v: i32) -> int32x4_t {
        neon!(vdupq_n_s32(v))
    }
    #[inline(always)]
    fn and(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        neon!(vandq_s32(a, b))
    }
    #[inline(always)]
    fn or(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        neon!(vorrq_s32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        neon!(vsubq_s32(a, b))
    }
    #[inline(always)]
    fn add(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        neon!(vaddq_s32(a, b))
    }
    #[inline(always)]
    fn shl(self, v: int32x4_t, n: u32) -> int32x4_t {
        neon!(vshlq_s32(v, vdupq_n_s32(n as i32)))
    }
    #[inline(always)]
    fn shr(self, v: int32x4_t, n: u32) -> int32x4_t {
        // A shift to the left by less than nothing.
        neon!(vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(v), vdupq_n_s32(-(n as i32)))))
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], bytes: int32x4_t) -> int32x4_t {
        neon!(vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_s32(bytes))))
    }
    #[inline(always)]
    fn to_f32(self, v: int32x4_t) -> float32x4_t {
        neon!(vcvtq_f32_s32(v))
    }
    #[inline(always)]
    fn to_i32(self, v: float32x4_t) -> int32x4_t {
        neon!(vcvtnq_s32_f32(v))
    }
    #[inline(always)]
    fn bits_as_f32(self, v: int32x4_t) -> float32x4_t {
        neon!(vreinterpretq_f32_s32(v))
    }
    #[inline(always)]
    unsafe fn load_f32(self, at: *const f32) -> float32x4_t {
        neon!(vreinterpretq_f32_u8(vld1q_u8(at.cast())))
    }
    #[inline(always)]
    unsafe fn store_f32(self, v: float32x4_t, at: *mut f32) {
        neon!(vst1q_u8(at.cast(), vreinterpretq_u8_f32(v)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> float32x4_t {
        neon!(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, v: float32x4_t, at: *mut u8) {
        neon!(vst1_u8(at, vreinterpret_u8_f16(vcvt_f16_f32(v))))
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> int32x4_t {
        neon! {
            let bytes = vreinterpret_s8_u32(vdup_n_u32(at.cast::<u32>().read_unaligned()));
            vmovl_s16(vget_low_s16(vmovl_s8(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: int32x4_t, at: *mut u8) {
        neon! {
            let halves = vmovn_s32(v);
            let bytes = vmovn_s16(vcombine_s16(halves, halves));
            at.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)))
        }
    }
    #[inline(always)]
    fn f16_to_f32(self, v: int32x4_t) -> float32x4_t {
        neon!(vcvt_f32_f16(vreinterpret_f16_s16(vmovn_s32(v))))
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> float32x4_t {
        neon!(vdupq_n_f32(v))
    }
    #[inline(always)]
    fn add_f32(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub_f32(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        neon!(vdivq_f32(a, b))
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // The processor's own maximum would be NaN if either is.
        neon!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        neon!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        neon!(vfmsq_f32(c, a, b))
    }
    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        neon!(vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v))))
    }
    #[inline(always)]
    fn max_lane(self, v: float32x4_t) -> f32 {
        neon!(vmaxnmvq_f32(v))
    }
    #[inline(always)]
    fn signed(self, bytes: int32x4_t) -> int32x4_t {
        bytes
    }
    #[inline(always)]
    fn zero(self) -> int32x4_t {
        self.splat(0)
    }
    #[inline(always)]
    fn dot(self, part: int32x4_t, w: int32x4_t, x: int32x4_t, _: bool) -> int32x4_t {
        neon!(sdot(part, w, x))
    }
    #[inline(always)]
    fn total(self, part: int32x4_t) -> int32x4_t {
        part
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint changes nothing and never faults.
        unsafe { asm!("prfm pldl1keep, [{at}]", at = in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
    }
}
