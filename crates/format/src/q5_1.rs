//! `Q5_1`: 32 five-bit codes, one f16 scale and one f16 minimum; value = d · q + m.
//!
//! Layout (24 bytes, as in GGUF): `d: f16`, `m: f16`, then `qh` and `qs` as in [`Q5_0`](crate::BlockQ5_0).

use crate::q4_1::min_max_codes;
use crate::q5_0::{pack_five_bits, unpack_five_bits};
use crate::{Format, Info};
use half::f16;

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The value of code 0, an f16 in little-endian bytes.
    pub m: [u8; 2],
    /// The fifth bits, a u32 in little-endian bytes: bit j belongs to code j.
    pub qh: [u8; 4],
    /// The low four bits: of code j in the low half of byte j, of code j+16 in its high half.
    pub qs: [u8; 16],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q5_1,
    name: "Q5_1",
    block_elems: 32,
    block_bytes: size_of::<BlockQ5_1>(),
    ggml_type: Some(7),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ5_1] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let m = f16::from_le_bytes(block.m).to_f32();
        for (out, q) in out.iter_mut().zip(unpack_five_bits(&block.qs, block.qh)) {
            *out = d * f32::from(q) + m;
        }
    }
}

/// The codes span the range of the values. The same bits as the `gguf` package's quantizer.
fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ5_1] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let (d, m, codes) = min_max_codes(values, 31);
        block.d = d.to_le_bytes();
        block.m = m.to_le_bytes();
        (block.qs, block.qh) = pack_five_bits(&codes);
    }
}
