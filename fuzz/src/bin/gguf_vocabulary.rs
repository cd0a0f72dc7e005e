//! The vocabulary of a GGUF file, byte-level or SentencePiece: what is accepted encodes and decodes any text.
//!
//! The input is text. Its first line has the settings, the others have a token each, whose kind is the first character and
//! whose score is the second; lines behind an empty one are merges.
#![no_main]

use puna_fuzz::{assert_round_trips, bounded, byte_level_character};
use puna_text::{GgufVocabulary, Tokenizer};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut v = settings(lines.next().unwrap_or_default());
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let mut chars = line.chars();
        let (kind, score) = (chars.next().map_or(0, u32::from), chars.next().map_or(0, u32::from));
        v.token_types.push(kind as i32 - '0' as i32);
        v.scores.push(if score == u32::from('!') { f32::NAN } else { 60.0 - score as f32 });
        v.tokens.push(chars.collect());
    }
    v.merges = lines.map(str::to_owned).collect();
    if let Ok(tokenizer) = bounded(bytes, 16, || Tokenizer::from_gguf(&v)) {
        assert_round_trips(&tokenizer, text);
    }
});

/// A model with every byte; a letter in the line is a setting of the file.
fn settings(line: &str) -> GgufVocabulary {
    let sentence_piece = line.contains('s');
    let byte = |byte| if sentence_piece { format!("<0x{byte:02X}>") } else { byte_level_character(byte).to_string() };
    GgufVocabulary {
        model: if sentence_piece { "llama" } else { "gpt2" }.to_owned(),
        pre: Some(if line.contains('m') { "smaug-bpe" } else { "llama-bpe" }.to_owned()),
        tokens: (0..=u8::MAX).map(byte).collect(),
        token_types: vec![if sentence_piece { 6 } else { 1 }; 256],
        scores: vec![0.0; 256],
        bos: line.find('b').map(|place| 255 + place as u32),
        eos: line.find('e').map(|place| 255 + place as u32),
        add_bos: line.contains('a').then_some(line.contains('b')),
        add_space_prefix: line.contains('p').then_some(line.contains('P')),
        ..Default::default()
    }
}
