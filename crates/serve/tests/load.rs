//! The server under more than it can do, and with clients that go away, over a model that computes nothing.
//!
//! `PUNA_DISCONNECTS=N` lets so many clients go away instead of a few.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::Gate;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use puna_serve::app::App;
use puna_serve::guard::Guard;
use puna_serve::offline::Offline;
use puna_serve::server::{self, Limits};
use puna_session::Status;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longer than anything here takes, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// Texts that are asked for.
const N_TEXTS: usize = 7;

fn body(n: usize, stream: bool, max_tokens: usize) -> Value {
    let text = format!("What is number {}?", n % N_TEXTS);
    let messages = json!([{"role": "user", "content": text}]);
    json!({"messages": messages, "stream": stream, "max_tokens": max_tokens, "ignore_eos": true})
}

/// Runs something that must end.
fn within<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("it ends") });
    runtime.shutdown_background();
    result
}

async fn serve(app: Arc<App>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, app, Guard::default(), Limits::default(), std::future::pending()));
    address
}

async fn ask(address: SocketAddr, body: &Value) -> Response<Incoming> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/v1/chat/completions").header(header::HOST, address.to_string());
    sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await.unwrap()
}

/// The text of a stream that is whole.
async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = std::str::from_utf8(&body).unwrap();
    let events: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, events) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length", "{body}");
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

/// What each text is answered when nobody else asks.
async fn alone(max_tokens: usize) -> Vec<String> {
    let offline = Offline::new(fake::app(fake::CONTEXT, 1, Arc::default()), 1 << 20);
    let mut answers = Vec::new();
    for n in 0..N_TEXTS {
        let reply = offline.post("/v1/chat/completions", body(n, false, max_tokens).to_string().into_bytes()).await;
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(reply.status, 200, "{answer}");
        answers.push(answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned());
    }
    answers
}

/// Waits until nobody is answered any more, and nothing is left of them.
async fn idle(app: &App) {
    loop {
        let Status { requests, tokens, load, .. } = app.model.service.status();
        if (requests, tokens, load.running, load.waiting, load.used_pages) == (0, 0, 0, 0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// 1,000 streams at once, where 200 may be: 800 are refused although nothing at all is computed meanwhile, and the
/// others are answered as if they were alone, with a cache that holds a few of them.
#[test]
fn five_times_as_many_as_there_is_room_for() {
    const N: usize = 1000;
    within(async {
        let gate = Arc::new(Gate::default());
        gate.close();
        let app = fake::app(4 * fake::CONTEXT, N / 5, gate.clone());
        let address = serve(app.clone()).await;
        let (send, mut heads) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        for n in 0..N {
            let send = send.clone();
            clients.spawn(async move {
                let response = ask(address, &body(n, true, 24)).await;
                let status = response.status().as_u16();
                if status == 429 {
                    let seconds = response.headers().get(header::RETRY_AFTER).unwrap().to_str().unwrap();
                    assert!(seconds.parse::<u64>().unwrap() > 0);
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    let error: Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(error["error"]["code"], "queue_full");
                    send.send(status).unwrap();
                    return None;
                }
                send.send(status).unwrap();
                Some((n, text(response).await))
            });
        }
        let mut statuses = Vec::new();
        for _ in 0..N {
            statuses.push(heads.recv().await.unwrap());
        }
        let count = |status: u16| statuses.iter().filter(|found| **found == status).count();
        assert_eq!((count(200), count(429)), (N / 5, N - N / 5), "{statuses:?}");
        assert_eq!(app.model.service.status().generated_tokens, 0);
        gate.open();
        let alone = alone(24).await;
        let mut n_answered = 0;
        while let Some(client) = clients.join_next().await {
            if let Some((n, text)) = client.unwrap() {
                assert_eq!(text, alone[n % N_TEXTS]);
                n_answered += 1;
            }
        }
        assert_eq!(n_answered, N / 5);
        idle(&app).await;
        assert_eq!(ask(address, &body(0, true, 24)).await.status(), 200);
    });
}

/// Random numbers of a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A client that goes away: in its request, before the answer, or somewhere in it.
fn leave(address: SocketAddr, random: &mut Random) {
    let body = body(random.below(N_TEXTS), random.below(3) > 0, 1 + random.below(200)).to_string();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(address).unwrap();
    if random.below(4) == 0 {
        stream.write_all(&request.as_bytes()[..random.below(request.len())]).unwrap();
        return;
    }
    stream.write_all(request.as_bytes()).unwrap();
    let mut left = if random.below(4) == 0 { 0 } else { random.below(8000) };
    let mut buffer = [0; 512];
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).unwrap() {
            0 => return,
            n => left -= n,
        }
    }
}

#[test]
fn nothing_is_left_of_clients_that_go_away() {
    const THREADS: usize = 16;
    let n: usize = std::env::var("PUNA_DISCONNECTS").map_or(400, |n| n.parse().expect("a number of clients"));
    within(async move {
        let app = fake::app(4 * fake::CONTEXT, 100, Arc::default());
        let address = serve(app.clone()).await;
        let mut threads = JoinSet::new();
        for thread in 0..THREADS {
            threads.spawn_blocking(move || {
                let mut random = Random(thread as u64);
                (0..n.div_ceil(THREADS)).for_each(|_| leave(address, &mut random));
            });
        }
        while let Some(thread) = threads.join_next().await {
            thread.unwrap();
        }
        idle(&app).await;
        // What they left in the cache is right.
        for (n, alone) in alone(200).await.iter().enumerate() {
            let response = ask(address, &body(n, true, 200)).await;
            assert_eq!(text(response).await, *alone);
        }
        idle(&app).await;
    });
}
