//! Any text through tokenizers of both kinds, to tokens and back.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{assert_round_trip, byte_level, sentence_piece};
use puna_text::Tokenizer;

static TOKENIZERS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| [byte_level(), sentence_piece()]);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    TOKENIZERS.iter().for_each(|tokenizer| assert_round_trip(tokenizer, &text));
});
