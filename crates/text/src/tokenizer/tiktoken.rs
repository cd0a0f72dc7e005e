//! Meta's `tokenizer.model` of the Llama 3 family: OpenAI's tiktoken form, a line of base64 and rank for each token.

use super::merge::Merges;
use super::vocabulary::{Kind, MAX_TOKENS, Vocabulary};
use super::{Parts, SchemeKind, TokenizerError};
use crate::base64;

/// The first special tokens, in order; reserved ones fill up to [`N_SPECIALS`]. Names of Llama 3.1.
const SPECIALS: [&str; 11] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
];
/// As many as Meta's reference code always adds behind the ranks; the file lists none of them.
pub(super) const N_SPECIALS: usize = 256;

pub(super) fn read(file: &[u8]) -> Result<Parts, TokenizerError> {
    let n_lines = file.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    if n_lines > MAX_TOKENS - N_SPECIALS {
        return Err(TokenizerError::TooManyTokens { found: n_lines, limit: MAX_TOKENS - N_SPECIALS });
    }
    // Lines are in the order of their ranks in every published file, but nothing says so.
    let mut tokens: Vec<Option<(usize, &[u8])>> = vec![None; n_lines];
    for (line, text) in file.split(|byte| *byte == b'\n').enumerate() {
        let (line, text) = (line + 1, text.trim_ascii());
        if text.is_empty() {
            continue;
        }
        let problem = |problem: String| TokenizerError::Line { line, problem };
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(|| problem("no space".to_owned()))?;
        let (token, rank) = text.split_at(space);
        let rank = rank.trim_ascii();
        let number = std::str::from_utf8(rank).ok().and_then(|rank| rank.parse::<usize>().ok());
        let number = number.ok_or_else(|| problem(format!("the rank is {:?}", super::vocabulary::readable(rank))))?;
        match tokens.get_mut(number) {
            None => return Err(problem(format!("the rank is {number}, but there are only {n_lines} tokens"))),
            Some(Some((first, _))) => return Err(problem(format!("rank {number} was given in line {first}"))),
            Some(place) => *place = Some((line, token)),
        }
    }
    let mut vocabulary = Vocabulary::with_capacity(n_lines + N_SPECIALS)?;
    let mut bytes = Vec::new();
    // As many ranks as lines, none twice and none too high: every place is taken.
    for (line, token) in tokens.into_iter().flatten() {
        base64::decode(token, &mut bytes).map_err(|problem| TokenizerError::Line { line, problem })?;
        if bytes.is_empty() {
            return Err(TokenizerError::Line { line, problem: "the token is empty".to_owned() });
        }
        vocabulary.push(&bytes, Kind::Ordinary)?;
    }
    let bos = vocabulary.len() as u32;
    for special in SPECIALS {
        vocabulary.push(special.as_bytes(), Kind::Special)?;
    }
    for number in SPECIALS.len()..N_SPECIALS {
        let special = format!("<|reserved_special_token_{}|>", number - SPECIALS.len() + 2);
        vocabulary.push(special.as_bytes(), Kind::Special)?;
    }
    Ok(Parts {
        vocabulary,
        scheme: SchemeKind::ByteLevel,
        merges: Merges::ById,
        whole_pieces: true,
        bos: Some(bos),
        eos: None,
    })
}

/// The file of a vocabulary's ordinary tokens, which are given by rank.
pub(super) fn write<'a>(tokens: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut file = String::new();
    for (rank, token) in tokens.into_iter().enumerate() {
        base64::encode(token, &mut file);
        file += &format!(" {rank}\n");
    }
    file.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::Tokenizer;
    use super::*;
    use proptest::prelude::*;

    fn all_bytes() -> Vec<Vec<u8>> {
        (0..=u8::MAX).map(|byte| vec![byte]).collect()
    }

    fn file_with(words: &[&str]) -> String {
        let bytes = all_bytes();
        let tokens = bytes.iter().map(|byte| &byte[..]).chain(words.iter().map(|word| word.as_bytes()));
        String::from_utf8(write(tokens)).unwrap()
    }

    #[test]
    fn merges_by_rank_and_prefers_whole_pieces() {
        // " abc" can't be reached by merges: "ab" goes first and nothing takes " ab" or "abc".
        let tokenizer = Tokenizer::from_tiktoken(file_with(&["ab", "bc", " abc"]).as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("abc"), [256, 99]);
        assert_eq!(tokenizer.encode("x abc"), [120, 258]);
        assert_eq!(tokenizer.encode(""), [0; 0]);
        assert_eq!(tokenizer.vocab_size(), 259 + 256);
        assert_eq!(tokenizer.bos(), Some(259));
        assert_eq!(tokenizer.special("<|eot_id|>"), Some(259 + 9));
        assert_eq!(tokenizer.special("<|reserved_special_token_246|>"), Some(259 + 255));
        assert_eq!(tokenizer.stop_tokens(), [260, 267, 268]);
        assert!(tokenizer.is_special(259) && !tokenizer.is_special(258));
        assert_eq!(tokenizer.token_bytes(258), Some(&b" abc"[..]));
        assert_eq!(tokenizer.token_bytes(259), Some(&b"<|begin_of_text|>"[..]));
        assert_eq!(tokenizer.token_bytes(100_000), None);
        assert_eq!(tokenizer.decode(&[120, 258, 268]), b"x abc<|eot_id|>");
    }

    #[test]
    fn special_tokens_are_never_found_in_text() {
        let tokenizer = Tokenizer::from_tiktoken(file_with(&["<|", "|>"]).as_bytes()).unwrap();
        let ids = tokenizer.encode("a<|eot_id|><|begin_of_text|>");
        assert!(ids.iter().all(|id| !tokenizer.is_special(*id)), "{ids:?}");
    }

    #[test]
    fn long_pieces_take_no_quadratic_time() {
        let tokenizer =
            Tokenizer::from_tiktoken(file_with(&["aa", "aaaa", "aaaaaaaa", "  ", "    "]).as_bytes()).unwrap();
        for letter in ["a", " ", "!", "ß"] {
            let text = letter.repeat(1 << 20);
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text);
            // Quadratic would be hours; this only says that it is not.
            assert!(start.elapsed().as_secs() < 600);
            assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        }
    }

    #[test]
    fn lines_may_come_in_any_order() {
        let mut lines: Vec<String> = file_with(&["ab"]).lines().map(str::to_owned).collect();
        lines.reverse();
        let tokenizer = Tokenizer::from_tiktoken(lines.join("\r\n").as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("ab"), [256]);
    }

    #[test]
    fn bad_files_are_refused() {
        let good = file_with(&["ab", "cd"]);
        for (from, to, message) in [
            (" 257", " 258", "line 258 of the tokenizer model: the rank is 258, but there are only 258 tokens"),
            (" 257", " 256", "rank 256 was given in line 257"),
            (" 257", " -1", "the rank is \"-1\""),
            (" 257", "", "no space"),
            ("YWI= 256", "YWI 256", "not a multiple of four"),
            ("YWI= 256", "YW?= 256", "'?' is no character"),
            ("YWI= 256", "YWJ= 256", "bits are left over"),
            ("YWI= 256", "Y2Q= 256", "tokens 256 and 257 are both \"cd\""),
            ("YWI= 256", " 256", "no space"),
            ("AA== 0", "YWJj 0", "no token for the byte 0x00"),
        ] {
            assert!(good.contains(from));
            let error = Tokenizer::from_tiktoken(good.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Tokenizer::from_tiktoken(b"").is_err());
        let flood = "QQ== 0\n".repeat(5_000_000);
        let error = Tokenizer::from_tiktoken(flood.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::TooManyTokens { found: 5_000_000, .. }), "{error}");
        let long = format!("{} 0", "QUFB".repeat(100_000));
        let error = Tokenizer::from_tiktoken(long.as_bytes()).unwrap_err();
        assert!(matches!(error, TokenizerError::LongToken { found: 300_000, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_vocabulary_or_an_error(file in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tokenizer::from_tiktoken(&file);
        }

        #[test]
        fn damaged_files_do_not_panic(at in 0..2000_usize, byte in any::<u8>()) {
            let mut file = file_with(&["ab", "abc", " d"]).into_bytes();
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            let _ = Tokenizer::from_tiktoken(&file);
        }

        #[test]
        fn decode_undoes_encode(text in any::<String>()) {
            let tokenizer = Tokenizer::from_tiktoken(file_with(&["ab", "abc", " a", "  ", "é", "<|"]).as_bytes()).unwrap();
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text.as_bytes());
        }
    }
}
