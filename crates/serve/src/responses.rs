//! Stored responses: what the API for responses keeps, so that a request may go on from an earlier one.
//!
//! Every function is told who asks, and sees and deletes what is his alone.

use crate::database::{Database, Error, Json};
use crate::keys::KeyId;
use crate::time::Time;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::Serialize;
use serde_json::Value;

/// Input and output of a response together, and of all that a request goes on from.
pub const MAX_BYTES: usize = 32 << 20;

/// No request goes on from more responses.
pub const MAX_CHAIN: usize = 1000;

/// A stored response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    /// Its name, which the server chose: nobody can guess it, and no other response has it.
    pub id: String,
    /// When it was made.
    pub created: Time,
    /// The response from which it went on.
    pub previous: Option<String>,
    /// What was asked, JSON.
    pub input: Value,
    /// What was answered, JSON.
    pub output: Value,
}

/// Stores a response.
///
/// # Errors
/// When it is larger than [`MAX_BYTES`], its name is taken, it goes on from what is not there, or the database can't be
/// written.
pub fn add(database: &mut Database, owner: Option<&KeyId>, response: &Response) -> Result<(), Error> {
    let Response { id, created, previous, .. } = response;
    let (input, output) = (response.input.to_string(), response.output.to_string());
    let n_bytes = input.len() + output.len();
    if n_bytes > MAX_BYTES {
        let (expected, found) = (format!("at most {MAX_BYTES} bytes"), n_bytes.to_string());
        return Err(Error::Invalid { what: "response", expected, found });
    }
    database.write(|transaction| {
        if let Some(previous) = previous
            && find(transaction, owner, previous)?.is_none()
        {
            return Err(missing(previous).into());
        }
        let n_added = transaction.execute(
            "INSERT INTO responses (id, owner, created, previous, input, output) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
            params![id, owner, created, previous, input, output],
        )?;
        if n_added == 0 {
            return Err(Error::Taken { what: "response", id: id.clone() }.into());
        }
        Ok(())
    })
}

/// A response.
///
/// # Errors
/// When there is no such response of the owner, or the database can't be read.
pub fn read(database: &mut Database, owner: Option<&KeyId>, id: &str) -> Result<Response, Error> {
    database.read(|transaction| Ok(find(transaction, owner, id)?.ok_or_else(|| missing(id))?))
}

/// A response and all from which it went on, oldest first.
///
/// # Errors
/// When one of them is not there any more, they are more than [`MAX_CHAIN`] or larger than [`MAX_BYTES`], or the
/// database can't be read.
pub fn chain(database: &mut Database, owner: Option<&KeyId>, id: &str) -> Result<Vec<Response>, Error> {
    database.read(|transaction| {
        let mut chain = Vec::new();
        let mut n_bytes = 0;
        let mut next = Some(id.to_owned());
        while let Some(id) = next {
            if chain.len() == MAX_CHAIN {
                let (expected, found) = (format!("at most {MAX_CHAIN} responses"), "more".to_owned());
                return Err(Error::Invalid { what: "earlier responses", expected, found }.into());
            }
            // Sizes come first: nothing is read that would be too large.
            let size = "SELECT length(CAST(input AS BLOB)) + length(CAST(output AS BLOB)) FROM responses
                        WHERE id = ?1 AND owner IS ?2";
            let mut size = transaction.prepare_cached(size)?;
            let size: Option<u32> = size.query_row(params![id, owner], |row| row.get(0)).optional()?;
            n_bytes += size.ok_or_else(|| missing(&id))? as usize;
            if n_bytes > MAX_BYTES {
                let (expected, found) = (format!("at most {MAX_BYTES} bytes"), "more".to_owned());
                return Err(Error::Invalid { what: "earlier responses", expected, found }.into());
            }
            let response = find(transaction, owner, &id)?.ok_or_else(|| missing(&id))?;
            next = response.previous.clone();
            chain.push(response);
        }
        chain.reverse();
        Ok(chain)
    })
}

/// Deletes a response. What it said is overwritten.
///
/// # Errors
/// When there is no such response of the owner, or the database can't be written.
pub fn delete(database: &mut Database, owner: Option<&KeyId>, id: &str) -> Result<(), Error> {
    database.write(|transaction| {
        match transaction.execute("DELETE FROM responses WHERE id = ?1 AND owner IS ?2", params![id, owner])? {
            0 => Err(missing(id).into()),
            _ => Ok(()),
        }
    })?;
    database.empty_log()
}

fn missing(id: &str) -> Error {
    Error::NotFound { what: "response", id: id.to_owned() }
}

fn find(transaction: &Transaction, owner: Option<&KeyId>, id: &str) -> rusqlite::Result<Option<Response>> {
    let mut statement = transaction.prepare_cached("SELECT * FROM responses WHERE id = ?1 AND owner IS ?2")?;
    let response = |row: &Row| {
        Ok(Response {
            id: row.get("id")?,
            created: row.get("created")?,
            previous: row.get("previous")?,
            input: row.get::<_, Json<_>>("input")?.0,
            output: row.get::<_, Json<_>>("output")?.0,
        })
    };
    statement.query_row(params![id, owner], response).optional()
}
