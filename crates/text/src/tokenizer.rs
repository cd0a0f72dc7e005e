//! Text to token ids and back.
//!
//! A [`Tokenizer`] comes from one of three files: Meta's `tokenizer.model`, Hugging Face's `tokenizer.json`, or the
//! metadata of a GGUF file, as which it can be written too; a [`Trainer`] makes the first of these from texts. Reading
//! files is the caller's; this module sees bytes. Special tokens (end of turn and the like) are never found in a text: whoever wants one asks for it
//! with [`Tokenizer::special`], which only the chat format does.

mod byte_level;
mod gguf;
mod hugging_face;
mod merge;
mod tiktoken;
mod train;
mod vocabulary;

use std::collections::HashMap;

pub use gguf::GgufVocabulary;
pub use train::{TrainError, Trained, Trainer, TrainerOptions};

use crate::split;
use merge::{Merges, NO_TOKEN, Symbol};
use vocabulary::{Kind, Vocabulary};

/// The number of a token: a row of the embedding table.
pub type TokenId = u32;

/// Why a vocabulary can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A line of `tokenizer.model` is not a token and its rank.
    #[error("line {line} of the tokenizer model: {problem}; expected base64, a space and the token's rank")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Not JSON, or not of the shape of a `tokenizer.json`.
    #[error("not a tokenizer.json: {0}")]
    Json(#[from] serde_json::Error),
    /// Something that changes ids and that puna does not do.
    #[error("`{key}` is {found}, which puna does not implement; it takes {expected}")]
    Unsupported {
        /// Where in the file.
        key: String,
        /// What the file says there.
        found: String,
        /// What it may say.
        expected: &'static str,
    },
    /// A value that contradicts the rest of the file.
    #[error("`{key}`: {problem}")]
    Invalid {
        /// Where in the file.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two ids for one token.
    #[error("tokens {first} and {second} are both {token:?}")]
    Duplicate {
        /// The bytes of the token, as far as they are text.
        token: String,
        /// The lower id.
        first: TokenId,
        /// The higher one.
        second: TokenId,
    },
    /// A byte that no token stands for, so that not every text could be encoded.
    #[error("no token for the byte 0x{byte:02X}; the vocabulary is incomplete")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A vocabulary of characters where only one of bytes will do.
    #[error("expected a byte-level vocabulary, as Llama 3 has, found one of SentencePiece")]
    NotByteLevel,
    /// Not a vocabulary but a flood.
    #[error("{found} tokens, more than the limit of {limit}")]
    TooManyTokens {
        /// As many as the file has, or the first too many.
        found: usize,
        /// As many as are allowed.
        limit: usize,
    },
    /// A token that no vocabulary has.
    #[error("token {id} has {found} bytes, more than the limit of {limit}")]
    LongToken {
        /// Its id.
        id: usize,
        /// Its length in bytes.
        found: usize,
        /// The longest allowed.
        limit: usize,
    },
}

/// A vocabulary with the rules that turn text into its tokens. Immutable; share it by reference or `Arc`.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    scheme: Scheme,
    merges: Merges,
    /// A piece that is a token is that token, even where merging would not get there (Llama 3: " Việt").
    whole_pieces: bool,
    /// The token of each byte: where merging starts (byte-level), or what an unknown character falls back to.
    byte_tokens: Box<[TokenId; 256]>,
    added: AddedTokens,
    specials: HashMap<String, TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
}

/// How a text becomes the symbols that merge.
enum Scheme {
    /// Split by the Llama 3 pattern; symbols are bytes.
    ByteLevel,
    /// Spaces are part of the tokens; symbols are characters.
    SentencePiece {
        prefix: Prefix,
        /// No token holds a space behind another character, so nothing merges across the start of a word.
        words: bool,
    },
}

/// Whether a text gets a space in front, so that its first word looks like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Never,
    Always,
    /// Unless it starts with one.
    IfNone,
    /// As `IfNone`, at the very start only and not behind an added token.
    IfNoneAtStart,
}

/// What a file says, ready to be put together and checked.
struct Parts {
    vocabulary: Vocabulary,
    scheme: SchemeKind,
    merges: Merges,
    whole_pieces: bool,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
}

#[derive(Clone, Copy)]
enum SchemeKind {
    ByteLevel,
    SentencePiece(Prefix),
}

impl Tokenizer {
    /// Reads Meta's `tokenizer.model` of the Llama 3 family: a line with base64 and rank for each token. The 256 special
    /// tokens follow the ranks, by the names of Llama 3.1.
    ///
    /// # Errors
    /// A line that is neither, a gap or a repetition among the ranks, a token twice, a byte without token.
    pub fn from_tiktoken(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(tiktoken::read(bytes)?)
    }

    /// Reads a `tokenizer.json` of Hugging Face: byte-level BPE with the Llama 3 split, or BPE over characters with
    /// bytes as fall-back (Llama 2). Settings for batches (`truncation`, `padding`) and the `post_processor`, which adds
    /// special tokens, are not what [`Tokenizer::encode`] does and are passed over.
    ///
    /// # Errors
    /// Anything that would change ids and is not implemented, by its key; ids, merges or bytes that contradict each other.
    pub fn from_tokenizer_json(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(hugging_face::read(bytes)?)
    }

    /// Takes the vocabulary from a GGUF file's metadata: `gpt2` with a Llama 3 split, or `llama` (SentencePiece).
    ///
    /// # Errors
    /// Another `model` or `pre`, arrays of different lengths, merges of unknown tokens, ids outside the vocabulary.
    pub fn from_gguf(v: &GgufVocabulary) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(gguf::read(v)?)
    }

    /// The vocabulary as the metadata of a GGUF file has it: [`Tokenizer::from_gguf`] makes the same tokenizer of it, and
    /// so does llama.cpp.
    ///
    /// A list of merges names the two parts of a token, where tiktoken's form merges any that spell it; there is but
    /// one pair for each that ever does. The end token is the one that the file names, else `<|eot_id|>`, which ends an
    /// answer, else the end of text.
    ///
    /// # Errors
    /// The vocabulary is one of SentencePiece.
    pub fn to_gguf(&self) -> Result<GgufVocabulary, TokenizerError> {
        gguf::write(self)
    }

    fn new(parts: Parts) -> Result<Tokenizer, TokenizerError> {
        let Parts { vocabulary, scheme, merges, whole_pieces, bos, eos } = parts;
        let mut byte_tokens = Box::new([NO_TOKEN; 256]);
        let mut specials = HashMap::new();
        let mut added = AddedTokens::default();
        let mut words = true;
        for id in 0..vocabulary.len() as u32 {
            let (Some(kind), Some(token)) = (vocabulary.kind(id), vocabulary.token(id)) else { continue };
            match (kind, scheme) {
                (Kind::Ordinary, SchemeKind::ByteLevel) | (Kind::Byte, _) => {
                    if let [byte] = token {
                        byte_tokens[usize::from(*byte)] = id;
                    }
                }
                (Kind::Ordinary, SchemeKind::SentencePiece(_)) => {
                    words &= !token.windows(2).any(|two| two[0] != b' ' && two[1] == b' ');
                }
                (Kind::Added, _) => added.insert(token, id)?,
                (Kind::Special, _) => {
                    let text = String::from_utf8_lossy(token).into_owned();
                    if let Some(first) = specials.insert(text.clone(), id) {
                        return Err(TokenizerError::Duplicate { token: text, first, second: id });
                    }
                }
                (Kind::Unused, _) => {}
            }
        }
        if let Some((byte, _)) = (0..=u8::MAX).zip(byte_tokens.iter()).find(|(_, id)| **id == NO_TOKEN) {
            return Err(TokenizerError::MissingByte { byte });
        }
        for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos)] {
            if let Some(id) = id.filter(|id| *id as usize >= vocabulary.len()) {
                let problem = format!("token {id} of a vocabulary of {}", vocabulary.len());
                return Err(TokenizerError::Invalid { key: key.to_owned(), problem });
            }
        }
        let scheme = match scheme {
            SchemeKind::ByteLevel => Scheme::ByteLevel,
            SchemeKind::SentencePiece(prefix) => Scheme::SentencePiece { prefix, words },
        };
        Ok(Tokenizer { vocabulary, scheme, merges, whole_pieces, byte_tokens, added, specials, bos, eos })
    }

    /// The tokens of an ordinary text. A text that spells a special token stays text; nothing is put in front or behind.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        let mut rest = text;
        let mut at_start = true;
        while let Some((before, id, after)) = self.added.find(rest) {
            self.encode_stretch(before, at_start, &mut ids);
            ids.push(id);
            rest = after;
            at_start = false;
        }
        self.encode_stretch(rest, at_start, &mut ids);
        ids
    }

    /// Encodes text without added tokens.
    fn encode_stretch(&self, text: &str, at_start: bool, ids: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        let mut symbols = Vec::new();
        match self.scheme {
            Scheme::ByteLevel => {
                for piece in split::pieces(text) {
                    self.encode_piece(piece, &mut symbols, ids);
                }
            }
            Scheme::SentencePiece { prefix, words } => {
                let space = match prefix {
                    Prefix::Never => false,
                    Prefix::Always => true,
                    Prefix::IfNone => !text.starts_with([' ', META_SPACE]),
                    Prefix::IfNoneAtStart => at_start && !text.starts_with([' ', META_SPACE]),
                };
                let mut line = String::with_capacity(text.len() + 1);
                if space {
                    line.push(' ');
                }
                // The vocabulary is kept with spaces for U+2581, so the text is read with spaces for it too.
                let mut parts = text.split(META_SPACE);
                line.extend(parts.next());
                parts.for_each(|part| {
                    line.push(' ');
                    line.push_str(part);
                });
                if words {
                    for word in split_words(&line) {
                        self.encode_piece(word, &mut symbols, ids);
                    }
                } else {
                    self.encode_piece(&line, &mut symbols, ids);
                }
            }
        }
    }

    /// Encodes a stretch of text across whose ends nothing merges. `symbols` is scratch space.
    fn encode_piece(&self, piece: &str, symbols: &mut Vec<Symbol>, ids: &mut Vec<TokenId>) {
        if self.whole_pieces
            && let Some(id) = self.vocabulary.find(piece.as_bytes())
        {
            ids.push(id);
            return;
        }
        // Positions in a piece are 32 bits wide. A piece of gigabytes is cut; nothing else would be gained by it.
        let mut rest = piece;
        while !rest.is_empty() {
            let mut end = rest.len().min(1 << 30);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, after) = rest.split_at(end);
            rest = after;
            symbols.clear();
            self.push_symbols(part, symbols);
            merge::merge(&self.vocabulary, &self.merges, part.as_bytes(), symbols, |id, bytes| {
                if id == NO_TOKEN {
                    ids.extend(bytes.iter().map(|byte| self.byte_tokens[usize::from(*byte)]));
                } else {
                    ids.push(id);
                }
            });
        }
    }

    fn push_symbols(&self, part: &str, symbols: &mut Vec<Symbol>) {
        if let Scheme::ByteLevel = self.scheme {
            let bytes = part.bytes().zip(0..);
            symbols.extend(bytes.map(|(byte, start)| Symbol { start, id: self.byte_tokens[usize::from(byte)] }));
            return;
        }
        for (start, c) in part.char_indices() {
            let start = start as u32;
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match (self.vocabulary.find(bytes), &self.merges) {
                (Some(id), _) => symbols.push(Symbol { start, id }),
                // A list of pairs can only speak of tokens, so the bytes are the symbols. By spelling, a character that is
                // no token may still be part of one.
                (None, Merges::Pairs(_)) => symbols.extend(
                    bytes
                        .iter()
                        .zip(start..)
                        .map(|(byte, start)| Symbol { start, id: self.byte_tokens[usize::from(*byte)] }),
                ),
                (None, Merges::ById | Merges::ByIdBelow(_) | Merges::ByRank(_)) => {
                    symbols.push(Symbol { start, id: NO_TOKEN })
                }
            }
        }
    }

    /// Where in the text each of its tokens begins, in bytes: `ids` are what [`Tokenizer::encode`] makes of `text`.
    #[must_use]
    pub fn token_starts(&self, text: &str, ids: &[TokenId]) -> Vec<usize> {
        let spaces_vary = self.is_sentence_piece();
        let mut at = 0;
        let starts = ids.iter().map(|&id| {
            let start = at;
            for byte in self.token_bytes(id).unwrap_or_default() {
                let rest = text.as_bytes().get(at..).unwrap_or_default();
                at += match byte {
                    b' ' if spaces_vary && rest.starts_with("\u{2581}".as_bytes()) => META_SPACE.len_utf8(),
                    // One that encoding put in front.
                    b' ' if spaces_vary && !rest.starts_with(b" ") => 0,
                    _ => 1,
                };
            }
            start
        });
        starts.collect()
    }

    /// The bytes that a token stands for; for a special token those of its name.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.vocabulary.token(id).filter(|_| self.vocabulary.kind(id) != Some(Kind::Unused))
    }

    /// The first id that stands for other bytes here than there, or is a special token in one of the two only; an id that
    /// one of them lacks counts. Names of special tokens may differ, as those of reserved ones do between releases, and
    /// ids that are no token in one of the two are passed over.
    #[must_use]
    pub fn first_difference(&self, other: &Tokenizer) -> Option<TokenId> {
        fn meaning(tokenizer: &Tokenizer, id: TokenId) -> Option<Option<&[u8]>> {
            tokenizer.token_bytes(id).map(|bytes| (!tokenizer.is_special(id)).then_some(bytes))
        }
        let n = self.vocab_size().min(other.vocab_size()) as TokenId;
        let differs = |id: &TokenId| match (meaning(self, *id), meaning(other, *id)) {
            (Some(here), Some(there)) => here != there,
            _ => false,
        };
        (0..n).find(differs).or_else(|| (self.vocab_size() != other.vocab_size()).then_some(n))
    }

    /// The bytes of a sequence, special tokens by their names. An id that is no token gives nothing.
    ///
    /// `decode(encode(text))` is `text`, for every text with a byte-level vocabulary. One of SentencePiece takes U+2581 for a
    /// space; where its file says so, a space at the start counts as the one put in front and is lost, and one is put behind
    /// each added token.
    ///
    /// A token may end within a character, so these are bytes; [`Tokenizer::decoder`] gives whole characters.
    #[must_use]
    pub fn decode(&self, ids: &[TokenId]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        let mut at_start = self.adds_space();
        for &id in ids {
            let token = self.token_bytes(id).unwrap_or_default();
            if at_start && !self.is_special(id) && !token.is_empty() {
                at_start = false;
                bytes.extend_from_slice(token.strip_prefix(b" ").unwrap_or(token));
            } else {
                bytes.extend_from_slice(token);
            }
        }
        bytes
    }

    /// Whether encoding puts a space in front, which decoding has to take away.
    pub(crate) fn adds_space(&self) -> bool {
        matches!(self.scheme, Scheme::SentencePiece { prefix, .. } if prefix != Prefix::Never)
    }

    /// Whether the vocabulary is one of SentencePiece (Llama 2), not byte-level (Llama 3).
    #[must_use]
    pub fn is_sentence_piece(&self) -> bool {
        matches!(self.scheme, Scheme::SentencePiece { .. })
    }

    /// The special token with this name, such as `<|eot_id|>`.
    #[must_use]
    pub fn special(&self, text: &str) -> Option<TokenId> {
        self.specials.get(text).copied()
    }

    /// Names and ids of all special tokens, in no order.
    pub fn specials(&self) -> impl Iterator<Item = (&str, TokenId)> {
        self.specials.iter().map(|(text, id)| (text.as_str(), *id))
    }

    /// Whether this is a special token.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.vocabulary.kind(id) == Some(Kind::Special)
    }

    /// The token that every sequence begins with; `None` where the vocabulary has none or the file says that none is used.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends a text that is no conversation: Llama 3's `<|end_of_text|>` or Llama 2's `</s>`.
    #[must_use]
    pub fn end_of_text(&self) -> Option<TokenId> {
        self.special("<|end_of_text|>").or_else(|| self.special("</s>"))
    }

    /// Number of ids, special ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The tokens that end an answer, in ascending order: Llama 3's `<|end_of_text|>`, `<|eom_id|>` and `<|eot_id|>`,
    /// Llama 2's `</s>`, and the one that the file names; those that exist.
    #[must_use]
    pub fn stop_tokens(&self) -> Vec<TokenId> {
        let names = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "</s>"];
        let mut ids: Vec<TokenId> = names.iter().filter_map(|name| self.special(name)).chain(self.eos).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_sentence_piece() { "SentencePiece" } else { "byte-level" };
        write!(f, "Tokenizer({scheme}, {} tokens)", self.vocab_size())
    }
}

/// What SentencePiece writes for a space.
const META_SPACE: char = '\u{2581}';

/// Cuts a text in front of every run of spaces that follows something else.
fn split_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let spaces = rest.bytes().take_while(|byte| *byte == b' ').count();
        let word = rest.bytes().skip(spaces).take_while(|byte| *byte != b' ').count();
        let (piece, after) = rest.split_at(spaces + word);
        rest = after;
        Some(piece)
    })
}

/// Tokens that were added to a vocabulary as plain text. They are found before anything else, the leftmost first and of
/// those the longest.
#[derive(Default)]
struct AddedTokens {
    by_text: HashMap<Vec<u8>, TokenId>,
    /// For each first byte the lengths that occur, longest first.
    lengths: HashMap<u8, Vec<usize>>,
}

/// So many different lengths are looked up at every position of a text, at worst.
const MAX_ADDED_LENGTHS: usize = 64;

impl AddedTokens {
    fn insert(&mut self, token: &[u8], id: TokenId) -> Result<(), TokenizerError> {
        let Some(&first) = token.first() else {
            return Err(TokenizerError::Invalid {
                key: "added_tokens".to_owned(),
                problem: format!("token {id} is empty"),
            });
        };
        if let Some(other) = self.by_text.insert(token.to_vec(), id) {
            return Err(TokenizerError::Duplicate { token: vocabulary::readable(token), first: other, second: id });
        }
        let lengths = self.lengths.entry(first).or_default();
        if let Err(at) = lengths.binary_search_by(|len| token.len().cmp(len)) {
            lengths.insert(at, token.len());
        }
        if token.len() > 1024 || lengths.len() > MAX_ADDED_LENGTHS {
            let problem = format!("token {id}: too long, or one of too many lengths with the same first byte");
            return Err(TokenizerError::Invalid { key: "added_tokens".to_owned(), problem });
        }
        Ok(())
    }

    /// The text before the first added token, the token, and the text after it.
    fn find<'a>(&self, text: &'a str) -> Option<(&'a str, TokenId, &'a str)> {
        if self.by_text.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        for (start, first) in bytes.iter().enumerate() {
            for len in self.lengths.get(first).into_iter().flatten() {
                let Some(&id) = bytes.get(start..start + len).and_then(|token| self.by_text.get(token)) else {
                    continue;
                };
                // Added tokens are whole texts, and so is what remains around one.
                if let (Some(before), Some(after)) = (text.get(..start), text.get(start + len..)) {
                    return Some((before, id, after));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabularies_are_told_apart() {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let line = |byte: u8, rank: usize| {
            let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
            format!("{}== {rank}\n", String::from_utf8_lossy(&digits))
        };
        let of = |bytes: &[u8], more: &str| {
            let lines: String = bytes.iter().enumerate().map(|(rank, byte)| line(*byte, rank)).collect();
            Tokenizer::from_tiktoken((lines + more).as_bytes()).unwrap()
        };
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let mut swapped = bytes.clone();
        swapped.swap(65, 97);
        let [here, there] = [of(&bytes, ""), of(&swapped, "")];
        assert_eq!(here.first_difference(&of(&bytes, "")), None);
        assert_eq!((here.first_difference(&there), there.first_difference(&here)), (Some(65), Some(65)));
        // "aa" is token 256; there the special tokens begin one later.
        let longer = of(&bytes, "YWE= 256\n");
        assert_eq!((here.first_difference(&longer), longer.first_difference(&here)), (Some(256), Some(256)));
    }

    #[test]
    fn a_tokenizer_is_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Tokenizer>();
    }
}
