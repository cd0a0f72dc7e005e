//! Names of files that strangers give: in listings of repositories, checklists and manifests.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A path below a folder, that leads nowhere else on any system: `/` between its parts, none of which is empty, `.`, `..`,
/// a device of Windows, or has a character that some system gives a meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SafePath(String);

/// Longer ones are refused: files lie below folders of ours, and systems end at 4,096 bytes, some at 260.
const MAX_LEN: usize = 512;
/// The longest name that file systems take.
const MAX_PART: usize = 255;

/// A path that is not a [`SafePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a relative path of ordinary file names, found {path:?}: {why}")]
pub struct PathError {
    /// What was given, cut off behind some length.
    pub path: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl SafePath {
    /// The path as text, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Where it lies below `dir`.
    #[must_use]
    pub fn below(&self, dir: &Path) -> PathBuf {
        // Part by part, for systems that separate them otherwise.
        dir.join(self.0.split('/').collect::<PathBuf>())
    }

    /// What is equal for two paths that some file system takes for one, because it passes over the case of letters.
    #[must_use]
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }
}

/// Names that are devices on Windows, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

fn fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.len() > MAX_LEN {
        return Some("it is longer than 512 bytes");
    }
    path.split('/').find_map(|part| {
        let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
        let numbered = |device: &str| {
            stem.strip_prefix(device).is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()))
        };
        match part {
            "" => Some("a part of it is empty"),
            "." | ".." => Some("a part of it leads out of its folder"),
            _ if part.len() > MAX_PART => Some("a part of it is longer than 255 bytes"),
            _ if part
                .chars()
                .any(|c| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')) =>
            {
                Some("it has a character that a system gives a meaning")
            }
            _ if part.ends_with(['.', ' ']) || part.starts_with(' ') => {
                Some("a part of it begins or ends as some systems do not keep it")
            }
            _ if DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt") => {
                Some("a part of it names a device")
            }
            _ => None,
        }
    })
}

impl FromStr for SafePath {
    type Err = PathError;

    fn from_str(path: &str) -> Result<SafePath, PathError> {
        match fault(path) {
            None => Ok(SafePath(path.to_owned())),
            Some(why) => Err(PathError { path: path.chars().take(80).collect(), why }),
        }
    }
}

impl TryFrom<String> for SafePath {
    type Error = PathError;

    fn try_from(path: String) -> Result<SafePath, PathError> {
        path.parse()
    }
}

impl From<SafePath> for String {
    fn from(path: SafePath) -> String {
        path.0
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn ordinary_names() {
        for path in
            ["LICENSE", "original/consolidated.00.pth", "model-00001-of-00004.safetensors", "a b", ".gitattributes"]
        {
            assert_eq!(path.parse::<SafePath>().unwrap().as_str(), path);
        }
        for path in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            "..",
            "a/../b",
            "C:x",
            "a\\b",
            "a\0",
            "a\n",
            "nul",
            "NUL.txt",
            "a/com1.gguf",
            "a.",
            "a ",
            " a",
            "a/..",
            "\u{85}",
        ] {
            assert!(path.parse::<SafePath>().is_err(), "{path:?}");
        }
        assert!("a".repeat(256).parse::<SafePath>().is_err());
        assert!(["a"; 300].join("/").parse::<SafePath>().is_err());
        assert!("com10/lpt/console".parse::<SafePath>().is_ok());
    }

    proptest! {
        #[test]
        fn nothing_leads_out(path in r"[a.\\/:~ é\x00-\x1f]{0,12}") {
            if let Ok(safe) = path.parse::<SafePath>() {
                let below = safe.below(Path::new("dir"));
                prop_assert!(below.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(below.starts_with("dir") && below != Path::new("dir"));
            }
        }
    }
}
