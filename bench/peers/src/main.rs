//! puna beside its peers: one process, the same file, the same threads, the same tokens, turn by turn.
//!
//! Whatever a machine does to one of them in a minute it does to the other; what counts is the ratio.

mod llama_cpp;
mod puna;

use anyhow::{Context, Result};
use clap::Parser;
use puna_checkpoint::synth::{Container, Shape, SynthFormat, write};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measure puna beside its peers
#[derive(Parser)]
struct Args {
    /// The 1B shape only
    #[arg(long)]
    quick: bool,
    /// One JSON object: `cells`
    #[arg(long)]
    json: bool,
    /// Where the models are, or are written: up to 60 GB, 4 GB with --quick
    #[arg(long, value_name = "DIR", default_value = "models")]
    models: PathBuf,
    /// Threads of each
    #[arg(long, default_value_t = puna_cpu::Cpu::default_threads())]
    threads: usize,
    /// Turns, after one that is not counted
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Only this format
    #[arg(long)]
    format: Option<String>,
}

/// Who runs a model, one sequence at a time.
trait Runner {
    /// Computes tokens in batches, behind those that are there; the last one's logits are wanted.
    fn prefill(&mut self, ids: &[u32]) -> Result<()>;
    /// Computes one token and its logits.
    fn decode(&mut self, id: u32) -> Result<()>;
    /// Forgets everything.
    fn clear(&mut self) -> Result<()>;
}

/// Tokens of the longest phase.
const CONTEXT: usize = 1024;
const PROMPT: usize = 512;
const TOKENS: usize = 128;
const FORMATS: [&str; 4] = ["Q4_0", "Q4_K_M", "Q8_0", "F16"];

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.models).with_context(|| args.models.display().to_string())?;
    let shapes: &[&str] = if args.quick { &["llama-3.2-1b"] } else { &["llama-3.2-1b", "llama-3.1-8b"] };
    let peers = llama_cpp::Backend::new()?;
    let mut cells = Vec::new();
    for shape in shapes {
        for format in FORMATS.iter().filter(|format| args.format.as_deref().is_none_or(|only| only == **format)) {
            let file = model(&args.models, shape, format)?;
            let peer = peers.load(&file)?;
            cells.extend(measure(&args, shape, format, &file, &peer)?);
        }
    }
    if args.json {
        println!("{}", json!({ "cells": cells }));
    }
    Ok(())
}

/// The file of a shape in a format, written if it is not there.
fn model(dir: &Path, shape: &str, format: &str) -> Result<PathBuf> {
    let path = dir.join(format!("{shape}-{format}.gguf"));
    if !path.exists() {
        let sizes = Shape::named(shape).context("a named shape")?;
        let synth: SynthFormat = format.parse().ok().context("a format that synth writes")?;
        let bar = indicatif::ProgressBar::new(0).with_message(path.display().to_string());
        write(&sizes, synth, Container::Gguf, &path, 0, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
    }
    Ok(path)
}

/// Prefill and decode of one file, as cells.
fn measure(args: &Args, shape: &str, format: &str, file: &Path, peer: &llama_cpp::Model) -> Result<Vec<Value>> {
    let mut runners: [Box<dyn Runner + '_>; 2] =
        [Box::new(puna::Puna::new(file, args.threads)?), Box::new(peer.context(args.threads)?)];
    let ids: Vec<u32> = (0..PROMPT as u32).map(|i| i * 7919 % 128_000).collect();
    // [phase][runner]
    let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
    for turn in 0..=args.turns {
        for (who, runner) in runners.iter_mut().enumerate() {
            let start = Instant::now();
            runner.prefill(&ids)?;
            let prefill = PROMPT as f64 / start.elapsed().as_secs_f64();
            runner.clear()?;
            let start = Instant::now();
            ids[..TOKENS].iter().try_for_each(|id| runner.decode(*id))?;
            let decode = TOKENS as f64 / start.elapsed().as_secs_f64();
            runner.clear()?;
            if turn > 0 {
                rates[0][who].push(prefill);
                rates[1][who].push(decode);
            }
        }
    }
    let mut cells = Vec::new();
    for (phase, [ours, theirs]) in ["prefill 512", "decode 128"].into_iter().zip(rates) {
        let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios.clone()));
        ratios.sort_by(f64::total_cmp);
        let spread = [ratios[0], ratios[ratios.len() - 1]];
        if !args.json {
            println!(
                "{shape} {format:7} {phase:12} puna {ours:8.2}  llama.cpp {theirs:8.2} tokens/s  ratio {ratio:.2} \
                 ({:.2} to {:.2})",
                spread[0], spread[1]
            );
        }
        cells.push(json!({
            "phase": phase,
            "format": format,
            "shape": shape,
            "peer": "llama.cpp",
            "puna_tps": ours,
            "peer_tps": theirs,
            "ratio": ratio,
            "spread": spread,
        }));
    }
    Ok(cells)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
