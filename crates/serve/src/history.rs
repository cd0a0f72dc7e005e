//! History: the conversations of the web page.
//!
//! A conversation's messages are a tree. An answer's parent is its question; an edited question has the parent of the
//! one that it replaces, and so has an answer that was asked for anew. Nothing is lost, and the page shows one path
//! through the tree at a time.
//!
//! Every function is told who asks, and sees and changes what is his alone. Whoever needs no key, since the server asks
//! for none, has an owner too: `None`.

use crate::database::{Database, Error, Fault, Json};
use crate::keys::KeyId;
use crate::random;
use crate::time::Time;
use puna_text::chat::Role;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// Random characters of a conversation's id: 128 bits.
const ID_LENGTH: usize = 22;

/// A longer title is no title.
pub const MAX_TITLE: usize = 200;

/// All messages of a conversation together, so that it can be read at once.
pub const MAX_BYTES: usize = 32 << 20;

/// What a message takes beside its text.
const MESSAGE_BYTES: usize = 64;

/// So many conversations at most are listed at once.
pub const MAX_PAGE: usize = 200;

/// A longer search is none.
pub const MAX_QUERY: usize = 200;

/// A conversation without its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conversation {
    /// Its name for programs.
    pub id: String,
    /// Its name for people.
    pub title: String,
    /// The model that it began with.
    pub model: String,
    /// When it began.
    pub created: Time,
    /// When its last message came.
    pub updated: Time,
}

/// A message that is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// The message that it follows; none at the beginning.
    pub parent: Option<u32>,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// When.
    pub time: Time,
    /// What it was generated with, JSON.
    pub parameters: Value,
    /// How many tokens it has, if that was counted.
    pub tokens: Option<u32>,
    /// How long what took, JSON.
    pub timings: Value,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// Its number in the conversation, from 1; it never changes. Parents have lower ones.
    pub id: u32,
    /// The message that it follows; none at the beginning.
    pub parent: Option<u32>,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// When.
    pub time: Time,
    /// What it was generated with.
    pub parameters: Value,
    /// How many tokens it has, if that was counted.
    pub tokens: Option<u32>,
    /// How long what took.
    pub timings: Value,
}

/// Where a list goes on. As text it can be a part of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    updated: Time,
    id: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.updated.millis(), self.id)
    }
}

/// A text that is no [`Cursor`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected where a list goes on, as the list before said it, found {0:?}")]
pub struct CursorError(String);

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let error = || CursorError(text.to_owned());
        let (millis, id) = text.split_once('.').ok_or_else(error)?;
        Ok(Cursor { updated: Time::from_millis(millis.parse().map_err(|_| error())?), id: id.to_owned() })
    }
}

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Cursor, CursorError> {
        text.parse()
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> String {
        cursor.to_string()
    }
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// So many at most, and at most [`MAX_PAGE`].
    pub limit: usize,
    /// From where on; none for the newest.
    pub after: Option<Cursor>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// Where the list goes on, if it does.
    pub next: Option<Cursor>,
}

/// A conversation that has what was searched for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The conversation.
    #[serde(flatten)]
    pub conversation: Conversation,
    /// A piece of the message that has it; none if the title has.
    pub snippet: Option<String>,
}

/// Begins a conversation.
///
/// # Errors
/// When the title or the model's name is too long, or the database can't be written.
pub fn create(
    database: &mut Database,
    owner: Option<&KeyId>,
    title: &str,
    model: &str,
    now: Time,
) -> Result<Conversation, Error> {
    check_title("title", title)?;
    check_title("model", model)?;
    let (title, model) = (title.to_owned(), model.to_owned());
    let conversation = Conversation { id: random::text(ID_LENGTH)?, title, model, created: now, updated: now };
    database.write(|transaction| {
        transaction.execute(
            "INSERT INTO conversations (id, owner, title, model, created, updated, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0)",
            params![conversation.id, owner, conversation.title, conversation.model, now],
        )?;
        Ok(())
    })?;
    Ok(conversation)
}

/// Lists conversations, newest first.
///
/// # Errors
/// When the database can't be read.
pub fn list(database: &mut Database, owner: Option<&KeyId>, page: &Page) -> Result<Listed<Conversation>, Error> {
    database.read(|transaction| {
        let mut statement = transaction.prepare_cached(
            "SELECT * FROM conversations WHERE owner IS ?1 AND (updated, id) < (?2, ?3)
             ORDER BY updated DESC, id DESC LIMIT ?4",
        )?;
        let (updated, id, limit) = page.bounds();
        let found = statement.query_map(params![owner, updated, id, limit], conversation)?;
        Ok(page.listed(found.collect::<Result<_, _>>()?, |conversation| conversation))
    })
}

/// Lists conversations that have all words of a search in their title or all in one message, newest first. Words may be
/// beginnings of words; case and accents don't matter.
///
/// # Errors
/// When the search is too long, or the database can't be read.
pub fn search(
    database: &mut Database,
    owner: Option<&KeyId>,
    words: &str,
    page: &Page,
) -> Result<Listed<Found>, Error> {
    let n_characters = words.chars().count();
    if n_characters > MAX_QUERY {
        let (expected, found) = (format!("at most {MAX_QUERY} characters"), n_characters.to_string());
        return Err(Error::Invalid { what: "search", expected, found });
    }
    let Some(pattern) = pattern(words) else { return Ok(Listed { items: Vec::new(), next: None }) };
    database.read(|transaction| {
        let mut statement = transaction.prepare_cached(
            "SELECT * FROM conversations WHERE owner IS ?1 AND (updated, id) < (?2, ?3) AND (
                 number IN (SELECT rowid FROM title_words WHERE title_words MATCH ?5)
                 OR number IN (SELECT conversation FROM messages WHERE number IN (
                     SELECT rowid FROM message_words WHERE message_words MATCH ?5)))
             ORDER BY updated DESC, id DESC LIMIT ?4",
        )?;
        let mut snippet = transaction.prepare_cached(
            "SELECT snippet(message_words, 0, '', '', '…', 16) FROM message_words
             JOIN messages ON messages.number = message_words.rowid
             WHERE message_words MATCH ?1 AND messages.conversation = ?2 LIMIT 1",
        )?;
        let (updated, id, limit) = page.bounds();
        let found = statement.query_map(params![owner, updated, id, limit, pattern], |row| {
            let number: i64 = row.get("number")?;
            let snippet = snippet.query_row(params![pattern, number], |row| row.get(0)).optional()?;
            Ok(Found { conversation: conversation(row)?, snippet })
        })?;
        Ok(page.listed(found.collect::<Result<_, _>>()?, |found| &found.conversation))
    })
}

/// The search in SQLite's language: each word in quotes, so that it has no meaning but itself, and as a beginning. None
/// if there is no word.
fn pattern(words: &str) -> Option<String> {
    let words = words.split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.filter(|word| word.chars().any(char::is_alphanumeric));
    let quoted: Vec<String> = words.map(|word| format!("\"{}\"*", word.replace('"', "\"\""))).collect();
    (!quoted.is_empty()).then(|| quoted.join(" "))
}

/// A conversation with all of its messages, in the order in which they came.
///
/// # Errors
/// When there is no such conversation of the owner, or the database can't be read.
pub fn read(database: &mut Database, owner: Option<&KeyId>, id: &str) -> Result<(Conversation, Vec<Message>), Error> {
    database.read(|transaction| {
        let number = number(transaction, owner, id)?;
        let found = transaction.query_row("SELECT * FROM conversations WHERE number = ?1", [number], conversation)?;
        let mut statement = transaction.prepare_cached("SELECT * FROM messages WHERE conversation = ?1 ORDER BY id")?;
        let messages = statement.query_map([number], message)?.collect::<Result<_, _>>()?;
        Ok((found, messages))
    })
}

/// The messages from the beginning of a conversation to the one of this id: what a model is shown when it goes on from
/// there. None if there is no such message.
#[must_use]
pub fn path(messages: &[Message], last: u32) -> Option<Vec<&Message>> {
    let by_id: HashMap<u32, &Message> = messages.iter().map(|message| (message.id, message)).collect();
    let mut path = Vec::new();
    let mut next = Some(last);
    while let Some(id) = next {
        let message = *by_id.get(&id)?;
        // Parents come before their children, so this ends.
        next = message.parent.filter(|parent| *parent < id);
        path.push(message);
    }
    path.reverse();
    Some(path)
}

/// Gives a conversation another title.
///
/// # Errors
/// When there is no such conversation of the owner, the title is too long, or the database can't be written.
pub fn rename(database: &mut Database, owner: Option<&KeyId>, id: &str, title: &str) -> Result<(), Error> {
    check_title("title", title)?;
    database.write(|transaction| {
        let number = number(transaction, owner, id)?;
        transaction.execute("UPDATE conversations SET title = ?2 WHERE number = ?1", params![number, title])?;
        Ok(())
    })
}

/// Deletes a conversation with all of its messages. What it said is overwritten.
///
/// # Errors
/// When there is no such conversation of the owner, or the database can't be written.
pub fn delete(database: &mut Database, owner: Option<&KeyId>, id: &str) -> Result<(), Error> {
    database.write(|transaction| {
        let number = number(transaction, owner, id)?;
        transaction.execute("DELETE FROM conversations WHERE number = ?1", [number])?;
        Ok(())
    })?;
    database.empty_log()
}

/// Adds a message and gives its id.
///
/// # Errors
/// When there is no such conversation of the owner, or in it no such parent; when the conversation gets larger than
/// [`MAX_BYTES`], or the database can't be written.
pub fn append(database: &mut Database, owner: Option<&KeyId>, id: &str, new: &NewMessage) -> Result<u32, Error> {
    let (parameters, timings) = (new.parameters.to_string(), new.timings.to_string());
    let n_bytes = new.content.len() + parameters.len() + timings.len() + MESSAGE_BYTES;
    database.write(|transaction| {
        let number = number(transaction, owner, id)?;
        let find = "SELECT bytes, (SELECT coalesce(max(id), 0) FROM messages WHERE conversation = ?1),
                        ?2 IS NULL OR EXISTS (SELECT 1 FROM messages WHERE conversation = ?1 AND id = ?2)
                    FROM conversations WHERE number = ?1";
        let mut statement = transaction.prepare_cached(find)?;
        let (bytes, last, has_parent): (u32, u32, bool) =
            statement.query_row(params![number, new.parent], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if let (false, Some(parent)) = (has_parent, new.parent) {
            return Err(
                Error::NotFound { what: "message in this conversation with the id", id: parent.to_string() }.into()
            );
        }
        let total = n_bytes.saturating_add(bytes as usize);
        if total > MAX_BYTES {
            let (expected, found) =
                (format!("at most {MAX_BYTES} bytes in all messages"), format!("{total} with this one"));
            return Err(Error::Invalid { what: "conversation", expected, found }.into());
        }
        let id = last + 1;
        transaction
            .prepare_cached(
                "INSERT INTO messages (conversation, id, parent, role, content, time, parameters, tokens, timings)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                number,
                id,
                new.parent,
                new.role.as_str(),
                new.content,
                new.time,
                parameters,
                new.tokens,
                timings,
            ])?;
        let update = "UPDATE conversations SET bytes = ?2, updated = max(updated, ?3) WHERE number = ?1";
        transaction.prepare_cached(update)?.execute(params![number, total as u32, new.time])?;
        Ok(id)
    })
}

fn check_title(what: &'static str, title: &str) -> Result<(), Error> {
    let n_characters = title.chars().count();
    if n_characters > MAX_TITLE {
        let (expected, found) = (format!("at most {MAX_TITLE} characters"), n_characters.to_string());
        return Err(Error::Invalid { what, expected, found });
    }
    Ok(())
}

/// The number of a conversation, if it is the owner's.
fn number(transaction: &Transaction, owner: Option<&KeyId>, id: &str) -> Result<i64, Fault> {
    let mut statement = transaction.prepare_cached("SELECT number FROM conversations WHERE id = ?1 AND owner IS ?2")?;
    let found = statement.query_row(params![id, owner], |row| row.get(0)).optional()?;
    found.ok_or_else(|| Error::NotFound { what: "conversation", id: id.to_owned() }.into())
}

fn conversation(row: &Row) -> rusqlite::Result<Conversation> {
    Ok(Conversation {
        id: row.get("id")?,
        title: row.get("title")?,
        model: row.get("model")?,
        created: row.get("created")?,
        updated: row.get("updated")?,
    })
}

fn message(row: &Row) -> rusqlite::Result<Message> {
    // The role's name is text, and not JSON.
    let role = Value::String(row.get("role")?);
    let role = Role::deserialize(&role)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into()))?;
    Ok(Message {
        id: row.get("id")?,
        parent: row.get("parent")?,
        role,
        content: row.get("content")?,
        time: row.get("time")?,
        parameters: row.get::<_, Json<_>>("parameters")?.0,
        tokens: row.get("tokens")?,
        timings: row.get::<_, Json<_>>("timings")?.0,
    })
}

impl Page {
    /// Below which pair of time and id, and one more than how many: with it comes whether the list goes on.
    fn bounds(&self) -> (Time, String, i64) {
        let limit = self.limit.clamp(1, MAX_PAGE) as i64 + 1;
        match self.after.clone() {
            Some(Cursor { updated, id }) => (updated, id, limit),
            None => (Time::from_millis(i64::MAX), String::new(), limit),
        }
    }

    fn listed<T>(&self, mut items: Vec<T>, conversation: impl Fn(&T) -> &Conversation) -> Listed<T> {
        let more = items.len() > self.limit.clamp(1, MAX_PAGE);
        if more {
            items.pop();
        }
        let last = items.last().map(conversation).filter(|_| more);
        let next = last.map(|last| Cursor { updated: last.updated, id: last.id.clone() });
        Listed { items, next }
    }
}
