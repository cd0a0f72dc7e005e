//! Number and block formats: what the bytes of a weight mean.
//!
//! **One file a format**, plus one line in [`FORMATS`], which everything walks: the file readers, the quantizer,
//! the help texts and the conformance cases. A format file holds the packed block, its `decode` to f32, its `encode`
//! from f32, and its [`Info`]. Nothing here knows files, threads or instruction sets beyond the baseline.
//!
//! A *block* is the smallest run of consecutive values of a row that can be decoded alone. All blocks are plain bytes
//! (alignment 1), so any byte slice of the right length can be viewed as blocks without a copy.

mod bf16;
mod f16;
mod f32;
mod f8e4m3;
mod iq4_nl;
mod iq4_xs;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

// What the encoders share; the format files above import it.
mod fit;

pub use iq4_nl::{BlockIQ4_NL, IQ4_VALUES};
pub use iq4_xs::BlockIQ4_XS;
pub use q2_k::BlockQ2_K;
pub use q3_k::BlockQ3_K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4_K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5_K;
pub use q6_k::BlockQ6_K;
pub use q8_0::BlockQ8_0;

/// A number format or a block format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the field writes them so")]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of an [`Format::F32`].
    BF16,
    /// The 8-bit float E4M3 without infinities.
    F8E4M3,
    /// 32 × 4 bits with one f16 scale.
    Q4_0,
    /// 32 × 4 bits with one f16 scale and one f16 minimum.
    Q4_1,
    /// 32 × 5 bits with one f16 scale.
    Q5_0,
    /// 32 × 5 bits with one f16 scale and one f16 minimum.
    Q5_1,
    /// 32 × i8 with one f16 scale.
    Q8_0,
    /// 16 × 16 × 2 bits, each sixteen with a 4-bit scale and minimum.
    Q2_K,
    /// 16 × 16 × 3 bits, each sixteen with a 6-bit scale.
    Q3_K,
    /// 8 × 32 × 4 bits, each 32 with a 6-bit scale and minimum.
    Q4_K,
    /// 8 × 32 × 5 bits, each 32 with a 6-bit scale and minimum.
    Q5_K,
    /// 16 × 16 × 6 bits, each sixteen with an 8-bit scale.
    Q6_K,
    /// 32 × 4 bits that index [`IQ4_VALUES`], with one f16 scale.
    IQ4_NL,
    /// 8 × 32 × 4 bits that index [`IQ4_VALUES`], each 32 with a 6-bit scale.
    IQ4_XS,
}

/// What everything that walks [`FORMATS`] needs to know of one format.
pub struct Info {
    /// The format.
    pub format: Format,
    /// Its name as GGUF tools and people write it, e.g. `Q4_K`.
    pub name: &'static str,
    /// Values per block.
    pub block_elems: usize,
    /// Bytes per block.
    pub block_bytes: usize,
    /// `ggml_type` in a GGUF file, when GGUF has this format.
    pub ggml_type: Option<u32>,
    /// `dtype` in a safetensors header, when safetensors has this format.
    pub safetensors_dtype: Option<&'static str>,
    /// Decodes whole blocks: `bytes.len() / block_bytes == out.len() / block_elems`, both exact.
    pub decode: fn(bytes: &[u8], out: &mut [f32]),
    /// Encodes whole blocks, round to nearest; the inverse shape contract of `decode`.
    pub encode: fn(values: &[f32], out: &mut [u8]),
}

/// Every format, in the order that help texts show.
pub static FORMATS: &[&Info] = &[
    &f32::INFO,
    &f16::INFO,
    &bf16::INFO,
    &f8e4m3::INFO,
    &q4_0::INFO,
    &q4_1::INFO,
    &q5_0::INFO,
    &q5_1::INFO,
    &q8_0::INFO,
    &q2_k::INFO,
    &q3_k::INFO,
    &q4_k::INFO,
    &q5_k::INFO,
    &q6_k::INFO,
    &iq4_nl::INFO,
    &iq4_xs::INFO,
];

impl Format {
    /// The table entry of this format.
    pub fn info(self) -> &'static Info {
        FORMATS.iter().find(|info| info.format == self).expect("every Format has its line in FORMATS (tested)")
    }

    /// Its name, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// The format of a name, in any case.
    pub fn from_name(name: &str) -> Option<Format> {
        FORMATS.iter().find(|info| info.name.eq_ignore_ascii_case(name)).map(|info| info.format)
    }

    /// The format of a GGUF `ggml_type`.
    pub fn from_ggml_type(ggml_type: u32) -> Option<Format> {
        FORMATS.iter().find(|info| info.ggml_type == Some(ggml_type)).map(|info| info.format)
    }

    /// The format of a safetensors `dtype`.
    pub fn from_safetensors_dtype(dtype: &str) -> Option<Format> {
        FORMATS.iter().find(|info| info.safetensors_dtype == Some(dtype)).map(|info| info.format)
    }

    /// Bytes of a row of `n` values; `None` when `n` is not a whole number of blocks or the product overflows.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        let info = self.info();
        if !n.is_multiple_of(info.block_elems) {
            return None;
        }
        (n / info.block_elems).checked_mul(info.block_bytes)
    }

    /// Decodes whole blocks to f32.
    ///
    /// # Panics
    /// When the lengths are not the same whole number of blocks.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let info = self.info();
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "{}: bytes for {} values", info.name, out.len());
        (info.decode)(bytes, out);
    }

    /// Encodes whole blocks from f32. The same values give the same bytes, on every machine.
    ///
    /// A format of single numbers takes the nearest number. A block format fits its scales to the values of the block,
    /// then takes the nearest code. Finite values always decode to finite values: what is too large for the format
    /// saturates. Infinities stay in F32, F16 and BF16 and saturate elsewhere. A NaN stays in a format that has NaN
    /// and counts as zero in a block format; beside an infinity or a huge value, the rest of a block loses precision.
    ///
    /// # Panics
    /// When the lengths are not the same whole number of blocks.
    pub fn encode(self, values: &[f32], out: &mut [u8]) {
        let info = self.info();
        assert_eq!(Some(out.len()), self.row_bytes(values.len()), "{}: bytes for {} values", info.name, values.len());
        (info.encode)(values, out);
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Format::info` relies on it. A format without its line here leaves its `INFO` unused, which the compiler says.
    #[test]
    fn the_table_has_every_format_once_in_order() {
        let places: Vec<usize> = FORMATS.iter().map(|info| info.format as usize).collect();
        assert_eq!(places, Vec::from_iter(0..=Format::IQ4_XS as usize));
    }
}
