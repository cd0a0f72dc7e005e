//! `Q5_0`: 32 five-bit codes and one f16 scale; value = d · (q − 16).
//!
//! Layout (22 bytes, as in GGUF): `d: f16`, `qh: u32`, `qs: [u8; 16]`; the fifth bit of code j is bit j of `qh`.

use crate::q4_0::{pack_nibbles, unpack_nibbles};
use crate::{Format, Info, fit};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The fifth bits, a u32 in little-endian bytes: bit j belongs to code j.
    pub qh: [u8; 4],
    /// The low four bits: of code j in the low half of byte j, of code j+16 in its high half.
    pub qs: [u8; 16],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q5_0,
    name: "Q5_0",
    block_elems: 32,
    block_bytes: size_of::<BlockQ5_0>(),
    ggml_type: Some(6),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ5_0] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (out, q) in out.iter_mut().zip(unpack_five_bits(&block.qs, block.qh)) {
            *out = d * (f32::from(q) - 16.0);
        }
    }
}

/// The value of largest magnitude becomes code 0, i.e. −16 steps. The same bits as the `gguf` package's quantizer.
fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ5_0] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let x = fit::finite(values);
        let d = (fit::peak(&x) / -16.0).clamp(-65504.0, 65504.0);
        let inverse = fit::inverse(d);
        block.d = fit::stored(d).to_le_bytes();
        (block.qs, block.qh) = pack_five_bits(&x.map(|x| ((x * inverse + 16.5) as i32).clamp(0, 31) as u8));
    }
}

pub(crate) fn unpack_five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    let low = unpack_nibbles(qs);
    std::array::from_fn(|j| low[j] | ((qh >> j & 1) as u8) << 4)
}

pub(crate) fn pack_five_bits(codes: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let qh = (0..32).fold(0u32, |qh, j| qh | u32::from(codes[j] >> 4) << j);
    (pack_nibbles(codes), qh.to_le_bytes())
}
