//! Training against PyTorch and PEFT in f32: the loss and the gradient's norm at each step, and what comes out.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_checkpoint::adapter::{self, Adapter, LowRank, Settings};
use puna_checkpoint::{Config, LayerTensor, Name};
use puna_conformance::{models, read};
use puna_cpu::Cpu;
use puna_llama::{Learner, Part, Trained, Training, TrainingOptions};
use puna_train::{AdamW, Batch, MomentFormat, Pairs, Schedule, Shape, Trainer, TrainerOptions, score};
use serde_json::Value;
use std::collections::BTreeMap;

fn json(name: &str) -> Value {
    serde_json::from_slice(&read(&format!("bard/golden/train/{name}"))).unwrap()
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn adapter(name: &str, config: &Config) -> Adapter {
    adapter::open(&models().join("bard/golden/train").join(name), config).unwrap()
}

fn learner(adapts: bool) -> Training<Cpu> {
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).unwrap();
    let trained = match adapts {
        true => Trained::Adapter(adapter("lora-init", &checkpoint.config)),
        false => Trained::Weights,
    };
    let options = TrainingOptions { max_tokens: 512, recompute: true };
    Training::load(Cpu::new(2), &checkpoint, trained, options, &mut |_, _| {}).unwrap()
}

fn trainer(rate: f32, weight_decay: f32) -> Trainer {
    Trainer::new(TrainerOptions {
        adam: AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay },
        moments: MomentFormat::F32,
        schedule: Schedule { shape: Shape::Constant, rate, lowest: rate, warmup: 0, steps: 100 },
        clip: None,
        seed: 0,
    })
}

#[track_caller]
fn assert_close(what: &str, found: f64, expected: f64, tolerance: f64) {
    println!("{what}: {found}, expected {expected}");
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{what}: {found}, expected {expected}");
}

/// Steps of supervised training, as the reference did them: all examples of a step in one pass, or each in its own.
fn sft(learner: &mut dyn Learner, trainer: &mut Trainer, reference: &Value, together: bool) {
    let examples = json("sft.json");
    for (i, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
        let mut batches = vec![Batch::default()];
        for (k, example) in numbers(&step["batch"]).into_iter().enumerate() {
            if k > 0 && !together {
                batches.push(Batch::default());
            }
            let example = &examples[example as usize];
            let mask: Vec<bool> = numbers(&example["mask"]).into_iter().map(|mask| mask == 1).collect();
            batches.last_mut().unwrap().push(&numbers(&example["ids"]), &mask);
        }
        let progress = trainer.step(learner, &batches).unwrap();
        assert_eq!(progress.n_labels as u64, step["tokens"].as_u64().unwrap());
        assert_close(&format!("loss of step {i}"), progress.loss, step["loss"].as_f64().unwrap(), 1e-3);
        let expected = step["grad_norm"].as_f64().unwrap();
        assert_close(&format!("gradient of step {i}"), progress.gradient_norm, expected, 1e-2);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn adapters_learn_as_in_peft() {
    let learner = &mut learner(true);
    sft(learner, &mut trainer(1e-3, 0.01), &json("lora.json"), true);
    let expected = adapter("lora-final", learner.config()).matrices;
    let (mut error, mut size, mut n) = (0f64, 0f64, 0);
    let compare = &mut |parameter: &puna_llama::Parameter, values: &mut [f32], _: &[f32]| {
        let expected = &expected[&parameter.name];
        let expected = if parameter.part == Part::A { &expected.a } else { &expected.b };
        error += values.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        size += expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        n += 1;
    };
    learner.for_each(compare).unwrap();
    assert_eq!(n, 2 * expected.len());
    assert_close("1 + the final adapter's error", 1.0 + (error / size).sqrt(), 1.0, 1e-2);
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn all_weights_learn_as_in_pytorch() {
    sft(&mut learner(false), &mut trainer(1e-4, 0.1), &json("full.json"), false);
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn preferences_are_learned_as_in_pytorch() {
    let (pairs, reference) = (json("dpo-pairs.json"), json("dpo.json"));
    let learner = &mut learner(true);
    let trainer = &mut trainer(1e-3, 0.01);
    for (i, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
        let mut batch = Batch::default();
        let indices = numbers(&step["batch"]);
        for idx in &indices {
            let pair = &pairs[*idx as usize];
            for key in ["chosen_ids", "rejected_ids"] {
                let (prompt, completion) = (numbers(&pair["prompt_ids"]), numbers(&pair[key]));
                let trained = [vec![false; prompt.len()], vec![true; completion.len()]].concat();
                batch.push(&[prompt, completion].concat(), &trained);
            }
        }
        let by_base = score(learner, &batch, false).unwrap();
        let by_base = by_base.as_chunks::<2>().0.to_vec();
        for (idx, found) in indices.iter().zip(&by_base) {
            for side in 0..2 {
                let expected = reference["ref"][*idx as usize][side].as_f64().unwrap();
                assert_close("log-probability of the base", found[side], expected, 1e-3);
            }
        }
        let (progress, margins) = trainer.prefer(learner, 0.1, &[Pairs { batch, reference: by_base }]).unwrap();
        assert_close(&format!("loss of step {i}"), progress.loss, step["loss"].as_f64().unwrap(), 1e-3);
        for (found, expected) in margins.iter().zip(step["margins"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap();
            assert!((found - expected).abs() <= 1e-3 * (1.0 + expected.abs()), "margin {found}, expected {expected}");
        }
    }
}

/// What an adapter is not for is not silently ignored.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn adapters_of_nothing_are_refused() {
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).unwrap();
    let name = Name::Layer { layer: 0, tensor: LayerTensor::AttentionNorm };
    let matrices = BTreeMap::from([(name, LowRank { rank: 1, alpha: 1.0, a: vec![0.0; 256], b: vec![0.0] })]);
    let (settings, pairing) = (Settings::default(), checkpoint.config.rope.pairing);
    let trained = Trained::Adapter(Adapter { settings, pairing, matrices });
    let options = TrainingOptions { max_tokens: 8, recompute: false };
    let error = Training::load(Cpu::new(1), &checkpoint, trained, options, &mut |_, _| {}).err().unwrap();
    assert!(error.to_string().contains("expected one of the model's matrices"), "{error}");
}
