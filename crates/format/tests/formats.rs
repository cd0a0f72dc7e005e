//! What holds for every format: these tests walk `FORMATS`, and a format that `expected` does not know won't compile.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use puna_format::{FORMATS, Format, Info};
use std::panic::catch_unwind;

/// What is known of a format from its definition, independently of the code.
struct Expected {
    /// Values and bytes of a block.
    block: (usize, usize),
    ggml_type: Option<u32>,
    /// Upper bound of the rms error over a block that was encoded and decoded, as a fraction of its largest magnitude.
    bound: f64,
    /// The same, measured over bell-shaped values and divided by their rms, with 3 % to spare: a worse encoder shows.
    bell: f64,
    /// Whether a decoded block encodes to the same values. The others fit their scales anew, to other values.
    stable: bool,
}

/// Half a step of the codes, as a fraction of the largest magnitude M; with what rounding the scales adds to it.
/// An f16 scale is off by 2⁻¹¹ of itself, and so is the largest value.
fn expected(format: Format) -> Expected {
    let f16 = 1.0 / 2048.0;
    // A block spans at most 2M: half a step of 2M/codes. Its scale is off by half of 1/top of the largest scale, so its
    // last code is by 2M/2top; its min is off by half of M/top.
    let affine = |codes: f64, top: f64| 1.0 / codes + 1.0 / top + 0.5 / top + 2.0 * f16;
    // M lies `end` steps from zero. The scale is off by half of 1/top of the largest, and the last code, `last`, with it.
    let signed = |end: f64, last: f64, top: f64| 0.5 / end + last / end * 0.5 / top + f16;
    let one = |block, ggml_type, bound, bell| Expected { block, ggml_type, bound, bell, stable: true };
    let fitted = |block, ggml_type, bound, bell| Expected { block, ggml_type, bound, bell, stable: false };
    match format {
        Format::F32 => one((1, 4), Some(0), 0.0, 0.0),
        // Half of the last of 11, 8 and 4 bits.
        Format::F16 => one((1, 2), Some(1), 1.0 / 2048.0, 0.000214),
        Format::BF16 => one((1, 2), Some(30), 1.0 / 256.0, 0.0018),
        Format::F8E4M3 => one((1, 1), None, 1.0 / 16.0, 0.028),
        // Codes −8..=7 for −M..=M: a value near the other end is off by a whole step.
        Format::Q4_0 => one((32, 18), Some(2), 1.0 / 8.0 + f16, 0.0875),
        // 15 steps over 2M, and both the scale and the min are rounded.
        Format::Q4_1 => one((32, 20), Some(3), 1.0 / 15.0 + 3.0 * f16, 0.08),
        Format::Q5_0 => one((32, 22), Some(6), 1.0 / 16.0 + f16, 0.0435),
        Format::Q5_1 => one((32, 24), Some(7), 1.0 / 31.0 + 3.0 * f16, 0.0387),
        Format::Q8_0 => one((32, 34), Some(8), 0.5 / 127.0 + f16, 0.00545),
        Format::Q2_K => fitted((256, 84), Some(10), affine(3.0, 15.0), 0.27),
        Format::Q3_K => fitted((256, 110), Some(11), signed(3.0, 4.0, 32.0), 0.1465),
        Format::Q4_K => fitted((256, 144), Some(12), affine(15.0, 63.0), 0.0717),
        Format::Q5_K => fitted((256, 176), Some(13), affine(31.0, 63.0), 0.0355),
        Format::Q6_K => fitted((256, 210), Some(14), signed(31.0, 32.0, 128.0), 0.01755),
        // M on the value 113, the widest step is that of 23 from −127 to −104.
        Format::IQ4_NL => fitted((32, 18), Some(20), 11.5 / 113.0 + f16, 0.0747),
        Format::IQ4_XS => fitted((256, 136), Some(23), 11.5 / 113.0 + 127.0 / 113.0 * 0.5 / 32.0 + f16, 0.0755),
    }
}

/// Values per test: some super-blocks.
const N: usize = 256 * 64;

/// Sums of uniform numbers: nearly normal, of variance 1.
fn bell_shaped() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..N).map(|_| (0..12).map(|_| uniform()).sum()).collect()
}

fn encode(info: &Info, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xAA; info.format.row_bytes(values.len()).unwrap()];
    info.format.encode(values, &mut bytes);
    bytes
}

fn decode(info: &Info, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / info.block_bytes * info.block_elems];
    info.format.decode(bytes, &mut values);
    values
}

fn rms(values: impl ExactSizeIterator<Item = f32>) -> f64 {
    let n = values.len() as f64;
    (values.map(|v| f64::from(v).powi(2)).sum::<f64>() / n).sqrt()
}

fn rms_error(a: &[f32], b: &[f32]) -> f64 {
    rms(a.iter().zip(b).map(|(a, b)| a - b))
}

#[test]
fn the_table_says_what_the_definitions_say() {
    for info in FORMATS {
        let expected = expected(info.format);
        assert_eq!((info.block_elems, info.block_bytes), expected.block, "{}", info.name);
        assert_eq!(info.ggml_type, expected.ggml_type, "{}", info.name);
        assert_eq!(info.ggml_type.and_then(Format::from_ggml_type), info.ggml_type.map(|_| info.format));
        assert_eq!(
            info.safetensors_dtype.and_then(Format::from_safetensors_dtype),
            info.safetensors_dtype.map(|_| info.format)
        );
        assert_eq!(Format::from_name(&info.name.to_lowercase()), Some(info.format));
        assert_eq!(info.format.to_string(), info.name);
    }
}

#[test]
fn only_whole_blocks_that_match_are_accepted() {
    for info in FORMATS {
        let (format, elems, bytes) = (info.format, info.block_elems, info.block_bytes);
        assert_eq!(format.row_bytes(0), Some(0));
        assert_eq!(format.row_bytes(3 * elems), Some(3 * bytes));
        assert_eq!(format.row_bytes(3 * elems + 1).is_some(), elems == 1);
        assert_eq!(format.row_bytes(usize::MAX / elems * elems).is_some(), bytes <= elems);
        for (n_values, n_bytes) in [(elems, 2 * bytes), (2 * elems, bytes), (elems, bytes + 1), (elems + 1, bytes)] {
            catch_unwind(|| format.decode(&vec![0; n_bytes], &mut vec![0.0; n_values])).unwrap_err();
            catch_unwind(|| format.encode(&vec![0.0; n_values], &mut vec![0; n_bytes])).unwrap_err();
        }
    }
}

#[test]
fn errors_stay_within_the_step() {
    let bell = bell_shaped();
    let grown: Vec<f32> = bell.iter().enumerate().map(|(i, v)| v * (i % 97) as f32).collect();
    let offset: Vec<f32> = bell.iter().map(|v| v + 3.0).collect();
    let negative: Vec<f32> = bell.iter().map(|v| -v.abs() - 1.0).collect();
    let sparse: Vec<f32> = bell.iter().enumerate().map(|(i, v)| if i % 11 == 0 { *v } else { 0.0 }).collect();
    let two_valued: Vec<f32> = bell.iter().map(|v| v.signum()).collect();
    for info in FORMATS {
        let expected = expected(info.format);
        // The step below the smallest normal number, where a format has one within reach of these values.
        let smallest = match info.format {
            Format::F16 => 2f64.powi(-24),
            Format::F8E4M3 => 2f64.powi(-9),
            _ => 0.0,
        };
        for values in [&bell, &grown, &offset, &negative, &sparse, &two_valued] {
            let decoded = decode(info, &encode(info, values));
            for (x, y) in values.chunks(info.block_elems).zip(decoded.chunks(info.block_elems)) {
                let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                let allowed = expected.bound * f64::from(largest) + smallest / 2.0;
                assert!(rms_error(x, y) <= allowed, "{}: {} > {allowed}: {x:?}", info.name, rms_error(x, y));
            }
        }
        let relative = rms_error(&bell, &decode(info, &encode(info, &bell))) / rms(bell.iter().copied());
        assert!(relative <= expected.bell, "{}: relative error {relative} > {}", info.name, expected.bell);
        assert!(relative >= expected.bell * 0.9, "{}: {relative}: better than expected, say so", info.name);
    }
}

#[test]
fn what_was_decoded_encodes_to_itself() {
    let values = bell_shaped();
    for info in FORMATS {
        let once = decode(info, &encode(info, &values));
        let twice = decode(info, &encode(info, &once));
        if expected(info.format).stable {
            assert_eq!(once, twice, "{}", info.name);
        } else {
            let (first, second) = (rms_error(&values, &once), rms_error(&once, &twice));
            assert!(second <= 0.75 * first, "{}: {second} after {first}", info.name);
        }
    }
}

#[test]
fn every_number_of_a_one_number_format_encodes_to_itself() {
    for info in FORMATS.iter().filter(|info| info.block_elems == 1 && info.block_bytes <= 2) {
        let bytes: Vec<u8> = match info.block_bytes {
            1 => (0..=255).collect(),
            _ => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
        };
        let again = encode(info, &decode(info, &bytes));
        for (a, b) in bytes.chunks(info.block_bytes).zip(again.chunks(info.block_bytes)) {
            // A NaN stays a NaN, whichever.
            assert!(a == b || decode(info, a)[0].is_nan() && decode(info, b)[0].is_nan(), "{}: {a:?} {b:?}", info.name);
        }
    }
}

#[test]
fn zeros_stay_zeros_and_blocks_are_independent() {
    let values = bell_shaped();
    for info in FORMATS {
        assert!(decode(info, &encode(info, &vec![0.0; 512])).iter().all(|&v| v == 0.0), "{}", info.name);
        let whole = encode(info, &values);
        for (values, bytes) in values.chunks(info.block_elems).zip(whole.chunks(info.block_bytes)).step_by(7) {
            assert_eq!(encode(info, values), bytes, "{}", info.name);
        }
    }
}

#[test]
fn saturates_instead_of_overflowing() {
    for info in FORMATS {
        for value in [f32::MAX, f32::MIN, 7e4, -3e38] {
            for values in [vec![value; 256], [value, -value].repeat(128), [value, 1.0, 0.0, -2.0].repeat(64)] {
                let decoded = decode(info, &encode(info, &values));
                assert!(decoded.iter().all(|v| v.is_finite()), "{}: {value}: {decoded:?}", info.name);
                assert!(decoded[0] * value.signum() > 0.0, "{}: {value}: {}", info.name, decoded[0]);
            }
        }
    }
}

#[test]
fn a_nan_is_a_nan_or_a_zero() {
    for info in FORMATS {
        let mut values = vec![1.0f32; 256];
        values[5] = f32::NAN;
        let decoded = decode(info, &encode(info, &values));
        if info.block_elems == 1 {
            assert!(decoded[5].is_nan());
        } else {
            assert!(decoded[5].abs() < 0.2 && (decoded[6] - 1.0).abs() < 0.2, "{}: {decoded:?}", info.name);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 256 * 4)) {
        for info in FORMATS {
            decode(info, &bytes[..bytes.len() / info.block_bytes * info.block_bytes]);
        }
    }

    #[test]
    fn any_numbers_encode(values in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 256)) {
        for info in FORMATS {
            encode(info, &values);
        }
    }

    #[test]
    fn finite_numbers_stay_finite(
        values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO, 256),
        scale in -126i32..=127,
    ) {
        let scaled: Vec<f32> = values.iter().map(|v| (v % 1.0) * 2f32.powi(scale)).collect();
        for info in FORMATS {
            for values in [&values, &scaled] {
                prop_assert!(decode(info, &encode(info, values)).iter().all(|v| v.is_finite()), "{}", info.name);
            }
        }
    }
}
