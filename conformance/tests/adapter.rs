//! Adapters that PEFT wrote: as it means them, in both forms, down to the logits of the adapted model.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::adapter::{self, Adapter, Digest, Form};
use puna_checkpoint::gguf::{self, Declaration};
use puna_checkpoint::{Checkpoint, LayerTensor, Name, RopePairing, RopeScaling, TokenizerSource, open};
use puna_conformance::{models, read};
use puna_cpu::Cpu;
use puna_engine::Engine;
use puna_format::Format;
use puna_llama::{KvFormat, Llama, LoadOptions};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

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

/// The weights W + scale·B·A of a base whose rows are in the adapter's order.
fn merged(base: &Checkpoint, adapter: &Adapter, name: Name) -> Vec<f32> {
    assert_eq!(base.config.rope.pairing, adapter.pairing);
    let mut weights = base.tensor(name).unwrap().to_f32();
    let Some(matrix) = adapter.matrices.get(&name) else { return weights };
    let (_, cols) = base.config.shape(name);
    let scale = f64::from(adapter.scale(matrix));
    for (row, weights) in weights.chunks_mut(cols).enumerate() {
        let b = &matrix.b[row * matrix.rank..][..matrix.rank];
        for (col, weight) in weights.iter_mut().enumerate() {
            let sum: f64 = b.iter().enumerate().map(|(j, b)| f64::from(*b) * f64::from(matrix.a[j * cols + col])).sum();
            *weight = (f64::from(*weight) + scale * sum) as f32;
        }
    }
    weights
}

/// A merged model as GGUF in F32.
fn write_merged(base: &Checkpoint, adapter: &Adapter, path: &Path) {
    let TokenizerSource::Gguf(vocabulary) = &base.tokenizer else { panic!("no vocabulary") };
    let RopeScaling::Factors(factors) = &base.config.rope.scaling else { panic!("no factors") };
    let mut tensors: Vec<(Declaration, Vec<f32>)> = Vec::new();
    for tensor in base.tensors() {
        let shape = if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
        let declaration = Declaration { name: tensor.name.gguf(), format: Format::F32, shape };
        tensors.push((declaration, merged(base, adapter, tensor.name)));
    }
    let declaration = Declaration { name: "rope_freqs.weight".into(), format: Format::F32, shape: vec![factors.len()] };
    tensors.push((declaration, factors.to_vec()));
    let declarations: Vec<Declaration> = tensors.iter().map(|(declaration, _)| declaration.clone()).collect();
    let metadata = gguf::metadata("merged", &base.config, vocabulary, None);
    let mut writer = gguf::Writer::create(path, &metadata, &declarations).unwrap();
    for (_, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.append(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// A merged model as a Hugging Face directory in F32.
fn write_merged_hugging_face(base: &Checkpoint, adapter: &Adapter, dir: &Path) {
    for file in ["config.json", "tokenizer.json"] {
        std::fs::write(dir.join(file), read(&format!("bard/hf/{file}"))).unwrap();
    }
    let declare = |name: Name| {
        let (rows, cols) = base.config.shape(name);
        let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
        Declaration { name: name.hugging_face(), format: Format::F32, shape }
    };
    let names: Vec<Name> = base.tensors().map(|tensor| tensor.name).collect();
    let declarations: Vec<Declaration> = names.iter().map(|&name| declare(name)).collect();
    let path = dir.join("model.safetensors");
    let mut writer = puna_checkpoint::safetensors::Writer::create(&path, &declarations).unwrap();
    for &name in &names {
        let bytes: Vec<u8> = merged(base, adapter, name).iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.append(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// PEFT's own logits, from the directory on its base, and from the GGUF that it becomes on the GGUF base.
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

    let (merged_hf, merged_gguf) = (dir.path().join("hf"), dir.path().join("merged.gguf"));
    std::fs::create_dir(&merged_hf).unwrap();
    write_merged_hugging_face(&hf, &of_peft, &merged_hf);
    write_merged(&gguf, &of_gguf, &merged_gguf);
    for path in [merged_hf, merged_gguf] {
        let options = LoadOptions { kv_format: KvFormat::F32, cache_tokens: 512, max_batch: 512 };
        let model = Llama::load(Cpu::new(2), &open(&path).unwrap(), options, &mut |_, _| ()).unwrap();
        let mut found = Vec::new();
        let mut engine = Engine::new(Box::new(model), 512);
        engine.score(&ids, &mut |_, logits| found.extend_from_slice(logits)).unwrap();
        assert_eq!(found.len(), expected.len());
        let square = |v: f64| v * v;
        let error: f64 = found.iter().zip(&expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
        let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
        let error = (error / norm).sqrt();
        println!("{}: relative error {error:.2e}", path.display());
        assert!(error < 1e-5, "{}: {error:e}", path.display());
    }
}
