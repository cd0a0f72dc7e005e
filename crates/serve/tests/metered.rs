//! What requests take, however they end; and connections that never begin.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod served;

use puna_serve::access::Access;
use puna_serve::app::App;
use puna_serve::database::Database;
use puna_serve::guard::Guard;
use puna_serve::keys::{self, Limits as KeyLimits, NewKey, Scope};
use puna_serve::server::Limits;
use puna_serve::store::Store;
use puna_serve::time::Time;
use puna_serve::tls::Tls;
use puna_serve::usage;
use serde_json::{Value, json};
use served::{Server, model, rest, statuses};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const A_DAY: u64 = 60_000;

/// Bytes of a request for text with a key.
fn request(key: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let n = body.len();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close";
    format!("{head}\r\nauthorization: Bearer {key}\r\ncontent-length: {n}\r\n\r\n{body}").into_bytes()
}

#[test]
fn however_a_request_ends_it_is_recorded_once_and_leaves_nothing_reserved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let limits = KeyLimits { tokens_per_day: Some(A_DAY), ..KeyLimits::default() };
    let (name, scopes) = ("one".to_owned(), [Scope::Chat].into());
    let new = NewKey { name, scopes, models: Vec::new(), limits, expires: None };
    let (secret, _) = keys::create(&mut Database::open(&path).unwrap(), &new, Time::now()).unwrap();
    let key = secret.reveal();
    let store = Store::open(&path).unwrap();
    let app = App::new(model(192)).with_access(Access::by_key(store.clone(), false).unwrap());
    let server = Server::of(app, None, Limits::default(), Guard::default());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for idx in 0..6 {
                    let prompt = format!("{thread} {idx}");
                    let ask = |body: Value| assert_eq!(statuses(&server.exchange(&request(key, &body))), [200]);
                    match idx % 4 {
                        0 => ask(json!({"prompt": prompt, "max_tokens": 5})),
                        1 => ask(json!({"prompt": prompt, "max_tokens": 500, "stream": true, "stop": ["a", "e"]})),
                        2 => ask(json!({"prompt": [prompt, prompt, "x"], "max_tokens": 3, "n": 3})),
                        _ => {
                            let body =
                                json!({"prompt": prompt, "max_tokens": 3000, "stream": true, "ignore_eos": true});
                            let mut stream = server.connect();
                            stream.write_all(&request(key, &body)).unwrap();
                            // Somebody who has seen enough.
                            stream.read_exact(&mut [0; 200]).unwrap();
                        }
                    }
                    // What is refused for its form leaves no record.
                    let wrong = request(key, &json!({"prompt": prompt, "colour": "red"}));
                    assert_eq!(statuses(&server.exchange(&wrong)), [400]);
                }
            });
        }
    });
    server.wait_until_idle();
    // The record of one who went away is written as the last that knows of it is let go.
    let begin = Instant::now();
    let sums = loop {
        store.flush().wait().unwrap();
        let report = store.call(|database| usage::report(database, &[], None)).wait().unwrap();
        if report[0].sums.requests == 24 || begin.elapsed() > Duration::from_secs(60) {
            break report[0].sums;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(sums.requests, 24);
    assert!(sums.failed <= 4, "{sums:?}");
    let used = sums.prompt_tokens + sums.generated_tokens;
    assert!(used > 200 && sums.cached_prompt_tokens <= sums.prompt_tokens, "{sums:?}");
    // A refusal tells how much is taken. Since then some of it flowed back, less than a token a second.
    let whole = json!({"prompt": "x", "max_tokens": A_DAY - 100});
    let answer = String::from_utf8(server.exchange(&request(key, &whole))).unwrap();
    assert_eq!(statuses(answer.as_bytes()), [429], "{answer}");
    let (before, _) = answer.split_once(" are used").unwrap();
    let taken: u64 = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(taken <= used && used - taken < 1000, "{taken} are taken and {used} were used");
}

#[test]
fn who_says_nothing_gets_no_encryption() {
    let pem = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../puna/tests/tls").join(name);
    let tls = Tls::open(&pem("cert.pem"), &pem("key.pem")).unwrap();
    let limits = Limits { connections: 1, head_time: Duration::from_millis(200), ..Limits::default() };
    let server = Server::of(App::new(model(192)), Some(tls), limits, Guard::default());
    // Each has the only place there is, until its time is over.
    for beginning in [b"".as_slice(), b"\x16", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut stream = server.connect();
        stream.write_all(beginning).unwrap();
        let answer = rest(&mut stream);
        assert_eq!(statuses(&answer), [0; 0], "{answer:?}");
    }
}
