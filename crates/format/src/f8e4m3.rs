//! `F8_E4M3`: the 8-bit float "E4M3" of the OCP 8-bit floating point specification (2023), the "fn" kind: no
//! infinities, and only 0x7F and 0xFF are NaN, so the largest number is 448.
//!
//! Layout: sign (1), exponent (4, bias 7), mantissa (3). In safetensors only; GGUF has no such type.

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

/// The value of each byte.
static VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
        let (exponent, mantissa) = (byte >> 3 & 15, (byte & 7) as f32);
        values[byte] = sign
            * if byte & 0x7F == 0x7F {
                f32::NAN
            } else if exponent == 0 {
                // Subnormal: steps of 2⁻⁹.
                mantissa / 512.0
            } else {
                // (8 + mantissa) · 2^(exponent − 7 − 3)
                (8.0 + mantissa) * (1u32 << exponent) as f32 / 1024.0
            };
        byte += 1;
    }
    values
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, &byte) in out.iter_mut().zip(bytes) {
        *out = VALUES[usize::from(byte)];
    }
}

/// Ties to even. Values beyond ±448 and infinities become ±448 (the specification's saturating mode); NaN stays.
fn encode(values: &[f32], out: &mut [u8]) {
    /// Its neighbours are 2⁻⁹ apart, so adding it rounds to the steps of the subnormals.
    const ROUNDER: f32 = 16384.0;
    /// 2⁻⁶, the smallest normal number.
    const NORMAL: f32 = 1.0 / 64.0;
    for (&v, out) in values.iter().zip(out) {
        let magnitude = v.abs().min(448.0);
        let bits = magnitude.to_bits();
        // Round away 20 of the 23 bits of mantissa, then move the exponent's bias from 127 to 7.
        let normal = ((bits + 0x7FFFF + (bits >> 20 & 1)) >> 20).wrapping_sub((127 - 7) << 3);
        let subnormal = (magnitude + ROUNDER).to_bits() - ROUNDER.to_bits();
        let code = if magnitude < NORMAL { subnormal } else { normal };
        let code = if v.is_nan() { 0x7F } else { code };
        *out = (v.to_bits() >> 24 & 0x80 | code) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_specification() {
        assert_eq!(VALUES[0x7E], 448.0);
        assert_eq!(VALUES[0x08], 1.0 / 64.0);
        assert_eq!(VALUES[0x07], 7.0 / 512.0);
        assert_eq!(VALUES[0x01], 1.0 / 512.0);
        assert_eq!(VALUES[0xB8], -1.0);
        assert_eq!(VALUES[0x80].to_bits(), (-0.0f32).to_bits());
        assert!(VALUES[0x7F].is_nan() && VALUES[0xFF].is_nan());
        assert_eq!(VALUES.iter().filter(|v| v.is_nan()).count(), 2);
    }

    #[test]
    fn every_value_and_every_midpoint_encodes_to_the_nearest() {
        let encode = |v: f32| {
            let mut byte = [0];
            super::encode(&[v], &mut byte);
            byte[0]
        };
        for low in 0..0x7E_u8 {
            let (a, b) = (VALUES[usize::from(low)], VALUES[usize::from(low) + 1]);
            let middle = (a + b) / 2.0;
            let even = low + (low & 1);
            for sign in [0, 0x80] {
                let s = if sign == 0 { 1.0 } else { -1.0 };
                assert_eq!(encode(s * a), sign | low);
                assert_eq!(encode(s * middle), sign | even);
                assert_eq!(encode(s * middle.next_down()), sign | low);
                assert_eq!(encode(s * middle.next_up()), sign | (low + 1));
            }
        }
        for v in [448.0, 449.0, 1e30, f32::INFINITY] {
            assert_eq!((encode(v), encode(-v)), (0x7E, 0xFE));
        }
        assert_eq!(encode(f32::NAN) & 0x7F, 0x7F);
    }
}
