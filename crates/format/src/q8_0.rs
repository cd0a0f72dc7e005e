//! `Q8_0`: 32 signed bytes and one f16 scale; value = d · q.
//!
//! Layout (34 bytes, as in GGUF): `d: f16`, `qs: [i8; 32]`.

use crate::{Format, Info};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The quantized values.
    pub qs: [i8; 32],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q8_0,
    name: "Q8_0",
    block_elems: 32,
    block_bytes: size_of::<BlockQ8_0>(),
    ggml_type: Some(8),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ8_0] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(32)) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (out, &q) in out.iter_mut().zip(&block.qs) {
            *out = d * f32::from(q);
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ8_0] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.chunks_exact(32)) {
        let max = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let d = max / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        block.d = f16::from_f32(d).to_le_bytes();
        for (q, &v) in block.qs.iter_mut().zip(values) {
            // `as` saturates and sends NaN to 0, so a bad value can't wrap round.
            *q = (v * inverse).round() as i8;
        }
    }
}
