//! `puna adapter convert`: PEFT's form to llama.cpp's, and back.

use super::base::Base;
use crate::builtin;
use crate::show;
use crate::vault;
use anyhow::Result;
use puna_checkpoint::{Container, adapter, write_file};
use puna_vault::provenance::Role;
use serde_json::json;
use std::path::PathBuf;

/// Convert an adapter between PEFT's form and llama.cpp's
///
/// Values become F32. The rows of q and k change their order with the form; the model's sizes say how.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna adapter convert ./my-adapter -m ./Llama-3.1-8B-Instruct -o my-adapter.gguf
  puna adapter convert ./my-adapter.gguf -m ./Llama-3.1-8B-Instruct -o ./my-adapter-peft")]
pub struct Args {
    /// A directory of PEFT's, or a .gguf file of llama.cpp's
    adapter: PathBuf,
    /// The model that the adapter belongs to, in any form
    #[arg(short, long, value_name = "MODEL", value_parser = vault::model_parser())]
    model: PathBuf,
    /// The file to write, if it ends in .gguf; else a new directory of PEFT's
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    vault::trust::check(Role::Adapter, &args.adapter)?;
    let listing = adapter::list(&args.adapter)?;
    let checkpoint = builtin::open(&args.model)?;
    let config = &checkpoint.config;
    Base::new(&args.model, &checkpoint).expect(&args.adapter, &listing)?;
    let mut adapter = listing.load(config)?;
    let n = adapter.matrices.len();
    let (name, record) = vault::provenance::record("adapter convert", json!({}), &args.model, &[&args.adapter])?;
    if Container::of(&args.output) == Container::Gguf {
        let folded = adapter::write_gguf(&adapter, &args.output, config)?;
        if !folded.is_empty() {
            let names: Vec<String> = folded.iter().map(ToString::to_string).collect();
            eprintln!(
                "note: llama.cpp has one alpha for all; other scales are multiplied into B: {}",
                names.join(", ")
            );
        }
        write_file(&args.output.with_extension(name), &record)?;
    } else {
        // What PEFT loads the base by.
        adapter.settings.base_name.get_or_insert_with(|| args.model.display().to_string());
        adapter::write_peft(&adapter, &args.output, config)?;
        write_file(&args.output.join(name), &record)?;
    }
    eprintln!("{}: {n} matrices, {} of values", args.output.display(), show::bytes(4 * adapter.n_parameters()));
    Ok(())
}
