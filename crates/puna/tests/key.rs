//! `puna key` and `puna usage`: keys are shown once, listed and revoked; usage is summed and priced.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, binary, puna, run, text};
use puna_serve::database::Database;
use puna_serve::keys::{Ring, Scope};
use puna_serve::time::Time;
use puna_serve::usage::{self, Record};
use serde_json::{Value, json};
use std::path::Path;

/// The database's name, of a file that is not there yet.
fn database(files: &Files) -> String {
    text(&files.path("new/serve.db")).to_owned()
}

fn record(key: Option<&str>, model: &str, time: Time, tokens: u32) -> Record {
    Record {
        time,
        key: key.map(|key| key.parse().unwrap()),
        model: model.to_owned(),
        adapter: None,
        endpoint: "/v1/chat/completions".to_owned(),
        prompt_tokens: tokens,
        cached_prompt_tokens: tokens / 2,
        generated_tokens: tokens / 10,
        finish: Some("stop".to_owned()),
        duration_ms: 10,
        status: if tokens == 0 { 429 } else { 200 },
    }
}

#[test]
fn a_key_is_shown_once_and_works_until_it_is_revoked() {
    let files = Files::new();
    let db = database(&files);
    let made = puna(&["key", "new", "--name", "a laptop", "--db", &db]).succeeded();
    let secret = made.stdout.trim_end();
    assert!(secret.starts_with("puna_") && !secret.contains('\n'), "{made}");
    let verify = || Ring::load(&mut Database::open(Path::new(&db)).unwrap()).unwrap().verify(secret, Time::now());
    let key = verify().unwrap().key;
    assert!(made.stderr.contains(&format!("key {} \"a laptop\" does not expire", key.id)), "{made}");

    let list = puna(&["key", "list", "--db", &db]).succeeded().stdout;
    assert!(list.contains("a laptop") && list.contains("in use") && !list.contains(secret), "{list}");
    let revoked = puna(&["key", "revoke", "a laptop", "--db", &db, "--json"]).json();
    assert_eq!((&revoked["id"], &revoked["state"]), (&json!(key.id), &json!("revoked")));
    assert!(verify().is_err());
    puna(&["key", "revoke", "a laptop", "--db", &db]).refused(&["there is no key", "\"a laptop\""]);
    let again = puna(&["key", "revoke", key.id.as_str(), "--db", &db]).succeeded().stdout;
    assert!(again.starts_with(&format!("key {} \"a laptop\" was revoked on ", key.id)), "{again}");
}

#[test]
fn a_key_has_what_was_asked_for() {
    let files = Files::new();
    let db = database(&files);
    let mut args = vec!["key", "new", "--db", &db, "--json", "--name", "k", "--scope", "admin,chat", "--expires", "2w"];
    args.extend(["--requests-per-minute", "5", "--tokens-per-minute", "6", "--tokens-per-day", "7", "--models", "a,b"]);
    let made = puna(&args).json();
    let mut database = Database::open(Path::new(&db)).unwrap();
    let verified = Ring::load(&mut database).unwrap().verify(made["key"].as_str().unwrap(), Time::now()).unwrap();
    assert_eq!(verified.key.scopes, [Scope::Chat, Scope::Admin].into());
    let mut listed = puna(&["key", "list", "--db", &db, "--json"]).json();
    let mut listed = listed["keys"][0].take();
    let created = listed["created"].as_i64().unwrap();
    assert_eq!(listed["expires"], created + 14 * 86_400);
    for (name, value) in [
        ("models", json!(["a", "b"])),
        ("scopes", json!(["chat", "admin"])),
        ("requests_per_minute", json!(5)),
        ("tokens_per_minute", json!(6)),
        ("tokens_per_day", json!(7)),
        ("last_used", Value::Null),
        ("revoked", Value::Null),
    ] {
        assert_eq!(listed[name], value, "{name}");
    }
    // Times are whole seconds here.
    usage::add(&mut database, &[record(listed["id"].as_str(), "a", Time::from_millis(1_795_000_000_999), 1)]).unwrap();
    listed = puna(&["key", "list", "--db", &db, "--json"]).json()["keys"][0].take();
    assert_eq!(listed["last_used"], 1_795_000_000);
}

#[test]
fn what_a_key_cannot_be_is_refused() {
    let files = Files::new();
    let db = database(&files);
    let refused =
        |args: &[&str], expected: &[&str]| puna(&[&["key", "new", "--db", &db], args].concat()).refused(expected);
    refused(&["--name", ""], &["name: expected 1 to 100 characters, found 0"]);
    refused(&["--name", "k", "--models", "a,"], &["models: "]);
    refused(
        &["--name", "k", "--expires", "2020-02-02"],
        &["expiry: expected a time to come, found 2020-02-02 00:00 UTC"],
    );
    let misused =
        |args: &[&str], expected: &str| puna(&[&["key", "new", "--db", &db], args].concat()).misused(&[expected]);
    misused(&["--name", "k", "--scope", "root"], "expected chat, embeddings, metrics or admin, found \"root\"");
    misused(&["--name", "k", "--expires", "soon"], "expected a span such as");
    misused(&["--name", "k", "--tokens-per-day", "0"], "0 is not in 1..=1000000000000");
    misused(&[], "--name");
    puna(&["key", "new", "--db", &db, "--name", "k"]).succeeded();
    refused(&["--name", "k"], &["a key in use named \"k\" exists already"]);
    for verb in [&["key", "list"][..], &["key", "revoke", "k"], &["usage"]] {
        let none = files.path("none.db");
        puna(&[verb, &["--db", text(&none)]].concat()).refused(&["none.db: expected a database file, found nothing"]);
        assert!(!none.exists());
        let other = files.write("other.db", "All work and no play makes Jack a dull boy.".repeat(100));
        puna(&[verb, &["--db", text(&other)]].concat()).refused(&["other.db: the database is damaged"]);
    }
}

#[test]
fn the_data_folder_moves() {
    let files = Files::new();
    let home = files.path("home");
    run(binary().args(["key", "new", "--name", "k"]).env("PUNA_HOME", &home), b"").succeeded();
    assert!(home.join("serve.db").is_file());
    let elsewhere = files.path("elsewhere");
    run(binary().args(["key", "new", "--name", "k"]).env("PUNA_HOME", "").env("XDG_DATA_HOME", &elsewhere), b"")
        .succeeded();
    assert!(cfg!(not(target_os = "linux")) || elsewhere.join("puna/serve.db").is_file());
}

#[test]
fn usage_is_summed_and_priced() {
    let files = Files::new();
    let db = database(&files);
    let id = puna(&["key", "new", "--name", "la\u{301}ptop", "--json", "--db", &db]).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let now = Time::now();
    let old = Time::from_millis(20_780 * 86_400_000);
    let mut database = Database::open(Path::new(&db)).unwrap();
    usage::add(
        &mut database,
        &[
            record(Some(&id), "llama", now, 1_000_000),
            record(Some(&id), "llama", now, 0),
            record(Some(&id), "tiny", old, 20),
            record(None, "llama", old, 500_000),
        ],
    )
    .unwrap();
    let usage = |args: &[&str]| puna(&[&["usage", "--db", &db, "--json"], args].concat()).json();
    let priced = usage(&["--price-in", "3.00", "--price-out", "6"]);
    let expected = json!({
        "groups": [
            { "key": null, "key_name": null, "model": "llama", "requests": 1, "failed": 0, "prompt_tokens": 500_000,
              "cached_prompt_tokens": 250_000, "generated_tokens": 50_000, "cost": 1.8 },
            { "key": id, "key_name": "la\u{301}ptop", "model": "llama", "requests": 2, "failed": 1,
              "prompt_tokens": 1_000_000, "cached_prompt_tokens": 500_000, "generated_tokens": 100_000, "cost": 3.6 },
            { "key": id, "key_name": "la\u{301}ptop", "model": "tiny", "requests": 1, "failed": 0, "prompt_tokens": 20,
              "cached_prompt_tokens": 10, "generated_tokens": 2, "cost": 0.000072 },
        ],
        "total": { "requests": 4, "failed": 1, "prompt_tokens": 1_500_020, "cached_prompt_tokens": 750_010,
                   "generated_tokens": 150_002, "cost": 5.400072 },
    });
    assert_eq!(priced, expected);
    let recent = usage(&["--by", "day", "--since", "1h"]);
    assert_eq!((&recent["total"]["requests"], &recent["groups"][0]["failed"]), (&json!(2), &json!(1)));
    let by_day = usage(&["--by", "day", "--since", "2026-11-23"]);
    assert_eq!((&by_day["groups"][0]["day"], &by_day["total"]["cost"]), (&json!("2026-11-23"), &Value::Null));

    let table =
        puna(&["usage", "--db", &db, "--by", "model,model", "--price-in", "3", "--price-out", "6"]).succeeded().stdout;
    let expected = "\
model  requests  failed  prompt tokens  of them cached  generated  cost
llama         3       1        1500000          750000     150000  5.40
tiny          1       0             20              10          2  0.00
total         4       1        1500020          750010     150002  5.40
";
    assert_eq!(table, expected);
    puna(&["usage", "--db", &db, "--by", "hour"])
        .misused(&["expected key, model, adapter, endpoint or day, found \"hour\""]);
    puna(&["usage", "--db", &db, "--price-in", "3"]).misused(&["--price-out"]);
}
