//! `Q3_K`: super-blocks of 16 × 16 three-bit codes; value = (d · (scale − 32)) · (q − 4), with a 6-bit scale for every
//! 16 values.
//!
//! Layout (110 bytes, as in GGUF): `hmask: [u8; 32]`, `qs: [u8; 64]`, `scales: [u8; 12]`, `d: f16`. The low two bits of
//! the codes lie in `qs` as in [`Q2_K`](crate::BlockQ2_K); the third bit of value 32i + l is bit i of `hmask[l]`.

use crate::fit::{self, SuperBlock};
use crate::q2_k::two_bits;
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ3_K {
    /// The third bits of the codes: bit i of byte l belongs to value 32i + l.
    pub hmask: [u8; 32],
    /// The low two bits of the codes.
    pub qs: [u8; 64],
    /// Sixteen 6-bit scales. Byte j < 8 holds the low four bits of scale j in its low half and of scale 8+j in its high
    /// half; bits 2s and 2s+1 of byte 8+i are the upper two bits of scale 4s+i.
    pub scales: [u8; 12],
    /// The scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q3_K,
    name: "Q3_K",
    block_elems: 256,
    block_bytes: size_of::<BlockQ3_K>(),
    ggml_type: Some(11),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ3_K] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let scales = unpack_scales(&block.scales);
        for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * (f32::from(scales[j]) - 32.0);
            let (first, shift) = two_bits(j);
            for ((out, low), high) in out.iter_mut().zip(&block.qs[first..]).zip(&block.hmask[j % 2 * 16..]) {
                let q = low >> shift & 3 | (high >> (j / 2) & 1) << 2;
                *out = scale * (f32::from(q) - 4.0);
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ3_K] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<16>::signed::<16, _>(
            &x,
            (-32.0, 31.0),
            |peak| (0..12).map(move |step| (-4.6 + 0.2 * step as f32) / peak),
            |x| fit::nearest(x.clamp(-4.0, 3.0)),
        );
        block.d = fit.d.to_le_bytes();
        block.scales = pack_scales(&fit.scales.map(|scale| (scale + 32) as u8));
        (block.hmask, block.qs) = ([0; 32], [0; 64]);
        for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let (first, shift) = two_bits(j);
            let codes = fit.codes(x, j, -4.0, 3.0);
            for ((low, high), q) in block.qs[first..].iter_mut().zip(&mut block.hmask[j % 2 * 16..]).zip(codes) {
                let q = (q + 4) as u8;
                *low |= (q & 3) << shift;
                *high |= (q >> 2) << (j / 2);
            }
        }
    }
}

/// The 6-bit scales of [`BlockQ3_K::scales`], still with their offset of 32.
fn unpack_scales(packed: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|j| packed[j % 8] >> (j / 8 * 4) & 15 | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4)
}

/// The inverse of [`unpack_scales`].
fn pack_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        packed[j % 8] |= (scale & 15) << (j / 8 * 4);
        packed[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
    packed
}
