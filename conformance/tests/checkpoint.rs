//! Every published form of one model, made by independent programs: opened, and compared with each other.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::{Checkpoint, LayerTensor, Layout, Name, RopePairing, RopeScaling, Tensor, TokenizerSource, open};
use puna_conformance::models;
use puna_format::Format;

fn bard(form: &str) -> Checkpoint {
    open(&models().join("bard").join(form)).unwrap_or_else(|e| panic!("{e}"))
}

const GGUF: [&str; 14] = [
    "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl",
    "iq4_xs",
];

fn sizes_are_those_of_bard(model: &Checkpoint) {
    let config = &model.config;
    assert_eq!((config.dim, config.n_layers, config.n_heads, config.n_kv_heads), (256, 4, 8, 2));
    assert_eq!((config.head_dim, config.ffn_dim, config.vocab_size, config.context_length), (32, 768, 4096, 131_072));
    assert_eq!((config.norm_eps, config.rope.theta, config.tied_embeddings), (1e-5, 500_000.0, false));
    assert_eq!(model.tensors().count(), 39);
    assert_eq!(model.tensors().map(|tensor| (tensor.rows * tensor.cols) as u64).sum::<u64>(), 5_114_112);
}

/// The rows of q or k of a Hugging Face file in the order of Meta and GGUF: per head, row `2i` was row `i` and row
/// `2i + 1` was row `i + head_dim / 2`.
fn interleaved(model: &Checkpoint, tensor: &Tensor) -> Vec<f32> {
    let values = tensor.to_f32();
    if !matches!(tensor.name, Name::Layer { tensor: LayerTensor::Query | LayerTensor::Key, .. }) {
        return values;
    }
    let (head_dim, cols) = (model.config.head_dim, tensor.cols);
    let order = (0..tensor.rows).map(|row| {
        let (head, i) = (row / head_dim, row % head_dim);
        head * head_dim + i / 2 + if i % 2 == 0 { 0 } else { head_dim / 2 }
    });
    order.flat_map(|row| values[row * cols..(row + 1) * cols].to_vec()).collect()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn every_form_opens_with_the_same_sizes() {
    for (form, layout) in [("hf", Layout::HuggingFace), ("hf-fp8", Layout::HuggingFace), ("meta", Layout::Meta)] {
        let model = bard(form);
        sizes_are_those_of_bard(&model);
        assert_eq!(model.layout, layout);
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        assert_eq!(model.config.rope.scaling, llama3);
    }
    let factors = bard("hf").config.rope.divisors(32);
    for form in GGUF {
        let model = bard(&format!("gguf/{form}.gguf"));
        sizes_are_those_of_bard(&model);
        assert_eq!((model.layout, model.config.rope.pairing), (Layout::Gguf, RopePairing::Interleaved));
        let RopeScaling::Factors(found) = &model.config.rope.scaling else { panic!("{form}: no factors") };
        for (found, expected) in found.iter().zip(&factors) {
            assert!((found - expected).abs() <= 1e-6 * expected, "{form}: {found} {expected}");
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn unquantized_forms_hold_equal_values() {
    let hf = bard("hf");
    assert_eq!(hf.config.rope.pairing, RopePairing::Halves);
    for (form, bits) in [("meta", 16), ("gguf/bf16.gguf", 16), ("gguf/f16.gguf", 11)] {
        let other = bard(form);
        for tensor in hf.tensors() {
            let found = other.tensor(tensor.name).unwrap();
            let expected = interleaved(&hf, tensor);
            assert_eq!((found.rows, found.cols), (tensor.rows, tensor.cols));
            let found = found.to_f32();
            if bits == 16 {
                assert_eq!(found, expected, "{form} {}", tensor.name);
            } else {
                // bf16 has eight bits; f16 holds them all but of the smallest numbers.
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 3e-8f32.max(a.abs() * 1e-6);
                assert!(found.iter().zip(&expected).all(close), "{form} {}", tensor.name);
            }
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn fp8_has_a_scale_per_row_and_is_near() {
    let (hf, fp8) = (bard("hf"), bard("hf-fp8"));
    let mut n = 0;
    for tensor in fp8.tensors() {
        let expected = hf.tensor(tensor.name).unwrap().to_f32();
        let found = tensor.to_f32();
        if tensor.format == Format::F8E4M3 {
            n += 1;
            assert!(tensor.parts.iter().all(|part| part.row_scales.as_ref().is_some_and(|s| s.len() == tensor.rows)));
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let error =
                norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
            assert!(error < 0.04, "{}: {error}", tensor.name);
        } else {
            assert_eq!(found, expected, "{}", tensor.name);
        }
    }
    assert_eq!(n, 6);
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn quantized_forms_are_near() {
    let hf = bard("hf");
    for form in GGUF {
        let model = bard(&format!("gguf/{form}.gguf"));
        for tensor in hf.tensors() {
            let expected = interleaved(&hf, tensor);
            let found = model.tensor(tensor.name).unwrap().to_f32();
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let error =
                norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
            // Two bits a value are this coarse.
            assert!(error < 0.45, "{form} {}: {error}", tensor.name);
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn what_lies_beside_the_weights() {
    let hf = bard("hf");
    assert_eq!((hf.generation.bos, &hf.generation.eos), (Some(3840), &vec![3841, 3848, 3849]));
    assert_eq!((hf.generation.temperature, hf.generation.top_p), (Some(0.6), Some(0.9)));
    assert!(matches!(&hf.tokenizer, TokenizerSource::TokenizerJson(path) if path.is_file()));
    let template = hf.chat_template.expect("tokenizer_config.json has one");
    assert!(template.starts_with("{{- bos_token }}"));

    let meta = bard("meta");
    assert!(matches!(&meta.tokenizer, TokenizerSource::Tiktoken(path) if path.is_file()));

    let gguf = bard("gguf/q4_k_m.gguf");
    assert_eq!(gguf.chat_template, Some(template));
    assert_eq!((gguf.generation.bos, gguf.generation.eos), (Some(3840), vec![3849]));
    let TokenizerSource::Gguf(vocabulary) = gguf.tokenizer else { panic!("no vocabulary") };
    assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_deref()), ("gpt2", Some("llama-bpe")));
    assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (4096, 5916));
    assert_eq!((vocabulary.tokens[3840].as_str(), vocabulary.token_types[3840]), ("<|begin_of_text|>", 3));
    assert_eq!(vocabulary.add_bos, Some(true));
}
