//! Keys and certificates as texts: PEM (RFC 7468).

use base64ct::{Base64, Encoding as _};
use p256::elliptic_curve::zeroize::Zeroizing;

/// A block of a PEM text.
pub(super) struct Block {
    /// What it says that it is: `PRIVATE KEY`.
    pub(super) label: String,
    /// Its bytes, which are forgotten when it is dropped.
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// A text that is no PEM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Nothing in it is.
    #[error("expected PEM, text with lines such as `-----BEGIN PUBLIC KEY-----`, found none")]
    None,
    /// A block that is cut off.
    #[error("a block `-----BEGIN {0}` has no end")]
    Unfinished(String),
    /// A block of something else than Base64.
    #[error("the block {0} is not Base64; if it is encrypted, decrypt it first: `openssl pkey -in FILE -out PLAIN`")]
    Base64(String),
}

/// The blocks of a text, whatever stands between them.
pub(super) fn blocks(bytes: &[u8]) -> Result<Vec<Block>, PemError> {
    let mut rest = std::str::from_utf8(bytes).map_err(|_| PemError::None)?;
    let mut blocks = Vec::new();
    while let Some((_, from_label)) = rest.split_once("-----BEGIN ") {
        let unfinished = || PemError::Unfinished(from_label.chars().take_while(|&c| c != '\n').take(40).collect());
        let (label, body) = from_label.split_once("-----").ok_or_else(unfinished)?;
        let (body, after) = body.split_once(&format!("-----END {label}-----")).ok_or_else(unfinished)?;
        let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
        base64.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
        let der = Base64::decode_vec(&base64).map_err(|_| PemError::Base64(label.chars().take(40).collect()))?;
        blocks.push(Block { label: label.to_owned(), der: Zeroizing::new(der) });
        rest = after;
    }
    if blocks.is_empty() { Err(PemError::None) } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_between_other_text() {
        let text = "Subject: somebody\n-----BEGIN A-----\r\nAQI=\r\n-----END A-----\n\n-----BEGIN B C-----\nAw\n==\n-----END B C-----\nend";
        let found = blocks(text.as_bytes()).unwrap();
        let found: Vec<(&str, &[u8])> = found.iter().map(|block| (block.label.as_str(), &block.der[..])).collect();
        assert_eq!(found, [("A", &[1, 2][..]), ("B C", &[3])]);
        for (text, error) in [
            ("", "found none"),
            ("-----BEGIN A", "has no end"),
            ("-----BEGIN A-----\nAQI=\n-----END B-----", "has no end"),
            ("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n-----END A-----", "decrypt it first"),
        ] {
            let found = blocks(text.as_bytes()).err().unwrap().to_string();
            assert!(found.contains(error), "{text}: {found}");
        }
        assert_eq!(blocks(&[0xff]).err(), Some(PemError::None));
    }

    proptest! {
        #[test]
        fn anything_is_read(text in "(-----BEGIN |-----END |-----|[A-Z a=\n]|é){0,40}") {
            let _ = blocks(text.as_bytes());
        }
    }
}
