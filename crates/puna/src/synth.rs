//! `puna synth`: a model of any size with random weights.

use crate::show;
use anyhow::{Context, Result, bail};
use puna_checkpoint::synth::{self, Shape, Weights};
use puna_checkpoint::{Container, WeightFormat};
use std::path::PathBuf;

/// Write a model of random weights, to measure a machine before downloading anything
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna synth llama-3.1-8b --format Q8_0 -o 8b-q8_0.gguf
  puna synth llama-3.1-405b --layers 4 --format BF16 -o ./405b-short
  puna synth llama-3.1-405b --format Q4_0 --sparse -o 405b-q4_0.gguf")]
pub struct Args {
    /// llama-3.1-8b, -70b, -405b, llama-3.2-1b, or a JSON file of sizes
    shape: String,
    /// A number or block format, or a mix such as Q4_K_M; FP8 for safetensors
    #[arg(long)]
    format: String,
    /// The file to write, if it ends in .gguf; else a new directory of safetensors
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Layers instead of the shape's own
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Equal seeds give equal files
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Weights of zeros as holes in the files, which take no room on the disk: for models larger than it
    #[arg(long, conflicts_with = "seed")]
    sparse: bool,
}

pub fn run(args: Args) -> Result<()> {
    let shape = match Shape::named(&args.shape) {
        Some(shape) => shape,
        None if args.shape.ends_with(".json") => {
            let json = std::fs::read_to_string(&args.shape).with_context(|| args.shape.clone())?;
            Shape::from_json(&args.shape, &json).with_context(|| args.shape.clone())?
        }
        None => bail!("shape: expected {} or a .json file, found {}", Shape::NAMES.join(", "), args.shape),
    };
    let shape = match args.layers {
        Some(n) => shape.with_layers(n).context("--layers")?,
        None => shape,
    };
    let Ok(format) = args.format.parse::<WeightFormat>() else {
        let names: Vec<&str> = WeightFormat::names().collect();
        bail!("--format: expected one of {}, found {}", names.join(", "), args.format);
    };
    let weights = if args.sparse { Weights::Holes } else { Weights::Random { seed: args.seed } };
    let bar = show::byte_bar("writing", 0);
    synth::write(&shape, format, Container::of(&args.output), &args.output, weights, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    eprintln!("{}: {} of weights", args.output.display(), show::bytes(bar.position()));
    bar.finish_and_clear();
    Ok(())
}
