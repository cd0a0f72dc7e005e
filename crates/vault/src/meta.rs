//! Meta's own files, by the signed link that it sends by e-mail after its form was filled in.
//!
//! The link is good for 24 hours and for some downloads; it opens everything that was asked for, so it is a secret, and
//! nothing of it is kept but the beginning of its hash.

use crate::catalogue::{Model, Native, TOKENIZER};
use crate::digest::{Hex, Published, sha256};
use crate::download::{Item, Locate, LocateError, Location, ProbeError, probe};
use crate::http::{Http, HttpError, Request, Url, host, is_this_machine, shown};
use crate::path::{PathError, SafePath};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

/// The domain of all such links.
const DOMAIN: &str = "llamameta.net";
/// The longest checklist, in bytes; that of the largest model has some 1,500.
const MAX_CHECKLIST: u64 = 1 << 20;
/// The longest of the terms, in bytes.
const MAX_TERMS: u64 = 1 << 20;

/// A signed link. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Link(Url);

/// A text that is no [`Link`]. It does not say which text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No address.
    #[error("expected the link of Meta's e-mail, which begins with https://, found something else: copy all of it")]
    Address,
    /// Somebody else's.
    #[error("expected a link to {DOMAIN}, found one to {0}: refused, since it would be told what you look for")]
    Host(String),
    /// Nothing to be replaced by files' names.
    #[error("expected a link with * for the files' names, as Meta's e-mail has it, found one to something else")]
    Star,
    /// No signature.
    #[error(
        "the link has no signature: copy all of it, and put it in single quotes, since shells read & and * themselves"
    )]
    Unsigned,
}

impl Link {
    /// Whether an address is one of Meta's, so that a link is meant.
    #[must_use]
    pub fn is_like(url: &Url) -> bool {
        url.host_str().is_some_and(|host| host == DOMAIN || host.ends_with(&format!(".{DOMAIN}")))
    }

    /// What tells one link from another, and gives nothing away: the beginning of its hash.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256(self.0.as_str().as_bytes()).to_string()[..16].to_owned()
    }

    /// The address of a file.
    fn to(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Link, LinkError> {
        let url = Url::parse(text.trim()).map_err(|_| LinkError::Address)?;
        let host = url.host_str().ok_or(LinkError::Address)?;
        match url.scheme() {
            "https" if Link::is_like(&url) => {}
            "https" | "http" if is_this_machine(&url) => {}
            "https" => return Err(LinkError::Host(host.to_owned())),
            _ => return Err(LinkError::Address),
        }
        if url.path() != "/*" {
            return Err(LinkError::Star);
        }
        // (CloudFront's signed addresses have all three of Policy, Signature and Key-Pair-Id.)
        if !url.query_pairs().any(|(name, value)| name == "Signature" && !value.is_empty()) {
            return Err(LinkError::Unsigned);
        }
        Ok(Link(url))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.fingerprint())
    }
}

/// What goes wrong with Meta's files.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The link opens nothing any more.
    #[error(
        "{what}: {host} refuses the link (403): it is older than 24 hours, or was used too often, or is for other models. \
         Ask for a new one with Meta's form at llama.com, choosing {model}, and run the same command with it: everything \
         that came is kept"
    )]
    Refused {
        /// What was asked for.
        what: String,
        /// Who refuses.
        host: String,
        /// Which model.
        model: String,
    },
    /// Something else than a file.
    #[error("{what}: {answer}")]
    Answer {
        /// What was asked for.
        what: String,
        /// Who answered what.
        answer: String,
    },
    /// A line of the checklist that is none.
    #[error("checklist.chk: line {line}: expected an MD5, two spaces and a file's name, found {found:?}")]
    Line {
        /// From 1.
        line: usize,
        /// What is there, cut off behind some length.
        found: String,
    },
    /// A name that leads elsewhere.
    #[error("checklist.chk: refused: {0}")]
    Path(#[from] PathError),
    /// A name that is there twice.
    #[error("checklist.chk: refused: it has {0} twice, but for the case of letters")]
    Twice(SafePath),
    /// Files that should be there.
    #[error("checklist.chk of {folder}: expected {missing} too, which it does not list: this is not the model")]
    Missing {
        /// The folder.
        folder: String,
        /// Which files.
        missing: String,
    },
    /// Another hash than is known.
    #[error("checklist.chk: expected {expected} of {path}, found MD5 {found}: these are other files than are known")]
    Other {
        /// The file.
        path: SafePath,
        /// The known hash.
        expected: Published,
        /// What the list says.
        found: Hex<16>,
    },
}

/// Reads `checklist.chk`, which is what `md5sum` writes.
///
/// # Errors
/// When a line is none, or a name leads elsewhere or is there twice.
pub fn parse_checklist(text: &str) -> Result<BTreeMap<SafePath, Hex<16>>, MetaError> {
    let mut files = BTreeMap::new();
    let mut folded = std::collections::BTreeSet::new();
    for (idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let error = || MetaError::Line { line: idx + 1, found: line.chars().take(80).collect() };
        let (hash, name) = line.split_at_checked(32).ok_or_else(error)?;
        let hash: Hex<16> = hash.parse().map_err(|_| error())?;
        // A star says that the file was read as binary, which is all the same.
        let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *")).ok_or_else(error)?;
        let path: SafePath = name.strip_prefix("./").unwrap_or(name).trim_end_matches('\r').parse()?;
        if !folded.insert(path.folded()) {
            return Err(MetaError::Twice(path));
        }
        files.insert(path, hash);
    }
    Ok(files)
}

/// Meta's server, with a link to it.
#[derive(Clone)]
pub struct Meta {
    http: Http,
    link: Link,
}

/// The files of a model in Meta's form.
pub struct Files {
    meta: Meta,
    model: String,
    /// The folder, as it is called for this link.
    folder: String,
    /// What is to be downloaded.
    pub items: Vec<Item>,
    /// Where files were when they were listed; each address is given once.
    located: Mutex<HashMap<SafePath, Location>>,
}

impl Meta {
    /// Files by this link.
    #[must_use]
    pub fn new(http: Http, link: Link) -> Meta {
        Meta { http, link }
    }

    /// The licence and the use policy, which lie beside the models' folders. `None` where a link has them no more.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn terms(&self) -> Result<[(&'static str, Option<Vec<u8>>); 2], MetaError> {
        let mut terms = [("LICENSE", None), ("USE_POLICY.md", None)];
        for (name, bytes) in &mut terms {
            let url = self.link.to(name);
            let mut answer = self.http.ask(&Request::get(&url)).await?;
            if answer.status() == 200 && answer.content_type().as_deref() != Some("text/html") {
                *bytes = Some(answer.body(MAX_TERMS).await?);
            }
        }
        Ok(terms)
    }

    /// What the checklist says of a model, and how large its files are.
    ///
    /// # Errors
    /// When the link opens it no more, or the list is not the model's.
    pub async fn list(&self, model: &Model, native: &Native) -> Result<Files, MetaError> {
        let (folder, checklist) = self.checklist(native).await?;
        let text = String::from_utf8_lossy(&checklist);
        let mut files: BTreeMap<SafePath, Option<Published>> =
            parse_checklist(&text)?.into_iter().map(|(path, hash)| (path, Some(Published::Md5(hash)))).collect();
        for (path, known) in &native.md5 {
            if let Some(Some(Published::Md5(found))) =
                files.get(path).filter(|found| **found != Some(Published::Md5(*known)))
            {
                return Err(MetaError::Other { path: path.clone(), expected: Published::Md5(*known), found: *found });
            }
        }
        let mut missing = Vec::new();
        for name in native.files(model.fp8) {
            let path: SafePath = name.parse()?;
            if files.contains_key(&path) {
                continue;
            }
            match path.as_str() {
                "tokenizer.model" => {
                    let known = TOKENIZER.parse().expect("a test reads it");
                    files.insert(path, Some(Published::Sha256(known)));
                }
                // The checklists of the scales are not known to have them.
                _ if name == "params.json" || name.starts_with("fp8_scales") => {
                    files.insert(path, None);
                }
                _ => missing.push(name),
            }
        }
        if !missing.is_empty() {
            return Err(MetaError::Missing { folder, missing: missing.join(", ") });
        }
        // It is kept with the rest, as it came.
        let list: SafePath = "checklist.chk".parse()?;
        files.insert(list, Some(Published::Sha256(sha256(&checklist))));
        let mut listed = Files {
            meta: self.clone(),
            model: native.id.clone(),
            folder,
            items: Vec::new(),
            located: Mutex::default(),
        };
        for (path, published) in files {
            let location = listed.find(&path).await?;
            listed.items.push(Item { path: path.clone(), size: location.size, published, tree: None });
            listed.located.lock().expect("nothing panics with it").insert(path, location);
        }
        // Small ones first, so that what is wrong with the model is seen early.
        listed.items.sort_by_key(|item| item.size);
        Ok(listed)
    }

    /// The checklist, and the name of the folder that it is in.
    async fn checklist(&self, native: &Native) -> Result<(String, Vec<u8>), MetaError> {
        let what = format!("{}/checklist.chk", native.folder);
        let mut refused = None;
        for folder in std::iter::once(&native.folder).chain(&native.old_folders) {
            let url = self.link.to(&format!("{folder}/checklist.chk"));
            let mut answer = self.http.ask(&Request::get(&url)).await?;
            match answer.status() {
                200 => return Ok((folder.clone(), answer.body(MAX_CHECKLIST).await?)),
                // The server says 403 of what is not there, too.
                403 | 404 => refused = Some(host(&url)),
                _ => return Err(MetaError::Answer { what, answer: answer.to_string() }),
            }
        }
        Err(MetaError::Refused { what, host: refused.unwrap_or_default(), model: native.id.clone() })
    }
}

impl Files {
    /// The name of the folder, for records.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The server refuses to tell sizes without bytes (HEAD) of large files, so one byte is asked for.
    async fn find(&self, path: &SafePath) -> Result<Location, MetaError> {
        let url = self.meta.link.to(&format!("{}/{path}", self.folder));
        let what = format!("{}/{path}", self.folder);
        match probe(&self.meta.http, &url, None).await {
            // Where it ends may be signed for less time than the link.
            Ok(location) => Ok(Location { url, ..location }),
            Err(ProbeError::Http(error)) => Err(error.into()),
            Err(ProbeError::Denied(answer)) if answer.status() == 403 => {
                Err(MetaError::Refused { what, host: host(&url), model: self.model.clone() })
            }
            Err(ProbeError::Denied(answer)) => Err(MetaError::Answer { what: shown(&url), answer: answer.to_string() }),
        }
    }
}

impl Locate for Files {
    fn locate<'a>(&'a self, path: &'a SafePath) -> BoxFuture<'a, Result<Location, LocateError>> {
        Box::pin(async move {
            if let Some(location) = self.located.lock().expect("nothing panics with it").remove(path) {
                return Ok(location);
            }
            Ok(self.find(path).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: &str = "https://llama3-1.llamameta.net/*?Policy=p&Signature=secret&Key-Pair-Id=k";

    #[test]
    fn links() {
        let link: Link = format!(" {LINK}\n").parse().unwrap();
        assert_eq!(format!("{link:?}"), format!("Link({})", link.fingerprint()));
        assert_eq!(link.fingerprint().len(), 16);
        assert_eq!(
            link.to("Llama-3.1-8B/consolidated.00.pth").as_str(),
            "https://llama3-1.llamameta.net/Llama-3.1-8B/consolidated.00.pth?Policy=p&Signature=secret&Key-Pair-Id=k"
        );
        for (text, expected) in [
            ("", LinkError::Address),
            ("llama3-1.llamameta.net/*", LinkError::Address),
            ("http://llama3-1.llamameta.net/*?Signature=s", LinkError::Address),
            ("https://evil.test/*?Signature=s&x=llamameta.net", LinkError::Host("evil.test".into())),
            ("https://llamameta.net.evil.test/*?Signature=s", LinkError::Host("llamameta.net.evil.test".into())),
            ("https://evilllamameta.net/*?Signature=s", LinkError::Host("evilllamameta.net".into())),
            ("https://llama3-1.llamameta.net/a?Signature=s", LinkError::Star),
            ("https://llama3-1.llamameta.net/*", LinkError::Unsigned),
            ("https://llama3-1.llamameta.net/*?Policy=p&Signature=", LinkError::Unsigned),
        ] {
            assert_eq!(text.parse::<Link>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn checklists() {
        let md5 = "0".repeat(32);
        let text = format!("{md5}  ./params.json\n{md5}  consolidated.00.pth\r\n\n{md5} *..hidden\n");
        let files = parse_checklist(&text).unwrap();
        let paths: Vec<&str> = files.keys().map(SafePath::as_str).collect();
        assert_eq!(paths, ["..hidden", "consolidated.00.pth", "params.json"]);
        for (line, part) in [
            (format!("{md5}  ../x"), "leads out of its folder"),
            (format!("{md5}  ././x"), "leads out of its folder"),
            (format!("{md5}  /etc/passwd"), "is empty"),
            (format!("{md5}  a\n{md5}  A"), "twice"),
            (format!("{md5}a"), "line 1: expected an MD5"),
            (format!("{}é  x", &md5[1..]), "line 1: expected an MD5"),
            ("<html>".to_owned(), "line 1: expected an MD5"),
        ] {
            let error = parse_checklist(&line).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_checklist_is_too_odd(text in "([0-9a-f]{32}[ *]{0,3}[./a-z:é\\\\]{0,20}\n|.{0,60}\n){0,5}") {
            if let Ok(files) = parse_checklist(&text) {
                prop_assert!(files.keys().all(|path| !path.as_str().split('/').any(|part| part == "..")));
            }
        }
    }
}
