//! `puna keep`: a model in a folder of its own, to be carried anywhere.

use super::{counted, named, now, with_bar};
use crate::show::byte_bar;
use anyhow::Result;
use puna_cpu::Cpu;
use puna_vault::bundle::{self, Keep};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Copy a model into a new folder, with its records, and hashes that `sha256sum -c` reads
///
/// What was written is read back before the folder appears under its name. Another machine needs nothing but the folder:
/// `puna verify DIR --deep` checks it, and `puna run DIR` runs it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna keep llama --to ./bundle
  puna keep local/Llama-3.1-8B-Instruct --to ./Llama-bundle --json")]
pub struct Args {
    /// A model of `puna list`, or the folder of one
    model: String,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// With the name of who accepted its terms, and what shows it
    #[arg(long)]
    with_person: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let model = named(&args.model)?;
    let what = Keep { model: &model, to: &args.to, beside: &[], with_person: args.with_person };
    let kept =
        with_bar(byte_bar("keeping", 0), |progress| bundle::keep(what, Cpu::default_threads(), now(), progress))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "dir": args.to, "n_files": kept.n_files, "bytes": kept.n_bytes }))?;
    } else {
        writeln!(out, "{}: {}, read back and found whole", args.to.display(), counted(kept.n_files, kept.n_bytes))?;
    }
    Ok(())
}
