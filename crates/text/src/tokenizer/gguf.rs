//! The vocabulary in the metadata of a GGUF file (`tokenizer.ggml.*`), as llama.cpp writes and reads it.

use super::byte_level::ByteAlphabet;
use super::hugging_face::{named_byte, ordinary_bytes, read_merges};
use super::merge::{self, Merges};
use super::vocabulary::{Kind, Vocabulary};
use super::{Parts, Prefix, Scheme, SchemeKind, TokenId, Tokenizer, TokenizerError};

/// The values of `tokenizer.ggml.*`, as far as they matter for ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: how text is split before merging.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.scores`; SentencePiece only.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`; byte-level only.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

fn unsupported(key: &str, found: String, expected: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { key: format!("tokenizer.ggml.{key}"), found, expected }
}

fn invalid(key: &str, problem: String) -> TokenizerError {
    TokenizerError::Invalid { key: format!("tokenizer.ggml.{key}"), problem }
}

pub(super) fn read(v: &GgufVocabulary) -> Result<Parts, TokenizerError> {
    let n_tokens = v.tokens.len();
    if v.token_types.len() != n_tokens {
        return Err(invalid("token_type", format!("{} types for {n_tokens} tokens", v.token_types.len())));
    }
    let (scheme, whole_pieces) = match v.model.as_str() {
        "gpt2" => (SchemeKind::ByteLevel, split_takes_whole_pieces(v.pre.as_deref())?),
        "llama" => {
            let prefix = if v.add_space_prefix.unwrap_or(true) { Prefix::Always } else { Prefix::Never };
            (SchemeKind::SentencePiece(prefix), false)
        }
        other => return Err(unsupported("model", format!("{other:?}"), "\"gpt2\" or \"llama\"")),
    };
    let alphabet = ByteAlphabet::new();
    let mut vocabulary = Vocabulary::with_capacity(n_tokens)?;
    let mut bytes = Vec::new();
    for (id, (token, token_type)) in v.tokens.iter().zip(&v.token_types).enumerate() {
        let raw = token.as_bytes();
        match *token_type {
            NORMAL => {
                let kind = ordinary_bytes(token, scheme, &alphabet, &mut bytes);
                vocabulary.push(&bytes, kind)?;
            }
            UNKNOWN | CONTROL => drop(vocabulary.push(raw, Kind::Special)?),
            USER_DEFINED => drop(vocabulary.push(raw, Kind::Added)?),
            UNUSED => drop(vocabulary.push(raw, Kind::Unused)?),
            BYTE => match named_byte(token) {
                Some(byte) => drop(vocabulary.push(&[byte], Kind::Byte)?),
                None => return Err(invalid(&format!("tokens[{id}]"), format!("{token:?} is not of the form <0x0A>"))),
            },
            other => return Err(invalid(&format!("token_type[{id}]"), format!("{other}; expected 1 to 6"))),
        };
    }
    let merges = match scheme {
        SchemeKind::ByteLevel => {
            // The space that parts the two is never the first character: tokens write a space as U+0120.
            let list = v.merges.iter().map(|merge| merge.split_once(' '));
            read_merges(list, "tokenizer.ggml.merges", &vocabulary, scheme)?
        }
        SchemeKind::SentencePiece(_) => Merges::ByRank(ranks(&v.scores, n_tokens)?),
    };
    let bos = v.bos.filter(|_| v.add_bos != Some(false));
    Ok(Parts { vocabulary, scheme, merges, whole_pieces, bos, eos: v.eos })
}

/// The metadata from which [`read`] makes this tokenizer.
pub(super) fn write(tokenizer: &Tokenizer) -> Result<GgufVocabulary, TokenizerError> {
    let vocabulary = &tokenizer.vocabulary;
    let ids = 0..vocabulary.len() as TokenId;
    let pairs: Vec<(TokenId, TokenId)> = match (&tokenizer.scheme, &tokenizer.merges) {
        (Scheme::ByteLevel, Merges::Pairs(ranks)) => {
            let mut pairs: Vec<(u64, u32)> = ranks.iter().map(|(pair, (rank, _))| (*pair, *rank)).collect();
            pairs.sort_unstable_by_key(|(_, rank)| *rank);
            pairs.into_iter().map(|(pair, _)| merge::unpair(pair)).collect()
        }
        (Scheme::ByteLevel, Merges::ById) => {
            let ordinary = ids.clone().filter(|id| vocabulary.kind(*id) == Some(Kind::Ordinary));
            let tokens = ordinary.filter_map(|id| vocabulary.token(id));
            tokens.filter_map(|token| merge::pair_of(vocabulary, &tokenizer.byte_tokens, token)).collect()
        }
        _ => return Err(TokenizerError::NotByteLevel),
    };
    let alphabet = ByteAlphabet::new();
    let spelled = |id: TokenId| alphabet.encode(vocabulary.token(id).unwrap_or_default());
    let (tokens, token_types) = ids
        .map(|id| {
            let bytes = vocabulary.token(id).unwrap_or_default();
            let text = || String::from_utf8_lossy(bytes).into_owned();
            match vocabulary.kind(id) {
                Some(Kind::Ordinary) => (spelled(id), NORMAL),
                Some(Kind::Byte) => (bytes.iter().map(|byte| format!("<0x{byte:02X}>")).collect(), BYTE),
                Some(Kind::Added) => (text(), USER_DEFINED),
                Some(Kind::Special) => (text(), CONTROL),
                // An id that the file skips gets a name, as converters give it: llama.cpp wants one.
                Some(Kind::Unused) | None if bytes.is_empty() => (format!("[PAD{id}]"), UNUSED),
                Some(Kind::Unused) | None => (text(), UNUSED),
            }
        })
        .unzip();
    Ok(GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some(if tokenizer.whole_pieces { "llama-bpe" } else { "smaug-bpe" }.to_owned()),
        tokens,
        token_types,
        scores: Vec::new(),
        merges: pairs.into_iter().map(|(left, right)| spelled(left) + " " + &spelled(right)).collect(),
        bos: tokenizer.bos,
        eos: tokenizer.eos.or_else(|| tokenizer.special("<|eot_id|>")).or_else(|| tokenizer.end_of_text()),
        add_bos: Some(tokenizer.bos.is_some()),
        add_space_prefix: None,
    })
}

/// Whether the split named here looks up whole pieces before merging; all of them split like Llama 3.
fn split_takes_whole_pieces(pre: Option<&str>) -> Result<bool, TokenizerError> {
    match pre {
        Some("llama-bpe" | "llama3" | "llama-v3") => Ok(true),
        Some("smaug-bpe") => Ok(false),
        other => {
            let found = other.map_or_else(|| "missing".to_owned(), |pre| format!("{pre:?}"));
            Err(unsupported("pre", found, "\"llama-bpe\", \"llama3\", \"llama-v3\" or \"smaug-bpe\""))
        }
    }
}

/// The rank of each token: 0 for the highest score; equal scores have equal ranks.
fn ranks(scores: &[f32], n_tokens: usize) -> Result<Vec<u32>, TokenizerError> {
    if scores.len() != n_tokens {
        return Err(invalid("scores", format!("{} scores for {n_tokens} tokens", scores.len())));
    }
    if let Some(id) = scores.iter().position(|score| score.is_nan()) {
        return Err(invalid(&format!("scores[{id}]"), "not a number".to_owned()));
    }
    let mut order: Vec<TokenId> = (0..n_tokens as u32).collect();
    let score = |id: &TokenId| scores.get(*id as usize).copied().unwrap_or_default();
    order.sort_by(|one, other| score(other).total_cmp(&score(one)));
    let mut ranks = vec![0; n_tokens];
    let mut rank = 0;
    let mut before = None;
    for id in &order {
        // 0 and -0 are equal scores.
        if before.is_some_and(|before| before != score(id)) {
            rank += 1;
        }
        before = Some(score(id));
        if let Some(place) = ranks.get_mut(*id as usize) {
            *place = rank;
        }
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::super::{Trainer, TrainerOptions};
    use super::*;
    use proptest::prelude::*;

    /// Like Llama 2's: three controls, the bytes, words with scores.
    fn llama() -> GgufVocabulary {
        let words = ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁", "éa"];
        let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
        let specials = ["<unk>", "<s>", "</s>"].map(str::to_owned);
        let tokens: Vec<String> = specials.into_iter().chain(bytes).chain(words.map(str::to_owned)).collect();
        GgufVocabulary {
            model: "llama".to_owned(),
            token_types: [2, 3, 3].into_iter().chain([6; 256]).chain([1; 8]).collect(),
            // "ab" before "▁a"; "▁ab" may come from either.
            scores: [0.0; 259].into_iter().chain([-9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0, -5.0]).collect(),
            tokens,
            bos: Some(1),
            eos: Some(2),
            ..GgufVocabulary::default()
        }
    }

    /// All bytes and two words; then controls.
    fn gpt2() -> GgufVocabulary {
        let alphabet = ByteAlphabet::new();
        let bytes = (0..=u8::MAX).map(|byte| alphabet.encode(&[byte]));
        let words = ["ab", "Ġab", "<|begin_of_text|>", "<|eot_id|>", "<think>", "[PAD]"].map(str::to_owned);
        GgufVocabulary {
            model: "gpt2".to_owned(),
            pre: Some("llama-bpe".to_owned()),
            tokens: bytes.chain(words).collect(),
            token_types: [1; 258].into_iter().chain([3, 3, 4, 5]).collect(),
            merges: vec!["a b".to_owned(), "Ġ ab".to_owned()],
            bos: Some(258),
            eos: Some(259),
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn sentence_piece_merges_by_score() {
        let tokenizer = Tokenizer::from_gguf(&llama()).unwrap();
        assert!(tokenizer.is_sentence_piece());
        assert_eq!(tokenizer.encode("ab"), [264]);
        assert_eq!(tokenizer.encode("a  b"), [262, 265, 261]);
        assert_eq!(tokenizer.encode("\n"), [259, 13]);
        // "é" is no token by itself, but it is part of one.
        assert_eq!(tokenizer.encode("éaé"), [259, 266, 3 + 0xC3, 3 + 0xA9]);
        assert_eq!(tokenizer.decode(&tokenizer.encode(" ab é\n")), " ab é\n".as_bytes());
        assert_eq!((tokenizer.bos(), tokenizer.stop_tokens()), (Some(1), vec![2]));
        let plain = GgufVocabulary { add_space_prefix: Some(false), add_bos: Some(false), ..llama() };
        let tokenizer = Tokenizer::from_gguf(&plain).unwrap();
        assert_eq!(tokenizer.encode("ab"), [263]);
        assert_eq!(tokenizer.decode(&[264]), b" ab");
        assert_eq!(tokenizer.bos(), None);
    }

    #[test]
    fn byte_level_has_controls_and_user_tokens() {
        let tokenizer = Tokenizer::from_gguf(&gpt2()).unwrap();
        assert_eq!(tokenizer.encode("ab ab"), [256, 257]);
        assert_eq!(tokenizer.encode("a<think>b"), [97, 260, 98]);
        assert!(tokenizer.encode("<|eot_id|>[PAD]").iter().all(|id| *id < 256));
        assert_eq!(tokenizer.special("<|eot_id|>"), Some(259));
        assert_eq!(tokenizer.token_bytes(261), None);
        assert_eq!(tokenizer.stop_tokens(), [259]);
    }

    #[test]
    fn bad_metadata_is_refused() {
        let check = |vocabulary: GgufVocabulary, message: &str| {
            let error = Tokenizer::from_gguf(&vocabulary).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        check(GgufVocabulary { model: "bert".to_owned(), ..gpt2() }, "`tokenizer.ggml.model` is \"bert\"");
        check(GgufVocabulary { pre: Some("qwen2".to_owned()), ..gpt2() }, "`tokenizer.ggml.pre` is \"qwen2\"");
        check(GgufVocabulary { pre: None, ..gpt2() }, "`tokenizer.ggml.pre` is missing");
        check(GgufVocabulary { token_types: vec![1; 3], ..gpt2() }, "3 types for 262 tokens");
        check(GgufVocabulary { token_types: vec![7; 262], ..gpt2() }, "token_type[0]`: 7");
        check(GgufVocabulary { merges: vec!["a".to_owned()], ..gpt2() }, "merges[0]");
        check(GgufVocabulary { merges: vec!["a z".to_owned()], ..gpt2() }, "\"az\" is no token");
        check(GgufVocabulary { bos: Some(262), ..gpt2() }, "token 262 of a vocabulary of 262");
        check(GgufVocabulary { scores: vec![0.0; 3], ..llama() }, "3 scores");
        check(GgufVocabulary { scores: vec![f32::NAN; 267], ..llama() }, "scores[0]");
        check(GgufVocabulary { token_types: vec![6; 267], ..llama() }, "tokens[0]");
        check(GgufVocabulary { token_types: vec![3; 267], ..llama() }, "no token for the byte");
    }

    /// Few, so that words often hold others; spaces, and halves of a letter.
    const BYTES: &[u8] = b"abc  \xC3\xA9";

    /// A `tokenizer.model` of the bytes and these tokens, as far as they are new.
    fn tiktoken(words: &[Vec<u8>]) -> Tokenizer {
        let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        for word in words {
            if !tokens.contains(word) {
                tokens.push(word.clone());
            }
        }
        let file = super::super::tiktoken::write(tokens.iter().map(Vec::as_slice));
        Tokenizer::from_tiktoken(&file).unwrap()
    }

    #[test]
    fn metadata_is_written_as_it_was_read() {
        let added = GgufVocabulary { add_bos: Some(true), ..gpt2() };
        assert_eq!(Tokenizer::from_gguf(&gpt2()).unwrap().to_gguf().unwrap(), added);
        let without = GgufVocabulary { pre: Some("smaug-bpe".to_owned()), bos: None, add_bos: Some(false), ..gpt2() };
        assert_eq!(Tokenizer::from_gguf(&without).unwrap().to_gguf().unwrap(), without);
        let error = Tokenizer::from_gguf(&llama()).unwrap().to_gguf().unwrap_err();
        assert!(matches!(error, TokenizerError::NotByteLevel), "{error}");
    }

    #[test]
    fn merges_are_found_by_merging() {
        let word = |word: &str| word.as_bytes().to_vec();
        // "abc" comes before its part "ab"; "bcd" could be "b" and "cd", but "bc" goes first.
        let words = ["abc", "ab", "bc", "cd", "bcd", " ab", "é"].map(word);
        let tokenizer = tiktoken(&words);
        let vocabulary = tokenizer.to_gguf().unwrap();
        assert_eq!(vocabulary.merges, ["ab c", "a b", "b c", "c d", "bc d", "Ġ ab", "Ã ©"]);
        assert_eq!(vocabulary.tokens[256..264], ["abc", "ab", "bc", "cd", "bcd", "Ġab", "Ã©", "<|begin_of_text|>"]);
        assert_eq!(vocabulary.token_types[262..264], [NORMAL, CONTROL]);
        assert_eq!((vocabulary.bos, vocabulary.eos, vocabulary.add_bos), (Some(263), Some(272), Some(true)));
        // Merging " abc" ends with " " and "abc": it is a token of whole pieces only.
        let tokenizer = tiktoken(&["ab", "bc", " abc"].map(word));
        assert_eq!(tokenizer.to_gguf().unwrap().merges, ["a b", "b c"]);
        let copy = Tokenizer::from_gguf(&tokenizer.to_gguf().unwrap()).unwrap();
        assert_eq!(copy.encode("x abc xabc"), [120, 258, 32, 120, 256, 99]);
    }

    #[test]
    fn a_trained_vocabulary_has_a_merge_for_every_token() {
        let texts = ["the cat sat on the mat, and the rat sat on the hat. ".repeat(3)];
        let mut trainer = Trainer::new(TrainerOptions::new(600)).unwrap();
        trainer.count(texts.iter());
        let trained = trainer.train(&mut |_, _| {}).unwrap();
        let vocabulary = Tokenizer::from_tiktoken(&trained.to_tiktoken()).unwrap().to_gguf().unwrap();
        let alphabet = ByteAlphabet::new();
        let merged: Vec<String> = vocabulary.merges.iter().map(|merge| merge.replace(' ', "")).collect();
        let tokens: Vec<String> = trained.tokens()[256..].iter().map(|token| alphabet.encode(token)).collect();
        assert!(tokens.len() > 10);
        assert_eq!(merged, tokens);
    }

    /// The same tokens, with a list of merges: every way to put one together from two others, sorted by `order`.
    fn with_list(tokenizer: &Tokenizer, order: &[u32], pre: &str) -> Tokenizer {
        let mut vocabulary = tokenizer.to_gguf().unwrap();
        let ordinary = &vocabulary.tokens[..tokenizer.vocab_size() - 256];
        let cuts = |token: &'_ String| token.char_indices().skip(1).map(|(at, _)| at).collect::<Vec<usize>>();
        let ways = ordinary.iter().flat_map(|token| cuts(token).into_iter().map(|at| token.split_at(at)));
        let known = |part: &str| ordinary.iter().any(|token| token == part);
        let merges =
            ways.filter(|(head, tail)| known(head) && known(tail)).map(|(head, tail)| format!("{head} {tail}"));
        let mut merges: Vec<(u32, String)> = order.iter().copied().cycle().zip(merges).collect();
        merges.sort();
        vocabulary.merges = merges.into_iter().map(|(_, merge)| merge).collect();
        vocabulary.pre = Some(pre.to_owned());
        Tokenizer::from_gguf(&vocabulary).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_encodes_alike(
            words in prop::collection::vec(prop::collection::vec(prop::sample::select(BYTES), 2..7), 0..40),
            order in prop::collection::vec(any::<u32>(), 1..40),
            texts in prop::collection::vec("([abcé ]{0,90}|.{0,9})", 1..9),
        ) {
            let by_id = tiktoken(&words);
            let lists = ["llama-bpe", "smaug-bpe"].map(|pre| with_list(&by_id, &order, pre));
            for tokenizer in [by_id].iter().chain(&lists) {
                let copy = Tokenizer::from_gguf(&tokenizer.to_gguf().unwrap()).unwrap();
                prop_assert_eq!(tokenizer.first_difference(&copy), None);
                prop_assert_eq!((tokenizer.bos(), tokenizer.stop_tokens()), (copy.bos(), copy.stop_tokens()));
                for text in &texts {
                    prop_assert_eq!(tokenizer.encode(text), copy.encode(text));
                }
            }
        }

        #[test]
        fn decode_undoes_encode(text in any::<String>()) {
            let text = text.replace('▁', "_");
            for vocabulary in [gpt2(), llama(), GgufVocabulary { add_space_prefix: Some(false), ..llama() }] {
                let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
                prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text.as_bytes());
            }
        }

        #[test]
        fn any_metadata_is_a_vocabulary_or_an_error(
            tokens in prop::collection::vec("[ab▁Ġ<0x>A-F]{0,6}", 0..20), types in prop::collection::vec(0..8, 0..20),
            scores in prop::collection::vec(any::<f32>(), 0..20), bos in any::<Option<u32>>(), llama in any::<bool>(),
        ) {
            let model = if llama { "llama" } else { "gpt2" }.to_owned();
            let pre = Some("llama-bpe".to_owned());
            let merges = tokens.clone();
            let _ = Tokenizer::from_gguf(&GgufVocabulary {
                model, pre, tokens, token_types: types, scores, merges, bos, ..GgufVocabulary::default()
            });
        }
    }
}
