//! Servers on this machine that answer as they are told, down to the bytes: headers that lie, bodies that end early,
//! stalls.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests may unwrap")]

pub mod hub;

use md5::Digest;
use puna_vault::digest::{Hex, Published, sha256};
use puna_vault::download::{Downloader, Event, Item, Locate, LocateError, Location, Options};
use puna_vault::http::{self, Http, Patience, Url};
use puna_vault::path::SafePath;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
}

impl Ask {
    /// The first byte, and the one behind the last, of which there is none if the request does not say.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (from, to) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().unwrap(), to.parse().ok().map(|last: usize| last + 1)))
    }

    pub fn token(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }
}

/// An answer.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The body, and which bytes of it are meant.
    pub body: Arc<Vec<u8>>,
    pub range: (usize, usize),
    /// So many bytes are sent, then the connection is closed.
    pub cut: Option<usize>,
    /// So many bytes are sent, then none, and the connection stays open.
    pub stall: Option<usize>,
    /// A pause before each piece of 64 KiB.
    pub pause: Duration,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        let body = Arc::new(body.into());
        let range = (0, body.len());
        Reply { status, headers: Vec::new(), body, range, cut: None, stall: None, pause: Duration::ZERO }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// What a server that knows ranges answers.
    pub fn file(ask: &Ask, body: &Arc<Vec<u8>>) -> Reply {
        let len = body.len();
        let mut reply = Reply { body: Arc::clone(body), range: (0, len), ..Reply::new(200, Vec::new()) };
        if let Some((from, to)) = ask.range() {
            if from >= len {
                return Reply::new(416, Vec::new()).header("Content-Range", format!("bytes */{len}"));
            }
            let to = to.unwrap_or(len).min(len);
            reply.status = 206;
            reply.range = (from, to);
            reply = reply.header("Content-Range", format!("bytes {from}-{}/{len}", to - 1));
        }
        reply
    }
}

type Handler = dyn Fn(&Ask) -> Reply + Send + Sync;

/// A server. It ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Mutex<Vec<Ask>>>,
    /// Bytes of bodies that were sent, or are about to be.
    pub sent: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub fn start(handler: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Server {
        Server::with(None, handler)
    }

    /// With TLS, by the certificate `crates/puna/tests/tls/cert.pem`.
    pub fn start_tls(handler: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Server {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_slice(include_bytes!("../../../puna/tests/tls/cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../../puna/tests/tls/key.pem")).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        Server::with(Some(Arc::new(config.with_single_cert(vec![certificate], key).unwrap())), handler)
    }

    fn with(tls: Option<Arc<rustls::ServerConfig>>, handler: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            asked: Arc::default(),
            sent: Arc::default(),
            ended: Arc::default(),
        };
        let (asked, sent, ended) = (Arc::clone(&server.asked), Arc::clone(&server.sent), Arc::clone(&server.ended));
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, asked) = (Arc::clone(&handler), Arc::clone(&asked));
                let (sent, ended, tls) = (Arc::clone(&sent), Arc::clone(&ended), tls.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let serve = Serve { handler: &*handler, asked: &asked, sent: &sent, ended: &ended };
                    match tls {
                        None => serve.connection(BufReader::new(stream)),
                        Some(config) => {
                            let tls = rustls::ServerConnection::new(config).unwrap();
                            serve.connection(BufReader::new(rustls::StreamOwned::new(tls, stream)));
                        }
                    }
                });
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}{path}", self.scheme, self.address.port())
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// As a checklist of Meta's has it.
pub fn md5_of(body: &[u8]) -> String {
    Hex::<16>(md5::Md5::digest(body).into()).to_string()
}

struct Serve<'a> {
    handler: &'a Handler,
    asked: &'a Mutex<Vec<Ask>>,
    sent: &'a AtomicU64,
    ended: &'a AtomicBool,
}

impl Serve<'_> {
    fn connection<S: Read + Write>(&self, mut stream: BufReader<S>) {
        while let Some(ask) = read_ask(&mut stream) {
            self.asked.lock().unwrap().push(ask.clone());
            let reply = (self.handler)(&ask);
            if self.reply(stream.get_mut(), &ask, &reply).is_none() {
                return;
            }
        }
    }

    /// `None` when the connection is over.
    fn reply(&self, stream: &mut impl Write, ask: &Ask, reply: &Reply) -> Option<()> {
        let body = &reply.body[reply.range.0..reply.range.1];
        let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let is_said = |header: &str| reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header));
        if !is_said("content-length") && !is_said("transfer-encoding") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all((head + "\r\n").as_bytes()).ok()?;
        if ask.method == "HEAD" {
            return Some(());
        }
        let end = reply.cut.or(reply.stall).unwrap_or(body.len()).min(body.len());
        for piece in body[..end].chunks(64 << 10) {
            if !reply.pause.is_zero() {
                std::thread::sleep(reply.pause);
            }
            // Counted first: who has read the last piece may ask at once how much there was.
            self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            stream.write_all(piece).ok()?;
        }
        stream.flush().ok()?;
        if reply.stall.is_some() {
            while !self.ended.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        (reply.cut.is_none() && reply.stall.is_none()).then_some(())
    }
}

fn read_ask(stream: &mut impl BufRead) -> Option<Ask> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut parts = line.split(' ');
    let (method, target) = (parts.next()?.to_owned(), parts.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_ascii_lowercase(), value.to_owned())),
            None => return Some(Ask { method, path, query, headers }),
        }
    }
}

/// Bytes that repeat nowhere.
pub fn bytes(len: usize, seed: u64) -> Arc<Vec<u8>> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    Arc::new(bytes)
}

/// A client that soon gives up who fails, and waits for who is slow.
pub fn client() -> Http {
    client_with(|_| ())
}

pub fn client_with(change: impl FnOnce(&mut http::Options)) -> Http {
    let mut options = http::Options {
        patience: Patience {
            first: Duration::from_millis(1),
            most: Duration::from_millis(20),
            budget: Duration::from_secs(2),
        },
        ..http::Options::default()
    };
    change(&mut options);
    Http::new(options).unwrap()
}

/// All files at one server, below `/`.
pub struct AtServer {
    pub http: Http,
    pub base: Url,
}

impl Locate for AtServer {
    fn locate<'a>(&'a self, path: &'a SafePath) -> futures_util::future::BoxFuture<'a, Result<Location, LocateError>> {
        Box::pin(async move {
            let url = self.base.join(path.as_str())?;
            Ok(Location { url, credential: None, size: None, version: None, same_tag: false })
        })
    }
}

pub fn item(path: &str, body: &[u8]) -> Item {
    Item {
        path: path.parse().unwrap(),
        size: Some(body.len() as u64),
        published: Some(Published::Sha256(sha256(body))),
        tree: None,
    }
}

/// What happened, in a form that tests can compare.
pub type Log = Arc<Mutex<Vec<String>>>;

/// A downloader from a server, with small ranges, and the log of what happens.
pub fn downloader(server: &Server) -> (Downloader, Log) {
    downloader_by(client(), server)
}

pub fn downloader_by(http: Http, server: &Server) -> (Downloader, Log) {
    let base = server.url("/").parse().unwrap();
    downloader_of(http.clone(), Arc::new(AtServer { http, base }))
}

pub fn downloader_of(http: Http, locate: Arc<dyn Locate>) -> (Downloader, Log) {
    let log: Log = Arc::default();
    let progress = {
        let log = Arc::clone(&log);
        move |event: Event<'_>| {
            let line = match event {
                Event::Received { .. } | Event::Looks { .. } | Event::Checks { .. } => return,
                Event::Begins { path, size } => format!("begins {path} {size}"),
                Event::Kept { path, bytes } => format!("kept {path} {bytes}"),
                Event::Dropped { path, why, .. } => format!("dropped {path}: {why}"),
                Event::Waits { why, .. } => format!("waits: {why}"),
                Event::Relocated { path } => format!("relocated {path}"),
                Event::Done { done } => format!("done {}", done.path),
                event => format!("{event:?}"),
            };
            log.lock().unwrap().push(line);
        }
    };
    let options = Options { n_connections: 4, range: 8 << 20, ..Options::default() };
    (Downloader { http, locate, options, progress: Arc::new(progress) }, log)
}

/// How many lines of a log begin so.
pub fn count(log: &Log, begin: &str) -> usize {
    log.lock().unwrap().iter().filter(|line| line.starts_with(begin)).count()
}
