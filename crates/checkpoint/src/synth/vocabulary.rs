//! A made-up vocabulary of the right size and form: byte-level BPE as Llama 3 has it.
//!
//! Ids: the 256 bytes, in the order of GPT-2's byte alphabet; then filler words, each the merge of a shorter token and
//! one letter; then the 256 special tokens of Llama 3.

use crate::{Error, GgufVocabulary, config::Config, stream::wrong};
use serde_json::{Value, json};
use std::path::Path;

const BYTES: usize = 256;
const SPECIALS: usize = 256;

/// Llama 3.1's pattern, by which text is split before merging.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Refuses vocabularies that have no room for bytes and special tokens.
pub(super) fn check(config: &Config, out: &Path) -> Result<(), Error> {
    if config.vocab_size < BYTES + SPECIALS {
        let needed = BYTES + SPECIALS;
        return Err(wrong(out, format!("a vocabulary of {}, expected at least {needed}", config.vocab_size)));
    }
    Ok(())
}

/// GPT-2's alphabet: a printable character for every byte; printable bytes stand for themselves and come first.
fn alphabet() -> Vec<char> {
    let printable: Vec<u32> = (33..=126).chain(161..=172).chain(174..=255).collect();
    let others = BYTES - printable.len();
    printable.into_iter().chain(256..256 + others as u32).filter_map(char::from_u32).collect()
}

/// Filler tokens and the two tokens that each is the merge of.
fn fillers(n: usize) -> impl Iterator<Item = (String, String)> {
    let letters = || (b'a'..=b'z').map(char::from);
    // " a" to " z", then all words of two letters, of three, and so on.
    let spaced = letters().map(|letter| ("Ġ".to_owned(), letter.to_string()));
    let words = (2u32..).flat_map(move |len| {
        (0..26u64.pow(len)).map(move |number| {
            let mut rest = number;
            let mut word: Vec<u8> = (0..len)
                .map(|_| {
                    let letter = b'a' + (rest % 26) as u8;
                    rest /= 26;
                    letter
                })
                .collect();
            word.reverse();
            let word: String = word.into_iter().map(char::from).collect();
            let (head, last) = word.split_at(word.len() - 1);
            (head.to_owned(), last.to_owned())
        })
    });
    spaced.chain(words).take(n)
}

/// The special tokens of Llama 3.1, in order.
fn specials() -> impl Iterator<Item = String> {
    let named = [
        "begin_of_text",
        "end_of_text",
        "reserved_special_token_0",
        "reserved_special_token_1",
        "finetune_right_pad_id",
        "reserved_special_token_2",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
        "python_tag",
    ];
    let reserved = (3..).map(|i| format!("reserved_special_token_{i}"));
    named.into_iter().map(str::to_owned).chain(reserved).map(|name| format!("<|{name}|>")).take(SPECIALS)
}

fn n_base(config: &Config) -> usize {
    config.vocab_size - SPECIALS
}

fn base_tokens(config: &Config) -> impl Iterator<Item = String> {
    let bytes = alphabet().into_iter().map(String::from);
    bytes.chain(fillers(n_base(config) - BYTES).map(|(head, last)| head + &last))
}

fn merges(config: &Config) -> impl Iterator<Item = String> {
    fillers(n_base(config) - BYTES).map(|(head, last)| format!("{head} {last}"))
}

/// The id of begin_of_text, and those of the three tokens that end: end_of_text, eom_id, eot_id.
pub(super) fn bos_and_eos(config: &Config) -> [Value; 2] {
    let first = n_base(config);
    [json!(first), json!([first + 1, first + 8, first + 9])]
}

/// The vocabulary for GGUF.
pub(super) fn gguf(config: &Config) -> GgufVocabulary {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let first = u32::try_from(n_base(config)).unwrap_or(u32::MAX);
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: base_tokens(config).chain(specials()).collect(),
        token_types: (0..config.vocab_size).map(|id| if id < n_base(config) { NORMAL } else { CONTROL }).collect(),
        scores: Vec::new(),
        merges: merges(config).collect(),
        bos: Some(first),
        eos: Some(first + 9),
        add_bos: Some(true),
        add_space_prefix: None,
    }
}

/// The same as a `tokenizer.json`.
pub(super) fn tokenizer_json(config: &Config) -> Value {
    let vocab: serde_json::Map<String, Value> =
        base_tokens(config).enumerate().map(|(id, token)| (token, id.into())).collect();
    let added: Vec<Value> = specials()
        .enumerate()
        .map(|(i, content)| {
            json!({
                "id": n_base(config) + i, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let begin = "<|begin_of_text|>";
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": PATTERN }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] },
        "post_processor": { "type": "Sequence", "processors": [
            { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
            { "type": "TemplateProcessing",
              "single": [{ "SpecialToken": { "id": begin, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
              "pair": [
                { "SpecialToken": { "id": begin, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": begin, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } },
              ],
              "special_tokens": { begin: { "id": begin, "ids": [n_base(config)], "tokens": [begin] } } },
        ] },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": merges(config).collect::<Vec<_>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::Shape;
    use std::collections::HashSet;

    #[test]
    fn tokens_are_distinct_and_merges_make_them() {
        let shape = Shape::named("llama-3.1-8b").unwrap();
        let vocabulary = gguf(shape.config());
        assert_eq!(vocabulary.tokens.len(), 128_256);
        let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
        assert_eq!(tokens.len(), 128_256);
        for merge in &vocabulary.merges {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(tokens.contains(left) && tokens.contains(right), "{merge}");
            assert!(tokens.contains(format!("{left}{right}").as_str()));
        }
        assert_eq!(vocabulary.tokens[128_000], "<|begin_of_text|>");
        assert_eq!(vocabulary.tokens[128_009], "<|eot_id|>");
        assert_eq!(vocabulary.tokens[128_255], "<|reserved_special_token_247|>");
        assert_eq!(alphabet().len(), 256);
    }
}
