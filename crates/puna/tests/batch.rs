//! `puna batch`: what it answers, what it refuses, and how it goes on.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, binary, puna, text, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

fn request(custom_id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).to_string()
}

fn chat(custom_id: &str, fields: Value) -> String {
    let mut body = json!({"messages": [{"role": "user", "content": "What is your name?"}], "temperature": 0});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request(custom_id, "/v1/chat/completions", &body)
}

/// The lines of an output by their names.
fn answers(path: &Path) -> HashMap<String, Value> {
    let lines = fs::read_to_string(path).unwrap();
    assert!(lines.ends_with('\n'));
    let mut answers = HashMap::new();
    for line in lines.lines() {
        let answer: Value = serde_json::from_str(line).unwrap();
        let before = answers.insert(answer["custom_id"].as_str().unwrap().to_owned(), answer);
        assert!(before.is_none(), "twice: {line}");
    }
    answers
}

fn batch(input: &Path, output: &Path, more: &[&str]) -> Run {
    let args = ["batch", text(input), "-o", text(output), "--threads", "2", "--context", "1024"];
    puna(&[&args, more].concat())
}

#[test]
fn every_request_gets_the_line_that_a_client_would_get() {
    let files = Files::new();
    let scored =
        json!({"prompt": ["A llama", "Grass"], "max_tokens": 1, "echo": true, "logprobs": 1, "temperature": 0});
    let requests = [
        chat("name", json!({})),
        chat("again", json!({"max_tokens": 3, "model": "cria"})),
        request("scored", "/v1/completions", &scored),
        // More places than the engine has for all of them.
        request("many", "/v1/completions", &json!({"prompt": vec!["A"; 40], "n": 128, "max_tokens": 1})),
        request("several", "/v1/completions", &json!({"prompt": vec!["A"; 20], "n": 128, "max_tokens": 1})),
        request("others", "/v1/completions", &json!({"prompt": vec!["B"; 20], "n": 128, "max_tokens": 1})),
        chat("\u{1f999} \"quoted\"", json!({"temprature": 1})),
        chat("model", json!({"model": "gpt-4o"})),
        chat("stream", json!({"stream": true})),
        String::new(),
        chat("long", json!({"messages": [{"role": "user", "content": "word ".repeat(3000)}]})),
    ];
    let input = files.write("requests.jsonl", requests.join("\n"));
    let output = files.path("answers.jsonl");
    let summary = batch(&input, &output, &["--json"]).json();
    assert_eq!((&summary["requests"], &summary["answered"], &summary["failed"]), (&10.into(), &10.into(), &5.into()));
    let answers = answers(&output);
    assert_eq!(answers.len(), 10);
    let status = |name: &str| answers[name]["response"]["status_code"].as_u64().unwrap();
    let body = |name: &str| &answers[name]["response"]["body"];
    for (name, answer) in &answers {
        assert!(answer["id"].as_str().unwrap().starts_with("batch_req_") && answer["error"].is_null(), "{answer}");
        assert!(answer["response"]["request_id"].is_string(), "{answer}");
        assert_eq!(body(name)["error"].is_object(), status(name) != 200, "{answer}");
    }
    let said = body("name")["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(said.contains("cria"), "{said}");
    assert_eq!(body("again")["usage"]["completion_tokens"], 3);
    assert_eq!(body("scored")["choices"][1]["logprobs"]["token_logprobs"][0], Value::Null);
    for name in ["several", "others"] {
        assert_eq!(body(name)["choices"].as_array().unwrap().len(), 20 * 128);
    }
    assert_eq!(["many", "model", "stream", "long"].map(status), [429, 404, 400, 400]);
    assert_eq!(body("stream")["error"]["param"], "stream");
    assert_eq!(body("\u{1f999} \"quoted\"")["error"]["param"], "temprature");
    let generated: u64 = answers.keys().filter_map(|name| body(name)["usage"]["completion_tokens"].as_u64()).sum();
    assert_eq!(summary["generated_tokens"], generated);
}

#[test]
fn what_is_no_batch_is_refused_before_anything_is_computed() {
    let files = Files::new();
    let output = files.path("answers.jsonl");
    let good = chat("1", json!({}));
    for (lines, expected) in [
        (vec![], "expected at least one request"),
        (vec![good.clone(), "{".into()], "line 2: expected an object with `custom_id`"),
        (vec![good.clone(), String::new(), "[]".into()], "line 3: expected an object"),
        (vec![good.clone(), chat("2", json!({})), good.clone()], "line 3: `custom_id`: expected one that no other"),
        (vec![good.replace("POST", "GET")], "line 1: `method`: expected \"POST\", found \"GET\""),
        (vec![good.replace("/chat/", "/talk/")], "line 1: `url`: expected /v1/chat/completions or /v1/completions"),
        (vec![good.replace("\"custom_id\":\"1\"", "\"custom_id\":\"\"")], "`custom_id`: expected 1 to 512 bytes"),
        (vec![good.replace("\"custom_id\"", "\"id\"")], "line 1: expected an object with `custom_id`"),
        (vec![good.replace("\"body\"", "\"extra\":1,\"body\"")], "unknown field `extra`"),
        (vec![good.clone(), "[".repeat(100_000)], "line 2: expected an object"),
        (vec![good.clone(), " ".repeat(17 << 20) + "{}"], "line 2: expected at most 16777216 bytes"),
    ] {
        let input = files.write("requests.jsonl", lines.join("\n"));
        batch(&input, &output, &[]).refused(&["requests.jsonl", expected]);
        assert!(!output.exists());
    }
    batch(&files.directory("folder"), &output, &[]).refused(&["folder: expected a file"]);
    batch(&files.path("nothing.jsonl"), &output, &[]).refused(&["nothing.jsonl"]);
}

#[test]
fn a_batch_goes_on_where_it_was_broken_off() {
    let files = Files::new();
    let requests: Vec<String> = (0..5).map(|n| chat(&n.to_string(), json!({"max_tokens": 1 + n}))).collect();
    let input = files.write("requests.jsonl", requests.join("\n"));
    let output = files.path("answers.jsonl");
    // What is not there yet is begun.
    batch(&input, &output, &["--resume"]).succeeded();
    batch(&input, &output, &[]).refused(&["answers.jsonl: expected a new file", "--resume"]);
    let whole = fs::read_to_string(&output).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();

    // Two lines, and a part of the third, perhaps all of it but its end.
    for torn in [1, lines[2].len() / 2, lines[2].len() - 1] {
        fs::write(&output, lines[..2].concat() + &lines[2][..torn]).unwrap();
        let summary = batch(&input, &output, &["--resume", "--json"]).json();
        assert_eq!((&summary["answered_before"], &summary["answered"]), (&2.into(), &3.into()), "{summary}");
        assert!(fs::read_to_string(&output).unwrap().starts_with(&lines[..2].concat()));
        let answers = answers(&output);
        for n in 0..5 {
            assert_eq!(answers[&n.to_string()]["response"]["body"]["usage"]["completion_tokens"], 1 + n);
        }
    }
    // Nothing is missing: not even a model is needed.
    let summary = batch(&input, &output, &["--resume", "--json", "-m", "nothing.gguf"]).json();
    assert_eq!((&summary["answered_before"], &summary["answered"]), (&5.into(), &0.into()));

    for (lines, expected) in [
        (format!("{}{{}}\n{}", lines[0], lines[1]), "line 2: expected an answer of a batch"),
        (lines[0].repeat(2), "line 2: expected the answer to a request"),
        (lines[0].replace("\"custom_id\":\"", "\"custom_id\":\"x"), "line 1: expected the answer to a request"),
        (format!("{}\n", requests[0]), "line 1: expected an answer of a batch"),
        ("\0\0\0\n".to_owned(), "line 1: expected an answer of a batch"),
    ] {
        fs::write(&output, &lines).unwrap();
        batch(&input, &output, &["--resume"]).refused(&["answers.jsonl", expected]);
        assert_eq!(fs::read_to_string(&output).unwrap(), lines);
    }
}

#[test]
fn ctrl_c_leaves_whole_lines() {
    const N: usize = 400;
    let files = Files::new();
    let requests: Vec<String> = (0..N).map(|n| chat(&n.to_string(), json!({"max_tokens": 20}))).collect();
    let input = files.write("requests.jsonl", requests.join("\n"));
    let output = files.path("answers.jsonl");
    let mut command = binary();
    command.args(["batch", text(&input), "-o", text(&output), "--parallel", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while fs::metadata(&output).map_or(0, |file| file.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first answer");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // While one process is at it, no other may be.
    batch(&input, &output, &["--resume"]).refused(&["nobody works on"]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait(&mut child, "puna batch"), Some(2));
    let n_before = answers(&output).len();
    assert!((1..N).contains(&n_before), "{n_before}");
    let summary = batch(&input, &output, &["--resume", "--json"]).json();
    assert_eq!((&summary["answered_before"], &summary["answered"]), (&n_before.into(), &(N - n_before).into()));
    assert_eq!(answers(&output).len(), N);
}
