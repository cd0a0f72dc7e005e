//! `Q4_1`: 32 four-bit codes, one f16 scale and one f16 minimum; value = d · q + m.
//!
//! Layout (20 bytes, as in GGUF): `d: f16`, `m: f16`, `qs: [u8; 16]` as in [`Q4_0`](crate::BlockQ4_0).

use crate::q4_0::{pack_nibbles, unpack_nibbles};
use crate::{Format, Info, fit};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The value of code 0, an f16 in little-endian bytes.
    pub m: [u8; 2],
    /// The codes, 0..=15: code j in the low half of byte j, code j+16 in its high half.
    pub qs: [u8; 16],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q4_1,
    name: "Q4_1",
    block_elems: 32,
    block_bytes: size_of::<BlockQ4_1>(),
    ggml_type: Some(3),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ4_1] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let m = f16::from_le_bytes(block.m).to_f32();
        for (out, q) in out.iter_mut().zip(unpack_nibbles(&block.qs)) {
            *out = d * f32::from(q) + m;
        }
    }
}

/// The codes span the range of the values. The same bits as the `gguf` package's quantizer.
fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ4_1] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let (d, m, codes) = min_max_codes(values, 15);
        block.d = d.to_le_bytes();
        block.m = m.to_le_bytes();
        block.qs = pack_nibbles(&codes);
    }
}

/// Scale, minimum and codes 0..=`top` that span the range of the values.
pub(crate) fn min_max_codes(values: &[f32; 32], top: i32) -> (f16, f16, [u8; 32]) {
    let x = fit::finite(values);
    let (low, high) = fit::range(&x);
    let low = low.clamp(-65504.0, 65504.0);
    let d = ((high - low) / top as f32).clamp(0.0, 65504.0);
    let inverse = fit::inverse(d);
    let codes = x.map(|x| (((x - low) * inverse + 0.5) as i32).clamp(0, top) as u8);
    (fit::stored(d), fit::stored(low), codes)
}
