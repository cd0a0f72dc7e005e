//! Pulls from a fake hub, and what it may say instead.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::hub::{COMMIT, Hub, ID, TOKEN};
use fake::{Reply, Server, bytes, client, count, downloader_of};
use puna_vault::digest::sha256;
use puna_vault::download::{Done, DownloadError};
use puna_vault::hub::{self, Denial, Files, HubError, Listing};
use puna_vault::manifest::ModelName;
use puna_vault::tree::GROUP;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn id() -> ModelName {
    ID.parse().unwrap()
}

fn files() -> Vec<(&'static str, Arc<Vec<u8>>)> {
    let text = |text: &str| Arc::new(text.as_bytes().to_vec());
    vec![
        ("LICENSE", text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT")),
        ("README.md", text("<html> is allowed here")),
        ("config.json", text(r#"{"architectures": ["LlamaForCausalLM"]}"#)),
        ("model-00001-of-00002.safetensors", bytes(2 * GROUP as usize + 9, 1)),
        ("model-00002-of-00002.safetensors", bytes(5 * GROUP as usize, 2)),
        ("original/consolidated.00.pth", bytes(2000, 3)),
        ("tokenizer.json", bytes(1_000_000, 4)),
    ]
}

fn open(fake: &Hub, token: Option<&str>) -> hub::Hub {
    hub::Hub::new(client(), &fake.hub.url("/"), token.map(|token| token.parse().unwrap())).unwrap()
}

async fn pull(hub: &hub::Hub, listing: &Listing, dir: &Path) -> (Result<Vec<Done>, DownloadError>, fake::Log) {
    let (download, log) = downloader_of(client(), Arc::new(Files::new(hub, listing)));
    let items: Vec<_> = listing.select().unwrap().iter().map(hub::Entry::item).collect();
    (download.download(dir, &items).await, log)
}

/// D13: the token goes to the hub, and never to the server that has the files.
#[tokio::test(flavor = "multi_thread")]
async fn a_gated_model_is_pulled() {
    let fake = Hub::start(&files());
    fake.state.lock().unwrap().is_gated = true;
    let hub = open(&fake, Some(TOKEN));
    let listing = hub.list(&id(), None).await.unwrap();
    assert_eq!((listing.commit.as_str(), listing.gated.as_deref()), (COMMIT, Some("manual")));
    assert_eq!(listing.files.len(), 7);
    assert_eq!(listing.warnings, ["test; this is no hub"]);
    let config = hub.read(&listing.id, COMMIT, listing.find("config.json").unwrap(), 1 << 20).await.unwrap();
    hub::check_config(&listing.id, &config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (done, _) = pull(&hub, &listing, dir.path()).await;
    let done = done.unwrap();
    assert_eq!(done.len(), 6);
    for done in &done {
        let body = &files().into_iter().find(|(path, _)| *path == done.path.as_str()).unwrap().1;
        assert_eq!(done.sha256, sha256(body));
        assert!(std::fs::read(done.path.below(dir.path())).unwrap() == **body);
    }
    assert!(!fake.cdn.asked().is_empty());
    assert!(fake.cdn.asked().iter().all(|ask| ask.token().is_none()));
    assert!(fake.hub.asked().iter().all(|ask| ask.token() == Some("Bearer hf_secret")));
    // Sizes and hashes can be had without access.
    assert_eq!(open(&fake, None).list(&id(), None).await.unwrap().files, listing.files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_model_is_found() {
    let fake = Hub::start(&files());
    let old: ModelName = "meta-llama/Old-Name".parse().unwrap();
    let listing = open(&fake, Some(TOKEN)).list(&old, None).await.unwrap();
    assert_eq!(listing.id, id());
    assert!(fake.hub.asked().iter().all(|ask| ask.token().is_some()));
}

/// D8: each state has its own words, is asked about once, and the token is in none of them.
#[tokio::test(flavor = "multi_thread")]
async fn denials() {
    let mut seen = BTreeSet::new();
    let restricted = "Access to model x is restricted and you are not in the authorized list.";
    for (token, denial, expected) in [
        (None, (401, "GatedRepo", "Access to model x is restricted."), Denial::NoToken),
        (Some(TOKEN), (401, "", "Invalid credentials in Authorization header"), Denial::BadToken),
        (Some(TOKEN), (403, "GatedRepo", restricted), Denial::NotAsked),
        (Some(TOKEN), (403, "GatedRepo", "Your request is awaiting a review from the repo authors."), Denial::Waiting),
        (Some(TOKEN), (403, "GatedRepo", "Your request has been rejected by the repo's authors."), Denial::Refused),
        (Some(TOKEN), (403, "", "Access to this resource is disabled."), Denial::Disabled),
        (Some(TOKEN), (404, "RepoNotFound", "Repository not found"), Denial::Missing),
        (None, (401, "", ""), Denial::Unclear),
        (None, (404, "RevisionNotFound", "Invalid rev id"), Denial::NoRevision),
        (None, (404, "EntryNotFound", "Entry not found"), Denial::NoEntry),
    ] {
        // One of its own for each: a download that ends with an error may leave a request on its way.
        let fake = Hub::start(&files());
        let listing = open(&fake, None).list(&id(), None).await.unwrap();
        fake.state.lock().unwrap().denial = Some(denial);
        let hub = open(&fake, token);
        let n_asked = fake.hub.asked().len();
        let error = hub.locate(&id(), COMMIT, &listing.files[0]).await.unwrap_err();
        assert_eq!(fake.hub.asked().len(), n_asked + 1, "{error}");
        let text = error.to_string();
        assert!(matches!(error, HubError::Denied { denial, .. } if denial == expected), "{error:?}");
        assert!(!text.contains(TOKEN) && !format!("{error:?} {:?}", fake.hub.url("/")).contains(TOKEN));
        assert!(seen.insert(text.replace(&fake.hub.url(""), "")), "{text}");
        // In a listing, and in the middle of a download, too.
        assert!(matches!(hub.list(&id(), None).await, Err(HubError::Denied { denial, .. }) if denial == expected));
        let dir = tempfile::tempdir().unwrap();
        let (pulled, _) = pull(&hub, &listing, dir.path()).await;
        let DownloadError::Locate(source) = pulled.unwrap_err() else { panic!("another error") };
        assert!(matches!(source.downcast_ref(), Some(HubError::Denied { denial, .. }) if *denial == expected));
    }
}

/// D7: signatures that end midway are renewed, once for all connections.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_expire() {
    let fake = Hub::start(&files());
    fake.state.lock().unwrap().uses = Some(3);
    let hub = open(&fake, None);
    let listing = hub.list(&id(), None).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (done, log) = pull(&hub, &listing, dir.path()).await;
    assert_eq!(done.unwrap().len(), 6);
    assert!(count(&log, "relocated") >= 1, "{log:?}");
    // A server that denies everything it signs is given up.
    fake.state.lock().unwrap().uses = Some(0);
    let dir = tempfile::tempdir().unwrap();
    let (done, _) = pull(&hub, &listing, dir.path()).await;
    let error = done.unwrap_err().to_string();
    assert!(error.contains("answered 403 (Forbidden)"), "{error}");
}

/// D6: other bytes under the same name are noticed before the first of them is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_weights() {
    let fake = Hub::start(&files());
    let hub = open(&fake, None);
    let listing = hub.list(&id(), None).await.unwrap();
    let other = bytes(5 * GROUP as usize, 99);
    fake.state.lock().unwrap().files.insert("model-00002-of-00002.safetensors".into(), other);
    let dir = tempfile::tempdir().unwrap();
    let error = pull(&hub, &listing, dir.path()).await.0.unwrap_err().to_string();
    assert!(error.contains("it changed since it was listed"), "{error}");
    // Another commit, and a tag that changes in the middle.
    let fake = Hub::start(&files());
    let hub = open(&fake, None);
    fake.change(|_, reply| {
        let mut reply = reply;
        for (name, value) in &mut reply.headers {
            if name == "X-Repo-Commit" {
                *value = "f".repeat(40);
            }
        }
        reply
    });
    let error = hub.locate(&id(), COMMIT, &listing.files[0]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("expected commit {COMMIT}, found ffff")), "{error}");
    let n = AtomicUsize::new(0);
    fake.change(move |_, mut reply| {
        if reply.status == 206 && n.fetch_add(1, Ordering::SeqCst) == 2 {
            for (name, value) in &mut reply.headers {
                if name == "ETag" {
                    *value = "\"other\"".to_owned();
                }
            }
        }
        reply
    });
    // In a folder of its own: what is there already is not asked for.
    let dir = tempfile::tempdir().unwrap();
    let error = pull(&hub, &listing, dir.path()).await.0.unwrap_err().to_string();
    assert!(error.contains("the file changed on the server while it was downloaded"), "{error}");
}

/// D12, D17: listings that are none.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_listings() {
    let oid = "0".repeat(40);
    for (entry, part) in [
        (r#"{"type":"file","path":"../../x","size":1,"oid":"OID"}"#, "leads out of its folder"),
        (r#"{"type":"file","path":"/etc/passwd","size":1,"oid":"OID"}"#, "a part of it is empty"),
        (r#"{"type":"file","path":"C:\\x","size":1,"oid":"OID"}"#, "a system gives a meaning"),
        (r#"{"type":"file","path":"a","size":-1,"oid":"OID"}"#, "invalid value"),
        (r#"{"type":"file","path":"a","size":99999999999999999999999,"oid":"OID"}"#, "expected u64"),
        (r#"{"type":"file","path":"a","size":1,"oid":"../../x"}"#, "expected 40 hexadecimal digits"),
        (r#"{"type":"file","path":"a","size":1,"oid":"OID","lfs":{"oid":"x","size":1}}"#, "expected 64 hexadecimal"),
        (r#"{"type":"file","path":"a","size":1,"oid":"OID","lfs":{"oid":"x","size":2}}"#, "two sizes, 1 and 2"),
        (
            r#"{"type":"file","path":"a","size":1,"oid":"OID"},{"type":"file","path":"A","size":1,"oid":"OID"}"#,
            "but for the case",
        ),
        ("{}", "missing field"),
        ("[[[", "invalid type"),
    ] {
        let fake = Hub::start(&files());
        let body = format!("[{}]", entry.replace("OID", &oid));
        fake.change(move |ask, reply| if ask.path.contains("/tree/") { Reply::new(200, body.clone()) } else { reply });
        let error = open(&fake, None).list(&id(), None).await.unwrap_err().to_string();
        assert!(error.contains(part), "{entry}: {error}");
    }
    // A next page on another server would get nothing of ours, and is not the hub's.
    let other = Server::start(|_| Reply::new(200, "[]"));
    let fake = Hub::start(&files());
    let elsewhere = format!("<{}>; rel=\"next\"", other.url("/"));
    fake.change(move |ask, mut reply| {
        if ask.path.contains("/tree/") {
            reply.headers.retain(|(name, _)| name != "Link");
            return reply.header("Link", &elsewhere);
        }
        reply
    });
    let error = open(&fake, Some(TOKEN)).list(&id(), None).await.unwrap_err().to_string();
    assert!(error.contains("next page is not the hub's"), "{error}");
    assert!(other.asked().is_empty());
}

/// A hub that redirects to another host sends nobody's token there, and no other host is believed what a repository has.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_stay_at_home() {
    let fake = Hub::start(&files());
    let hub = open(&fake, Some(TOKEN));
    let listing = hub.list(&id(), None).await.unwrap();
    let thief = Server::start(|_| Reply::new(200, r#"{"sha":"0123456789abcdef0123456789abcdef01234567"}"#));
    let to = thief.url("/x");
    fake.change(move |_, _| Reply::new(302, "").header("Location", &to));
    assert!(hub.list(&id(), None).await.is_err());
    assert!(hub.check_access(&id()).await.is_err());
    assert!(thief.asked().is_empty());
    let error = hub.read(&id(), COMMIT, &listing.files[0], 1 << 20).await.unwrap_err();
    assert!(matches!(error, HubError::Changed { .. }), "{error}");
    assert_eq!(thief.asked().len(), 1);
    assert!(thief.asked().iter().all(|ask| ask.token().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_for_this_machine() {
    let hub = hub::Hub::new(client(), "http://hub.test", Some(TOKEN.parse().unwrap())).unwrap();
    let error = hub.list(&id(), None).await.unwrap_err().to_string();
    assert!(error.contains("everybody on the way"), "{error}");
    for endpoint in ["", "hub.test", "ftp://hub.test", "https://hub.test/?x=y", "data:x"] {
        assert!(hub::Hub::new(client(), endpoint, None).is_err(), "{endpoint}");
    }
}
