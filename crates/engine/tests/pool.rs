//! Means of hidden states from a real model: what they are, and that they depend on nothing but the text.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::synth::{Container, Shape, Weights, write};
use puna_checkpoint::{Checkpoint, Name};
use puna_cpu::Cpu;
use puna_engine::{
    BatchLimits, Batcher, Engine, Error, Event, Finish, Limits, PromptScores, Request, RequestId, Sampling,
};
use puna_llama::{KvFormat, Llama, LoadOptions};
use std::collections::BTreeMap;

const VOCAB_SIZE: usize = 600;
const CONTEXT: usize = 200;

fn checkpoint(format: &str, tied: bool) -> Checkpoint {
    let json = format!(
        r#"{{"dim": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 512, "vocab_size": {VOCAB_SIZE},
            "tied_embeddings": {tied}}}"#
    );
    let shape = Shape::from_json("tiny", &json).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    write(&shape, format.parse().unwrap(), Container::Gguf, &file, Weights::Random { seed: 1 }, &mut |_, _| ())
        .unwrap();
    // The mapped files stay when their directory goes.
    puna_checkpoint::open(&file).unwrap()
}

fn engine(checkpoint: &Checkpoint, cache_tokens: usize, chunk: usize) -> Engine {
    let options = LoadOptions { kv_format: KvFormat::F32, cache_tokens, max_batch: 64 };
    let mut engine =
        Engine::new(Box::new(Llama::load(Cpu::new(2), checkpoint, options, &mut |_, _| ()).unwrap()), CONTEXT);
    engine.set_chunk(chunk);
    engine
}

/// A text that begins like the others.
fn text(which: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 17 + if i < 64 { 0 } else { which * 131 }) % VOCAB_SIZE) as u32).collect()
}

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Request::new(prompt, sampling, Limits { max_tokens, stop_tokens: vec![] })
}

fn pooled(prompt: Vec<u32>) -> Request {
    Request { pool: true, ..greedy(prompt, 0) }
}

/// The means that requests get together.
fn means(batcher: &mut Batcher, requests: Vec<Request>) -> BTreeMap<RequestId, Vec<f32>> {
    let mut means = BTreeMap::new();
    let mut n_ended = 0;
    let n = requests.len();
    requests.into_iter().for_each(|request| {
        batcher.submit(request).unwrap();
    });
    while batcher.step(&mut |id, event| match event {
        Event::Pooled(mean) => assert!(means.insert(id, mean).is_none(), "{id:?} has a mean already"),
        Event::Finished(Finish::Length) => n_ended += 1,
        Event::Finished(_) | Event::Failed(_) => panic!("{id:?}: {event:?}"),
        _ => {}
    }) {}
    assert_eq!(n_ended, n);
    means
}

fn mean(batcher: &mut Batcher, prompt: Vec<u32>) -> Vec<f32> {
    means(batcher, vec![pooled(prompt)]).into_values().next().unwrap()
}

/// The output matrix makes of the mean of hidden states the mean of the logits. It has more rows than columns, all
/// independent, so no other vector would do.
#[test]
fn they_are_what_logits_are_made_of() {
    for tied in [false, true] {
        let checkpoint = checkpoint("F32", tied);
        let output = checkpoint.tensor(Name::Output).or(checkpoint.tensor(Name::TokenEmbedding)).unwrap();
        assert_eq!(checkpoint.tensor(Name::Output).is_none(), tied);
        for len in [1, 64, 65, 200] {
            let mut engine = engine(&checkpoint, 256, 64);
            let mut expected = vec![0.0; VOCAB_SIZE];
            let add = &mut |_: usize, logits: &[f32]| {
                expected.iter_mut().zip(logits).for_each(|(sum, logit)| *sum += f64::from(*logit) / len as f64);
            };
            engine.score(&text(1, len), add).unwrap();
            let mean = mean(&mut Batcher::new(engine, None, BatchLimits::default()), text(1, len));
            assert_eq!(mean.len(), 256);
            let largest = expected.iter().fold(0f64, |largest, logit| largest.max(logit.abs()));
            for (row, expected) in output.to_f32().chunks_exact(256).zip(&expected) {
                let found: f64 = row.iter().zip(&mean).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum();
                assert!((found - expected).abs() < 1e-5 * largest, "{len} tokens: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn the_same_bits_in_any_company() {
    let checkpoint = checkpoint("Q8_0", false);
    let lens = [1, 63, 64, 65, 130, 200];
    let alone: Vec<Vec<f32>> = lens
        .iter()
        .enumerate()
        .map(|(which, len)| {
            let engine = engine(&checkpoint, 256, 64);
            mean(&mut Batcher::new(engine, None, BatchLimits::default()), text(which, *len))
        })
        .collect();
    // Pages for all of them, or for hardly one and a half; in large pieces and in small ones.
    for (cache_tokens, chunk) in [(2048, 64), (320, 64), (320, 7)] {
        let engine = engine(&checkpoint, cache_tokens, chunk);
        let mut batcher = Batcher::new(engine, None, BatchLimits { max_running: 8, mixed_chunk: 20 });
        // The second time the cache holds every text, and that of the answers.
        for _ in 0..2 {
            let mut requests = vec![greedy(text(5, 70), 100)];
            requests.extend(lens.iter().enumerate().map(|(which, len)| pooled(text(which, *len))));
            requests.push(greedy(text(4, 130), 5));
            let found: Vec<Vec<f32>> = means(&mut batcher, requests).into_values().collect();
            assert!(found == alone, "{cache_tokens} tokens of cache, chunks of {chunk}");
        }
    }
}

#[test]
fn nothing_is_asked_for_beside_a_mean() {
    let mut batcher = Batcher::new(engine(&checkpoint("Q8_0", false), 256, 64), None, BatchLimits::default());
    let scores = PromptScores { from: 1, top: 0 };
    for request in
        [Request { pool: true, ..greedy(text(0, 3), 1) }, Request { prompt_scores: Some(scores), ..pooled(text(0, 3)) }]
    {
        let error = batcher.submit(request).unwrap_err();
        assert!(matches!(error, Error::Parameter { name: "pool", .. }), "{error}");
    }
    assert!(matches!(batcher.submit(pooled(vec![])), Err(Error::Empty)));
    assert!(matches!(batcher.submit(pooled(text(0, 201))), Err(Error::TooLong { found: 201, context: 200 })));
    assert!(!batcher.step(&mut |_, _| panic!("nobody asked")));
}
