//! A model's answer: calls, or the answer as it is.
#![no_main]

use puna_fuzz::bounded;
use puna_text::chat::{Answer, parse_tool_calls};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for python_tag in [false, true] {
        // A tree of JSON takes some tens of bytes for an element that takes two in the text.
        let Answer { content, tool_calls } = bounded(bytes, 256, || parse_tool_calls(text, python_tag));
        if tool_calls.is_empty() {
            assert!(!python_tag);
            assert_eq!(content, text);
        }
        assert!(content.len() <= text.len());
        assert!(tool_calls.iter().all(|call| !call.name.is_empty()));
    }
});
