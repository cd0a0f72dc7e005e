//! The file: who may read it, which formats are refused, and what damage does.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_serve::database::{Database, Error};
use puna_serve::history::{self, NewMessage, Page};
use puna_serve::keys::{self, Limits, NewKey, Ring, Scope};
use puna_serve::time::Time;
use puna_serve::{responses, usage};
use puna_text::chat::Role;
use rusqlite::Connection;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        scopes: [Scope::Chat].into(),
        models: Vec::new(),
        limits: Limits::default(),
        expires: None,
    }
}

/// Uses everything once, and says what failed.
fn use_all(path: &Path, name: &str) -> Vec<Error> {
    let mut database = match Database::open(path) {
        Ok(database) => database,
        Err(error) => return vec![error],
    };
    let database = &mut database;
    let now = Time::from_millis(1_795_000_000_000);
    let record = usage::Record {
        time: now,
        key: None,
        model: "llama".to_owned(),
        adapter: None,
        endpoint: "/v1/completions".to_owned(),
        prompt_tokens: 5,
        cached_prompt_tokens: 0,
        generated_tokens: 7,
        finish: Some("stop".to_owned()),
        duration_ms: 9,
        status: 200,
    };
    let message = NewMessage {
        parent: None,
        role: Role::User,
        content: "What is the answer to everything?".repeat(50),
        time: now,
        parameters: json!({ "temperature": 0.5 }),
        tokens: Some(3),
        timings: json!({}),
    };
    let response = responses::Response {
        id: name.to_owned(),
        created: now,
        previous: None,
        input: json!(["in"]),
        output: json!({ "out": 1 }),
    };
    let page = Page { limit: 10, after: None };
    let mut errors = Vec::new();
    let mut keep = |result: Result<(), Error>| errors.extend(result.err());
    keep(keys::create(database, &new_key(name), now).map(drop));
    keep(keys::list(database).map(drop));
    keep(Ring::load(database).map(drop));
    keep(usage::add(database, &[record.clone(), record]));
    keep(usage::report(database, &usage::By::ALL, None).map(drop));
    keep(usage::last_used(database).map(drop));
    keep(usage::by_minute(database, now).map(drop));
    keep(history::create(database, None, "A title", "llama", now).and_then(|conversation| {
        history::append(database, None, &conversation.id, &message)?;
        history::read(database, None, &conversation.id).map(drop)
    }));
    keep(history::search(database, None, "answer", &page).map(drop));
    keep(history::list(database, None, &page).and_then(|listed| {
        let Some(last) = listed.items.last() else { return Ok(()) };
        history::rename(database, None, &last.id, "Another")?;
        history::delete(database, None, &last.id)
    }));
    keep(responses::add(database, None, &response));
    keep(responses::chain(database, None, name).map(drop));
    errors
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/serve.db");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut database = Database::open(&path).unwrap();
    keys::create(&mut database, &new_key("k"), Time::now()).unwrap();
    assert_eq!((mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o700, 0o700));
    let files: Vec<_> = fs::read_dir(dir.path().join("a/b")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "the database, its log, and the log's index: {files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(database);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(Database::open(&path).unwrap());
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_is_no_database_of_this_puna_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let refused = |name: &str| {
        let before = fs::read(path(name)).ok();
        let error = Database::open(&path(name)).unwrap_err().to_string();
        assert_eq!(fs::read(path(name)).ok(), before, "{name} was changed");
        error.strip_prefix(&format!("{}: ", path(name).display())).unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    drop(Database::open(&path("newer")).unwrap());
    Connection::open(path("newer")).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(refused("newer"), "the database has format 99, expected at most 4: a newer puna wrote it");
    drop(Database::open(&path("negative")).unwrap());
    Connection::open(path("negative")).unwrap().pragma_update(None, "user_version", -1).unwrap();
    assert_eq!(refused("negative"), "the database is damaged: expected a format from 0, found -1");
    Connection::open(path("foreign")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert_eq!(refused("foreign"), "expected a database of puna's, found one of another program");
    fs::write(path("text"), "All work and no play makes Jack a dull boy. ".repeat(100)).unwrap();
    assert_eq!(refused("text"), "the database is damaged: it is no SQLite file");
    fs::create_dir(path("dir")).unwrap();
    assert_eq!(refused("dir"), "expected a database file, found a directory");
    let error = Database::open_existing(&path("none")).unwrap_err().to_string();
    assert!(error.ends_with("none: expected a database file, found nothing"), "{error}");
    assert!(!path("none").exists());
    fs::write(path("empty"), "").unwrap();
    assert!(use_all(&path("empty"), "x").is_empty());
}

#[test]
fn names_with_a_meaning_for_sqlite_are_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in [":memory:", "file:x?mode=memory", "a b%20c"] {
        drop(Database::open(&dir.path().join(name)).unwrap());
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() > 0, "{name}");
    }
}

#[test]
fn many_may_make_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let path = &path;
                scope.spawn(move || {
                    let mut database = Database::open(path).unwrap();
                    for n in 0..3 {
                        keys::create(&mut database, &new_key(&format!("{thread} {n}")), Time::now()).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(keys::list(&mut Database::open(&path).unwrap()).unwrap().len(), 24);
}

#[test]
fn a_new_file_that_somebody_writes_to_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let opened = scope.spawn(|| Database::open(&path).map(drop));
        thread::sleep(Duration::from_millis(100));
        other.execute_batch("ROLLBACK").unwrap();
        opened.join().unwrap().unwrap();
    });
}

/// A part of the file that is overwritten, or cut off.
#[derive(Clone, Debug)]
enum Damage {
    Bytes(prop::sample::Index, Vec<u8>),
    Cut(prop::sample::Index),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damage_is_an_error_that_names_the_file(
        damages in prop::collection::vec(prop_oneof![
            (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..300))
                .prop_map(|(at, bytes)| Damage::Bytes(at, bytes)),
            any::<prop::sample::Index>().prop_map(Damage::Cut),
        ], 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.db");
        for name in ["first", "second"] {
            prop_assert!(use_all(&path, name).is_empty());
        }
        let mut bytes = fs::read(&path).unwrap();
        for damage in damages {
            match damage {
                Damage::Bytes(at, new) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte = new);
                }
                Damage::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
                _ => {}
            }
        }
        fs::write(&path, &bytes).unwrap();
        for error in use_all(&path, "third") {
            let named = error.to_string().contains("serve.db");
            prop_assert!(named || matches!(error, Error::NotFound { .. } | Error::Taken { .. }), "{error}");
        }
    }
}
