//! What the targets share: a bound on memory, small tokenizers, and what must hold of every tokenizer.
//!
//! A target is a file of `src/bin`. It panics where something is wrong; libFuzzer notices, and keeps the input.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use puna_checkpoint::{Config, Rope, RopePairing, RopeScaling, adapter::Listing};
use puna_text::{GgufVocabulary, TokenId, Tokenizer};

/// Runs a parser, and panics if it held more memory at a time than `times` the input and a mebibyte. libFuzzer's own
/// `-malloc_limit_mb` looks at single allocations only, and at nothing without a sanitizer.
pub fn bounded<T>(input: &[u8], times: usize, parse: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = parse();
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(peak <= times * input.len() + (1 << 20), "{peak} bytes held for an input of {}", input.len());
    result
}

/// Panics unless `len` bytes from `start` lie inside of the file.
pub fn assert_inside(file: &[u8], start: u64, len: u64) {
    let end = start.checked_add(len);
    assert!(end.is_some_and(|end| end <= file.len() as u64), "{len} bytes from {start} in a file of {}", file.len());
}

/// Panics unless the sizes can be computed with, and every tensor has some.
pub fn assert_config(config: &Config) {
    assert!(config.n_heads.is_multiple_of(config.n_kv_heads));
    for name in config.required() {
        let (rows, cols) = config.shape(name);
        assert!(rows > 0 && cols > 0 && rows.checked_mul(cols).is_some(), "{name:?} of {rows} rows and {cols} columns");
    }
    let divisors = config.rope.divisors(config.head_dim);
    assert_eq!(divisors.len(), config.head_dim / 2);
    assert!(divisors.iter().all(|divisor| divisor.is_finite() && *divisor > 0.0), "{:?}", config.rope);
}

/// The sizes of a base for adapters.
pub fn base() -> Config {
    Config {
        dim: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        ffn_dim: 32,
        vocab_size: 4,
        context_length: 16,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None, pairing: RopePairing::Halves },
        tied_embeddings: false,
    }
}

/// Panics unless every A fits its B, and what fits [`base`] too is an adapter of finite numbers.
pub fn assert_adapter(listing: &Listing) {
    for (name, stored) in &listing.matrices {
        assert!(stored.rank() > 0 && stored.a.rows == stored.b.cols, "{name:?}");
        assert!(listing.settings.scale(stored.rank(), stored.alpha).is_normal(), "{name:?}: alpha {}", stored.alpha);
    }
    let base = base();
    let Ok(adapter) = listing.load(&base) else { return };
    for (name, matrix) in &adapter.matrices {
        let (rows, cols) = base.shape(*name);
        assert_eq!((matrix.a.len(), matrix.b.len()), (matrix.rank * cols, rows * matrix.rank), "{name:?}");
        assert!(matrix.a.iter().chain(&matrix.b).all(|value| value.is_finite()), "{name:?}");
    }
    let [there, back] = match adapter.pairing {
        RopePairing::Halves => [RopePairing::Interleaved, RopePairing::Halves],
        RopePairing::Interleaved => [RopePairing::Halves, RopePairing::Interleaved],
    };
    assert_eq!(adapter.clone().with_pairing(there, &base).with_pairing(back, &base), adapter);
}

/// The system's allocator, counted.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request is handed to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Texts that tokenizers trip over: spaces at the ends, what special tokens are called, half-known characters.
const TEXTS: [&str; 5] =
    ["", "  a", "<|eot_id|></s> <s>", "I'm  12345 \r\n\n é\u{301}\u{2581}🦙\t ", "\u{F0000}aaaaaaaaaaaaaaaaaaaaaaaaaa"];

/// Panics unless encoding and decoding undo each other, on hostile texts and on `text`.
pub fn assert_round_trips(tokenizer: &Tokenizer, text: &str) {
    TEXTS.into_iter().chain([text]).for_each(|text| assert_round_trip(tokenizer, text));
}

/// Panics unless decoding undoes encoding.
pub fn assert_round_trip(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode(text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
    assert!(!ids.iter().any(|&id| tokenizer.is_special(id)), "a special token out of {text:?}: {ids:?}");
    let bytes = tokenizer.decode(&ids);
    if tokenizer.is_sentence_piece() {
        // U+2581 is a space to it, and spaces come and go at the start and behind added tokens.
        let words = |text: &str| text.replace([' ', '\u{2581}'], "");
        assert_eq!(words(&String::from_utf8_lossy(&bytes)), words(text));
    } else {
        assert_eq!(bytes, text.as_bytes());
    }
    assert_streams(tokenizer, &ids, &bytes);
}

/// Panics unless tokens that come one by one give the text of all of them.
pub fn assert_streams(tokenizer: &Tokenizer, ids: &[TokenId], bytes: &[u8]) {
    let mut decoder = tokenizer.decoder().show_specials(true);
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text += &decoder.finish();
    assert_eq!(text, String::from_utf8_lossy(bytes));
}

/// Special tokens of the tokenizers below: Llama 3's for the dialogue format, and names that begin and end alike.
pub const SPECIALS: [&str; 10] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<s>",
    "</s>",
    "<|",
];

/// A token of theirs that is found in a text before anything else is.
pub const ADDED: &str = "\u{1F600}x";

/// A byte-level tokenizer with every byte, a few words, [`ADDED`] and [`SPECIALS`]; the first of them begins a text.
pub fn byte_level() -> Tokenizer {
    let bytes = (0..=u8::MAX).map(|byte| (byte_level_character(byte).to_string(), 1));
    let words = ["ab", "abc", "Ġa", "ĠĠ", "Ã©", "ðŁ", "12", "<|", "Ġab", "aa", "aaaa"].map(|word| (word.to_owned(), 1));
    let merges = ["a b", "ab c", "Ġ a", "Ġ Ġ", "Ã ©", "ð Ł", "1 2", "< |", "Ġa b", "a a", "aa aa"];
    tokenizer("gpt2", bytes.chain(words).chain([(ADDED.to_owned(), 4)]), &merges)
}

/// The same of SentencePiece, with a space put in front of a text.
pub fn sentence_piece() -> Tokenizer {
    let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), 6));
    let words = ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁", "éa", "é", "<|", "a▁"].map(|word| (word.to_owned(), 1));
    tokenizer("llama", bytes.chain(words).chain([(ADDED.to_owned(), 4)]), &[])
}

fn tokenizer(model: &str, tokens: impl Iterator<Item = (String, i32)>, merges: &[&str]) -> Tokenizer {
    let specials = SPECIALS.map(|name| (name.to_owned(), 3));
    let (tokens, token_types): (Vec<String>, Vec<i32>) = tokens.chain(specials).unzip();
    Tokenizer::from_gguf(&GgufVocabulary {
        model: model.to_owned(),
        pre: Some("llama-bpe".to_owned()),
        scores: (0..tokens.len()).map(|id| -((id % 7) as f32)).collect(),
        merges: merges.iter().map(|&merge| merge.to_owned()).collect(),
        bos: Some((tokens.len() - SPECIALS.len()) as u32),
        tokens,
        token_types,
        ..Default::default()
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// GPT-2's character for a byte: printable Latin-1 for itself, the others from U+0100 on.
pub fn byte_level_character(byte: u8) -> char {
    let is_plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_plain(&byte) {
        return char::from(byte);
    }
    let n_before = (0..byte).filter(|byte| !is_plain(byte)).count() as u32;
    char::from_u32(0x100 + n_before).unwrap_or_default()
}
