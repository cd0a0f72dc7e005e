//! Random-weight models open as models, are the same for a seed whatever the number of threads, and are of sane size.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::{
    Name, TokenizerSource, WeightFormat, open,
    synth::{Container, Shape, Weights, write},
};
use std::path::Path;

fn shape() -> Shape {
    let json = r#"{"dim": 512, "n_layers": 3, "n_heads": 8, "n_kv_heads": 2, "ffn_dim": 768, "vocab_size": 600}"#;
    Shape::from_json("tiny", json).unwrap()
}

fn synth(format: &str, container: Container, out: &Path, seed: u64) {
    let mut last = (0, 0);
    write(&shape(), format.parse().unwrap(), container, out, Weights::Random { seed }, &mut |done, total| {
        assert!(done > last.0 && done <= total);
        last = (done, total);
    })
    .unwrap_or_else(|e| panic!("{format}: {e}"));
    assert_eq!(last.0, last.1);
}

#[test]
fn every_format_opens_as_gguf() {
    let dir = tempfile::tempdir().unwrap();
    for format in WeightFormat::names().filter(|name| *name != "FP8") {
        let path = dir.path().join(format!("{format}.gguf"));
        synth(format, Container::Gguf, &path, 1);
        let model = open(&path).unwrap_or_else(|e| panic!("{format}: {e}"));
        let TokenizerSource::Gguf(vocabulary) = &model.tokenizer else { panic!("no vocabulary") };
        assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (600, 600 - 512));
        assert_eq!((model.generation.bos, &model.generation.eos), (Some(344), &vec![353]));
        for tensor in model.tensors() {
            let values = tensor.to_f32();
            if tensor.name.is_norm() {
                assert!(values.iter().all(|v| *v == 1.0));
                continue;
            }
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let std = (values.iter().map(|v| v * v).sum::<f32>() / n).sqrt() * (tensor.cols as f32).sqrt();
            assert!(mean.abs() < 0.01 && (0.85..1.15).contains(&std), "{format} {}: {mean} {std}", tensor.name);
            let row = |i: usize| &values[i * tensor.cols..(i + 1) * tensor.cols];
            assert!((1..tensor.rows).all(|i| row(i) != row(0)));
        }
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn safetensors_directories_open() {
    for format in ["F32", "F16", "BF16", "FP8"] {
        let dir = tempfile::tempdir().unwrap();
        synth(format, Container::Safetensors, dir.path(), 1);
        let model = open(dir.path()).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!((model.generation.bos, &model.generation.eos), (Some(344), &vec![345, 352, 353]));
        assert!(matches!(model.tokenizer, TokenizerSource::TokenizerJson(_)));
        for tensor in model.tensors().filter(|tensor| !tensor.name.is_norm()) {
            let values = tensor.to_f32();
            let std = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32 * tensor.cols as f32).sqrt();
            assert!((0.9..1.1).contains(&std), "{format} {}: {std}", tensor.name);
        }
        let scaled = model.tensors().filter(|tensor| tensor.parts[0].row_scales.is_some()).count();
        assert_eq!(scaled, if format == "FP8" { 3 } else { 0 });
    }
}

#[test]
fn bytes_depend_on_the_seed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |threads: usize, seed: u64| {
        let path = dir.path().join("x.gguf");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| synth("Q4_K_M", Container::Gguf, &path, seed));
        std::fs::read(path).unwrap()
    };
    let one = bytes(1, 7);
    assert!(one == bytes(3, 7));
    assert!(one != bytes(1, 8));
}

#[test]
fn tied_embeddings_and_other_layers() {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"{"dim": 64, "n_layers": 3, "n_heads": 8, "ffn_dim": 96, "vocab_size": 520, "tied_embeddings": true}"#;
    let shape = Shape::from_json("tied", json).unwrap().with_layers(1).unwrap();
    let path = dir.path().join("x.gguf");
    write(&shape, "Q8_0".parse().unwrap(), Container::Gguf, &path, Weights::Random { seed: 0 }, &mut |_, _| {})
        .unwrap();
    let model = open(&path).unwrap();
    assert!(model.config.tied_embeddings && model.config.n_layers == 1 && model.tensor(Name::Output).is_none());
    // 64 values are no whole blocks of 256.
    let error =
        write(&shape, "Q4_K_M".parse().unwrap(), Container::Gguf, &path, Weights::Random { seed: 0 }, &mut |_, _| {})
            .unwrap_err();
    assert!(error.to_string().contains("multiple of 256"), "{error}");
    let error = write(
        &shape,
        "Q8_0".parse().unwrap(),
        Container::Safetensors,
        &path,
        Weights::Random { seed: 0 },
        &mut |_, _| {},
    )
    .unwrap_err();
    assert!(error.to_string().contains("Q8_0"), "{error}");
}

#[test]
fn holes_are_a_model_of_zeros() {
    let dir = tempfile::tempdir().unwrap();
    for (container, format, name) in [(Container::Gguf, "Q4_0", "m.gguf"), (Container::Safetensors, "BF16", "m")] {
        let path = dir.path().join(name);
        write(&shape(), format.parse().unwrap(), container, &path, Weights::Holes, &mut |_, _| {}).unwrap();
        let checkpoint = puna_checkpoint::open(&path).unwrap();
        for tensor in checkpoint.tensors() {
            let expected = if tensor.name.is_norm() { 1.0 } else { 0.0 };
            assert!(tensor.to_f32().iter().all(|v| *v == expected), "{}", tensor.name);
        }
    }
}
