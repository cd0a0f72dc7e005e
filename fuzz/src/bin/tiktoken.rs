//! Meta's `tokenizer.model`: what is accepted encodes and decodes any text.
#![no_main]

use puna_fuzz::{assert_round_trips, bounded};
use puna_text::Tokenizer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same behind a token for every byte, without which no file is accepted.
    let mut file: Vec<u8> = (0..=u8::MAX).flat_map(|byte| line(byte).into_bytes()).collect();
    file.extend_from_slice(bytes);
    check(&file);
});

fn check(file: &[u8]) {
    if let Ok(tokenizer) = bounded(file, 16, || Tokenizer::from_tiktoken(file)) {
        assert_round_trips(
            &tokenizer,
            &String::from_utf8_lossy(file.get(file.len().saturating_sub(512)..).unwrap_or(file)),
        );
    }
}

/// The line of a single byte.
fn line(byte: u8) -> String {
    const DIGITS: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let [high, low] = [byte >> 2, (byte & 3) << 4].map(|digit| char::from(DIGITS[usize::from(digit)]));
    format!("{high}{low}== {byte}\n")
}
