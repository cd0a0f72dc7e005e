//! `puna terms`: what a model's vendor asks, and what was agreed to.

use super::{named, now};
use crate::show::{harmless, one_line};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use puna_vault::digest::{Hex, sha256};
use puna_vault::http::ServerDate;
use puna_vault::record::{
    self, AcceptanceKind, Attestation, Document, Evidence, Folder, NewAcceptance, Record, Role, StatusState,
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
    End(EndArgs),
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

/// Record that the licence of a model has ended: it is not run, served or passed on any more, and nothing is deleted
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna terms end local/Llama-3.1-8B-Instruct --reason 'our own notice of 1 December'")]
struct EndArgs {
    /// A model of `puna list`, or its folder
    model: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Show(args) => show(&args),
        Verb::Accept(args) => accept(&args),
        Verb::Diff(args) => diff(&args),
        Verb::Export(args) => export(&args),
        Verb::End(args) => end(&args),
    }
}

/// The record of a model, and where it is.
fn read(name: &str) -> Result<(Folder, Record)> {
    Ok(record::of_model(&named(name)?, now())?)
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
    if record.terms.is_empty() {
        bail!("{}: there is no text that could be accepted; expected a file LICENSE in the model", record.model.id);
    }
    let accepted = agree(&folder, &mut record, args.accept_license, Evidence::default(), None)?;
    if accepted.is_empty() {
        eprintln!("all terms of {} are accepted", one_line(&record.model.id));
    }
    for document in &accepted {
        println!("accepted: {} {}", document.role, document.sha256_raw);
    }
    Ok(())
}

/// Accepts what is not accepted yet: without asking, or as somebody is asked who has read it. Gives what that was. `server` is
/// another clock than this machine's.
pub(super) fn agree(
    folder: &Folder,
    record: &mut Record,
    accept_license: bool,
    evidence: Evidence,
    server: Option<ServerDate>,
) -> Result<Vec<Document>> {
    let open: Vec<Document> = record.unaccepted().into_iter().cloned().collect();
    if open.is_empty() {
        return Ok(open);
    }
    let (attest, shown_sha256) = if accept_license {
        // Nobody was shown anything.
        (Attestation::default(), None)
    } else {
        let (words, attest) = statements(record, &open);
        (attest, Some(ask(folder, &open, &words)?))
    };
    let (server_date, skew_s) = server.map(|server| (server.date, server.ahead)).unzip();
    let new = NewAcceptance {
        kind: AcceptanceKind::LocalPrompt,
        server_date,
        skew_s,
        terms: open.iter().map(|document| document.sha256_raw).collect(),
        evidence,
        attest,
        shown_sha256,
    };
    record.accept(new, now())?;
    folder.write(record)?;
    Ok(open)
}

/// What somebody says of themselves by accepting these texts: in words, and as the record has it. Only Meta's licences ask,
/// and what was said once is not asked again, but for what hangs on the agreement's date.
fn statements(record: &Record, open: &[Document]) -> (String, Attestation) {
    let (mut words, mut attest) = (String::new(), Attestation::default());
    let Some(licence) = record.known_licence().filter(|licence| licence.community.is_some()) else {
        return (words, attest);
    };
    let was_said =
        |what: fn(&Attestation) -> Option<bool>| record.acceptances.iter().any(|one| what(&one.attest).is_some());
    if !was_said(|said| said.legal_capacity) {
        attest.legal_capacity = Some(true);
        words += "By accepting you say that you may enter into contracts.\n";
    }
    let is_open = |role| open.iter().any(|document| document.role == role);
    if is_open(Role::UsePolicy) {
        attest.aup_read = Some(true);
        words += "By accepting you say that you have read the use policy.\n";
    }
    // Another agreement may be of another date.
    if is_open(Role::Agreement) || !was_said(|said| said.mau_gt_700m) {
        attest.mau_gt_700m = Some(false);
        words += &format!(
            "By accepting you say that you and your affiliates had no more than 700 million monthly users in the month before \
             {}; whoever had more needs a licence of their own from Meta.\n",
            licence.version_date.as_deref().unwrap_or("the licence's date")
        );
    }
    (words, attest)
}

/// Shows the texts and what is said by accepting them, and asks whether they are accepted. Gives the hash of what was shown.
fn ask(folder: &Folder, documents: &[Document], statements: &str) -> Result<Hex<32>> {
    if !std::io::stdin().is_terminal() {
        bail!("accepting needs somebody who is asked; expected a terminal, or --accept-license");
    }
    let mut shown = String::new();
    for document in documents {
        shown += &format!("{}\n\n", harmless(&text_of(folder, document)?));
    }
    shown += statements;
    eprint!("{shown}Type `accept` to accept: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("standard input")?;
    if answer.trim() != "accept" {
        bail!("not accepted; nothing was recorded");
    }
    Ok(sha256(shown.as_bytes()))
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

fn end(args: &EndArgs) -> Result<()> {
    let (folder, mut record) = read(&args.model)?;
    record.set_status(StatusState::Terminated, Some(args.reason.clone()), now());
    folder.write(&record)?;
    println!(
        "{}: its licence is recorded as ended; `puna rm --forget` deletes the model and its records",
        one_line(&record.model.id)
    );
    Ok(())
}
