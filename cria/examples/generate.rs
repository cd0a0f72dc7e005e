//! Writes the corpus: `generate --seed 1 --stories 20000 --dialogues 40000 -o DIR`.

use anyhow::{Context, Result};
use clap::Parser;
use puna_cria::corpus::Parts;
use puna_cria::statistics::Statistics;
use puna_cria::{Corpus, Request};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Write cria's corpus: stories and dialogues, each to train and to measure on
#[derive(Parser)]
struct Args {
    /// Equal seeds give equal files
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stories from the grammar; those written by hand come on top
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    stories: usize,
    /// Dialogues from the grammar; those written by hand come on top
    #[arg(long, default_value_t = 40_000, value_name = "N")]
    dialogues: usize,
    /// Documents in a hundred that are kept for validation
    #[arg(long, default_value_t = 2, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(0..=100))]
    valid: u64,
    /// Directory for stories/train.jsonl, stories/valid.jsonl, dialogues/train.jsonl and dialogues/valid.jsonl
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Args { seed, stories, dialogues, valid, output } = args;
    let corpus = Corpus::generate(&Request { seed, stories, dialogues, valid_percent: valid })?;
    let Corpus { stories, dialogues } = &corpus;
    write(&output.join("stories"), stories)?;
    write(&output.join("dialogues"), dialogues)?;

    let mut of_stories = Statistics::default();
    let mut of_answers = Statistics::default();
    let mut all = Statistics::default();
    for story in corpus.stories.train.iter().chain(&corpus.stories.valid) {
        of_stories.add(&story.text);
        all.add(&story.text);
    }
    for dialogue in corpus.dialogues.train.iter().chain(&corpus.dialogues.valid) {
        for message in &dialogue.messages {
            if message.role == puna_cria::corpus::Role::Assistant {
                of_answers.add(&message.content);
            }
            all.add(&message.content);
        }
    }
    println!("{:<10}{:>10}{:>12}{:>12}{:>12}{:>12}", "", "texts", "words", "different", "sentences", "different");
    for (name, statistics) in [("stories", of_stories), ("answers", of_answers), ("all", all)] {
        println!(
            "{name:<10}{:>10}{:>12}{:>12}{:>12}{:>12}",
            statistics.texts,
            statistics.words,
            statistics.n_vocabulary(),
            statistics.sentences,
            statistics.n_different()
        );
    }
    Ok(())
}

/// Writes one row a line.
fn write<T: Serialize>(directory: &Path, parts: &Parts<T>) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for (name, rows) in [("train.jsonl", &parts.train), ("valid.jsonl", &parts.valid)] {
        let mut text = String::new();
        for row in rows {
            text += &serde_json::to_string(row)?;
            text.push('\n');
        }
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
