//! `puna list`: which models are kept.

use super::{store, to_json};
use crate::show::{self, bytes, one_line};
use anyhow::Result;
use serde_json::json;
use std::io::Write;

/// List the models that are kept
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna list
  puna list --json")]
pub struct Args {
    /// One JSON object: `models`, and `broken`, what is wrong with others
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let listing = store()?.list()?;
    let broken: Vec<String> = listing.broken.iter().map(ToString::to_string).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        let models: Vec<_> = listing.models.iter().map(to_json).collect();
        writeln!(out, "{}", json!({ "models": models, "broken": broken }))?;
        return Ok(());
    }
    for error in &broken {
        eprintln!("warning: {}", one_line(error));
    }
    if listing.models.is_empty() {
        eprintln!("no models are kept yet: `puna import` takes in one that is on this machine");
        return Ok(());
    }
    let mut rows = vec![["model", "revision", "kept", "files", "size"].map(str::to_owned).to_vec()];
    rows.extend(listing.models.iter().map(|model| {
        let manifest = &model.manifest;
        let day = manifest.kept_at.split('T').next().unwrap_or_default();
        vec![
            manifest.name.to_string(),
            manifest.revision.chars().take(12).collect(),
            one_line(day),
            manifest.files.len().to_string(),
            bytes(manifest.size()),
        ]
    }));
    write!(out, "{}", show::table(&rows, 3))?;
    Ok(())
}
