//! Any processor: four lanes at a time, as arrays, which a compiler may turn into whatever vectors the target has.

use super::Simd;
use half::f16;

/// No instructions beyond the language's.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn lanes<T>(f: impl FnMut(usize) -> T) -> [T; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    const LANES: usize = LANES;
    const TOKENS: usize = 4;
    const REGISTERS: usize = 16;
    const UNPACKS: bool = false;
    const SATURATES: bool = false;
    const SIGNED_OFFSET: Option<u32> = None;

    type I = [i32; LANES];
    type F = [f32; LANES];
    type Part = [i32; LANES];

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> Self::I {
        // SAFETY: the caller's promise; so in all that follow.
        unsafe { at.cast::<[i32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_u16(self, at: *const u8) -> Self::I {
        // SAFETY: see above.
        unsafe { at.cast::<[u16; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store(self, v: Self::I, at: *mut u8) {
        // SAFETY: see above.
        unsafe { at.cast::<[i32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn splat(self, v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn add(self, a: Self::I, b: Self::I) -> Self::I {
        lanes(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn shl(self, v: Self::I, n: u32) -> Self::I {
        v.map(|v| v << n)
    }
    #[inline(always)]
    fn shr(self, v: Self::I, n: u32) -> Self::I {
        v.map(|v| (v as u32 >> n) as i32)
    }
    #[inline(always)]
    fn lookup(self, table: &[i8; 16], bytes: Self::I) -> Self::I {
        bytes.map(|v| i32::from_le_bytes(v.to_le_bytes().map(|b| table[usize::from(b & 15)] as u8)))
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I) -> Self::F {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    fn to_i32(self, v: Self::F) -> Self::I {
        v.map(|v| v.round_ties_even() as i32)
    }
    #[inline(always)]
    fn bits_as_f32(self, v: Self::I) -> Self::F {
        v.map(|v| f32::from_bits(v as u32))
    }
    #[inline(always)]
    unsafe fn load_f32(self, at: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { at.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f32(self, v: Self::F, at: *mut f32) {
        // SAFETY: see above.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u8) -> Self::F {
        // SAFETY: see above.
        unsafe { at.cast::<[[u8; 2]; LANES]>().read_unaligned() }.map(|v| f16::from_le_bytes(v).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, v: Self::F, at: *mut u8) {
        // SAFETY: see above.
        unsafe { at.cast::<[[u8; 2]; LANES]>().write_unaligned(v.map(|v| f16::from_f32(v).to_le_bytes())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const u8) -> Self::I {
        // SAFETY: see above.
        unsafe { at.cast::<[i8; LANES]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_i8(self, v: Self::I, at: *mut u8) {
        // SAFETY: see above.
        unsafe { at.cast::<[u8; LANES]>().write_unaligned(v.map(|v| v as u8)) }
    }
    #[inline(always)]
    fn f16_to_f32(self, v: Self::I) -> Self::F {
        v.map(|v| f16::from_bits(v as u16).to_f32())
    }
    #[inline(always)]
    fn splat_f32(self, v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    fn add_f32(self, a: Self::F, b: Self::F) -> Self::F {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub_f32(self, a: Self::F, b: Self::F) -> Self::F {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Rounded twice: without the instruction, rounding once is a slow library call.
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn max_lane(self, v: Self::F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn signed(self, bytes: Self::I) -> Self::I {
        bytes
    }
    #[inline(always)]
    fn zero(self) -> Self::Part {
        self.splat(0)
    }
    #[inline(always)]
    fn dot(self, part: Self::Part, w: Self::I, x: Self::I, _: bool) -> Self::Part {
        lanes(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(part[i], |sum, j| sum + i32::from(w[j] as i8) * i32::from(x[j] as i8))
        })
    }
    #[inline(always)]
    fn total(self, part: Self::Part) -> Self::I {
        part
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
