//! The server as clients meet it, with the model that is in the program.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, SHAPE, text};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(options: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_puna"));
        command.args(["serve", "--port", "0", "--threads", "2", "--context", "1024"]).args(options);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.starts_with("serving ")).expect("it serves");
        let (_, rest) = line.split_once("http://").unwrap();
        let address = rest.split_whitespace().next().unwrap().to_owned();
        // What it says later is taken too, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, address }
    }

    /// Status, head and body of a request.
    fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|header| header.starts_with("host:")) {
            request += &format!("host: {}\r\n", self.address);
        }
        headers.iter().for_each(|header| request += &format!("{header}\r\n"));
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self.ask("POST", path, &[], &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn hello() -> Value {
    json!([{"role": "user", "content": "What is your name?"}])
}

#[test]
fn every_api_gives_the_same_answer() {
    let server = Server::start(&[]);
    let (status, answer) =
        server.post("/v1/chat/completions", &json!({"model": "cria", "messages": hello(), "temperature": 0}));
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("cria"), "{text}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );

    let (status, answer) =
        server.post("/v1/messages", &json!({"messages": hello(), "temperature": 0, "max_tokens": 200}));
    assert_eq!(
        (status, &answer["content"][0]["text"], &answer["stop_reason"]),
        (200, &json!(text), &json!("end_turn"))
    );

    let chat = json!({"messages": hello(), "options": {"temperature": 0}, "stream": false});
    let (status, answer) = server.post("/api/chat", &chat);
    assert_eq!((status, &answer["message"]["content"], &answer["done"]), (200, &json!(text), &json!(true)));

    // The exact prompt, gone on with as it is.
    let (status, prompt) = server.post("/apply-template", &json!({"messages": hello()}));
    assert_eq!(status, 200, "{prompt}");
    let (_, ids) = server.post("/tokenize", &json!({"prompt": prompt["prompt"]}));
    assert_eq!(ids["tokens"], prompt["tokens"]);
    for given in [&prompt["prompt"], &prompt["tokens"]] {
        let (status, answer) =
            server.post("/v1/completions", &json!({"prompt": given, "temperature": 0, "max_tokens": 200}));
        assert_eq!((status, &answer["choices"][0]["text"]), (200, &json!(text)), "{answer}");
    }

    // Piece by piece it is the same.
    let body =
        json!({"messages": hello(), "temperature": 0, "stream": true, "stream_options": {"include_usage": true}});
    let (status, _, body) = server.ask("POST", "/v1/chat/completions", &[], &body.to_string());
    assert_eq!(status, 200);
    let events: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let events: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    assert!(events.last().unwrap()["usage"]["completion_tokens"].as_u64().unwrap() > 3);
}

/// What lm-evaluation-harness asks, and how it reads the answer.
#[test]
fn prompts_are_scored() {
    let server = Server::start(&[]);
    let (_, ids) = server.post("/tokenize", &json!({"prompt": "A llama eats grass."}));
    let ids = ids["tokens"].as_array().unwrap().clone();
    let body = json!({"prompt": [ids, ids[..2]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    for (index, n) in [ids.len(), 2].into_iter().enumerate() {
        let choice = &answer["choices"][index];
        assert_eq!(choice["index"], index);
        let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert_eq!((scores.len(), top.len()), (n + 1, n + 1));
        assert!(scores[0].is_null() && top[0].is_null());
        for (at, (score, top)) in scores.iter().zip(top).enumerate().skip(1) {
            let score = score.as_f64().unwrap();
            let named = &top[choice["logprobs"]["tokens"][at].as_str().unwrap()];
            assert_eq!(named.as_f64(), Some(score));
            assert!(top.as_object().unwrap().values().all(|other| other.as_f64().unwrap() <= 0.0));
        }
    }
}

#[test]
fn what_is_not_honoured_is_named() {
    let server = Server::start(&[]);
    for (field, value) in [
        ("temprature", json!(1)),
        ("temperature", json!("hot")),
        ("temperature", json!(-1)),
        ("top_p", json!(1e308)),
        ("n", json!(0)),
        ("max_tokens", json!(-1)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({"x": 1})),
        ("model", json!("gpt-4o")),
        ("stop", json!({"a": 1})),
    ] {
        let mut body = json!({"messages": hello()});
        body[field] = value.clone();
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert!((400..500).contains(&status), "{field}: {value}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(field), "{answer}");
    }
    let (status, answer) = server.post("/v1/completions", &json!({"prompt": "a ".repeat(5000)}));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("at most 1024"), "{answer}");
    let (status, _, body) = server.ask("POST", "/v1/messages", &[], r#"{"messages": []}"#);
    assert_eq!(status, 400, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["type"], "error");
    assert_eq!(server.ask("GET", "/nothing", &[], "").0, 404);
    assert_eq!(server.ask("GET", "/v1/completions", &[], "").0, 405);
    let deep = format!(r#"{{"messages": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(server.ask("POST", "/v1/chat/completions", &[], &deep).0, 400);
}

#[test]
fn strangers_are_refused() {
    let server = Server::start(&["--allow-origin", "https://app.example"]);
    assert_eq!(server.ask("GET", "/v1/models", &["host: evil.test"], "").0, 403);
    assert_eq!(server.ask("GET", "/v1/models", &["origin: http://evil.test"], "").0, 403);
    let (status, head, _) = server.ask("GET", "/v1/models", &["origin: https://app.example"], "");
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
    let (status, _, body) = server.ask("GET", "/openapi.json", &[], "");
    assert_eq!(status, 200);
    assert!(serde_json::from_str::<Value>(&body).unwrap()["paths"]["/v1/completions"].is_object());
    assert_eq!(server.ask("GET", "/ready", &[], "").0, 200);
    let (_, _, metrics) = server.ask("GET", "/metrics", &[], "");
    assert!(metrics.contains("vllm:num_requests_running"), "{metrics}");
    // Another address would need keys.
    let output = Command::new(env!("CARGO_BIN_EXE_puna")).args(["serve", "--host", "0.0.0.0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--host"));
}

/// A model's own template is a stranger's program: what it does wrong is told to whoever asks, and the server lives.
#[test]
fn malicious_templates_end_with_an_answer() {
    let files = Files::new();
    let model = files.model_of(&SHAPE.replace("512", "4096"), "derived", "BF16");
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    // They write what everyone's do, until somebody says the word.
    for (payload, expected) in [
        (loops, "fuel"),
        ("{{ raise_exception('only poems, please') }}", "only poems, please"),
        ("{% include '/etc/passwd' %}", "/etc/passwd"),
        ("{{ messages.__class__.__mro__ }}", "undefined"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ] {
        let template = format!(
            "{{% for m in messages %}}{{{{ m.content }}}}{{% if m.content == 'now' %}}{payload}{{% endif %}}{{% endfor %}}"
        );
        let config = json!({ "chat_template": template }).to_string();
        std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
        let server = Server::start(&[text(&model), "--chat-format", "model"]);
        let ask = |path: &str, word: &str| {
            let messages = json!([{"role": "user", "content": word}]);
            server.post(path, &json!({"messages": messages, "max_tokens": 1, "stream": false}))
        };
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let (status, answer) = ask(path, "now");
            assert!(status == 400 && answer.to_string().contains(expected), "{payload}: {status} {answer}");
            let (status, answer) = ask(path, "Hello");
            assert_eq!(status, 200, "{payload}: {answer}");
        }
    }
}
