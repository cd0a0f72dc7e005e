//! How fast a file is downloaded from this machine, hashing included, beside `curl` with as many connections; and how
//! much memory a download of 405B's size takes.
//!
//! ```text
//! cargo run --release -p puna-vault --example download -- [--gb 4] [--connections 8] [--dir DIR] [--rounds 3]
//!     [--link MB]
//! cargo run --release -p puna-vault --example download -- --memory [--seconds 60]
//! ```
//!
//! The server is another process. In rounds, each is measured in turn; `--link` is how many megabytes a second the server
//! gives to all connections together, as a network would. With `--memory` the server has 191 files of zeros,
//! 811 GB, and the disk has holes where they were written; the download is stopped after some seconds.

use puna_vault::download::{AtUrls, Disk, Downloader, Event, FileSystem, Item, Locate, LocateError, Location, Options};
use puna_vault::http::{Http, Url};
use puna_vault::path::SafePath;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes of one file of the large listing: 191 have 811 GB.
const SHARD: u64 = 4_250_000_000;

struct Arguments {
    gb: f64,
    connections: usize,
    rounds: usize,
    seconds: u64,
    memory: bool,
    /// Bytes a second that the server gives.
    link: f64,
    dir: PathBuf,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        gb: 4.0,
        connections: 8,
        rounds: 3,
        seconds: 60,
        memory: false,
        link: f64::INFINITY,
        dir: std::env::temp_dir(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        if name == "--memory" {
            arguments.memory = true;
            continue;
        }
        let value = given.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match &*name {
            "--gb" => arguments.gb = value.parse().expect("a number"),
            "--connections" => arguments.connections = value.parse().expect("a number"),
            "--rounds" => arguments.rounds = value.parse().expect("a number"),
            "--seconds" => arguments.seconds = value.parse().expect("a number"),
            "--link" => arguments.link = 1e6 * value.parse::<f64>().expect("a number"),
            "--dir" => arguments.dir = value.into(),
            _ => panic!("expected --gb, --connections, --rounds, --seconds, --link, --dir or --memory, found {name}"),
        }
    }
    arguments
}

/// How fast all connections together may send.
struct Link {
    /// Bytes a second; infinite without a limit.
    rate: f64,
    /// When the next piece may begin.
    free: Mutex<Instant>,
}

impl Link {
    /// Bytes that are sent at a time.
    const PIECE: usize = 1 << 20;

    /// Waits until a piece may be sent.
    fn take(&self) {
        let begins = {
            let mut free = self.free.lock().expect("nothing panics with it");
            let begins = Instant::now().max(*free);
            *free = begins + Duration::from_secs_f64(Link::PIECE as f64 / self.rate);
            begins
        };
        std::thread::sleep(begins.saturating_duration_since(Instant::now()));
    }
}

/// Serves a file, or zeros if there is none, until its standard input ends.
fn serve(file: Option<&Path>, len: u64, rate: f64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let link = Arc::new(Link { rate, free: Mutex::new(Instant::now()) });
    for stream in listener.incoming().flatten() {
        let (file, link) = (file.map(|path| File::open(path).expect("it was written")), Arc::clone(&link));
        std::thread::spawn(move || answer(stream, file, len, &link));
    }
}

fn answer(mut stream: TcpStream, file: Option<File>, len: u64, link: &Link) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    let zeros = vec![0; Link::PIECE];
    loop {
        let (mut range, mut line) = ((0, len), String::new());
        lines.read_line(&mut line).ok().filter(|n| *n > 0)?;
        while line.trim_end() != "" {
            let lower = line.to_ascii_lowercase();
            if let Some((from, to)) = lower.strip_prefix("range: bytes=").and_then(|range| range.trim().split_once('-'))
            {
                range = (from.parse().ok()?, to.parse::<u64>().map_or(len, |last| last + 1));
            }
            line.clear();
            lines.read_line(&mut line).ok()?;
        }
        let (mut at, end) = range;
        let n = end - at;
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {n}\r\nContent-Range: bytes {at}-{}/{len}\r\n\r\n",
            end - 1
        );
        stream.write_all(head.as_bytes()).ok()?;
        match &file {
            // The kernel copies, so that the server takes as little of the machine as can be.
            Some(file) => {
                while at < end {
                    link.take();
                    let most = (end - at).min(Link::PIECE as u64) as usize;
                    let n = rustix::fs::sendfile(&stream, file, Some(&mut at), most).ok()?;
                    if n == 0 {
                        return None;
                    }
                }
            }
            None => {
                while at < end {
                    link.take();
                    let n = zeros.len().min((end - at) as usize);
                    stream.write_all(&zeros[..n]).ok()?;
                    at += n as u64;
                }
            }
        }
    }
}

/// A server in a process of its own.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(file: Option<&Path>, len: u64, rate: f64) -> Server {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("serve").args([len.to_string(), rate.to_string()]).args(file);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a port");
        Server { child, port: line.trim().parse().expect("a port") }
    }

    fn url(&self, path: &str) -> Url {
        format!("http://127.0.0.1:{}/{path}", self.port).parse().expect("an address")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn downloader(locate: Arc<dyn Locate>, http: Http, options: Options) -> (Downloader, Arc<AtomicU64>) {
    let received: Arc<AtomicU64> = Arc::default();
    let counter = Arc::clone(&received);
    let progress = move |event: Event<'_>| {
        if let Event::Received { bytes, .. } = event {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    (Downloader { http, locate, options, progress: Arc::new(progress) }, received)
}

fn puna(url: Url, dir: &Path, connections: usize) -> Duration {
    let http = Http::new(puna_vault::http::Options::default()).expect("a client");
    let options = Options { n_connections: connections, ..Options::default() };
    let path: SafePath = "model.gguf".parse().expect("a name");
    let locate = AtUrls { http: http.clone(), urls: [(path.clone(), url)].into() };
    let (downloader, _) = downloader(Arc::new(locate), http, options);
    let item = Item { path, size: None, published: None, tree: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let start = Instant::now();
    runtime.block_on(downloader.download(dir, &[item])).expect("it arrives");
    start.elapsed()
}

/// One `curl` that fetches as many ranges at once, each into a file of its own.
fn curl(url: &Url, dir: &Path, len: u64, connections: u64) -> Option<Duration> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--parallel", "--parallel-immediate", "--max-time", "600"]);
    command.args(["--parallel-max", &connections.to_string()]);
    let piece = len.div_ceil(connections);
    for i in 0..connections {
        if i > 0 {
            // Options are of one transfer each.
            command.arg("--next").args(["--silent", "--fail"]);
        }
        let range = format!("{}-{}", i * piece, ((i + 1) * piece).min(len) - 1);
        command.args(["--range", &range, "--output"]).arg(dir.join(i.to_string())).arg(url.as_str());
    }
    // In parallel it shows how far it is even when it is to be silent.
    command.stderr(Stdio::null());
    let start = Instant::now();
    command.status().ok()?.success().then(|| start.elapsed())
}

fn throughput(arguments: &Arguments) {
    let len = (arguments.gb * 1e9) as u64;
    let folder = arguments.dir.join(format!("puna-throughput-{}", std::process::id()));
    let emptied = |name: &str| {
        let dir = folder.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    };
    let source = emptied("source").join("file");
    let mut file = File::create(&source).expect("a file");
    let mut piece = vec![0; 1 << 20];
    let mut written = 0;
    while written < len {
        for (i, word) in piece.chunks_mut(8).enumerate() {
            word.copy_from_slice(&(written + i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        let n = piece.len().min((len - written) as usize);
        file.write_all(&piece[..n]).expect("room");
        written += n as u64;
    }
    file.sync_all().expect("a disk");
    let server = Server::start(Some(&source), len, arguments.link);
    let rate = |time: Duration| len as f64 / time.as_secs_f64() / 1e9;
    println!("{len} bytes, {} connections, in {}", arguments.connections, folder.display());
    let mut ratios = Vec::new();
    for _ in 0..arguments.rounds {
        let other = curl(&server.url("model.gguf"), &emptied("curl"), len, arguments.connections as u64);
        emptied("curl");
        let ours = puna(server.url("model.gguf"), &emptied("puna"), arguments.connections);
        emptied("puna");
        match other {
            None => println!("puna {:.3} GB/s; there is no curl", rate(ours)),
            Some(other) => {
                ratios.push(rate(ours) / rate(other));
                println!("puna {:.3} GB/s, curl {:.3} GB/s: {:.3}", rate(ours), rate(other), rate(ours) / rate(other));
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    if !ratios.is_empty() {
        // The mean of the two in the middle where they are even.
        let median = (ratios[(ratios.len() - 1) / 2] + ratios[ratios.len() / 2]) / 2.0;
        println!("median of the ratios: {median:.3}");
    }
    drop(server);
    let _ = std::fs::remove_dir_all(&folder);
}

/// A disk that has room for everything, since it keeps nothing: holes are zeros.
struct Holes;

impl Disk for Holes {
    fn write(&self, _: &File, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
        FileSystem.read(file, bytes, at)
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn free(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// Any file at the server.
struct Anywhere(Url);

impl Locate for Anywhere {
    fn locate<'a>(&'a self, _: &'a SafePath) -> futures_util::future::BoxFuture<'a, Result<Location, LocateError>> {
        let location =
            Location { url: self.0.clone(), credential: None, size: Some(SHARD), version: None, same_tag: false };
        Box::pin(async { Ok(location) })
    }
}

fn memory(arguments: &Arguments) {
    let server = Server::start(None, SHARD, f64::INFINITY);
    let items: Vec<Item> = (1..=191)
        .map(|i| Item {
            path: format!("model-{i:05}-of-00191.safetensors").parse().expect("a name"),
            size: Some(SHARD),
            published: None,
            tree: None,
        })
        .collect();
    let dir = arguments.dir.join(format!("puna-memory-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder");
    let http = Http::new(puna_vault::http::Options::default()).expect("a client");
    let options = Options { n_connections: arguments.connections, disk: Arc::new(Holes), ..Options::default() };
    let (downloader, received) = downloader(Arc::new(Anywhere(server.url(""))), http, options);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let download = downloader.download(&dir, &items);
        let _ = tokio::time::timeout(Duration::from_secs(arguments.seconds), download).await;
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or(" unknown").trim();
    let received = received.load(Ordering::Relaxed) as f64 / 1e9;
    println!("{received:.1} of {:.0} GB received, largest memory {peak}", 191.0 * SHARD as f64 / 1e9);
    drop(runtime);
    let _ = std::fs::remove_dir_all(&dir);
}

fn main() {
    let given: Vec<String> = std::env::args().collect();
    if let [_, command, len, rate, file @ ..] = &given[..]
        && command == "serve"
    {
        let rate = rate.parse().expect("a number");
        return serve(file.first().map(Path::new), len.parse().expect("a number"), rate);
    }
    let arguments = arguments();
    if arguments.memory { memory(&arguments) } else { throughput(&arguments) }
}
