//! What is asked: requests in OpenAI's batch format.

use super::lines::{Lines, MAX_LEN};
use anyhow::{Context, Result, bail};
use puna_serve::ApiError;
use puna_serve::offline::{Offline, Reply};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;

/// Addresses that a request may name.
const URLS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// Bytes of a request's name at most.
const MAX_NAME: usize = 512;

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What its answer is to be found by.
    pub custom_id: String,
    method: String,
    url: String,
    body: Map<String, Value>,
}

impl Request {
    fn check(&self) -> Result<()> {
        let Request { custom_id, method, url, .. } = self;
        if custom_id.is_empty() || custom_id.len() > MAX_NAME {
            bail!("`custom_id`: expected 1 to {MAX_NAME} bytes, found {}", custom_id.len());
        }
        if method != "POST" {
            bail!("`method`: expected \"POST\", found {method:?}");
        }
        if !URLS.contains(&url.as_str()) {
            bail!("`url`: expected {}, found {url:?}", URLS.join(" or "));
        }
        Ok(())
    }

    /// What a client would have got.
    pub async fn answer(&self, offline: &Offline) -> Reply {
        if self.body.get("stream").is_some_and(|stream| stream.as_bool() == Some(true)) {
            let error = ApiError::field("stream", "expected false: the answers of a batch are whole");
            return Reply { status: error.status().as_u16(), body: error.openai().to_string().into_bytes() };
        }
        let body = serde_json::to_vec(&self.body).expect("a JSON value can be written");
        offline.post(&self.url, body).await
    }
}

/// The requests of a file, one by one.
pub struct Input(Lines);

impl Input {
    pub fn open(path: &Path) -> Result<Input> {
        let name = || path.display().to_string();
        // It is read twice.
        if !path.metadata().with_context(name)?.is_file() {
            bail!("{}: expected a file, found something else", name());
        }
        Ok(Input(Lines::new(path, File::open(path).with_context(name)?, MAX_LEN)))
    }

    pub fn next(&mut self) -> Result<Option<Request>> {
        if !self.0.advance()? {
            return Ok(None);
        }
        let request: Request = self.0.parse("an object with `custom_id`, `method`, `url` and `body`")?;
        request.check().with_context(|| self.0.place())?;
        Ok(Some(request))
    }
}

/// The names of all requests, each of which is there once. The first line that is no request is an error: it is found
/// before anything is computed.
pub fn check(path: &Path) -> Result<HashSet<String>> {
    let mut input = Input::open(path)?;
    let mut lines: HashMap<String, usize> = HashMap::new();
    while let Some(request) = input.next()? {
        match lines.entry(request.custom_id) {
            Entry::Vacant(entry) => {
                entry.insert(input.0.number());
            }
            Entry::Occupied(entry) => bail!(
                "{}: `custom_id`: expected one that no other request has, found {:?}, that of line {}",
                input.0.place(),
                entry.key(),
                entry.get()
            ),
        }
    }
    if lines.is_empty() {
        bail!("{}: expected at least one request, found none", path.display());
    }
    Ok(lines.into_keys().collect())
}
