//! Hashes of files: those that publishers give, and those that we keep.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A hash of `N` bytes. As text it is in lowercase hexadecimal digits, which is what makes it safe as a file's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A text that is no [`Hex`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct HexError {
    /// How many digits the hash has.
    pub expected: usize,
    /// What was given, cut off behind some length.
    pub found: String,
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Hex<N>, HexError> {
        let error = || HexError { expected: 2 * N, found: text.chars().take(80).collect() };
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; N];
        if text.len() != 2 * N {
            return Err(error());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(error)?;
        }
        Ok(Hex(bytes))
    }
}

impl<const N: usize> TryFrom<String> for Hex<N> {
    type Error = HexError;

    fn try_from(text: String) -> Result<Hex<N>, HexError> {
        text.parse()
    }
}

impl<const N: usize> From<Hex<N>> for String {
    fn from(hash: Hex<N>) -> String {
        hash.to_string()
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hex<32> {
    Hex(sha2::Sha256::digest(bytes).into())
}

/// What a file's publisher says that its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// SHA-256: large files on the Hugging Face hub.
    Sha256(Hex<32>),
    /// SHA-1 as git names a file, over its length and its bytes: small files on the hub.
    GitBlob(Hex<20>),
    /// MD5: Meta's `checklist.chk`. It finds damage; it is no defence against anybody.
    Md5(Hex<16>),
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Published::Sha256(hash) => write!(f, "SHA-256 {hash}"),
            Published::GitBlob(hash) => write!(f, "git's SHA-1 {hash}"),
            Published::Md5(hash) => write!(f, "MD5 {hash}"),
        }
    }
}

/// Hashes a file from its beginning to its end: its SHA-256, and what its publisher gave, if that is another.
pub struct Hasher {
    sha256: sha2::Sha256,
    published: Option<Published>,
    other: Other,
}

enum Other {
    None,
    GitBlob(sha1::Sha1),
    Md5(md5::Md5),
}

impl Hasher {
    /// For a file of `len` bytes, to be compared with what its publisher gave of it.
    #[must_use]
    pub fn new(len: u64, published: Option<Published>) -> Hasher {
        let other = match published {
            None | Some(Published::Sha256(_)) => Other::None,
            Some(Published::GitBlob(_)) => Other::GitBlob(sha1::Sha1::new_with_prefix(format!("blob {len}\0"))),
            Some(Published::Md5(_)) => Other::Md5(md5::Md5::new()),
        };
        Hasher { sha256: sha2::Sha256::new(), published, other }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        match &mut self.other {
            Other::None => {}
            Other::GitBlob(sha1) => sha1.update(bytes),
            Other::Md5(md5) => md5.update(bytes),
        }
    }

    /// The SHA-256 of all bytes.
    ///
    /// # Errors
    /// With the hash that was found, when it is not the one that was published.
    pub fn finish(self) -> Result<Hex<32>, Published> {
        let sha256 = Hex(self.sha256.finalize().into());
        let found = match self.other {
            Other::None => Published::Sha256(sha256),
            Other::GitBlob(sha1) => Published::GitBlob(Hex(sha1.finalize().into())),
            Other::Md5(md5) => Published::Md5(Hex(md5.finalize().into())),
        };
        match self.published {
            Some(published) if published != found => Err(found),
            _ => Ok(sha256),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The empty text and `abc`, in the words of the standards.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn hash(bytes: &[u8], published: Option<Published>) -> Result<Hex<32>, Published> {
        let mut hasher = Hasher::new(bytes.len() as u64, published);
        bytes.iter().for_each(|byte| hasher.update(&[*byte]));
        hasher.finish()
    }

    #[test]
    fn known_hashes() {
        assert_eq!(hash(b"abc", None).unwrap().to_string(), ABC);
        assert_eq!(sha256(b"abc").to_string(), ABC);
        // RFC 1321, and `printf hello | git hash-object --stdin`.
        let md5 = Published::Md5("900150983cd24fb0d6963f7d28e17f72".parse().unwrap());
        let git = Published::GitBlob("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".parse().unwrap());
        assert_eq!(hash(b"abc", Some(md5)).unwrap().to_string(), ABC);
        assert_eq!(hash(b"hello", Some(git)).unwrap(), sha256(b"hello"));
        for published in [md5, git, Published::Sha256(sha256(b"abc"))] {
            assert_ne!(hash(b"abd", Some(published)).unwrap_err(), published);
        }
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!("00fF".parse::<Hex<2>>().unwrap().to_string(), "00ff");
        for text in ["", "0", "00f", "00fg", "00ff0", "+0ff", "é0f", "00f "] {
            let error = text.parse::<Hex<2>>().unwrap_err();
            assert_eq!(error.to_string(), format!("expected 4 hexadecimal digits, found {text:?}"));
        }
        assert!(serde_json::from_str::<Hex<1>>("\"..\"").is_err());
        assert_eq!(serde_json::to_string(&Hex([7, 255])).unwrap(), "\"07ff\"");
    }
}
