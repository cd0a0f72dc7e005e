//! `puna-format` against independent programs: blocks as llama.cpp wrote them, values as the `gguf` package decodes them.
//!
//! The few lines that read a GGUF header here are on purpose not those of `puna-checkpoint`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use puna_conformance::models;
use puna_format::Format;
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn bard() -> PathBuf {
    models().join("bard")
}

/// A tensor of a GGUF file: its format, the length of its rows, its bytes.
struct Tensor {
    format: Format,
    row: usize,
    bytes: Vec<u8>,
}

impl Tensor {
    fn decode(&self) -> Vec<f32> {
        let info = self.format.info();
        let mut values = vec![0.0; self.bytes.len() / info.block_bytes * info.block_elems];
        self.format.decode(&self.bytes, &mut values);
        values
    }
}

/// The tensors of a (trusted) GGUF v3 file by name.
fn gguf(name: &str) -> BTreeMap<String, Tensor> {
    let file = std::fs::read(bard().join("gguf").join(name)).unwrap();
    let mut at = 4;
    assert_eq!(&file[..at], b"GGUF");
    let mut take = |n: usize| {
        at += n;
        &file[at - n..at]
    };
    let u32_ = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let u64_ = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap()) as usize;
    assert_eq!(u32_(take(4)), 3);
    let (n_tensors, n_keys) = (u64_(take(8)), u64_(take(8)));
    let width = |kind: u32| [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
    for _ in 0..n_keys {
        let n = u64_(take(8));
        let key = String::from_utf8(take(n).to_vec()).unwrap();
        assert_ne!(key, "general.alignment", "this reader knows the default only");
        let (mut kind, mut count) = (u32_(take(4)), 1);
        if kind == 9 {
            (kind, count) = (u32_(take(4)), u64_(take(8)));
        }
        for _ in 0..count {
            let n = if kind == 8 { u64_(take(8)) } else { width(kind) };
            take(n);
        }
    }
    let mut headers = Vec::new();
    for _ in 0..n_tensors {
        let n = u64_(take(8));
        let name = String::from_utf8(take(n).to_vec()).unwrap();
        let n_dims = u32_(take(4));
        let dims: Vec<usize> = (0..n_dims).map(|_| u64_(take(8))).collect();
        let format = Format::from_ggml_type(u32_(take(4))).unwrap();
        headers.push((name, format, dims, u64_(take(8))));
    }
    let data = at.next_multiple_of(32);
    let tensor = |(name, format, dims, offset): (String, Format, Vec<usize>, usize)| {
        let len = format.row_bytes(dims.iter().product()).unwrap();
        let bytes = file[data + offset..data + offset + len].to_vec();
        (name, Tensor { format, row: dims[0], bytes })
    };
    headers.into_iter().map(tensor).collect()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn every_block_decodes_to_the_bits_of_the_gguf_package() {
    let golden = std::fs::read(bard().join("golden/dequant.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let mut seen = Vec::new();
    for (key, expected) in golden.tensors() {
        let [kind, file, tensor, rows] = key.split('|').collect::<Vec<_>>()[..] else { panic!("{key}") };
        assert_eq!(rows, "rows0-4");
        let tensor = &gguf(file)[tensor];
        assert_eq!(tensor.format.name(), kind, "{key}");
        let values = &tensor.decode()[..4 * tensor.row];
        let bits: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(bits == expected.data(), "{key}");
        seen.push(tensor.format);
    }
    assert_eq!(seen.len(), 14, "{seen:?}");
}

/// Formats whose encoder takes no search, so that there is one right answer.
const BYTE_EQUAL: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];

/// The original weights, encoded by us and by llama.cpp: the same bytes where nothing is searched for, and elsewhere
/// values that are nearer to the original.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn encodes_as_llama_cpp_or_better() {
    let original = gguf("bf16.gguf");
    let mut errors: BTreeMap<Format, (f64, f64)> = BTreeMap::new();
    for file in
        ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs"]
    {
        for (name, theirs) in gguf(&format!("{file}.gguf")) {
            let info = theirs.format.info();
            if info.block_elems == 1 {
                continue;
            }
            let values = original[&name].decode();
            let mut bytes = vec![0; theirs.bytes.len()];
            theirs.format.encode(&values, &mut bytes);
            if BYTE_EQUAL.contains(&theirs.format) {
                assert!(bytes == theirs.bytes, "{file}: {name}");
                continue;
            }
            let ours = Tensor { bytes, format: theirs.format, row: theirs.row };
            let squares =
                |decoded: Vec<f32>| -> f64 { decoded.iter().zip(&values).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
            let norm: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
            let sums = errors.entry(theirs.format).or_default();
            sums.0 += squares(ours.decode()) / norm;
            sums.1 += squares(theirs.decode()) / norm;
        }
    }
    for (format, (ours, theirs)) in &errors {
        let ratio = (ours / theirs).sqrt();
        println!("{format}: rms error {ratio:.4} of llama.cpp's");
        assert!(ratio < 0.99, "{format}: {ratio}");
    }
    assert_eq!(errors.len(), 7);
}
