//! A hub as its documentation has it: listings in pages, commits, redirects to signed addresses on another server, gates.

use super::{Ask, Reply, Server};
use puna_vault::digest::{Published, sha256};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const ID: &str = "meta-llama/Llama-Test";
pub const TOKEN: &str = "hf_secret";

type Change = Box<dyn FnMut(&Ask, Reply) -> Reply + Send>;

/// What the hub has, and how it answers.
pub struct State {
    /// What every repository is called now, if its name has changed: the hub leads there.
    pub renamed: Option<&'static str>,
    /// The commit that `main` is.
    pub commit: String,
    pub files: BTreeMap<String, Arc<Vec<u8>>>,
    /// Only with [`TOKEN`].
    pub is_gated: bool,
    /// Status, code and message of each answer.
    pub denial: Option<(u16, &'static str, &'static str)>,
    /// Signatures before this one are good for nothing any more.
    pub signature: u64,
    /// A signature is good for so many requests.
    pub uses: Option<u64>,
    used: u64,
    /// Changes an answer of either server.
    pub change: Change,
}

/// The hub, and the server that has large files.
pub struct Hub {
    pub hub: Server,
    pub cdn: Arc<Server>,
    pub state: Arc<Mutex<State>>,
}

/// Larger files are given by the other server.
const LARGE: usize = 1000;

impl Hub {
    pub fn start(files: &[(&str, Arc<Vec<u8>>)]) -> Hub {
        let state = Arc::new(Mutex::new(State {
            renamed: None,
            commit: COMMIT.to_owned(),
            files: files.iter().map(|(path, body)| ((*path).to_owned(), Arc::clone(body))).collect(),
            is_gated: false,
            denial: None,
            signature: 1,
            uses: None,
            used: 0,
            change: Box::new(|_, reply| reply),
        }));
        let cdn = {
            let state = Arc::clone(&state);
            Arc::new(Server::start(move |ask| state.lock().unwrap().signed(ask)))
        };
        let hub = {
            let (state, cdn) = (Arc::clone(&state), Arc::clone(&cdn));
            Server::start(move |ask| state.lock().unwrap().hub(ask, &cdn))
        };
        Hub { hub, cdn, state }
    }

    pub fn change(&self, change: impl FnMut(&Ask, Reply) -> Reply + Send + 'static) {
        self.state.lock().unwrap().change = Box::new(change);
    }
}

fn git(body: &[u8]) -> String {
    use sha1::Digest;
    let hash = sha1::Sha1::new_with_prefix(format!("blob {}\0", body.len())).chain_update(body).finalize();
    Published::GitBlob(puna_vault::digest::Hex(hash.into())).to_string().replace("git's SHA-1 ", "")
}

impl State {
    fn signed(&mut self, ask: &Ask) -> Reply {
        let name = ask.path.trim_start_matches("/blobs/");
        let signature: u64 = ask.query.trim_start_matches("Signature=").parse().unwrap();
        self.used += 1;
        if self.uses.is_some_and(|uses| self.used > uses) {
            self.signature += 1;
            self.used = 0;
        }
        if signature < self.signature {
            return Reply::new(403, "<Error><Code>AccessDenied</Code></Error>")
                .header("Content-Type", "application/xml");
        }
        let body = self.files.values().find(|body| sha256(body).to_string() == name).unwrap();
        let reply = Reply::file(ask, body).header("ETag", format!("\"{}\"", &name[..32]));
        (self.change)(ask, reply)
    }

    fn hub(&mut self, ask: &Ask, cdn: &Server) -> Reply {
        if let Some((status, code, message)) = self.denial {
            let body = json!({ "error": message }).to_string();
            let reply = Reply::new(status, body).header("X-Error-Message", message);
            return if code.is_empty() { reply } else { reply.header("X-Error-Code", code) };
        }
        let reply = self.answer(ask, cdn).header("X-HF-Warning", "test; this is no hub");
        (self.change)(ask, reply)
    }

    fn answer(&self, ask: &Ask, cdn: &Server) -> Reply {
        let commit = &self.commit;
        let path = ask.path.as_str();
        // Every repository has the same files.
        let (api, rest) = match path.strip_prefix("/api/models/") {
            Some(rest) => (true, rest),
            None => (false, path.trim_start_matches('/')),
        };
        let parts: Vec<&str> = rest.splitn(3, '/').collect();
        let [owner, name, rest] = parts[..] else {
            return Reply::new(404, "").header("X-Error-Code", "RepoNotFound");
        };
        let id = format!("{owner}/{name}");
        let renamed = self.renamed.or((id == "meta-llama/Old-Name").then_some(ID));
        if let Some(new) = renamed.filter(|new| *new != id) {
            let api = if api { "api/models/" } else { "" };
            return Reply::new(307, "").header("Location", format!("/{api}{new}/{rest}"));
        }
        let may_read = !self.is_gated || ask.token() == Some(&format!("Bearer {TOKEN}"));
        let denied =
            || Reply::new(if ask.token().is_some() { 403 } else { 401 }, "").header("X-Error-Code", "GatedRepo");
        if api {
            return match rest.split_once('/') {
                Some(("revision", revision)) if revision == "main" || revision == commit => {
                    let gated = if self.is_gated { json!("manual") } else { json!(false) };
                    let body = json!({ "id": id, "sha": commit, "gated": gated, "siblings": [] });
                    Reply::new(200, body.to_string())
                }
                Some(("revision", _)) => Reply::new(404, "").header("X-Error-Code", "RevisionNotFound"),
                Some(("tree", revision)) if revision == commit => self.page(ask, &id),
                None if rest == "auth-check" && may_read => Reply::new(200, "{}"),
                None if rest == "auth-check" => denied(),
                _ => Reply::new(404, ""),
            };
        }
        let Some(file) = rest.strip_prefix(&format!("resolve/{commit}/")) else {
            return Reply::new(404, "").header("X-Error-Code", "RepoNotFound");
        };
        if !may_read {
            return denied();
        }
        let Some(body) = self.files.get(file) else {
            return Reply::new(404, "").header("X-Error-Code", "EntryNotFound");
        };
        if body.len() < LARGE {
            return Reply::file(ask, body)
                .header("X-Repo-Commit", commit)
                .header("ETag", format!("\"{}\"", git(body)))
                .header("Content-Type", "text/plain; charset=utf-8");
        }
        let hash = sha256(body);
        Reply::new(302, "Found. Redirecting")
            .header("X-Repo-Commit", commit)
            .header("X-Linked-Size", body.len())
            .header("X-Linked-Etag", format!("\"{hash}\""))
            .header("Location", cdn.url(&format!("/blobs/{hash}?Signature={}", self.signature)))
    }

    /// Two files a page.
    fn page(&self, ask: &Ask, id: &str) -> Reply {
        let start: usize =
            ask.query.split('&').find_map(|part| part.strip_prefix("cursor=")).map_or(0, |at| at.parse().unwrap());
        let entries = self.files.iter().skip(start).take(2).map(|(path, body)| {
            if body.len() < LARGE {
                return json!({ "type": "file", "path": path, "size": body.len(), "oid": git(body) });
            }
            let lfs = json!({ "oid": sha256(body).to_string(), "size": body.len(), "pointerSize": 134 });
            json!({ "type": "file", "path": path, "size": body.len(), "oid": "0".repeat(40), "lfs": lfs })
        });
        let directory = json!({ "type": "directory", "path": "original", "size": 0, "oid": "0".repeat(40) });
        let entries: Vec<_> = entries.chain([directory]).collect();
        let reply = Reply::new(200, serde_json::to_vec(&entries).unwrap());
        if start + 2 >= self.files.len() {
            return reply;
        }
        let next = format!("</api/models/{id}/tree/{}?recursive=true&cursor={}>; rel=\"next\"", self.commit, start + 2);
        reply.header("Link", next)
    }
}
