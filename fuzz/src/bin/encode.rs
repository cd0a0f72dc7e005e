//! Any text through tokenizers of both kinds, to tokens and back.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{ADDED, assert_round_trip, byte_level, sentence_piece};
use puna_text::Tokenizer;

static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(byte_level);
static SENTENCE_PIECE: LazyLock<Tokenizer> = LazyLock::new(sentence_piece);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    assert_round_trip(&BYTE_LEVEL, &text);
    assert_round_trip(&SENTENCE_PIECE, &text);
    // This one always puts a space in front, so spaces come back too.
    if !text.contains(ADDED) {
        let text = text.replace('\u{2581}', " ");
        assert_eq!(SENTENCE_PIECE.decode(&SENTENCE_PIECE.encode(&text)), text.as_bytes());
    }
});
