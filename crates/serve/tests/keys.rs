//! Keys: what is kept of them, what they open, and for how long.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_serve::database::Database;
use puna_serve::keys::{self, Limits, MAX_LIMIT, NewKey, PREFIX, Refusal, Ring, Scope};
use puna_serve::time::Time;
use std::collections::HashSet;
use std::fs;
use tempfile::TempDir;

const NOW: Time = Time::from_millis(1_795_000_000_000);

fn database() -> (TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("serve.db")).unwrap();
    (dir, database)
}

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        scopes: [Scope::Chat, Scope::Embeddings].into(),
        models: vec!["llama".to_owned()],
        limits: Limits { requests_per_minute: Some(3), tokens_per_minute: None, tokens_per_day: Some(MAX_LIMIT) },
        expires: Some(Time::from_millis(NOW.millis() + 1000)),
    }
}

fn later(millis: i64) -> Time {
    Time::from_millis(NOW.millis() + millis)
}

#[test]
fn a_key_opens_until_it_expires_or_is_revoked() {
    let (_dir, mut database) = database();
    let (secret, key) = keys::create(&mut database, &new_key("laptop"), NOW).unwrap();
    let ring = Ring::load(&mut database).unwrap();
    let verified = ring.verify(secret.reveal(), later(999)).unwrap();
    assert_eq!(*verified.key, key);
    assert!(key.may(Scope::Chat) && key.may(Scope::Embeddings) && !key.may(Scope::Metrics) && !key.may(Scope::Admin));
    assert!(key.may_use("llama") && !key.may_use("llama2") && !key.may_use(""));
    assert!(ring.has_usable(NOW) && !ring.has_usable(later(1000)));
    let expired = ring.verify(secret.reveal(), later(1000)).unwrap_err();
    assert_eq!(expired, Refusal::Expired { id: key.id.clone(), when: later(1000) });

    let revoked = keys::revoke(&mut database, "laptop", later(5)).unwrap();
    assert_eq!((&revoked.id, revoked.revoked), (&key.id, Some(later(5))));
    let ring = Ring::load(&mut database).unwrap();
    let refusal = Refusal::Revoked { id: key.id.clone(), when: later(5) };
    assert_eq!(ring.verify(secret.reveal(), later(6)).unwrap_err(), refusal);
    assert!(!ring.has_usable(NOW));
    // Again by its id: the first time stays. Its name is free.
    assert_eq!(keys::revoke(&mut database, key.id.as_str(), later(9)).unwrap(), revoked);
    assert!(keys::revoke(&mut database, "laptop", later(9)).is_err());
    let (_, second) = keys::create(&mut database, &new_key("laptop"), later(10)).unwrap();
    assert_eq!(keys::list(&mut database).unwrap(), [revoked, second]);
}

#[test]
fn an_administrators_key_may_do_everything() {
    let (_dir, mut database) = database();
    let new = NewKey { scopes: [Scope::Admin].into(), models: Vec::new(), ..new_key("root") };
    let (_, key) = keys::create(&mut database, &new, NOW).unwrap();
    assert!(Scope::ALL.into_iter().all(|scope| key.may(scope)) && key.may_use("any"));
}

#[test]
fn keys_are_random_and_nowhere_in_the_files() {
    let (dir, mut database) = database();
    let mut secrets = HashSet::new();
    let mut caches = HashSet::new();
    for n in 0..50 {
        let (secret, _) = keys::create(&mut database, &new_key(&n.to_string()), NOW).unwrap();
        let ring = Ring::load(&mut database).unwrap();
        let cache = ring.verify(secret.reveal(), NOW).unwrap().cache_secret;
        assert_eq!(ring.verify(secret.reveal(), later(1)).unwrap().cache_secret, cache, "it stays the same");
        caches.insert(*cache.bytes());
        secrets.insert(secret.reveal().to_owned());
    }
    assert_eq!((secrets.len(), caches.len()), (50, 50));
    let random: Vec<&str> = secrets.iter().map(|secret| secret.strip_prefix(PREFIX).unwrap()).collect();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!random.iter().any(|secret| holds(&secret.as_bytes()[..8])), "a key is in a file");
        assert!(!caches.iter().any(|cache| holds(cache)), "a secret of caches is in a file");
    }
}

#[test]
fn what_a_key_cannot_be_is_refused() {
    let (_dir, mut database) = database();
    let mut refused = |change: &dyn Fn(&mut NewKey)| {
        let mut new = new_key("fine");
        change(&mut new);
        keys::create(&mut database, &new, NOW).unwrap_err().to_string()
    };
    assert_eq!(refused(&|new| new.name.clear()), "name: expected 1 to 100 characters, found 0");
    assert!(refused(&|new| new.name = "x".repeat(101)).ends_with("found 101"));
    assert!(refused(&|new| new.name = "a\u{1b}[2J".to_owned()).contains("no control characters"));
    assert!(refused(&|new| new.name = " a".to_owned()).contains("no spaces around it"));
    assert!(refused(&|new| new.name = "0123456789ab".to_owned()).contains("what could be a key's id"));
    assert_eq!(refused(&|new| new.scopes.clear()), "scopes: expected at least one, found none");
    assert!(refused(&|new| new.models = vec![String::new()]).starts_with("models: "));
    for limit in [0, MAX_LIMIT + 1, u64::MAX] {
        let error = refused(&|new| new.limits.tokens_per_minute = Some(limit));
        assert_eq!(error, format!("limit: expected a number from 1 to 1000000000000, found {limit}"));
    }
    assert!(refused(&|new| new.expires = Some(NOW)).starts_with("expiry: expected a time to come"));
    keys::create(&mut database, &new_key("fine"), NOW).unwrap();
    let error = keys::create(&mut database, &new_key("fine"), NOW).unwrap_err().to_string();
    assert_eq!(error, "a key in use named \"fine\" exists already");
    for unknown in ["", "fin", "0123456789ab", "fine'; DROP TABLE keys; --"] {
        let error = keys::revoke(&mut database, unknown, NOW).unwrap_err().to_string();
        assert!(error.starts_with("there is no key"), "{error}");
    }
    assert_eq!(keys::list(&mut database).unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nothing_but_the_key_opens(
        at in any::<prop::sample::Index>(),
        character in "[1-9A-Za-z]",
        texts in prop::collection::vec(prop_oneof![any::<String>(), "puna_[1-9A-Za-z]{43,45}"], 50),
    ) {
        let (_dir, mut database) = database();
        let (secret, _) = keys::create(&mut database, &new_key("k"), NOW).unwrap();
        let ring = Ring::load(&mut database).unwrap();
        let secret = secret.reveal();
        let at = at.index(secret.len());
        let mut changed = secret.to_owned();
        changed.replace_range(at..=at, &character);
        let longer = format!("{secret} ");
        let others = [changed.as_str(), &secret[..at], &secret[1..], &longer, "", PREFIX];
        for text in others.into_iter().chain(texts.iter().map(String::as_str)).filter(|text| *text != secret) {
            prop_assert_eq!(ring.verify(text, NOW).unwrap_err(), Refusal::Unknown, "{}", text);
        }
        prop_assert!(ring.verify(secret, NOW).is_ok());
    }
}
