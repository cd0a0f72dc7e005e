//! `Q6_K`: super-blocks of 16 × 16 six-bit codes; value = (d · scale) · (q − 32), with an 8-bit scale for every 16
//! values.
//!
//! Layout (210 bytes, as in GGUF): `ql: [u8; 128]`, `qh: [u8; 64]`, `scales: [i8; 16]`, `d: f16`. Of value
//! 128h + 64n + m (m < 64) the low four bits are half n (0: low) of `ql[64h + m]`; of value 128h + 32s + l the upper two
//! are bits 2s and 2s+1 of `qh[32h + l]`.

use crate::fit::{self, SuperBlock};
use crate::q2_k::two_bits;
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockQ6_K {
    /// The low four bits of the codes, see the module.
    pub ql: [u8; 128],
    /// The upper two bits of the codes, see the module.
    pub qh: [u8; 64],
    /// The scale of each block of 16.
    pub scales: [i8; 16],
    /// The scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
}

pub(crate) static INFO: Info = Info {
    format: Format::Q6_K,
    name: "Q6_K",
    block_elems: 256,
    block_bytes: size_of::<BlockQ6_K>(),
    ggml_type: Some(14),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockQ6_K] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(block.scales[j]);
            let ((low_first, low_shift), (high_first, high_shift)) = (four_bits(j), two_bits(j));
            for ((out, low), high) in out.iter_mut().zip(&block.ql[low_first..]).zip(&block.qh[high_first..]) {
                let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
                *out = scale * (f32::from(q) - 32.0);
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockQ6_K] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<16>::signed::<16, _>(
            &x,
            (-128.0, 127.0),
            |peak| (0..10).map(move |step| (-32.6 + 0.2 * step as f32) / peak),
            |x| fit::nearest(x.clamp(-32.0, 31.0)),
        );
        block.d = fit.d.to_le_bytes();
        block.scales = fit.scales.map(|scale| scale as i8);
        (block.ql, block.qh) = ([0; 128], [0; 64]);
        for (j, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let ((low_first, low_shift), (high_first, high_shift)) = (four_bits(j), two_bits(j));
            let codes = fit.codes(x, j, -32.0, 31.0);
            for ((low, high), q) in block.ql[low_first..].iter_mut().zip(&mut block.qh[high_first..]).zip(codes) {
                let q = (q + 32) as u8;
                *low |= (q & 15) << low_shift;
                *high |= (q >> 4) << high_shift;
            }
        }
    }
}

/// The first byte of the sixteen with the low bits of block `j`, and where in the byte.
fn four_bits(j: usize) -> (usize, usize) {
    (j / 8 * 64 + j % 4 * 16, j % 8 / 4 * 4)
}
