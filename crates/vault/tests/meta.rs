//! Pulls from a fake of Meta's server, which knows signed links and nothing else.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::{Reply, Server, bytes, client, count, downloader_of, md5_of};
use puna_vault::catalogue::find_native;
use puna_vault::download::DownloadError;
use puna_vault::meta::{Files, Link, Meta, MetaError};
use puna_vault::tree::GROUP;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Stored = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// What the server has of 70B, in small, in a folder of this name.
fn stored(folder: &str) -> Stored {
    let mut files = BTreeMap::new();
    for shard_idx in 0..8 {
        let len = GROUP as usize * (shard_idx % 3) + 1000;
        files.insert(format!("consolidated.{shard_idx:02}.pth"), bytes(len, shard_idx as u64));
    }
    files.insert("params.json".to_owned(), Arc::new(b"{}".to_vec()));
    files.insert("tokenizer.model".to_owned(), bytes(5000, 77));
    let list: String = files.iter().map(|(path, body)| format!("{}  ./{path}\n", md5_of(body))).collect();
    files.insert("checklist.chk".to_owned(), Arc::new(list.into_bytes()));
    let mut stored: BTreeMap<String, _> =
        files.into_iter().map(|(path, body)| (format!("/{folder}/{path}"), body)).collect();
    stored.insert("/LICENSE".to_owned(), Arc::new(b"the licence".to_vec()));
    Arc::new(Mutex::new(stored))
}

/// Gives nothing to HEAD, nor without the right signature, nor after so many answers to it.
fn server(stored: &Stored, uses: usize) -> Server {
    let (stored, n) = (Arc::clone(stored), AtomicUsize::new(0));
    Server::start(move |ask| {
        let is_first = ask.query.contains("Signature=first");
        let expired = is_first && n.fetch_add(1, Ordering::SeqCst) >= uses;
        let file = stored.lock().unwrap().get(&ask.path).cloned();
        match file {
            Some(body) if ask.method == "GET" && !expired => Reply::file(ask, &body).header("ETag", md5_of(&body)),
            _ => Reply::new(403, "<Error/>").header("Content-Type", "application/xml"),
        }
    })
}

fn meta(server: &Server, signature: &str) -> Meta {
    let link: Link = server.url(&format!("/*?Policy=p&Signature={signature}&Key-Pair-Id=k")).parse().unwrap();
    Meta::new(client(), link)
}

async fn list(meta: &Meta) -> Result<Files, MetaError> {
    let (model, native) = find_native("Llama3.1-70B").unwrap();
    meta.list(model, native).await
}

/// D7: a link that ends midway is explained, everything is kept, and a new one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_ends_midway() {
    let stored = stored("Llama-3.1-70B");
    // The list and the sizes of eleven files, then some of the files.
    let server = server(&stored, 1 + 11 + 8);
    let terms = meta(&server, "any").terms().await.unwrap();
    assert_eq!(terms, [("LICENSE", Some(b"the licence".to_vec())), ("USE_POLICY.md", None)]);
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(list(&meta(&server, "first")).await.unwrap());
    assert_eq!(files.items.len(), 11);
    assert_eq!(files.folder(), "Llama-3.1-70B");
    let (mut download, _) = downloader_of(client(), files.clone());
    download.options.n_files = 1;
    let DownloadError::Locate(error) = download.download(dir.path(), &files.items).await.unwrap_err() else {
        panic!("another error")
    };
    let text = error.to_string();
    assert!(matches!(error.downcast_ref(), Some(MetaError::Refused { .. })), "{text}");
    assert!(
        text.contains("Ask for a new one") && text.contains("Llama3.1-70B") && !text.contains("Signature"),
        "{text}"
    );
    let sent = server.sent.load(Ordering::SeqCst);

    let files = Arc::new(list(&meta(&server, "second")).await.unwrap());
    let (download, log) = downloader_of(client(), files.clone());
    let done = download.download(dir.path(), &files.items).await.unwrap();
    assert_eq!(done.len(), 11);
    for done in done {
        let body = &stored.lock().unwrap()[&format!("/Llama-3.1-70B/{}", done.path)];
        assert!(std::fs::read(done.path.below(dir.path())).unwrap() == **body);
    }
    // What came by the first link was not fetched again.
    let all: usize = stored.lock().unwrap().values().map(|body| body.len()).sum();
    assert!(sent < all as u64 && count(&log, "begins") == 11);
    let all_sent = server.sent.load(Ordering::SeqCst);
    assert!(all_sent <= all as u64 + 200_000, "{all_sent} of {all}");
    assert!(server.asked().iter().all(|ask| ask.method == "GET" && ask.token().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn older_names_of_folders() {
    let server = server(&stored("Meta-Llama-3.1-70B"), usize::MAX);
    assert_eq!(list(&meta(&server, "s")).await.unwrap().folder(), "Meta-Llama-3.1-70B");
    let other = fake::Server::start(|_| Reply::new(403, ""));
    let error = list(&meta(&other, "s")).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("Llama-3.1-70B/checklist.chk: ") && error.contains("older than 24 hours"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_not_the_models() {
    let stored = stored("Llama-3.1-70B");
    let server = server(&stored, usize::MAX);
    let meta = meta(&server, "s");
    let list_path = "/Llama-3.1-70B/checklist.chk";
    let original = String::from_utf8(stored.lock().unwrap()[list_path].to_vec()).unwrap();
    for (text, part) in [
        (original.replace("./consolidated.07.pth", "./consolidated.17.pth"), "expected consolidated.07.pth too"),
        (original.replace("./params.json", "../../params.json"), "leads out of its folder"),
        (original.clone() + &original.to_uppercase(), "twice"),
        ("<html>".to_owned(), "line 1: expected an MD5"),
    ] {
        stored.lock().unwrap().insert(list_path.to_owned(), Arc::new(text.into_bytes()));
        let error = list(&meta).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// MD5 finds damage: nothing of the file is kept, and the next run is right.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_shards() {
    let stored = stored("Llama-3.1-70B");
    let server = server(&stored, usize::MAX);
    let files = Arc::new(list(&meta(&server, "s")).await.unwrap());
    let path = "/Llama-3.1-70B/consolidated.03.pth".to_owned();
    let right = stored.lock().unwrap()[&path].clone();
    let wrong = bytes(right.len(), 1234);
    let etag_of_right = md5_of(&right);
    stored.lock().unwrap().insert(path.clone(), wrong);
    let dir = tempfile::tempdir().unwrap();
    let (download, _) = downloader_of(client(), files.clone());
    let error = download.download(dir.path(), &files.items).await.unwrap_err().to_string();
    // The tag that was seen when it was listed tells, even before the hash does.
    assert!(error.contains(&format!("its tag was {etag_of_right}")), "{error}");
    let files = Arc::new(list(&meta(&server, "s")).await.unwrap());
    let (download, _) = downloader_of(client(), files.clone());
    let error = download.download(dir.path(), &files.items).await.unwrap_err().to_string();
    assert!(error.contains(&format!("expected MD5 {etag_of_right}, found MD5 ")), "{error}");
    assert!(!dir.path().join("consolidated.03.pth").exists());
    stored.lock().unwrap().insert(path, right);
    let files = Arc::new(list(&meta(&server, "s")).await.unwrap());
    let (download, _) = downloader_of(client(), files.clone());
    assert_eq!(download.download(dir.path(), &files.items).await.unwrap().len(), 11);
}
