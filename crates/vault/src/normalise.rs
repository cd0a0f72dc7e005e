//! When two copies of a text say the same: `puna-norm/1`.
//!
//! Copies of one licence differ in their bytes: quotes are straight or curly, lines end otherwise, spaces are at their
//! ends. So beside the exact bytes of a text the hash of its normal form is kept.

use crate::digest::{Hex, sha256};
use unicode_normalization::UnicodeNormalization;

/// The name of this normal form, in records.
pub const NORM: &str = "puna-norm/1";

/// The normal form of a text: Unicode's NFKC, straight quotes, one space for any white space, none at the ends.
#[must_use]
pub fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut is_space_due = false;
    for c in text.nfkc() {
        let c = match c {
            '\u{2018}'..='\u{201b}' => '\'',
            '\u{201c}'..='\u{201f}' => '"',
            c => c,
        };
        if c.is_whitespace() {
            is_space_due = !normal.is_empty();
            continue;
        }
        if std::mem::take(&mut is_space_due) {
            normal.push(' ');
        }
        normal.push(c);
    }
    normal
}

/// The SHA-256 of a text's normal form. `None` if the bytes are not UTF-8.
#[must_use]
pub fn sha256_norm(bytes: &[u8]) -> Option<Hex<32>> {
    std::str::from_utf8(bytes).ok().map(|text| sha256(normalise(text).as_bytes()))
}

/// A text with one space for any white space, and none at the ends: where lines break does not matter.
#[must_use]
pub fn unwrap_lines(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn copies_that_say_the_same() {
        let normal = "\"Built with Llama\" isn't (c).";
        for copy in [
            "“Built with Llama” isn’t (c).",
            "  \"Built\twith\r\nLlama\" isn't (c).\n",
            "\u{a0}„Built with\u{2003}Llama‟ isn‛t (c)\u{ff0e}\u{2028}",
        ] {
            assert_eq!(normalise(copy), normal);
            assert_eq!(sha256_norm(copy.as_bytes()), Some(sha256(normal.as_bytes())));
        }
        assert_eq!(normalise(" \n "), "");
        assert_ne!(normalise("Built with llama"), normalise("Built with Llama"));
        assert_eq!(sha256_norm(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn once_is_enough(text in "\\PC{0,40}|[ \u{a0}\n“”‘’\u{308}\u{301}a´¨ﬁ①Åé\u{2033}]{0,40}") {
            let normal = normalise(&text);
            prop_assert_eq!(normalise(&normal), normal);
        }

        #[test]
        fn quotes_and_white_space_do_not_matter(
            words in prop::collection::vec("[a-zA-Zé0-9\"'.]{1,6}", 0..8),
            spaces in prop::collection::vec("[ \t\r\n\u{a0}\u{2003}]{1,3}", 9),
        ) {
            let mut other = spaces[0].clone();
            for (word, space) in words.iter().zip(&spaces[1..]) {
                other += &word.replace('"', "”").replace('\'', "‘");
                other += space;
            }
            prop_assert_eq!(normalise(&other), normalise(&words.join(" ")));
        }
    }
}
