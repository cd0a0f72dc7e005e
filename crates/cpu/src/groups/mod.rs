//! Unpacking of quantized blocks into vectors of bytes, for AVX2: what the matrix products are generic over.
//!
//! **One file a family of formats.** What a format's bytes mean is told in `puna-format`, whose `decode` every unpacker
//! is tested against. No products and no activations here.
//!
//! All functions are `#[inline(always)]` and carry no `#[target_feature]`: they become part of the kernel that calls
//! them, which carries it. Called from anywhere else they would still be right, but slow: every intrinsic a call.
//! For the same reason each `unpack` calls `f` in one place only, in a loop: a closure with a single call is inlined even
//! if it is large. What a loop carries (shifted codes, turned factors) costs nothing where it is unrolled, and little
//! where it is not.

#![allow(non_camel_case_types, reason = "the types are named as the formats are")]

mod iq4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q6_k;
mod q8;

pub use iq4::{IQ4_NL, IQ4_XS};
pub use q2_k::Q2_K;
pub use q3_k::Q3_K;
pub use q4::{Q4_0, Q4_1};
pub use q4_k::{Q4_K, Q5_K};
pub use q5::{Q5_0, Q5_1};
pub use q6_k::Q6_K;
pub use q8::Q8_0;

use puna_format::Format;
use std::arch::x86_64::*;

/// 32 consecutive weights of a row: byte i of `q` belongs to weight i, and
/// weight i = scale\[i / 16\] · (q\[i\] − [`OFFSET`](Groups::OFFSET)) − min\[i / 16\].
///
/// Lanes 0..4 of `scale` and `min` hold the factor of weights 0..16, lanes 4..8 that of weights 16..32: as the lanes of
/// the sums that `_mm256_maddubs_epi16` and `_mm256_madd_epi16` make of `q`.
#[derive(Clone, Copy)]
pub struct Group {
    /// The codes: −128..=127 if the format has neither [a minimum](Groups::HAS_MIN) nor [an offset](Groups::OFFSET), which
    /// costs a product instructions for the signs; else 0..=127.
    pub q: __m256i,
    /// Value of a step.
    pub scale: __m256,
    /// What is subtracted; zero without [`Groups::HAS_MIN`].
    pub min: __m256,
}

/// A block format, unpacked by groups of 32 weights.
pub trait Groups: 'static {
    /// The format.
    const FORMAT: Format;

    /// Groups in a block: 1 or 8.
    const PER_BLOCK: usize;

    /// Whether `min` is used; otherwise it is zero.
    const HAS_MIN: bool = false;

    /// What is to be subtracted from the codes: cheaper from a sum of products than from each code.
    const OFFSET: i8 = 0;

    /// Calls `f` with the place of a group within the block and the group, in order, for each group of a block.
    ///
    /// # Safety
    /// The processor has AVX2, FMA and F16C, and `block` points to a block of [`Self::FORMAT`] that may be read.
    unsafe fn unpack(block: *const u8, f: impl FnMut(usize, Group));
}

/// Runs `$body` with the type of the format's groups as `$G`. The one list of the formats that have groups.
macro_rules! with {
    ($format:expr, $G:ident => $body:expr, else $otherwise:expr) => {
        $crate::groups::with!(@ $format, $G, $body, $otherwise,
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS)
    };
    (@ $format:expr, $G:ident, $body:expr, $otherwise:expr, $($name:ident)+) => {
        match $format {
            $(puna_format::Format::$name => {
                type $G = $crate::groups::$name;
                $body
            })+
            _ => $otherwise,
        }
    };
}
pub(crate) use with;

/// Whether a format has groups.
pub fn has(format: Format) -> bool {
    with!(format, G => { let _ = G::FORMAT; true }, else false)
}

/// The f16 at `at` as f32 in all lanes.
///
/// # Safety
/// AVX2 and F16C exist; two bytes can be read at `at`.
#[inline(always)]
unsafe fn f16(at: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_set1_epi16(at.cast::<i16>().read_unaligned())) }
}

/// The low halves of the 16 bytes at `at`, then their high halves.
///
/// # Safety
/// AVX2 exists; 16 bytes can be read at `at`.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast()));
        let shifted = _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
        and(shifted, 15)
    }
}

/// The bits of `mask` in each byte.
///
/// # Safety
/// AVX2 exists.
#[inline(always)]
unsafe fn and(bytes: __m256i, mask: i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(mask)) }
}

/// The factors of the four groups of half a super-block, waiting to be taken one after the other: element i of each
/// 128-bit half belongs to group i.
#[derive(Clone, Copy)]
struct Factors(__m256);

impl Factors {
    /// Eight signed bytes, times `d`.
    ///
    /// # Safety
    /// AVX2 exists.
    #[inline(always)]
    unsafe fn new(bytes: __m128i, d: __m256) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Factors(_mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d)) }
    }

    /// From one signed byte for every sixteen weights: of both halves of the super-block.
    ///
    /// # Safety
    /// AVX2 exists.
    #[inline(always)]
    unsafe fn of_sixteens(bytes: __m128i, d: __m256) -> [Self; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            // The first sixteen of each group to the lower 128 bits, the second to the upper.
            let halves = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
            let bytes = _mm_shuffle_epi8(bytes, halves);
            [Self::new(bytes, d), Self::new(_mm_unpackhi_epi64(bytes, bytes), d)]
        }
    }

    /// The factors of the next group, in the lanes where [`Group`] wants them.
    ///
    /// # Safety
    /// AVX2 exists.
    #[inline(always)]
    unsafe fn next(&mut self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let next = _mm256_permute_ps::<0b00_00_00_00>(self.0);
            // Where the loop is unrolled, all turning is folded into the line above.
            self.0 = _mm256_permute_ps::<0b00_11_10_01>(self.0);
            next
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The weights of a block and the larger of the two terms of each.
    ///
    /// # Safety
    /// As [`Groups::unpack`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpacked<G: Groups>(block: &[u8]) -> Vec<(f32, f32)> {
        let mut weights = Vec::new();
        let mut expected_place = 0;
        // SAFETY: the caller's promise.
        unsafe {
            G::unpack(block.as_ptr(), |place, group| {
                assert_eq!(place, expected_place);
                expected_place += 1;
                let q: [i8; 32] = std::mem::transmute(group.q);
                let scale: [f32; 8] = std::mem::transmute(group.scale);
                let min: [f32; 8] = std::mem::transmute(group.min);
                for (i, &q) in q.iter().enumerate() {
                    assert!(q >= 0 || !G::HAS_MIN && G::OFFSET == 0);
                    assert!(G::HAS_MIN || min == [0.0; 8]);
                    // The lane of the sum of four neighbouring products.
                    let lane = i / 4;
                    let term = scale[lane] * f32::from(q - G::OFFSET);
                    weights.push((term - min[lane], term.abs().max(min[lane].abs())));
                }
            });
        }
        assert_eq!(expected_place, G::PER_BLOCK);
        weights
    }

    fn agrees_with_decode<G: Groups>(random: &[u8]) {
        let info = G::FORMAT.info();
        assert_eq!(info.block_elems, 32 * G::PER_BLOCK);
        for block in random.chunks_exact(info.block_bytes) {
            let mut decoded = vec![0.0; info.block_elems];
            G::FORMAT.decode(block, &mut decoded);
            if decoded.iter().any(|v| !v.is_finite()) {
                // Its d is an infinity or a NaN.
                continue;
            }
            // SAFETY: the instructions were looked for, and the slice is as long as a block.
            let weights = unsafe { unpacked::<G>(block) };
            for (i, ((weight, term), decoded)) in weights.into_iter().zip(decoded).enumerate() {
                let ulps = 2.0 * (term.next_up() - term);
                assert!((weight - decoded).abs() <= ulps, "{}: weight {i}: {weight} for {decoded}", info.name);
            }
        }
    }

    proptest! {
        #[test]
        fn unpacked_weights_are_the_decoded_ones(random in prop::collection::vec(any::<u8>(), 4096)) {
            let detected = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if !detected {
                eprintln!("skipped: this machine lacks AVX2, FMA or F16C");
                return Ok(());
            }
            agrees_with_decode::<Q8_0>(&random);
            agrees_with_decode::<Q4_0>(&random);
            agrees_with_decode::<Q4_1>(&random);
            agrees_with_decode::<Q5_0>(&random);
            agrees_with_decode::<Q5_1>(&random);
            agrees_with_decode::<IQ4_NL>(&random);
            agrees_with_decode::<Q2_K>(&random);
            agrees_with_decode::<Q3_K>(&random);
            agrees_with_decode::<Q4_K>(&random);
            agrees_with_decode::<Q5_K>(&random);
            agrees_with_decode::<Q6_K>(&random);
            agrees_with_decode::<IQ4_XS>(&random);
        }
    }
}
