//! The tokenizer against OpenAI's tiktoken (vectors, and tiktoken-rs on random text) and Hugging Face's tokenizers.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use puna_conformance::read;
use puna_text::{GgufVocabulary, TokenId, Tokenizer, Trainer, TrainerOptions};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior, Trainer as _,
};

const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn llama3() -> Tokenizer {
    Tokenizer::from_tiktoken(&read("llama3-tokenizer/tokenizer.model")).unwrap()
}

/// The texts of the vectors, with the ids that tiktoken gives.
fn vectors() -> Vec<(String, Vec<TokenId>)> {
    String::from_utf8(read("llama3-tokenizer/vectors.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let vector: Value = serde_json::from_str(line).unwrap();
            let ids = vector["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as TokenId).collect();
            (vector["text"].as_str().unwrap().to_owned(), ids)
        })
        .collect()
}

/// tiktoken over the ranks of a `tokenizer.model`.
fn tiktoken(path: &str) -> tiktoken_rs::CoreBPE {
    let tokenizer = Tokenizer::from_tiktoken(&read(path)).unwrap();
    let n_ranks = tokenizer.vocab_size() as TokenId - 256;
    let ranks = (0..n_ranks).map(|id| (tokenizer.token_bytes(id).unwrap().to_vec(), id)).collect();
    tiktoken_rs::CoreBPE::new(ranks, [].into_iter().collect(), LLAMA3_PATTERN).unwrap()
}

/// SplitMix64 with a seed of its own in every run; failures print it.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Random {
        let seed = match std::env::var("PUNA_TEST_SEED") {
            Ok(seed) => seed.parse().expect("PUNA_TEST_SEED is a number"),
            Err(_) => RandomState::new().hash_one(0),
        };
        Random { seed, state: seed }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn char_of(&mut self, ranges: &[(u32, u32)]) -> char {
        loop {
            let (first, last) = ranges[self.below(ranges.len())];
            let code = first + self.below((last - first + 1) as usize) as u32;
            if let Some(c) = char::from_u32(code) {
                return c;
            }
        }
    }

    /// A text of what has broken tokenizers before: white space of every kind, contractions, marks, digits of many
    /// scripts, names of special tokens, long runs, and any code point at all.
    fn text(&mut self) -> String {
        const BITS: [&str; 44] = [
            "'s",
            "'S",
            "'ſ",
            "'re",
            "'RE",
            "'vE",
            "'ll",
            "'lL",
            "'d",
            "'",
            "''",
            "’s",
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\r",
            "\n\n",
            " \n",
            "\u{a0}",
            "\u{2003}",
            "\u{3000}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{200b}",
            "\u{301}",
            "ſ",
            "\u{212a}",
            "the",
            " the",
            "ing",
            "<|eot_id|>",
            "<|begin_of_text|>",
            "<|",
            "|>",
            " Việt",
            "你好",
            "\u{1F999}",
            "👩\u{200d}👩\u{200d}👧",
            "123",
            "Ⅷ½",
            "▁",
        ];
        let mut text = String::new();
        for _ in 0..1 + self.below(24) {
            match self.below(12) {
                0..=4 => text.push_str(BITS[self.below(BITS.len())]),
                5 | 6 => {
                    for _ in 0..1 + self.below(9) {
                        text.push(self.char_of(&[(b'a'.into(), b'z'.into())]));
                    }
                }
                7 => text.push(self.char_of(&[(0x20, 0x7E)])),
                8 => text.push(self.char_of(&[
                    (0, 0x2FF),
                    (0x370, 0x1FFF),
                    (0x2000, 0x2BFF),
                    (0x3000, 0x9FFF),
                    (0xAC00, 0xD7FF),
                ])),
                9 => text.push(self.char_of(&[(0, 0xD7FF), (0xE000, 0x3_FFFF), (0xE_0000, 0x10_FFFF)])),
                10 => {
                    let c = self.char_of(&[(0x20, 0x7E), (0x20, 0x20), (0x0A, 0x0D), (0xC0, 0xFF)]);
                    let n = self.below(90);
                    text.extend(std::iter::repeat_n(c, n));
                }
                _ => text.push_str(&self.below(100_000).to_string()),
            }
        }
        text
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn ids_are_those_of_the_vectors() {
    let tokenizer = llama3();
    let in_gguf = Tokenizer::from_gguf(&tokenizer.to_gguf().unwrap()).unwrap();
    let vectors = vectors();
    assert_eq!(vectors.len(), 1575);
    for (text, ids) in vectors {
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
        assert_eq!(in_gguf.encode(&text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        let mut decoder = tokenizer.decoder();
        let mut streamed: String = ids.iter().map(|id| decoder.push(*id)).collect();
        streamed += &decoder.finish();
        assert_eq!(streamed, text);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn ids_are_those_of_tiktoken_on_random_text() {
    let mut random = Random::new();
    for path in ["llama3-tokenizer/tokenizer.model", "bard/meta/tokenizer.model"] {
        let ours = Tokenizer::from_tiktoken(&read(path)).unwrap();
        let in_gguf = Tokenizer::from_gguf(&ours.to_gguf().unwrap()).unwrap();
        let theirs = tiktoken(path);
        for _ in 0..40_000 {
            let text = random.text();
            let ids = ours.encode(&text);
            assert_eq!(in_gguf.encode(&text), ids, "{text:?}, PUNA_TEST_SEED={}", random.seed);
            assert_eq!(ids, theirs.encode_ordinary(&text), "{text:?}, PUNA_TEST_SEED={}", random.seed);
            assert_eq!(ours.decode(&ids), text.as_bytes(), "{text:?}, PUNA_TEST_SEED={}", random.seed);
        }
    }
}

/// The ids of Hugging Face's library where no special token is recognised.
fn hugging_face(json: &[u8]) -> tokenizers::Tokenizer {
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    tokenizer.set_encode_special_tokens(true);
    tokenizer
}

fn encode_with(theirs: &tokenizers::Tokenizer, text: &str) -> Vec<TokenId> {
    theirs.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn ids_are_those_of_hugging_face_on_random_text() {
    let mut random = Random::new();
    let json = read("bard/hf/tokenizer.json");
    let ours = Tokenizer::from_tokenizer_json(&json).unwrap();
    let theirs = hugging_face(&json);
    for _ in 0..40_000 {
        let text = random.text();
        let expected = encode_with(&theirs, &text);
        assert_eq!(ours.encode(&text), expected, "{text:?}, PUNA_TEST_SEED={}", random.seed);
    }
}

/// A Llama-2-like vocabulary in both of its forms, made here since none is among the test models: characters, then words
/// merged from them in the order of a fixed text.
fn sentence_piece() -> (Vec<String>, Vec<(String, String)>) {
    let text = "▁the▁ing▁and▁in▁▁▁▁the▁then▁thing▁123▁er▁'s▁\u{4f60}\u{597d}▁Vi\u{1ec7}t▁<|▁|>▁ee▁aaaa▁<|eot_id|>";
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    let mut chars: Vec<char> = text.chars().chain('a'..='z').chain('A'..='Z').chain('!'..='/').collect();
    chars.sort_unstable();
    chars.dedup();
    let mut merges = Vec::new();
    let mut words: Vec<String> = text.chars().map(String::from).collect();
    // Plain byte-pair training: the most frequent pair, the first of equals, none across a word's start.
    for _ in 0..48 {
        let mut counts: Vec<((&str, &str), usize)> = Vec::new();
        for two in words.windows(2) {
            if two[1].starts_with('▁') && !two[0].ends_with('▁') {
                continue;
            }
            let key = (two[0].as_str(), two[1].as_str());
            match counts.iter_mut().find(|(pair, _)| *pair == key) {
                Some((_, count)) => *count += 1,
                None => counts.push((key, 1)),
            }
        }
        let Some(most) = counts.iter().map(|(_, count)| *count).max() else { break };
        let ((left, right), _) = counts.iter().find(|(_, count)| *count == most).unwrap();
        let (left, right) = (left.to_string(), right.to_string());
        let mut idx = 0;
        while idx + 1 < words.len() {
            if words[idx] == left && words[idx + 1] == right {
                words[idx] = format!("{left}{right}");
                words.remove(idx + 1);
            }
            idx += 1;
        }
        merges.push((left, right));
    }
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    tokens.extend(chars.into_iter().map(String::from));
    (tokens, merges)
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn sentence_piece_ids_are_those_of_hugging_face_on_random_text() {
    let (tokens, merges) = sentence_piece();
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let merge_list: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let special = |id: usize| {
        serde_json::json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let n_tokens = tokens.len();
    let plain = serde_json::json!({"id": n_tokens, "content": "<think>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false});
    let normalizers = serde_json::json!([
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]);
    let mut random = Random::new();
    for (normalizer, pre_tokenizer, added) in [
        (serde_json::json!({"type": "Sequence", "normalizers": normalizers}), Value::Null, vec![]),
        (serde_json::json!({"type": "Sequence", "normalizers": normalizers}), Value::Null, vec![plain.clone()]),
        (
            Value::Null,
            serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
            vec![plain.clone()],
        ),
        (
            Value::Null,
            serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}),
            vec![plain],
        ),
    ] {
        let added_tokens: Vec<Value> = [0, 1, 2].into_iter().map(special).chain(added.clone()).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": added_tokens,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": merge_list},
        })
        .to_string();
        let ours = Tokenizer::from_tokenizer_json(json.as_bytes()).unwrap();
        let theirs = hugging_face(json.as_bytes());
        let gguf = Tokenizer::from_gguf(&GgufVocabulary {
            model: "llama".to_owned(),
            tokens: tokens.clone(),
            token_types: [2, 3, 3].into_iter().chain([6; 256]).chain(std::iter::repeat(1)).take(n_tokens).collect(),
            scores: (0..n_tokens).map(|id| -(id as f32)).collect(),
            ..GgufVocabulary::default()
        })
        .unwrap();
        for round in 0..10_000 {
            let mut text = random.text();
            if round % 3 == 0 {
                text = format!("{text}<think>{}", random.text());
            }
            let expected = encode_with(&theirs, &text);
            assert_eq!(ours.encode(&text), expected, "{text:?}, PUNA_TEST_SEED={}", random.seed);
            // With one merge for every word, merging by score and by the list of pairs are the same.
            if !json.contains("Metaspace") && added.is_empty() {
                assert_eq!(gguf.encode(&text), expected, "{text:?}, PUNA_TEST_SEED={}", random.seed);
            }
        }
    }
}

/// The text that stands for any bytes in vocabularies of Hugging Face's form.
fn byte_level_text(bytes: &[u8]) -> String {
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let char_of = |byte: u8| match byte {
        _ if is_plain(byte) => char::from(byte),
        _ => char::from_u32(256 + (0..byte).filter(|lower| !is_plain(*lower)).count() as u32).unwrap(),
    };
    bytes.iter().map(|byte| char_of(*byte)).collect()
}

/// Llama 3's whole vocabulary as a `tokenizer.json`, with the merges that follow from the ranks: every way to part a token
/// in two.
fn llama3_json() -> Vec<u8> {
    let tokenizer = llama3();
    let write = byte_level_text;
    let tokens: Vec<&[u8]> = (0..128_000).map(|id| tokenizer.token_bytes(id).unwrap()).collect();
    let ids: HashMap<&[u8], usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges = Vec::new();
    for token in &tokens {
        let parts = (1..token.len()).map(|at| token.split_at(at));
        let known = parts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(known.map(|(left, right)| format!("{} {}", write(left), write(right))));
    }
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (write(token), id.into())).collect();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    let split = serde_json::json!({"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated"});
    serde_json::json!({
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": merges},
    })
    .to_string()
    .into_bytes()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn whole_vocabulary_as_tokenizer_json() {
    let json = llama3_json();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::from_tokenizer_json(&json).unwrap();
    println!("{} MB of tokenizer.json in {:?}", json.len() / 1_000_000, start.elapsed());
    for (text, ids) in vectors() {
        assert_eq!(tokenizer.encode(&text), ids, "{text:?}");
    }
    let (meta, mut random) = (llama3(), Random::new());
    for _ in 0..20_000 {
        let text = random.text();
        assert_eq!(tokenizer.encode(&text), meta.encode(&text), "{text:?}, PUNA_TEST_SEED={}", random.seed);
    }
}

/// The vocabulary that Hugging Face's trainer makes of texts with Llama 3's split, by id.
fn trained_by_hugging_face(texts: &[String], n_ranks: usize) -> Vec<String> {
    let pattern = SplitPattern::Regex(LLAMA3_PATTERN.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
    let byte_level = ByteLevel::new(false, true, false);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(n_ranks)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let pieces = |text: &str| {
        let mut pieces = PreTokenizedString::from(text);
        split.pre_tokenize(&mut pieces)?;
        byte_level.pre_tokenize(&mut pieces)?;
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::None);
        Ok(pieces.into_iter().map(|(piece, ..)| piece.to_owned()).collect())
    };
    trainer.feed(texts.iter(), pieces).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let mut tokens: Vec<(String, u32)> = model.get_vocab().into_iter().collect();
    tokens.sort_by_key(|(_, id)| *id);
    tokens.into_iter().map(|(token, _)| token).collect()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn trained_vocabularies_are_those_of_hugging_face() {
    let mut random = Random::new();
    let sample = String::from_utf8(read("bard/text/sample.txt")).unwrap();
    let mut corpora = vec![(vec![sample], 20_000)];
    corpora.extend((0..40).map(|_| ((0..400).map(|_| random.text()).collect(), 1500)));
    for (texts, n_ranks) in corpora {
        let options = TrainerOptions { max_token_bytes: 1 << 16, ..TrainerOptions::new(n_ranks + 256) };
        let mut trainer = Trainer::new(options).unwrap();
        trainer.count(&texts);
        let ours = trainer.train(&mut |_, _| {}).unwrap();
        let ours: Vec<String> = ours.tokens().iter().map(|token| byte_level_text(token)).collect();
        assert!(ours.len() > 1000, "{}", ours.len());
        assert_eq!(ours, trained_by_hugging_face(&texts, n_ranks), "PUNA_TEST_SEED={}", random.seed);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn bytes_have_the_ranks_of_llama3() {
    let trained = Trainer::new(TrainerOptions::new(512)).unwrap().train(&mut |_, _| {}).unwrap();
    let file = read("llama3-tokenizer/tokenizer.model");
    assert!(file.starts_with(&trained.to_tiktoken()));
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn speed_beside_tiktoken() {
    // The speed is a figure to read, with --nocapture and --release; what is checked are the ids.
    let text = String::from_utf8(read("bard/text/sample.txt")).unwrap();
    let (ours, theirs) = (llama3(), tiktoken("llama3-tokenizer/tokenizer.model"));
    let ids = theirs.encode_ordinary(&text);
    let speed = |encode: &dyn Fn() -> Vec<TokenId>| {
        let seconds = (0..9).map(|_| {
            let start = std::time::Instant::now();
            let encoded = encode();
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(encoded, ids);
            seconds
        });
        text.len() as f64 / 1e6 / seconds.fold(f64::INFINITY, f64::min)
    };
    let (ours, theirs) = (speed(&|| ours.encode(&text)), speed(&|| theirs.encode_ordinary(&text)));
    println!("puna {ours:.1} MB/s, tiktoken-rs {theirs:.1} MB/s");
}

/// The tokenizer's part of a GGUF file's metadata, with no checks at all: the reader proper is elsewhere.
fn gguf_vocabulary(file: &[u8]) -> GgufVocabulary {
    struct Cursor<'a>(&'a [u8]);
    impl Cursor<'_> {
        fn bytes<const N: usize>(&mut self) -> [u8; N] {
            let (bytes, rest) = self.0.split_first_chunk::<N>().unwrap();
            self.0 = rest;
            *bytes
        }
        fn u64(&mut self) -> u64 {
            u64::from_le_bytes(self.bytes())
        }
        fn u32(&mut self) -> u32 {
            u32::from_le_bytes(self.bytes())
        }
        fn string(&mut self) -> String {
            let len = usize::try_from(self.u64()).unwrap();
            let (text, rest) = self.0.split_at(len);
            self.0 = rest;
            String::from_utf8(text.to_vec()).unwrap()
        }
        fn value(&mut self, kind: u32) -> Value {
            match kind {
                0 | 7 => self.bytes::<1>()[0].into(),
                1 => i8::from_le_bytes(self.bytes()).into(),
                2 => u16::from_le_bytes(self.bytes()).into(),
                3 => i16::from_le_bytes(self.bytes()).into(),
                4 => self.u32().into(),
                5 => i32::from_le_bytes(self.bytes()).into(),
                6 => f32::from_le_bytes(self.bytes()).into(),
                8 => self.string().into(),
                9 => {
                    let (kind, n) = (self.u32(), self.u64());
                    (0..n).map(|_| self.value(kind)).collect()
                }
                10 => self.u64().into(),
                11 => i64::from_le_bytes(self.bytes()).into(),
                _ => f64::from_le_bytes(self.bytes()).into(),
            }
        }
    }
    let mut cursor = Cursor(file);
    assert_eq!(&cursor.bytes::<4>(), b"GGUF");
    let (_version, _n_tensors, n_values) = (cursor.u32(), cursor.u64(), cursor.u64());
    let mut values = HashMap::new();
    for _ in 0..n_values {
        let key = cursor.string();
        let kind = cursor.u32();
        values.insert(key, cursor.value(kind));
    }
    let value = |name: &str| values.get(&format!("tokenizer.ggml.{name}")).cloned().unwrap_or_default();
    let list = |name: &str| value(name).as_array().cloned().unwrap_or_default();
    let strings = |name: &str| list(name).iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    let bool = |name: &str| value(name).as_u64().map(|bit| bit != 0);
    let id = |name: &str| value(name).as_u64().map(|id| id as u32);
    GgufVocabulary {
        model: value("model").as_str().unwrap().to_owned(),
        pre: value("pre").as_str().map(str::to_owned),
        tokens: strings("tokens"),
        token_types: list("token_type").iter().map(|kind| kind.as_i64().unwrap() as i32).collect(),
        scores: list("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect(),
        merges: strings("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        add_bos: bool("add_bos_token"),
        add_space_prefix: bool("add_space_prefix"),
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn three_forms_of_one_vocabulary_agree() {
    let meta = Tokenizer::from_tiktoken(&read("bard/meta/tokenizer.model")).unwrap();
    let json = Tokenizer::from_tokenizer_json(&read("bard/hf/tokenizer.json")).unwrap();
    let gguf = Tokenizer::from_gguf(&gguf_vocabulary(&read("bard/gguf/q8_0.gguf"))).unwrap();
    for tokenizer in [&meta, &json, &gguf] {
        assert_eq!(tokenizer.vocab_size(), 4096);
        assert_eq!(tokenizer.bos(), Some(3840));
        assert_eq!(tokenizer.stop_tokens(), [3841, 3848, 3849]);
        for id in 0..4096 {
            assert_eq!(tokenizer.token_bytes(id), meta.token_bytes(id));
            assert_eq!(tokenizer.is_special(id), id >= 3840);
        }
    }
    let mut random = Random::new();
    let texts = vectors().into_iter().map(|(text, _)| text).chain((0..20_000).map(|_| random.text()));
    for text in texts.collect::<Vec<_>>() {
        let ids = meta.encode(&text);
        assert_eq!(json.encode(&text), ids, "{text:?}, PUNA_TEST_SEED={}", random.seed);
        assert_eq!(gguf.encode(&text), ids, "{text:?}, PUNA_TEST_SEED={}", random.seed);
    }
}
