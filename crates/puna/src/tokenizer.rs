//! `puna tokenizer`: a vocabulary of one's own.

use crate::show;
use crate::texts::{self, Texts};
use anyhow::{Result, bail};
use puna_text::{Trainer, TrainerOptions};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  puna tokenizer train ./books -o tokenizer.model --vocab-size 4096
  puna tokenizer train letter.txt chats.jsonl -o tokenizer.model --vocab-size 32000 --json";

/// Train a tokenizer for a model of your own
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    Train(TrainArgs),
}

/// Train a tokenizer of Llama 3's kind on texts
///
/// Byte-level BPE inside the pieces of Llama 3's split, written as Meta's `tokenizer.model`. The same texts give the
/// same file, in any order and on any machine.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
struct TrainArgs {
    /// .txt and .md files, .jsonl files of rows with `text` or `messages`, and directories of them
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Tokens in all: 256 bytes, the merges, and Llama 3's 256 special tokens
    #[arg(long, value_name = "N")]
    vocab_size: usize,
    /// No token of more bytes
    #[arg(long, value_name = "N", default_value_t = TrainerOptions::new(0).max_token_bytes)]
    max_token_bytes: usize,
    /// No token from a pair that occurs less often
    #[arg(long, value_name = "N", default_value_t = TrainerOptions::new(0).min_count)]
    min_count: u64,
    /// One JSON object: `vocab_size`, `files`, `passed_over`, `texts`, `bytes`, `pieces`, `tokens`, `bytes_per_token`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    match args.action {
        Action::Train(args) => train(args),
    }
}

fn train(args: TrainArgs) -> Result<()> {
    let TrainArgs { texts, output, vocab_size, max_token_bytes, min_count, json } = args;
    let mut trainer = Trainer::new(TrainerOptions { vocab_size, max_token_bytes, min_count })?;
    check_output(&output)?;
    let files = texts::find(&texts)?;
    let (n_files, passed_over) = (files.files.len(), files.passed_over);
    let bar = show::byte_bar("reading", files.n_bytes);
    let mut texts = Texts::new(files.files, bar.clone());
    trainer.count(&mut texts);
    let n_texts = texts.finish()?;
    bar.finish_and_clear();
    let bar = show::token_bar("merging", 0);
    let trained = trainer.train(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    puna_checkpoint::write_file(&output, &trained.to_tiktoken())?;
    let (n_bytes, n_tokens, size) = (trained.n_bytes(), trained.n_tokens(), trained.vocab_size());
    let bytes_per_token = n_bytes as f64 / n_tokens as f64;
    if json {
        let object = json!({
            "vocab_size": size,
            "files": n_files,
            "passed_over": passed_over,
            "texts": n_texts,
            "bytes": n_bytes,
            "pieces": trained.n_pieces(),
            "tokens": n_tokens,
            "bytes_per_token": bytes_per_token,
        });
        writeln!(std::io::stdout(), "{object}")?;
        return Ok(());
    }
    if passed_over > 0 {
        eprintln!("{passed_over} files in directories are neither .txt nor .md nor .jsonl and were passed over");
    }
    if size < vocab_size {
        eprintln!(
            "fewer tokens than the {vocab_size} asked for: no pair of tokens is left that occurs {min_count} times in \
             these texts and has at most {max_token_bytes} bytes"
        );
    }
    eprintln!(
        "{}: {size} tokens · {n_texts} texts, {}, {bytes_per_token:.2} bytes per token",
        output.display(),
        show::bytes(n_bytes)
    );
    Ok(())
}

/// Training may take long; whoever can't have the file hears it before.
fn check_output(output: &Path) -> Result<()> {
    if output.is_dir() {
        bail!("{}: expected a file to write, found a directory", output.display());
    }
    match output.parent() {
        Some(dir) if !dir.as_os_str().is_empty() && !dir.is_dir() => {
            bail!("{}: expected a directory for it, found no {}", output.display(), dir.display())
        }
        _ => Ok(()),
    }
}
