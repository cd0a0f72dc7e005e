//! The vocabulary as the library of grammars wants it: a tree of all tokens by their bytes.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use puna_text::{TokenId, Tokenizer};

use super::GrammarError;

/// A longer token is never picked; others spell its text as well. The tree is as deep as its longest token is long.
const MAX_TOKEN_BYTES: usize = 512;
/// Nodes that the tree has numbers for.
const MAX_NODES: usize = 1 << 22;

struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

/// The tokens of a tokenizer, of which `stop_tokens` end an answer.
pub(super) fn environment(tokenizer: Arc<Tokenizer>, stop_tokens: &[TokenId]) -> Result<TokEnv, GrammarError> {
    let n_tokens = tokenizer.vocab_size();
    let Some(first_stop) = stop_tokens.first() else {
        return Err(GrammarError::Vocabulary("no token ends an answer".to_owned()));
    };
    if let Some(id) = stop_tokens.iter().find(|id| **id as usize >= n_tokens) {
        return Err(GrammarError::Vocabulary(format!("the stop token {id} is none of its {n_tokens} tokens")));
    }
    let words: Vec<Vec<u8>> = (0..n_tokens as TokenId).map(|id| word(&tokenizer, id)).collect();
    let n_bytes: usize = words.iter().map(Vec::len).sum();
    if n_bytes >= MAX_NODES {
        let problem = format!("expected fewer than {MAX_NODES} bytes in all tokens, found {n_bytes}");
        return Err(GrammarError::Vocabulary(problem));
    }
    let info = TokRxInfo::new(n_tokens as u32, *first_stop);
    let trie = TokTrie::from(&info, &words).with_eos_tokens(stop_tokens);
    Ok(Arc::new(Vocabulary { tokenizer, trie }))
}

/// What the tree has for a token; nothing for one that may not come. A byte that is in no text marks special tokens.
fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match bytes {
        _ if bytes.len() > MAX_TOKEN_BYTES => Vec::new(),
        _ if tokenizer.is_special(id) => [&[MARKER], bytes].concat(),
        [MARKER, ..] => Vec::new(),
        _ => bytes.to_vec(),
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text))
    }

    /// Says that text which is certain is not to be given as the tokens of [`Tokenizer::encode`], but that the model chooses
    /// among all that spell it. The library would first write out all of that text, and a stranger's grammar can make it
    /// as long as he likes.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
