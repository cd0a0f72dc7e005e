//! `puna tune show`: the very tokens that are trained on, and which of them are trained.

use super::DataArgs;
use crate::show;
use anyhow::Result;
use puna_text::{TokenId, Tokenizer};
use puna_train::data::{Encoded, Encoding, Example, Outcome, encoded_rows};
use serde_json::json;
use std::io::Write;

/// Show the first rows of a data set as tokens: which are trained, which are special, where each ends
///
/// On a terminal trained tokens are green, the others dim, special ones bold, and every second token is underlined.
/// Elsewhere trained tokens stand in [ ] and the others in ( ).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune show data.jsonl -m ./Llama-3.1-8B-Instruct
  puna tune show data.jsonl -m ./model.gguf -n 1 --trained last-turn --no-color
  puna tune show data.jsonl -m ./model --json")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// So many rows
    #[arg(short, value_name = "ROWS", default_value_t = 3)]
    n: usize,
    /// Brackets instead of colours; so does the variable NO_COLOR
    #[arg(long)]
    no_color: bool,
    /// One JSON object: `sequences` of `row`, `part`, `ids`, `trained`, `tokens`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let data = args.data.open()?;
    let encoder = data.encoder();
    let rows = encoded_rows(&data.splits.train, &encoder, &data.limit).take(args.n);
    let rows = rows.collect::<Result<Vec<Encoding>, _>>()?;
    let tokenizer = &data.tokenizer;
    let mut out = std::io::stdout().lock();
    if args.json {
        let sequences: Vec<_> = rows
            .iter()
            .flat_map(|row| sequences(row).into_iter().map(move |sequence| (row, sequence)))
            .map(|(row, Sequence { part, ids, trained })| {
                let tokens: Vec<String> = ids.iter().map(|id| piece(tokenizer, *id)).collect();
                json!({ "row": row.origin, "part": part, "ids": ids, "trained": trained, "tokens": tokens })
            })
            .collect();
        writeln!(out, "{}", json!({ "chat_format": data.chat_format, "sequences": sequences }))?;
        return Ok(());
    }
    let paint = if show::has_colours(&out, args.no_color) { paint } else { bracket };
    for row in &rows {
        if row.outcome == Outcome::Dropped {
            writeln!(out, "{} · {} tokens, too long and left out\n", row.origin, row.length)?;
        }
        for Sequence { part, ids, trained } in sequences(row) {
            let n_trained = trained.iter().filter(|trained| **trained).count();
            let part = if part.is_empty() { String::new() } else { format!(" · {part}") };
            writeln!(out, "{}{part} · {} tokens, {n_trained} trained", row.origin, ids.len())?;
            for (at, (id, trained)) in ids.iter().zip(trained).enumerate() {
                let token = Token { text: piece(tokenizer, *id), trained, special: tokenizer.is_special(*id), at };
                write!(out, "{}", paint(&token))?;
            }
            writeln!(out, "\n")?;
        }
    }
    eprintln!("{} · chat format: {}", data.splits.train, data.chat_format);
    Ok(())
}

/// What a row becomes, one after the other.
struct Sequence {
    /// Which part of the row; empty if it is all of it.
    part: String,
    ids: Vec<TokenId>,
    trained: Vec<bool>,
}

fn sequences(row: &Encoding) -> Vec<Sequence> {
    let whole = |part: String, example: &Example| {
        let Example { ids, trained, .. } = example.clone();
        Sequence { part, ids, trained }
    };
    match &row.outcome {
        Outcome::Dropped => Vec::new(),
        Outcome::Parts(parts) => {
            parts.iter().enumerate().map(|(idx, part)| whole(format!("part {}", idx + 1), part)).collect()
        }
        Outcome::Whole(Encoded::Example(example)) => vec![whole(String::new(), example)],
        Outcome::Truncated(Encoded::Example(example)) => vec![whole("truncated".to_owned(), example)],
        Outcome::Whole(Encoded::Pair(pair)) | Outcome::Truncated(Encoded::Pair(pair)) => {
            let answered = |part: &str, answer: &[TokenId]| Sequence {
                part: part.to_owned(),
                ids: [&pair.prompt, answer].concat(),
                trained: [vec![false; pair.prompt.len()], vec![true; answer.len()]].concat(),
            };
            vec![answered("chosen", &pair.chosen), answered("rejected", &pair.rejected)]
        }
    }
}

/// A token as it is to be seen.
struct Token {
    text: String,
    trained: bool,
    special: bool,
    /// Its place in the sequence.
    at: usize,
}

/// The text of a token: control characters as pictures, and bytes that are no whole character by their value.
fn piece(tokenizer: &Tokenizer, id: TokenId) -> String {
    let mut text = String::new();
    for chunk in tokenizer.token_bytes(id).unwrap_or_default().utf8_chunks() {
        text += &show::harmless(chunk.valid()).replace('\n', "⏎");
        chunk.invalid().iter().for_each(|byte| text += &format!("<0x{byte:02X}>"));
    }
    text
}

fn paint(Token { text, trained, special, at }: &Token) -> String {
    let colour = if *trained { "32" } else { "2" };
    let bold = if *special { ";1" } else { "" };
    let underlined = if at % 2 == 1 { ";4" } else { "" };
    // Lines end as they do in the text.
    let end = if text.ends_with('⏎') { "\n" } else { "" };
    format!("\x1b[{colour}{bold}{underlined}m{text}\x1b[0m{end}")
}

fn bracket(Token { text, trained, .. }: &Token) -> String {
    if *trained { format!("[{text}]") } else { format!("({text})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart() {
        let token = |text: &str, trained, special, at| Token { text: text.to_owned(), trained, special, at };
        assert_eq!(paint(&token("a", true, false, 0)), "\x1b[32ma\x1b[0m");
        assert_eq!(paint(&token("⏎", false, false, 1)), "\x1b[2;4m⏎\x1b[0m\n");
        assert_eq!(paint(&token("<|eot_id|>", true, true, 3)), "\x1b[32;1;4m<|eot_id|>\x1b[0m");
        assert_eq!(bracket(&token(" a", true, false, 0)) + &bracket(&token("b", false, true, 1)), "[ a](b)");
    }
}
