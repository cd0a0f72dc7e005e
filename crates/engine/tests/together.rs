//! Sequences decoded together get the bits that each gets alone, and none changes when one can't be decoded.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::synth::{Container, Shape, Weights, write};
use puna_cpu::Cpu;
use puna_engine::{Engine, Error, Sequence};
use puna_llama::{KvFormat, Llama, LoadOptions};

const VOCAB_SIZE: usize = 600;

/// A small model with a cache of `cache_tokens`, for sequences of at most 200.
fn engine(format: &str, kv_format: KvFormat, cache_tokens: usize) -> Engine {
    let json = r#"{"dim": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 512, "vocab_size": 600}"#;
    let shape = Shape::from_json("tiny", json).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.gguf");
    write(&shape, format.parse().unwrap(), Container::Gguf, &file, Weights::Random { seed: 1 }, &mut |_, _| ())
        .unwrap();
    let options = LoadOptions { kv_format, cache_tokens, max_batch: 64 };
    let model = Llama::load(Cpu::new(2), &puna_checkpoint::open(&file).unwrap(), options, &mut |_, _| ()).unwrap();
    Engine::new(Box::new(model), 200)
}

/// Token `i` of sequence `which`.
fn id(which: usize, i: usize) -> u32 {
    ((which * 131 + i * 17) % VOCAB_SIZE) as u32
}

fn prefilled(engine: &mut Engine, which: usize, len: usize) -> Sequence {
    let mut sequence = Sequence::default();
    let ids: Vec<u32> = (0..len).map(|i| id(which, i)).collect();
    engine.prefill(&mut sequence, &ids, &mut |_, _| true).unwrap();
    sequence
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn the_same_bits_as_alone() {
    const STEPS: usize = 5;
    // Beside a page's end, across it, and far from one another. The shortest starts with nothing before its token.
    let lens = [0, 1, 62, 64, 130];
    for (format, kv_format) in [("Q4_0", KvFormat::F16), ("Q8_0", KvFormat::Q8_0), ("F16", KvFormat::F32)] {
        let mut engine = engine(format, kv_format, 2048);
        let start = |engine: &mut Engine| {
            let mut sequences = Vec::new();
            for (which, len) in lens.into_iter().enumerate() {
                sequences.push(if len == 0 { Sequence::default() } else { prefilled(engine, which, len) });
            }
            sequences
        };
        let mut alone = start(&mut engine);
        let mut expected = Vec::new();
        for step in 0..STEPS {
            for (which, sequence) in alone.iter_mut().enumerate() {
                let logits = engine.decode(sequence, id(which, lens[which] + step)).unwrap();
                expected.extend(bits(logits));
            }
        }
        let mut together = start(&mut engine);
        let mut found = Vec::new();
        for step in 0..STEPS {
            let ids: Vec<u32> = lens.iter().enumerate().map(|(which, len)| id(which, len + step)).collect();
            let logits = engine.decode_together(&mut together.iter_mut().collect::<Vec<_>>(), &ids).unwrap();
            assert_eq!(logits.len(), lens.len() * VOCAB_SIZE);
            found.extend(bits(logits));
        }
        assert!(found == expected, "{format} with {} KV", kv_format.name());
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(together.ids(), alone.ids());
        }
    }
}

#[test]
fn all_or_nothing() {
    // Three pages: the two sequences have one each, both full.
    let mut engine = engine("Q8_0", KvFormat::F16, 192);
    let (mut a, mut b) = (prefilled(&mut engine, 0, 64), prefilled(&mut engine, 1, 64));

    let error = engine.decode_together(&mut [&mut a, &mut b], &[1, 2]).unwrap_err();
    assert!(matches!(error, Error::TooLong { found: 65, context: 64 }), "{error}");
    assert_eq!((a.ids().len(), b.ids().len()), (64, 64));
    // The page that the first had been given is free again: the second gets it.
    engine.decode(&mut b, 2).unwrap();
    engine.truncate(&mut b, 63);

    let error = engine.decode_together(&mut [&mut a, &mut b], &[1, VOCAB_SIZE as u32]).unwrap_err();
    assert!(matches!(error, Error::Model(_)), "{error}");
    assert_eq!((a.ids().len(), b.ids().len()), (64, 63));
    engine.decode_together(&mut [&mut a, &mut b], &[1, 2]).unwrap();
    assert_eq!((a.ids().len(), b.ids().len()), (65, 64));

    let mut long = prefilled(&mut self::engine("Q8_0", KvFormat::F16, 256), 2, 200);
    let error = engine.decode_together(&mut [&mut a, &mut long], &[1, 2]).unwrap_err();
    assert!(matches!(error, Error::TooLong { found: 201, context: 200 }), "{error}");
    assert!(matches!(engine.decode_together(&mut [], &[]), Err(Error::Empty)));
}

/// Weights once a pass, and every sequence's own pages.
#[test]
fn bytes_read_are_counted() {
    let mut engine = engine("Q8_0", KvFormat::F16, 2048);
    let weights = engine.model().bytes_per_token();
    let page = engine.model().kv_shape().page_bytes() as u64;
    assert_eq!(engine.bytes_read(), 0);
    // Chunks of 64, so three passes.
    let mut long = prefilled(&mut engine, 0, 150);
    assert_eq!(engine.bytes_read(), 3 * weights + (1 + 2 + 3) * page);
    let mut short = prefilled(&mut engine, 1, 10);
    let before = engine.bytes_read();
    engine.decode(&mut short, 1).unwrap();
    assert_eq!(engine.bytes_read() - before, weights + page);
    let before = engine.bytes_read();
    engine.decode_together(&mut [&mut long, &mut short], &[1, 2]).unwrap();
    assert_eq!(engine.bytes_read() - before, weights + 4 * page);
}
