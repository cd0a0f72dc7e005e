//! `puna verify`: are the bytes of a model what they were?

use super::network::NetworkArgs;
use super::{counted, named, now, runtime, store, with_bar};
use crate::show::{byte_bar, one_line};
use anyhow::{Result, bail};
use puna_cpu::Cpu;
use puna_vault::download::Event;
use puna_vault::http::Patience;
use puna_vault::model::Model;
use puna_vault::pull::refetch;
use puna_vault::store::Repair;
use puna_vault::verify::{Damage, Depth, Fault, Report, What, verify};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Check that a model's files are what they were when it was kept
///
/// Needs no connection, but to repair. Without an option it looks at sizes and names alone. Damage is located: by bytes, and
/// by the tensors that have them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna verify llama
  puna verify llama --deep
  puna verify llama --sample 0.01 --json

With a copy elsewhere, which may be damaged itself in other places:
  puna verify local/Llama-3.1-8B-Instruct --deep --repair-from ./Llama-3.1-8B-Instruct")]
pub struct Args {
    /// A model of `puna list`, or the folder of one, such as a bundle of `puna keep`
    model: String,
    /// Reads every byte, and computes both hashes that are kept of each file
    #[arg(long, conflicts_with = "sample")]
    deep: bool,
    /// Reads this share of the bytes, others each time
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    sample: Option<f64>,
    /// Replaces what is damaged from other models that have the same file, and fetches what none of them has from where the
    /// model came from: just the damaged ranges
    #[arg(long)]
    repair: bool,
    /// Fetches nothing
    #[arg(long)]
    offline: bool,
    /// Replaces what is damaged from a folder with a copy, too; may be given several times
    #[arg(long, value_name = "DIR")]
    repair_from: Vec<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("expected a number above 0 and up to 1, found {text}"))
}

pub fn run(args: Args) -> Result<()> {
    let model = named(&args.model)?;
    let depth = match args.sample {
        None if args.deep => Depth::Deep { sha256: true },
        None => Depth::Quick,
        Some(share) => Depth::Sample { share, seed: now().unsigned_abs() },
    };
    let look =
        |depth| with_bar(byte_bar("verifying", 0), |progress| verify(&model, depth, Cpu::default_threads(), progress));
    let mut report = look(depth)?;
    let mut repaired = Vec::new();
    if (args.repair || !args.repair_from.is_empty()) && !report.faults.is_empty() {
        repaired = repair(&args, &model, &report)?;
        report = look(depth)?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let faults: Vec<Value> = report.faults.iter().map(to_json).collect();
        let json = json!({
            "model": model.full_name(), "whole": report.is_whole(), "n_files": report.n_files, "bytes_read": report.n_bytes,
            "faults": faults, "repaired": repaired,
        });
        writeln!(out, "{json}")?;
    } else {
        for fault in &report.faults {
            writeln!(out, "{}", one_line(&fault.to_string()))?;
        }
        for path in &repaired {
            writeln!(out, "{path}: repaired")?;
        }
        let how = match depth {
            Depth::Quick => "their sizes are right; nothing was read",
            _ if report.is_whole() => "what was read is what it was",
            _ => "what was read is not what it was",
        };
        if report.is_whole() || depth != Depth::Quick {
            writeln!(out, "{}: {} read; {how}", model.full_name(), counted(report.n_files, report.n_bytes))?;
        }
    }
    out.flush()?;
    if !report.is_whole() {
        let n = report.faults.iter().filter(|fault| fault.what.is_damage()).count();
        bail!(
            "{}: {n} files are not what they were; --repair takes what is missing from other models or from where it was \
             published, --repair-from DIR from a copy",
            model.full_name()
        );
    }
    Ok(())
}

/// Replaces what is damaged, as far as there are other copies. Tells the files that are whole again.
fn repair(args: &Args, model: &Model, report: &Report) -> Result<Vec<String>> {
    let store = store()?;
    if !model.dir.starts_with(store.home()) {
        bail!("{}: only models in the store can be repaired; take a bundle in with `puna import`", model.dir.display());
    }
    if report.faults.iter().any(|fault| matches!(fault.what, What::NoTree)) {
        store.restore_trees(model)?;
    }
    let mut repaired = Vec::new();
    for fault in &report.faults {
        // What the manifest says wrongly no copy puts right.
        if matches!(fault.what, What::NoTree | What::Sha256(_)) {
            continue;
        }
        let others: Vec<PathBuf> = args.repair_from.iter().map(|dir| fault.file.path.below(dir)).collect();
        let mut repair = store.repair(model, &fault.file, &others)?;
        if !repair.missing().is_empty() && args.repair && !args.offline {
            fetch(args, model, &mut repair);
        }
        if repair.missing().is_empty() {
            repair.finish(now())?;
            repaired.push(fault.file.path.to_string());
        }
    }
    Ok(repaired)
}

/// Fetches what no copy here has. That it can't be had is told; what is damaged stays so.
fn fetch(args: &Args, model: &Model, repair: &mut Repair<'_>) {
    let fetched = args.network.access(Patience::default()).and_then(|access| {
        let progress = Arc::new(|_: Event<'_>| ());
        Ok(runtime()?.block_on(refetch(&access, model, repair, progress))?)
    });
    if let Err(error) = fetched {
        eprintln!("note: {}", one_line(&format!("{error:#}")));
    }
}

fn to_json(fault: &Fault) -> Value {
    let mut json = json!({ "path": fault.file.path, "what": fault.to_string(), "damage": fault.what.is_damage() });
    if let What::Damaged(Damage { ranges, tensors, .. }) = &fault.what {
        json["ranges"] = ranges.iter().map(|range| json!([range.start, range.end])).collect();
        json["tensors"] = tensors.clone().into();
    }
    json
}
