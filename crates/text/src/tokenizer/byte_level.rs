//! The alphabet of byte-level vocabularies: GPT-2's way to write any bytes as printable text, one character for each byte.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes are numbered from U+0100 on.

/// Bytes that stand for themselves.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// All bytes in the order of their characters. GPT-2's vocabulary begins with them in this order, and so does every
/// published one of tiktoken's form, Llama 3's too.
pub(super) fn bytes() -> impl Iterator<Item = u8> {
    let all = 0..=u8::MAX;
    all.clone().filter(|byte| is_plain(*byte)).chain(all.filter(|byte| !is_plain(*byte)))
}

/// From character to byte, and back.
pub(super) struct ByteAlphabet {
    /// For each character from U+0000 to the last of the alphabet.
    bytes: [Option<u8>; 256 + 68],
    /// For each byte.
    characters: [char; 256],
}

impl ByteAlphabet {
    pub(super) fn new() -> ByteAlphabet {
        let mut codes = [None; 256 + 68];
        let mut characters = ['\0'; 256];
        let others = '\u{100}'..='\u{143}';
        let in_order = (0..=u8::MAX).filter(|byte| is_plain(*byte)).map(char::from).chain(others);
        for (byte, character) in bytes().zip(in_order) {
            codes[character as usize] = Some(byte);
            characters[usize::from(byte)] = character;
        }
        ByteAlphabet { bytes: codes, characters }
    }

    /// The text that stands for these bytes.
    pub(super) fn encode(&self, bytes: &[u8]) -> String {
        bytes.iter().map(|byte| self.characters[usize::from(*byte)]).collect()
    }

    /// Appends the bytes that a text stands for; `false`, and some of them, if a character is not of the alphabet.
    pub(super) fn decode(&self, text: &str, bytes: &mut Vec<u8>) -> bool {
        for c in text.chars() {
            match self.bytes.get(c as usize) {
                Some(Some(byte)) => bytes.push(*byte),
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_characters() {
        let alphabet = ByteAlphabet::new();
        let mut bytes = Vec::new();
        assert!(alphabet.decode("aĠĊ!ÿĀŃ", &mut bytes));
        assert_eq!(bytes, [b'a', b' ', b'\n', b'!', 0xFF, 0x00, 0xAD]);
        assert_eq!(alphabet.encode(&bytes), "aĠĊ!ÿĀŃ");
        assert!(!alphabet.decode("a b", &mut bytes));
        assert!(!alphabet.decode("你", &mut bytes));
    }
}
