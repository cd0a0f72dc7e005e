//! `Q4_K`: super-blocks of 8 × 32 four-bit codes; value = (d · scale) · q − (dmin · min), with a 6-bit scale and a
//! 6-bit min for every 32 values.
//!
//! Layout (144 bytes, as in GGUF): `d: f16`, `dmin: f16`, `scales: [u8; 12]`, `qs: [u8; 128]`. Bytes 32c..32c+32 of
//! `qs` hold block 2c in their low halves and block 2c+1 in their high halves.

use crate::fit::{self, SuperBlock};
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ4_K {
    /// Scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// Scale of the minima, an f16 in little-endian bytes.
    pub dmin: [u8; 2],
    /// Eight 6-bit scales and eight 6-bit minima. Of the first four blocks, scale j is the low six bits of byte j and
    /// min j those of byte 4+j. Of the last four, byte 8+j holds the low four bits of scale 4+j in its low half and of
    /// min 4+j in its high half; their upper two bits are the upper two of bytes j and 4+j.
    pub scales: [u8; 12],
    /// The codes, 0..=15, see the module.
    pub qs: [u8; 128],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q4_K,
    name: "Q4_K",
    block_elems: 256,
    block_bytes: size_of::<BlockQ4_K>(),
    ggml_type: Some(12),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ4_K] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let dmin = f16::from_le_bytes(block.dmin).to_f32();
        let (scales, mins) = unpack_scales(&block.scales);
        for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[j]), dmin * f32::from(mins[j]));
            for (out, byte) in out.iter_mut().zip(&block.qs[j / 2 * 32..]) {
                let q = byte >> (j % 2 * 4) & 15;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ4_K] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<8>::affine::<32>(&x, 15.0, 63.0);
        block.d = fit.d.to_le_bytes();
        block.dmin = fit.dmin.to_le_bytes();
        block.scales = pack_scales(&fit.scales, &fit.mins);
        block.qs = [0; 128];
        for (j, x) in x.as_chunks::<32>().0.iter().enumerate() {
            for (byte, q) in block.qs[j / 2 * 32..].iter_mut().zip(fit.codes(x, j, 0.0, 15.0)) {
                *byte |= (q as u8) << (j % 2 * 4);
            }
        }
    }
}

/// The 6-bit scales and minima of [`BlockQ4_K::scales`].
pub(crate) fn unpack_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (a, b, c) = (packed[j], packed[4 + j], packed[8 + j]);
        (scales[j], scales[4 + j]) = (a & 63, c & 15 | a >> 6 << 4);
        (mins[j], mins[4 + j]) = (b & 63, c >> 4 | b >> 6 << 4);
    }
    (scales, mins)
}

/// The inverse of [`unpack_scales`].
pub(crate) fn pack_scales(scales: &[i32; 8], mins: &[i32; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = (scales[j] | scales[4 + j] >> 4 << 6) as u8;
        packed[4 + j] = (mins[j] | mins[4 + j] >> 4 << 6) as u8;
        packed[8 + j] = (scales[4 + j] & 15 | (mins[4 + j] & 15) << 4) as u8;
    }
    packed
}
