//! Every published form opens, and holds the same values.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod material;

use material::*;
use puna_checkpoint::{Checkpoint, Layout, Name, RopePairing, RopeScaling, TokenizerSource, open};
use puna_format::Format;
use std::path::Path;

fn holds_the_values(model: &Checkpoint) {
    assert_eq!(model.tensors().count(), names().len());
    for name in names() {
        let tensor = model.tensor(name).unwrap();
        assert_eq!((tensor.rows, tensor.cols), config().shape(name));
        assert_eq!(tensor.to_f32(), values(name), "{name}");
    }
}

fn opened(make: impl FnOnce(&Path)) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let model = open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
    (dir, model)
}

#[test]
fn hugging_face_in_one_file_and_in_shards() {
    for format in [Format::F32, Format::F16, Format::BF16] {
        let (dir, model) = opened(|dir| hugging_face(dir, format));
        holds_the_values(&model);
        assert_eq!((model.layout, &model.config), (Layout::HuggingFace, &config()));
        assert_eq!(model.tokenizer, TokenizerSource::TokenizerJson(dir.path().join("tokenizer.json")));
        assert_eq!((model.generation.bos, &model.generation.eos), (Some(1), &vec![2, 3]));
        assert_eq!(model.tensor(Name::Output).unwrap().format, format);
    }
    let (_dir, model) = opened(|dir| hugging_face_sharded(dir, 4));
    holds_the_values(&model);
    assert_eq!(model.files.len(), 4);
    assert_eq!(model.tensor_bytes(), names().iter().map(|&name| 2 * values(name).len() as u64).sum::<u64>());
}

#[test]
fn fp8_with_a_scale_per_row() {
    let (_dir, model) = opened(hugging_face_fp8);
    for name in names() {
        let tensor = model.tensor(name).unwrap();
        if !is_fp8(name) {
            assert_eq!(tensor.to_f32(), values(name));
            continue;
        }
        let rounded = |v: f32| {
            let mut out = [0.0];
            Format::F8E4M3.decode(&encode(Format::F8E4M3, &[v]), &mut out);
            out[0]
        };
        let expected: Vec<f32> =
            values(name).iter().enumerate().map(|(i, v)| rounded(*v) * scale(i / tensor.cols)).collect();
        assert_eq!(tensor.to_f32(), expected, "{name}");
    }
}

#[test]
fn gguf_in_one_file_and_split() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    for format in [Format::F32, Format::F16, Format::BF16] {
        gguf(&path, format);
        let model = open(&path).unwrap();
        holds_the_values(&model);
        assert_eq!((model.layout, model.config.rope.pairing), (Layout::Gguf, RopePairing::Interleaved));
        assert_eq!(model.config.rope.scaling, RopeScaling::Factors(config().rope.divisors(8).into()));
        assert_eq!(model.tokenizer, TokenizerSource::Gguf(vocabulary()));
        assert_eq!(model.chat_template.as_deref(), Some("{{ template }}"));
        assert_eq!((model.generation.bos, &model.generation.eos), (Some(1), &vec![2]));
    }
    gguf_split(dir.path(), 3);
    for n in 1..=3 {
        let model = open(&dir.path().join(format!("tiny-{n:05}-of-00003.gguf"))).unwrap();
        holds_the_values(&model);
        assert_eq!(model.files.len(), 3);
    }
    std::fs::remove_file(dir.path().join("tiny-00002-of-00003.gguf")).unwrap();
    let message = open(&dir.path().join("tiny-00001-of-00003.gguf")).unwrap_err().to_string();
    assert!(message.contains("1 of 3 files are missing: tiny-00002-of-00003.gguf"), "{message}");
}

#[test]
fn gguf_block_formats_decode_row_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    gguf(&path, Format::Q8_0);
    let model = open(&path).unwrap();
    let tensor = model.tensor(Name::TokenEmbedding).unwrap();
    assert_eq!((tensor.format, tensor.n_bytes()), (Format::Q8_0, 40 * 34));
    for (found, expected) in tensor.to_f32().iter().zip(values(Name::TokenEmbedding)) {
        assert!((found - expected).abs() < 0.005);
    }
}

#[test]
fn meta_with_any_number_of_ranks() {
    // With four ranks and two heads, wk and wv come twice.
    for mp in [1, 2, 4] {
        for llama2 in [false, true] {
            let (dir, model) = opened(|dir| meta(dir, mp, llama2));
            holds_the_values(&model);
            let mut expected = config();
            expected.rope.pairing = RopePairing::Interleaved;
            assert_eq!((model.layout, &model.config), (Layout::Meta, &expected));
            assert_eq!(model.tokenizer, TokenizerSource::Tiktoken(dir.path().join("tokenizer.model")));
            assert_eq!(model.files.len(), mp);
        }
    }
}

#[test]
fn meta_fp8_has_scales_per_rank() {
    let (_dir, model) = opened(meta_fp8);
    for name in names().into_iter().filter(|&name| is_fp8(name)) {
        let tensor = model.tensor(name).unwrap();
        assert_eq!((tensor.format, tensor.parts.len()), (Format::F8E4M3, 2));
        let decoded = tensor.to_f32();
        for (i, v) in values(name).into_iter().enumerate() {
            let (row, col) = (i / tensor.cols, i % tensor.cols);
            let part_idx = tensor
                .parts
                .iter()
                .position(|p| (p.row0..p.row0 + p.rows).contains(&row) && (p.col0..p.col0 + p.cols).contains(&col));
            let part_idx = part_idx.unwrap();
            let factor = scale(row - tensor.parts[part_idx].row0) * (part_idx + 1) as f32;
            assert!((decoded[i] - v * factor).abs() <= 0.07 * (v * factor).abs() + 1e-6, "{name} {i}");
        }
    }
}

#[test]
fn llama2_vocabulary_comes_from_the_tensor() {
    for llama2 in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        meta(dir.path(), 2, llama2);
        for text in [
            PARAMS_JSON.replace(r#""vocab_size": 40"#, r#""vocab_size": -1"#),
            PARAMS_JSON.replace(r#""vocab_size": 40,"#, ""),
        ] {
            std::fs::write(dir.path().join("params.json"), text).unwrap();
            assert_eq!(open(dir.path()).unwrap().config.vocab_size, VOCAB);
        }
    }
}

#[test]
fn tied_embeddings() {
    // Hugging Face says so; GGUF and Meta leave the matrix out.
    let dir = tempfile::tempdir().unwrap();
    let tied: Vec<Name> = names().into_iter().filter(|&name| name != Name::Output).collect();
    std::fs::write(
        dir.path().join("config.json"),
        CONFIG_JSON.replace(r#""tie_word_embeddings": false"#, r#""tie_word_embeddings": true"#),
    )
    .unwrap();
    safetensors(&dir.path().join("model.safetensors"), Format::BF16, &tied);
    let model = open(dir.path()).unwrap();
    assert!(model.config.tied_embeddings && model.tensor(Name::Output).is_none());
    // A matrix that differs from the embedding contradicts the configuration.
    safetensors(&dir.path().join("model.safetensors"), Format::BF16, &names());
    assert!(open(dir.path()).unwrap_err().to_string().contains("lm_head.weight"));

    let (metadata, mut tensors) = gguf_parts(Format::F16);
    tensors.retain(|(declaration, _)| declaration.name != "output.weight");
    let path = dir.path().join("tied.gguf");
    write_gguf(&path, &metadata, &tensors);
    assert!(open(&path).unwrap().config.tied_embeddings);
}

#[test]
fn newer_rope_parameters() {
    let dir = tempfile::tempdir().unwrap();
    hugging_face(dir.path(), Format::BF16);
    let a = CONFIG_JSON.find(r#""rope_scaling""#).unwrap();
    let text = format!("{}{}", &CONFIG_JSON[..a], CONFIG_JSON[a..].replace("rope_scaling", "rope_parameters"))
        .replace(r#""rope_theta": 500000.0, "#, "")
        .replace(r#""rope_type": "llama3""#, r#""rope_type": "llama3", "rope_theta": 500000.0"#);
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    assert_eq!(open(dir.path()).unwrap().config, config());
    let old = CONFIG_JSON.replace(r#""rope_type": "llama3""#, r#""type": "linear""#);
    let old = ["low_freq_factor", "high_freq_factor"].iter().fold(old, |text, key| {
        text.replace(&format!(r#""{key}": 1.0, "#), "").replace(&format!(r#""{key}": 4.0,"#), "")
    });
    std::fs::write(dir.path().join("config.json"), old).unwrap();
    assert_eq!(open(dir.path()).unwrap().config.rope.scaling, RopeScaling::Linear { factor: 8.0 });
}

#[test]
fn templates_and_generation_beside_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    hugging_face(dir.path(), Format::BF16);
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put(
        "tokenizer_config.json",
        r#"{"x": [1], "chat_template": [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]}"#,
    );
    put(
        "generation_config.json",
        r#"{"bos_token_id": 7, "eos_token_id": 8, "temperature": 0.6, "top_p": 0.9, "max_length": 4}"#,
    );
    let model = open(dir.path()).unwrap();
    assert_eq!(model.chat_template.as_deref(), Some("a"));
    assert_eq!(
        (model.generation.bos, &model.generation.eos, model.generation.temperature),
        (Some(7), &vec![8], Some(0.6))
    );
    put("tokenizer_config.json", r#"{"chat_template": "c"}"#);
    assert_eq!(open(dir.path()).unwrap().chat_template.as_deref(), Some("c"));
    put("chat_template.jinja", "d");
    assert_eq!(open(dir.path()).unwrap().chat_template.as_deref(), Some("d"));
}
