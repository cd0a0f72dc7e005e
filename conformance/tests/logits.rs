//! Logits, continuations and likelihoods against transformers in f32, with every instruction set of this processor.

use puna_checkpoint::Name;
use puna_conformance::{models, numbers, read, read_json};
use puna_cpu::{Cpu, Instructions};
use puna_engine::sampler::{LogProbabilities, argmax};
use puna_engine::{BatchLimits, Batcher, Engine, Event, Limits, Request, Sampling, Sequence};
use puna_llama::{KvFormat, Llama, LoadOptions};
use safetensors::SafeTensors;
use serde_json::Value;

const PROMPTS: [&str; 5] = ["plain", "oz", "one", "chat", "unicode"];

fn engine(form: &str, kv_format: KvFormat, set: Instructions, n_threads: usize, context: usize) -> Engine {
    let checkpoint = puna_checkpoint::open(&models().join("bard").join(form)).expect("a model");
    let options = LoadOptions { kv_format, cache_tokens: context, max_batch: 512 };
    let model =
        Llama::load(Cpu::new(n_threads).with_instructions(set), &checkpoint, options, &mut |_, _| ()).expect("memory");
    Engine::new(Box::new(model), context)
}

/// Each case with each instruction set.
fn on_every_set<T: Clone>(cases: impl IntoIterator<Item = T>) -> Vec<(Instructions, T)> {
    let cases: Vec<T> = cases.into_iter().collect();
    let sets = Instructions::available().into_iter();
    sets.flat_map(|set| cases.clone().into_iter().map(move |case| (set, case))).collect()
}

struct Golden {
    json: Value,
    tensors: Vec<u8>,
}

impl Golden {
    fn read(name: &str) -> Golden {
        let path = format!("bard/golden/{name}");
        Golden { json: read_json(&format!("{path}.json")), tensors: read(&format!("{path}.safetensors")) }
    }

    fn ids(&self, prompt: &str, key: &str) -> Vec<u32> {
        numbers(&self.json[prompt][key])
    }

    fn logits(&self, key: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.tensors).expect("safetensors");
        let data = tensors.tensor(key).expect("the prompt's logits").data().to_vec();
        data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

fn all_logits(engine: &mut Engine, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    engine.score(ids, &mut |_, logits| all.extend_from_slice(logits)).expect("a valid prompt");
    all
}

/// `|found - expected| / |expected|` in the Euclidean norm.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f64| v * v;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    (error / norm).sqrt()
}

/// Every form of the weights in floats, with its golden values.
const FORMS: [(&str, &str); 3] = [("hf", "hf-fp32"), ("meta", "hf-fp32"), ("hf-fp8", "fp8-fp32")];

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn logits_of_float_forms() {
    for (set, (form, golden)) in on_every_set(FORMS) {
        let golden = Golden::read(golden);
        for (kv_format, bound) in [(KvFormat::F32, 1e-5), (KvFormat::F16, 1e-3)] {
            let mut engine = engine(form, kv_format, set, 2, 16_384);
            for prompt in PROMPTS {
                let found = all_logits(&mut engine, &golden.ids(prompt, "ids"));
                let error = relative_error(&found, &golden.logits(&format!("{prompt}.logits")));
                println!("{set:?}, {form}, {} KV, {prompt}: relative error {error:.2e}", kv_format.name());
                assert!(error <= bound, "{set:?}, {form}, {prompt}: {error:e} > {bound:e}");
            }
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn logits_after_twelve_thousand_tokens() {
    let golden = Golden::read("hf-fp32");
    let ids = golden.ids("long", "ids");
    let best = Instructions::best().name();
    let cases = [
        ("hf", KvFormat::F32, 1e-5),
        ("hf", KvFormat::F16, 1e-3),
        ("meta", KvFormat::F32, 1e-5),
        ("meta", KvFormat::F16, 1e-3),
    ];
    for (set, (form, kv_format, bound)) in on_every_set(cases) {
        // Minutes without vectors; at other lengths every set computes every form.
        if set.name() != best && (form, kv_format) != ("meta", KvFormat::F32) {
            continue;
        }
        let mut engine = engine(form, kv_format, set, 2, 16_384);
        let mut sequence = Sequence::default();
        let logits = engine.prefill(&mut sequence, &ids, &mut |_, _| true).expect("fits").expect("not cancelled");
        let error = relative_error(logits, &golden.logits("long.last_logits"));
        println!("long, {set:?}, {form}, {} KV: relative error {error:.2e}", kv_format.name());
        assert!(error <= bound, "{error:e} > {bound:e}");
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn greedy_continuations_and_likelihoods() {
    for (set, (form, golden)) in on_every_set(FORMS) {
        let golden = Golden::read(golden);
        let mut engine = engine(form, KvFormat::F32, set, 2, 16_384);
        for prompt in PROMPTS {
            let ids = golden.ids(prompt, "ids");
            if let Some(expected) = golden.json[prompt]["nll_mean"].as_f64() {
                let mut sum = 0.0;
                let each = &mut |position: usize, logits: &[f32]| {
                    let next = ids.get(position + 1);
                    sum -= next.map_or(0.0, |next| f64::from(LogProbabilities::new(logits).of(*next)));
                };
                engine.score(&ids, each).expect("a valid prompt");
                let found = sum / (ids.len() - 1) as f64;
                assert!(
                    (found / expected - 1.0).abs() < 1e-5,
                    "{set:?}, {form}, {prompt}: nll {found}, expected {expected}"
                );
            }
            if golden.json[prompt]["greedy"].is_null() {
                continue;
            }
            let mut sequence = Sequence::default();
            let logits = engine.prefill(&mut sequence, &ids, &mut |_, _| true).expect("fits").expect("not cancelled");
            let mut next = argmax(logits);
            for expected in golden.ids(prompt, "greedy") {
                assert_eq!(next, expected, "{set:?}, {form}, {prompt}");
                next = argmax(engine.decode(&mut sequence, next).expect("fits"));
            }
            engine.release(sequence);
        }
    }
}

/// transformers gives logits and no hidden states; but the output matrix, whose columns are independent, makes the mean
/// of the ones of the mean of the others.
#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn means_of_hidden_states() {
    let golden = Golden::read("hf-fp32");
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).expect("a model");
    let output = checkpoint.tensor(Name::Output).expect("it is not tied").to_f32();
    let dim = checkpoint.config.dim;
    for (set, form) in on_every_set(["hf", "meta"]) {
        let engine = engine(form, KvFormat::F32, set, 2, 16_384);
        let mut batcher = Batcher::new(engine, None, BatchLimits::default());
        for prompt in PROMPTS {
            let limits = Limits { max_tokens: 0, stop_tokens: Vec::new() };
            let request = Request::new(golden.ids(prompt, "ids"), Sampling::default(), limits);
            batcher.submit(Request { pool: true, ..request }).expect("a valid prompt");
            let mut mean = Vec::new();
            while batcher.step(&mut |_, event| {
                if let Event::Pooled(pooled) = event {
                    mean = pooled;
                }
            }) {}
            assert_eq!(mean.len(), dim);
            let product = |row: &[f32]| row.iter().zip(&mean).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum::<f64>();
            let found: Vec<f32> = output.chunks_exact(dim).map(|row| product(row) as f32).collect();
            let logits = golden.logits(&format!("{prompt}.logits"));
            let mut sums = vec![0.0; found.len()];
            for row in logits.chunks_exact(found.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, logit)| *sum += f64::from(*logit));
            }
            let n = (logits.len() / found.len()) as f64;
            let expected: Vec<f32> = sums.into_iter().map(|sum| (sum / n) as f32).collect();
            let error = relative_error(&found, &expected);
            println!("{set:?}, {form}, {prompt}: relative error of the mean {error:.2e}");
            assert!(error <= 1e-5, "{set:?}, {form}, {prompt}: {error:e}");
        }
    }
}

/// Mean over positions of the Kullback-Leibler divergence of `found` from `expected`, in nats.
fn mean_kl(found: &[f32], expected: &[f32], vocab_size: usize) -> f64 {
    let log_softmax = |logits: &[f32]| -> Vec<f64> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) - f64::from(largest)).collect();
        let total = shifted.iter().map(|v| v.exp()).sum::<f64>().ln();
        shifted.into_iter().map(|v| v - total).collect()
    };
    let rows = found.chunks_exact(vocab_size).zip(expected.chunks_exact(vocab_size));
    let divergence = |(found, expected): (&[f32], &[f32])| {
        let (q, p) = (log_softmax(found), log_softmax(expected));
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    };
    rows.map(divergence).sum::<f64>() * vocab_size as f64 / found.len() as f64
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn logits_of_gguf_forms() {
    let types = read_json("bard/golden/gguf-types.json");
    for (set, name) in on_every_set(types.as_object().expect("an object").keys()) {
        let golden = Golden::read(&format!("gguf-{name}"));
        let mut engine = engine(&format!("gguf/{name}.gguf"), KvFormat::F16, set, 2, 512);
        for prompt in ["plain", "chat", "one"] {
            let found = all_logits(&mut engine, &golden.ids(prompt, "ids"));
            let kl = mean_kl(&found, &golden.logits(&format!("{prompt}.logits")), 4096);
            println!("{set:?}, {name}, {prompt}: mean KL {kl:.2e}");
            assert!(kl <= 2e-3, "{set:?}, {name}, {prompt}: mean KL {kl:e}");
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn the_same_bits_in_any_chunks_on_any_threads() {
    let golden = Golden::read("hf-fp32");
    let ids = &golden.ids("long", "ids")[..1200];
    // How products are made is nothing to the cache, nor the other way round.
    let caches = KvFormat::ALL.map(|kv_format| ("hf", kv_format));
    let products = ["hf-fp8", "gguf/q4_k_m.gguf", "gguf/q8_0.gguf"].map(|form| (form, KvFormat::F16));
    for (set, (form, kv_format)) in on_every_set(caches.into_iter().chain(products)) {
        let run = |n_threads: usize, chunk: usize| {
            let mut engine = engine(form, kv_format, set, n_threads, 2048);
            engine.set_chunk(chunk);
            let mut sequence = Sequence::default();
            let logits = engine.prefill(&mut sequence, ids, &mut |_, _| true).expect("fits");
            logits.expect("not cancelled").iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
        };
        let expected = run(1, 512);
        for (n_threads, chunk) in [(1, 1), (2, 7), (2, 64), (2, 512)] {
            let same = run(n_threads, chunk) == expected;
            assert!(same, "{set:?}, {form}, {} KV: {n_threads} threads, chunks of {chunk}", kv_format.name());
        }
    }
}
