//! Random-weight models open as models, are the same for a seed whatever the number of threads, and are of sane size.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::{
    Bytes, Checkpoint, GgufVocabulary, LayerTensor, Name, TokenizerSource, WeightFormat, gguf, open,
    synth::{Container, Shape, Weights, write, write_initial},
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

/// A vocabulary of 600 tokens.
fn vocabulary(dir: &Path) -> GgufVocabulary {
    let path = dir.join("vocabulary.gguf");
    synth("Q8_0", Container::Gguf, &path, 0);
    match open(&path).unwrap().tokenizer {
        TokenizerSource::Gguf(vocabulary) => vocabulary,
        other => panic!("{other:?}"),
    }
}

/// Mean and standard deviation.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn training_begins_with_normal_weights() {
    const SIZES: &str =
        r#""dim": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 192, "context_length": 256"#;
    let dir = tempfile::tempdir().unwrap();
    let (vocabulary, path) = (vocabulary(dir.path()), dir.path().join("initial.gguf"));
    for tied in [false, true] {
        let shape = Shape::from_json("cub", &format!("{{{SIZES}, \"tied_embeddings\": {tied}}}")).unwrap();
        let mut last = (0, 0);
        write_initial(&shape, &vocabulary, Some("{{ bos_token }}"), &path, 5, &mut |done, total| last = (done, total))
            .unwrap();
        let model: Checkpoint = open(&path).unwrap();
        assert_eq!(last, (model.tensor_bytes() + 4 * 16, model.tensor_bytes() + 4 * 16), "weights and rope_freqs");
        assert_eq!((model.config.vocab_size, model.config.tied_embeddings), (600, tied));
        assert_eq!(model.tensor(Name::Output).is_some(), !tied);
        assert_eq!(model.chat_template.as_deref(), Some("{{ bos_token }}"));
        assert!(matches!(&model.tokenizer, TokenizerSource::Gguf(found) if *found == vocabulary));
        for tensor in model.tensors() {
            let values = tensor.to_f32();
            if tensor.name.is_norm() {
                assert!(values.iter().all(|v| *v == 1.0));
                continue;
            }
            use LayerTensor::{AttentionOutput, Down};
            let residual = matches!(tensor.name, Name::Layer { tensor: AttentionOutput | Down, .. });
            let expected = if residual { 0.02 / 8f64.sqrt() } else { 0.02 };
            let (mean, std) = moments(&values);
            assert!(mean.abs() < 5.0 * expected / (values.len() as f64).sqrt(), "{}: {mean}", tensor.name);
            assert!((std / expected - 1.0).abs() < 0.04, "{}: {std}, expected {expected}", tensor.name);
            // Of a normal distribution 68.3 % lie within one standard deviation, 95.4 % within two.
            for (bound, share) in [(1.0, 0.683), (2.0, 0.954)] {
                let within = values.iter().filter(|v| f64::from(v.abs()) < bound * std).count();
                let found = within as f64 / values.len() as f64;
                assert!((found - share).abs() < 0.02, "{}: {found} within {bound} deviations", tensor.name);
            }
            // No value is used twice as runs of a pool are: neighbours and rows are of their own.
            let distinct: std::collections::BTreeSet<u32> = values.iter().map(|v| v.to_bits()).collect();
            assert!(distinct.len() > values.len() * 9 / 10, "{}: {} values", tensor.name, distinct.len());
        }
    }
}

#[test]
fn the_seed_alone_decides_what_training_begins_with() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = vocabulary(dir.path());
    let shape = Shape::from_json("cub", r#"{"dim": 64, "n_layers": 2, "n_heads": 2, "ffn_dim": 96}"#).unwrap();
    let bytes = |threads: usize, seed: u64| {
        let path = dir.path().join("initial.gguf");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| write_initial(&shape, &vocabulary, None, &path, seed, &mut |_, _| {}).unwrap());
        std::fs::read(path).unwrap()
    };
    let one = bytes(1, 7);
    assert!(one == bytes(3, 7));
    assert!(one != bytes(1, 8));
}

#[test]
fn shape_and_vocabulary_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (vocabulary, path) = (vocabulary(dir.path()), dir.path().join("initial.gguf"));
    let write = |vocab_size: usize| {
        let json = format!(r#"{{"dim": 64, "n_layers": 1, "n_heads": 2, "ffn_dim": 96, "vocab_size": {vocab_size}}}"#);
        let shape = Shape::from_json("cub.json", &json).unwrap();
        write_initial(&shape, &vocabulary, None, &path, 0, &mut |_, _| {}).map_err(|error| error.to_string())
    };
    let error = write(1024).unwrap_err();
    assert_eq!(error, "cub.json: `vocab_size` is 1024, expected 600, the tokens of the vocabulary, or no such key");
    assert!(!path.exists());
    write(600).unwrap();
}

#[test]
fn a_model_in_the_program_opens_as_its_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    synth("Q8_0", Container::Gguf, &path, 1);
    let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
    let (there, here) = (open(&path).unwrap(), gguf::from_bytes(Path::new("cria"), Bytes::from(bytes)).unwrap());
    assert_eq!((&here.config, &here.tokenizer), (&there.config, &there.tokenizer));
    assert_eq!((here.files[0].path.as_path(), here.files[0].bytes), (Path::new("cria"), bytes.len() as u64));
    for (here, there) in here.tensors().zip(there.tensors()) {
        assert_eq!((here.name, here.format, &*here.parts[0].bytes), (there.name, there.format, &*there.parts[0].bytes));
        let address = here.parts[0].bytes.as_ptr();
        assert!(bytes.as_ptr_range().contains(&address), "{} was copied", here.name);
    }
    let cut: &'static [u8] = &bytes[..bytes.len() - 1];
    let error = gguf::from_bytes(Path::new("cria"), Bytes::from(cut)).unwrap_err().to_string();
    assert!(error.starts_with("cria: "), "{error}");
}
