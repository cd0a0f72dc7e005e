//! `puna tune check`: everything that is wrong with a data set, before it costs a training.

use super::DataArgs;
use crate::show;
use anyhow::{Result, bail};
use puna_train::data::{Report, Source, check};
use serde_json::{Map, Value, json};
use std::io::Write;

/// Find every fault of a data set: format, roles, lengths, duplicates, rows of which nothing is trained
///
/// Each fault goes to standard error with its line, and the exit code is 2 if there are any.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune check data.jsonl -m ./Llama-3.1-8B-Instruct
  puna tune check ./data -m ./model.gguf --length 4096 --overlong truncate
  puna tune check data.jsonl -m ./model --json")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// One JSON object: `chat_format`, and a report for each of `train`, `valid`, `test`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let data = args.data.open()?;
    let encoder = data.encoder();
    let splits = [
        ("train", Some(&data.splits.train)),
        ("valid", data.splits.valid.as_ref()),
        ("test", data.splits.test.as_ref()),
    ];
    let mut object = Map::from_iter([("chat_format".to_owned(), Value::from(data.chat_format))]);
    let mut n_faults = 0;
    let mut out = std::io::stdout().lock();
    for (name, source) in splits {
        let Some(source) = source else { continue };
        let report = check(source, &encoder, &data.limit)?;
        for fault in &report.faults.listed {
            eprintln!("fault: {}", show::harmless(&fault.to_string()).replace('\n', " "));
        }
        let more = report.faults.count - report.faults.listed.len();
        if more > 0 {
            eprintln!("and {more} more in {name}");
        }
        n_faults += report.faults.count;
        if args.json {
            object.insert(name.to_owned(), json!(report));
        } else {
            write!(out, "{}", show::harmless(&describe(name, source, &report)))?;
        }
    }
    if args.json {
        object.insert("passed_over".to_owned(), json!(data.splits.passed_over));
        writeln!(out, "{}", Value::from(object))?;
    } else if !data.splits.passed_over.is_empty() {
        writeln!(out, "passed over: {}", show::harmless(&data.splits.passed_over.join(", ")))?;
    }
    match n_faults {
        0 => Ok(()),
        n => bail!("{}: expected rows without faults, found {n} with one", args.data.data.display()),
    }
}

/// The report in words; what there is none of is left out.
fn describe(name: &str, source: &Source, report: &Report) -> String {
    let Report { counts, examples, tokens, trained_tokens, .. } = report;
    let sequences = if report.format.is_preference() { "pairs" } else { "sequences" };
    let share = 100.0 * *trained_tokens as f64 / (*tokens).max(1) as f64;
    let mut text = format!("{name}: {source}\n");
    text += &format!(
        "  {} rows, {examples} {sequences}, {tokens} tokens, of them {trained_tokens} trained ({share:.1} %)\n",
        counts.rows
    );
    if let Some(lengths) = &report.lengths {
        text += &format!(
            "  tokens of a row: {} to {}, half up to {}, 90 % up to {}, 99 % up to {}; the longest is {}\n",
            lengths.min, lengths.max, lengths.p50, lengths.p90, lengths.p99, lengths.longest
        );
    }
    for (n, what) in [
        (counts.truncated, "too long and truncated"),
        (counts.split, "too long and split"),
        (counts.dropped, "too long and left out"),
        (report.trimmed, "with white space at an end of a message, which the chat format trims"),
        (report.untrained, "of which no token is trained"),
    ] {
        if n > 0 {
            text += &format!("  {}: {what}\n", rows(n));
        }
    }
    if let Some((row, first)) = report.duplicates.listed.first() {
        text +=
            &format!("  {}: the same as one before, the first is {row} like {first}\n", rows(report.duplicates.count));
    }
    for (key, n) in &report.unknown_keys {
        text += &format!("  {}: with the key {key}, which means nothing here\n", rows(*n));
    }
    for (token, n) in &report.special_names {
        text += &format!("  {}: with the text {token}, the name of a special token; it stays text\n", rows(*n));
    }
    if report.faults.count > 0 {
        text += &format!("  {}: with a fault\n", rows(report.faults.count));
    }
    text
}

fn rows(n: usize) -> String {
    if n == 1 { "1 row".to_owned() } else { format!("{n} rows") }
}
