//! Who may ask a server, how much, and what is known of it afterwards; encrypted or not. With the model that is in the program.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, binary, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A home with a database, and the servers on it.
struct Home(Files);

impl Home {
    fn new() -> Home {
        Home(Files::new())
    }

    fn path(&self) -> PathBuf {
        self.0.path("home")
    }

    fn puna(&self, args: &[&str]) -> Run {
        run(binary().env("PUNA_HOME", self.path()).args(args), b"")
    }

    /// A new key.
    fn key(&self, name: &str, options: &[&str]) -> String {
        let run = self.puna(&[&["key", "new", "--name", name], options].concat()).succeeded();
        run.stdout.trim_end().to_owned()
    }

    fn serve(&self, options: &[&str]) -> Server {
        let mut command = binary();
        command.env("PUNA_HOME", self.path());
        command.args(["serve", "--port", "0", "--threads", "2", "--context", "1024"]).args(options);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut said = Vec::new();
        let line = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it serves: {said:?}"));
            said.push(line.clone());
            if line.starts_with("serving ") {
                break line;
            }
        };
        let (_, rest) = line.split_once("://").unwrap();
        let address = rest.split_whitespace().next().unwrap().replace("0.0.0.0", "127.0.0.1");
        let said = Arc::new(Mutex::new(said));
        let more = said.clone();
        std::thread::spawn(move || lines.for_each(|line| more.lock().unwrap().push(line)));
        Server { child, address, said }
    }

    /// The sums of `puna usage`, by what else is asked.
    fn usage(&self, by: &str) -> Value {
        self.puna(&["usage", "--by", by, "--json"]).json()
    }

    /// Waits until usage is what it should be; it is written a little later.
    fn usage_until(&self, by: &str, is_right: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut usage = Vec::new();
        for _ in 0..300 {
            usage = self.usage(by)["groups"].as_array().unwrap().clone();
            if is_right(&usage) {
                return usage;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{usage:?}");
    }
}

struct Server {
    child: Child,
    address: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn request(&self, method: &str, path: &str, headers: &[String], body: &str) -> String {
        let n = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {n}\r\n");
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        format!("{head}{headers}\r\n{body}")
    }

    /// Status, head and body of what comes back.
    fn ask(&self, method: &str, path: &str, headers: &[String], body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(self.request(method, path, headers, body).as_bytes()).unwrap();
        answer(stream)
    }

    fn get(&self, path: &str, key: &str) -> u16 {
        self.ask("GET", path, &[bearer(key)], "").0
    }

    /// Posts with a key.
    fn post(&self, path: &str, key: &str, body: &Value) -> (u16, String, Value) {
        let (status, head, body) = self.ask("POST", path, &[bearer(key)], &body.to_string());
        (status, head, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }

    /// Waits until a key is answered like this.
    fn until(&self, path: &str, key: &str, status: u16) {
        for _ in 0..300 {
            if self.get(path, key) == status {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{path}: {}", self.get(path, key));
    }

    fn said(&self, what: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(what))
    }

    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut stream: impl Read) -> (u16, String, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}")
}

fn chat(max_tokens: u32) -> Value {
    json!({"messages": [{"role": "user", "content": "What is your name?"}], "max_tokens": max_tokens, "temperature": 0})
}

#[test]
fn without_a_key_nobody_gets_in() {
    let home = Home::new();
    for options in [["serve", "--require-key"].as_slice(), &["serve", "--host", "0.0.0.0"]] {
        home.puna(options).refused(&[&options[1..].join(" "), "expected a key", "`puna key new --name NAME`"]);
    }
    let key = home.key("laptop", &[]);
    let server = home.serve(&["--require-key"]);
    for path in ["/health", "/ready"] {
        assert_eq!(server.ask("GET", path, &[], "").0, 200, "{path}");
    }
    let unknown = format!("{}{}", &key[..key.len() - 1], if key.ends_with('x') { 'y' } else { 'x' });
    let wrong = [vec![], vec![bearer("sk-1234")], vec![bearer(&unknown)], vec![format!("x-api-key: {unknown}")]];
    for headers in &wrong {
        for (method, path) in
            [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/nothing")]
        {
            let (status, head, body) = server.ask(method, path, headers, "");
            assert_eq!(status, 401, "{path}: {body}");
            assert!(head.contains("www-authenticate: bearer"), "{head}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["error"]["type"], "authentication_error", "{body}");
            assert!(body["error"]["message"].as_str().unwrap().contains("a key of this server"), "{body}");
        }
        let (status, _, body) = server.ask("POST", "/v1/messages", headers, "{}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &body["type"], &body["error"]["type"]),
            (401, &json!("error"), &json!("authentication_error"))
        );
        let (status, _, body) = server.ask("POST", "/api/chat", headers, "{}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(status == 401 && body["error"].is_string(), "{body}");
    }
    // Nobody waits for a body that is not wanted.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 4000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(answer(stream).0, 401);

    for header in [bearer(&key), format!("x-api-key: {key}")] {
        assert_eq!(server.ask("GET", "/v1/models", &[header], "").0, 200);
    }
    assert_eq!(server.get("/nothing", &key), 404);
    let (_, _, description) = server.ask("GET", "/openapi.json", &[bearer(&key)], "");
    let description: Value = serde_json::from_str(&description).unwrap();
    assert_eq!(description["security"], json!([{"bearer": []}, {"x-api-key": []}]));
}

#[test]
fn a_key_is_good_for_its_scopes_and_models_until_it_is_revoked() {
    let home = Home::new();
    let files = ["chat", "embeddings", "metrics", "admin"].map(|scope| home.key(scope, &["--scope", scope]));
    let [chat_key, embeddings_key, metrics_key, admin_key] = &files;
    let elsewhere = home.key("elsewhere", &["--models", "another"]);
    let server = home.serve(&["--require-key"]);
    for (key, metrics, completions, embeddings) in [
        (chat_key, 403, 200, 403),
        (embeddings_key, 403, 403, 200),
        (metrics_key, 200, 403, 403),
        (admin_key, 200, 200, 200),
    ] {
        assert_eq!(server.get("/metrics", key), metrics);
        let (status, _, answer) = server.post("/v1/chat/completions", key, &chat(2));
        assert_eq!(status, completions, "{answer}");
        for path in ["/v1/embeddings", "/api/embed"] {
            let (status, _, answer) = server.post(path, key, &json!({"input": "A llama"}));
            assert_eq!(status, embeddings, "{path}: {answer}");
        }
        assert_eq!(server.get("/v1/models", key), 200);
    }
    let (status, _, body) = server.ask("POST", "/v1/messages", &[bearer(metrics_key)], &chat(2).to_string());
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["error"]["type"]), (403, &json!("permission_error")), "{body}");
    let (status, _, answer) = server.post("/v1/chat/completions", &elsewhere, &chat(2));
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("model_not_allowed")), "{answer}");
    let (_, _, models) = server.ask("GET", "/v1/models", &[bearer(&elsewhere)], "");
    assert_eq!(serde_json::from_str::<Value>(&models).unwrap()["data"], json!([]));

    home.puna(&["key", "revoke", "chat"]).succeeded();
    server.until("/v1/models", chat_key, 401);
    let late = home.key("late", &[]);
    server.until("/v1/models", &late, 200);
}

#[test]
fn what_is_used_counts_and_is_recorded() {
    let home = Home::new();
    let busy = home.key("busy", &["--requests-per-minute", "1000"]);
    let rare = home.key("rare", &["--requests-per-minute", "1"]);
    let frugal = home.key("frugal", &["--tokens-per-day", "1000"]);
    let server = home.serve(&["--require-key"]);

    // As many tokens as the answers say, however they come.
    let (mut prompt, mut generated) = (0, 0);
    let mut add = |usage: &Value| {
        prompt += usage["prompt_tokens"].as_u64().unwrap();
        generated += usage["completion_tokens"].as_u64().unwrap();
    };
    let (status, _, answer) = server.post("/v1/chat/completions", &busy, &chat(8));
    assert_eq!(status, 200, "{answer}");
    add(&answer["usage"]);
    let mut body = chat(30);
    body["n"] = 2.into();
    body["stop"] = json!([" is"]);
    add(&server.post("/v1/chat/completions", &busy, &body).2["usage"]);
    let mut body = chat(8);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let (_, _, events) = server.ask("POST", "/v1/chat/completions", &[bearer(&busy)], &body.to_string());
    let events: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    add(&serde_json::from_str::<Value>(events[events.len() - 2]).unwrap()["usage"]);
    assert_eq!(server.post("/v1/chat/completions", &rare, &chat(1)).0, 200);
    let (status, _, answer) = server.post("/v1/embeddings", &busy, &json!({"input": ["a llama", "it", "a llama"]}));
    assert_eq!(status, 200, "{answer}");
    let embedded = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let messages = &chat(1)["messages"];
    for (path, body, kind) in [
        ("/v1/chat/completions", chat(1), "/error/type"),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 1}), "/error/type"),
        ("/api/chat", json!({"messages": messages}), "/error"),
    ] {
        let (status, head, answer) = server.post(path, &rare, &body);
        assert_eq!(status, 429, "{path}: {answer}");
        assert!(answer.pointer(kind).unwrap().is_string(), "{path}: {answer}");
        assert!(answer.to_string().contains("limit of 1 requests per minute"), "{path}: {answer}");
        let wait = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    }
    let all = |usage: &[Value]| usage.iter().map(|row| row["requests"].as_u64().unwrap()).sum::<u64>() == 8;
    let usage = home.usage_until("key,endpoint", all);
    let row = |key: &str, endpoint: &str| {
        let row = usage.iter().find(|row| row["key_name"] == key && row["endpoint"] == endpoint).unwrap();
        ["requests", "failed", "prompt_tokens", "generated_tokens"].map(|name| row[name].as_u64().unwrap())
    };
    assert_eq!(row("busy", "/v1/chat/completions"), [3, 0, prompt, generated]);
    assert_eq!(row("busy", "/v1/embeddings"), [1, 0, embedded, 0]);
    assert_eq!(row("rare", "/v1/chat/completions")[..2], [2, 1]);
    assert_eq!(row("rare", "/v1/messages"), [1, 1, 0, 0]);
    assert_eq!(row("rare", "/api/chat"), [1, 1, 0, 0]);

    // Each may take 860 of 1,000, and takes few: room is given back.
    let mut used = 0;
    for _ in 0..2 {
        let (status, _, answer) = server.post("/v1/chat/completions", &frugal, &chat(800));
        assert_eq!(status, 200, "{answer}");
        used += answer["usage"]["total_tokens"].as_u64().unwrap();
    }
    let (status, head, answer) = server.post("/v1/chat/completions", &frugal, &chat(1000));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("limit_too_small")), "{answer}");
    assert!(!head.contains("retry-after"), "{head}");
    // Who goes away pays until then, and the rest is given back.
    let mut body = chat(700);
    body["stream"] = true.into();
    body["ignore_eos"] = true.into();
    let request = server.request("POST", "/v1/chat/completions", &[bearer(&frugal)], &body.to_string());
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.by_ref().filter(|line| line.contains("\"content\"")).nth(3).is_some());
    drop(lines);
    let failed = |usage: &[Value]| usage.iter().any(|row| row["requests"] == 4 && row["failed"] == 2);
    let usage = home.usage_until("key", failed);
    let row = usage.iter().find(|row| row["requests"] == 4 && row["failed"] == 2).unwrap();
    let all = row["prompt_tokens"].as_u64().unwrap() + row["generated_tokens"].as_u64().unwrap();
    assert!(all > used && all < 1000, "{all} after {used}");

    // A day's tokens are remembered by the next server.
    server.stop();
    let server = home.serve(&["--require-key"]);
    let (status, _, answer) = server.post("/v1/chat/completions", &frugal, &chat(u32::try_from(1000 - all).unwrap()));
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("rate_limit_exceeded")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("1000 tokens per day"), "{answer}");
}

#[test]
fn without_keys_usage_is_nobodys() {
    let home = Home::new();
    let server = home.serve(&[]);
    // Clients that insist on a key send any.
    let (status, _, answer) = server.post("/v1/chat/completions", "sk-1234", &chat(4));
    assert_eq!(status, 200, "{answer}");
    let usage = home.usage_until("key,model", |usage| !usage.is_empty());
    assert_eq!(
        (&usage[0]["key"], &usage[0]["model"], &usage[0]["requests"]),
        (&json!(null), &json!("cria"), &json!(1))
    );
    assert_eq!(usage[0]["prompt_tokens"], answer["usage"]["prompt_tokens"]);
    // What is told of the future is written before the end.
    server.post("/v1/chat/completions", "", &chat(4));
    server.stop();
    assert_eq!(home.usage("model")["groups"][0]["requests"], 2);
}

#[test]
fn no_key_finds_what_another_asked() {
    let home = Home::new();
    let keys = ["one", "two"].map(|name| home.key(name, &[]));
    let body = json!({"prompt": "Once upon a time there was a llama. ".repeat(20), "max_tokens": 1});
    let cached = |server: &Server, key: &str| {
        let (status, _, answer) = server.post("/v1/completions", key, &body);
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let server = home.serve(&["--require-key"]);
    assert_eq!([cached(&server, &keys[0]), cached(&server, &keys[1])], [0, 0]);
    assert!(cached(&server, &keys[0]) > 50);
    drop(server);
    let server = home.serve(&["--require-key", "--share-prefixes"]);
    assert_eq!(cached(&server, &keys[0]), 0);
    assert!(cached(&server, &keys[1]) > 50);
    drop(server);
    // Not even from a file, in which each finds its own.
    let file = home.path().join("prefixes");
    let options = ["--require-key", "--prefix-cache", file.to_str().unwrap()];
    let server = home.serve(&options);
    assert_eq!(cached(&server, &keys[0]), 0);
    server.stop();
    let server = home.serve(&options);
    assert_eq!(cached(&server, &keys[1]), 0);
    assert!(cached(&server, &keys[0]) > 50);
    server.stop();
    // What another computes with finds nothing in it, and takes its place; what is no such file is not touched.
    let server = home.serve(&[&options[..], &["--kv", "f32"]].concat());
    assert!(server.said("on this processor, found others"));
    assert_eq!(cached(&server, &keys[0]), 0);
    server.stop();
    std::fs::write(&file, "mine").unwrap();
    let run = home.puna(&[&["serve", "--port", "0"], &options[..]].concat());
    run.refused(&["--prefix-cache", "expected a file in which puna keeps prefixes, found another"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn the_page_shows_a_key_its_own_conversations() {
    let home = Home::new();
    let (one, two) = (home.key("one", &[]), home.key("two", &[]));
    let server = home.serve(&["--require-key"]);
    for (path, status) in [
        ("/", 200),
        ("/page/script.js", 200),
        ("/page/about", 401),
        ("/page/conversations", 401),
        ("/page/conversations/a", 401),
    ] {
        assert_eq!(server.ask("GET", path, &[], "").0, status, "{path}");
    }
    let asked = r#"{"question": "Good evening!", "settings": {"max_completion_tokens": 3}}"#;
    assert_eq!(server.ask("POST", "/page/answer", &[], asked).0, 401);
    let (status, _, events) = server.ask("POST", "/page/answer", &[bearer(&one)], asked);
    assert_eq!(status, 200, "{events}");
    let id = events.split("\"conversation\":\"").nth(1).unwrap().split('"').next().unwrap();
    for (key, is_its) in [(&one, true), (&two, false)] {
        let list = server.ask("GET", "/page/conversations", &[bearer(key)], "").2;
        assert_eq!(list.contains("Good evening!"), is_its, "{list}");
        for path in [format!("/page/conversations/{id}"), format!("/page/conversations/{id}/prompt/2")] {
            assert_eq!(server.get(&path, key), if is_its { 200 } else { 404 }, "{path}");
        }
    }
    let path = format!("/page/conversations/{id}");
    assert_eq!(server.ask("DELETE", &path, &[bearer(&two)], "").0, 404);
    // The page asks in the name of whoever sits before it.
    let used = |usage: &[Value]| usage.iter().any(|row| row["key_name"] == "one" && row["generated_tokens"] == 3);
    home.usage_until("key", used);
}

#[test]
fn a_database_that_cannot_be_read_opens_nothing() {
    let home = Home::new();
    let key = home.key("laptop", &[]);
    let server = home.serve(&["--require-key"]);
    let database = rusqlite::Connection::open(home.path().join("serve.db")).unwrap();
    database.execute_batch("ALTER TABLE keys RENAME TO hidden").unwrap();
    server.until("/v1/models", &key, 503);
    let (status, _, body) = server.ask("GET", "/ready", &[], "");
    assert!(status == 503 && body.contains("keys") && !body.contains("serve.db"), "{body}");
    let (_, _, answer) = server.post("/v1/chat/completions", &key, &chat(1));
    assert_eq!(answer["error"]["code"], "keys_unavailable");
    database.execute_batch("ALTER TABLE hidden RENAME TO keys").unwrap();
    server.until("/v1/models", &key, 200);
    assert_eq!(server.ask("GET", "/ready", &[], "").0, 200);
    drop(server);
    // The last one to close the database leaves one file.
    drop(database);

    fs::write(home.path().join("serve.db"), "no database").unwrap();
    home.puna(&["serve", "--require-key"]).refused(&["--require-key", "serve.db"]);
    // Without keys nothing hangs on it.
    let server = home.serve(&[]);
    assert!(server.said("usage is not recorded"));
    let (status, _, answer) = server.post("/v1/chat/completions", "", &chat(1));
    assert_eq!(status, 200, "{answer}");
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// The status of a request over TLS, if the server is the one of the certificate.
fn ask_encrypted(server: &Server, request: &str) -> u16 {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(&server.address).unwrap());
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream).0
}

#[test]
fn connections_are_encrypted() {
    let home = Home::new();
    let key = home.key("laptop", &[]);
    let (certificate, private) = (home.0.path("cert.pem"), home.0.path("key.pem"));
    fs::copy(pem("cert.pem"), &certificate).unwrap();
    fs::copy(pem("key.pem"), &private).unwrap();
    let tls = ["--tls-cert", model::text(&certificate), "--tls-key", model::text(&private)];
    let server = home.serve(&[&["--host", "0.0.0.0"], &tls[..]].concat());
    assert!(server.said("https://0.0.0.0") && !server.said("not encrypted"));
    let request = server.request("GET", "/v1/models", &[bearer(&key)], "");
    assert_eq!(ask_encrypted(&server, &request), 200);
    assert_eq!(ask_encrypted(&server, &server.request("GET", "/v1/models", &[], "")), 401);
    // What is no TLS gets no answer, and harms nobody.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&bytes));
    // A certificate that is broken does not replace the one that works.
    let hang_up = || Command::new("kill").args(["-HUP", &server.child.id().to_string()]).status().unwrap();
    let wait_for = |what: &str| {
        for _ in 0..300 {
            if server.said(what) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what}: {:?}", server.said.lock().unwrap());
    };
    fs::write(&certificate, "nothing").unwrap();
    assert!(hang_up().success());
    wait_for("stays as it was");
    assert_eq!(ask_encrypted(&server, &request), 200);
    fs::copy(pem("cert.pem"), &certificate).unwrap();
    assert!(hang_up().success());
    wait_for("was read again");
    assert_eq!(ask_encrypted(&server, &request), 200);
    drop(server);

    let server = home.serve(&["--host", "0.0.0.0"]);
    assert!(server.said("not encrypted"));
    drop(server);
    fs::write(&private, "nothing").unwrap();
    home.puna(&[&["serve"], &tls[..]].concat()).refused(&["key.pem: expected a private key in PEM"]);
    home.puna(&["serve", "--tls-cert", "absent.pem", "--tls-key", "absent.pem"]).refused(&["absent.pem"]);
    home.puna(&["serve", "--tls-cert", "cert.pem"]).misused(&["--tls-key"]);
}

#[test]
#[cfg(target_os = "linux")]
fn offline_every_thread_is_held_by_the_kernel() {
    let home = Home::new();
    let key = home.key("laptop", &[]);
    let server = home.serve(&["--offline", "--require-key"]);
    assert!(server.said("offline"));
    let (status, _, answer) = server.post("/v1/chat/completions", &key, &chat(4));
    assert_eq!(status, 200, "{answer}");
    let threads = fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let mut n_threads = 0;
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        // 2: a filter of calls. What it refuses is tested where it is defined.
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
        n_threads += 1;
    }
    assert!(n_threads > 2, "{n_threads}");
    server.stop();
}
