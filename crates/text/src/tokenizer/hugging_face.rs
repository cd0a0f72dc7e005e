//! `tokenizer.json` as the tokenizers library writes it.
//!
//! The file describes a pipeline of exchangeable parts. Two pipelines are implemented, and every part that could change
//! ids must be one of theirs: byte-level BPE behind the Llama 3 split, and BPE over characters with bytes as fall-back.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::byte_level::ByteAlphabet;
use super::merge::{Merges, pair};
use super::vocabulary::{FoldState, Kind, MAX_TOKENS, Vocabulary};
use super::{META_SPACE, Parts, Prefix, SchemeKind, TokenId, TokenizerError};
use crate::split::LLAMA3_PATTERN;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow)]
    merges: MergeList<'a>,
}

/// The vocabulary as the file lists it; most of its text is borrowed from the file.
struct Vocab<'a>(Vec<(Cow<'a, str>, TokenId)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, TokenId)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(token), id)) = map.next_entry()? {
                    entries.push((token, id));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Vocab)
    }
}

/// Text that is borrowed unless it was escaped. (The `Cow` of serde always copies.)
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Either).map(Text)
    }
}

/// Merges, written `"a b"` or, in newer files, `["a", "b"]`.
struct MergeList<'a>(Vec<Merge<'a>>);

enum Merge<'a> {
    Joined(Cow<'a, str>),
    Pair(Cow<'a, str>, Cow<'a, str>),
}

impl<'a> Merge<'a> {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Joined(both) => both.split_once(' '),
            Merge::Pair(left, right) => Some((left, right)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two tokens in one string or in a list")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Merge::Joined(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Merge::Joined(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let two = (seq.next_element::<Text<'de>>()?, seq.next_element::<Text<'de>>()?);
                match (two, seq.next_element::<Text<'de>>()?) {
                    ((Some(Text(left)), Some(Text(right))), None) => Ok(Merge::Pair(left, right)),
                    _ => Err(serde::de::Error::custom("a merge is of two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergeList<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(MergeList)
    }
}

pub(super) fn read(file: &[u8]) -> Result<Parts, TokenizerError> {
    let file: File<'_> = serde_json::from_slice(file)?;
    let model = &file.model;
    check_model(model)?;
    let scheme = pipeline(&file)?;
    let (vocabulary, ids) = read_vocabulary(&file, scheme)?;
    let merges = read_merges(model.merges.0.iter().map(Merge::parts), "model.merges", &vocabulary, scheme)?;
    let bos = bos(&file.post_processor, &file.added_tokens).or_else(|| {
        let named = |name: &str| ids.get(name).copied().filter(|id| vocabulary.kind(*id) == Some(Kind::Special));
        named("<|begin_of_text|>").or_else(|| named("<s>"))
    });
    Ok(Parts { vocabulary, scheme, merges, whole_pieces: model.ignore_merges, bos, eos: None })
}

fn unsupported(key: &str, found: impl fmt::Display, expected: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { key: key.to_owned(), found: shorten(found.to_string()), expected }
}

/// A value of the file for a message.
fn shorten(mut text: String) -> String {
    if text.len() > 200 {
        let mut end = 200;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

fn check_model(model: &Model<'_>) -> Result<(), TokenizerError> {
    match model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(other) => return Err(unsupported("model.type", format_args!("{other:?}"), "\"BPE\"")),
    }
    if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
        return Err(unsupported("model.dropout", dropout, "null"));
    }
    for (key, value) in [
        ("model.continuing_subword_prefix", &model.continuing_subword_prefix),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(text) = value.as_deref().filter(|text| !text.is_empty()) {
            return Err(unsupported(key, format_args!("{text:?}"), "null"));
        }
    }
    Ok(())
}

/// Which of the two pipelines the file describes.
fn pipeline(file: &File<'_>) -> Result<SchemeKind, TokenizerError> {
    let is_split = |part: &Value| part["type"] == "Split";
    let is_byte_level = |part: &Value| part["type"] == "ByteLevel";
    let parts: Vec<(String, &Value)> = flatten("pre_tokenizer", "pretokenizers", &file.pre_tokenizer);
    match &parts[..] {
        [(split_key, split), (byte_key, byte_level)] if is_split(split) && is_byte_level(byte_level) => {
            check_split(split_key, split)?;
            if byte_level["add_prefix_space"] != false {
                let key = format!("{byte_key}.add_prefix_space");
                return Err(unsupported(&key, &byte_level["add_prefix_space"], "false"));
            }
            if byte_level["use_regex"] != false {
                return Err(unsupported(&format!("{byte_key}.use_regex"), &byte_level["use_regex"], "false"));
            }
            if !file.normalizer.is_null() {
                return Err(unsupported("normalizer", &file.normalizer, "null with a byte-level vocabulary"));
            }
            if file.model.byte_fallback {
                return Err(unsupported("model.byte_fallback", true, "false with a byte-level vocabulary"));
            }
            Ok(SchemeKind::ByteLevel)
        }
        [] => sentence_piece(file, None),
        [(key, metaspace)] if metaspace["type"] == "Metaspace" => sentence_piece(file, Some((key, metaspace))),
        [(key, other), ..] => Err(unsupported(
            key,
            other,
            "the Llama 3 split followed by ByteLevel, or nothing or Metaspace with a SentencePiece vocabulary",
        )),
    }
}

/// The members of a `Sequence`, or the part itself; each with its key.
fn flatten<'a>(key: &str, members: &str, part: &'a Value) -> Vec<(String, &'a Value)> {
    if part.is_null() {
        return Vec::new();
    }
    match part[members].as_array() {
        Some(parts) if part["type"] == "Sequence" => {
            parts.iter().enumerate().map(|(idx, part)| (format!("{key}.{members}[{idx}]"), part)).collect()
        }
        _ => vec![(key.to_owned(), part)],
    }
}

fn check_split(key: &str, split: &Value) -> Result<(), TokenizerError> {
    if split["pattern"]["Regex"] != LLAMA3_PATTERN {
        return Err(unsupported(&format!("{key}.pattern"), &split["pattern"], "the pattern of Llama 3"));
    }
    if split["behavior"] != "Isolated" {
        return Err(unsupported(&format!("{key}.behavior"), &split["behavior"], "\"Isolated\""));
    }
    match &split["invert"] {
        Value::Null | Value::Bool(false) => Ok(()),
        other => Err(unsupported(&format!("{key}.invert"), other, "false")),
    }
}

fn sentence_piece(file: &File<'_>, metaspace: Option<(&str, &Value)>) -> Result<SchemeKind, TokenizerError> {
    if !file.model.byte_fallback {
        return Err(unsupported("model.byte_fallback", false, "true without a byte-level pre_tokenizer"));
    }
    if file.model.ignore_merges {
        return Err(unsupported("model.ignore_merges", true, "false with a SentencePiece vocabulary"));
    }
    let replacement = String::from(META_SPACE);
    let mut prefix = Prefix::Never;
    let mut replaced = false;
    for (key, part) in flatten("normalizer", "normalizers", &file.normalizer) {
        if part["type"] == "Prepend" && part["prepend"] == replacement.as_str() && prefix == Prefix::Never {
            prefix = Prefix::Always;
        } else if part["type"] == "Replace"
            && part["pattern"]["String"] == " "
            && part["content"] == replacement.as_str()
        {
            replaced = true;
        } else {
            return Err(unsupported(&key, part, "Prepend of U+2581, then Replace of \" \" by it"));
        }
    }
    let Some((key, part)) = metaspace else {
        return match replaced {
            true => Ok(SchemeKind::SentencePiece(prefix)),
            false => Err(unsupported("normalizer", &file.normalizer, "a Replace of \" \" by U+2581")),
        };
    };
    if !file.normalizer.is_null() {
        return Err(unsupported("normalizer", &file.normalizer, "null with a Metaspace pre_tokenizer"));
    }
    if part["replacement"] != replacement.as_str() {
        return Err(unsupported(&format!("{key}.replacement"), &part["replacement"], "U+2581"));
    }
    if part["split"] != false {
        return Err(unsupported(&format!("{key}.split"), &part["split"], "false"));
    }
    match part["prepend_scheme"].as_str() {
        Some("always") => Ok(SchemeKind::SentencePiece(Prefix::IfNone)),
        Some("first") => Ok(SchemeKind::SentencePiece(Prefix::IfNoneAtStart)),
        Some("never") => Ok(SchemeKind::SentencePiece(Prefix::Never)),
        _ => {
            let expected = "\"always\", \"first\" or \"never\"";
            Err(unsupported(&format!("{key}.prepend_scheme"), &part["prepend_scheme"], expected))
        }
    }
}

/// The tokens in the order of their ids, and the ids of added tokens by their text.
fn read_vocabulary<'a>(
    file: &'a File<'_>,
    scheme: SchemeKind,
) -> Result<(Vocabulary, HashMap<&'a str, TokenId>), TokenizerError> {
    let entries = &file.model.vocab.0;
    let n_entries = entries.len() + file.added_tokens.len();
    if n_entries > MAX_TOKENS {
        return Err(TokenizerError::TooManyTokens { found: n_entries, limit: MAX_TOKENS });
    }
    let mut added: BTreeMap<TokenId, &AddedToken> = BTreeMap::new();
    let mut ids = HashMap::new();
    for token in &file.added_tokens {
        if added.insert(token.id, token).is_some() {
            let problem = format!("id {} was given before", token.id);
            return Err(TokenizerError::Invalid { key: "added_tokens".to_owned(), problem });
        }
        if let Some(first) = ids.insert(token.content.as_str(), token.id) {
            return Err(TokenizerError::Duplicate { token: shorten(token.content.clone()), first, second: token.id });
        }
        check_added(token, scheme)?;
    }
    // Some published files skip an id or two. More gaps than tokens are no vocabulary.
    let highest = entries.iter().map(|(_, id)| *id).chain(added.keys().copied()).max();
    let size = highest.map_or(0, |id| id as usize + 1);
    if size > 2 * n_entries {
        let problem = format!("ids go up to {}, but there are only {n_entries} tokens", size - 1);
        return Err(TokenizerError::Invalid { key: "model.vocab".to_owned(), problem });
    }
    let mut by_id: Vec<Option<&str>> = vec![None; size];
    for (token, id) in entries {
        if let Some(Some(other)) = by_id.get(*id as usize) {
            let problem =
                format!("id {id} is both {:?} and {:?}", shorten((*other).to_owned()), shorten(token.to_string()));
            return Err(TokenizerError::Invalid { key: "model.vocab".to_owned(), problem });
        }
        if let Some(place) = by_id.get_mut(*id as usize) {
            *place = Some(token);
        }
    }
    let alphabet = ByteAlphabet::new();
    let mut vocabulary = Vocabulary::with_capacity(size)?;
    let mut bytes = Vec::new();
    for (id, token) in (0..).zip(by_id) {
        if let Some(special) = added.get(&id) {
            if token.is_some_and(|token| token != special.content) {
                let problem = format!("id {id} is {:?} here and another token in model.vocab", special.content);
                return Err(TokenizerError::Invalid { key: "added_tokens".to_owned(), problem });
            }
            let kind = if special.special { Kind::Special } else { Kind::Added };
            vocabulary.push(special.content.as_bytes(), kind)?;
            continue;
        }
        let Some(token) = token else {
            vocabulary.push(b"", Kind::Unused)?;
            continue;
        };
        let kind = ordinary_bytes(token, scheme, &alphabet, &mut bytes);
        vocabulary.push(&bytes, kind)?;
    }
    Ok((vocabulary, ids))
}

/// The bytes of a token of the model, and its kind.
pub(super) fn ordinary_bytes(token: &str, scheme: SchemeKind, alphabet: &ByteAlphabet, bytes: &mut Vec<u8>) -> Kind {
    bytes.clear();
    match scheme {
        SchemeKind::ByteLevel => {
            if alphabet.decode(token, bytes) {
                return Kind::Ordinary;
            }
            // A text that no byte-level piece can be: reachable neither by look-up nor by merges.
            bytes.clear();
            bytes.extend_from_slice(token.as_bytes());
            Kind::Unused
        }
        SchemeKind::SentencePiece(_) => {
            if let Some(byte) = named_byte(token) {
                bytes.push(byte);
                return Kind::Byte;
            }
            for c in token.chars() {
                let c = if c == META_SPACE { ' ' } else { c };
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Kind::Ordinary
        }
    }
}

/// The byte of a token such as `<0x0A>`.
pub(super) fn named_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Added tokens that are plain text are looked for in texts, which has variants. Special ones never are.
fn check_added(token: &AddedToken, scheme: SchemeKind) -> Result<(), TokenizerError> {
    if token.special {
        return Ok(());
    }
    let key = |name: &str| format!("added_tokens[{:?}].{name}", shorten(token.content.clone()));
    for (name, set) in [("single_word", token.single_word), ("lstrip", token.lstrip), ("rstrip", token.rstrip)] {
        if set {
            return Err(unsupported(&key(name), true, "false"));
        }
    }
    if token.normalized && matches!(scheme, SchemeKind::SentencePiece(_)) {
        return Err(unsupported(&key("normalized"), true, "false with a SentencePiece vocabulary"));
    }
    Ok(())
}

/// Merges by rank. `key` names the list in messages.
pub(super) fn read_merges<'a>(
    list: impl ExactSizeIterator<Item = Option<(&'a str, &'a str)>>,
    key: &str,
    vocabulary: &Vocabulary,
    scheme: SchemeKind,
) -> Result<Merges, TokenizerError> {
    let alphabet = ByteAlphabet::new();
    let mut bytes = Vec::new();
    let mut right_bytes = Vec::new();
    let mut pairs = HashMap::with_capacity_and_hasher(list.len(), FoldState::default());
    for (rank, parts) in (0..).zip(list) {
        let invalid = |problem: String| TokenizerError::Invalid { key: format!("{key}[{rank}]"), problem };
        let (left, right) = parts.ok_or_else(|| invalid("not two tokens with a space between".to_owned()))?;
        ordinary_bytes(left, scheme, &alphabet, &mut bytes);
        ordinary_bytes(right, scheme, &alphabet, &mut right_bytes);
        let find = |bytes: &[u8], text: &str| {
            vocabulary
                .find(bytes)
                .ok_or_else(|| invalid(format!("{:?} is no token of the vocabulary", shorten(text.to_owned()))))
        };
        let (left_id, right_id) = (find(&bytes, left)?, find(&right_bytes, right)?);
        bytes.extend_from_slice(&right_bytes);
        let merged = vocabulary
            .find(&bytes)
            .ok_or_else(|| invalid(format!("{:?} is no token of the vocabulary", shorten(format!("{left}{right}")))))?;
        if let Some((other, _)) = pairs.insert(pair(left_id, right_id), (rank, merged)) {
            return Err(invalid(format!("the same pair as {key}[{other}]")));
        }
    }
    Ok(Merges::Pairs(pairs))
}

/// The special token that the post-processor puts in front of a text.
fn bos(post_processor: &Value, added: &[AddedToken]) -> Option<TokenId> {
    flatten("", "processors", post_processor)
        .into_iter()
        .filter(|(_, part)| part["type"] == "TemplateProcessing")
        .find_map(|(_, part)| {
            let name = part["single"][0]["SpecialToken"]["id"].as_str()?;
            added.iter().find(|token| token.special && token.content == name)
        })
        .map(|token| token.id)
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// The character of the byte-level alphabet for a byte.
    fn byte_char(byte: u8) -> char {
        ByteAlphabet::new().encode(&[byte]).parse().unwrap()
    }

    fn byte_level() -> Value {
        let mut vocab = serde_json::Map::new();
        for byte in 0..=u8::MAX {
            vocab.insert(byte_char(byte).to_string(), json!(byte));
        }
        for (idx, token) in ["ab", "bc", "Ġabc", "ĠĠ"].iter().enumerate() {
            vocab.insert((*token).to_owned(), json!(256 + idx));
        }
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [
                {"id": 260, "content": "<|begin_of_text|>", "single_word": false, "lstrip": false, "rstrip": false,
                 "normalized": false, "special": true},
                {"id": 261, "content": "<|eot_id|>", "special": true},
                {"id": 262, "content": "<tool>", "special": false},
                {"id": 263, "content": "<tool>s", "special": false},
            ],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]},
            "post_processor": {"type": "Sequence", "processors": [
                {"type": "ByteLevel"},
                {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}]},
            ]},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "byte_fallback": false, "ignore_merges": true,
                "vocab": vocab, "merges": ["b c", ["a", "b"], "Ġ Ġ"]},
        })
    }

    fn sentence_piece() -> Value {
        let mut vocab = serde_json::Map::new();
        for (id, special) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
            vocab.insert((*special).to_owned(), json!(id));
        }
        for byte in 0..=u8::MAX {
            vocab.insert(format!("<0x{byte:02X}>"), json!(u32::from(byte) + 3));
        }
        for (idx, token) in ["▁", "a", "b", "▁a", "ab", "▁ab", "▁▁"].iter().enumerate() {
            vocab.insert((*token).to_owned(), json!(259 + idx));
        }
        json!({
            "added_tokens": [
                {"id": 0, "content": "<unk>", "special": true, "normalized": true},
                {"id": 1, "content": "<s>", "special": true},
                {"id": 2, "content": "</s>", "special": true},
            ],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null,
            "post_processor": null,
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                "vocab": vocab, "merges": ["▁ a", "a b", "▁ ab", "▁ ▁"]},
        })
    }

    fn load(file: &Value) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_tokenizer_json(file.to_string().as_bytes())
    }

    #[test]
    fn byte_level_follows_the_list_of_merges() {
        let tokenizer = load(&byte_level()).unwrap();
        // "bc" is before "ab" in the list, though its id is higher.
        assert_eq!(tokenizer.encode("abc"), [97, 257]);
        assert_eq!(tokenizer.encode("x abc"), [120, 258]);
        assert_eq!(tokenizer.bos(), Some(260));
        assert_eq!(tokenizer.stop_tokens(), [261]);
        assert!(!tokenizer.encode("<|eot_id|>").contains(&261));
        // Tokens added as plain text are found, the longest first.
        assert_eq!(tokenizer.encode("ab<tool>s<tool>ab"), [256, 263, 262, 256]);
        assert_eq!(tokenizer.decode(&[256, 263, 261]), b"ab<tool>s<|eot_id|>");
        let mut file = byte_level();
        file["model"]["ignore_merges"] = json!(false);
        assert_eq!(load(&file).unwrap().encode(" abc"), [32, 97, 257]);
    }

    #[test]
    fn sentence_piece_has_spaces_and_bytes() {
        let tokenizer = load(&sentence_piece()).unwrap();
        assert_eq!(tokenizer.encode("ab"), [262, 261]);
        assert_eq!(tokenizer.encode("a ab"), [262, 262, 261]);
        assert_eq!(tokenizer.encode("\n"), [259, 13]);
        assert_eq!(tokenizer.encode("é"), [259, 3 + 0xC3, 3 + 0xA9]);
        assert_eq!(tokenizer.encode(""), [0; 0]);
        assert_eq!(tokenizer.encode("</s>").iter().filter(|id| **id < 3).count(), 0);
        assert_eq!(tokenizer.bos(), Some(1));
        assert_eq!(tokenizer.stop_tokens(), [2]);
        assert_eq!(tokenizer.decode(&[1, 262, 261, 259, 2]), b"<s>ab </s>");
        assert_eq!(tokenizer.token_bytes(262), Some(&b" a"[..]));
    }

    #[test]
    fn metaspace_puts_no_second_space() {
        let mut file = sentence_piece();
        file["normalizer"] = Value::Null;
        file["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
        let tokenizer = load(&file).unwrap();
        assert_eq!(tokenizer.encode("a"), [262]);
        assert_eq!(tokenizer.encode(" a"), [262]);
    }

    #[test]
    fn what_is_not_implemented_is_named() {
        let check = |base: fn() -> Value, pointer: &str, value: Value, key: &str| {
            let mut file = base();
            *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
            let error = load(&file).unwrap_err().to_string();
            assert!(error.contains(key), "{pointer}: {error}");
        };
        check(byte_level, "/model/type", json!("Unigram"), "`model.type` is \"Unigram\"");
        check(byte_level, "/model/dropout", json!(0.1), "`model.dropout`");
        check(byte_level, "/normalizer", json!({"type": "NFC"}), "`normalizer`");
        check(byte_level, "/pre_tokenizer", json!({"type": "ByteLevel"}), "`pre_tokenizer`");
        check(byte_level, "/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\s+"), "pretokenizers[0].pattern`");
        check(byte_level, "/pre_tokenizer/pretokenizers/0/behavior", json!("Removed"), "[0].behavior`");
        check(byte_level, "/pre_tokenizer/pretokenizers/1/use_regex", json!(true), "[1].use_regex`");
        check(byte_level, "/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "add_prefix_space`");
        check(byte_level, "/model/merges/0", json!("b bc"), "model.merges[0]");
        check(byte_level, "/model/merges/0", json!("bc"), "not two tokens");
        check(byte_level, "/model/merges/0", json!("a b"), "the same pair as model.merges[0]");
        check(byte_level, "/model/vocab/ab", json!(255), "id 255 is both");
        check(byte_level, "/model/vocab/ab", json!(1_000_000), "ids go up to 1000000");
        check(byte_level, "/model/vocab/ab", json!(-1), "invalid value");
        check(byte_level, "/added_tokens/0/id", json!(97), "another token in model.vocab");
        check(byte_level, "/added_tokens/1/content", json!("<tool>"), "are both");
        check(sentence_piece, "/model/byte_fallback", json!(false), "`model.byte_fallback`");
        check(sentence_piece, "/normalizer", Value::Null, "`normalizer`");
        check(sentence_piece, "/normalizer/normalizers/0", json!({"type": "NFKC"}), "normalizers[0]`");
        let mut file = byte_level();
        file["added_tokens"][2]["lstrip"] = json!(true);
        assert!(load(&file).unwrap_err().to_string().contains("added_tokens[\"<tool>\"].lstrip"));
        let mut file = sentence_piece();
        file["model"]["vocab"].as_object_mut().unwrap().remove("<0x41>");
        assert!(matches!(load(&file), Err(TokenizerError::MissingByte { byte: b'A' })));
        assert!(Tokenizer::from_tokenizer_json(b"\xff").is_err());
        assert!(Tokenizer::from_tokenizer_json("[".repeat(100_000).as_bytes()).is_err());
        let doubled = byte_level().to_string().replace("\"ab\":256", "\"ab\":256,\"ab\":264");
        let error = Tokenizer::from_tokenizer_json(doubled.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::Duplicate { first: 256, second: 264, .. }), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_files_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), which in any::<bool>()) {
            let mut file = if which { byte_level() } else { sentence_piece() }.to_string().into_bytes();
            let at = at.index(file.len());
            file[at] = byte;
            let _ = Tokenizer::from_tokenizer_json(&file);
        }

        #[test]
        fn decode_undoes_encode(text in any::<String>()) {
            let (one, other) = (load(&byte_level()).unwrap(), load(&sentence_piece()).unwrap());
            prop_assert_eq!(one.decode(&one.encode(&text)), text.as_bytes());
            let text = text.replace('▁', "_");
            prop_assert_eq!(other.decode(&other.encode(&text)), text.as_bytes());
        }
    }
}
