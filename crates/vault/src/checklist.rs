//! `checklist.chk`, in which Meta's folders have the MD5 of their files, as `md5sum` writes it.

use crate::digest::Hex;
use crate::path::{PathError, SafePath};
use std::collections::{BTreeMap, BTreeSet};

/// The longest list, in bytes; that of the largest model has some 1,500.
pub const MAX_CHECKLIST: u64 = 1 << 20;

/// What is no list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecklistError {
    /// Bytes that are no text.
    #[error("checklist.chk: expected text in UTF-8, found something else")]
    Text,
    /// A line that is none.
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
}

/// Reads a list.
///
/// # Errors
/// When a line is none, or a name leads elsewhere or is there twice.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<SafePath, Hex<16>>, ChecklistError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ChecklistError::Text)?;
    let mut files = BTreeMap::new();
    let mut folded = BTreeSet::new();
    for (idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let error = || ChecklistError::Line { line: idx + 1, found: line.chars().take(80).collect() };
        let (hash, name) = line.split_at_checked(32).ok_or_else(error)?;
        let hash: Hex<16> = hash.parse().map_err(|_| error())?;
        // A star says that the file was read as binary, which is all the same.
        let name = name.strip_prefix("  ").or_else(|| name.strip_prefix(" *")).ok_or_else(error)?;
        let path: SafePath = name.strip_prefix("./").unwrap_or(name).trim_end_matches('\r').parse()?;
        if !folded.insert(path.folded()) {
            return Err(ChecklistError::Twice(path));
        }
        files.insert(path, hash);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checklists() {
        let md5 = "0".repeat(32);
        let text = format!("{md5}  ./params.json\n{md5}  consolidated.00.pth\r\n\n{md5} *..hidden\n");
        let files = parse(text.as_bytes()).unwrap();
        let paths: Vec<&str> = files.keys().map(SafePath::as_str).collect();
        assert_eq!(paths, ["..hidden", "consolidated.00.pth", "params.json"]);
        let text = "900150983cd24fb0d6963f7d28e17f72  ./a\n\n00000000000000000000000000000000 *b/c d\r\n";
        let files = parse(text.as_bytes()).unwrap();
        assert_eq!(files[&"a".parse().unwrap()], "900150983cd24fb0d6963f7d28e17f72".parse().unwrap());
        assert_eq!(files[&"b/c d".parse().unwrap()], Hex([0; 16]));
        assert_eq!(parse(b"\xff"), Err(ChecklistError::Text));
        for (line, part) in [
            (format!("{md5}  ../x"), "leads out of its folder"),
            (format!("{md5}  ././x"), "leads out of its folder"),
            (format!("{md5}  /etc/passwd"), "is empty"),
            (format!("{md5}  a\n{md5}  A"), "twice"),
            (format!("{md5}a"), "line 1: expected an MD5"),
            (format!("{}é  x", &md5[1..]), "line 1: expected an MD5"),
            ("<html>".to_owned(), "line 1: expected an MD5"),
            ("x  a".to_owned(), "line 1: expected an MD5"),
            (md5.clone(), "line 1: expected an MD5"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_list_is_too_odd(text in "([0-9a-f]{32}[ *]{0,3}[./a-z:é\\\\]{0,20}\n|.{0,60}\n){0,5}") {
            if let Ok(files) = parse(text.as_bytes()) {
                prop_assert!(files.keys().all(|path| !path.as_str().split('/').any(|part| part == "..")));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
