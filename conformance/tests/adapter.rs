//! Adapters that PEFT wrote: as it means them, in both forms, down to the logits of the adapted model.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::adapter::{self, Adapter, Digest, Form};
use puna_checkpoint::export::{Deviation, Options, write_merged};
use puna_checkpoint::{Checkpoint, LayerTensor, Name, RopePairing, WeightFormat, open};
use puna_conformance::{models, read};
use puna_cpu::Cpu;
use puna_engine::Engine;
use puna_format::Format;
use puna_llama::{KvFormat, Llama, LoadOptions};
use safetensors::SafeTensors;
use std::path::PathBuf;

fn trained(name: &str) -> PathBuf {
    models().join("bard/golden/train").join(name)
}

fn bard(form: &str) -> Checkpoint {
    open(&models().join("bard").join(form)).unwrap_or_else(|e| panic!("{e}"))
}

/// A tensor of a file, by the reference implementation of safetensors.
fn reference(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let view = tensors.tensor(name).unwrap();
    let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (view.shape().to_vec(), values)
}

const SIDES: [&str; 2] = ["lora_A", "lora_B"];

/// Every tensor of a file of PEFT's, held against what was read.
fn holds(adapter: &Adapter, file: &[u8]) {
    assert_eq!(SafeTensors::deserialize(file).unwrap().len(), 2 * adapter.matrices.len());
    for (name, matrix) in &adapter.matrices {
        let module = name.hugging_face().replace(".weight", "");
        let [a, b] = SIDES.map(|side| reference(file, &format!("base_model.model.{module}.{side}.weight")));
        assert_eq!((a.0[0], b.0[1]), (matrix.rank, matrix.rank));
        assert_eq!((a.1, b.1), (matrix.a.clone(), matrix.b.clone()), "{name}");
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn directories_of_peft_open() {
    let config = bard("hf").config;
    for name in ["lora-init", "lora-final"] {
        let listing = adapter::list(&trained(name)).unwrap();
        assert_eq!((listing.form, listing.n_parameters()), (Form::Peft, 151_552));
        let adapter = listing.load(&config).unwrap();
        let linear = Name::all(4).filter(|&name| matches!(name, Name::Layer { .. }) && !name.is_norm());
        assert!(adapter.matrices.keys().copied().eq(linear));
        assert!(adapter.matrices.values().all(|matrix| (matrix.rank, matrix.alpha) == (8, 16.0)));
        assert!(adapter.matrices.values().all(|matrix| adapter.scale(matrix) == 2.0));
        assert_eq!(adapter.settings.base_name.as_deref(), Some("bard/hf"));
        assert_eq!((adapter.settings.base.as_ref(), adapter.settings.dropout), (None, 0.0));
        let untrained = adapter.matrices.values().all(|matrix| matrix.b.iter().all(|value| *value == 0.0));
        assert_eq!(untrained, name == "lora-init");
        holds(&adapter, &read(&format!("bard/golden/train/{name}/adapter_model.safetensors")));

        // Written anew, the reference implementation reads the same, and we.
        let dir = tempfile::tempdir().unwrap();
        adapter::write_peft(&adapter, dir.path(), &config).unwrap();
        holds(&adapter, &std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap());
        assert_eq!(adapter::open(dir.path(), &config).unwrap(), adapter);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn every_float_form_is_one_base() {
    use adapter::{BaseIdentity, Likeness};
    let recorded = BaseIdentity::of(&bard("hf"));
    let likeness = |form: &str| recorded.likeness(&BaseIdentity::of(&bard(form)));
    for form in ["hf", "meta", "gguf/bf16.gguf"] {
        assert_eq!(likeness(form), Likeness::Same, "{form}");
    }
    for form in ["hf-fp8", "gguf/q8_0.gguf", "gguf/q4_k_m.gguf", "gguf/iq4_xs.gguf"] {
        assert_eq!(likeness(form), Likeness::OtherFormat, "{form}");
    }
    let template = |form: &str| Digest::of(bard(form).chat_template.unwrap().as_bytes());
    assert_eq!(template("hf"), template("gguf/q4_0.gguf"));
}

/// The relative error of the logits of a model's last layer against those that are expected.
fn error_of(model: Llama<Cpu>, ids: &[u32], expected: &[f32]) -> f64 {
    let mut found = Vec::new();
    let mut engine = Engine::new(Box::new(model), 512);
    engine.score(ids, &mut |_, logits| found.extend_from_slice(logits)).unwrap();
    assert_eq!(found.len(), expected.len());
    let square = |v: f64| v * v;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (error / norm).sqrt()
}

fn loaded(checkpoint: &Checkpoint) -> Llama<Cpu> {
    let options = LoadOptions { kv_format: KvFormat::F32, cache_tokens: 512, max_batch: 512 };
    Llama::load(Cpu::new(2), checkpoint, options, &mut |_, _| ()).unwrap()
}

/// PEFT's own logits, from the directory on its base, and from the GGUF that it becomes on the GGUF base: unmerged in
/// either order of rows, and merged.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn logits_are_those_of_peft() {
    let golden = read("bard/golden/train/lora-final-logits.safetensors");
    let tensors = SafeTensors::deserialize(&golden).unwrap();
    let ids = tensors.tensor("ids").unwrap();
    let ids: Vec<u32> = ids.data().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect();
    let (_, expected) = reference(&golden, "logits");

    let dir = tempfile::tempdir().unwrap();
    let (hf, gguf) = (bard("hf"), bard("gguf/bf16.gguf"));
    let of_peft = adapter::open(&trained("lora-final"), &hf.config).unwrap();
    let path = dir.path().join("adapter.gguf");
    assert!(adapter::write_gguf(&of_peft, &path, &hf.config).unwrap().is_empty());
    let of_gguf = adapter::open(&path, &gguf.config).unwrap();
    assert_eq!(of_gguf.clone().with_pairing(RopePairing::Halves, &hf.config).matrices, of_peft.matrices);
    let q = Name::Layer { layer: 0, tensor: LayerTensor::Query };
    assert!(of_gguf.matrices[&q].b != of_peft.matrices[&q].b);

    let options = Options { format: Some(WeightFormat::Pure(Format::F32)), ..Options::default() };
    for (base, form) in [(&hf, "hf"), (&gguf, "merged.gguf"), (&bard("meta"), "meta")] {
        for (adapter, of) in [(&of_peft, "PEFT"), (&of_gguf, "GGUF")] {
            let mut model = loaded(base);
            model.adapt(adapter.clone(), 1.0, None).unwrap();
            let error = error_of(model, &ids, &expected);
            println!("{form}, adapter in {of}: relative error {error:.2e}");
            assert!(error < 1e-5, "{form}, adapter in {of}: {error:e}");
        }
        let out = dir.path().join(form);
        let rounded = write_merged(base, vec![(of_peft.clone(), 1.0)], &out, &options, &mut |_, _| ()).unwrap();
        assert!(rounded.iter().all(|rounded| rounded.deviation.error == 0.0));
        let error = error_of(loaded(&open(&out).unwrap()), &ids, &expected);
        println!("{form}, merged: relative error {error:.2e}");
        assert!(error < 1e-5, "{form}, merged: {error:e}");
    }
}

/// What rounding costs a trained adapter in each format, for people who choose one.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn rounding_after_merging() {
    let base = bard("gguf/bf16.gguf");
    let adapter = adapter::open(&trained("lora-final"), &base.config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kept = |format: &str| {
        let options = Options { format: Some(format.parse().unwrap()), ..Options::default() };
        let out = dir.path().join(format!("{format}.gguf"));
        let rounded = write_merged(&base, vec![(adapter.clone(), 1.0)], &out, &options, &mut |_, _| ()).unwrap();
        let all: Deviation = rounded.iter().map(|rounded| rounded.deviation).sum();
        let (error, kept) = (all.of_change().unwrap(), all.kept().unwrap());
        println!("{format}: error {error:.3} of the change, {kept:.3} of it kept");
        (error, kept)
    };
    let errors: Vec<(f64, f64)> = ["F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M", "Q4_0"].into_iter().map(kept).collect();
    assert!(errors.is_sorted_by(|a, b| a.0 < b.0), "{errors:?}");
    assert!(errors[0].0 < 0.01 && (errors[0].1 - 1.0).abs() < 0.01, "{errors:?}");
}
