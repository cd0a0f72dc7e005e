//! Rows of a data set, JSON Lines and an array, in every format: sequences are as long as they may be, begin once, and have
//! the special tokens of the format and none of a text; what is trained of a conversation ends with a terminator.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{bounded, byte_level};
use puna_text::{Tokenizer, chat::Dialect};
use puna_train::data::{Encoded, Encoder, Example, Format, Limit, Options, Outcome, Overlong, Trained, fuzzing::rows};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(byte_level);

const LENGTH: usize = 128;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let choice = usize::from(choice);
    let format = Format::ALL[choice % Format::ALL.len()];
    let dialect = if choice & 32 == 0 { Dialect::Template } else { Dialect::Meta };
    let trained = if choice & 64 == 0 { Trained::Assistant } else { Trained::Everything };
    let encoder = Encoder::new(&TOKENIZER, Options { dialect, date: "1 Jan 2027".to_owned(), trained });
    let overlong = [Overlong::Drop, Overlong::Truncate, Overlong::Split][choice % 3];
    let limit = Limit::new(LENGTH, overlong, choice % 7).unwrap_or_else(|error| panic!("{error}"));
    // A tree of JSON takes some tens of bytes for an element that takes two in the text; tools are written at length.
    let read = bounded(bytes, 1024, || rows(bytes, choice & 128 != 0, format, &encoder, &limit));
    for encoding in read.into_iter().flatten() {
        match encoding.outcome {
            Outcome::Whole(Encoded::Example(example)) | Outcome::Truncated(Encoded::Example(example)) => {
                check(&example)
            }
            Outcome::Parts(parts) => parts.iter().for_each(check),
            Outcome::Whole(Encoded::Pair(pair)) | Outcome::Truncated(Encoded::Pair(pair)) => {
                for answer in [pair.chosen, pair.rejected] {
                    assert!(pair.prompt.len() + answer.len() <= LENGTH);
                    assert!(answer.last().is_some_and(|&id| TOKENIZER.is_special(id)), "{answer:?}");
                }
            }
            Outcome::Dropped => {}
        }
    }
});

fn check(Example { ids, trained, .. }: &Example) {
    assert!(ids.len() <= LENGTH && ids.len() == trained.len() && !trained[0], "{ids:?} {trained:?}");
    let begins = ids.iter().filter(|&&id| Some(id) == TOKENIZER.bos()).count();
    assert_eq!(begins, 1, "{ids:?}");
}
