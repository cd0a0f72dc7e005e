//! `Q8_0`: 32 signed bytes and one f16 scale; value = d · q.
//!
//! Layout (34 bytes, as in GGUF): `d: f16`, `qs: [i8; 32]`.

use crate::{Format, Info, fit};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The codes.
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
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (out, &q) in out.iter_mut().zip(&block.qs) {
            *out = d * f32::from(q);
        }
    }
}

/// The largest magnitude becomes 127 steps; halves round away from zero. The same bits as the `gguf` package's
/// quantizer.
fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ8_0] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let x = fit::finite(values);
        let d = (fit::peak(&x).abs() / 127.0).min(65504.0);
        let inverse = fit::inverse(d);
        block.d = fit::stored(d).to_le_bytes();
        block.qs = x.map(|x| {
            let q = (x * inverse).clamp(-127.0, 127.0);
            // Truncating after adding the float just below ½ is `f32::round`, without a call per value.
            (q + 0.5f32.next_down().copysign(q)) as i32 as i8
        });
    }
}
