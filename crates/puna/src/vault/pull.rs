//! `puna pull`: a model from where it is published, checked and kept.

use super::network::NetworkArgs;
use super::{counted, import, now, runtime, store, terms, to_json};
use crate::machine::{PASSES, available_memory};
use crate::show::{byte_bar, bytes, one_line};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use puna_cpu::Cpu;
use puna_cpu::measure::Memory;
use puna_vault::download::{self, Event};
use puna_vault::http::Patience;
use puna_vault::meta::{Link, MetaError};
use puna_vault::path::SafePath;
use puna_vault::pull::{Plan, PullError};
use puna_vault::record::Change;
use puna_vault::source::Source;
use puna_vault::store::{Adopted, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Get a model from where it is published, check it, and keep it
///
/// First it tells what the model is, how large, whether it fits, and under which terms; they are to be accepted before the
/// first byte of weights comes. What came is kept when a pull ends, by whatever: the same command goes on. Every file is held
/// against the hash that its publisher gives.
#[derive(clap::Args)]
#[command(after_help = "\
Sources:
  llama-3.1-8b-instruct          a name of the catalogue: 8b, 70b, 405b, with -instruct, 405b with -fp8 too
  hf:owner/name[@revision]       a repository of the Hugging Face hub, or the address of a .gguf file in one
  meta:Llama3.1-8B-Instruct      by the link of Meta's e-mail, which is asked for or taken from PUNA_META_LINK
  https://example.com/x.gguf     a GGUF file
  ./folder                       a model on this machine, as `puna import` takes it

A token for the hub is taken from HF_TOKEN, or from where the hub's own programs keep it.

Examples:
  puna pull llama-3.1-70b-instruct --dry-run
  puna pull hf:meta-llama/Llama-3.1-8B-Instruct --accept-license
  puna pull hf:meta-llama/Llama-3.1-8B --accept-license --limit-rate 20MB --json")]
pub struct Args {
    /// What to get, see below
    source: String,
    /// Accept the terms without being asked, for scripts
    #[arg(long)]
    accept_license: bool,
    /// The text of the agreement, where the source does not have it
    #[arg(long, value_name = "FILE")]
    license_file: Option<PathBuf>,
    /// Tell what would be pulled, and pull nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep these weights beside other ones of the same name that are kept
    #[arg(long)]
    beside: bool,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Bytes a second at most, such as 500KB or 20MB
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<u64>,
    #[command(flatten)]
    network: NetworkArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Where Meta's link may stand.
const LINK: &str = "PUNA_META_LINK";

fn parse_rate(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().trim_end_matches(['B', 'b']).to_ascii_uppercase().as_str() {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => 0.0,
    };
    let rate = number.parse::<f64>().ok().map(|number| number * unit).filter(|rate| (1.0..1e15).contains(rate));
    rate.map(|rate| rate as u64).ok_or_else(|| format!("expected bytes a second such as 500KB or 20MB, found {text:?}"))
}

pub fn run(args: Args) -> Result<()> {
    let source = Source::parse(&args.source, std::path::Path::exists)?;
    if let Source::Local(path) = &source {
        return import::run(import::Args::of(path.clone(), args.json));
    }
    let access = args.network.access(Patience::default())?;
    let runtime = runtime()?;
    let mut plan = runtime.block_on(Plan::of(&access, &source, given_link(&source)?))?;
    if let Some(path) = &args.license_file {
        let bytes = puna_vault::record::read_document(path)?;
        plan.add_agreement(bytes.with_context(|| format!("{}: no such file", path.display()))?);
    }
    for warning in &plan.warnings {
        eprintln!("note: the hub says: {}", one_line(warning));
    }
    let store = store()?;
    if let Some(model) = plan.kept(&store)? {
        return told(&args, &Adopted { model, shared: plan.bytes(), copied: 0 }, true);
    }
    if !args.json {
        print!("{}", Figures::of(&plan, &store).text(&plan));
        std::io::stdout().flush()?;
    }
    if let Some(other) = plan.other_weights(&store)?.filter(|_| !args.beside) {
        bail!(
            "{} is kept with the weights {}, and {} has the weights {} (each one hash over all of them): they are not the \
             same. What is kept stays; --beside keeps both",
            other.model.full_name(),
            other.kept,
            plan.source,
            other.offered
        );
    }
    if args.dry_run {
        if args.json {
            println!("{}", Figures::of(&plan, &store).json(&plan));
        }
        return Ok(());
    }
    agree(&args, &plan, &store)?;
    let adopted = loop {
        let progress = Arc::new(Progress::new(plan.bytes()));
        let options = download::Options {
            n_connections: args.connections.into(),
            bytes_per_second: args.limit_rate,
            ..download::Options::default()
        };
        let fetched = runtime.block_on(plan.fetch(&store, options, Arc::clone(&progress) as _, now()));
        progress.bar.finish_and_clear();
        match fetched {
            Ok(adopted) => break adopted,
            Err(error) if is_refused(&error) && std::io::stdin().is_terminal() => {
                eprintln!("{error}");
                plan = runtime.block_on(Plan::of(&access, &source, Some(ask_link()?)))?;
            }
            Err(error) => return Err(error.into()),
        }
    };
    told(&args, &adopted, false)
}

/// Meta's link, if the source needs one and does not have it.
pub(super) fn given_link(source: &Source) -> Result<Option<Link>> {
    if !matches!(source, Source::Meta { model: Some(_), link: None }) {
        return Ok(None);
    }
    match std::env::var(LINK) {
        Ok(link) => Ok(Some(link.parse().context(LINK)?)),
        Err(_) if std::io::stdin().is_terminal() => Ok(Some(ask_link()?)),
        Err(_) => Ok(None),
    }
}

fn ask_link() -> Result<Link> {
    eprint!("The link of Meta's e-mail (llama.com, good for 24 hours): ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("standard input")?;
    Ok(line.parse()?)
}

fn is_refused(error: &PullError) -> bool {
    let meta = match error {
        PullError::Meta(error) => Some(error),
        PullError::Download(download::DownloadError::Locate(error)) => error.downcast_ref(),
        _ => None,
    };
    matches!(meta, Some(MetaError::Refused { .. }))
}

/// Has the terms accepted, before any weights come.
fn agree(args: &Args, plan: &Plan, store: &Store) -> Result<()> {
    let (folder, mut record, changes) = plan.record(store, now())?;
    if changes.iter().any(|change| matches!(change, Change::New { before: Some(_), .. })) {
        eprintln!("note: the terms are not those of the last time; `puna terms diff` compares them");
    }
    if record.terms.is_empty() && record.check_fetch().is_err() {
        bail!(
            "{}: no text of its licence was found at its source, and without one nothing is fetched; --license-file gives it",
            plan.name
        );
    }
    terms::agree(&folder, &mut record, args.accept_license, plan.evidence().clone(), plan.server_date())?;
    Ok(record.check_fetch()?)
}

/// What is to be known before.
struct Figures {
    licence: String,
    /// Where it will be kept.
    home: PathBuf,
    free: Option<u64>,
    memory: Option<u64>,
    /// What this memory gives, in bytes a second.
    bandwidth: Option<f64>,
}

impl Figures {
    fn of(plan: &Plan, store: &Store) -> Figures {
        let cpu = Cpu::new(Cpu::default_threads());
        let bandwidth = Memory::new(&cpu).ok().map(|memory| memory.read_bandwidth(&cpu, PASSES));
        Figures {
            licence: plan.licence().map_or_else(|| "not known".to_owned(), |licence| licence.name.clone()),
            home: store.home().to_owned(),
            free: store.free().ok().flatten(),
            memory: available_memory(),
            bandwidth,
        }
    }

    /// Tokens a second at most, if every weight is read for each.
    fn speed(&self, plan: &Plan) -> Option<f64> {
        let fits = self.memory.is_none_or(|memory| plan.weight_bytes() < memory);
        self.bandwidth
            .filter(|_| fits && plan.weight_bytes() > 0)
            .map(|bandwidth| bandwidth / plan.weight_bytes() as f64)
    }

    fn text(&self, plan: &Plan) -> String {
        let mut text = format!("{} at {}, from {}\n", plan.name, plan.revision, one_line(&plan.source));
        text += &format!("  {}", counted(plan.items.len(), plan.bytes()));
        if let Some(free) = self.free {
            text += &format!("; {} are free in {}", bytes(free), self.home.display());
        }
        text += "\n";
        text += &match (self.speed(plan), self.memory) {
            (Some(speed), Some(memory)) => format!(
                "  fits into memory, of which {} are free; at most {speed:.1} tokens a second here, as it is\n",
                bytes(memory)
            ),
            (_, Some(memory)) if plan.weight_bytes() >= memory => format!(
                "  does not fit into memory, of which {} are free: it runs from the disk, at seconds a token\n",
                bytes(memory)
            ),
            _ => String::new(),
        };
        text += &format!("  licence: {}\n", one_line(&self.licence));
        text
    }

    fn json(&self, plan: &Plan) -> Value {
        let files: Vec<Value> = plan
            .items
            .iter()
            .map(|item| {
                json!({ "path": item.path, "size": item.size, "published": item.published.map(|hash| hash.to_string()) })
            })
            .collect();
        json!({
            "name": plan.name, "revision": plan.revision, "source": plan.source, "bytes": plan.bytes(),
            "weight_bytes": plan.weight_bytes(), "free_bytes": self.free, "memory_bytes": self.memory,
            "tokens_per_second_at_most": self.speed(plan), "licence": self.licence, "files": files,
        })
    }
}

fn told(args: &Args, adopted: &Adopted, was_here: bool) -> Result<()> {
    let model = &adopted.model;
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut json = to_json(model);
        json["was_here"] = was_here.into();
        json["shared_bytes"] = adopted.shared.into();
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let manifest = &model.manifest;
    let how = if was_here { "is here already" } else { "every file is what its publisher says" };
    writeln!(out, "{}: {}; {how}", model.full_name(), counted(manifest.files.len(), manifest.size()))?;
    if adopted.shared > 0 && !was_here {
        writeln!(out, "{} were here already, in this or another model", bytes(adopted.shared))?;
    }
    writeln!(out, "try it: puna run {}", manifest.name.name)?;
    Ok(())
}

/// A bar over all files. What goes wrong and is tried again is told above it.
struct Progress {
    bar: ProgressBar,
    sizes: Mutex<BTreeMap<SafePath, u64>>,
}

impl Progress {
    fn new(total: u64) -> Progress {
        Progress { bar: byte_bar("pulling", total), sizes: Mutex::default() }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("note: {}", one_line(text)));
    }
}

impl download::Progress for Progress {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Locked => self.note("another pull of this model is going on: it is waited for"),
            Event::Begins { path, size } => {
                let mut sizes = self.sizes.lock().expect("nothing panics with it");
                sizes.insert(path.clone(), size);
                // Of some files only the server knows the size.
                self.bar.set_length(self.bar.length().unwrap_or_default().max(sizes.values().sum()));
            }
            Event::Kept { bytes, .. } => {
                self.bar.inc(bytes);
                // What was there says nothing of the rate.
                self.bar.reset_eta();
            }
            Event::Received { bytes, .. } => self.bar.inc(bytes),
            Event::Dropped { path, bytes, why } => {
                self.bar.set_position(self.bar.position().saturating_sub(bytes));
                self.note(&format!("{path}: {why}"));
            }
            Event::Waits { path, why, wait } if wait >= Duration::from_secs(2) => {
                let what = path.map(|path| format!("{path}: ")).unwrap_or_default();
                self.note(&format!("{what}{why}; again in {:.0} s", wait.as_secs_f64()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("1"), Ok(1));
        assert_eq!(parse_rate("1.5KB"), Ok(1500));
        assert_eq!(parse_rate("20mb"), Ok(20_000_000));
        assert_eq!(parse_rate("2 G"), Ok(2_000_000_000));
        for text in ["", "0", "MB", "-1", "1X", "1e99G", "1.2.3"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
