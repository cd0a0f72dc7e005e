//! `puna gc`: what nothing needs goes.

use super::{now, store};
use crate::show::bytes;
use anyhow::Result;
use serde_json::json;
use std::io::Write;
use std::time::Duration;

/// Free the room of files that no model has, and of downloads that were given up
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna gc --dry-run
  puna gc --days 7 --json")]
pub struct Args {
    /// Downloads and imports that nothing was added to for so many days are given up
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    days: u16,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let age = Duration::from_secs(u64::from(args.days) * 86_400);
    let garbage = store()?.gc(now(), age, args.dry_run)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let blobs: Vec<_> =
            garbage.blobs.iter().map(|(hash, bytes)| json!({ "blake3": hash, "bytes": bytes })).collect();
        let json = json!({
            "blobs": blobs, "trees": garbage.trees, "partial": garbage.partial, "unfinished": garbage.unfinished,
            "bytes": garbage.bytes, "dry_run": args.dry_run,
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let (would, are) = if args.dry_run { ("would go", "would be") } else { ("went", "are") };
    let counts = [
        (garbage.blobs.len(), "files that no model has"),
        (garbage.partial.len(), "downloads that were given up"),
        (garbage.unfinished.len(), "models that were only begun"),
    ];
    for (n, what) in counts.iter().filter(|(n, _)| *n > 0) {
        writeln!(out, "{n} {what} {would}")?;
    }
    writeln!(out, "{} {are} free", bytes(garbage.bytes))?;
    Ok(())
}
