//! `puna show`: what is known of a model that is kept.

use super::{named, store, to_json};
use crate::show::{self, bytes, one_line};
use anyhow::Result;
use puna_vault::events;
use puna_vault::model::{EVENTS, RECORDS};
use puna_vault::provenance::Provenance;
use puna_vault::signing;
use serde_json::json;
use std::io::Write;

/// Show a model that is kept: its files, their hashes, where it came from, what happened to it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna show llama
  puna show llama --json")]
pub struct Args {
    /// A model of `puna list`, with @ and a revision where there are several, or the folder of one
    model: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let model = named(&args.model)?;
    let manifest = &model.manifest;
    let room = store()?.room(&model)?;
    let log = events::read(&model.dir.join(RECORDS).join(EVENTS))?;
    let provenance = Provenance::of_kept(&model).unwrap_or_else(|error| {
        eprintln!("warning: {}", one_line(&error.to_string()));
        None
    });
    let signature = Some(signing::usual_place(&model.dir)).filter(|signature| signature.is_file());
    let broken = log.broken.as_ref().map(|broken| format!("line {}: {}", broken.line, broken.why));
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut json = to_json(&model);
        json["files"] = serde_json::to_value(&manifest.files)?;
        json["bytes_on_disk"] = room.on_disk.into();
        json["bytes_alone"] = room.alone.into();
        let shared = room.shared.iter().map(|(path, models)| json!({ "path": path, "models": models }));
        json["shared"] = shared.collect();
        let events =
            log.events.iter().map(|event| json!({ "at": event.at, "kind": event.kind, "payload": event.payload }));
        json["events"] = events.collect();
        json["signature"] = json!(signature);
        json["provenance"] = json!(provenance);
        json["events_broken"] = broken.into();
        writeln!(out, "{json}")?;
        return Ok(());
    }
    writeln!(out, "model     {}", manifest.name)?;
    writeln!(out, "revision  {}", manifest.revision)?;
    writeln!(out, "folder    {}", model.dir.display())?;
    writeln!(out, "from      {}", one_line(&manifest.source))?;
    writeln!(
        out,
        "size      {}, {} on disk, {} no other model has",
        bytes(room.bytes),
        bytes(room.on_disk),
        bytes(room.alone)
    )?;
    writeln!(out, "hash      {}, over the SHA-256 of all files", manifest.root())?;
    if let Some(signature) = signature {
        writeln!(
            out,
            "signed    {}; `puna verify {} --key FILE` or `--root FILE` tells by whom",
            signature.display(),
            args.model
        )?;
    }
    for (i, line) in provenance.iter().flat_map(Provenance::lines).enumerate() {
        writeln!(out, "{}{}", if i == 0 { "made      " } else { "          " }, one_line(&line))?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = (manifest.files.iter())
        .map(|file| vec![file.path.to_string(), file.sha256.to_string(), bytes(file.size)])
        .collect();
    write!(out, "{}", show::table(&rows, 2))?;
    for (path, models) in &room.shared {
        writeln!(out, "{path} is also in {}", models.join(", "))?;
    }
    writeln!(out)?;
    for event in &log.events {
        writeln!(out, "{}  {}  {}", one_line(&event.at), one_line(&event.kind), one_line(&event.payload.to_string()))?;
    }
    if let Some(broken) = broken {
        eprintln!("warning: its log was changed by another program, {}", one_line(&broken));
    }
    Ok(())
}
