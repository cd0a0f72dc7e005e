//! What the server itself costs: chat completions of one token by a model that computes nothing, through all that a
//! request passes but the connection. `taskset -c 0` in front puts the engine's thread on the same core.
#![allow(clippy::unwrap_used, reason = "what is measured must work")]

#[path = "../tests/fake/mod.rs"]
mod fake;

use puna_serve::offline::Offline;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Requests that are measured.
const N: usize = 50_000;
/// And before, so that everything is warm.
const N_WARM: usize = 5_000;
/// Clients that ask one request after another.
const CLIENTS: usize = 16;

const BODY: &str = r#"{"model": "fake", "messages": [{"role": "system", "content": "You are terse."},
    {"role": "user", "content": "What is the capital of Peru?"}], "temperature": 0, "max_tokens": 1}"#;

async fn ask(offline: &Offline) {
    let reply = offline.post("/v1/chat/completions", BODY.into()).await;
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
}

fn main() {
    let app = fake::app(16 * fake::CONTEXT, 2 * CLIENTS, Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let times = Rc::new(RefCell::new(Vec::with_capacity(N)));
    let seconds = local.block_on(&runtime, async {
        let offline = Offline::new(app, 1 << 20);
        for _ in 0..N_WARM {
            ask(&offline).await;
        }
        let start = Instant::now();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (offline, times) = (offline.clone(), times.clone());
                tokio::task::spawn_local(async move {
                    for _ in 0..N / CLIENTS {
                        let since = Instant::now();
                        ask(&offline).await;
                        times.borrow_mut().push(since.elapsed().as_secs_f64());
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        start.elapsed().as_secs_f64()
    });
    let mut times = times.take();
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| 1e3 * times[(times.len() as f64 * share) as usize];
    println!(
        "{:.0} requests/s by {CLIENTS} clients · p50 {:.2} ms, p99 {:.2} ms",
        times.len() as f64 / seconds,
        quantile(0.5),
        quantile(0.99)
    );
}
