//! Training against PyTorch and PEFT in f32: the loss and the gradient's norm at each step, and what comes out.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_checkpoint::{LayerTensor, Name};
use puna_conformance::{models, read};
use puna_cpu::Cpu;
use puna_llama::{AdapterSource, Documents, Learner, Part, Trained, Training, TrainingOptions};
use puna_train::{AdamW, MomentFormat, Moments, Step};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;

fn json(name: &str) -> Value {
    serde_json::from_slice(&read(&format!("bard/golden/train/{name}"))).unwrap()
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The tensors of a file, all f32.
fn tensors(name: &str) -> BTreeMap<String, Vec<f32>> {
    let file = read(&format!("bard/golden/train/{name}"));
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    tensors.tensors().into_iter().map(|(name, tensor)| (name, floats(tensor.data()))).collect()
}

/// What PEFT calls a part of an adapter.
fn peft_name(name: Name, part: Part) -> String {
    let part = if part == Part::A { "lora_A" } else { "lora_B" };
    format!("base_model.model.{}", name.hugging_face().replace(".weight", &format!(".{part}.weight")))
}

const RANK: usize = 8;

/// `lora-init`, by matrix.
fn adapter(n_layers: usize) -> Vec<AdapterSource> {
    let mut values = tensors("lora-init/adapter_model.safetensors");
    let mut sources = Vec::new();
    for name in Name::all(n_layers) {
        if let Some(a) = values.remove(&peft_name(name, Part::A)) {
            let b = values.remove(&peft_name(name, Part::B)).unwrap();
            sources.push(AdapterSource { name, rank: RANK, a, b, scale: 16.0 / RANK as f32 });
        }
    }
    assert!(values.is_empty(), "{:?}", values.keys());
    sources
}

fn learner(adapts: bool) -> Training<Cpu> {
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).unwrap();
    let trained = match adapts {
        true => Trained::Adapters { sources: adapter(checkpoint.config.n_layers), dropout: 0.0 },
        false => Trained::Weights,
    };
    let options = TrainingOptions { max_tokens: 512, recompute: true };
    Training::load(Cpu::new(2), &checkpoint, trained, options, &mut |_, _| {}).unwrap()
}

/// Token ids, one document after another, and what is to be learned of them.
#[derive(Default)]
struct Batch {
    ids: Vec<u32>,
    lens: Vec<usize>,
    rows: Vec<usize>,
    labels: Vec<u32>,
}

impl Batch {
    /// Of `ids`, those from `first` on are labels where `mask` says so.
    fn push(&mut self, ids: &[u32], mask: &[u32]) {
        let start = self.ids.len();
        for i in 1..ids.len() {
            if mask[i] == 1 {
                self.rows.push(start + i - 1);
                self.labels.push(ids[i]);
            }
        }
        self.ids.extend_from_slice(ids);
        self.lens.push(ids.len());
    }

    fn documents(&self) -> Documents<'_> {
        Documents { ids: &self.ids, lens: &self.lens, rows: &self.rows, labels: &self.labels }
    }
}

/// The optimizer's state beside the learner.
struct Optimizer {
    adam: AdamW,
    rate: f32,
    number: u64,
    moments: Vec<Moments>,
}

impl Optimizer {
    fn new(rate: f32, weight_decay: f32) -> Optimizer {
        let adam = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay };
        Optimizer { adam, rate, number: 0, moments: Vec::new() }
    }

    /// Changes the parameters; gives the norm of the gradient.
    fn step(&mut self, learner: &mut dyn Learner) -> f64 {
        self.number += 1;
        let (mut i, mut square) = (0, 0f64);
        let step = Step { rate: self.rate, number: self.number, gradient_scale: 1.0 };
        let change = &mut |_: &_, values: &mut [f32], gradient: &[f32]| {
            if i == self.moments.len() {
                self.moments.push(Moments::new(MomentFormat::F32, values.len()));
            }
            self.adam.update(&step, values, gradient, &mut self.moments[i]);
            square += gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            i += 1;
        };
        learner.for_each(change).unwrap();
        learner.zero_gradients();
        square.sqrt()
    }
}

#[track_caller]
fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    println!("{what}: {found}, expected {expected}");
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{what}: {found}, expected {expected}");
}

/// Steps of supervised training, as the reference did them.
fn sft(learner: &mut dyn Learner, optimizer: &mut Optimizer, reference: &Value) {
    let examples = json("sft.json");
    for (i, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
        let mut batch = Batch::default();
        for example in numbers(&step["batch"]) {
            let example = &examples[example as usize];
            batch.push(&numbers(&example["ids"]), &numbers(&example["mask"]));
        }
        let n = batch.labels.len();
        assert_eq!(n as u64, step["tokens"].as_u64().unwrap());
        let mut log_probabilities = Vec::new();
        let coefficients = vec![-1.0 / n as f32; n];
        learner.learn(&batch.documents(), &coefficients, 0, &mut log_probabilities).unwrap();
        let loss = -log_probabilities.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64;
        assert_close(&format!("loss of step {i}"), loss, step["loss"].as_f64().unwrap(), 1e-3);
        let norm = optimizer.step(learner);
        assert_close(&format!("gradient of step {i}"), norm, step["grad_norm"].as_f64().unwrap(), 1e-2);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn adapters_learn_as_in_peft() {
    let learner = &mut learner(true);
    sft(learner, &mut Optimizer::new(1e-3, 0.01), &json("lora.json"));
    let expected = tensors("lora-final/adapter_model.safetensors");
    let (mut error, mut size, mut n) = (0f64, 0f64, 0);
    let compare = &mut |parameter: &puna_llama::Parameter, values: &mut [f32], _: &[f32]| {
        let expected = &expected[&peft_name(parameter.name, parameter.part)];
        error += values.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        size += expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        n += 1;
    };
    learner.for_each(compare).unwrap();
    assert_eq!(n, expected.len());
    assert_close("1 + the final adapter's error", 1.0 + (error / size).sqrt(), 1.0, 1e-2);
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn all_weights_learn_as_in_pytorch() {
    sft(&mut learner(false), &mut Optimizer::new(1e-4, 0.1), &json("full.json"));
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn preferences_are_learned_as_in_pytorch() {
    let (pairs, reference) = (json("dpo-pairs.json"), json("dpo.json"));
    let learner = &mut learner(true);
    let optimizer = &mut Optimizer::new(1e-3, 0.01);
    const BETA: f64 = 0.1;
    let side = |pair: &Value, key: &str| {
        let (prompt, completion) = (numbers(&pair["prompt_ids"]), numbers(&pair[key]));
        let mask = [vec![0; prompt.len()], vec![1; completion.len()]].concat();
        let mut batch = Batch::default();
        batch.push(&[prompt, completion].concat(), &mask);
        batch
    };
    let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
    for (i, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
        let (mut loss, batch) = (0.0, numbers(&step["batch"]));
        for (k, idx) in batch.iter().enumerate() {
            let sides = ["chosen_ids", "rejected_ids"].map(|key| side(&pairs[*idx as usize], key));
            let mut score = |adapts: bool| {
                [0, 1].map(|side| {
                    let mut found = Vec::new();
                    learner.score(&sides[side].documents(), adapts, &mut found).unwrap();
                    sum(&found)
                })
            };
            let (base, policy) = (score(false), score(true));
            for side in 0..2 {
                let expected = reference["ref"][*idx as usize][side].as_f64().unwrap();
                assert_close("log-probability of the base", base[side], expected, 1e-3);
            }
            let margin = BETA * (policy[0] - base[0] - policy[1] + base[1]);
            let expected = step["margins"][k].as_f64().unwrap();
            assert!((margin - expected).abs() <= 1e-3 * (1.0 + expected.abs()), "margin {margin}, expected {expected}");
            loss += (1.0 + (-margin).exp()).ln() / batch.len() as f64;
            // σ(−margin), for the chosen upwards and for the rejected downwards.
            let weight = (BETA / (1.0 + margin.exp()) / batch.len() as f64) as f32;
            for (side, weight) in sides.iter().zip([-weight, weight]) {
                let coefficients = vec![weight; side.labels.len()];
                learner.learn(&side.documents(), &coefficients, 0, &mut Vec::new()).unwrap();
            }
        }
        assert_close(&format!("loss of step {i}"), loss, step["loss"].as_f64().unwrap(), 1e-3);
        optimizer.step(learner);
    }
}

/// What an adapter is not for is not silently ignored.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn adapters_of_nothing_are_refused() {
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).unwrap();
    let name = Name::Layer { layer: 0, tensor: LayerTensor::AttentionNorm };
    let sources = vec![AdapterSource { name, rank: 1, a: vec![0.0; 256], b: vec![0.0], scale: 1.0 }];
    let trained = Trained::Adapters { sources, dropout: 0.0 };
    let options = TrainingOptions { max_tokens: 8, recompute: false };
    let error = Training::load(Cpu::new(1), &checkpoint, trained, options, &mut |_, _| {}).err().unwrap();
    assert!(error.to_string().contains("expected one of the model's matrices"), "{error}");
}
