//! Examples and pairs as they were trained on elsewhere: the same ids, the same masks.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_conformance::{golden, models, numbers, read};
use puna_text::Tokenizer;
use puna_text::chat::Dialect;
use puna_train::data::{Encoder, Format, Limit, Options, Overlong, Trained, examples, open, pairs};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_tokenizer_json(&read("bard/hf/tokenizer.json")).unwrap()
}

/// The reference runs have no system message and so no date: the format of Meta's encoder.
fn encoder(tokenizer: &Tokenizer) -> Encoder<'_> {
    let options = Options { dialect: Dialect::Meta, date: String::new(), trained: Trained::Assistant };
    Encoder::new(tokenizer, options)
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn examples_have_the_ids_and_masks_of_the_reference() {
    let tokenizer = tokenizer();
    let source = open(&models().join("bard/golden/train/sft.jsonl"), None).unwrap().train;
    assert_eq!(source.format(), Format::Chat);
    let limit = Limit::new(512, Overlong::Error, 0).unwrap();
    let loaded = examples(&source, &encoder(&tokenizer), &limit).unwrap().items;
    let golden = golden("sft.json");
    let golden = golden.as_array().unwrap();
    assert_eq!((loaded.len(), golden.len()), (16, 16));
    for (example, golden) in loaded.iter().zip(golden) {
        assert_eq!(example.ids, numbers(&golden["ids"]), "{}", example.origin);
        let mask = numbers(&golden["mask"]);
        let trained: Vec<u32> = example.trained.iter().map(|trained| u32::from(*trained)).collect();
        assert_eq!(trained, mask, "{}", example.origin);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn pairs_have_the_ids_of_the_reference() {
    let tokenizer = tokenizer();
    // Its rows have the ids too, which mean nothing to the format.
    let source = open(&models().join("bard/golden/train/dpo-pairs.json"), None).unwrap().train;
    assert_eq!(source.format(), Format::Preference);
    let limit = Limit::new(512, Overlong::Error, 0).unwrap();
    let loaded = pairs(&source, &encoder(&tokenizer), &limit).unwrap().items;
    let golden = golden("dpo-pairs.json");
    let golden = golden.as_array().unwrap();
    assert_eq!((loaded.len(), golden.len()), (8, 8));
    for (pair, golden) in loaded.iter().zip(golden) {
        assert_eq!(pair.prompt, numbers(&golden["prompt_ids"]), "{}", pair.origin);
        assert_eq!(pair.chosen, numbers(&golden["chosen_ids"]), "{}", pair.origin);
        assert_eq!(pair.rejected, numbers(&golden["rejected_ids"]), "{}", pair.origin);
    }
}
