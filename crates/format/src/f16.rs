//! `F16`: IEEE 754 binary16, little-endian.

use crate::{Format, Info};
use half::f16;
use half::slice::HalfFloatSliceExt;

pub(crate) static INFO: Info = Info {
    format: Format::F16,
    name: "F16",
    block_elems: 1,
    block_bytes: 2,
    ggml_type: Some(1),
    safetensors_dtype: Some("F16"),
    decode,
    encode,
};

/// Values converted per call of `half`'s slice conversion, which looks for the processor's instruction at run time.
const CHUNK: usize = 256;

fn decode(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_endian = "little")]
    if let Ok(halves) = bytemuck::try_cast_slice::<u8, f16>(bytes) {
        return halves.convert_to_f32_slice(out);
    }
    // Bytes at an odd address pass through an aligned chunk.
    let mut chunk = [f16::ZERO; CHUNK];
    for (bytes, out) in bytes.as_chunks::<2>().0.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let chunk = &mut chunk[..out.len()];
        for (half, bytes) in chunk.iter_mut().zip(bytes) {
            *half = f16::from_le_bytes(*bytes);
        }
        chunk.convert_to_f32_slice(out);
    }
}

/// Finite values beyond ±65504 become ±65504; infinities and NaN stay.
fn encode(values: &[f32], out: &mut [u8]) {
    let mut chunk = [f16::ZERO; CHUNK];
    for (values, out) in values.chunks(CHUNK).zip(out.as_chunks_mut::<2>().0.chunks_mut(CHUNK)) {
        let chunk = &mut chunk[..out.len()];
        chunk.convert_from_f32_slice(values);
        for ((&half, out), &v) in chunk.iter().zip(out).zip(values) {
            // Overflow rounded to infinity: one below it, of the same sign, is the largest finite number.
            let overflowed = half.is_infinite() && v.is_finite();
            *out = (half.to_bits() - u16::from(overflowed)).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_depend_on_the_address() {
        // Every code that is a number, more than one chunk of them, at an even and at an odd address.
        let codes: Vec<u8> = (0..=u16::MAX).filter(|code| code & 0x7c00 != 0x7c00).flat_map(u16::to_le_bytes).collect();
        let shifted = [&[0], &codes[..]].concat();
        let mut expected = vec![0f32; codes.len() / 2];
        for (value, code) in expected.iter_mut().zip(codes.as_chunks::<2>().0) {
            *value = f16::from_le_bytes(*code).to_f32();
        }
        for bytes in [&codes[..], &shifted[1..]] {
            let mut found = vec![0f32; expected.len()];
            decode(bytes, &mut found);
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
