//! Downloads from servers, disks and neighbours that fail: each ends with the right file, or says exactly what is wrong.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::{
    AtServer, Log, Reply, Server, bytes, client, client_with, count, downloader, downloader_by, downloader_of, item,
};
use puna_vault::digest::{Published, sha256};
use puna_vault::download::{AtUrls, Disk, Done, DownloadError, Downloader, FOLDER, FileSystem, Item, Options};
use puna_vault::tree::{GROUP, Tree, extent, n_groups, node};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NAME: &str = "model.safetensors";

/// Five groups, the last of 5 bytes.
fn model() -> Arc<Vec<u8>> {
    bytes(4 * GROUP as usize + 5, 7)
}

fn tree(body: &[u8]) -> Tree {
    let len = body.len() as u64;
    let nodes = (0..n_groups(len)).map(|idx| {
        let (start, n) = extent(len, idx);
        node(len, idx, &body[start as usize..(start + n) as usize])
    });
    Tree::new(len, nodes.collect()).unwrap()
}

/// A number that the environment may give, so that the same test makes the figures.
fn figure(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |n| n.parse().unwrap())
}

/// Numbers that differ with the seed of the environment.
fn random(n: usize) -> impl Iterator<Item = u64> {
    let seed = figure("PUNA_VAULT_SEED", 5) as u64;
    bytes(8 * n, seed).as_chunks::<8>().0.to_vec().into_iter().map(u64::from_le_bytes)
}

/// The files of a folder, but for the puna's own.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != FOLDER);
    names.sort();
    names
}

/// What is right of a download of one file.
fn expect(dir: &Path, done: &[Done], body: &[u8]) {
    let [done] = done else { panic!("expected one file, found {done:?}") };
    assert_eq!((done.size, done.sha256), (body.len() as u64, sha256(body)));
    assert_eq!(done.tree, tree(body));
    assert!(std::fs::read(done.path.below(dir)).unwrap() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_all_sizes_by_ranges() {
    let sizes = [0, 1, 1000, GROUP as usize, 2 * GROUP as usize + 1, 5 * GROUP as usize];
    let files: Vec<_> = sizes.iter().map(|size| (format!("d/{size}"), bytes(*size, *size as u64))).collect();
    let served = files.clone();
    let server = Server::start(move |ask| {
        Reply::file(ask, &served.iter().find(|(path, _)| ask.path == format!("/{path}")).unwrap().1)
    });
    let dir = tempfile::tempdir().unwrap();
    let items: Vec<Item> = files.iter().map(|(path, body)| item(path, body)).collect();
    let (download, log) = downloader(&server);
    let done = download.download(dir.path(), &items).await.unwrap();
    for (done, (path, body)) in done.iter().zip(&files) {
        assert_eq!(done.path.as_str(), path);
        expect(dir.path(), std::slice::from_ref(done), body);
    }
    assert_eq!(count(&log, "done"), sizes.len());
    assert!(server.asked().iter().all(|ask| ask.headers["accept-encoding"] == "identity"));
    // 5 groups are three ranges of two.
    let ranges = server.asked().iter().filter(|ask| ask.path == "/d/20971520").count();
    assert_eq!(ranges, 3);
    // Nothing is asked for again.
    let n_asked = server.asked().len();
    assert_eq!(download.download(dir.path(), &items).await.unwrap(), done);
    assert_eq!(server.asked().len(), n_asked);
    // Neither when only the file is left, whose hash is known.
    std::fs::remove_dir_all(dir.path().join(FOLDER)).unwrap();
    assert_eq!(download.download(dir.path(), &items).await.unwrap(), done);
    assert_eq!(server.asked().len(), n_asked);
    // One that was changed since is downloaded again.
    std::fs::write(dir.path().join("d/1000"), bytes(1000, 1).as_slice()).unwrap();
    assert_eq!(download.download(dir.path(), &items).await.unwrap(), done);
    assert_eq!(server.asked().len(), n_asked + 1);
}

/// D4: bodies that end early, in the middle of groups, are gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn short_bodies() {
    let body = model();
    let served = Arc::clone(&body);
    let n = AtomicUsize::new(0);
    let server = Server::start(move |ask| {
        let n = n.fetch_add(1, Ordering::SeqCst);
        let cut = (n < 12).then_some(300_000 + n * 54_321);
        Reply { cut, ..Reply::file(ask, &served) }
    });
    let dir = tempfile::tempdir().unwrap();
    let (download, log) = downloader(&server);
    expect(dir.path(), &download.download(dir.path(), &[item(NAME, &body)]).await.unwrap(), &body);
    // But for a range of 5 bytes, each answer of the first twelve breaks off.
    assert!(count(&log, "waits") >= 11);
    // Nothing was fetched twice.
    assert_eq!(server.sent.load(Ordering::SeqCst), body.len() as u64);
}

/// A downloader that soon leaves a connection on which nothing comes.
fn impatient(server: &Server) -> (Downloader, Log) {
    downloader_by(client_with(|options| options.stall = Duration::from_millis(400)), server)
}

/// D15: a connection on which nothing comes is opened again, at 99 %, too.
#[tokio::test(flavor = "multi_thread")]
async fn stalls() {
    let body = model();
    let served = Arc::clone(&body);
    let n = AtomicUsize::new(0);
    let server = Server::start(move |ask| {
        let reply = Reply::file(ask, &served);
        let stall = match n.fetch_add(1, Ordering::SeqCst) {
            0 => Some(0),
            1 => Some(reply.range.1 - reply.range.0 - 1),
            _ => None,
        };
        Reply { stall, ..reply }
    });
    let dir = tempfile::tempdir().unwrap();
    let (download, log) = impatient(&server);
    expect(dir.path(), &download.download(dir.path(), &[item(NAME, &body)]).await.unwrap(), &body);
    // A busy machine makes more of them.
    assert!(count(&log, "waits: 127.0.0.1") >= 2);
}

/// D5: a server without ranges gives the whole file, which is never appended to what is there.
#[tokio::test(flavor = "multi_thread")]
async fn ignored_ranges() {
    let body = model();
    let served = Arc::clone(&body);
    let n = AtomicUsize::new(0);
    let server = Server::start(move |ask| {
        let whole = Reply { range: (0, served.len()), status: 200, headers: Vec::new(), ..Reply::file(ask, &served) };
        match n.fetch_add(1, Ordering::SeqCst) {
            // The first range is answered as it should be, the others are not, and the whole breaks off once.
            0 => Reply::file(ask, &served),
            1..=5 if ask.range().is_none() => Reply { cut: Some(9_000_000), ..whole },
            _ => whole,
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let (download, log) = downloader(&server);
    expect(dir.path(), &download.download(dir.path(), &[item(NAME, &body)]).await.unwrap(), &body);
    assert!(count(&log, "dropped model.safetensors: 127.0.0.1") >= 1);

    // One that always breaks off is given up.
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply {
        range: (0, served.len()),
        status: 200,
        headers: Vec::new(),
        cut: Some(9_000_000),
        ..Reply::file(ask, &served)
    });
    let dir = tempfile::tempdir().unwrap();
    let error = downloader(&server).0.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err();
    assert!(matches!(error, DownloadError::NoRanges { .. }), "{error}");
    assert!(names(dir.path()).is_empty());
}

/// D9: servers that are busy are waited for as long as they ask, and given up when patience ends.
#[tokio::test(flavor = "multi_thread")]
async fn busy_servers() {
    let body = model();
    let served = Arc::clone(&body);
    let n = AtomicUsize::new(0);
    let server = Server::start(move |ask| match n.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429, "").header("Retry-After", 0),
        1 => Reply::new(429, "").header("RateLimit", "\"resolvers\";r=0;t=0"),
        2 => Reply::new(503, ""),
        3 => Reply::new(500, ""),
        _ => Reply::file(ask, &served),
    });
    let dir = tempfile::tempdir().unwrap();
    let (download, log) = downloader(&server);
    expect(dir.path(), &download.download(dir.path(), &[item(NAME, &body)]).await.unwrap(), &body);
    assert_eq!(count(&log, "waits"), 4);

    // An hour is more than the budget.
    let server = Server::start(|_| Reply::new(429, "").header("Retry-After", 3600));
    let error = downloader(&server).0.download(dir.path(), &[item("other", &body)]).await.unwrap_err().to_string();
    assert!(error.contains("answered 429 (Too Many Requests)") && error.contains("what came is kept"), "{error}");
}

/// D10: damage is noticed by the file's hash. Where the groups' are known, only that group is fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits() {
    let n_flips = figure("PUNA_VAULT_FLIPS", 10);
    let body = bytes(3 * GROUP as usize + 77, 3);
    let at = Arc::new(AtomicI64::new(-1));
    let server = {
        let (served, at) = (Arc::clone(&body), Arc::clone(&at));
        Server::start(move |ask| {
            let mut reply = Reply::file(ask, &served);
            let bit = at.load(Ordering::SeqCst);
            let (from, to) = reply.range;
            if bit >= 0 && (from..to).contains(&(bit as usize / 8)) {
                let mut flipped = served.to_vec();
                flipped[bit as usize / 8] ^= 1 << (bit % 8);
                reply.body = Arc::new(flipped);
                at.store(-1, Ordering::SeqCst);
            }
            reply
        })
    };
    let known = Arc::new(tree(&body));
    for (i, random) in random(n_flips).enumerate() {
        let bit = random % (8 * body.len() as u64);
        at.store(bit as i64, Ordering::SeqCst);
        let dir = tempfile::tempdir().unwrap();
        let (download, log) = downloader(&server);
        if i % 2 == 0 {
            let error = download.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err();
            assert!(matches!(error, DownloadError::Mismatch { .. }), "bit {bit}: {error}");
            assert!(names(dir.path()).is_empty());
            // Nothing is left of it, and the next run is right.
            let done = download.download(dir.path(), &[item(NAME, &body)]).await.unwrap();
            assert_eq!((count(&log, "begins model.safetensors"), count(&log, "kept")), (2, 0), "bit {bit}");
            expect(dir.path(), &done, &body);
        } else {
            let sent = server.sent.load(Ordering::SeqCst);
            let item = Item { tree: Some(Arc::clone(&known)), ..item(NAME, &body) };
            expect(dir.path(), &download.download(dir.path(), &[item]).await.unwrap(), &body);
            assert_eq!(count(&log, "dropped"), 1, "bit {bit}");
            // A group again, and what else of the broken connection's range was on its way.
            assert!(server.sent.load(Ordering::SeqCst) - sent <= body.len() as u64 + 2 * GROUP, "bit {bit}");
        }
    }
}

/// Groups are repaired from any copy, and one that is another file is refused.
#[tokio::test(flavor = "multi_thread")]
async fn repairs() {
    let body = model();
    let served = Arc::clone(&body);
    let n = AtomicUsize::new(0);
    let server = Server::start(move |ask| match n.fetch_add(1, Ordering::SeqCst) {
        0 => Reply { cut: Some(1000), ..Reply::file(ask, &served) },
        _ => Reply::file(ask, &served),
    });
    let (download, _) = downloader(&server);
    let (path, tree) = (NAME.parse().unwrap(), Arc::new(tree(&body)));
    let mut groups = Vec::new();
    let put = |idx: u64, bytes: &[u8]| {
        groups.push((idx, bytes.to_vec()));
        Ok(())
    };
    download.repair(&path, &tree, &[1, 4], put).await.unwrap();
    let [(1, first), (4, second)] = &groups[..] else { panic!("other groups") };
    assert!(first[..] == body[GROUP as usize..2 * GROUP as usize] && second[..] == body[4 * GROUP as usize..]);
    assert_eq!(server.sent.load(Ordering::SeqCst), GROUP + 5);

    let other = bytes(body.len(), 8);
    let server = Server::start(move |ask| Reply::file(ask, &other));
    let error = downloader(&server).0.repair(&path, &tree, &[2], |_, _| Ok(())).await.unwrap_err().to_string();
    assert!(error.contains("the bytes 8388608 to 12582912 come damaged each time"), "{error}");
}

/// D17, and sizes that are not those of the listing.
#[tokio::test(flavor = "multi_thread")]
async fn lying_sizes() {
    let body = model();
    let len = body.len();
    for (name, change) in [
        ("content-length", "0"),
        ("content-length", "9223372036854775808"),
        ("content-length", "-1"),
        ("content-length", "99999999999999999999999"),
        ("content-length", "x"),
        ("content-range", "bytes 0-8388607/9223372036854775808"),
        ("content-range", "bytes 0-8388607/8388608"),
        ("content-range", "bytes 1-8388608/*"),
        ("content-range", "bytes 0-99999999/*"),
        ("content-range", ""),
        ("content-encoding", "gzip"),
    ] {
        let served = Arc::clone(&body);
        let server = Server::start(move |ask| {
            let mut reply = Reply::file(ask, &served);
            if name == "content-range" {
                reply.headers.clear();
            }
            if name == "content-length" {
                reply = Reply { range: (0, len), status: 200, headers: Vec::new(), ..reply };
            }
            reply.header(name, change)
        });
        let dir = tempfile::tempdir().unwrap();
        let error = downloader(&server).0.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err();
        assert!(names(dir.path()).is_empty());
        let text = error.to_string();
        assert!(text.starts_with("model.safetensors: "), "{name}: {change}: {text}");
    }
    // A longer file, a shorter one, and a range that is not there.
    for other in [bytes(len + 1, 7), bytes(len - 1, 7), bytes(GROUP as usize, 7)] {
        let found = other.len() as u64;
        let server = Server::start(move |ask| Reply::file(ask, &other));
        let dir = tempfile::tempdir().unwrap();
        let error = downloader(&server).0.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err();
        assert!(matches!(error, DownloadError::Size { found: n, .. } if n == found), "{error}");
    }
    // More than was said, without a length.
    let short = bytes(100, 1);
    let server = Server::start(|_| {
        Reply::new(200, format!("{:x}\r\n{}\r\n0\r\n\r\n", 150, "y".repeat(150))).header("Transfer-Encoding", "chunked")
    });
    let dir = tempfile::tempdir().unwrap();
    let error = downloader(&server).0.download(dir.path(), &[item(NAME, &short)]).await.unwrap_err();
    assert!(matches!(error, DownloadError::Size { expected: 100, .. }), "{error}");
    // No size at all, and one that no file has.
    let without = Item { size: None, ..item(NAME, &body) };
    let error = downloader(&server).0.download(dir.path(), &[without]).await.unwrap_err();
    assert!(matches!(error, DownloadError::NoSize { .. }), "{error}");
    let huge = Item { size: Some(u64::MAX), ..item(NAME, &body) };
    let error = downloader(&server).0.download(dir.path(), &[huge]).await.unwrap_err();
    assert!(matches!(error, DownloadError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_instead_of_weights() {
    let body = model();
    for kind in ["text/html; charset=utf-8", "application/octet-stream"] {
        let page = " <!DOCTYPE html><title>Log in</title>".to_owned() + &" ".repeat(body.len());
        let server =
            Server::start(move |_| Reply::new(200, &page[..4 * GROUP as usize + 5]).header("Content-Type", kind));
        let dir = tempfile::tempdir().unwrap();
        let error = downloader(&server).0.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err();
        assert!(matches!(error, DownloadError::Page { .. }), "{error}");
        assert!(names(dir.path()).is_empty());
    }
}

/// D6: two versions of a file are never mixed, neither in one run nor in two.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes() {
    let versions = [bytes(4 * GROUP as usize, 1), bytes(4 * GROUP as usize, 2)];
    let version = Arc::new(AtomicUsize::new(0));
    // In the first run the version changes after two ranges.
    let n = AtomicUsize::new(0);
    let server = {
        let (versions, version) = (versions.clone(), Arc::clone(&version));
        Server::start(move |ask| {
            if n.fetch_add(1, Ordering::SeqCst) == 2 {
                version.store(1, Ordering::SeqCst);
            }
            let version = version.load(Ordering::SeqCst);
            Reply::file(ask, &versions[version]).header("ETag", format!("\"{version}\""))
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let http = client();
    let urls = [("a.gguf".parse().unwrap(), server.url("/a.gguf").parse().unwrap())].into();
    let (mut download, log) = downloader_of(http.clone(), Arc::new(AtUrls { http, urls }));
    download.options.n_connections = 1;
    let unknown = Item { path: "a.gguf".parse().unwrap(), size: None, published: None, tree: None };
    let error = download.download(dir.path(), std::slice::from_ref(&unknown)).await.unwrap_err().to_string();
    assert!(error.contains("its tag was \"0\", and is \"1\""), "{error}");
    // What came of the first version is thrown away.
    let done = download.download(dir.path(), std::slice::from_ref(&unknown)).await.unwrap();
    expect(dir.path(), &done, &versions[1]);
    assert_eq!(count(&log, "dropped a.gguf: the file has changed"), 1);
    // A complete one that has changed since is, too.
    version.store(0, Ordering::SeqCst);
    expect(dir.path(), &download.download(dir.path(), &[unknown]).await.unwrap(), &versions[0]);
}

/// Redirects that lead round in a circle, nowhere, or from https to http.
#[tokio::test(flavor = "multi_thread")]
async fn redirects() {
    let body = model();
    let short = Arc::new(b"text".to_vec());
    for (location, part) in [
        ("/model.safetensors", "go round in a circle"),
        ("http://", "no address"),
        ("ftp://a/b", "expected an address of http"),
        ("http://a.test/", "plain http"),
    ] {
        let server = Server::start(move |_| Reply::new(302, "").header("Location", location));
        let dir = tempfile::tempdir().unwrap();
        let error = downloader(&server).0.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err().to_string();
        assert!(error.contains(part), "{location}: {error}");
    }
    let n = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        Reply::new(302, "").header("Location", format!("/{}", n.fetch_add(1, Ordering::SeqCst)))
    });
    let dir = tempfile::tempdir().unwrap();
    let (mut download, _) = downloader(&server);
    download.options.n_connections = 1;
    let error = download.download(dir.path(), &[item(NAME, &body)]).await.unwrap_err().to_string();
    assert!(error.contains("more than 10"), "{error}");
    assert_eq!(server.asked().len(), 11);

    let plain = {
        let short = Arc::clone(&short);
        Server::start(move |ask| Reply::file(ask, &short))
    };
    let target = plain.url("/x");
    let server = {
        let short = Arc::clone(&short);
        Server::start_tls(move |ask| match &*ask.path {
            "/down" => Reply::new(302, "").header("Location", &target),
            _ => Reply::file(ask, &short),
        })
    };
    let pem = Path::new(env!("CARGO_MANIFEST_DIR")).join("../puna/tests/tls/cert.pem");
    let http = client_with(|options| options.extra_ca = Some(pem));
    let base = server.url("/").parse().unwrap();
    let (download, _) = downloader_of(http.clone(), Arc::new(AtServer { http, base }));
    expect(dir.path(), &download.download(dir.path(), &[item("fine", &short)]).await.unwrap(), &short);
    let error = download.download(dir.path(), &[item("down", &short)]).await.unwrap_err().to_string();
    assert!(error.contains("redirects from https to plain http"), "{error}");
    assert!(plain.asked().is_empty());
    // Without the certificate nothing is sent.
    let (download, _) = downloader(&server);
    let error = download.download(dir.path(), &[item("untrusted", &short)]).await.unwrap_err().to_string();
    assert!(error.contains("no secure connection") && error.contains("clock"), "{error}");
    assert!(server.asked().iter().all(|ask| ask.path != "/untrusted"));
}

/// D12: nothing is made of a listing with names that lead elsewhere, or that are puna's own.
#[tokio::test]
async fn names_of_files() {
    let server = Server::start(|_| Reply::new(404, ""));
    let dir = tempfile::tempdir().unwrap();
    let (download, _) = downloader(&server);
    for paths in [["A", "a"], ["b", ".PUNA-parts/x.done"]] {
        let items: Vec<Item> = paths.iter().map(|path| item(path, b"x")).collect();
        let error = download.download(dir.path(), &items).await.unwrap_err();
        assert!(matches!(error, DownloadError::Names(_) | DownloadError::Reserved(_)), "{error}");
    }
    assert!(server.asked().is_empty());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Dropping the future stops a download, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_gone_on_with() {
    let body = bytes(12 * GROUP as usize, 9);
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply { pause: Duration::from_millis(5), ..Reply::file(ask, &served) });
    let dir = tempfile::tempdir().unwrap();
    let (download, log) = downloader(&server);
    let items = [item(NAME, &body)];
    let folder = dir.path().join(FOLDER);
    let a_group_is_claimed = async {
        // A line behind the first one.
        let has_claims = |path: &Path| {
            path.extension().is_some_and(|extension| extension == "journal")
                && std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() > 1)
        };
        while !std::fs::read_dir(&folder).is_ok_and(|files| files.flatten().any(|file| has_claims(&file.path()))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = download.download(dir.path(), &items) => panic!("not stopped: {done:?}"),
        () = a_group_is_claimed => {}
    }
    assert!(names(dir.path()).is_empty());
    expect(dir.path(), &download.download(dir.path(), &items).await.unwrap(), &body);
    assert!(count(&log, "begins") == 2 && count(&log, "kept") > 0, "{log:?}");
}

/// A file of which nobody says beforehand how large it is: it has to have room, and may be empty.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_only_the_server_knows() {
    for len in [0, 1000] {
        let body = bytes(len, 3);
        let served = Arc::clone(&body);
        let server = Server::start(move |ask| Reply::file(ask, &served));
        let http = client();
        let urls = [("a.gguf".parse().unwrap(), server.url("/a.gguf").parse().unwrap())].into();
        let (mut download, _) = downloader_of(http.clone(), Arc::new(AtUrls { http, urls }));
        let unknown = [Item { path: "a.gguf".parse().unwrap(), size: None, published: None, tree: None }];
        let dir = tempfile::tempdir().unwrap();
        expect(dir.path(), &download.download(dir.path(), &unknown).await.unwrap(), &body);
        if len > 0 {
            download.options.disk = Arc::new(Failing { free: 999, ..Failing::new(i64::MAX) });
            let dir = tempfile::tempdir().unwrap();
            let error = download.download(dir.path(), &unknown).await.unwrap_err();
            assert!(matches!(error, DownloadError::Space { need: 1000, free: 999, .. }), "{error}");
        }
    }
}

/// A file system that fails: full after some bytes, or forgetful.
struct Failing {
    /// Bytes that can still be written.
    room: AtomicI64,
    /// What was written since the last sync, if that is to be forgotten.
    unsynced: Option<Mutex<Vec<(u64, usize)>>>,
    free: u64,
    n_syncs: AtomicU64,
}

impl Failing {
    fn new(room: i64) -> Failing {
        Failing { room: AtomicI64::new(room), unsynced: None, free: u64::MAX, n_syncs: AtomicU64::new(0) }
    }
}

impl Disk for Failing {
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.room.fetch_sub(bytes.len() as i64, Ordering::SeqCst) < bytes.len() as i64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(unsynced) = &self.unsynced {
            unsynced.lock().unwrap().push((at, bytes.len()));
        }
        FileSystem.write(file, bytes, at)
    }

    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
        FileSystem.read(file, bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // Every third time it fails, as disks with bad sectors do, without a sound.
        if let Some(unsynced) = &self.unsynced {
            let mut unsynced = unsynced.lock().unwrap();
            if self.n_syncs.fetch_add(1, Ordering::SeqCst) % 3 == 1 {
                for (at, len) in unsynced.drain(..) {
                    FileSystem.write(file, &vec![0; len], at)?;
                }
            }
            unsynced.clear();
        }
        FileSystem.sync(file)
    }

    fn free(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(Some(self.free))
    }
}

/// D3: what has no room is refused before; a disk that fills up nevertheless leaves what can be gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn full_disks() {
    let body = model();
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply::file(ask, &served));
    let (mut download, log) = downloader(&server);
    let items = [item(NAME, &body)];
    let dir = tempfile::tempdir().unwrap();
    download.options.disk = Arc::new(Failing { free: body.len() as u64 - 1, ..Failing::new(i64::MAX) });
    let error = download.download(dir.path(), &items).await.unwrap_err().to_string();
    assert!(error.contains("16777221 bytes are to come, 16777220 are free"), "{error}");
    assert!(server.asked().is_empty());
    // At each group.
    for n_groups in 0..4 {
        download.options.disk = Arc::new(Failing::new(n_groups * GROUP as i64));
        let dir = tempfile::tempdir().unwrap();
        let error = download.download(dir.path(), &items).await.unwrap_err();
        assert!(matches!(error, DownloadError::Full(_)) && error.to_string().contains("what came is kept"), "{error}");
        assert!(names(dir.path()).is_empty());
        download.options.disk = Arc::new(FileSystem);
        expect(dir.path(), &download.download(dir.path(), &items).await.unwrap(), &body);
    }
    assert_eq!(count(&log, "done"), 4);
}

/// D2: a journal that claims what the disk forgot is not believed: right size, zero content.
#[tokio::test(flavor = "multi_thread")]
async fn forgetful_disks() {
    let body = bytes(8 * GROUP as usize, 4);
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply::file(ask, &served));
    let (mut download, _) = downloader(&server);
    let items = [item(NAME, &body)];
    let dir = tempfile::tempdir().unwrap();
    for room in 1..12 {
        let unsynced = Some(Mutex::default());
        download.options.disk = Arc::new(Failing { unsynced, ..Failing::new(room * GROUP as i64) });
        match download.download(dir.path(), &items).await {
            Err(DownloadError::Full(_) | DownloadError::Mismatch { .. }) => assert!(names(dir.path()).is_empty()),
            Ok(done) => {
                // What is hashed was read, so all of it was there then.
                assert_eq!(done[0].sha256, sha256(&body));
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    std::fs::remove_file(dir.path().join(NAME)).unwrap_or_default();
    download.options.disk = Arc::new(FileSystem);
    expect(dir.path(), &download.download(dir.path(), &items).await.unwrap(), &body);
}

/// D14: two pulls of one thing, with a lock that holds and with one that does not.
#[tokio::test(flavor = "multi_thread")]
async fn two_at_once() {
    let body = model();
    for lock_lies in [false, true] {
        let served = Arc::clone(&body);
        // Longer than the second waits for the first, which is a download of the same program.
        let pause = Duration::from_millis(if lock_lies { 30 } else { 10 });
        let server = Server::start(move |ask| Reply { pause, ..Reply::file(ask, &served) });
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (downloader(&server), downloader(&server));
        let items = [item(NAME, &body)];
        let lock = dir.path().join(FOLDER).join("lock");
        let late = async {
            while server.sent.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if lock_lies {
                // Another file of the name is another lock.
                std::fs::remove_file(lock).unwrap();
            }
            second.0.download(dir.path(), &items).await
        };
        let (a, b) = tokio::join!(first.0.download(dir.path(), &items), late);
        expect(dir.path(), &a.unwrap(), &body);
        expect(dir.path(), &b.unwrap(), &body);
        assert_eq!(names(dir.path()), [NAME]);
        let sent = server.sent.load(Ordering::SeqCst);
        if lock_lies {
            assert!(sent <= 2 * body.len() as u64);
        } else {
            assert_eq!((sent, count(&second.1, "Locked")), (body.len() as u64, 1));
        }
    }
}

/// No more than the rate: the server sees that nobody reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_bytes_a_second() {
    let body = bytes(40_000, 2);
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply::file(ask, &served));
    let (mut download, _) = downloader(&server);
    download.options = Options { bytes_per_second: Some(100_000), ..download.options };
    let dir = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    expect(dir.path(), &download.download(dir.path(), &[item(NAME, &body)]).await.unwrap(), &body);
    // Time is a lower bound here, whatever else the machine does.
    assert!(start.elapsed() >= Duration::from_millis(390));
}

/// The child of `killed`.
#[test]
#[ignore = "it is started by the test `killed`"]
fn killed_child() {
    let Ok(url) = std::env::var("PUNA_VAULT_CHILD_URL") else { return };
    let dir = std::env::var("PUNA_VAULT_CHILD_DIR").unwrap();
    let (size, hash) =
        (std::env::var("PUNA_VAULT_CHILD_SIZE").unwrap(), std::env::var("PUNA_VAULT_CHILD_HASH").unwrap());
    let http = client();
    let (download, _) = downloader_of(http.clone(), Arc::new(AtServer { http, base: url.parse().unwrap() }));
    let item = Item {
        path: NAME.parse().unwrap(),
        size: Some(size.parse().unwrap()),
        published: Some(Published::Sha256(hash.parse().unwrap())),
        tree: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(download.download(Path::new(&dir), &[item])).unwrap();
}

/// D1: killed at any moment, the next run goes on, and nothing incomplete has the file's name.
#[test]
fn killed() {
    let n_kills = figure("PUNA_VAULT_KILLS", 10);
    let body = bytes(16 * GROUP as usize + 123, 6);
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply { pause: Duration::from_micros(300), ..Reply::file(ask, &served) });
    let dir = tempfile::tempdir().unwrap();
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "killed_child", "--ignored", "--quiet"]);
        command.env("PUNA_VAULT_CHILD_URL", server.url("/")).env("PUNA_VAULT_CHILD_DIR", dir.path());
        command.env("PUNA_VAULT_CHILD_SIZE", body.len().to_string());
        command.env("PUNA_VAULT_CHILD_HASH", sha256(&body).to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let file = dir.path().join(NAME);
    let (mut n_complete, mut n_during) = (0, 0);
    for random in random(n_kills) {
        // Until nobody sends any more to the one before.
        let sent = loop {
            let sent = server.sent.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            if server.sent.load(Ordering::SeqCst) == sent {
                break sent;
            }
        };
        let mut child = child();
        while server.sent.load(Ordering::SeqCst) == sent && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random % 150_000));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        n_during += usize::from(ended.is_none() && server.sent.load(Ordering::SeqCst) > sent);
        assert!(ended.is_none_or(|status| status.success()), "the child failed");
        if file.exists() {
            assert!(std::fs::read(&file).unwrap() == *body, "an incomplete file has its name");
            n_complete += 1;
            std::fs::remove_dir_all(dir.path().join(FOLDER)).unwrap();
            std::fs::remove_file(&file).unwrap();
        }
    }
    let sent = server.sent.load(Ordering::SeqCst);
    // What was fetched for nothing: four connections with four groups each, and what the sockets held.
    let bound = (n_complete + 1) * body.len() as u64 + n_kills as u64 * 16 * (GROUP + (1 << 20));
    println!(
        "{n_kills} kills, {n_during} of them while bytes came; {n_complete} files were complete; {:.1} files were sent",
        sent as f64 / body.len() as f64
    );
    assert!(sent <= bound);
    assert!(child().wait().unwrap().success());
    assert!(std::fs::read(&file).unwrap() == *body);
    let parts: Vec<String> = std::fs::read_dir(dir.path().join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(parts.is_empty(), "{parts:?}");
}

/// A download that is dropped asks for nothing more: no task goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_for_after_a_stop() {
    let body = model();
    let served = Arc::clone(&body);
    let server = Server::start(move |ask| Reply { stall: Some(1000), ..Reply::file(ask, &served) });
    let dir = tempfile::tempdir().unwrap();
    let (download, _) = impatient(&server);
    let items = [item(NAME, &body)];
    let all_ranges_are_asked_for = async {
        while server.asked().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = download.download(dir.path(), &items) => panic!("not stopped: {done:?}"),
        () = all_ranges_are_asked_for => {}
    }
    // What was on its way to the server.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let n_asked = server.asked().len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.asked().len(), n_asked);
}
