//! Tokens that come one by one, to text that can be shown at once: whole characters only.

use crate::tokenizer::{TokenId, Tokenizer};

/// Turns tokens into text as they come. What it gives, put together, is the text of all tokens: no half character is ever
/// given, and bytes that can't become a character any more are given as U+FFFD.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The start of a character whose other bytes have not come: at most three bytes between calls.
    pending: Vec<u8>,
    show_specials: bool,
    /// A space in front of the next token is encoding's, not the text's.
    drop_space: bool,
}

impl Tokenizer {
    /// A decoder for tokens that come one by one.
    #[must_use]
    pub fn decoder(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, pending: Vec::new(), show_specials: false, drop_space: self.adds_space() }
    }
}

impl<'a> StreamDecoder<'a> {
    /// Gives special tokens by their names; otherwise they are passed over.
    #[must_use]
    pub fn show_specials(mut self, show: bool) -> StreamDecoder<'a> {
        self.show_specials = show;
        self
    }

    /// The tokens go on where a text ended, within a line: the first keeps its space. Without this a SentencePiece
    /// vocabulary's first token loses it, as at the start of a text.
    #[must_use]
    pub fn continuing(mut self) -> StreamDecoder<'a> {
        self.drop_space = false;
        self
    }

    /// Takes a token; gives the characters that are complete now. An id that is no token gives nothing.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        if self.tokenizer.is_special(id) {
            if !self.show_specials {
                return String::new();
            }
        } else if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// The end of the stream: what is left of an unfinished character, as U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn take_complete(&mut self) -> String {
        let unfinished = self.pending.utf8_chunks().last().map_or(0, |last| {
            // `invalid` at the very end is an unfinished character if more bytes could complete it.
            if is_unfinished(last.invalid()) { last.invalid().len() } else { 0 }
        });
        let rest = self.pending.split_off(self.pending.len() - unfinished);
        let complete = std::mem::replace(&mut self.pending, rest);
        String::from_utf8(complete).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// Whether the bytes are the start of a character and not yet the whole of it.
fn is_unfinished(bytes: &[u8]) -> bool {
    // The standard library tells the two apart: no length of error means that the input ended too early.
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::GgufVocabulary;
    use proptest::prelude::*;

    /// Every byte a token, then a special one and one with the space of a word.
    fn tokenizer() -> Tokenizer {
        let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")).collect();
        tokens.extend(["</s>", "▁hi", "▁"].map(str::to_owned));
        let token_types = [6; 256].into_iter().chain([3, 1, 1]).collect();
        let (model, scores) = ("llama".to_owned(), vec![0.0; 259]);
        Tokenizer::from_gguf(&GgufVocabulary { model, tokens, token_types, scores, ..Default::default() }).unwrap()
    }

    #[test]
    fn gives_whole_characters_only() {
        let tokenizer = tokenizer();
        let mut decoder = tokenizer.decoder();
        let parts: Vec<String> = "é🦙!".bytes().map(|byte| decoder.push(u32::from(byte))).collect();
        assert_eq!(parts, ["", "é", "", "", "", "🦙", "!"]);
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn bytes_that_make_no_character_are_replaced() {
        let tokenizer = tokenizer();
        let mut decoder = tokenizer.decoder();
        assert_eq!(decoder.push(0xC3), "");
        assert_eq!(decoder.push(0x41), "\u{FFFD}A");
        assert_eq!(decoder.push(0xFF), "\u{FFFD}");
        assert_eq!(decoder.push(0xF0), "");
        assert_eq!(decoder.push(0x9F), "");
        assert_eq!(decoder.finish(), "\u{FFFD}");
    }

    #[test]
    fn specials_are_passed_over_unless_asked_for() {
        let tokenizer = tokenizer();
        let mut decoder = tokenizer.decoder();
        assert_eq!([decoder.push(0xC3), decoder.push(256), decoder.push(0xA9)].concat(), "é");
        let mut decoder = tokenizer.decoder().show_specials(true);
        assert_eq!(decoder.push(256), "</s>");
        assert_eq!(decoder.push(9_999), "");
    }

    #[test]
    fn first_space_is_dropped_once() {
        let tokenizer = tokenizer();
        let mut decoder = tokenizer.decoder();
        assert_eq!([decoder.push(256), decoder.push(257), decoder.push(257)].concat(), "hi hi");
        let mut decoder = tokenizer.decoder().continuing();
        assert_eq!(decoder.push(257), " hi");
    }

    proptest! {
        #[test]
        fn parts_are_the_text(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..=0xBF_u8, 0xC2..=0xF4_u8], 0..40)) {
            let tokenizer = tokenizer();
            let mut decoder = tokenizer.decoder().continuing();
            let mut text: String = bytes.iter().map(|byte| decoder.push(u32::from(*byte))).collect();
            text += &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        /// Ids that are no token and special ones among them.
        #[test]
        fn parts_are_the_sequence(ids in prop::collection::vec(prop_oneof![0..256_u32, 254..262_u32], 0..12)) {
            let tokenizer = tokenizer();
            let mut decoder = tokenizer.decoder().show_specials(true);
            let mut text: String = ids.iter().map(|id| decoder.push(*id)).collect();
            text += &decoder.finish();
            let bytes = tokenizer.decode(&ids);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
