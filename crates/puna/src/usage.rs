//! `puna usage`: what a server was asked, and what that would have cost elsewhere.

use crate::home::DatabaseArgs;
use crate::show::{self, one_line};
use anyhow::Result;
use puna_serve::database::Database;
use puna_serve::keys::{self, KeyId};
use puna_serve::time::{Time, When};
use puna_serve::usage::{self, By, Group, Sums};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;

/// Show requests and tokens by key, model or day, and what they would cost at a price
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna usage
  puna usage --by key,day --since 7d
  puna usage --by model --price-in 3.00 --price-out 6.00 --json")]
pub struct Args {
    /// What to tell apart, in this order: key, model, adapter, endpoint, day (in UTC)
    #[arg(long, value_name = "WHAT,…", value_delimiter = ',', default_value = "key,model")]
    by: Vec<By>,
    /// Since when: a span such as 12h, 7d or 4w, or a day such as 2027-01-01, in UTC; by default since ever
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Price of a million tokens of prompts, in any currency
    #[arg(long, value_name = "PRICE", value_parser = price, requires = "price_out")]
    price_in: Option<f64>,
    /// Price of a million generated tokens
    #[arg(long, value_name = "PRICE", value_parser = price, requires = "price_in")]
    price_out: Option<f64>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// One JSON object: `groups` and their `total`, with `requests`, `failed`, `prompt_tokens`,
    /// `cached_prompt_tokens`, `generated_tokens` and `cost`
    #[arg(long)]
    json: bool,
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| format!("expected a number from 0, found {text:?}"))
}

pub fn run(args: Args) -> Result<()> {
    let mut database = Database::open_existing(&args.database.path()?)?;
    // Told apart twice by the same is told apart by it.
    let mut by = Vec::new();
    args.by.iter().for_each(|next| {
        if !by.contains(next) {
            by.push(*next)
        }
    });
    let since = args.since.map(|when| when.back_from(Time::now()));
    let groups = usage::report(&mut database, &by, since)?;
    let names = keys::list(&mut database)?.into_iter().map(|key| (key.id, key.name)).collect();
    let mut total = Sums::default();
    for Group { sums, .. } in &groups {
        total.requests += sums.requests;
        total.failed += sums.failed;
        total.prompt_tokens += sums.prompt_tokens;
        total.cached_prompt_tokens += sums.cached_prompt_tokens;
        total.generated_tokens += sums.generated_tokens;
    }
    let report = Report { by, groups, total, names, prices: args.price_in.zip(args.price_out) };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{}", report.to_table())?;
    }
    Ok(())
}

struct Report {
    by: Vec<By>,
    groups: Vec<Group>,
    total: Sums,
    /// Of keys.
    names: HashMap<KeyId, String>,
    /// Of a million tokens: prompts, and generated ones.
    prices: Option<(f64, f64)>,
}

impl Report {
    fn name(&self, id: &str) -> Option<&str> {
        self.names.get(&id.parse().ok()?).map(String::as_str)
    }

    fn to_json(&self) -> Value {
        let sums = |sums: &Sums| {
            let mut object = json!(sums);
            if let Some((price_in, price_out)) = self.prices {
                object["cost"] = sums.cost(price_in, price_out).into();
            }
            object
        };
        let groups = self.groups.iter().map(|group| {
            let mut object = Map::new();
            for (by, value) in self.by.iter().zip(&group.of) {
                object.insert(by.as_str().to_owned(), json!(value));
                if *by == By::Key {
                    object.insert("key_name".to_owned(), json!(value.as_deref().and_then(|id| self.name(id))));
                }
            }
            if let Value::Object(sums) = sums(&group.sums) {
                object.extend(sums);
            }
            Value::Object(object)
        });
        json!({ "groups": groups.collect::<Vec<_>>(), "total": sums(&self.total) })
    }

    fn to_table(&self) -> String {
        let figures = |sums: &Sums| {
            let Sums { requests, failed, prompt_tokens, cached_prompt_tokens, generated_tokens } = sums;
            let counts = [requests, failed, prompt_tokens, cached_prompt_tokens, generated_tokens];
            let cost = self.prices.map(|(price_in, price_out)| format!("{:.2}", sums.cost(price_in, price_out)));
            counts.map(u64::to_string).into_iter().chain(cost).collect::<Vec<_>>()
        };
        let mut header: Vec<String> = self.by.iter().map(By::to_string).collect();
        header.extend(["requests", "failed", "prompt tokens", "of them cached", "generated"].map(str::to_owned));
        header.extend(self.prices.map(|_| "cost".to_owned()));
        let mut rows = vec![header];
        for group in &self.groups {
            let of = self.by.iter().zip(&group.of).map(|(by, value)| match (by, value) {
                (_, None) => "none".to_owned(),
                (By::Key, Some(id)) => one_line(self.name(id).unwrap_or(id)),
                (_, Some(value)) => one_line(value),
            });
            rows.push(of.chain(figures(&group.sums)).collect());
        }
        let words = self.by.iter().enumerate().map(|(at, _)| if at == 0 { "total".to_owned() } else { String::new() });
        rows.push(words.chain(figures(&self.total)).collect());
        show::table(&rows, self.by.len())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn prices_are_numbers_from_0() {
        assert_eq!(super::price("0.15"), Ok(0.15));
        for text in ["-1", "nan", "inf", "3,00", ""] {
            assert!(super::price(text).is_err(), "{text}");
        }
    }
}
