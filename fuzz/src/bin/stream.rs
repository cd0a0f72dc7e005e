//! Any tokens, one by one: whole characters, and together what they are at once.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{assert_streams, byte_level, sentence_piece};
use puna_text::Tokenizer;

static TOKENIZERS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| [byte_level(), sentence_piece()]);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Two bytes each; some are no token.
    let ids: Vec<u32> =
        bytes.chunks(2).map(|id| id.iter().fold(0, |id, &byte| id << 8 | u32::from(byte)) % 300).collect();
    for tokenizer in &*TOKENIZERS {
        let bytes = tokenizer.decode(&ids);
        assert_streams(tokenizer, &ids, &bytes);
        // Without their names, special tokens change nothing.
        let (mut decoder, mut ordinary) = (tokenizer.decoder(), tokenizer.decoder());
        for &id in &ids {
            let part = decoder.push(id);
            if tokenizer.is_special(id) {
                assert_eq!(part, "");
            } else {
                assert_eq!(part, ordinary.push(id));
            }
        }
        assert_eq!(decoder.finish(), ordinary.finish());
    }
});
