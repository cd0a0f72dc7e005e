//! The tokens of a vocabulary: their bytes in one arena, what kind each is, and a table from bytes to id.
//!
//! Only ordinary tokens are in the table. A special token can therefore not come out of a look-up, whatever the text.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use super::{TokenId, TokenizerError};

/// More tokens than any vocabulary has; a larger file is refused before it costs memory.
pub(super) const MAX_TOKENS: usize = 1 << 22;
/// Longer than any token of any vocabulary (Llama 3's longest has 128 bytes).
pub(super) const MAX_TOKEN_BYTES: usize = 1 << 16;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ordinary text, found by look-up and merging.
    Ordinary,
    /// One byte of a character that the vocabulary lacks (SentencePiece's `<0x0A>`).
    Byte,
    /// Added to the vocabulary as plain text: found in a text before anything else is.
    Added,
    /// Control: begin of text, end of turn and the like. Never found in text.
    Special,
    /// In no text: a padding entry, or an id that the file skips.
    Unused,
}

/// See the module's documentation.
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// Token `id` has the bytes `ends[id - 1]..ends[id]`.
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Open addressing, at most half full: the upper half of the hash, then the id; [`EMPTY`] is a free slot.
    slots: Vec<u64>,
    seed: u64,
    longest: usize,
}

const EMPTY: u64 = u64::MAX;

impl Vocabulary {
    /// An empty vocabulary with room for `n_tokens`.
    ///
    /// # Errors
    /// More than [`MAX_TOKENS`].
    pub(super) fn with_capacity(n_tokens: usize) -> Result<Vocabulary, TokenizerError> {
        if n_tokens > MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { found: n_tokens, limit: MAX_TOKENS });
        }
        Ok(Vocabulary {
            bytes: Vec::with_capacity(8 * n_tokens),
            ends: Vec::with_capacity(n_tokens),
            kinds: Vec::with_capacity(n_tokens),
            slots: vec![EMPTY; (2 * n_tokens).next_power_of_two().max(2)],
            // A fixed hash would let a file put all its tokens into one chain.
            seed: RandomState::new().hash_one(0_u8),
            longest: 0,
        })
    }

    /// Adds the token with the next id.
    ///
    /// # Errors
    /// The same bytes are an ordinary token already, the token is too long, or there is no room left.
    pub(super) fn push(&mut self, token: &[u8], kind: Kind) -> Result<TokenId, TokenizerError> {
        let id = self.len();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::LongToken { id, found: token.len(), limit: MAX_TOKEN_BYTES });
        }
        let end = u32::try_from(self.bytes.len() + token.len());
        let (Ok(end), Ok(number)) = (end, u32::try_from(id)) else {
            return Err(TokenizerError::TooManyTokens { found: id + 1, limit: MAX_TOKENS });
        };
        if 2 * (id + 1) > self.slots.len() {
            return Err(TokenizerError::TooManyTokens { found: id + 1, limit: self.slots.len() / 2 });
        }
        if kind == Kind::Ordinary && !token.is_empty() {
            let hash = self.hash(token);
            let (slot, present) = self.probe(hash, token);
            if let Some(other) = present {
                return Err(TokenizerError::Duplicate { token: readable(token), first: other, second: number });
            }
            self.slots[slot] = hash & !u64::from(u32::MAX) | u64::from(number);
            self.longest = self.longest.max(token.len());
        }
        self.bytes.extend_from_slice(token);
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(number)
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The kind of a token.
    pub(super) fn kind(&self, id: TokenId) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The bytes of a token.
    pub(super) fn token(&self, id: TokenId) -> Option<&[u8]> {
        self.bytes.get(self.range(id)?)
    }

    fn range(&self, id: TokenId) -> Option<Range<usize>> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = match id.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        Some(start..end)
    }

    /// The ordinary token with these bytes.
    pub(super) fn find(&self, token: &[u8]) -> Option<TokenId> {
        if token.is_empty() || token.len() > self.longest {
            return None;
        }
        self.probe(self.hash(token), token).1
    }

    /// The slot where the token is or would be, and its id.
    fn probe(&self, hash: u64, token: &[u8]) -> (usize, Option<TokenId>) {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let entry = self.slots[slot];
            if entry == EMPTY {
                return (slot, None);
            }
            let id = entry as u32;
            if (entry ^ hash) >> 32 == 0 && self.token(id) == Some(token) {
                return (slot, Some(id));
            }
            slot = (slot + 1) & mask;
        }
    }

    fn hash(&self, token: &[u8]) -> u64 {
        let mut hasher = FoldHasher(self.seed);
        hasher.write(token);
        hasher.finish()
    }
}

/// A token for an error message.
pub(super) fn readable(token: &[u8]) -> String {
    String::from_utf8_lossy(token.get(..40).unwrap_or(token)).into_owned()
}

/// Multiply and fold, seeded: short keys from a fixed vocabulary, where SipHash would be half of the time.
#[derive(Clone, Copy)]
pub(super) struct FoldHasher(u64);

impl FoldHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for FoldHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in words.by_ref() {
            self.mix(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        let mut last = [0; 8];
        let rest = words.remainder();
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Builds [`FoldHasher`]s for a standard map.
#[derive(Clone)]
pub(super) struct FoldState(u64);

impl Default for FoldState {
    fn default() -> FoldState {
        FoldState(RandomState::new().hash_one(0_u8))
    }
}

impl BuildHasher for FoldState {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ordinary_tokens_only() {
        let mut vocabulary = Vocabulary::with_capacity(4).unwrap();
        vocabulary.push(b"a", Kind::Ordinary).unwrap();
        vocabulary.push(b"<s>", Kind::Special).unwrap();
        vocabulary.push(b"abcdefghijk", Kind::Ordinary).unwrap();
        assert_eq!(vocabulary.find(b"abcdefghijk"), Some(2));
        assert_eq!(vocabulary.find(b"a"), Some(0));
        assert_eq!(vocabulary.find(b"<s>"), None);
        assert_eq!(vocabulary.find(b""), None);
        assert_eq!(vocabulary.token(1), Some(&b"<s>"[..]));
        assert_eq!(vocabulary.token(3), None);
    }

    #[test]
    fn refuses_duplicates_and_floods() {
        let mut vocabulary = Vocabulary::with_capacity(2).unwrap();
        vocabulary.push(b"a", Kind::Ordinary).unwrap();
        let error = vocabulary.push(b"a", Kind::Ordinary).unwrap_err();
        assert!(matches!(error, TokenizerError::Duplicate { first: 0, second: 1, .. }), "{error}");
        let error = vocabulary.push(&vec![b'x'; MAX_TOKEN_BYTES + 1], Kind::Ordinary).unwrap_err();
        assert!(matches!(error, TokenizerError::LongToken { .. }), "{error}");
        assert!(matches!(Vocabulary::with_capacity(10_000_000), Err(TokenizerError::TooManyTokens { .. })));
    }
}
