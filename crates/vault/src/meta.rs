//! Meta's own files, by the signed link that it sends by e-mail after its form was filled in.
//!
//! The link is good for 24 hours and for some downloads; it opens everything that was asked for, so it is a secret, and
//! nothing of it is kept but the beginning of its hash.

use crate::catalogue::{Model, Native, TOKENIZER};
use crate::checklist::{self, ChecklistError, MAX_CHECKLIST};
use crate::digest::{Hex, Published, sha256};
use crate::download::{Item, Locate, LocateError, Location, ProbeError, probe};
use crate::http::{Http, HttpError, Request, Url, host, is_this_machine, shown};
use crate::path::{PathError, SafePath};
use crate::record::MAX_DOCUMENT;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

/// The domain of all such links.
const DOMAIN: &str = "llamameta.net";

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
    pub fn fingerprint(&self) -> Hex<4> {
        let [a, b, c, d, ..] = sha256(self.0.as_str().as_bytes()).0;
        Hex([a, b, c, d])
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
    /// A list that is none.
    #[error(transparent)]
    Checklist(#[from] ChecklistError),
    /// A name that leads elsewhere.
    #[error(transparent)]
    Path(#[from] PathError),
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

    /// The address of a file beside the models' folders, without what is secret in it.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        shown(&self.link.to(name))
    }

    /// The licence and the use policy, which lie beside the models' folders. `None` where a link has them no more.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn terms(&self) -> Result<[(&'static str, Option<Vec<u8>>); 2], MetaError> {
        let mut terms = [("LICENSE", None), ("USE_POLICY.md", None)];
        for (name, bytes) in &mut terms {
            *bytes = self.http.text(&self.link.to(name), MAX_DOCUMENT).await?;
        }
        Ok(terms)
    }

    /// What the checklist says of a model, and how large its files are.
    ///
    /// # Errors
    /// When the link opens it no more, or the list is not the model's.
    pub async fn list(&self, model: &Model, native: &Native) -> Result<Files, MetaError> {
        let (folder, checklist) = self.checklist(native).await?;
        let mut files: BTreeMap<SafePath, Option<Published>> =
            checklist::parse(&checklist)?.into_iter().map(|(path, hash)| (path, Some(Published::Md5(hash)))).collect();
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

    const LINK: &str = "https://llama3-1.llamameta.net/*?Policy=p&Signature=secret&Key-Pair-Id=k";

    #[test]
    fn links() {
        let link: Link = format!(" {LINK}\n").parse().unwrap();
        assert_eq!(format!("{link:?}"), format!("Link({})", link.fingerprint()));
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
}
