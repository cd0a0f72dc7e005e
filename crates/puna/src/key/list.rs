//! `puna key list`: which keys there are, and what they may do.

use super::{state, to_json};
use crate::home::DatabaseArgs;
use crate::show::{self, one_line};
use anyhow::Result;
use puna_serve::database::Database;
use puna_serve::keys::{self, Limits};
use puna_serve::time::Time;
use puna_serve::usage;
use serde_json::json;
use std::io::Write;

/// List all keys, also those that do not work any more
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna key list
  puna key list --json")]
pub struct Args {
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object: `keys`, each with its times in seconds since 1970
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let now = Time::now();
    let mut database = Database::open_existing(&args.database.path()?)?;
    let keys = keys::list(&mut database)?;
    let last_used = usage::last_used(&mut database)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let keys = keys.iter().map(|key| {
            let mut object = to_json(key, now);
            object["last_used"] = last_used.get(&key.id).map(|time| time.seconds()).into();
            object
        });
        writeln!(out, "{}", json!({ "keys": keys.collect::<Vec<_>>() }))?;
        return Ok(());
    }
    let header = ["id", "name", "state", "scopes", "models", "limits", "expires", "last used"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for key in &keys {
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        let time = |time: Option<Time>| time.map_or("-".to_owned(), |time| time.to_string());
        rows.push(vec![
            key.id.to_string(),
            one_line(&key.name),
            state(key, now).to_owned(),
            scopes.join(","),
            if key.models.is_empty() { "all".to_owned() } else { one_line(&key.models.join(",")) },
            limits(&key.limits),
            time(key.expires),
            time(last_used.get(&key.id).copied()),
        ]);
    }
    write!(out, "{}", show::table(&rows, rows[0].len()))?;
    Ok(())
}

fn limits(limits: &Limits) -> String {
    let all = [
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.tokens_per_day, "tokens/day"),
    ];
    let set = all.iter().filter_map(|(limit, of)| limit.map(|limit| format!("{limit} {of}")));
    let set = set.collect::<Vec<_>>().join(", ");
    if set.is_empty() { "none".to_owned() } else { set }
}
