//! Small vocabularies, and data sets in files.

#![allow(dead_code, reason = "each test has its own use")]

use puna_text::chat::Dialect;
use puna_text::{GgufVocabulary, TokenId, Tokenizer};
use puna_train::data::{Encoder, Options, Trained};
use std::fs;
use std::path::PathBuf;

/// Llama 3's special tokens behind every byte, some words and line ends that merge.
pub fn llama3() -> Tokenizer {
    let words = ["\n\n", "\n\n\n", " a", "ab", " ab", "  ", "é"];
    let tokens = (0..=u8::MAX).map(|byte| vec![byte]).chain(words.map(|word| word.as_bytes().to_vec()));
    let lines: String = tokens.enumerate().map(|(rank, token)| format!("{} {rank}\n", base64(&token))).collect();
    Tokenizer::from_tiktoken(lines.as_bytes()).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

/// Llama 2's: bytes, and words that begin with a space.
pub fn llama2() -> Tokenizer {
    let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let words = ["▁", "a", "b", "]", "▁a", "▁ab", "ab", "▁▁", "a]"].map(|word| (word.to_owned(), 1));
    let specials = ["<s>", "</s>"].map(|name| (name.to_owned(), 3));
    let (tokens, token_types): (Vec<String>, Vec<i32>) = bytes.chain(words).chain(specials).unzip();
    Tokenizer::from_gguf(&GgufVocabulary {
        model: "llama".to_owned(),
        scores: (0..tokens.len()).map(|id| -((id % 7) as f32)).collect(),
        bos: Some((tokens.len() - 2) as u32),
        tokens,
        token_types,
        ..Default::default()
    })
    .unwrap()
}

pub fn encoder(tokenizer: &Tokenizer, dialect: Dialect, trained: Trained) -> Encoder<'_> {
    Encoder::new(tokenizer, Options { dialect, date: "23 Nov 2026".to_owned(), trained })
}

/// The tokens' bytes put together, special tokens by their names.
pub fn spelled(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).unwrap()).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A directory of files, gone with the test.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}
