//! `puna key revoke`: a key that opens nothing any more.

use super::to_json;
use crate::home::DatabaseArgs;
use anyhow::Result;
use puna_serve::database::Database;
use puna_serve::keys;
use puna_serve::time::Time;
use std::io::Write;

/// Revoke a key, for good
///
/// A running server refuses it within a few seconds. Its usage stays.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna key revoke phone")]
pub struct Args {
    /// The key's id, or its name
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object: what `puna key list` shows
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let now = Time::now();
    let key = keys::revoke(&mut Database::open_existing(&args.database.path()?)?, &args.id, now)?;
    if args.json {
        writeln!(std::io::stdout(), "{}", to_json(&key, now))?;
        return Ok(());
    }
    let when = key.revoked.unwrap_or(now);
    writeln!(std::io::stdout(), "key {} {:?} was revoked on {when} UTC", key.id, key.name)?;
    Ok(())
}
