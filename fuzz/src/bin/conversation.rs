//! Messages in JSON, written as JSON again and as prompts: special tokens come from the format only, and a prompt says what
//! its tokens say.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::{bounded, byte_level};
use puna_text::{
    Tokenizer,
    chat::{Conversation, Dialect, Segment, render},
};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(byte_level);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(conversation) = bounded(bytes, 256, || serde_json::from_slice::<Conversation>(bytes)) else { return };
    let json = serde_json::to_string(&conversation).unwrap_or_else(|error| panic!("{error}"));
    let again: Conversation = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, conversation);
    for dialect in [Dialect::Template, Dialect::Meta, Dialect::Llama2] {
        let Ok(prompt) = bounded(bytes, 512, || render(&conversation, dialect)) else { continue };
        let is_special = |segment: &&Segment| matches!(segment, Segment::Special(_));
        let n_specials = prompt.segments().iter().filter(is_special).count();
        // Header, its end, a tag and the turn's end; and the beginning, the system's and the answer's.
        assert!(n_specials <= 4 * conversation.messages.len() + 6, "{prompt:?}");
        let marked = prompt.encode_marked(&TOKENIZER).unwrap_or_else(|error| panic!("{error}"));
        let answers = marked.chunk_by(|(_, one), (_, other)| one == other).filter(|tokens| tokens[0].1.is_some());
        for answer in answers {
            let (last, idx) = (answer[answer.len() - 1].0, answer[0].1.unwrap_or_default());
            assert!(TOKENIZER.is_special(last) && idx < conversation.messages.len(), "{answer:?}");
        }
        let ids = prompt.encode(&TOKENIZER).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ids.iter().filter(|&&id| TOKENIZER.is_special(id)).count(), n_specials, "{prompt:?}");
        assert_eq!(TOKENIZER.decode(&ids), prompt.text().as_bytes());
    }
});
