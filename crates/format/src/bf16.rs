//! `BF16`: the upper 16 bits of an f32, little-endian.

use crate::{Format, Info};
use half::bf16;

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

fn encode(values: &[f32], out: &mut [u8]) {
    for (&v, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = bf16::from_f32(v).to_le_bytes();
    }
}
