//! `IQ4_NL`: 32 four-bit indices into a table of uneven steps and one f16 scale; value = d · table\[q\].
//!
//! Layout (18 bytes, as in GGUF): `d: f16`, `qs: [u8; 16]`; byte j holds index j low and index j+16 high.

use crate::q4_0::{pack_nibbles, unpack_nibbles};
use crate::{Format, Info, fit};
use half::f16;

/// The table of `IQ4_NL` and `IQ4_XS`: the steps are finer near zero, where most weights lie.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// One block of 32 values.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlockIQ4_NL {
    /// The scale, an f16 in little-endian bytes.
    pub d: [u8; 2],
    /// The indices into [`IQ4_VALUES`]: index j in the low half of byte j, index j+16 in its high half.
    pub qs: [u8; 16],
}

pub(crate) static INFO: Info = Info {
    format: Format::IQ4_NL,
    name: "IQ4_NL",
    block_elems: 32,
    block_bytes: size_of::<BlockIQ4_NL>(),
    ggml_type: Some(20),
    safetensors_dtype: None,
    decode,
    encode,
};

fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[BlockIQ4_NL] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = f16::from_le_bytes(block.d).to_f32();
        for (out, q) in out.iter_mut().zip(unpack_nibbles(&block.qs)) {
            *out = d * f32::from(IQ4_VALUES[usize::from(q)]);
        }
    }
}

fn encode(values: &[f32], out: &mut [u8]) {
    let blocks: &mut [BlockIQ4_NL] = bytemuck::cast_slice_mut(out);
    for (block, values) in blocks.iter_mut().zip(values.as_chunks::<32>().0) {
        let x = fit::finite(values);
        let d = fit::stored(fit::scale(&x, candidates(fit::peak(&x)), nearest_value));
        let inverse = fit::inverse(d.to_f32());
        block.d = d.to_le_bytes();
        block.qs = pack_nibbles(&x.map(|x| nearest_index(x * inverse)));
    }
}

/// The inverse scales to try for a block whose value of largest magnitude is `peak`: it may take either end of the
/// table, or a little less or more.
pub(crate) fn candidates(peak: f32) -> impl Iterator<Item = f32> {
    [-127.0, 113.0].into_iter().flat_map(move |end| (0..7).map(move |step| end * (0.88 + 0.04 * step as f32) / peak))
}

/// Halves of the unit that the table of nearest values tells apart: every midpoint of [`IQ4_VALUES`] is a multiple.
const CELLS: usize = 512;

/// The index of the nearest value for each half unit from −128 on.
static NEAREST: [u8; CELLS] = {
    let mut nearest = [0; CELLS];
    let (mut cell, mut index) = (0, 0);
    while cell < CELLS {
        // Twice the middle of the cell against twice the midpoint of two neighbouring values, all doubled again.
        while index < 15 && 2 * (cell as i32 - 256) + 1 > 2 * (IQ4_VALUES[index] as i32 + IQ4_VALUES[index + 1] as i32)
        {
            index += 1;
        }
        nearest[cell] = index as u8;
        cell += 1;
    }
    nearest
};

/// The index of the value of the table that is nearest to `x`.
pub(crate) fn nearest_index(x: f32) -> u8 {
    // Rounding 2x − ½ is the floor of 2x (but for multiples of ½, which are nowhere nearer to one side's value).
    let cell = fit::code(2.0 * x - 0.5, -256.0, 255.0) + 256;
    NEAREST[cell as usize % CELLS]
}

/// The value of the table that is nearest to `x`.
pub(crate) fn nearest_value(x: f32) -> f32 {
    f32::from(IQ4_VALUES[usize::from(nearest_index(x))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_value_is_the_nearest() {
        for i in -16000..16000 {
            let x = i as f32 / 100.0;
            let best = IQ4_VALUES.iter().map(|&v| (f32::from(v) - x).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((nearest_value(x) - x).abs(), best, "{x}");
        }
        nearest_value(f32::NAN);
    }
}
