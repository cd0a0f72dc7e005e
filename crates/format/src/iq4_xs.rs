//! `IQ4_XS`: super-blocks of 8 × 32 four-bit indices into the table of [`IQ4_NL`](crate::IQ4_VALUES);
//! value = (d · (scale − 32)) · table\[q\], with a 6-bit scale for every 32 values.
//!
//! Layout (136 bytes, as in GGUF): `d: f16`, `scales_h: u16`, `scales_l: [u8; 4]`, `qs: [u8; 128]`. Bytes 16j..16j+16 of
//! `qs` hold block j as in `IQ4_NL`.

use crate::fit::{self, SuperBlock};
use crate::iq4_nl::{IQ4_VALUES, candidates, nearest_index, nearest_value};
use crate::q4_0::{pack_nibbles, unpack_nibbles};
use crate::{Format, Info};
use half::f16;

/// One super-block of 256 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockIQ4_XS {
    /// The scale of the scales, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The upper two bits of the scales, a u16 in little-endian bytes: bits 2j and 2j+1 belong to block j.
    pub scales_h: [u8; 2],
    /// The low four bits of the scales: of block 2i in the low half of byte i, of block 2i+1 in its high half.
    pub scales_l: [u8; 4],
    /// The indices into [`IQ4_VALUES`]: bytes 16j..16j+16 hold block j, value l low in byte l, value l+16 high.
    pub qs: [u8; 128],
}

pub(crate) static INFO: Info = Info {
    format: Format::IQ4_XS,
    name: "IQ4_XS",
    block_elems: 256,
    block_bytes: size_of::<BlockIQ4_XS>(),
    ggml_type: Some(23),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockIQ4_XS] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        let scales_h = u16::from_le_bytes(block.scales_h);
        let qs = block.qs.as_chunks::<16>().0;
        for (j, (out, qs)) in out.as_chunks_mut::<32>().0.iter_mut().zip(qs).enumerate() {
            let scale = block.scales_l[j / 2] >> (j % 2 * 4) & 15 | ((scales_h >> (2 * j) & 3) as u8) << 4;
            let scale = d * (f32::from(scale) - 32.0);
            for (out, q) in out.iter_mut().zip(unpack_nibbles(qs)) {
                *out = scale * f32::from(IQ4_VALUES[usize::from(q)]);
            }
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockIQ4_XS] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<256>().0) {
        let x = fit::finite(values);
        let fit = SuperBlock::<8>::signed::<32, _>(&x, (-32.0, 31.0), candidates, nearest_value);
        block.d = fit.d.to_le_bytes();
        block.scales_l = [0; 4];
        let mut scales_h = 0;
        let qs = block.qs.as_chunks_mut::<16>().0;
        for (j, (x, qs)) in x.as_chunks::<32>().0.iter().zip(qs).enumerate() {
            let scale = (fit.scales[j] + 32) as u8;
            block.scales_l[j / 2] |= (scale & 15) << (j % 2 * 4);
            scales_h |= u16::from(scale >> 4) << (2 * j);
            let inverse = fit::inverse(fit.d.to_f32() * fit.scales[j] as f32);
            *qs = pack_nibbles(&x.map(|x| nearest_index(x * inverse)));
        }
        block.scales_h = scales_h.to_le_bytes();
    }
}
