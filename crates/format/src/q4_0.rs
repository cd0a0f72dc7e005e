//! `Q4_0`: 32 four-bit codes and one f16 scale; value = d · (q − 8).
//!
//! Layout (18 bytes, as in GGUF): `d: f16`, `qs: [u8; 16]`; byte j holds code j low and code j+16 high.

use crate::{Format, Info, fit};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The codes, 0..=15: code j in the low half of byte j, code j+16 in its high half.
    pub qs: [u8; 16],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q4_0,
    name: "Q4_0",
    block_elems: 32,
    block_bytes: size_of::<BlockQ4_0>(),
    ggml_type: Some(2),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ4_0] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (out, q) in out.iter_mut().zip(unpack_nibbles(&block.qs)) {
            *out = d * (f32::from(q) - 8.0);
        }
    }
}

/// The value of largest magnitude becomes code 0, i.e. −8 steps. The same bits as the `gguf` package's quantizer.
fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ4_0] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let x = fit::finite(values);
        let d = (fit::peak(&x) / -8.0).clamp(-65504.0, 65504.0);
        let inverse = fit::inverse(d);
        block.d = fit::stored(d).to_le_bytes();
        block.qs = pack_nibbles(&x.map(|x| ((x * inverse + 8.5) as i32).clamp(0, 15) as u8));
    }
}

/// Code j from the low half of byte j, code j+16 from its high half.
pub(crate) fn unpack_nibbles(qs: &[u8; 16]) -> [u8; 32] {
    let mut out = [0; 32];
    for (j, &byte) in qs.iter().enumerate() {
        (out[j], out[j + 16]) = (byte & 15, byte >> 4);
    }
    out
}

/// The inverse of [`unpack_nibbles`].
pub(crate) fn pack_nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| codes[j] & 15 | codes[j + 16] << 4)
}
