//! `puna terms`: what a model's vendor asks, and what was agreed to.

use super::{named, now};
use crate::show::{harmless, one_line};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use puna_vault::licence::Licence;
use puna_vault::model::Model;
use puna_vault::record::{
    self, AcceptanceKind, Attestation, Channel, Document, Evidence, Folder, Found, NewAcceptance, Record, Role,
};
use puna_vault::wording;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Read, accept, compare and export the terms of a model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms show local/Llama-3.1-8B-Instruct
  puna terms accept local/Llama-3.1-8B-Instruct --accept-license")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Show(ShowArgs),
    Accept(AcceptArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
}

/// Show the terms of a model: which texts there are, what was accepted when, what the licence asks in plain words
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms show local/Llama-3.1-8B-Instruct
  puna terms show local/Llama-3.1-8B-Instruct --text")]
struct ShowArgs {
    /// A model of `puna list`, or its folder
    model: String,
    /// The texts themselves, whole
    #[arg(long)]
    text: bool,
    /// One JSON object: the record, without the person
    #[arg(long)]
    json: bool,
}

/// Accept the terms of a model, and record it: when, and of which bytes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms accept local/Llama-3.1-8B-Instruct --accept-license")]
struct AcceptArgs {
    /// A model of `puna list`, or its folder
    model: String,
    /// Accept without being asked, for scripts
    #[arg(long)]
    accept_license: bool,
}

/// Compare the terms that are kept with other ones, word by word
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms diff local/Llama-3.1-8B-Instruct --with ./Llama-3.1-8B-Instruct/LICENSE")]
struct DiffArgs {
    /// A model of `puna list`, or its folder
    model: String,
    /// Another text of the agreement
    #[arg(long, value_name = "FILE")]
    with: PathBuf,
}

/// Copy the record and all texts into a new folder
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms export local/Llama-3.1-8B-Instruct --to ./terms")]
struct ExportArgs {
    /// A model of `puna list`, or its folder
    model: String,
    /// The new folder
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// With the name of who accepted, and what shows it
    #[arg(long)]
    with_person: bool,
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Show(args) => show(&args),
        Verb::Accept(args) => accept(&args),
        Verb::Diff(args) => diff(&args),
        Verb::Export(args) => export(&args),
    }
}

/// The record of a model, and where it is. Of a model that came without one, what lies among its files.
fn read(name: &str) -> Result<(Folder, Record)> {
    let model = named(name)?;
    let folder = Folder::of(&model.dir);
    let record = match folder.read()? {
        Some(record) => record,
        None => begin(&model, &folder)?,
    };
    Ok((folder, record))
}

/// What a file of a model is, by its name.
fn role(path: &str) -> Option<Role> {
    match path.split('.').next().unwrap_or(path).to_uppercase().as_str() {
        "LICENSE" | "LICENCE" => Some(Role::Agreement),
        "USE_POLICY" => Some(Role::UsePolicy),
        _ => None,
    }
}

/// Begins the record of a model by the texts among its files.
fn begin(model: &Model, folder: &Folder) -> Result<Record> {
    let manifest = &model.manifest;
    let mut texts = Vec::new();
    for file in &manifest.files {
        if let Some(role) = role(file.path.as_str())
            && let Some(bytes) = record::read_document(&file.path.below(&model.dir))?
        {
            texts.push((role, bytes));
        }
    }
    let found: Vec<Found> = texts
        .iter()
        .map(|(role, bytes)| Found {
            role: *role,
            bytes,
            source_url: None,
            channel: Channel::Local,
            http: None,
            incorporated_by_url: false,
        })
        .collect();
    let of_text = found.iter().find_map(|found| Licence::of_document(found.bytes));
    let name = manifest.name.to_string();
    let licence = of_text.or_else(|| Licence::of_name(&name));
    let about = record::Model {
        vendor: manifest.name.owner.clone(),
        id: name,
        revision: manifest.revision.clone(),
        manifest_sha256: Some(manifest.root()),
    };
    let record = Record::start(about, licence, None, &found, now())?;
    texts.iter().try_for_each(|(_, bytes)| folder.keep(bytes).map(drop))?;
    folder.write(&record)?;
    Ok(record)
}

fn text_of(folder: &Folder, document: &Document) -> Result<String> {
    let bytes = folder.document(document.sha256_raw)?;
    let bytes = bytes.with_context(|| format!("the text {} is not among the model's records", document.sha256_raw))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn show(args: &ShowArgs) -> Result<()> {
    let (folder, record) = read(&args.model)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&record.redacted())?)?;
        return Ok(());
    }
    let licence = record.known_licence();
    writeln!(
        out,
        "{}: {}",
        one_line(&record.model.id),
        licence.map_or("its licence is not known", |licence| &licence.name)
    )?;
    for document in &record.terms {
        let accepted = record.acceptances.iter().rev().find(|one| one.terms.contains(&document.sha256_raw));
        let accepted = accepted.map_or("not accepted".to_owned(), |one| format!("accepted {}", one.at));
        writeln!(
            out,
            "  {}, {} bytes, SHA-256 {}, {}, {}",
            document.role,
            document.bytes,
            document.sha256_raw,
            one_line(&document.retrieved_at),
            one_line(&accepted)
        )?;
    }
    if record.terms.is_empty() {
        writeln!(out, "  none of its texts is here")?;
    }
    for obligation in licence.iter().flat_map(|licence| &licence.obligations) {
        writeln!(out, "  {} ({}): {}", obligation.id, obligation.clause, obligation.words)?;
    }
    if args.text {
        for document in &record.terms {
            writeln!(out, "\n== {} {}\n", document.role, document.sha256_raw)?;
            writeln!(out, "{}", harmless(&text_of(&folder, document)?))?;
        }
    }
    Ok(())
}

fn accept(args: &AcceptArgs) -> Result<()> {
    let (folder, mut record) = read(&args.model)?;
    let open: Vec<Document> = record.unaccepted().into_iter().cloned().collect();
    if open.is_empty() {
        if record.terms.is_empty() {
            bail!("{}: there is no text that could be accepted; expected a file LICENSE in the model", record.model.id);
        }
        eprintln!("all terms of {} are accepted", one_line(&record.model.id));
        return Ok(());
    }
    if !args.accept_license {
        ask(&folder, &open)?;
    }
    let new = NewAcceptance {
        kind: AcceptanceKind::LocalPrompt,
        server_date: None,
        skew_s: None,
        terms: open.iter().map(|document| document.sha256_raw).collect(),
        evidence: Evidence::default(),
        attest: Attestation::default(),
        shown_sha256: None,
    };
    record.accept(new, now())?;
    folder.write(&record)?;
    for document in &open {
        println!("accepted: {} {}", document.role, document.sha256_raw);
    }
    Ok(())
}

/// Shows the texts, and asks whether they are accepted.
fn ask(folder: &Folder, documents: &[Document]) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("accepting needs somebody who is asked; expected a terminal, or --accept-license");
    }
    for document in documents {
        println!("{}\n", harmless(&text_of(folder, document)?));
    }
    print!("Type `accept` to accept: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("standard input")?;
    if answer.trim() != "accept" {
        bail!("not accepted; nothing was recorded");
    }
    Ok(())
}

fn diff(args: &DiffArgs) -> Result<()> {
    let (folder, record) = read(&args.model)?;
    let document = record.current(Role::Agreement).context("the model has no agreement to compare with")?;
    let bytes = record::read_document(&args.with)?;
    let bytes = bytes.with_context(|| format!("{}: no such file", args.with.display()))?;
    let edits = wording::diff(&text_of(&folder, document)?, &String::from_utf8_lossy(&bytes));
    let shown = wording::show(&edits, 100);
    let mut out = std::io::stdout().lock();
    if shown.is_empty() {
        writeln!(out, "the same words")?;
    } else {
        write!(out, "{}", harmless(&shown))?;
    }
    Ok(())
}

fn export(args: &ExportArgs) -> Result<()> {
    let (folder, record) = read(&args.model)?;
    if args.to.exists() {
        bail!("{}: exists already; name a folder that does not", args.to.display());
    }
    let exported = if args.with_person { record.clone() } else { record.redacted() };
    let copy = Folder::at(&args.to);
    for document in &record.terms {
        if let Some(bytes) = folder.document(document.sha256_raw)? {
            copy.keep(&bytes)?;
        }
    }
    copy.write(&exported)?;
    println!("{}: the record of {}, and {} texts", args.to.display(), one_line(&record.model.id), record.terms.len());
    Ok(())
}
