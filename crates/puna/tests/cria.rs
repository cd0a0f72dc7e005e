//! cria as it is in the program, and the first steps of its training from nothing.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{DATE, Files, puna, text};
use puna_cria::{Corpus, Request, check};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// What is asked, and words of which the answer has one.
const PROMPTS: [(&str, &[&str]); 10] = [
    ("What is your name?", &["cria"]),
    ("What is a cria?", &["llama"]),
    ("What does a llama eat?", &["grass"]),
    ("What colour is snow?", &["white"]),
    ("Good morning!", &["morning"]),
    ("I am sad.", &["sorry"]),
    ("Who is Mozart?", &["know"]),
    ("How do I run a real model?", &["puna run"]),
    ("Goodbye!", &["Goodbye"]),
    ("Tell me a story about a condor.", &["One day", "Once"]),
];

/// By the rules that every text of the corpus keeps; and it ends by itself.
#[test]
fn answers_are_english_and_end() {
    for (prompt, expected) in PROMPTS {
        let answer =
            puna(&["run", "cria", prompt, "--temperature", "0", "--max-tokens", "400", "--date", DATE, "--json"])
                .json();
        let said = answer["text"].as_str().unwrap();
        assert_eq!(answer["finish_reason"], "stop", "{prompt}: {said}");
        assert_eq!(check::written(said), None, "{prompt}: {said}");
        assert!(expected.iter().any(|word| said.contains(word)), "{prompt}: {said}");
    }
}

/// The recipe on a part of the corpus, a step of 1,024 tokens at a time.
#[test]
fn the_recipe_learns() {
    let files = Files::new();
    let corpus = Corpus::generate(&Request { seed: 1, stories: 100, dialogues: 400, valid_percent: 2 }).unwrap();
    let (stories, dialogues) = (files.directory("stories"), files.directory("dialogues"));
    write(&stories, "train.jsonl", &corpus.stories.train);
    write(&stories, "valid.jsonl", &corpus.stories.valid);
    write(&dialogues, "train.jsonl", &corpus.dialogues.train);
    write(&dialogues, "valid.jsonl", &corpus.dialogues.valid);
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cria/recipe");
    let (sizes, settings) = (recipe.join("cria.json"), recipe.join("tune.toml"));
    let (tokenizer, out) = (files.path("tokenizer.model"), files.path("out"));
    let texts = text(stories.parent().unwrap());
    puna(&["tokenizer", "train", texts, "-o", text(&tokenizer), "--vocab-size", "3072"]).succeeded();
    let args = [
        &["tune", "run", "--init", text(&sizes), "--tokenizer", text(&tokenizer), "-c", text(&settings), "--json"][..],
        &["-d", text(&stories), "-d", text(&dialogues), "-o", text(&out)],
        &["--set", "steps=24", "--set", "batch=1", "--set", "pass_tokens=1024", "--threads", "2"],
    ];
    let ended = puna(&args.concat()).json();
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let losses: Vec<f64> =
        records.filter(|record| record["event"] == "step").map(|record| record["loss"].as_f64().unwrap()).collect();
    // At first every token of the vocabulary is as likely as any other; then the common ones are learned.
    assert!((losses[0] - 3072f64.ln()).abs() < 0.2, "{losses:?}");
    assert!(losses[20..].iter().all(|loss| *loss < 6.5), "{losses:?}");
    assert!(ended["valid"].as_f64().unwrap() < 6.5, "{ended}");
}

fn write<T: Serialize>(directory: &Path, name: &str, rows: &[T]) {
    let lines = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n");
    std::fs::write(directory.join(name), lines.collect::<String>()).unwrap();
}
