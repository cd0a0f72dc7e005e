//! `puna adapter`: LoRA adapters, looked into and converted.

mod convert;
mod inspect;

use anyhow::Result;
use clap::Subcommand;

/// Look into a LoRA adapter, or convert it between PEFT's form and llama.cpp's
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna adapter inspect ./my-adapter -m ./Llama-3.1-8B-Instruct
  puna adapter convert ./my-adapter -m ./Llama-3.1-8B-Instruct -o my-adapter.gguf")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Inspect(inspect::Args),
    Convert(convert::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Inspect(args) => inspect::run(args),
        Verb::Convert(args) => convert::run(args),
    }
}
