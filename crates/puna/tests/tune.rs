//! Data sets at the command line: reports, faults with their lines, tokens with their marks.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, binary, puna, run, text};
use serde_json::{Value, json};
use std::path::PathBuf;

fn chat(user: &str, assistant: &str) -> Value {
    json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// A model and a data set of these rows.
fn set_up(rows: &[Value]) -> (Files, PathBuf, PathBuf) {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let data = files.write("data.jsonl", lines(rows));
    (files, model, data)
}

#[test]
fn a_clean_data_set_has_a_report() {
    let mut twice = chat("u", "a ");
    twice["id"] = json!(7);
    let (_files, model, data) = set_up(&[twice.clone(), chat("<|eot_id|>", "b"), twice]);
    let shown = puna(&["tune", "check", text(&data), "-m", text(&model)]).succeeded();
    for expected in [
        "train: chat, JSON Lines, 1 file\n  3 rows, 3 sequences, ",
        "  tokens of a row: ",
        "  2 rows: with white space at an end of a message, which the chat format trims\n",
        &format!("  1 row: the same as one before, the first is {0}:3 like {0}:1\n", text(&data)),
        "  2 rows: with the key id, which means nothing here\n",
        "  1 row: with the text <|eot_id|>, the name of a special token; it stays text\n",
    ] {
        assert!(shown.stdout.contains(expected), "{expected}: {shown}");
    }
    assert_eq!(shown.stderr, "");
    let report = puna(&["tune", "check", text(&data), "-m", text(&model), "--json"]).json();
    assert_eq!(report["chat_format"], "Llama 3.1's, as its published template has it");
    let train = &report["train"];
    assert_eq!((&train["format"], &train["rows"], &train["trimmed"]), (&json!("chat"), &json!(3), &json!(2)));
    assert_eq!((&train["duplicates"]["count"], &train["faults"]["count"]), (&json!(1), &json!(0)));
    assert!(train["tokens"].as_u64() > train["trained_tokens"].as_u64(), "{report}");
    assert!(report.get("valid").is_none());
}

#[test]
fn every_fault_has_its_line() {
    let wrong = json!({"messages": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}]});
    let (files, model, data) = set_up(&[chat("u", "a"), wrong.clone(), chat("u", ""), chat("u", "b")]);
    let checked = puna(&["tune", "check", text(&data), "-m", text(&model)]);
    assert_eq!(checked.code, Some(2), "{checked}");
    let name = text(&data);
    assert_eq!(
        checked.stderr,
        format!(
            "fault: {name}:2: messages[1]: expected a message of the assistant, found one of the user\n\
             fault: {name}:3: messages[1]: expected a text or tool calls of the assistant, found neither\n\
             error: {name}: expected rows without faults, found 2 with one\n"
        )
    );
    assert!(checked.stdout.contains("  2 rows, 2 sequences, ") && checked.stdout.contains("  2 rows: with a fault\n"));
    // A fault of any split counts; the object is printed all the same.
    files.directory("set");
    files.write("set/train.jsonl", lines(&[chat("u", "a")]));
    files.write("set/valid.jsonl", lines(&[chat("u", "a"), wrong]));
    let checked = puna(&["tune", "check", text(&files.path("set")), "-m", text(&model), "--json"]);
    assert_eq!(checked.code, Some(2), "{checked}");
    let report: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!((&report["train"]["faults"]["count"], &report["valid"]["faults"]["count"]), (&json!(0), &json!(1)));
}

#[test]
fn tokens_are_shown_with_their_marks() {
    let (_files, model, data) = set_up(&[chat("u", "ab\nc"), chat("v", "w"), chat("x", "y")]);
    let args = ["tune", "show", text(&data), "-m", text(&model), "-n", "2", "--chat-format", "meta"];
    let shown = puna(&args).succeeded();
    let rows: Vec<&str> = shown.stdout.split("\n\n").collect();
    assert_eq!(rows.len(), 3, "two rows and the end: {shown}");
    assert!(rows[0].starts_with(&format!("{}:1 · ", text(&data))), "{shown}");
    assert!(rows[0].contains("(<|begin_of_text|>)(<|start_header_id|>)(u)"), "{shown}");
    assert!(rows[0].ends_with("(<|end_header_id|>)(⏎)(⏎)[ab][⏎][c][<|eot_id|>]"), "{shown}");
    let json = puna(&[&args[..], &["--json"]].concat()).json();
    let sequences = json["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), 2);
    let (ids, trained) = (sequences[1]["ids"].as_array().unwrap(), sequences[1]["trained"].as_array().unwrap());
    assert_eq!((ids.len(), trained.iter().filter(|trained| **trained == json!(true)).count()), (trained.len(), 2));
    assert_eq!(sequences[1]["row"], format!("{}:2", text(&data)));
}

#[test]
fn pairs_are_shown_one_after_the_other() {
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
    let (_files, model, data) = set_up(&[row]);
    let shown = puna(&["tune", "show", text(&data), "-m", text(&model)]).succeeded();
    for expected in
        [":1 · chosen · 4 tokens, 2 trained\n(<|begin_of_text|>)(p)[a][<|end_of_text|>]\n", ":1 · rejected · "]
    {
        assert!(shown.stdout.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn what_can_not_be_asked_is_refused() {
    let (files, model, data) = set_up(&[chat("u", "a")]);
    let model = text(&model);
    let check = |args: &[&str]| puna(&[&["tune", "check", text(&data), "-m", model], args].concat());
    check(&["--overlap", "3"]).refused(&["overlap: expected overlong texts to be split, or text files; found neither"]);
    check(&["--length", "1"]).refused(&["length: expected at least 2 tokens, found 1"]);
    check(&["--length", "100000000"]).refused(&["length: expected at most"]);
    check(&["--format", "csv"]).misused(&["chat, sharegpt, alpaca"]);
    puna(&["tune", "check", text(&files.path("none")), "-m", model]).refused(&["none: ", "No such file"]);
    puna(&["tune", "check", text(&data), "-m", text(&data)]).refused(&["data.jsonl"]);
    let mixed = files.write("mixed.jsonl", lines(&[chat("u", "a"), json!({"text": "t"})]));
    puna(&["tune", "show", text(&mixed), "-m", model])
        .refused(&["mixed.jsonl:2: expected a row of the format chat", "--format"]);
    // Some rows of a format that was asked for: shown is what can be.
    let forced = ["tune", "show", text(&mixed), "-m", model, "--format", "chat", "-n", "1"];
    let shown = run(binary().args(forced).env("NO_COLOR", "1"), b"").succeeded();
    assert!(shown.stderr.contains("chat, JSON Lines"), "{shown}");
}
