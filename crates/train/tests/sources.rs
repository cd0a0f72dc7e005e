//! Files, containers, formats told by content, lengths, and the report of a check.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod vocabulary;

use flate2::Compression;
use flate2::write::GzEncoder;
use puna_text::chat::Dialect;
use puna_train::data::{Counts, Format, Limit, Overlong, Report, Splits, Trained, check, examples, open, pairs};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use vocabulary::{Files, encoder, llama3, spelled};

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}"#;
const PAIR: &str = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    let error = open(path, None).map(drop).unwrap_err().to_string();
    for expected in expected {
        assert!(error.contains(expected), "expected `{expected}`: {error}");
    }
}

/// The examples of a data set, spelled.
fn texts(splits: &Splits) -> Vec<String> {
    let tokenizer = llama3();
    let encoder = encoder(&tokenizer, Dialect::Meta, Trained::Assistant);
    let loaded = examples(&splits.train, &encoder, &Limit::new(1000, Overlong::Error, 0).unwrap()).unwrap();
    loaded.items.iter().map(|example| spelled(&tokenizer, &example.ids)).collect()
}

#[test]
fn containers_are_told_by_their_content() {
    let files = Files::new();
    let lines = format!("{CHAT}\n\n{CHAT}\n");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let expected = texts(&open(&files.write("data.jsonl", &lines), None).unwrap());
    assert_eq!(expected.len(), 2);
    assert!(expected[0].ends_with("<|end_header_id|>\n\na<|eot_id|>"), "{expected:?}");
    for (name, bytes, described) in [
        ("data.bin", gzip.finish().unwrap(), "chat, JSON Lines, 1 file"),
        ("data.json", format!("\u{FEFF} [{CHAT},\n{CHAT}]").into_bytes(), "chat, a JSON array, 1 file"),
    ] {
        let splits = open(&files.write(name, bytes), None).unwrap();
        assert_eq!(splits.train.to_string(), described);
        assert_eq!(texts(&splits), expected, "{name}");
    }
    let text = open(&files.write("notes.md", "\u{FEFF}{x}"), None).unwrap();
    assert_eq!(text.train.to_string(), "text, text files, 1 file");
    assert_eq!(texts(&text), ["<|begin_of_text|>{x}<|end_of_text|>"]);
    // The name of a text file means nothing where a format is asked for.
    let lines = open(&files.write("lines.txt", CHAT), Some(Format::Chat)).unwrap();
    assert_eq!(lines.train.to_string(), "chat, JSON Lines, 1 file");
}

#[test]
fn what_is_no_data_set_is_refused() {
    let files = Files::new();
    refused(&files.path("none.jsonl"), &["none.jsonl", "No such file"]);
    refused(&files.write("empty.jsonl", ""), &["empty.jsonl: expected rows, found none"]);
    refused(&files.write("blank.jsonl", " \n\n"), &["blank.jsonl: expected rows, found none"]);
    refused(&files.write("empty.json", "[]"), &["empty.json: expected rows, found none"]);
    refused(&files.write("a.csv", "a,b\n"), &["a.csv: expected JSON Lines", "found none of them"]);
    refused(&files.write("a.zst", [0x28, 0xB5, 0x2F, 0xFD, 0]), &["a.zst: expected", "found zstd; unpack it first"]);
    refused(&files.write("a.gz", [0x1F, 0x8B, 8, 0, 1]), &["a.gz"]);
    refused(&files.write("broken.jsonl", "{\"messages\": ["), &["broken.jsonl:1: broken JSON in column 14"]);
    refused(
        &files.write("other.jsonl", "{\"question\": 1, \"answer\": 2}"),
        &["other.jsonl:1: expected the keys of a format, messages (chat)", "found question, answer"],
    );
    refused(
        &files.write("both.jsonl", r#"{"messages": [], "chosen": [], "rejected": []}"#),
        &["both.jsonl:1: expected rows of one format, found keys of chat and of preference", "--format"],
    );
    let path = files.write("both.jsonl", r#"{"messages": [], "chosen": [], "rejected": []}"#);
    assert_eq!(open(&path, Some(Format::Preference)).unwrap().train.format(), Format::Preference);
    refused(
        &files.write("mixed.jsonl", format!("{CHAT}\n{PAIR}\n")),
        &["mixed.jsonl:2: expected a row of the format chat", "found preference", "--format"],
    );
    refused(&files.write("parquet", "PAR1 and no more"), &["parquet: expected a Parquet file"]);
}

#[test]
fn directories_have_splits() {
    let files = Files::new();
    for name in ["d/train-00000-of-00002.jsonl", "d/train-00001-of-00002.jsonl", "d/validation.jsonl", "d/test.json"] {
        files.write(name, CHAT);
    }
    files.write("d/README.md", "#");
    files.write("d/.hidden", "x");
    let splits = open(&files.path("d"), None).unwrap();
    assert_eq!(splits.train.to_string(), "chat, JSON Lines, 2 files");
    assert!(splits.valid.is_some() && splits.test.is_some());
    assert_eq!(splits.passed_over, ["README.md"]);
    assert_eq!(texts(&splits).len(), 2);

    files.write("mixed/train.jsonl", CHAT);
    files.write("mixed/valid.jsonl", PAIR);
    refused(&files.path("mixed"), &["valid.jsonl: expected rows of the format chat, as in", "found preference"]);
    files.write("none/data.jsonl", CHAT);
    refused(&files.path("none"), &["none: expected a directory with a file train.jsonl", "found data.jsonl"]);
    files.write("texts/b.txt", "b");
    files.write("texts/a.md", "a");
    let splits = open(&files.path("texts"), None).unwrap();
    assert_eq!(texts(&splits), ["a", "b"].map(|text| format!("<|begin_of_text|>{text}<|end_of_text|>")));
}

#[test]
fn kinds_of_rows_are_not_mixed_up() {
    let files = Files::new();
    let tokenizer = llama3();
    let encoder = encoder(&tokenizer, Dialect::Meta, Trained::Assistant);
    let limit = Limit::new(100, Overlong::Error, 0).unwrap();
    let source = open(&files.write("chat.jsonl", CHAT), None).unwrap().train;
    let error = pairs(&source, &encoder, &limit).unwrap_err().to_string();
    assert!(error.contains("chat.jsonl: expected pairs of answers, found examples (format chat)"), "{error}");
    let source = open(&files.write("pairs.jsonl", PAIR), None).unwrap().train;
    let error = examples(&source, &encoder, &limit).unwrap_err().to_string();
    assert!(error.contains("found pairs of answers (format preference)"), "{error}");
}

#[test]
fn long_rows() {
    let files = Files::new();
    let tokenizer = llama3();
    let encoder = encoder(&tokenizer, Dialect::Meta, Trained::Assistant);
    let long = "x".repeat(50);
    let row = |user: &str, answer: &str| json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]});
    let rows = format!("{CHAT}\n{}\n{}\n", row(&long, "a"), row("u", &long));
    let source = open(&files.write("data.jsonl", rows), None).unwrap().train;
    let load = |overlong| examples(&source, &encoder, &Limit::new(40, overlong, 0).unwrap());
    for overlong in [Overlong::Error, Overlong::Split] {
        let error = load(overlong).unwrap_err().to_string();
        assert!(error.contains("data.jsonl:2: expected at most 40 tokens, found 73"), "{error}");
    }
    let dropped = load(Overlong::Drop).unwrap();
    assert_eq!((dropped.items.len(), dropped.counts), (1, Counts { rows: 3, dropped: 2, ..Counts::default() }));
    let truncated = load(Overlong::Truncate).unwrap();
    assert_eq!(truncated.counts, Counts { rows: 3, dropped: 1, truncated: 1, ..Counts::default() });
    let kept = spelled(&tokenizer, &truncated.items[1].ids);
    assert!(kept.starts_with("<|begin_of_text|>xxx") && kept.ends_with("\n\na<|eot_id|>"), "{kept}");
    assert_eq!(truncated.items[1].ids.len(), 40);

    // Text files are cut in any case.
    let source = open(&files.write("long.txt", &long), None).unwrap().train;
    let loaded = examples(&source, &encoder, &Limit::new(20, Overlong::Error, 0).unwrap()).unwrap();
    let lengths: Vec<usize> = loaded.items.iter().map(|example| example.ids.len()).collect();
    assert_eq!((lengths, loaded.counts.split), (vec![20, 20, 14], 1));
}

fn report(files: &Files, rows: &[Value], dialect: Dialect) -> Report {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let source = open(&files.write("data.jsonl", lines), Some(Format::Chat)).unwrap().train;
    let tokenizer = llama3();
    check(&source, &encoder(&tokenizer, dialect, Trained::Assistant), &Limit::new(150, Overlong::Error, 0).unwrap())
        .unwrap()
}

#[test]
fn a_check_finds_everything_at_once() {
    let files = Files::new();
    let good: Value = serde_json::from_str(CHAT).unwrap();
    let mut weightless = good.clone();
    weightless["messages"][1]["weight"] = json!(0);
    let mut odd = good.clone();
    odd["id"] = json!(1);
    odd["messages"][0]["name"] = json!("x");
    odd["messages"][0]["content"] = json!("<|eot_id|> <|eot_id|><|begin_of_text|>\n");
    let mut long = good.clone();
    long["messages"][0]["content"] = json!("x".repeat(150));
    let rows = [
        good.clone(),
        json!([1]),
        odd,
        good.clone(),
        json!({"messages": [good["messages"][0]]}),
        weightless,
        long,
        good,
    ];
    let report = report(&files, &rows, Dialect::Meta);
    assert_eq!((report.format, report.counts.rows, report.examples), (Format::Chat, 4, 4));
    assert_eq!((report.duplicates.count, report.untrained, report.trimmed), (2, 1, 0));
    let repeated: Vec<String> = report.duplicates.listed.iter().map(|(row, first)| format!("{row} {first}")).collect();
    let path = files.path("data.jsonl").display().to_string();
    assert_eq!(repeated, [4, 8].map(|line| format!("{path}:{line} {path}:1")));
    let faults: Vec<String> = report.faults.listed.iter().map(|fault| fault.to_string().replace(&path, "")).collect();
    assert_eq!(
        faults,
        [
            ":2: expected an object, found another JSON value",
            ":5: messages[0]: expected the last message to be of the assistant, found one of the user",
            ":6: expected a token that is trained, found none",
            ":7: expected at most 150 tokens, found 173",
        ]
    );
    let unknown: Vec<(&str, usize)> = report.unknown_keys.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    assert_eq!(unknown, [("id", 1), ("messages.name", 1)]);
    let names: Vec<(&str, usize)> = report.special_names.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(names, [("<|begin_of_text|>", 1), ("<|eot_id|>", 1)]);
    // Three rows of 24 tokens, of which two are trained, and the odd one.
    let lengths = report.lengths.clone().unwrap();
    assert_eq!((lengths.min, lengths.p50, lengths.longest.to_string()), (24, 24, format!("{path}:3")));
    assert_eq!((report.trained_tokens, report.tokens), (8, 3 * 24 + lengths.max));

    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["format"], &json["rows"]), (&json!("chat"), &json!(4)));
    assert_eq!(json["faults"]["listed"][0]["at"], json!(format!("{path}:2")));

    let report = self::report(&files, &rows, Dialect::Template);
    assert_eq!(report.trimmed, 1);
}
