//! `F8_E4M3`: one sign, four exponent (bias 7) and three mantissa bits; no infinities, 0x7f and 0xff are NaN.
//!
//! The "fn" variant of the OCP 8-bit floating point specification (2023), as safetensors and PyTorch have it. The
//! largest value is 448; row scales live beside the tensor.

use crate::{Format, Info};

pub(crate) static INFO: Info = Info {
    format: Format::F8E4M3,
    name: "F8_E4M3",
    block_elems: 1,
    block_bytes: 1,
    ggml_type: None,
    safetensors_dtype: Some("F8_E4M3"),
    decode,
    encode,
};

/// Values of the 128 non-negative codes.
static MAGNITUDES: [f32; 128] = {
    let mut table = [0f32; 128];
    let mut code = 0;
    while code < 127 {
        let (exponent, mantissa) = (code >> 3, (code & 7) as f32);
        // Subnormals have the exponent of the smallest normals and no leading one.
        let (mut value, mut shift) =
            if exponent == 0 { (mantissa, -9) } else { (8.0 + mantissa, exponent as i32 - 10) };
        while shift > 0 {
            value *= 2.0;
            shift -= 1;
        }
        while shift < 0 {
            value /= 2.0;
            shift += 1;
        }
        table[code] = value;
        code += 1;
    }
    table[127] = f32::NAN;
    table
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, byte) in out.iter_mut().zip(bytes) {
        let magnitude = MAGNITUDES[usize::from(byte & 0x7f)];
        *out = if byte & 0x80 == 0 { magnitude } else { -magnitude };
    }
}

/// Nearest, ties to even; beyond 448 saturates; NaN stays NaN.
fn encode(values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out) {
        let magnitude = value.abs();
        let code = if value.is_nan() {
            127
        } else {
            // Codes are in the order of their values.
            let above = MAGNITUDES[..127].partition_point(|m| *m < magnitude);
            match above {
                0 => 0,
                127 => 126,
                _ => {
                    let (low, high) = (magnitude - MAGNITUDES[above - 1], MAGNITUDES[above] - magnitude);
                    if low < high || (low == high && above % 2 == 1) { above - 1 } else { above }
                }
            }
        };
        *out = code as u8 | if value.is_sign_negative() { 0x80 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        assert_eq!((MAGNITUDES[1], MAGNITUDES[8], MAGNITUDES[126]), (2f32.powi(-9), 2f32.powi(-6), 448.0));
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            let (mut value, mut back) = ([0f32], [0u8]);
            decode(&[code], &mut value);
            encode(&value, &mut back);
            assert_eq!(back, [code]);
        }
        let mut out = [0u8; 5];
        // 1.0625 lies between 1 and 1.125; ties go to the even code.
        encode(&[1e9, 1.0625, 1.1875, f32::NAN, 0.0], &mut out);
        assert_eq!(out, [126, 56, 58, 127, 0]);
    }
}
