//! Every field that `/openapi.json` documents, posted: with its example, with another value, and with what it may not be.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod served;

use serde_json::{Map, Value, json};
use served::Server;

/// An endpoint, what a request of it has to have, and its fields with their descriptions.
struct Endpoint {
    path: String,
    base: Map<String, Value>,
    fields: Map<String, Value>,
}

impl Endpoint {
    /// All of them, from the server's own description.
    fn all(server: &Server) -> Vec<Endpoint> {
        let (status, body) = server.ask("GET", "/openapi.json", b"");
        assert_eq!(status, 200);
        let described: Value = serde_json::from_str(&body).unwrap();
        let endpoint = |(path, methods): (&String, &Value)| {
            let body = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
            assert_eq!(body["additionalProperties"], false, "{path}");
            let fields = body["properties"].as_object().unwrap().clone();
            let needed = ["messages", "prompt", "tokens", "max_tokens", "input", "max_output_tokens", "include"];
            let needed = needed.into_iter().filter(|name| fields.contains_key(*name));
            let mut base: Map<String, Value> =
                needed.map(|name| (name.into(), fields[name]["example"].clone())).collect();
            if fields.contains_key("logprobs") && fields.contains_key("top_logprobs") {
                base.insert("logprobs".into(), true.into());
            }
            if fields.contains_key("options") {
                base.insert("options".into(), json!({"num_predict": 8}));
                base.insert("stream".into(), false.into());
            }
            Endpoint { path: path.clone(), base, fields }
        };
        let all: Vec<Endpoint> = described["paths"].as_object().unwrap().iter().map(endpoint).collect();
        assert!(all.len() >= 10, "{body}");
        all
    }

    /// The request with this field; `value` is text, since not every number that it may spell is one of JSON.
    fn with(&self, name: &str, value: &str) -> String {
        let mut members: Vec<String> = self.base.iter().map(|(name, value)| format!("{name:?}: {value}")).collect();
        members.retain(|member| !member.starts_with(&format!("{name:?}:")));
        members.push(format!("{name:?}: {value}"));
        format!("{{{}}}", members.join(", "))
    }
}

/// What a JSON schema says of a value, as far as the schemas here go.
fn allows(schema: &Value, value: &Value) -> bool {
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().any(|schema| allows(schema, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    let number = value.as_f64();
    let bound = |name: &str| schema[name].as_f64().zip(number);
    let is_inside = bound("minimum").is_none_or(|(least, found)| found >= least)
        && bound("exclusiveMinimum").is_none_or(|(least, found)| found > least)
        && bound("maximum").is_none_or(|(most, found)| found <= most);
    match schema["type"].as_str() {
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("integer") => (value.is_i64() || value.is_u64()) && is_inside,
        Some("number") => number.is_some() && is_inside,
        Some("array") => {
            let items = &schema["items"];
            value.as_array().is_some_and(|all| items.is_null() || all.iter().all(|one| allows(items, one)))
        }
        Some("object") => {
            let members = &schema["additionalProperties"];
            value.as_object().is_some_and(|all| members.is_null() || all.values().all(|one| allows(members, one)))
        }
        _ => panic!("{schema}"),
    }
}

/// Panics unless the answer is one, or an error of the client's that names the field.
#[track_caller]
fn assert_named(request: &str, name: &str, (status, body): &(u16, String)) {
    let is_error = (400..500).contains(status) && *status != 408;
    assert!(is_error, "{request}: {status} {body}");
    let error: Value = serde_json::from_str(body).unwrap();
    let message = error["error"]["message"].as_str().or(error["error"].as_str()).unwrap();
    // A model goes by several names of its field.
    assert!(message.contains(name) || *status == 404, "{request}: {message}");
    if error["error"]["code"] == "invalid_value" {
        assert_eq!(error["error"]["param"], name, "{request}: {message}");
    }
}

#[test]
fn every_example_is_answered() {
    let server = Server::start();
    for endpoint in Endpoint::all(&server) {
        for (name, schema) in &endpoint.fields {
            let example = &schema["example"];
            assert!(example.is_null() || allows(schema, example), "{}: {name}: {example}", endpoint.path);
            let request = endpoint.with(name, &example.to_string());
            let (status, body) = server.ask("POST", &endpoint.path, request.as_bytes());
            assert_eq!(status, 200, "{} {request}: {body}", endpoint.path);
        }
        let mut misspelt = endpoint.base.clone();
        misspelt.insert("temprature".into(), 1.into());
        let answer = server.ask("POST", &endpoint.path, Value::from(misspelt).to_string().as_bytes());
        assert_named(&endpoint.path, "temprature", &answer);
    }
}

#[test]
fn what_a_field_may_not_be_is_refused_by_its_name() {
    let server = Server::start();
    let values = [
        "true",
        "\"x\"",
        "\"1\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[true]",
        "{\"x\": []}",
        "-1",
        "0",
        "1",
        "0.5",
        "-0.0",
        "1.5",
        "2",
        "101",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551616",
        "1e308",
        "-1e308",
        "1e-320",
    ];
    for endpoint in Endpoint::all(&server) {
        for (name, schema) in &endpoint.fields {
            for text in values {
                let request = endpoint.with(name, text);
                let answer = server.ask("POST", &endpoint.path, request.as_bytes());
                let value: Value = serde_json::from_str(text).unwrap();
                if answer.0 != 200 || !allows(schema, &value) {
                    assert_named(&format!("{} {request}", endpoint.path), name, &answer);
                }
            }
            // What is not even JSON.
            for text in ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "+1", "01", "0x10", "nul", "\"\\ud800\""] {
                let request = endpoint.with(name, text);
                let (status, body) = server.ask("POST", &endpoint.path, request.as_bytes());
                assert_eq!(status, 400, "{} {request}: {body}", endpoint.path);
                assert!(body.contains("no JSON"), "{} {request}: {body}", endpoint.path);
            }
        }
    }
    server.assert_lives();
}

#[test]
fn ollamas_options_are_refused_by_their_names() {
    let server = Server::start();
    let about = "temperature, top_k, top_p, min_p, typical_p, repeat_penalty, frequency_penalty, presence_penalty, \
                 seed, stop, num_predict, num_ctx";
    for endpoint in Endpoint::all(&server).iter().filter(|endpoint| endpoint.fields.contains_key("options")) {
        assert_eq!(endpoint.fields["options"]["description"], about);
        for name in about.split(", ") {
            let numbers = ["-1e308", "1e308", "1e39", "0.5", "-5", "100000000", "18446744073709551615"];
            for value in ["true", "[7]", "{}"].into_iter().chain(numbers) {
                let request = endpoint.with("options", &format!("{{\"num_predict\": 2, {name:?}: {value}}}"));
                let answer = server.ask("POST", &endpoint.path, request.as_bytes());
                if answer.0 != 200 || !numbers.contains(&value) {
                    assert_named(&request, &format!("options.{name}"), &answer);
                }
            }
        }
    }
}

/// Leaves out what differs between two equal requests: names, times, what was in the cache.
fn comparable(mut answer: Value) -> Value {
    // This one says what was asked, too.
    if answer["object"] == "response" {
        return answer["output"][0]["content"].take();
    }
    if let Some(members) = answer.as_object_mut() {
        for name in ["id", "created", "created_at", "usage"] {
            members.remove(name);
        }
        members.retain(|name, _| !name.ends_with("_duration"));
    }
    answer
}

/// Values that must make a difference, each beside what it needs to be seen.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("/v1/completions", "prompt", r#""Another""#),
    ("/v1/completions", "prompt", "[1, 2]"),
    ("/v1/completions", "prompt", r#"["Once upon a time", "a"]"#),
    ("/v1/completions", "add_special_tokens", "false"),
    ("/v1/completions", "max_tokens", "1"),
    ("/v1/completions", "echo", "true"),
    ("/v1/completions", "logprobs", "3"),
    ("/v1/chat/completions", "messages", r#"[{"role": "user", "content": "Bye!"}]"#),
    ("/v1/chat/completions", "add_generation_prompt", "false"),
    ("/v1/chat/completions", "max_tokens", "1"),
    ("/v1/chat/completions", "max_completion_tokens", "1"),
    ("/v1/chat/completions", "logprobs", "false"),
    ("/v1/chat/completions", "top_logprobs", "2"),
    ("/v1/chat/completions", "tools", r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#),
    ("/v1/responses", "input", r#""Bye!""#),
    ("/v1/responses", "instructions", r#""Be brief.""#),
    ("/v1/responses", "max_output_tokens", "1"),
    ("/v1/responses", "include", "[]"),
    ("/v1/responses", "top_logprobs", "2"),
    ("/v1/responses", "text", r#"{"format": {"type": "json_schema", "schema": {"const": 7}}}"#),
    ("/v1/responses", "tools", r#"[{"type": "function", "name": "f", "parameters": {}}]"#),
    ("/v1/messages", "messages", r#"[{"role": "user", "content": "Bye!"}]"#),
    ("/v1/messages", "system", r#""Be brief.""#),
    ("/v1/messages", "tools", r#"[{"name": "f", "input_schema": {}}]"#),
    ("/v1/messages", "max_tokens", "1"),
    ("/v1/messages/count_tokens", "system", r#""Be brief.""#),
    ("/v1/messages/count_tokens", "tools", r#"[{"name": "f", "input_schema": {}}]"#),
    ("/api/chat", "messages", r#"[{"role": "user", "content": "Bye!"}]"#),
    ("/api/chat", "tools", r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#),
    ("/api/generate", "prompt", r#""Bye!""#),
    ("/api/generate", "system", r#""Be brief.""#),
    ("/api/generate", "raw", "true"),
    ("/v1/embeddings", "input", r#""Bye!""#),
    ("/v1/embeddings", "encoding_format", r#""base64""#),
    ("/api/embed", "input", "[[1, 2]]"),
    ("/tokenize", "prompt", r#""Bye!""#),
    ("/tokenize", "content", r#""Bye!""#),
    ("/tokenize", "add_special_tokens", "true"),
    ("/detokenize", "tokens", "[3, 2, 1]"),
    ("/apply-template", "messages", r#"[{"role": "user", "content": "Bye!"}]"#),
    ("/apply-template", "tools", r#"[{"type": "function", "function": {"name": "f", "parameters": {}}}]"#),
    ("/apply-template", "add_generation_prompt", "false"),
];

/// The same for whatever is sampled.
const SAMPLED: &[(&str, &str)] = &[
    ("temperature", "0"),
    ("top_p", "0.01"),
    ("top_k", "1"),
    ("min_p", "1"),
    ("typical_p", "0.01"),
    ("repetition_penalty", "50"),
    ("frequency_penalty", "50"),
    ("presence_penalty", "50"),
    ("logit_bias", r#"{"65": 100}"#),
    ("seed", "12"),
];

#[test]
fn every_setting_makes_a_difference() {
    let server = Server::start();
    for mut endpoint in Endpoint::all(&server) {
        let is_sampled = ["temperature", "options"].iter().any(|name| endpoint.fields.contains_key(*name));
        let takes_seed = endpoint.fields.contains_key("seed");
        let in_options = endpoint.fields.contains_key("options");
        if in_options {
            endpoint.base.insert("options".into(), json!({"seed": 7, "num_predict": 64, "temperature": 1}));
        } else if takes_seed {
            let max_tokens =
                ["max_tokens", "max_output_tokens"].into_iter().find(|name| endpoint.fields.contains_key(*name));
            endpoint.base.extend([("seed".into(), 7.into()), (max_tokens.unwrap().into(), 64.into())]);
        } else if is_sampled {
            endpoint.base.insert("temperature".into(), 0.into());
        }
        let path = endpoint.path.clone();
        let ask = |request: &str| {
            let (status, body) = server.ask("POST", &path, request.as_bytes());
            assert_eq!(status, 200, "{path} {request}: {body}");
            comparable(serde_json::from_str(&body).unwrap())
        };
        let base = Value::from(endpoint.base.clone());
        let plain = ask(&base.to_string());
        assert_eq!(ask(&base.to_string()), plain, "{path}: equal requests have equal answers");
        for (_, name, value) in DIFFERENCES.iter().filter(|(at, ..)| *at == path) {
            assert_ne!(ask(&endpoint.with(name, value)), plain, "{path} {name}: {value}");
        }
        for (name, value) in SAMPLED.iter().filter(|_| takes_seed) {
            assert_ne!(ask(&endpoint.with(name, value)), plain, "{path} {name}: {value}");
        }
        if in_options {
            let renamed = |name: &str| if name == "repetition_penalty" { "repeat_penalty" } else { name }.to_owned();
            let settings = SAMPLED.iter().filter(|(name, _)| *name != "logit_bias");
            for (name, value) in settings.chain(&[("num_predict", "5")]) {
                let mut options = base["options"].clone();
                options[renamed(name)] = serde_json::from_str(value).unwrap();
                assert_ne!(ask(&endpoint.with("options", &options.to_string())), plain, "{path} {name}: {value}");
            }
        }
        if path == "/v1/messages" {
            // Sampled without a seed, an answer of some tokens out of hundreds is hardly the most probable one. Of one
            // that ends soon it may be, so more than one is asked for.
            assert!((0..8).any(|_| ask(&endpoint.with("temperature", "1")) != plain));
            let cold = [("temperature", "100"), ("top_k", "1")];
            let cold = cold.iter().fold(endpoint.base.clone(), |mut body, (name, value)| {
                body.insert((*name).into(), serde_json::from_str(value).unwrap());
                body
            });
            assert_eq!(ask(&Value::from(cold).to_string()), plain, "top_k leaves the most probable token only");
        }
    }
}
