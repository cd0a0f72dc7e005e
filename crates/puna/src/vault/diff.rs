//! `puna diff`: are two models the same tensors?

use super::{model_parser, with_bar};
use crate::builtin;
use crate::show::{one_line, step_bar};
use anyhow::{Result, bail};
use puna_cpu::Cpu;
use puna_vault::diff::diff;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Compare two models tensor by tensor, whatever form each is in
///
/// Values are compared by what they stand for: Meta's files and Hugging Face's of one model are the same, although their rows
/// lie in another order. Ends with exit code 2 if they differ.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna diff llama ./model.gguf
  puna diff local/Llama-3.1-8B-Instruct ./Llama-3.1-8B-Instruct --json")]
pub struct Args {
    /// A model: a path, or one of `puna list`
    #[arg(value_parser = model_parser())]
    a: PathBuf,
    /// Another
    #[arg(value_parser = model_parser())]
    b: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Tensors that are named one by one.
const SHOWN: usize = 20;

pub fn run(args: Args) -> Result<()> {
    let (a, b) = (builtin::open(&args.a)?, builtin::open(&args.b)?);
    let diff = with_bar(step_bar(0), |progress| diff(&a, &b, Cpu::default_threads(), progress));
    let mut out = std::io::stdout().lock();
    let different: Vec<String> = diff.different.iter().map(ToString::to_string).collect();
    let [only_a, only_b] =
        [&diff.only_a, &diff.only_b].map(|only| only.iter().map(ToString::to_string).collect::<Vec<_>>());
    if args.json {
        let json = json!({
            "same": diff.is_same(), "n_equal": diff.equal.len(), "different": different, "only_a": only_a, "only_b": only_b,
            "settings": diff.settings,
        });
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{} tensors are the same", diff.equal.len())?;
        let list = |out: &mut dyn Write, what: &str, all: &[String]| {
            all.iter().take(SHOWN).try_for_each(|one| writeln!(out, "{what}{}", one_line(one)))?;
            if all.len() > SHOWN {
                writeln!(out, "{what}and {} more; --json names them all", all.len() - SHOWN)?;
            }
            std::io::Result::Ok(())
        };
        list(&mut out, "", &different)?;
        list(&mut out, "only in the first: ", &only_a)?;
        list(&mut out, "only in the second: ", &only_b)?;
        list(&mut out, "setting ", &diff.settings)?;
    }
    out.flush()?;
    if !diff.is_same() {
        let n = different.len() + only_a.len() + only_b.len();
        bail!("the models differ in {n} tensors");
    }
    Ok(())
}
