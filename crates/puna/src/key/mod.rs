//! `puna key`: who may ask a server.

mod list;
mod new;
mod revoke;

use anyhow::Result;
use clap::Subcommand;
use puna_serve::keys::{Key, Refusal};
use puna_serve::time::Time;
use serde_json::{Value, json};

/// Make, list and revoke the keys that open a server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna key new --name laptop
  puna key list
  puna key revoke laptop")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(new::Args),
    List(list::Args),
    Revoke(revoke::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::New(args) => new::run(args),
        Verb::List(args) => list::run(args),
        Verb::Revoke(args) => revoke::run(args),
    }
}

fn state(key: &Key, now: Time) -> &'static str {
    match key.check(now) {
        Ok(()) => "in use",
        Err(Refusal::Revoked { .. }) => "revoked",
        Err(_) => "expired",
    }
}

/// All that is known of a key. Times are seconds since 1970.
fn to_json(key: &Key, now: Time) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "state": state(key, now),
        "scopes": key.scopes,
        "models": key.models,
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "tokens_per_day": key.limits.tokens_per_day,
        "created": key.created.seconds(),
        "expires": key.expires.map(Time::seconds),
        "revoked": key.revoked.map(Time::seconds),
    })
}
