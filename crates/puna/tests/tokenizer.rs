//! A vocabulary of one's own: trained from files of every kind, read again, and what is refused.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, puna, text};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const VERSE: &str = "The owl and the owlet, the owner and the owned: all of them owe the other one an hour.\n";

fn train(texts: &[&Path], output: &Path, args: &[&str]) -> Run {
    let texts: Vec<&str> = texts.iter().map(|path| text(path)).collect();
    puna(&[&["tokenizer", "train", "-o", text(output)], &texts[..], args].concat())
}

#[test]
fn a_vocabulary_is_trained_and_used() {
    let files = Files::new();
    let dir = files.directory("texts");
    fs::create_dir(dir.join("more")).unwrap();
    fs::write(dir.join("verse.txt"), VERSE.repeat(3)).unwrap();
    fs::write(dir.join("more/verse.MD"), VERSE).unwrap();
    fs::write(dir.join("picture.png"), [0x89, 0x50]).unwrap();
    let messages =
        json!({ "messages": [{ "role": "user", "content": VERSE }, { "role": "assistant", "content": "Oh" }] });
    let rows = files.write("rows.jsonl", format!("{messages}\n\n{}\n", json!({ "text": VERSE })));
    let output = files.path("tokenizer.model");
    let summary = train(&[&dir, &rows], &output, &["--vocab-size", "530", "--json"]).json();
    let fields: Vec<&String> = summary.as_object().unwrap().keys().collect();
    let expected = ["vocab_size", "files", "passed_over", "texts", "bytes", "pieces", "tokens", "bytes_per_token"];
    assert_eq!(fields, expected);
    let n_bytes = 6 * VERSE.len() + 2;
    let counted = [&summary["vocab_size"], &summary["files"], &summary["passed_over"], &summary["texts"]];
    assert_eq!(counted, [530, 3, 1, 5].map(Value::from).each_ref(), "{summary}");
    assert_eq!(summary["bytes"], n_bytes);
    let n_tokens = summary["tokens"].as_u64().unwrap();
    let bytes_per_token = summary["bytes_per_token"].as_f64().unwrap();
    assert!(
        bytes_per_token > 1.2 && (bytes_per_token * n_tokens as f64 / n_bytes as f64 - 1.0).abs() < 1e-9,
        "{summary}"
    );

    // The encoder agrees with the count: what is in the texts six times, and "Oh".
    let encoded = |words: &str| {
        let tokens = &puna(&["tokenize", text(&output), words, "--json"]).json()["tokens"];
        let tokens: Vec<&str> = tokens.as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(tokens.concat(), words);
        tokens.len() as u64
    };
    assert_eq!(6 * encoded(VERSE) + encoded("Oh"), n_tokens);
    assert!(encoded("The owl owns the owlet.") < 16);

    // The same texts in another order, over the same file.
    let first = fs::read(&output).unwrap();
    train(&[&rows, &dir.join("more"), &dir.join("verse.txt")], &output, &["--vocab-size", "530"]).succeeded();
    assert_eq!(fs::read(&output).unwrap(), first);
    assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 530 - 256);
}

#[test]
fn a_small_corpus_gives_a_smaller_vocabulary() {
    let files = Files::new();
    let verse = files.write("verse.txt", VERSE);
    let output = files.path("tokenizer.model");
    let shown = train(&[&verse], &output, &["--vocab-size", "32000"]).succeeded();
    assert!(shown.stderr.contains("fewer tokens than the 32000 asked for"), "{shown}");
    let size = |args: &[&str]| {
        let args = [&["--vocab-size", "32000", "--json"], args].concat();
        train(&[&verse], &output, &args).json()["vocab_size"].as_u64().unwrap()
    };
    let plain = size(&[]);
    assert!(shown.stderr.contains(&format!("{plain} tokens")), "{shown}");
    assert!((520..600).contains(&plain), "{plain}");
    assert!(size(&["--min-count", "1"]) > plain);
    assert!((513..plain).contains(&size(&["--max-token-bytes", "2"])));
}

#[test]
fn bad_texts_are_refused() {
    let files = Files::new();
    let output = files.path("tokenizer.model");
    let bad = |name: &str, contents: &[u8], expected: &[&str]| {
        train(&[&files.write(name, contents)], &output, &["--vocab-size", "4096"]).refused(expected);
    };
    bad("a.txt", b"good\ngood\nb\xFFd\n", &["a.txt: line 3: expected UTF-8"]);
    bad("a.txt", b"", &["expected text, found only empty files"]);
    bad("a.parquet", b"PAR1", &["a.parquet: expected a directory, or a file .txt, .md or .jsonl"]);
    let good = r#"{"text": "good"}"#;
    for (row, expected) in [
        ("{\"text\": oops}", "line 2: expected a JSON object, found at column 10: expected value"),
        ("{\"text\": ", "line 2: expected a JSON object, found at column 8: EOF"),
        ("[1]", "line 2: expected an object with `text` or `messages`, found neither"),
        ("{\"prompt\": \"a\"}", "line 2: expected an object with `text` or `messages`, found neither"),
        ("{\"text\": 1}", "line 2: `text`: expected a string, found a number"),
        ("{\"messages\": \"a\"}", "line 2: `messages`: expected an array, found a string"),
        ("{\"text\": \"a\", \"messages\": []}", "line 2: expected `text` or `messages`, found both"),
        ("{\"messages\": [{\"content\": \"a\"}]}", "line 2: messages[0]: missing field `role`"),
    ] {
        bad("a.jsonl", format!("{good}\n{row}\n{good}\n").as_bytes(), &["a.jsonl: ", expected]);
    }
    assert!(!output.exists());
    let missing = files.path("missing.txt");
    train(&[&missing], &output, &["--vocab-size", "4096"]).refused(&["missing.txt"]);
    let pictures = files.directory("pictures");
    fs::write(pictures.join("a.png"), "").unwrap();
    train(&[&pictures], &output, &["--vocab-size", "4096"]).refused(&["expected files .txt, .md or .jsonl, found 1"]);
    let good = files.write("good.txt", VERSE);
    train(&[&good], &output, &["--vocab-size", "511"])
        .refused(&["size of the vocabulary: expected 512 to", "found 511"]);
    let args = ["--vocab-size", "4096", "--max-token-bytes", "1"];
    train(&[&good], &output, &args).refused(&["bytes of the longest token: expected 2 to", "found 1"]);
    let args = ["--vocab-size", "4096", "--min-count", "0"];
    train(&[&good], &output, &args).refused(&["occurrences of a pair: expected 1 to", "found 0"]);
    train(&[&good], &pictures, &["--vocab-size", "4096"]).refused(&["pictures: expected a file to write"]);
    let nowhere = files.path("nowhere/tokenizer.model");
    train(&[&good], &nowhere, &["--vocab-size", "4096"]).refused(&["tokenizer.model: expected a directory for it"]);
    train(&[], &output, &["--vocab-size", "4096"]).misused(&["TEXT"]);
    train(&[&good], &output, &[]).misused(&["--vocab-size"]);
}
