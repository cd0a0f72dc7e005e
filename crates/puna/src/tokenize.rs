//! `puna tokenize`: text to token ids.

use crate::builtin;
use crate::vault;
use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::path::PathBuf;

/// Show the token ids of a text
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tokenize ./Llama-3.1-8B-Instruct 'Hello, world'
  puna tokenize ./tokenizer.model --json < letter.txt")]
pub struct Args {
    /// A model, or a tokenizer's own file (tokenizer.json, tokenizer.model)
    #[arg(value_parser = vault::model_parser())]
    model: PathBuf,
    /// The text [default: standard input]
    text: Option<String>,
    /// Begin with the begin-of-text token
    #[arg(long)]
    bos: bool,
    /// One JSON object: `ids`, `tokens`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let is_gguf = args.model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let tokenizer = if args.model.is_dir() || is_gguf || builtin::is_meant(&args.model) {
        puna_session::tokenizer(&builtin::open(&args.model)?, &args.model)?
    } else {
        puna_session::load_tokenizer(&args.model)?
    };
    let text = match args.text {
        Some(text) => text,
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            text
        }
    };
    let mut ids = Vec::new();
    if args.bos {
        ids.push(tokenizer.bos().context("--bos: expected a begin-of-text token, found none in this vocabulary")?);
    }
    ids.extend(tokenizer.encode(&text));
    let pieces: Vec<String> = ids
        .iter()
        .map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into_owned())
        .collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "ids": ids, "tokens": pieces }))?;
    } else {
        for (id, piece) in ids.iter().zip(pieces) {
            writeln!(out, "{id:>7}  {piece:?}")?;
        }
        eprintln!("{} tokens, {} bytes", ids.len(), text.len());
    }
    Ok(())
}
