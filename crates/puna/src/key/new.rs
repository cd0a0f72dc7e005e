//! `puna key new`: a key, shown once.

use super::to_json;
use crate::home::DatabaseArgs;
use anyhow::Result;
use puna_serve::database::Database;
use puna_serve::keys::{self, Limits, MAX_LIMIT, NewKey, Scope};
use puna_serve::time::{Time, When};
use std::io::Write;

/// Make a key and print it, this once
///
/// puna keeps the SHA-256 of a key and not the key: who loses it makes another one. A running server knows the new key
/// within a few seconds.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna key new --name phone --expires 30d
  puna key new --name intern --scope chat --requests-per-minute 20 --tokens-per-day 200000 --models llama-3.1-8b
  puna key new --name monitoring --scope metrics --json")]
pub struct Args {
    /// What people call it; no two keys in use have the same name
    #[arg(long)]
    name: String,
    /// What it is good for: chat (all ways to generate text), embeddings, metrics, admin (everything)
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',', default_value = "chat,embeddings")]
    scope: Vec<Scope>,
    /// When it stops working: a span such as 12h, 30d or 8w, or the day in UTC at whose beginning it does
    #[arg(long, value_name = "WHEN")]
    expires: Option<When>,
    /// So many requests a minute at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT))]
    requests_per_minute: Option<u64>,
    /// So many tokens a minute at most, of prompts and answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT))]
    tokens_per_minute: Option<u64>,
    /// So many tokens a day at most, of prompts and answers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT))]
    tokens_per_day: Option<u64>,
    /// Models and adapters that it may use; without this, all
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    models: Vec<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object: `key` itself, and what `puna key list` shows
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let now = Time::now();
    let Args { requests_per_minute, tokens_per_minute, tokens_per_day, .. } = args;
    let new = NewKey {
        name: args.name,
        scopes: args.scope.into_iter().collect(),
        models: args.models,
        limits: Limits { requests_per_minute, tokens_per_minute, tokens_per_day },
        expires: args.expires.map(|when| when.ahead_of(now)),
    };
    let path = args.database.path()?;
    let (secret, key) = keys::create(&mut Database::open(&path)?, &new, now)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = to_json(&key, now);
        object["key"] = secret.reveal().into();
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{}", secret.reveal())?;
    let expires = key.expires.map_or("does not expire".to_owned(), |expires| format!("expires on {expires} UTC"));
    eprintln!("key {} {:?} {expires}. It is shown this once; {} has only its hash", key.id, key.name, path.display());
    Ok(())
}
