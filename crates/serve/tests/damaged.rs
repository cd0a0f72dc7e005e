//! Bodies of requests that were damaged at random: there is an answer, or an error of the client's that says what is wrong.
//!
//! `PUNA_DAMAGED=N` tries so many instead of a few.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod served;

use proptest::prelude::*;
use proptest::sample::Index;
use puna_serve::app::App;
use puna_serve::offline::Offline;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use tokio::runtime::{Builder, Runtime};

/// Bodies with every part that is read, and their addresses.
static WHOLE: LazyLock<Vec<(&str, Value)>> = LazyLock::new(|| {
    let user = json!({"role": "user", "content": "<|eot_id|>"});
    let function = json!({"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type":
        "integer"}}, "required": ["a"]}});
    let tool = json!({"type": "function", "function": function});
    let options = json!({"temperature": 0, "num_predict": 8, "stop": ["END"], "seed": 1, "num_ctx": 512});
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1, "x"]}}, "additionalProperties": false});
    vec![
        (
            "/v1/chat/completions",
            json!({"messages": [user], "max_tokens": 4, "logprobs": true, "top_logprobs": 3, "user": "u", "n": 2, "stop":
                ["END"], "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": false, "logit_bias":
                {"10": -1.5}, "min_p": 0.05, "repetition_penalty": 1.1, "seed": 7, "temperature": 0.7, "top_k": 40}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [user, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
                "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "r"}],
                "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls":
                false}),
        ),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "response_format": {"type":
                "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "<|begin_of_text|>a", "echo": true, "logprobs": 2, "frequency_penalty": 0.1,
                "presence_penalty": 0.1, "top_p": 0.9, "typical_p": 1.0}),
        ),
        ("/v1/completions", json!({"prompt": [[1, 2], [3]], "max_tokens": 0})),
        (
            "/v1/messages",
            json!({"messages": [user, {"role": "assistant", "content": [{"type": "text", "text": "t"}, {"type": "tool_use",
                "id": "1", "name": "f", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result",
                "tool_use_id": "1", "content": "r"}]}], "tools": [{"name": "f", "input_schema": {}}], "tool_choice":
                {"type": "auto"}, "max_tokens": 4, "system": "s", "stop_sequences": ["x"], "top_k": 1}),
        ),
        ("/v1/messages/count_tokens", json!({"messages": [user], "system": [{"type": "text", "text": "s"}]})),
        (
            "/v1/responses",
            json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "q"}]}, {"type": "function_call",
                "call_id": "1", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "1",
                "output": "r"}], "instructions": "i", "store": false, "tools": [{"type": "function", "name": "f",
                "parameters": {}}], "text": {"format": {"type": "text"}}, "max_output_tokens": 4, "include":
                ["message.output_text.logprobs"], "top_logprobs": 2, "metadata": {"a": "b"}}),
        ),
        ("/v1/embeddings", json!({"input": ["a", [1, 2]], "encoding_format": "base64", "dimensions": 2})),
        (
            "/api/chat",
            json!({"messages": [user], "options": options, "stream": false, "keep_alive": "5m", "tools": [tool]}),
        ),
        ("/api/chat", json!({"messages": [user], "format": schema})),
        ("/api/generate", json!({"prompt": "<|eot_id|>", "system": "s", "options": options})),
        ("/api/generate", json!({"prompt": "<|eot_id|>", "raw": true, "model": "fake:latest"})),
        ("/api/embed", json!({"input": "<|eot_id|>", "truncate": false, "model": "fake:latest"})),
        ("/api/show", json!({"model": "fake", "verbose": true})),
        ("/tokenize", json!({"prompt": "a<|eot_id|>\u{1f999}", "add_special_tokens": true})),
        ("/detokenize", json!({"tokens": [1, 2, 511]})),
        ("/apply-template", json!({"messages": [user], "tools": [tool], "add_generation_prompt": false})),
    ]
});

/// Values that somewhere are the wrong ones.
static OTHERS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let deep = |n| (0..n).fold(json!(0), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(false),
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(-1e308),
        json!(1e-320),
        json!(""),
        json!("\0"),
        json!("<|python_tag|>"),
        json!("(".repeat(2000)),
        json!("\u{10ffff}\r\n\u{2028}"),
        json!("x".repeat(70_000)),
        json!([]),
        json!({}),
        json!([null]),
        json!({"": {}}),
        json!({"type": "function"}),
        json!({"$ref": "#"}),
        json!({"type": "array", "minItems": 1e9}),
        json!((0..600).collect::<Vec<_>>()),
        deep(60),
        deep(63),
    ]
});

#[derive(Clone, Debug)]
enum Damage {
    /// A value anywhere becomes one of [`OTHERS`].
    Other(Index, Index),
    /// A value is put in the place of another of the same body.
    Moved(Index, Index),
    /// A member or an element is gone.
    Gone(Index, Index),
    /// A byte becomes another.
    Byte(Index, u8),
    /// The body ends early.
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    prop_oneof![
        6 => (at(), at()).prop_map(|(at, with)| Damage::Other(at, with)),
        3 => (at(), at()).prop_map(|(at, from)| Damage::Moved(at, from)),
        2 => (at(), at()).prop_map(|(at, which)| Damage::Gone(at, which)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => at().prop_map(Damage::Cut),
    ]
}

/// Pointers to all values, by depth first.
fn places(value: &Value, at: String, places: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Array(values) => values.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in below {
        self::places(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), places);
    }
    places.push(at);
}

fn place<'a>(value: &'a mut Value, at: &Index) -> &'a mut Value {
    let mut all = Vec::new();
    places(value, String::new(), &mut all);
    value.pointer_mut(&all[at.index(all.len())]).unwrap()
}

fn damaged(body: &Value, damages: &[Damage]) -> Vec<u8> {
    let mut body = body.clone();
    for damage in damages {
        match damage {
            Damage::Other(at, with) => *place(&mut body, at) = with.get(&OTHERS).clone(),
            Damage::Moved(at, from) => *place(&mut body, at) = place(&mut body.clone(), from).clone(),
            Damage::Gone(at, which) => match place(&mut body, at) {
                Value::Array(values) if !values.is_empty() => drop(values.remove(which.index(values.len()))),
                Value::Object(members) if !members.is_empty() => {
                    let name = members.keys().nth(which.index(members.len())).unwrap().clone();
                    members.remove(&name);
                }
                _ => {}
            },
            Damage::Byte(..) | Damage::Cut(_) => {}
        }
    }
    let mut bytes = body.to_string().into_bytes();
    for damage in damages {
        match damage {
            Damage::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
            _ => {}
        }
    }
    bytes
}

/// Nobody computes here: what could be answered is refused, since there is no room.
static SERVER: LazyLock<(Runtime, Offline)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    (runtime, Offline::new(Arc::new(App::new(served::model(0))), 1 << 20))
});

fn n_cases() -> u32 {
    std::env::var("PUNA_DAMAGED").map_or(1500, |n| n.parse().expect("a number of bodies"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: n_cases(), max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bodies_are_answered(which in any::<Index>(), damages in prop::collection::vec(damage(), 0..4)) {
        let (path, body) = which.get(&WHOLE);
        let (runtime, server) = &*SERVER;
        let reply = runtime.block_on(server.post(path, damaged(body, &damages)));
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        match reply.status {
            200 => {
                let tokens = answer["tokens"].as_array().into_iter().flatten();
                prop_assert!(tokens.clone().all(|id| id.as_u64().is_some_and(|id| id < served::VOCAB as u64)), "{answer}");
            }
            400 | 404 | 413 | 429 => {
                let message = answer["error"]["message"].as_str().or(answer["error"].as_str());
                prop_assert!(message.is_some_and(|message| !message.is_empty()), "{path}: {answer}");
            }
            status => prop_assert!(false, "{path}: {status}: {answer}"),
        }
    }
}

#[test]
fn whole_bodies_would_be_answered() {
    let (runtime, server) = &*SERVER;
    for (path, body) in WHOLE.iter() {
        let reply = runtime.block_on(server.post(path, body.to_string().into_bytes()));
        let answer = String::from_utf8_lossy(&reply.body).into_owned();
        let expected = if answer.contains("error") { 429 } else { 200 };
        assert_eq!(reply.status, expected, "{path}: {answer}");
    }
}
