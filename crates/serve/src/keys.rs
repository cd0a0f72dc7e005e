//! API keys: made, listed, revoked, and checked.
//!
//! A key is more than 256 random bits, so its SHA-256 is as good as a slow hash of it: nobody can try them all. The
//! database has that hash alone. A key's id, for people and logs, is the hash's beginning: it gives nothing away, and
//! whoever finds a key somewhere can tell which one to revoke.
//!
//! A server checks keys against a [`Ring`] in memory.

use crate::database::{Database, Error, Fault, Json};
use crate::random;
use crate::time::Time;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// How every key begins, so that people and scanners of leaked secrets know it.
pub const PREFIX: &str = "puna_";

/// Random characters of a key: 257 bits.
const N_RANDOM: usize = 44;

/// Bytes of the hash that make an id.
const ID_BYTES: usize = 6;

/// Names are for tables and lists.
const MAX_NAME: usize = 100;

/// A higher limit is none.
pub const MAX_LIMIT: u64 = 1_000_000_000_000;

/// What a key is called where it must not be seen: 12 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    fn of(digest: &[u8; 32]) -> KeyId {
        KeyId(digest.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A text that is no [`KeyId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a key's id of 12 hexadecimal digits, found {0:?}")]
pub struct KeyIdError(String);

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<KeyId, KeyIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 2 * ID_BYTES && text.bytes().all(is_digit) {
            return Ok(KeyId(text.to_owned()));
        }
        Err(KeyIdError(text.to_owned()))
    }
}

impl ToSql for KeyId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_str().into())
    }
}

impl FromSql for KeyId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<KeyId> {
        value.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Generating text, by any of the APIs.
    Chat,
    /// Embeddings.
    Embeddings,
    /// The server's figures.
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    /// All that there are.
    pub const ALL: [Scope; 4] = [Scope::Chat, Scope::Embeddings, Scope::Metrics, Scope::Admin];

    /// The scope's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Chat => "chat",
            Scope::Embeddings => "embeddings",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`Scope`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected chat, embeddings, metrics or admin, found {0:?}")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Scope, ScopeError> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| ScopeError(text.to_owned()))
    }
}

/// How much a key may ask for. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, of prompts and answers.
    pub tokens_per_minute: Option<u64>,
    /// Tokens a day, of prompts and answers.
    pub tokens_per_day: Option<u64>,
}

/// A key that is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// For people: up to 100 characters. No other key in use has it.
    pub name: String,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// Models and adapters that it may use; empty for all.
    pub models: Vec<String>,
    /// How much it may ask for.
    pub limits: Limits,
    /// When it stops working.
    pub expires: Option<Time>,
}

/// A key as it is known: not the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// What it is called in logs.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What it is good for.
    pub scopes: BTreeSet<Scope>,
    /// Models and adapters that it may use; empty for all.
    pub models: Vec<String>,
    /// How much it may ask for.
    pub limits: Limits,
    /// When it was made.
    pub created: Time,
    /// When it stops working.
    pub expires: Option<Time>,
    /// When it was revoked.
    pub revoked: Option<Time>,
}

impl Key {
    /// Whether the key is good for this.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Whether the key may use the model or adapter of this name.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|allowed| allowed == model)
    }

    /// Why the key does not work any more, if it does not.
    ///
    /// # Errors
    /// When it was revoked or has expired.
    pub fn check(&self, now: Time) -> Result<(), Refusal> {
        if let Some(when) = self.revoked {
            return Err(Refusal::Revoked { id: self.id.clone(), when });
        }
        match self.expires {
            Some(when) if when <= now => Err(Refusal::Expired { id: self.id.clone(), when }),
            _ => Ok(()),
        }
    }
}

/// The key itself. It is shown once, and kept nowhere.
pub struct Secret(String);

impl Secret {
    /// What whoever uses the key presents.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// 32 bytes that belong to one key and can be computed from nothing but the key itself, neither from its id nor from
/// the database. Caches are hashed with them, so that no key can find out what another one asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CacheSecret([u8; 32]);

impl CacheSecret {
    fn of(presented: &str) -> CacheSecret {
        // The label keeps these bytes apart from the hash that is stored.
        CacheSecret(
            Sha256::new().chain_update("puna: secret of a key's caches, 1\0").chain_update(presented).finalize().into(),
        )
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CacheSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheSecret(..)")
    }
}

/// Makes a key. It works as soon as this returns, in a running server within seconds.
///
/// # Errors
/// When a value can't be, a key in use has the name, or the database can't be written.
pub fn create(database: &mut Database, new: &NewKey, now: Time) -> Result<(Secret, Key), Error> {
    check(new, now)?;
    let secret = Secret(format!("{PREFIX}{}", random::text(N_RANDOM)?));
    let digest = digest(secret.reveal());
    let NewKey { name, scopes, models, limits, expires } = new.clone();
    let key = Key { id: KeyId::of(&digest), name, scopes, models, limits, created: now, expires, revoked: None };
    database.write(|transaction| {
        if in_use(transaction, &key.name)?.is_some() {
            return Err(Error::Taken { what: "a key in use named", id: key.name.clone() }.into());
        }
        let limit = |limit: Option<u64>| limit.map(|limit| limit as i64);
        transaction.execute(
            "INSERT INTO keys (id, name, digest, scopes, models, requests_per_minute, tokens_per_minute,
                 tokens_per_day, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                key.id,
                key.name,
                digest,
                Json(&key.scopes),
                Json(&key.models),
                limit(key.limits.requests_per_minute),
                limit(key.limits.tokens_per_minute),
                limit(key.limits.tokens_per_day),
                key.created,
                key.expires,
            ],
        )?;
        Ok(())
    })?;
    database.note_changed_keys();
    Ok((secret, key))
}

fn check(new: &NewKey, now: Time) -> Result<(), Error> {
    let invalid =
        |what, expected: &str, found: String| Err(Error::Invalid { what, expected: expected.to_owned(), found });
    let n_characters = new.name.chars().count();
    if !(1..=MAX_NAME).contains(&n_characters) {
        return invalid("name", "1 to 100 characters", format!("{n_characters}"));
    }
    if new.name.chars().any(char::is_control) || new.name.trim() != new.name {
        return invalid("name", "no control characters, and no spaces around it", format!("{:?}", new.name));
    }
    if new.name.parse::<KeyId>().is_ok() {
        return invalid("name", "anything but what could be a key's id", new.name.clone());
    }
    if new.scopes.is_empty() {
        return invalid("scopes", "at least one", "none".to_owned());
    }
    if let Some(model) = new.models.iter().find(|model| model.is_empty() || model.chars().any(char::is_control)) {
        return invalid("models", "names without control characters", format!("{model:?}"));
    }
    let Limits { requests_per_minute, tokens_per_minute, tokens_per_day } = new.limits;
    for limit in [requests_per_minute, tokens_per_minute, tokens_per_day].into_iter().flatten() {
        if !(1..=MAX_LIMIT).contains(&limit) {
            return invalid("limit", &format!("a number from 1 to {MAX_LIMIT}"), limit.to_string());
        }
    }
    match new.expires {
        Some(expires) if expires <= now => invalid("expiry", "a time to come", format!("{expires} UTC")),
        _ => Ok(()),
    }
}

/// All keys, also those that do not work any more, oldest first.
///
/// # Errors
/// When the database can't be read.
pub fn list(database: &mut Database) -> Result<Vec<Key>, Error> {
    Ok(load(database)?.into_iter().map(|(key, _)| key).collect())
}

/// Revokes the key of this id, or the one in use that has this name. A key that was revoked stays as it is.
///
/// # Errors
/// When there is no such key, or the database can't be written.
pub fn revoke(database: &mut Database, id_or_name: &str, now: Time) -> Result<Key, Error> {
    let key = database.write(|transaction| {
        let id = match id_or_name.parse::<KeyId>() {
            Ok(id) => Some(id),
            Err(_) => in_use(transaction, id_or_name)?,
        };
        let missing =
            || Error::NotFound { what: "key with the id or, in use, with the name", id: id_or_name.to_owned() };
        let id = id.ok_or_else(missing)?;
        transaction.execute("UPDATE keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL", params![id, now])?;
        let key = transaction.query_row("SELECT * FROM keys WHERE id = ?1", [&id], key).optional()?;
        Ok(key.ok_or_else(missing)?.0)
    })?;
    database.note_changed_keys();
    Ok(key)
}

/// The key that has the name and was not revoked.
fn in_use(transaction: &Transaction, name: &str) -> Result<Option<KeyId>, Fault> {
    let mut statement = transaction.prepare_cached("SELECT id FROM keys WHERE name = ?1 AND revoked IS NULL")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

fn load(database: &mut Database) -> Result<Vec<(Key, [u8; 32])>, Error> {
    database.read(|transaction| {
        let mut statement = transaction.prepare_cached("SELECT * FROM keys ORDER BY created, id")?;
        let keys = statement.query_map([], key)?;
        Ok(keys.collect::<Result<_, _>>()?)
    })
}

/// A row of the table of keys.
fn key(row: &Row) -> rusqlite::Result<(Key, [u8; 32])> {
    let limit = |name| row.get::<_, Option<i64>>(name).map(|limit| limit.and_then(|limit| u64::try_from(limit).ok()));
    let key = Key {
        id: row.get("id")?,
        name: row.get("name")?,
        scopes: row.get::<_, Json<_>>("scopes")?.0,
        models: row.get::<_, Json<_>>("models")?.0,
        limits: Limits {
            requests_per_minute: limit("requests_per_minute")?,
            tokens_per_minute: limit("tokens_per_minute")?,
            tokens_per_day: limit("tokens_per_day")?,
        },
        created: row.get("created")?,
        expires: row.get("expires")?,
        revoked: row.get("revoked")?,
    };
    Ok((key, row.get("digest")?))
}

fn digest(presented: &str) -> [u8; 32] {
    Sha256::digest(presented).into()
}

/// Why a key is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No key is like this.
    #[error("unknown key")]
    Unknown,
    /// It does not work any more, since somebody did not want it to.
    #[error("key {id} was revoked on {when} UTC")]
    Revoked {
        /// Which key.
        id: KeyId,
        /// Since when.
        when: Time,
    },
    /// It does not work any more, as was said when it was made.
    #[error("key {id} expired on {when} UTC")]
    Expired {
        /// Which key.
        id: KeyId,
        /// Since when.
        when: Time,
    },
}

/// A key that was presented and works.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Which key it is.
    pub key: Arc<Key>,
    /// What its caches are hashed with.
    pub cache_secret: CacheSecret,
}

/// All keys, in memory.
#[derive(Debug, Default)]
pub struct Ring(HashMap<KeyId, (Arc<Key>, [u8; 32])>);

impl Ring {
    /// The keys as they are now.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn load(database: &mut Database) -> Result<Ring, Error> {
        let keys = load(database)?.into_iter();
        Ok(Ring(keys.map(|(key, digest)| (key.id.clone(), (Arc::new(key), digest))).collect()))
    }

    /// Whether there is a key that works.
    #[must_use]
    pub fn has_usable(&self, now: Time) -> bool {
        self.0.values().any(|(key, _)| key.check(now).is_ok())
    }

    /// Which key this is, if it works now.
    ///
    /// How long it takes depends on the hash of what was presented, which cannot be chosen, and on nothing else of the
    /// keys: the id leads to one candidate, and all of its hash is compared whatever it is.
    ///
    /// # Errors
    /// When no key is like this, or it was revoked, or has expired.
    pub fn verify(&self, presented: &str, now: Time) -> Result<Verified, Refusal> {
        if presented.len() != PREFIX.len() + N_RANDOM {
            return Err(Refusal::Unknown);
        }
        let found = digest(presented);
        let (key, expected) = self.0.get(&KeyId::of(&found)).ok_or(Refusal::Unknown)?;
        if !bool::from(found.ct_eq(expected)) {
            return Err(Refusal::Unknown);
        }
        key.check(now)?;
        Ok(Verified { key: Arc::clone(key), cache_secret: CacheSecret::of(presented) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, digest: [u8; 32]) -> (KeyId, (Arc<Key>, [u8; 32])) {
        let id: KeyId = id.parse().unwrap();
        let key = Key {
            id: id.clone(),
            name: "k".to_owned(),
            scopes: BTreeSet::from([Scope::Chat]),
            models: Vec::new(),
            limits: Limits::default(),
            created: Time::from_millis(0),
            expires: None,
            revoked: None,
        };
        (id, (Arc::new(key), digest))
    }

    #[test]
    fn an_id_alone_opens_nothing() {
        let presented = format!("{PREFIX}{}", "1".repeat(N_RANDOM));
        let right = digest(&presented);
        let id = KeyId::of(&right);
        // Another key with the same id, in the last byte otherwise.
        let mut wrong = right;
        wrong[31] ^= 1;
        let ring = |digest| Ring(HashMap::from([key(id.as_str(), digest)]));
        assert_eq!(ring(wrong).verify(&presented, Time::now()).unwrap_err(), Refusal::Unknown);
        assert_eq!(ring(right).verify(&presented, Time::now()).unwrap().key.id, id);
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?} {:?}", Secret("puna_x".to_owned()), CacheSecret::of("puna_x"));
        assert_eq!(shown, "Secret(..) CacheSecret(..)");
    }
}
