//! `F16`: IEEE 754 binary16, little-endian.

use crate::{Format, Info};
use half::f16;

pub(crate) static INFO: Info = Info {
    format: Format::F16,
    name: "F16",
    block_elems: 1,
    block_bytes: 2,
    ggml_type: Some(1),
    safetensors_dtype: Some("F16"),
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = f16::from_le_bytes(*bytes).to_f32();
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    for (&v, out) in values.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = f16::from_f32(v).to_le_bytes();
    }
}
