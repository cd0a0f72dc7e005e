//! `F32`: IEEE 754 binary32, little-endian.

use crate::{Format, Info};

pub(crate) static INFO: Info = Info {
    format: Format::F32,
    name: "F32",
    block_elems: 1,
    block_bytes: 4,
    ggml_type: Some(0),
    safetensors_dtype: Some("F32"),
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    for (&v, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = v.to_le_bytes();
    }
}
