//! Grammars of answers over the vocabularies of Llama 3 and of cria: what comes out fits, and how long the masks take.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use puna_conformance::read;
use puna_engine::constraint::{Constraint, allows};
use puna_session::{Grammar, GrammarCompiler, ToolCalls, ToolChoice};
use puna_text::chat::{Conversation, parse_tool_calls};
use puna_text::{TokenId, Tokenizer};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Value, json};

/// An answer of random tokens that ends soon when it may, and the time of each mask.
fn answer(tokenizer: &Tokenizer, constraint: &mut dyn Constraint, seed: u64, times: &mut Vec<Duration>) -> String {
    let stops = tokenizer.stop_tokens();
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut below = |n: usize| (random.next_u64() % n as u64) as usize;
    let mut ids = Vec::new();
    loop {
        let start = Instant::now();
        let allowed = constraint.allowed().unwrap().to_vec();
        times.push(start.elapsed());
        let is_pick = |id: &TokenId| allows(&allowed, *id) && !stops.contains(id);
        let picks: Vec<TokenId> = (0..tokenizer.vocab_size() as TokenId).filter(is_pick).collect();
        if allows(&allowed, stops[0]) && (picks.is_empty() || below(20) == 0) {
            constraint.accept(stops[0]).unwrap();
            return String::from_utf8(tokenizer.decode(&ids)).unwrap();
        }
        let closes = |id: &TokenId| tokenizer.token_bytes(*id).is_some_and(|token| b"\"]}".contains(&token[0]));
        let closing: Vec<TokenId> = picks.iter().copied().filter(closes).collect();
        let picks = if !closing.is_empty() && below(5) == 0 { closing } else { picks };
        let id = picks[below(picks.len())];
        constraint.accept(id).unwrap();
        ids.push(id);
    }
}

#[test]
#[ignore = "needs PUNA_TEST_MODELS"]
fn answers_fit_and_masks_are_quick() {
    let llama3 = Tokenizer::from_tiktoken(&read("llama3-tokenizer/tokenizer.model")).unwrap();
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../cria/model/cria.gguf"));
    let cria = puna_session::tokenizer(&puna_checkpoint::open(path).unwrap(), path).unwrap();
    for tokenizer in [llama3, cria] {
        answers_fit(Arc::new(tokenizer));
    }
}

fn answers_fit(tokenizer: Arc<Tokenizer>) {
    let start = Instant::now();
    let compiler = GrammarCompiler::new(tokenizer.clone(), &tokenizer.stop_tokens()).unwrap();
    println!("{} tokens: made in {:?}", tokenizer.vocab_size(), start.elapsed());
    let person = json!({"type": "object", "additionalProperties": false, "required": ["name", "email", "friends", "kind"],
        "properties": {"name": {"type": "string"}, "email": {"type": "string", "format": "email"}, "kind": {"enum": ["a", "b"]},
            "friends": {"type": "array", "items": {"type": "string"}, "maxItems": 5}}});
    let mut conversation = Conversation::new(Vec::new());
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": person.clone()}});
    conversation.tools = vec![tool("first"), tool("second")];
    let cases = [
        ("JSON object", Grammar::JsonObject),
        ("schema", Grammar::JsonSchema(person)),
        ("tools", Grammar::ToolCalls(ToolCalls::of(&conversation, ToolChoice::Required, false))),
        ("text or tools", Grammar::ToolCalls(ToolCalls::of(&conversation, ToolChoice::Auto, false))),
        ("words", Grammar::Regex(r"\w{1,30}( \w{1,30}){4}\.".to_owned())),
    ];
    for (name, grammar) in cases {
        let mut times = Vec::new();
        let mut compile_times = Vec::new();
        for seed in 0..8 {
            let start = Instant::now();
            let mut constraint = compiler.compile(&grammar).unwrap();
            compile_times.push(start.elapsed());
            let text = answer(&tokenizer, &mut constraint, seed, &mut times);
            match grammar {
                Grammar::JsonObject | Grammar::JsonSchema(_) => match serde_json::from_str::<Value>(&text) {
                    Ok(value) => assert!(value.is_object(), "{text}"),
                    // Random exponents are soon more than this reader can hold.
                    Err(error) => assert!(error.to_string().starts_with("number out of range"), "{error}: {text}"),
                },
                Grammar::ToolCalls(ToolCalls { choice: ToolChoice::Required, .. }) => {
                    assert!(!parse_tool_calls(&text, false).tool_calls.is_empty(), "{text}");
                }
                _ => {}
            }
        }
        times.sort();
        compile_times.sort();
        let (n, compile_time) = (times.len(), compile_times[compile_times.len() / 2]);
        println!(
            "{name}: compiled in {compile_time:?}; {n} masks, p50 {:?}, p99 {:?}, at most {:?}",
            times[n / 2],
            times[n * 99 / 100],
            times[n - 1]
        );
    }
}
