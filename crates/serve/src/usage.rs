//! Usage: what each request took, and what it was in all.

use crate::database::{Database, Error, Fault};
use crate::keys::KeyId;
use crate::time::Time;
use rusqlite::{ToSql, params};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// One request. Names are those of things that the server has, and not whatever a client wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it ended.
    pub time: Time,
    /// Whose it was; none where no key is needed.
    pub key: Option<KeyId>,
    /// Which model answered.
    pub model: String,
    /// Which adapter it had.
    pub adapter: Option<String>,
    /// Which part of the API was called, e.g. `/v1/chat/completions`.
    pub endpoint: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that were in the cache.
    pub cached_prompt_tokens: u32,
    /// Tokens that were generated.
    pub generated_tokens: u32,
    /// Why it ended, e.g. `stop` or `length`; none if it was refused.
    pub finish: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u32,
    /// The HTTP status.
    pub status: u16,
}

/// Adds records: all, or none if that fails.
///
/// # Errors
/// When the database can't be written.
pub fn add(database: &mut Database, records: &[Record]) -> Result<(), Error> {
    database.write(|transaction| {
        let mut statement = transaction.prepare_cached(
            "INSERT INTO usage (time, key_id, model, adapter, endpoint, prompt_tokens, cached_prompt_tokens,
                 generated_tokens, finish, duration_ms, status) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        for record in records {
            statement.execute(params![
                record.time,
                record.key,
                record.model,
                record.adapter,
                record.endpoint,
                record.prompt_tokens,
                record.cached_prompt_tokens,
                record.generated_tokens,
                record.finish,
                record.duration_ms,
                record.status,
            ])?;
        }
        Ok(())
    })
}

/// What requests are put together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// The key.
    Key,
    /// The model.
    Model,
    /// The adapter.
    Adapter,
    /// The part of the API.
    Endpoint,
    /// The day in UTC.
    Day,
}

impl By {
    /// All that there are.
    pub const ALL: [By; 5] = [By::Key, By::Model, By::Adapter, By::Endpoint, By::Day];

    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            By::Key => "key",
            By::Model => "model",
            By::Adapter => "adapter",
            By::Endpoint => "endpoint",
            By::Day => "day",
        }
    }

    /// In SQL.
    fn column(self) -> &'static str {
        match self {
            By::Key => "key_id",
            By::Model => "model",
            By::Adapter => "adapter",
            By::Endpoint => "endpoint",
            By::Day => "date(time / 1000, 'unixepoch')",
        }
    }
}

/// A text that is no [`By`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected key, model, adapter, endpoint or day, found {0:?}")]
pub struct ByError(String);

impl FromStr for By {
    type Err = ByError;

    fn from_str(text: &str) -> Result<By, ByError> {
        By::ALL.into_iter().find(|by| by.as_str() == text).ok_or_else(|| ByError(text.to_owned()))
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Requests.
    pub requests: u64,
    /// Those of them with a status from 400 on.
    pub failed: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Those of them that were in the cache.
    pub cached_prompt_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
}

impl Sums {
    /// What the tokens would cost at prices per million. Cached ones cost as much as others.
    #[must_use]
    pub fn cost(&self, price_in: f64, price_out: f64) -> f64 {
        (self.prompt_tokens as f64 * price_in + self.generated_tokens as f64 * price_out) / 1e6
    }
}

/// Requests that have something in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What, in the order of the question. None stands for no key or no adapter.
    pub of: Vec<Option<String>>,
    /// What they took.
    pub sums: Sums,
}

/// Puts requests together, in the order of what they have in common; without a `by`, all of them.
///
/// # Errors
/// When the database can't be read.
pub fn report(database: &mut Database, by: &[By], since: Option<Time>) -> Result<Vec<Group>, Error> {
    let columns: String = by.iter().map(|by| format!("{}, ", by.column())).collect();
    let places: Vec<String> = (1..=by.len()).map(|place| place.to_string()).collect();
    let order = if by.is_empty() { String::new() } else { format!("GROUP BY {0} ORDER BY {0}", places.join(", ")) };
    let statement = format!(
        "SELECT {columns} count(*), count(*) FILTER (WHERE status >= 400), coalesce(sum(prompt_tokens), 0),
             coalesce(sum(cached_prompt_tokens), 0), coalesce(sum(generated_tokens), 0)
         FROM usage WHERE time >= ?1 {order}"
    );
    database.read(|transaction| {
        let mut statement = transaction.prepare_cached(&statement)?;
        let groups = statement.query_map([since.unwrap_or(Time::from_millis(i64::MIN))], |row| {
            let n = by.len();
            let of = (0..n).map(|column| row.get(column)).collect::<Result<_, _>>()?;
            let sum = |column: usize| row.get::<_, i64>(n + column).map(|sum| u64::try_from(sum).unwrap_or(0));
            let sums = Sums {
                requests: sum(0)?,
                failed: sum(1)?,
                prompt_tokens: sum(2)?,
                cached_prompt_tokens: sum(3)?,
                generated_tokens: sum(4)?,
            };
            Ok(Group { of, sums })
        })?;
        Ok(groups.collect::<Result<_, _>>()?)
    })
}

/// When each key was last used.
///
/// # Errors
/// When the database can't be read.
pub fn last_used(database: &mut Database) -> Result<HashMap<KeyId, Time>, Error> {
    let statement =
        "SELECT id, (SELECT max(time) FROM usage WHERE key_id = id) AS last FROM keys WHERE last IS NOT NULL";
    let rows: Vec<(KeyId, Time)> = rows(database, statement, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.into_iter().collect())
}

/// Tokens that a key took within a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Whose they are.
    pub key: KeyId,
    /// The beginning of the minute.
    pub time: Time,
    /// Tokens of prompts and answers.
    pub tokens: u64,
}

/// Tokens by keys and minutes, oldest first, for [`crate::quota::Quotas::restore`].
///
/// # Errors
/// When the database can't be read.
pub fn by_minute(database: &mut Database, since: Time) -> Result<Vec<Minute>, Error> {
    let statement = "SELECT key_id, time / 60000 * 60000 AS minute, sum(prompt_tokens + generated_tokens)
                     FROM usage WHERE time >= ?1 AND key_id IS NOT NULL GROUP BY 1, 2 ORDER BY 2";
    rows(database, statement, &[&since], |row| {
        let tokens = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        Ok(Minute { key: row.get(0)?, time: row.get(1)?, tokens })
    })
}

fn rows<T>(
    database: &mut Database,
    statement: &str,
    parameters: &[&dyn ToSql],
    row: impl FnMut(&rusqlite::Row) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    database.read(|transaction| {
        let mut statement = transaction.prepare_cached(statement)?;
        let rows = statement.query_map(parameters, row)?.collect::<Result<_, _>>().map_err(Fault::Sql)?;
        Ok(rows)
    })
}
