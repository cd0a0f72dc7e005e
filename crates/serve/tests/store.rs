//! The store of a server: nothing that was acknowledged is lost, and nobody waits for the disk who need not.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_serve::database::{Database, Error};
use puna_serve::history::{self, NewMessage};
use puna_serve::keys::{self, Limits, NewKey, Refusal, Scope};
use puna_serve::store::{MAX_CALLS, MAX_RECORDS, Store};
use puna_serve::time::Time;
use puna_serve::usage::{self, Record};
use puna_text::chat::Role;
use rusqlite::Connection;
use serde_json::json;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Longer than anything here takes, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn record(n: u32) -> Record {
    Record {
        time: Time::from_millis(i64::from(n)),
        key: None,
        model: "llama".to_owned(),
        adapter: None,
        endpoint: "/v1/completions".to_owned(),
        prompt_tokens: n,
        cached_prompt_tokens: 0,
        generated_tokens: 1,
        finish: None,
        duration_ms: 1,
        status: 200,
    }
}

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        scopes: [Scope::Chat].into(),
        models: Vec::new(),
        limits: Limits::default(),
        expires: None,
    }
}

fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
}

fn n_requests(path: &Path) -> u64 {
    usage::report(&mut Database::open(path).unwrap(), &[], None).unwrap()[0].sums.requests
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn usage_is_written_without_being_asked_for_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let store = Store::open(&path).unwrap();
    store.record(record(1));
    until(|| n_requests(&path) == 1);
    for n in 0..2000 {
        store.record(record(n));
    }
    store.flush().wait().unwrap();
    assert_eq!(n_requests(&path), 2001);
    store.record(record(1));
    let other = store.clone();
    drop(store);
    other.record(record(2));
    drop(other);
    assert_eq!(n_requests(&path), 2003);
}

#[test]
fn calls_are_awaited_by_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("serve.db")).unwrap();
    block_on(async {
        let created = store.call(|database| history::create(database, None, "t", "m", Time::now())).await.unwrap();
        let missing = store.call(|database| history::delete(database, None, "x")).await.unwrap_err();
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
        let found = store.call(move |database| history::read(database, None, &created.id)).await.unwrap();
        assert_eq!(found.1, []);
        store.flush().await.unwrap();
    });
    fn is_send<T: Send>(_: &T) {}
    is_send(&store.call(|_| Ok(())));
    is_send(&store);
}

#[test]
fn keys_of_other_processes_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let store = Store::open(&path).unwrap();
    let mut other = Database::open(&path).unwrap();
    let (secret, key) = keys::create(&mut other, &new_key("k"), Time::now()).unwrap();
    until(|| store.verify(secret.reveal(), Time::now()).is_ok());
    keys::revoke(&mut other, "k", Time::now()).unwrap();
    until(|| matches!(store.verify(secret.reveal(), Time::now()), Err(Refusal::Revoked { .. })));
    // The store's own are known at once.
    let (secret, _) = store.call(|database| keys::create(database, &new_key("k"), Time::now())).wait().unwrap();
    assert_ne!(store.verify(secret.reveal(), Time::now()).unwrap().key.id, key.id);
    store.call(|database| keys::revoke(database, "k", Time::now())).wait().unwrap();
    assert!(store.verify(secret.reveal(), Time::now()).is_err());
}

#[test]
fn a_call_that_panics_is_answered_and_undone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("serve.db")).unwrap();
    let failed = store.call(|database| -> Result<(), Error> {
        history::create(database, None, "t", "m", Time::now())?;
        panic!("on purpose")
    });
    assert!(matches!(failed.wait(), Err(Error::Stopped)));
    store.record(record(1));
    store.flush().wait().unwrap();
    assert_eq!(store.call(keys::list).wait().unwrap(), []);
}

#[test]
fn what_waits_is_bounded_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let store = Store::open(&path).unwrap();
    // The thread is held up.
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel();
    let holding = store.call(move |_| {
        begun.send(()).unwrap();
        held.recv().unwrap();
        Ok(())
    });
    begins.recv().unwrap();
    for n in 0..MAX_RECORDS as u32 + 5 {
        store.record(record(n));
    }
    let waiting: Vec<_> = (0..MAX_CALLS).map(|_| store.call(|_| Ok(()))).collect();
    let refused = store.call(|_| Ok(())).wait().unwrap_err();
    assert!(matches!(refused, Error::Busy { waiting: MAX_CALLS }), "{refused}");
    let health = store.health();
    assert_eq!((health.waiting_calls, health.waiting_records, health.lost_records), (MAX_CALLS, MAX_RECORDS, 5));
    release.send(()).unwrap();
    holding.wait().unwrap();
    waiting.into_iter().for_each(|reply| reply.wait().unwrap());
    store.flush().wait().unwrap();
    assert_eq!(n_requests(&path), MAX_RECORDS as u64);
}

#[test]
fn usage_that_cannot_be_written_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let store = Store::open(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("ALTER TABLE usage RENAME TO hidden").unwrap();
    store.record(record(1));
    let error = store.flush().wait().unwrap_err();
    assert!(matches!(&error, Error::Unwritten(fault) if fault.contains("serve.db")), "{error}");
    store.record(record(2));
    let health = store.health();
    assert!(health.usage_fault.is_some() && health.lost_records == 0, "{health:?}");
    other.execute_batch("ALTER TABLE hidden RENAME TO usage").unwrap();
    store.flush().wait().unwrap();
    assert_eq!(store.health().usage_fault, None);
    assert_eq!(n_requests(&path), 2);
}

/// Names the database of the process that is to be killed.
const VICTIM: &str = "PUNA_TEST_VICTIM";

/// Not a test but the process that the test below kills: it writes, and says what was acknowledged.
#[test]
fn victim() {
    let Some(path) = env::var_os(VICTIM) else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    let conversation = store.call(|database| history::create(database, None, "t", "m", Time::now())).wait().unwrap();
    let mut out = std::io::stdout();
    for n in 1.. {
        store.record(record(n));
        store.flush().wait().unwrap();
        let id = conversation.id.clone();
        let message = NewMessage {
            parent: (n > 1).then(|| n - 1),
            role: Role::User,
            content: format!("message {n} ").repeat(n as usize % 300),
            time: Time::now(),
            parameters: json!({}),
            tokens: None,
            timings: json!({}),
        };
        assert_eq!(store.call(move |database| history::append(database, None, &id, &message)).wait().unwrap(), n);
        writeln!(out, "\nacknowledged {} {n}", conversation.id).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serve.db");
    let mut n_acknowledged = 0;
    for n_before_kill in [1, 2, 5, 17, 40] {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            // The last line may be torn.
            if let Some((id, n)) = line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' ')) {
                acknowledged.push((id.to_owned(), n.parse::<u32>().unwrap()));
            }
            if acknowledged.len() == n_before_kill {
                // What it says between now and its end is read as well.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let (id, n) = acknowledged.pop().unwrap();
        n_acknowledged += u64::from(n);

        let check = Connection::open(&path).unwrap();
        let sound: String = check.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        drop(check);
        let found = n_requests(&path);
        assert!(found >= n_acknowledged, "{n_acknowledged} records were acknowledged, {found} are there");
        n_acknowledged = found;
        let (_, messages) = history::read(&mut Database::open(&path).unwrap(), None, &id).unwrap();
        assert!(messages.len() >= n as usize, "{n} messages were acknowledged, {} are there", messages.len());
        let whole = messages.iter().all(|message| {
            let n = message.id;
            message.content == format!("message {n} ").repeat(n as usize % 300) && message.parent.unwrap_or(0) == n - 1
        });
        assert!(whole, "a message is not as it was written");
    }
}
