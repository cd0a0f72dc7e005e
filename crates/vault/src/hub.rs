//! The Hugging Face hub: what a repository has, at which commit, whether one may have it, and where its files are.
//!
//! (<https://huggingface.co/docs/hub/api>, and what its own client relies on.)

use crate::digest::{Hasher, Published};
use crate::download::{Item, Locate, LocateError, Location};
use crate::http::{Answer, Credential, Hops, Http, HttpError, Request, Token, TokenError, Url, host, shown};
use crate::manifest::{MAX_FILES, ManifestError, ModelName, check_paths};
use crate::path::{PathError, SafePath};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the hub is, unless a mirror is configured.
pub const ENDPOINT: &str = "https://huggingface.co";

/// The longest page of a listing, in bytes. A thousand entries have some 300 KB.
const MAX_PAGE: u64 = 16 << 20;
/// The longest answer about a repository, in bytes; that has a line for each file, and the card's header.
const MAX_INFO: u64 = 16 << 20;
/// The longest `config.json` that is read, in bytes.
pub(crate) const MAX_CONFIG: u64 = 1 << 20;
/// Of a message from the hub no more is shown.
const MAX_MESSAGE: usize = 300;

/// The hub, or a mirror of it.
#[derive(Clone)]
pub struct Hub {
    http: Http,
    endpoint: Url,
    credential: Option<Credential>,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Listing {
    /// What it is called now; another name than was asked for, if it was renamed.
    pub id: ModelName,
    /// The commit, to which everything else belongs.
    pub commit: String,
    /// How access is granted, if it has to be: `manual` or `auto`.
    pub gated: Option<String>,
    /// All files.
    pub files: Vec<Entry>,
    /// What the hub wants its users to know.
    pub warnings: Vec<String>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: SafePath,
    /// In bytes.
    pub size: u64,
    /// Its hash: SHA-256 of large files, git's of small ones.
    pub published: Published,
}

/// Why the hub does not give something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The model is gated, and no token was sent.
    NoToken,
    /// The token is unknown, or not valid any more.
    BadToken,
    /// The token may not read gated repositories.
    NarrowToken,
    /// Access was not asked for.
    NotAsked,
    /// Access was asked for, and is not decided on.
    Waiting,
    /// Access was refused.
    Refused,
    /// The hub took the repository down.
    Disabled,
    /// There is none of the name, or it is hidden.
    Missing,
    /// Missing, hidden or gated: the hub does not say.
    Unclear,
    /// There is no such branch, tag or commit.
    NoRevision,
    /// There is no such file.
    NoEntry,
    /// Something else.
    Other(u16),
}

/// What goes wrong with the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An address of a mirror that is none.
    #[error("expected the address of a hub, such as {ENDPOINT}, found {0:?}")]
    Endpoint(String),
    /// It says no.
    #[error("{what}: {}{said}", .denial.explained(.page, .endpoint))]
    Denied {
        /// Repository, and file or revision.
        what: String,
        /// The repository's page.
        page: String,
        /// The hub's address.
        endpoint: String,
        /// Why.
        denial: Denial,
        /// The status of its answer.
        status: u16,
        /// Its header `X-Error-Code`.
        code: Option<String>,
        /// What it says itself, in parentheses.
        said: String,
    },
    /// An answer that is none.
    #[error("{url}: expected {expected}, found something else ({why}); is this address a hub's?")]
    Answer {
        /// Where.
        url: String,
        /// What should have come.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A file's name that leads elsewhere, or is none.
    #[error("{id}: the listing is refused: {source}")]
    Path {
        /// The repository.
        id: ModelName,
        /// What is wrong with the name.
        source: PathError,
    },
    /// Names that no folder can have together.
    #[error("{id}: the listing is refused: {source}")]
    Names {
        /// The repository.
        id: ModelName,
        /// What is wrong with them.
        source: ManifestError,
    },
    /// Something else than at the commit that was listed.
    #[error("{what}: expected {expected}, found {found}: it changed since it was listed; list it again")]
    Changed {
        /// Repository and file.
        what: String,
        /// What was listed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Not a Llama.
    #[error("{id}: {why}; puna runs models of the Llama architecture, and code that comes with a model never")]
    NotLlama {
        /// The repository.
        id: ModelName,
        /// Why not.
        why: String,
    },
    /// No weights that could be read.
    #[error("{id}: it has no safetensors files at its top{hint}")]
    NoWeights {
        /// The repository.
        id: ModelName,
        /// What it has instead.
        hint: String,
    },
}

impl Denial {
    /// What an answer means. (The table of errors in the vault's notes; messages as the hub words them.)
    fn of(status: u16, code: Option<&str>, message: &str, has_token: bool) -> Denial {
        let says = |part: &str| message.to_ascii_lowercase().contains(part);
        if says("invalid credentials") {
            return Denial::BadToken;
        }
        if says("access to this resource is disabled") {
            return Denial::Disabled;
        }
        match (code, status) {
            (Some("GatedRepo"), 401) if has_token => Denial::BadToken,
            (Some("GatedRepo"), 401) => Denial::NoToken,
            (Some("GatedRepo"), _) if says("awaiting a review") => Denial::Waiting,
            (Some("GatedRepo"), _) if says("rejected") => Denial::Refused,
            (_, 403) if says("fine-grained token") => Denial::NarrowToken,
            (Some("GatedRepo"), _) => Denial::NotAsked,
            (Some("RepoNotFound"), _) => Denial::Missing,
            (Some("RevisionNotFound"), _) => Denial::NoRevision,
            (Some("EntryNotFound"), _) => Denial::NoEntry,
            (_, 401) => Denial::Unclear,
            (_, 404) => Denial::Missing,
            (_, status) => Denial::Other(status),
        }
    }

    fn explained(self, page: &str, endpoint: &str) -> String {
        let tokens = format!("{endpoint}/settings/tokens");
        match self {
            Denial::NoToken => format!(
                "its publisher grants access to it person by person, and no token was sent: ask for access at {page} in a \
                 browser, make a token that may read at {tokens}, and give it as HF_TOKEN"
            ),
            Denial::BadToken => {
                format!(
                    "the hub does not take the token: it is misspelt, expired or revoked; make a new one at {tokens}"
                )
            }
            Denial::NarrowToken => format!(
                "the token may not read repositories with granted access: allow that for it at {tokens}, or make one of \
                 the kind 'read'"
            ),
            Denial::NotAsked => format!(
                "the owner of the token has no access to it: ask for it at {page} in a browser, logged in as the same user"
            ),
            Denial::Waiting => format!("access was asked for and is not granted yet: wait; {page} shows when it is"),
            Denial::Refused => format!(
                "its publisher refused access; only he can change that. {page} may say how to ask; Meta's own form at \
                 llama.com leads to a signed link, for which there is meta:MODEL"
            ),
            Denial::Disabled => {
                "the hub has taken it down; what you have of it stays as it is, and as valid as it was".to_owned()
            }
            Denial::Missing => format!(
                "there is no such repository, or it is hidden from you: compare the name with its page, {page}; if it was \
                 there before, it may have been withdrawn"
            ),
            Denial::Unclear => format!(
                "the hub does not say whether it is missing, private or wants its access granted: compare the name with \
                 its page, {page}; if it is there, give a token of a user who has access as HF_TOKEN ({tokens})"
            ),
            Denial::NoRevision => format!("it has no such branch, tag or commit: see {page}/commits"),
            Denial::NoEntry => format!("it has no such file at this commit: see {page}/tree/main"),
            Denial::Other(status) => format!("the hub answered {status}"),
        }
    }
}

#[derive(Deserialize)]
struct Info {
    id: Option<String>,
    sha: String,
    gated: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// The hub at an address, which is where the token goes, and nowhere else.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(http: Http, endpoint: &str, token: Option<Token>) -> Result<Hub, HubError> {
        let error =
            || HubError::Endpoint(endpoint.split(['?', '@']).next().unwrap_or_default().chars().take(80).collect());
        let url = Url::parse(endpoint.trim()).map_err(|_| error())?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.cannot_be_a_base() {
            return Err(error());
        }
        let credential = token.map(|token| Credential::new(token, &url));
        Ok(Hub { http, endpoint: url, credential })
    }

    /// The page of a repository, for people.
    #[must_use]
    pub fn page(&self, id: &ModelName) -> String {
        shown(&self.address(&[&id.owner, &id.name], None))
    }

    fn address(&self, segments: &[&str], path: Option<&SafePath>) -> Url {
        let mut url = self.endpoint.clone();
        // A slash in a revision is a part of it, and is escaped; those of a path are not.
        let mut parts = url.path_segments_mut().expect("checked when it was given");
        parts.pop_if_empty().extend(segments);
        if let Some(path) = path {
            parts.extend(path.as_str().split('/'));
        }
        drop(parts);
        url
    }

    fn get<'a>(&'a self, url: &'a Url) -> Request<'a> {
        // What another host says of a repository is not the hub's word.
        Request { credential: self.credential.as_ref(), hops: Hops::SameOrigin, ..Request::get(url) }
    }

    /// What a repository has. `revision` is a branch, tag or commit; `main` if there is none.
    ///
    /// # Errors
    /// When it is not there, or a name in it leads elsewhere.
    pub async fn list(&self, id: &ModelName, revision: Option<&str>) -> Result<Listing, HubError> {
        let revision = revision.unwrap_or("main");
        let what = format!("{id}@{revision}");
        let url = self.address(&["api", "models", &id.owner, &id.name, "revision", revision], None);
        let mut answer = self.expect(&what, id, self.http.ask(&self.get(&url)).await?).await?;
        let mut warnings = warnings(&answer);
        let info: Info = json(&mut answer, MAX_INFO, "a repository as JSON").await?;
        let wrong =
            |why: &str| HubError::Answer { url: shown(&url), expected: "a repository as JSON", why: why.to_owned() };
        if info.sha.len() != 40 || !info.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("its commit is not 40 hexadecimal digits"));
        }
        let id = match info.id {
            Some(name) => name.parse().map_err(|_| wrong("its name is none"))?,
            None => id.clone(),
        };
        let gated = info.gated.and_then(|gated| gated.as_str().map(|gated| gated.chars().take(20).collect()));
        let mut files = Vec::new();
        let mut next = Some(self.address(&["api", "models", &id.owner, &id.name, "tree", &info.sha], None));
        if let Some(url) = &mut next {
            url.set_query(Some("recursive=true"));
        }
        let mut seen = Vec::new();
        while let Some(url) = next {
            let mut answer = self.expect(&what, &id, self.http.ask(&self.get(&url)).await?).await?;
            for warning in self::warnings(&answer) {
                if !warnings.contains(&warning) && warnings.len() < 20 {
                    warnings.push(warning);
                }
            }
            let following = next_page(&answer);
            let page: Vec<TreeEntry> = json(&mut answer, MAX_PAGE, "a list of files as JSON").await?;
            for entry in page.into_iter().filter(|entry| entry.kind == "file") {
                if files.len() == MAX_FILES {
                    return Err(HubError::Names { id, source: ManifestError::TooMany(MAX_FILES + 1) });
                }
                files.push(Entry::read(entry, &id, &url)?);
            }
            seen.push(url);
            next = match following {
                None => None,
                // Elsewhere the token would not go along, and whoever is there is not the hub.
                Some(url)
                    if url.origin() != self.endpoint.origin() || seen.contains(&url) || seen.len() >= MAX_FILES =>
                {
                    let why = "its next page is not the hub's, or one that was read".to_owned();
                    return Err(HubError::Answer { url: shown(&url), expected: "a list of files as JSON", why });
                }
                next => next,
            };
        }
        check_paths(files.iter().map(|file| &file.path))
            .map_err(|source| HubError::Names { id: id.clone(), source })?;
        Ok(Listing { id, commit: info.sha.to_ascii_lowercase(), gated, files, warnings })
    }

    /// Where a file is now: at a signed address, mostly.
    ///
    /// # Errors
    /// When it is not there, or not what was listed, or not for whoever asks.
    pub async fn locate(&self, id: &ModelName, commit: &str, file: &Entry) -> Result<Location, HubError> {
        let url = self.address(&[&id.owner, &id.name, "resolve", commit], Some(&file.path));
        let request = Request { head: true, ..self.get(&url) };
        let answer = self.http.ask(&request).await?;
        let what = format!("{id}/{}", file.path);
        let location = match answer.status() {
            200 => None,
            301 | 302 | 303 | 307 | 308 => Some(answer.location()?),
            _ => return Err(self.denied(&what, id, answer).await),
        };
        let changed = |expected: &str, found: &str| HubError::Changed {
            what: what.clone(),
            expected: expected.to_owned(),
            found: found.chars().take(80).collect(),
        };
        if let Some(found) = answer.header("x-repo-commit").filter(|found| !found.eq_ignore_ascii_case(commit)) {
            return Err(changed(&format!("commit {commit}"), found));
        }
        let linked = answer.header("x-linked-etag").or_else(|| answer.header("etag"));
        let tag = linked.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase());
        let expected = match file.published {
            Published::Sha256(hash) => hash.to_string(),
            Published::GitBlob(hash) => hash.to_string(),
            Published::Md5(hash) => hash.to_string(),
        };
        // Mirrors may have tags of their own, which are no hashes of this kind.
        let is_hash = |tag: &str| tag.len() == expected.len() && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(tag) = tag.as_deref().filter(|tag| is_hash(tag) && *tag != expected) {
            return Err(changed(&file.published.to_string(), tag));
        }
        // Of a redirect the Content-Length is its own.
        let length =
            answer.header("x-linked-size").or_else(|| answer.header("content-length").filter(|_| location.is_none()));
        Ok(Location {
            credential: self.credential.clone().filter(|_| location.is_none()),
            size: length.and_then(|size| size.trim().parse().ok()),
            url: location.unwrap_or_else(|| answer.url().clone()),
            version: tag,
            same_tag: false,
        })
    }

    /// Reads a short file, and compares it with its hash.
    ///
    /// # Errors
    /// When it is longer than `limit` bytes, or can't be had, or is not what was listed.
    pub async fn read(&self, id: &ModelName, commit: &str, file: &Entry, limit: u64) -> Result<Vec<u8>, HubError> {
        let url = self.address(&[&id.owner, &id.name, "resolve", commit], Some(&file.path));
        let what = format!("{id}/{}", file.path);
        if file.size > limit {
            return Err(HttpError::TooLong { url: shown(&url), limit }.into());
        }
        let request = Request { hops: Hops::All, ..self.get(&url) };
        let mut answer = self.expect(&what, id, self.http.ask(&request).await?).await?;
        let bytes = answer.body(limit).await?;
        let mut hasher = Hasher::new(file.size, Some(file.published));
        hasher.update(&bytes);
        match hasher.finish() {
            Ok(_) => Ok(bytes),
            Err(found) => {
                Err(HubError::Changed { what, expected: file.published.to_string(), found: found.to_string() })
            }
        }
    }

    /// Asks whether a repository's files may be downloaded, without downloading any.
    ///
    /// # Errors
    /// When they may not.
    pub async fn check_access(&self, id: &ModelName) -> Result<(), HubError> {
        let url = self.address(&["api", "models", &id.owner, &id.name, "auth-check"], None);
        self.expect(&id.to_string(), id, self.http.ask(&self.get(&url)).await?).await?;
        Ok(())
    }

    async fn expect(&self, what: &str, id: &ModelName, answer: Answer) -> Result<Answer, HubError> {
        if answer.status() == 200 { Ok(answer) } else { Err(self.denied(what, id, answer).await) }
    }

    async fn denied(&self, what: &str, id: &ModelName, mut answer: Answer) -> HubError {
        let code = answer.header("x-error-code").map(str::to_owned);
        let mut message = answer.header("x-error-message").unwrap_or_default().to_owned();
        if message.is_empty() {
            // Where it is not in a header it is in the body, if anywhere.
            let body = answer.body(1 << 16).await.unwrap_or_default();
            let body: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
            message = body.and_then(|body| Some(body.get("error")?.as_str()?.to_owned())).unwrap_or_default();
        }
        let denial = Denial::of(answer.status(), code.as_deref(), &message, self.credential.is_some());
        HubError::Denied {
            status: answer.status(),
            code: code.as_deref().map(printable),
            what: what.to_owned(),
            page: self.page(id),
            endpoint: shown(&self.endpoint).trim_end_matches('/').to_owned(),
            denial,
            said: match printable(&message) {
                message if message.is_empty() => String::new(),
                message => format!(" ({} says: {message})", host(&self.endpoint)),
            },
        }
    }
}

/// A stranger's words, short and in one line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect::<String>().trim().to_owned()
}

fn warnings(answer: &Answer) -> Vec<String> {
    answer.headers("x-hf-warning").map(printable).filter(|warning| !warning.is_empty()).take(20).collect()
}

async fn json<T: serde::de::DeserializeOwned>(
    answer: &mut Answer,
    limit: u64,
    expected: &'static str,
) -> Result<T, HubError> {
    let url = shown(answer.url());
    let body = answer.body(limit).await?;
    serde_json::from_slice(&body).map_err(|error| HubError::Answer { url, expected, why: error.to_string() })
}

/// The address of `Link: <…>; rel="next"`. (RFC 8288.)
fn next_page(answer: &Answer) -> Option<Url> {
    let links = answer.headers("link").flat_map(|header| header.split(','));
    let next = links.filter_map(|link| link.trim().split_once(';')).find(|(_, parameters)| {
        parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"))
    });
    let address = next?.0.trim().strip_prefix('<')?.strip_suffix('>')?;
    answer.url().join(address).ok()
}

impl Entry {
    fn read(entry: TreeEntry, id: &ModelName, url: &Url) -> Result<Entry, HubError> {
        let path: SafePath = entry.path.parse().map_err(|source| HubError::Path { id: id.clone(), source })?;
        let wrong = |why: String| HubError::Answer { url: shown(url), expected: "a list of files as JSON", why };
        let published = match &entry.lfs {
            Some(lfs) if lfs.size != entry.size => {
                return Err(wrong(format!("{path} has two sizes, {} and {}", entry.size, lfs.size)));
            }
            // Some listings write the hash with its name.
            Some(lfs) => lfs.oid.trim_start_matches("sha256:").parse().map(Published::Sha256),
            None => entry.oid.parse().map(Published::GitBlob),
        };
        let published = published.map_err(|error| wrong(format!("{path}: {error}")))?;
        Ok(Entry { path, size: entry.size, published })
    }

    /// The file to download.
    #[must_use]
    pub fn item(&self) -> Item {
        Item { path: self.path.clone(), size: Some(self.size), published: Some(self.published), tree: None }
    }
}

impl Listing {
    /// The file of this path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Entry> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    /// The files that belong to a model: weights, configuration, tokenizer, terms and card, small ones first. What lies in
    /// folders is left out: `original/` has everything once more, in Meta's form.
    ///
    /// # Errors
    /// When there are no weights.
    pub fn select(&self) -> Result<Vec<Entry>, HubError> {
        let mut selected: Vec<Entry> = self.files.iter().filter(|file| belongs(file.path.as_str())).cloned().collect();
        if !selected.iter().any(|file| is_weights(file.path.as_str())) {
            let ggufs = self.files.iter().map(|file| file.path.as_str()).filter(|path| path.ends_with(".gguf"));
            let ggufs: Vec<&str> = ggufs.take(5).collect();
            let hint = match ggufs[..] {
                [] => String::new(),
                _ => format!(
                    ", but GGUF files ({}): choose one, and give its address, …/{}/resolve/main/{}",
                    ggufs.join(", "),
                    self.id,
                    ggufs[0]
                ),
            };
            return Err(HubError::NoWeights { id: self.id.clone(), hint });
        }
        selected.sort_by(|a, b| (is_weights(a.path.as_str()), &a.path).cmp(&(is_weights(b.path.as_str()), &b.path)));
        Ok(selected)
    }
}

fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors")
}

fn belongs(path: &str) -> bool {
    let known = ["config.json", "generation_config.json", "model.safetensors.index.json", "special_tokens_map.json"];
    let stem = path.split('.').next().unwrap_or(path).to_ascii_uppercase();
    let is_text = ["LICENSE", "LICENCE", "USE_POLICY", "README", "NOTICE"].contains(&stem.as_str());
    !path.contains('/')
        && (is_weights(path)
            || known.contains(&path)
            || path.starts_with("tokenizer")
            || path.starts_with("chat_template")
            || is_text)
}

/// Refuses a `config.json` that is not a Llama's, or wants code to be run.
///
/// # Errors
/// With what it is instead.
pub fn check_config(id: &ModelName, json: &[u8]) -> Result<(), HubError> {
    let error = |why: String| HubError::NotLlama { id: id.clone(), why };
    if json.len() as u64 > MAX_CONFIG {
        return Err(error(format!("its config.json has {} bytes, expected at most {MAX_CONFIG}", json.len())));
    }
    let config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|source| error(format!("its config.json can't be read ({source})")))?;
    if config.contains_key("auto_map") {
        return Err(error("its config.json has auto_map, which asks to run code that comes with it".to_owned()));
    }
    let architectures = config.get("architectures").and_then(serde_json::Value::as_array);
    match architectures.map(Vec::as_slice) {
        Some([one]) if matches!(one.as_str(), Some("LlamaForCausalLM" | "LLaMAForCausalLM")) => Ok(()),
        Some(others) => {
            let names = others.iter().map(|name| name.as_str().unwrap_or("?")).take(3).collect::<Vec<_>>().join(", ");
            Err(error(format!("expected the architecture LlamaForCausalLM, found {:?}", printable(&names))))
        }
        None => Err(error("its config.json names no architecture".to_owned())),
    }
}

/// The files of a listing, for a download.
pub struct Files {
    hub: Hub,
    id: ModelName,
    commit: String,
    files: Vec<Entry>,
}

impl Files {
    /// Those of a repository at its commit.
    #[must_use]
    pub fn new(hub: &Hub, listing: &Listing) -> Files {
        Files { hub: hub.clone(), id: listing.id.clone(), commit: listing.commit.clone(), files: listing.files.clone() }
    }
}

impl Locate for Files {
    fn locate<'a>(&'a self, path: &'a SafePath) -> BoxFuture<'a, Result<Location, LocateError>> {
        Box::pin(async move {
            let Some(file) = self.files.iter().find(|file| file.path == *path) else {
                return Err(format!("{}: the listing has no {path}", self.id).into());
            };
            Ok(self.hub.locate(&self.id, &self.commit, file).await?)
        })
    }
}

/// A token that was found, and is none.
#[derive(Debug, thiserror::Error)]
pub enum TokenPlaceError {
    /// Something else than a token.
    #[error("{place}: {source}")]
    Token {
        /// Where.
        place: String,
        /// What is wrong.
        source: TokenError,
    },
    /// A file that can't be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The user's token where the hub's own programs keep it, and where that is. `env` gives variables of the environment.
///
/// # Errors
/// When what is there is no token, or can't be read.
pub fn find_token(env: impl Fn(&str) -> Option<String>) -> Result<Option<(Token, String)>, TokenPlaceError> {
    let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let token = |place: String, text: &str| {
        let token = text.parse().map_err(|source| TokenPlaceError::Token { place: place.clone(), source })?;
        Ok(Some((token, place)))
    };
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(text) = env(name) {
            return token(name.to_owned(), &text);
        }
    }
    let in_home = || Some(PathBuf::from(env("HOME").or_else(|| env("USERPROFILE"))?).join(".cache"));
    let cache = || env("XDG_CACHE_HOME").map(PathBuf::from).or_else(in_home).map(|cache| cache.join("huggingface"));
    let home = || env("HF_HOME").map(PathBuf::from).or_else(cache).map(|home| home.join("token"));
    let Some(path) = env("HF_TOKEN_PATH").map(PathBuf::from).or_else(home) else {
        return Ok(None);
    };
    match read_short(&path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => token(path.display().to_string(), &text),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(TokenPlaceError::Io { path, source }),
    }
}

fn read_short(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // More than any token has, so that what is none is noticed.
    std::io::Read::read_to_string(&mut std::io::Read::take(std::fs::File::open(path)?, 8192), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn id() -> ModelName {
        "meta-llama/Llama-3.1-8B".parse().unwrap()
    }

    #[test]
    fn denials() {
        let gated = Some("GatedRepo");
        let not_asked = "Access to model a/b is restricted and you are not in the authorized list.";
        for (status, code, message, has_token, expected) in [
            (401, gated, "Access to model a/b is restricted. Please log in.", false, Denial::NoToken),
            (401, gated, "", true, Denial::BadToken),
            (401, None, "Invalid credentials in Authorization header", true, Denial::BadToken),
            (403, gated, not_asked, true, Denial::NotAsked),
            (403, gated, "Your request is awaiting a review from the repo authors.", true, Denial::Waiting),
            (403, gated, "Your request has been rejected by the repo's authors.", true, Denial::Refused),
            (403, None, "enable access in your fine-grained token settings", true, Denial::NarrowToken),
            (403, None, "Access to this resource is disabled.", true, Denial::Disabled),
            (401, Some("RepoNotFound"), "Repository not found", false, Denial::Missing),
            (404, Some("RepoNotFound"), "Repository not found", true, Denial::Missing),
            (404, Some("RevisionNotFound"), "", false, Denial::NoRevision),
            (404, Some("EntryNotFound"), "", false, Denial::NoEntry),
            (401, None, "", false, Denial::Unclear),
            (418, None, "", false, Denial::Other(418)),
        ] {
            assert_eq!(Denial::of(status, code, message, has_token), expected, "{status} {code:?} {message}");
        }
    }

    #[test]
    fn what_belongs_to_a_model() {
        let file = |path: &str| Entry {
            path: path.parse().unwrap(),
            size: 1,
            published: Published::GitBlob(crate::digest::Hex([0; 20])),
        };
        let listing = |paths: &[&str]| Listing {
            id: id(),
            commit: "0".repeat(40),
            gated: None,
            files: paths.iter().map(|path| file(path)).collect(),
            warnings: Vec::new(),
        };
        let all = listing(&[
            ".gitattributes",
            "LICENSE",
            "README.md",
            "USE_POLICY.md",
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "original/params.json",
            "pytorch_model.bin",
            "modeling_evil.py",
            "tokenizer.json",
        ]);
        let selected = all.select().unwrap();
        let paths: Vec<&str> = selected.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "LICENSE",
                "README.md",
                "USE_POLICY.md",
                "config.json",
                "generation_config.json",
                "model.safetensors.index.json",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
        let error = listing(&["a-Q4_0.gguf", "README.md"]).select().unwrap_err().to_string();
        assert!(
            error.contains("but GGUF files (a-Q4_0.gguf)") && error.contains("/resolve/main/a-Q4_0.gguf"),
            "{error}"
        );
    }

    #[test]
    fn configurations() {
        let check = |json: &str| check_config(&id(), json.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(check(r#"{"architectures": ["LlamaForCausalLM"]}"#), Ok(()));
        for (json, part) in [
            (r#"{"architectures": ["LlamaForCausalLM"], "auto_map": {}}"#, "auto_map"),
            (r#"{"architectures": ["Qwen2ForCausalLM"]}"#, "found \"Qwen2ForCausalLM\""),
            (r#"{"architectures": []}"#, "found \"\""),
            ("{}", "names no architecture"),
            ("[]", "can't be read"),
            (&"[".repeat(100_000), "can't be read"),
            (&" ".repeat(MAX_CONFIG as usize + 1), "expected at most"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn where_tokens_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir_all(path("cache/huggingface")).unwrap();
        std::fs::write(path("cache/huggingface/token"), "hf_cached\n").unwrap();
        std::fs::write(path("bad"), "two words").unwrap();
        let find = |variables: &[(&str, String)]| {
            let variables: HashMap<&str, String> = variables.iter().cloned().collect();
            find_token(|name| variables.get(name).cloned())
        };
        let place = |variables: &[(&str, String)]| find(variables).unwrap().map(|(_, place)| place);
        assert_eq!(place(&[]), None);
        assert_eq!(place(&[("HOME", path("nobody"))]), None);
        let cache = ("XDG_CACHE_HOME", path("cache"));
        assert_eq!(place(std::slice::from_ref(&cache)), Some(path("cache/huggingface/token")));
        assert_eq!(place(&[cache, ("HF_TOKEN", "hf_x".into())]), Some("HF_TOKEN".into()));
        let error = find(&[("HF_TOKEN_PATH", path("bad"))]).unwrap_err().to_string();
        assert!(error.starts_with(&path("bad")) && !error.contains("two words"), "{error}");
    }
}
