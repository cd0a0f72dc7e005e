//! `Q2_K`: super-blocks of 16 × 16 two-bit codes; value = (d · scale) · q − (dmin · min), with a 4-bit scale and a
//! 4-bit min for every 16 values.
//!
//! Layout (84 bytes, as in GGUF): `scales: [u8; 16]`, `qs: [u8; 64]`, `d: f16`, `dmin: f16`. Value 128h + 32s + l is in
//! bits 2s and 2s+1 of `qs[32h + l]`.

use crate::fit::{self, SuperBlock};
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ2_K {
    /// For each block of 16 its scale in the low half of a byte, its min in the high half.
    pub scales: [u8; 16],
    /// The codes, 0..=3, see the module.
    pub qs: [u8; 64],
    /// Scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// Scale of the minima, an f16 in little-endian bytes.
    pub dmin: [u8; 2],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q2_K,
    name: "Q2_K",
    block_elems: 256,
    block_bytes: size_of::<BlockQ2_K>(),
    ggml_type: Some(10),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ2_K] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let dmin = f16::from_le_bytes(block.dmin).to_f32();
        for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(block.scales[j] & 15), dmin * f32::from(block.scales[j] >> 4));
            let (first, shift) = two_bits(j);
            for (out, byte) in out.iter_mut().zip(&block.qs[first..]) {
                *out = scale * f32::from(byte >> shift & 3) - min;
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ2_K] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<16>::affine::<16>(&x, 3.0, 15.0);
        block.d = fit.d.to_le_bytes();
        block.dmin = fit.dmin.to_le_bytes();
        block.scales = std::array::from_fn(|j| (fit.scales[j] | fit.mins[j] << 4) as u8);
        block.qs = [0; 64];
        for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let (first, shift) = two_bits(j);
            for (byte, q) in block.qs[first..].iter_mut().zip(fit.codes(x, j, 0.0, 3.0)) {
                *byte |= (q as u8) << shift;
            }
        }
    }
}

/// The first byte of the sixteen with two bits of block `j` in each, and where in the byte.
pub(crate) fn two_bits(j: usize) -> (usize, usize) {
    (j / 8 * 32 + j % 2 * 16, j % 8 / 2 * 2)
}
