//! `tokenizer.json`: what is accepted encodes and decodes any text.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{assert_round_trips, bounded, byte_level_character};
use puna_text::Tokenizer;

// Without a token for every byte no file is accepted, and 256 entries leave a fuzzer little chance to change anything
// else. So these two short ones stand for them, with the ids from 0 on.
static BYTE_LEVEL: LazyLock<String> = LazyLock::new(|| entries(|byte| byte_level_character(byte).to_string()));
static SENTENCE_PIECE: LazyLock<String> = LazyLock::new(|| entries(|byte| format!("<0x{byte:02X}>")));

fn entries(name: impl Fn(u8) -> String) -> String {
    let entry = |byte| format!("{}:{byte}", serde_json::Value::from(name(byte)));
    (0..=u8::MAX).map(entry).collect::<Vec<_>>().join(",")
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check(bytes, "");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for (name, entries) in [("\"BYTES\":0", &*BYTE_LEVEL), ("\"<BYTES>\":0", &*SENTENCE_PIECE)] {
        if text.contains(name) {
            check(text.replacen(name, entries, 1).as_bytes(), text);
        }
    }
});

fn check(file: &[u8], text: &str) {
    if let Ok(tokenizer) = bounded(file, 16, || Tokenizer::from_tokenizer_json(file)) {
        assert_round_trips(&tokenizer, text);
    }
}
