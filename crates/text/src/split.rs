//! The Llama 3 split: text into the pieces inside which merges happen.
//!
//! The published pattern is
//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
//! whose first matching alternative wins. It is written out here as a scanner: what each alternative can match is decided
//! by one or two characters, so nothing is tried twice, but for a run of white space, which is looked at up to three
//! times. A regular-expression engine would need look-ahead, that is, backtracking.

use crate::unicode::{Class, class};

/// The pattern that this module implements, as files of vocabularies spell it.
pub(crate) const LLAMA3_PATTERN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The pieces of a text, in order; put together they are the text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_len(rest));
        rest = after;
        Some(piece)
    })
}

/// Class and length in bytes of the character at `at`; `None` at the end.
#[inline]
fn at(text: &str, at: usize) -> Option<(Class, usize)> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        let class = match byte {
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            b'0'..=b'9' => Class::Number,
            b'\t'..=b'\r' | b' ' => Class::Space,
            _ => Class::Other,
        };
        return Some((class, 1));
    }
    let c = text.get(at..)?.chars().next()?;
    Some((class(c), c.len_utf8()))
}

/// End of the run of characters of one class that starts at `from`.
#[inline]
fn run(text: &str, from: usize, wanted: Class) -> usize {
    let mut end = from;
    while let Some((class, len)) = at(text, end) {
        if class != wanted {
            break;
        }
        end += len;
    }
    end
}

fn is_newline(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b'\r' | b'\n'))
}

/// Length in bytes of the first piece of a text that is not empty.
fn piece_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let Some((first_class, first_len)) = at(text, 0) else { return 0 };
    match first_class {
        Class::Letter => return run(text, first_len, Class::Letter),
        Class::Number => {
            let mut end = first_len;
            for _ in 0..2 {
                match at(text, end) {
                    Some((Class::Number, len)) => end += len,
                    _ => break,
                }
            }
            return end;
        }
        Class::Other | Class::Space => {}
    }
    if let Some(len) = contraction_len(bytes) {
        return len;
    }
    // One leading character other than a newline, then letters.
    if !is_newline(bytes.first()) {
        let end = run(text, first_len, Class::Letter);
        if end > first_len {
            return end;
        }
    }
    // Symbols, behind one space at most, with the newlines that follow.
    let symbols = usize::from(bytes.first() == Some(&b' '));
    let mut end = run(text, symbols, Class::Other);
    if end > symbols {
        while is_newline(bytes.get(end)) {
            end += 1;
        }
        return end;
    }
    // A run of white space: up to its last newline; else all of it at the end of the text, and before other text all but
    // the last, which goes with what follows.
    let mut end = 0;
    let mut last = 0;
    let mut after_newline = 0;
    while let Some((Class::Space, len)) = at(text, end) {
        last = end;
        end += len;
        if is_newline(bytes.get(last)) {
            after_newline = end;
        }
    }
    match () {
        () if after_newline > 0 => after_newline,
        () if end == text.len() || last == 0 => end,
        () => last,
    }
}

/// Length of the English contraction that the text starts with. `ſ` (U+017F) is an `s` to a pattern that ignores case.
fn contraction_len(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'\'') {
        return None;
    }
    let second = bytes.get(2).map(u8::to_ascii_lowercase);
    match (bytes.get(1)?.to_ascii_lowercase(), second) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        (0xC5, Some(0xBF)) => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<&str> {
        pieces(text).collect()
    }

    #[test]
    fn alternatives_win_in_the_order_of_the_pattern() {
        assert_eq!(split("I'm you'RE he'ſ it'x"), ["I", "'m", " you", "'RE", " he", "'ſ", " it", "'x"]);
        assert_eq!(split("'l 'd'll're"), ["'l", " '", "d", "'ll", "'re"]);
        assert_eq!(split("12345678"), ["123", "456", "78"]);
        assert_eq!(split("a-b\tc\nd"), ["a", "-b", "\tc", "\n", "d"]);
        assert_eq!(split("x !?\r\n\n y"), ["x", " !?\r\n\n", " y"]);
        assert_eq!(split("a  \n  \n   b"), ["a", "  \n  \n", "  ", " b"]);
        assert_eq!(split("a   "), ["a", "   "]);
        assert_eq!(split("a \u{a0}1"), ["a", " ", "\u{a0}", "1"]);
        assert_eq!(split("  1"), [" ", " ", "1"]);
        assert_eq!(split("\n\nx"), ["\n\n", "x"]);
        assert_eq!(split(""), [""; 0]);
    }

    #[test]
    fn classes_are_unicode_ones() {
        // A combining mark is no letter, a Roman numeral is a number.
        assert_eq!(split("e\u{301}te"), ["e", "\u{301}te"]);
        assert_eq!(split("Ⅷ½٣4"), ["Ⅷ½٣", "4"]);
        assert_eq!(split("你好，世界"), ["你好", "，世界"]);
        assert_eq!(split("\u{85}\u{2028}a"), ["\u{85}", "\u{2028}a"]);
    }

    proptest! {
        #[test]
        fn pieces_are_the_text(text in "\\PC*|[ \\r\\n\\t'a1!ſ\\u{85}]*") {
            prop_assert_eq!(pieces(&text).collect::<String>(), text.clone());
            prop_assert!(pieces(&text).all(|piece| !piece.is_empty()));
        }

        /// Which lets long texts be counted in parts when a vocabulary is trained.
        #[test]
        fn a_line_end_before_other_than_white_space_is_a_boundary(
            before in "\\PC*|[ \\r\\n\\t'a1!ſ\\u{85}]*",
            after in "[^\\s]\\PC*|['a1!ſ][ \\r\\n\\t'a1!ſ\\u{85}]*",
        ) {
            let before = before + "\n";
            let whole = format!("{before}{after}");
            let parts: Vec<&str> = pieces(&before).chain(pieces(&after)).collect();
            prop_assert_eq!(split(&whole), parts);
        }
    }
}
