//! Guesses change no token of a trained model's answers; how many are right, and what that brings.

use puna_conformance::{models, read};
use puna_cpu::Cpu;
use puna_engine::{
    BatchLimits, Batcher, DraftModel, Drafted, Drafter, Engine, Event, Limits, PromptLookup, Request, Sampling, Scored,
    Speculator,
};
use puna_llama::{KvFormat, Llama, LoadOptions};
use std::time::Instant;

const CONTEXT: usize = 2048;
const N_TOKENS: usize = 256;

fn engine(form: &str) -> Engine {
    let checkpoint = puna_checkpoint::open(&models().join("bard").join(form)).expect("a model");
    let options = LoadOptions { kv_format: KvFormat::F16, cache_tokens: CONTEXT, max_batch: 512 };
    let model = Llama::load(Cpu::new(2), &checkpoint, options, &mut |_, _| ()).expect("memory");
    Engine::new(Box::new(model), CONTEXT)
}

struct Answer {
    /// Ids, and the bits of their probabilities.
    tokens: Vec<(u32, u32)>,
    rate: f64,
    drafted: Drafted,
}

/// With the batcher's speculator, if it has one.
fn answer(batcher: &mut Batcher, prompt: &[u32], sampling: &Sampling) -> Answer {
    let limits = Limits { max_tokens: N_TOKENS, stop_tokens: Vec::new() };
    batcher.submit(Request::new(prompt.to_vec(), sampling.clone(), limits)).expect("fits");
    let (mut tokens, mut start) = (Vec::new(), None);
    while batcher.step(&mut |_, event| match event {
        Event::Token(Scored { token, .. }) => {
            start.get_or_insert_with(Instant::now);
            tokens.push((token.id, token.logprob.to_bits()));
        }
        Event::Failed(error) => panic!("{error}"),
        _ => {}
    }) {}
    let seconds = start.expect("a first token").elapsed().as_secs_f64();
    let drafted = batcher.speculator().map(Speculator::counts).unwrap_or_default();
    Answer { tokens, rate: (N_TOKENS - 1) as f64 / seconds, drafted }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn guesses_change_no_token() {
    let checkpoint = puna_checkpoint::open(&models().join("bard/hf")).expect("a model");
    let puna_checkpoint::TokenizerSource::TokenizerJson(file) = &checkpoint.tokenizer else { panic!("tokenizer.json") };
    let tokenizer = puna_text::Tokenizer::from_tokenizer_json(&std::fs::read(file).expect("readable")).expect("valid");
    let text = String::from_utf8(read("bard/text/sample.txt")).expect("UTF-8");
    let passage: String = text.lines().skip(1).take(20).map(|line| format!("{line}\n")).collect();
    // A passage, and the passage three times with its beginning once more: a text that repeats its prompt.
    let half: String = passage.chars().take(60).collect();
    let prompts = [("a passage", passage.clone()), ("a passage repeated", passage.repeat(3) + &half)];
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let sampled =
        Sampling { temperature: 0.6, top_p: 0.9, repetition_penalty: 1.02, seed: Some(1), ..Sampling::default() };
    for form in ["gguf/q4_0.gguf", "gguf/q4_k_m.gguf", "gguf/q8_0.gguf", "gguf/f16.gguf", "hf", "hf-fp8"] {
        let mut batcher = Batcher::new(engine(form), None, BatchLimits::default());
        for (name, prompt) in &prompts {
            let bos = tokenizer.bos().expect("Llama 3 has one");
            let prompt: Vec<u32> = std::iter::once(bos).chain(tokenizer.encode(prompt)).collect();
            for (how, sampling) in [("greedy", &greedy), ("sampled", &sampled)] {
                // The first time warms up.
                batcher.set_speculator(None);
                answer(&mut batcher, &prompt, sampling);
                let plain = answer(&mut batcher, &prompt, sampling);
                print!("{form}, {name}, {how}: plain {:.0} tokens/s", plain.rate);
                let lookup = || Box::new(PromptLookup::new()) as Box<dyn Drafter>;
                let model = |engine: &Engine| {
                    let draft = self::engine("gguf/q2_k.gguf");
                    Box::new(DraftModel::new(draft, engine.model().bytes_per_token())) as Box<dyn Drafter>
                };
                for (who, drafters, clock) in [
                    ("lookup", vec![lookup()], true),
                    ("lookup, costs assumed", vec![lookup()], false),
                    ("draft in Q2_K, costs assumed", vec![model(batcher.engine())], false),
                    ("both", vec![lookup(), model(batcher.engine())], true),
                ] {
                    let start = Instant::now();
                    let clock = clock.then(|| Box::new(move || start.elapsed().as_secs_f64()) as _);
                    batcher.set_speculator(Some(Speculator::new(drafters, clock)));
                    answer(&mut batcher, &prompt, sampling);
                    let speculated = answer(&mut batcher, &prompt, sampling);
                    assert_eq!(plain.tokens, speculated.tokens, "{form}, {name}, {how}, {who}");
                    let Drafted { drafted, accepted } = speculated.drafted;
                    print!("; {who} {:.2} × ({accepted}/{drafted})", speculated.rate / plain.rate);
                }
                println!();
            }
        }
    }
}
