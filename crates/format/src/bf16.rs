//! `BF16`: the upper 16 bits of an f32, little-endian.

use crate::{Format, Info};

pub(crate) static INFO: Info = Info {
    format: Format::BF16,
    name: "BF16",
    block_elems: 1,
    block_bytes: 2,
    ggml_type: Some(30),
    safetensors_dtype: Some("BF16"),
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// Ties to even. Finite values that would round to an infinity become the largest finite number; infinities and NaN
/// stay (a NaN quiet).
fn encode(values: &[f32], out: &mut [u8]) {
    for (&v, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
        let bits = v.to_bits();
        let magnitude = bits & 0x7FFF_FFFF;
        let rounded = (magnitude + 0x7FFF + (magnitude >> 16 & 1)) >> 16;
        let upper = if magnitude > 0x7F80_0000 {
            magnitude >> 16 | 0x40
        } else if magnitude == 0x7F80_0000 {
            0x7F80
        } else {
            rounded.min(0x7F7F)
        };
        *out = ((bits >> 16 & 0x8000 | upper) as u16).to_le_bytes();
    }
}
