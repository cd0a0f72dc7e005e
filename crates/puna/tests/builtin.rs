//! The model in the program: it answers without any file, and every verb takes its name.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, SHAPE, binary, run};
use std::fs;

/// `puna` in a directory with these files.
fn puna_in(files: &Files, args: &[&str], input: &[u8]) -> Run {
    run(binary().args(args).current_dir(files.path("")), input)
}

#[test]
fn it_answers_where_no_model_is_named() {
    let files = Files::new();
    let shown = puna_in(&files, &["run", "--max-tokens", "9", "--ignore-eos"], b"Hello").succeeded();
    assert!(!shown.stdout.is_empty() && shown.stderr.contains("answer 9 tokens"), "{shown}");
    let fixed = ["--json", "--temperature", "0", "--max-tokens", "9", "--ignore-eos"];
    let answer = |args: &[&str], input: &[u8]| puna_in(&files, &[args, &fixed].concat(), input).json();
    let [unnamed, named] = [answer(&["run"], b"Hello"), answer(&["run", "cria", "Hello"], b"")];
    assert_eq!(unnamed["completion_tokens"], 9);
    for field in ["ids", "text", "prompt_tokens", "finish_reason"] {
        assert_eq!(unnamed[field], named[field]);
    }
    // Words in the place of the model are taken for a prompt, and it is said how to ask it.
    puna_in(&files, &["run", "Tell me a story."], b"")
        .refused(&["expected a model", "puna run cria 'Tell me a story.'"]);
    // What is wrong with a prompt is the same as with any model.
    puna_in(&files, &["run"], b"").refused(&["the prompt is empty"]);
}

#[test]
fn every_verb_takes_its_name() {
    let files = Files::new();
    let inspect = puna_in(&files, &["inspect", "cria"], b"").succeeded();
    assert!(inspect.stdout.contains("model         cria · GGUF, 1 file"), "{inspect}");
    assert!(inspect.stdout.contains("puna's own toy model"), "{inspect}");
    let inspect = puna_in(&files, &["inspect", "cria", "--json"], b"").json();
    assert_eq!((&inspect["layout"], &inspect["files"][0]["path"]), (&"GGUF".into(), &"cria".into()));
    let vocab_size = inspect["config"]["vocab_size"].as_u64().unwrap();
    let tokens = puna_in(&files, &["tokenize", "cria", "Hello", "--json"], b"").json();
    let ids = tokens["ids"].as_array().unwrap();
    assert!(!ids.is_empty() && ids.iter().all(|id| id.as_u64().unwrap() < vocab_size), "{tokens}");
    files.write("chat.json", r#"[{"role": "user", "content": "Hello"}]"#);
    let chat = puna_in(&files, &["chat-format", "cria", "--messages", "chat.json", "--json"], b"").json();
    assert!(chat["text"].as_str().unwrap().contains("<|eot_id|>"), "{chat}");
    files.write("text.txt", "The llama eats grass. ".repeat(20));
    let score = puna_in(&files, &["score", "cria", "--text-file", "text.txt", "--context", "16", "--json"], b"").json();
    assert!(score["perplexity"].as_f64().unwrap() > 1.0, "{score}");
    let bench = ["bench", "cria", "-p", "4", "-n", "4", "--repeats", "1", "--threads", "1", "--json"];
    assert_eq!(puna_in(&files, &bench, b"").json()["model"], "cria");
    files.write(
        "data.jsonl",
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}"#,
    );
    puna_in(&files, &["tune", "check", "data.jsonl", "-m", "cria"], b"").succeeded();
    let draft = ["run", "cria", "Hello", "--draft", "cria", "--max-tokens", "9"];
    puna_in(&files, &draft, b"").succeeded();
}

#[test]
fn a_model_of_that_name_is_taken_first() {
    let files = Files::new();
    let dim = || puna_in(&files, &["inspect", "cria", "--json"], b"").json()["config"].clone();
    let built_in = dim();
    // Such a directory is no model, and the repository has one.
    files.directory("cria");
    assert_eq!(dim(), built_in);
    puna_in(&files, &["inspect", "./cria"], b"").refused(&["./cria: not a model"]);
    fs::remove_dir(files.path("cria")).unwrap();
    fs::rename(files.model("m.gguf", "Q8_0"), files.path("cria")).unwrap();
    assert_ne!(dim(), built_in);
    assert!(SHAPE.contains(&format!("\"dim\": {}", dim()["dim"])));
    fs::remove_file(files.path("cria")).unwrap();
    files.model("cria", "BF16");
    assert!(SHAPE.contains(&format!("\"dim\": {}", dim()["dim"])));
}
