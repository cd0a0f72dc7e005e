//! What `puna pull` is told to get: a name of the catalogue, a repository of the hub, Meta's signed link, an address, a
//! path.

use crate::catalogue::{self, Model, Native};
use crate::http::{Url, is_this_machine};
use crate::manifest::ModelName;
use crate::meta::{Link, LinkError};
use crate::path::SafePath;
use std::path::{Path, PathBuf};

/// Where a model is to come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A name of the catalogue: `llama-3.1-8b-instruct`.
    Catalogue(&'static Model),
    /// A repository of the Hugging Face hub: `hf:owner/name`, `hf:owner/name@revision`, or the address of a file in it.
    Hub {
        /// The repository.
        id: ModelName,
        /// Branch, tag or commit; none for `main`.
        revision: Option<String>,
        /// One file of it, rather than all that belongs to a model.
        file: Option<SafePath>,
    },
    /// Meta's own files: `meta:MODEL`, or the signed link of the e-mail.
    Meta {
        /// Which model; none if only a link was given.
        model: Option<(&'static Model, &'static Native)>,
        /// The link; none if only a model was given.
        link: Option<Link>,
    },
    /// A GGUF file at an address.
    Url(Url),
    /// A file or folder of this machine.
    Local(PathBuf),
}

/// What is no [`Source`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing of the kind.
    #[error(
        "expected a model such as llama-3.1-8b-instruct, hf:owner/name, meta:MODEL, https://….gguf or a path, found \
         {found:?}{}", .nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
    )]
    Unknown {
        /// What was given.
        found: String,
        /// What was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// A path where nothing is.
    #[error("{0}: there is no such file or folder")]
    NoPath(PathBuf),
    /// `hf:` and something else than a repository.
    #[error(
        "expected hf:owner/name or hf:owner/name@revision, of letters, digits, '-', '_' and '.', found {0:?}; the name \
         is what follows the hub's address in a browser"
    )]
    Hub(String),
    /// `meta:` and no model.
    #[error(
        "expected meta: and one of Meta's models such as Llama3.1-8B-Instruct, found {found:?}{}",
        .nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default()
    )]
    Meta {
        /// What was given.
        found: String,
        /// What was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// A signed link that is none.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An address that no model can be got from.
    #[error("{url}: {why}")]
    Url {
        /// The address, without what may be secret in it.
        url: String,
        /// Why not.
        why: &'static str,
    },
}

/// The host of the hub's pages.
const HUB: &str = "huggingface.co";

impl Source {
    /// Reads what was given. `exists` says whether a path leads to something.
    ///
    /// # Errors
    /// When it is nothing that a model can come from.
    pub fn parse(text: &str, exists: impl Fn(&Path) -> bool) -> Result<Source, SourceError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix("hf:") {
            return hub(rest).ok_or_else(|| SourceError::Hub(cut(rest)));
        }
        if let Some(rest) = text.strip_prefix("meta:") {
            return meta(rest.trim());
        }
        if text.contains("://") {
            return url(text);
        }
        if let Some(model) = catalogue::find(text) {
            return Ok(Source::Catalogue(model));
        }
        let path = Path::new(text);
        if !text.is_empty() && exists(path) {
            return Ok(Source::Local(path.to_owned()));
        }
        // A repository whose `hf:` was forgotten can't be told from a path; a path was meant if it looks like one.
        if text.starts_with(['/', '.', '~']) || text.contains('\\') {
            return Err(SourceError::NoPath(path.to_owned()));
        }
        let names = catalogue::models().iter().map(|model| model.name.as_str());
        Err(SourceError::Unknown { found: cut(text), nearest: catalogue::nearest(text, names) })
    }
}

fn hub(text: &str) -> Option<Source> {
    let (id, revision) = match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    };
    if !revision.is_none_or(is_revision) {
        return None;
    }
    Some(Source::Hub { id: id.parse().ok()?, revision: revision.map(str::to_owned), file: None })
}

/// Whether a text can be a branch, tag or commit, and a part of an address.
#[must_use]
pub fn is_revision(text: &str) -> bool {
    text.len() <= 200 && text.parse::<SafePath>().is_ok() && !text.contains(['%', '#', '&', '@', ' '])
}

fn meta(text: &str) -> Result<Source, SourceError> {
    if text.contains("://") {
        return Ok(Source::Meta { model: None, link: Some(text.parse()?) });
    }
    let Some(found) = catalogue::find_native(text) else {
        let ids = catalogue::models().iter().flat_map(|model| &model.native).map(|native| native.id.as_str());
        return Err(SourceError::Meta { found: cut(text), nearest: catalogue::nearest(text, ids) });
    };
    Ok(Source::Meta { model: Some(found), link: None })
}

fn url(text: &str) -> Result<Source, SourceError> {
    let error = |url: String, why| SourceError::Url { url, why };
    let Ok(url) = Url::parse(text) else {
        let begin: String = text.split(['?', '@']).next().unwrap_or_default().chars().take(80).collect();
        return Err(error(begin, "not an address"));
    };
    let shown = crate::http::shown(&url);
    if Link::is_like(&url) {
        return Ok(Source::Meta { model: None, link: Some(text.parse()?) });
    }
    if url.scheme() != "https" && !(url.scheme() == "http" && is_this_machine(&url)) {
        return Err(error(shown, "expected an address that begins with https://"));
    }
    if url.host_str() == Some(HUB) {
        return hub_page(&url).ok_or_else(|| error(shown, "not a model's page or file: write hf:owner/name"));
    }
    if !url.path().to_ascii_lowercase().ends_with(".gguf") {
        return Err(error(shown, "expected the address of a file whose name ends with .gguf"));
    }
    Ok(Source::Url(url))
}

/// `/owner/name`, `/owner/name/tree/revision`, and `/owner/name/resolve/revision/path` or with `blob`.
fn hub_page(url: &Url) -> Option<Source> {
    let parts: Vec<&str> = url.path().trim_matches('/').splitn(5, '/').collect();
    let id = |owner: &str, name: &str| format!("{owner}/{name}").parse::<ModelName>().ok();
    let revision = |revision: &str| is_revision(revision).then(|| Some(revision.to_owned()));
    match parts[..] {
        [owner, name] => Some(Source::Hub { id: id(owner, name)?, revision: None, file: None }),
        [owner, name, "tree", at] => Some(Source::Hub { id: id(owner, name)?, revision: revision(at)?, file: None }),
        [owner, name, "resolve" | "blob", at, path] if !path.contains('%') => {
            Some(Source::Hub { id: id(owner, name)?, revision: revision(at)?, file: Some(path.parse().ok()?) })
        }
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Source, SourceError> {
        Source::parse(text, |path| path == Path::new("models/mine"))
    }

    /// A short form for comparison.
    fn kind(text: &str) -> String {
        match parse(text).unwrap() {
            Source::Catalogue(model) => format!("catalogue {}", model.name),
            Source::Hub { id, revision, file } => format!("hub {id} {revision:?} {:?}", file.map(String::from)),
            Source::Meta { model, link } => format!("meta {:?} {}", model.map(|(_, n)| &n.id), link.is_some()),
            Source::Url(url) => format!("url {url}"),
            Source::Local(path) => format!("local {}", path.display()),
        }
    }

    #[test]
    fn sources() {
        assert_eq!(kind(" Llama-3.1-8B-Instruct "), "catalogue llama-3.1-8b-instruct");
        assert_eq!(kind("hf:a/b"), "hub a/b None None");
        assert_eq!(kind("hf:a/b@refs/pr/1"), "hub a/b Some(\"refs/pr/1\") None");
        assert_eq!(kind("https://huggingface.co/a/b"), "hub a/b None None");
        assert_eq!(kind("https://huggingface.co/a/b/tree/main"), "hub a/b Some(\"main\") None");
        let file = "hub a/b Some(\"main\") Some(\"x/y.gguf\")";
        assert_eq!(kind("https://huggingface.co/a/b/resolve/main/x/y.gguf?download=true"), file);
        assert_eq!(kind("meta:llama3.1-8b"), "meta Some(\"Llama3.1-8B\") false");
        assert_eq!(kind("https://llama3-1.llamameta.net/*?Policy=p&Signature=s"), "meta None true");
        assert_eq!(kind("https://a.test/x.GGUF?y"), "url https://a.test/x.GGUF?y");
        assert_eq!(kind("http://127.0.0.1:8/x.gguf"), "url http://127.0.0.1:8/x.gguf");
        assert_eq!(kind("models/mine"), "local models/mine");
    }

    #[test]
    fn what_is_none() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert!(error("llama3.1-8b").ends_with("found \"llama3.1-8b\"; did you mean llama-3.1-8b?"));
        assert!(error("meta:Llama3.1-8B-Instrukt").ends_with("did you mean Llama3.1-8B-Instruct?"));
        assert!(error("qwen").ends_with("found \"qwen\""));
        assert_eq!(error("./nowhere"), "./nowhere: there is no such file or folder");
        for text in ["hf:", "hf:a", "hf:a/b@", "hf:a/b@../x", "hf:a/b/c", "hf:../b", "hf:a/b@x y", "hf:a/b@a%2fb"] {
            assert!(error(text).starts_with("expected hf:owner/name"), "{text}");
        }
        for text in ["http://a.test/x.gguf", "https://a.test/x.bin", "ftp://a.test/x.gguf", "https://huggingface.co/a"]
        {
            assert!(matches!(parse(text), Err(SourceError::Url { .. })), "{text}");
        }
        let secret = error("https://a.test/x?token=secret");
        assert!(!secret.contains("secret"), "{secret}");
        assert!(!error("https://[secret?Signature=secret2").contains("secret2"));
        assert!(error("").starts_with("expected a model"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(hf:|meta:|https://|https://huggingface.co/|)[ -~é/@*?]{0,30}") {
            let _ = Source::parse(&text, |_| false);
        }
    }
}
