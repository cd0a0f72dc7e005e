//! Who asks: which key a request has, what that key is for, and how much it may still take.
//!
//! Everything here is in memory: a request is refused before its body is read, and no disk is waited for.

use crate::database;
use crate::error::ApiError;
use crate::keys::{self, Key, KeyId, Scope, Verified};
use crate::quota::{Admission, Quotas, Refusal};
use crate::store::Store;
use crate::time::Time;
use crate::usage::{self, Record};
use axum::extract::{FromRequestParts, MatchedPath};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

/// How far back usage counts against limits: as long as the longest of them.
const DAY: Duration = Duration::from_secs(86_400);

/// Who may ask.
pub struct Access {
    /// Where keys come from and usage goes to.
    store: Option<Store>,
    /// Whether requests need a key.
    by_key: bool,
    /// Whether keys find what others left in the prefix cache.
    shares_prefixes: bool,
    quotas: Quotas,
    /// What the quotas' times count from.
    started: Instant,
}

impl Access {
    /// Everybody may ask, and nobody writes down what they take.
    pub fn open() -> Access {
        let quotas = Quotas::default();
        Access { store: None, by_key: false, shares_prefixes: false, quotas, started: Instant::now() }
    }

    /// Everybody may ask; what they take is recorded.
    pub fn recorded(store: Store) -> Access {
        Access { store: Some(store), ..Access::open() }
    }

    /// Whoever has a key may ask. What keys took in the last day counts against their limits. With `shares_prefixes` keys
    /// also share the prefix cache, and can find out by the time of an answer what others asked.
    ///
    /// # Errors
    /// When the database can't be read.
    pub fn by_key(store: Store, shares_prefixes: bool) -> Result<Access, database::Error> {
        let access = Access { by_key: true, shares_prefixes, ..Access::recorded(store.clone()) };
        let now = Time::now();
        let (keys, minutes) = store
            .call(move |database| Ok((keys::list(database)?, usage::by_minute(database, now.before(DAY))?)))
            .wait()?;
        let keys: HashMap<&KeyId, &Key> = keys.iter().map(|key| (&key.id, key)).collect();
        for minute in minutes {
            if let Some(key) = keys.get(&minute.key) {
                let age = u64::try_from(now.millis().saturating_sub(minute.time.millis())).unwrap_or(0);
                access.quotas.restore(&key.id, key.limits, Duration::from_millis(age), minute.tokens);
            }
        }
        Ok(access)
    }

    /// Where conversations are kept, if anything is.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Whether requests need a key.
    pub fn needs_key(&self) -> bool {
        self.by_key
    }

    /// Which key a request for an endpoint has, if it needs one.
    ///
    /// # Errors
    /// When it has none that is good for this.
    pub(crate) fn verify(&self, headers: &HeaderMap, endpoint: &str) -> Result<Option<Verified>, ApiError> {
        let need = Need::of(endpoint);
        let (Some(store), true, true) = (&self.store, self.by_key, need != Need::Nothing) else { return Ok(None) };
        let presented = presented(headers).ok_or_else(missing)?;
        // Keys that were revoked since then would still work.
        if store.health().keys_fault.is_some() {
            let message = "the server can't read its database of keys; whoever runs it must look at it";
            let unavailable = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable", message);
            return Err(unavailable.retry_after(5));
        }
        let verified = store.verify(presented, Time::now()).map_err(|refusal| {
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "invalid_api_key",
                format!("expected a key of this server: {refusal}"),
            )
        })?;
        match need {
            Need::Scope(scope) if !verified.key.may(scope) => {
                let message = format!("key {} is not good for this: it lacks the scope {scope}", verified.key.id);
                Err(ApiError::new(StatusCode::FORBIDDEN, "scope_missing", message))
            }
            _ => Ok(Some(verified)),
        }
    }

    /// Lets in a request that takes at most so many tokens, of prompts and answers together, from a model or adapter; or
    /// another part of one that is in.
    ///
    /// # Errors
    /// When the caller has no key and needs one, may not use the model, or has no room left in its limits.
    pub(crate) fn admit(
        &self,
        caller: &Caller,
        model: &str,
        admission: &mut Option<Admission>,
        tokens: u64,
    ) -> Result<(), ApiError> {
        let key = match &caller.verified {
            Some(verified) => &verified.key,
            None if self.by_key => return Err(missing()),
            None => return Ok(()),
        };
        if !key.may_use(model) {
            let message = format!("model: key {} may use {}, found {model:?}", key.id, key.models.join(" or "));
            return Err(ApiError::new(StatusCode::FORBIDDEN, "model_not_allowed", message));
        }
        let now = self.started.elapsed();
        match admission {
            Some(admission) => self.quotas.extend(&key.id, key.limits, now, admission, tokens)?,
            None => *admission = Some(self.quotas.admit(&key.id, key.limits, now, tokens)?),
        }
        Ok(())
    }

    /// Settles a request that was let in, with what it took in truth.
    pub(crate) fn settle(&self, caller: &Caller, admission: Admission, tokens: u64) {
        if let Some(Verified { key, .. }) = &caller.verified {
            self.quotas.settle(&key.id, key.limits, self.started.elapsed(), admission, tokens);
        }
    }

    /// Writes down what a request took, a little later.
    pub(crate) fn record(&self, record: Record) {
        if let Some(store) = &self.store {
            store.record(record);
        }
    }

    /// Whose prefixes a caller shares, and with whom it takes turns as one.
    pub(crate) fn scope(&self, caller: &Caller) -> puna_engine::Scope {
        match &caller.verified {
            Some(verified) if !self.shares_prefixes => puna_engine::Scope(*verified.cache_secret.bytes()),
            _ => puna_engine::Scope::default(),
        }
    }

    /// How the database is.
    pub(crate) fn faults(&self) -> Faults {
        let Some(health) = self.store.as_ref().map(Store::health) else { return Faults::default() };
        Faults {
            keys: self.by_key && health.keys_fault.is_some(),
            usage: health.usage_fault.is_some(),
            lost_records: health.lost_records,
        }
    }
}

/// What is wrong with the database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Keys are needed and can't be read: whoever needs one is refused.
    pub keys: bool,
    /// Usage can't be written at the moment.
    pub usage: bool,
    /// Requests whose usage is lost.
    pub lost_records: u64,
}

/// Whom a request is answered for, and by which endpoint.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The key; none where nobody needs one.
    verified: Option<Verified>,
    endpoint: String,
}

impl Caller {
    /// The key's id.
    pub fn key(&self) -> Option<&KeyId> {
        self.verified.as_ref().map(|verified| &verified.key.id)
    }

    /// The path under which the endpoint is known.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether it may use a model or adapter.
    pub fn may_use(&self, model: &str) -> bool {
        self.verified.as_ref().is_none_or(|verified| verified.key.may_use(model))
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, Infallible> {
        // The guard leaves the key there. Who comes by another way has none, and is refused where one is needed.
        let verified = parts.extensions.get::<Verified>().cloned();
        let endpoint = parts.extensions.get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
        Ok(Caller { verified, endpoint })
    }
}

/// What an endpoint wants of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Not even that there is one.
    Nothing,
    /// That it works.
    Key,
    /// That it is good for this.
    Scope(Scope),
}

impl Need {
    fn of(endpoint: &str) -> Need {
        match endpoint {
            // The page's frame asks for the key; it and its files are the same for everybody.
            "/health" | "/ready" | "/" | "/page/{file}" => Need::Nothing,
            "/metrics" => Need::Scope(Scope::Metrics),
            "/v1/embeddings" | "/api/embed" => Need::Scope(Scope::Embeddings),
            // What is served, which programs look up first; and addresses that do not exist.
            "/v1/models" | "/v1/models/{*name}" | "/api/tags" | "/api/show" | "/api/version" | "/tokenizer_info"
            | "/openapi.json" | "none" => Need::Key,
            _ => Need::Scope(Scope::Chat),
        }
    }
}

/// The key that a request has, as OpenAI's clients send it or Anthropic's.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

fn missing() -> ApiError {
    let message = "expected a key of this server, as `Authorization: Bearer puna_…` or `x-api-key: puna_…`, found none";
    ApiError::new(StatusCode::UNAUTHORIZED, "missing_api_key", message)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal.retry_after {
            Some(seconds) => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).retry_after(seconds)
            }
            // No waiting helps, so clients must not be told to wait.
            None => ApiError::new(StatusCode::BAD_REQUEST, "limit_too_small", message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_two_ways() {
        let presented_in = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            fields.iter().for_each(|(name, value)| drop(headers.insert(*name, value.parse().unwrap())));
            presented(&headers).map(str::to_owned)
        };
        let bearer = ("authorization", "Bearer one");
        assert_eq!(presented_in(&[bearer]), Some("one".into()));
        assert_eq!(presented_in(&[("authorization", "bearer  one ")]), Some("one".into()));
        assert_eq!(presented_in(&[("x-api-key", "two")]), Some("two".into()));
        assert_eq!(presented_in(&[("x-api-key", "two"), bearer]), Some("one".into()));
        assert_eq!(presented_in(&[("x-api-key", "two"), ("authorization", "Basic eA==")]), Some("two".into()));
        assert_eq!(presented_in(&[("authorization", "one")]), None);
        assert_eq!(presented_in(&[("authorization", "Bearer \u{e4}")]), None);
    }

    #[test]
    fn what_nobody_thought_of_needs_the_scope_of_chat() {
        assert_eq!(Need::of("/v1/something/new"), Need::Scope(Scope::Chat));
        assert_eq!(Need::of("/health"), Need::Nothing);
        assert_eq!(Need::of("/page/about"), Need::Scope(Scope::Chat));
        assert_eq!(Need::of("/metrics"), Need::Scope(Scope::Metrics));
        assert_eq!(Need::of("none"), Need::Key);
    }
}
