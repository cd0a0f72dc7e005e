//! `puna adapter`: LoRA adapters, looked into, converted and merged.

pub mod base;
mod convert;
mod inspect;
mod merge;

use anyhow::Result;
use clap::Subcommand;

/// Look into a LoRA adapter, convert it between PEFT's form and llama.cpp's, or merge it into its base
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna adapter inspect ./my-adapter -m ./Llama-3.1-8B-Instruct
  puna adapter convert ./my-adapter -m ./Llama-3.1-8B-Instruct -o my-adapter.gguf
  puna adapter merge -m ./Llama-3.1-8B-Instruct ./my-adapter -o ./Llama-3.1-8B-Merged")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Inspect(inspect::Args),
    Convert(convert::Args),
    Merge(merge::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Inspect(args) => inspect::run(args),
        Verb::Convert(args) => convert::run(args),
        Verb::Merge(args) => merge::run(args),
    }
}
