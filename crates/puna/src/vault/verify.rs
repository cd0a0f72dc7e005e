//! `puna verify`: are the bytes of a model what they were, and what somebody signed?

use super::network::NetworkArgs;
use super::pull::given_link;
use super::sign::{by_json, statement_json};
use super::{anything, counted, named, now, runtime, store, with_bar};
use crate::show::{byte_bar, one_line};
use anyhow::{Result, bail};
use puna_cpu::Cpu;
use puna_text::Date;
use puna_vault::download::Event;
use puna_vault::http::Patience;
use puna_vault::model::Model;
use puna_vault::pull::{Again, source_of};
use puna_vault::signing::{self, Trust};
use puna_vault::store::Repair;
use puna_vault::verify::{Damage, Depth, Fault, Report, What, verify};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Check that a model's files are what they were when it was kept
///
/// Needs no connection, but to repair. Without an option it looks at sizes and names alone. Damage is located: by bytes, and
/// by the tensors that have them. With a key or with roots, the model, which may then be any folder or file, is held against
/// its signature instead: by whom it is, and that the folder has the files that were signed and no others.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna verify llama
  puna verify llama --deep
  puna verify llama --sample 0.01 --json

With a copy elsewhere, which may be damaged itself in other places:
  puna verify local/Llama-3.1-8B-Instruct --deep --repair-from ./Llama-3.1-8B-Instruct

With a signature, of a model that is kept or of any folder or file:
  puna verify llama --key ./everyday.key.pub
  puna verify ./Llama-3.2-1B-Instruct --signature ./small.sig --key ./everyday.key.pub --json")]
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
    /// The signature [default: where `puna sign` puts it]
    #[arg(long, value_name = "FILE", requires = "trust")]
    signature: Option<PathBuf>,
    /// The public key of whom the signature is to be by, in PEM
    #[arg(long, value_name = "FILE", group = "trust", conflicts_with_all = WITHOUT_SIGNATURE)]
    key: Option<PathBuf>,
    /// Certificates that are to vouch for the signer's, directly or through others, in PEM; may be given several times
    #[arg(long, value_name = "FILE", group = "trust", conflicts_with_all = WITHOUT_SIGNATURE, conflicts_with = "key")]
    root: Vec<PathBuf>,
    /// Certificates are to be valid on this day, such as 2026-11-28, rather than today: when you know that it was signed then
    #[arg(long, value_name = "DATE", requires = "root", value_parser = parse_date)]
    at: Option<Date>,
    /// Passes over files that were not signed
    #[arg(long, requires = "trust")]
    ignore_unsigned: bool,
    #[command(flatten)]
    network: NetworkArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is about the manifest.
const WITHOUT_SIGNATURE: [&str; 5] = ["deep", "sample", "repair", "repair_from", "offline"];

fn parse_date(text: &str) -> Result<Date, String> {
    Date::parse(text).ok_or_else(|| format!("expected a day such as 2026-11-28, found {text}"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| format!("expected a number above 0 and up to 1, found {text}"))
}

pub fn run(args: Args) -> Result<()> {
    if let Some(trust) = trust(&args)? {
        return signed(&args, &trust);
    }
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

/// Whom a signature is to be by, if it is about one.
fn trust(args: &Args) -> Result<Option<Trust>> {
    const DAY: i64 = 86_400_000;
    if let Some(key) = &args.key {
        return Ok(Some(Trust::in_key(signing::read_public_key(key)?)));
    }
    if args.root.is_empty() {
        return Ok(None);
    }
    let mut roots = Vec::new();
    for root in &args.root {
        roots.extend(signing::read_certificates(root)?);
    }
    // Its end: the certificate may be of that day itself.
    let at = args.at.map_or_else(now, |day| (day.days() + 1) * DAY - 1000);
    Ok(Some(Trust { keys: Vec::new(), roots, at }))
}

/// Holds a model against its signature.
fn signed(args: &Args, trust: &Trust) -> Result<()> {
    let (path, _) = anything(&args.model)?;
    let signature = args.signature.clone().unwrap_or_else(|| signing::usual_place(&path));
    let report = with_bar(byte_bar("verifying", 0), |progress| {
        signing::verify(&path, &signature, trust, args.ignore_unsigned, Cpu::default_threads(), progress)
    })?;
    let n_faults = report.faults.len();
    let mut out = std::io::stdout().lock();
    if args.json {
        let faults = report.faults.iter().map(|fault| {
            let mut json = json!({ "path": fault.path, "what": fault.to_string() });
            if let signing::What::ChangedIn(ranges) = &fault.what {
                json["ranges"] = ranges.iter().map(|range| json!([range.start, range.end])).collect();
            }
            json
        });
        let mut json = statement_json(&report.statement);
        json["signature"] = json!(signature);
        json["by"] = by_json(&report.signatory);
        json["as_signed"] = report.faults.is_empty().into();
        json["bytes_read"] = report.n_bytes.into();
        json["n_unsigned"] = report.n_unsigned.into();
        json["n_empty_unsigned"] = report.n_empty.into();
        json["faults"] = faults.collect();
        writeln!(out, "{json}")?;
    } else {
        for fault in &report.faults {
            writeln!(out, "{}", one_line(&fault.to_string()))?;
        }
        if n_faults == 0 {
            let by = one_line(&report.signatory.to_string());
            let what = counted(report.statement.files.len(), report.n_bytes);
            writeln!(out, "{}: {what} read; they are as they were signed, by {by}", one_line(&args.model))?;
        }
        for (n, what) in [
            (report.n_unsigned, "were not signed, and passed over"),
            (report.n_empty, "have no bytes and were not signed: a signature by shards can't have them"),
        ] {
            if n > 0 {
                writeln!(out, "{n} files {what}")?;
            }
        }
    }
    out.flush()?;
    if n_faults > 0 {
        bail!("{}: {n_faults} files are not as they were signed in {}", args.model, signature.display());
    }
    Ok(())
}

/// Replaces what is damaged, as far as there are other copies. Tells the files that are whole again.
fn repair(args: &Args, model: &Model, report: &Report) -> Result<Vec<String>> {
    let store = store()?;
    if !store.has(model) {
        bail!("{}: only models in the store can be repaired; take a bundle in with `puna import`", model.dir.display());
    }
    if report.faults.iter().any(|fault| matches!(fault.what, What::NoTree)) {
        store.restore_trees(model)?;
    }
    let mut repaired = Vec::new();
    let mut remote = None;
    for fault in &report.faults {
        // What the manifest says wrongly no copy puts right.
        if matches!(fault.what, What::NoTree | What::Sha256(_)) {
            continue;
        }
        let others: Vec<PathBuf> = args.repair_from.iter().map(|dir| fault.file.path.below(dir)).collect();
        let mut repair = store.repair(model, &fault.file, &others)?;
        if !repair.missing().is_empty() && args.repair && !args.offline {
            // That it can't be had is told; what is damaged stays so.
            if let Some(remote) = remote.get_or_insert_with(|| Remote::open(args, model))
                && let Err(error) = remote.fetch(&mut repair)
            {
                note(&error);
            }
        }
        if repair.missing().is_empty() {
            repair.finish(now())?;
            repaired.push(fault.file.path.to_string());
        }
    }
    Ok(repaired)
}

/// Where the model came from.
struct Remote {
    runtime: Runtime,
    again: Again,
}

impl Remote {
    /// `None`, and why, where nobody can be asked.
    fn open(args: &Args, model: &Model) -> Option<Remote> {
        let open = || {
            let source = source_of(model)?;
            let (access, link, runtime) = (args.network.access(Patience::default())?, given_link(&source)?, runtime()?);
            let again = runtime.block_on(Again::of(&access, &source, link, Arc::new(|_: Event<'_>| ())))?;
            Ok(Remote { runtime, again })
        };
        open().inspect_err(note).ok()
    }

    fn fetch(&self, repair: &mut Repair<'_>) -> Result<()> {
        Ok(self.runtime.block_on(self.again.fetch(repair))?)
    }
}

fn note(error: &anyhow::Error) {
    eprintln!("note: {}", one_line(&format!("{error:#}")));
}

fn to_json(fault: &Fault) -> Value {
    let mut json = json!({ "path": fault.file.path, "what": fault.to_string(), "damage": fault.what.is_damage() });
    if let What::Damaged(Damage { ranges, tensors, .. }) = &fault.what {
        json["ranges"] = ranges.iter().map(|range| json!([range.start, range.end])).collect();
        json["tensors"] = tensors.clone().into();
    }
    json
}
