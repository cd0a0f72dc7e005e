//! `Q5_K`: super-blocks of 8 × 32 five-bit codes; value = (d · scale) · q − (dmin · min), with a 6-bit scale and a
//! 6-bit min for every 32 values.
//!
//! Layout (176 bytes, as in GGUF): `d: f16`, `dmin: f16`, `scales: [u8; 12]`, `qh: [u8; 32]`, `qs: [u8; 128]`. All but
//! `qh` are as in [`Q4_K`](crate::BlockQ4_K); bit j of `qh[l]` is the fifth bit of value l in block j.

use crate::fit::{self, SuperBlock};
use crate::q4_k::{pack_scales, unpack_scales};
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ5_K {
    /// Scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// Scale of the minima, an f16 in little-endian bytes.
    pub dmin: [u8; 2],
    /// Eight 6-bit scales and eight 6-bit minima, packed as in [`BlockQ4_K::scales`](crate::BlockQ4_K::scales).
    pub scales: [u8; 12],
    /// The fifth bits of the codes: bit j of byte l belongs to value l of block j.
    pub qh: [u8; 32],
    /// The low four bits of the codes: bytes 32c..32c+32 hold block 2c low and block 2c+1 high.
    pub qs: [u8; 128],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q5_K,
    name: "Q5_K",
    block_elems: 256,
    block_bytes: size_of::<BlockQ5_K>(),
    ggml_type: Some(13),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ5_K] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let dmin = f16::from_le_bytes(block.dmin).to_f32();
        let (scales, mins) = unpack_scales(&block.scales);
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            for ((out, low), high) in out.iter_mut().zip(&block.qs[j / 2 * 32..]).zip(&block.qh) {
                let q = low >> (j % 2 * 4) & 15 | (high >> j & 1) << 4;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ5_K] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<8>::affine::<32>(&x, 31.0, 63.0);
        block.d = fit.d.to_le_bytes();
        block.dmin = fit.dmin.to_le_bytes();
        block.scales = pack_scales(&fit.scales, &fit.mins);
        (block.qh, block.qs) = ([0; 32], [0; 128]);
        for (j, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let codes = fit.codes(x, j, 0.0, 31.0);
            for ((low, high), q) in block.qs[j / 2 * 32..].iter_mut().zip(&mut block.qh).zip(codes) {
                *low |= (q as u8 & 15) << (j % 2 * 4);
                *high |= (q as u8 >> 4) << j;
            }
        }
    }
}
