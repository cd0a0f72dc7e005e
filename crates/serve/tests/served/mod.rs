//! A server in this process, over a model that computes nothing, and requests to it as bytes.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests may unwrap")]

#[path = "../../../engine/tests/fake/mod.rs"]
mod fake;

use fake::Fake;
use puna_engine::{BatchLimits, Batcher, Sampling};
use puna_serve::app::{About, App, ChatFormat, Model};
use puna_serve::guard::Guard;
use puna_serve::server::{self, Limits, Listener};
use puna_serve::tls::Tls;
use puna_session::{Pulse, Service, ServiceLimits};
use puna_text::Tokenizer;
use puna_text::chat::{Conversation, Dialect, Prompt, render};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Tokens of the vocabulary: a byte each, and Llama 3.1's special ones.
pub const VOCAB: usize = 512;
/// Tokens from here on are special.
pub const SPECIALS: u64 = 256;
/// Tokens that a request may have.
pub const CONTEXT: usize = 1 << 16;

/// Longer than anything here takes, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(600);

/// Llama 3.1's format.
struct Llama3;

impl ChatFormat for Llama3 {
    fn write(&self, conversation: &Conversation) -> Result<Prompt, String> {
        // Random answers differ from day to day.
        let conversation = Conversation { date: "23 Nov 2026".into(), ..conversation.clone() };
        render(&conversation, Dialect::Template).map_err(|error| error.to_string())
    }

    fn describe(&self) -> String {
        "Llama 3.1".into()
    }
}

/// Every byte a token, as Meta's `tokenizer.model` has it.
fn tokenizer() -> Tokenizer {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = |byte: u8| {
        let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
        format!("{}== {byte}\n", String::from_utf8_lossy(&digits))
    };
    Tokenizer::from_tiktoken((0..=u8::MAX).map(line).collect::<String>().as_bytes()).unwrap()
}

/// What is served: answers come of chance, but always the same for the same text. So many requests may be in at once.
pub fn model(requests: usize) -> Model {
    let tokenizer = Arc::new(tokenizer());
    let pulse = Arc::new(Pulse::default());
    let batcher = Batcher::new(Fake::new(VOCAB, CONTEXT, 1).engine(), None, BatchLimits::default());
    Model {
        name: "fake".into(),
        adapters: Vec::new(),
        service: Service::start(batcher, pulse, ServiceLimits { requests, tokens: 1 << 24 }),
        stop_tokens: tokenizer.stop_tokens(),
        tokenizer,
        format: Box::new(Llama3),
        sampling: Sampling::default(),
        about: About { n_parameters: 1, n_bytes: 1, format: "F32".into(), summary: None, licence: None },
    }
}

/// A server until it is dropped.
pub struct Server {
    address: SocketAddr,
    /// What it serves.
    pub app: Arc<App>,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start() -> Server {
        Server::with(Limits::default(), Guard::default())
    }

    pub fn with(limits: Limits, guard: Guard) -> Server {
        Server::of(App::new(model(192)), None, limits, guard)
    }

    pub fn of(app: App, tls: Option<Tls>, limits: Limits, guard: Guard) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let app = Arc::new(app);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = match tls {
            None => listener.into(),
            Some(tls) => Listener::encrypted(listener, Arc::new(tls)),
        };
        runtime.spawn(server::serve(listener, app.clone(), guard, limits, std::future::pending()));
        Server { address, app, runtime: Some(runtime) }
    }

    /// A connection of its own.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends bytes, and takes all that comes until the server closes.
    pub fn exchange(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // Who is refused early may not be listened to until the end.
        let _ = stream.write_all(request);
        rest(&mut stream)
    }

    /// Status and body of a request.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let n = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {n}\r\n\r\n");
        let answer = self.exchange(&[head.as_bytes(), body].concat());
        let [status] = statuses(&answer)[..] else { panic!("{path}: {}", String::from_utf8_lossy(&answer)) };
        let answer = String::from_utf8(answer).unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.ask("POST", path, body.to_string().as_bytes());
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    }

    /// Waits until nobody's request is in work, and nobody's text in a page.
    pub fn wait_until_idle(&self) {
        for _ in 0..3000 {
            let status = self.app.model.service.status();
            if status.requests == 0 && status.load.used_pages == 0 && status.load.running == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{:?}", self.app.model.service.status());
    }

    /// Panics unless the server still answers.
    pub fn assert_lives(&self) {
        assert_eq!(self.ask("GET", "/health", b""), (200, "ok\n".into()));
        assert!(self.app.model.service.status().alive);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// All that comes until the other side closes, or breaks the connection off.
pub fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => {
                let waited = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                assert!(!waited, "the server neither answers nor closes: {}", String::from_utf8_lossy(&bytes));
                return bytes;
            }
        }
    }
}

/// The statuses of all responses in what a connection gave.
pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let heads = text.match_indices("HTTP/1.1 ").map(|(at, start)| &text[at + start.len()..]);
    heads.filter_map(|head| head.get(..3)?.parse().ok()).collect()
}
