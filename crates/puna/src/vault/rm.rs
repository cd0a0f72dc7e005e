//! `puna rm`: a model is kept no longer.

use super::{now, store};
use crate::show::bytes;
use anyhow::Result;
use std::io::Write;
use std::time::Duration;

/// Remove a model; its records of what was agreed to, and of what happened, stay
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna rm old
  puna rm local/model --forget")]
pub struct Args {
    /// A model of `puna list`, with @ and a revision where there are several
    model: String,
    /// Removes its records, too
    #[arg(long)]
    forget: bool,
    /// Leaves its bytes on the disk until `puna gc`
    #[arg(long)]
    no_gc: bool,
}

pub fn run(args: Args) -> Result<()> {
    let store = store()?;
    let model = store.find(&args.model)?;
    if args.forget {
        store.forget(&model.manifest.name, &model.manifest.revision, now())?;
    } else {
        store.remove(&model, now())?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: removed", model.full_name())?;
    if !args.no_gc {
        // Downloads that are going on, and those that are to go on another day, are none of its.
        let garbage = store.gc(now(), Duration::MAX, false)?;
        writeln!(out, "{} are free now", bytes(garbage.bytes))?;
    }
    Ok(())
}
