//! A chat template and a conversation: within the budget, one begin of sequence, and special tokens from the template only.
//!
//! The input is the template, the date and the contents of messages, with a NUL between two of them.
#![no_main]

use std::sync::LazyLock;

use puna_fuzz::byte_level;
use puna_text::{
    Tokenizer,
    chat::{Content, Conversation, Message, Role, Segment, ToolCall},
    template::{SpecialTokens, Template, is_llama31},
};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(byte_level);
static TOKENS: LazyLock<SpecialTokens> = LazyLock::new(|| SpecialTokens::new(&TOKENIZER, None));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let source = parts.next().unwrap_or_default();
    if may_double(source) {
        return;
    }
    let _ = is_llama31(source);
    let Ok(template) = Template::new(source) else { return };
    let Ok(prompt) = template.render(&conversation(parts), &TOKENS) else { return };
    let specials: Vec<&str> = prompt.segments().iter().filter_map(special).collect();
    assert_eq!(specials.first(), Some(&"<|begin_of_text|>"));
    if cannot_spell(source) {
        assert_eq!(specials.len(), 1, "{prompt:?}");
    }
    let ids = prompt.encode(&TOKENIZER).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ids.iter().filter(|&&id| TOKENIZER.is_special(id)).count(), specials.len(), "{prompt:?}");
});

fn special(segment: &Segment) -> Option<&str> {
    match segment {
        Segment::Special(name) => Some(name),
        Segment::Text(_) | Segment::Cut => None,
    }
}

/// A date, then contents for roles in turn; the second message calls a tool with its content as argument.
fn conversation<'a>(mut parts: impl Iterator<Item = &'a str>) -> Conversation {
    let date = parts.next().unwrap_or("26 Jul 2024").to_owned();
    let roles = [Role::User, Role::Assistant, Role::Tool, Role::System];
    let mut messages: Vec<Message> =
        parts.take(8).zip(roles.into_iter().cycle()).map(|(content, role)| Message::new(role, content)).collect();
    if let Some(call) = messages.get_mut(1)
        && let Content::Text(text) = &call.content
    {
        let arguments = serde_json::json!({ text.as_str(): [text.as_str()] });
        call.tool_calls.push(ToolCall { id: None, name: text.clone(), arguments });
    }
    Conversation { date, ..Conversation::new(messages) }
}

/// Whether the template might build a list that holds one list twice, which holds another twice, and so on. Printing such a
/// thing never ends and spends no fuel (see `puna_text::template`): known, and answered by running templates in a process
/// that may die. A fuzzer would find nothing else any more.
fn may_double(source: &str) -> bool {
    ["namespace", "macro", "recursive", "call"].iter().any(|word| source.contains(word))
        || ["set", "with", "for"].iter().any(|word| source.matches(word).count() > 6)
}

/// Whether no special token can come from the template: each of their names has this bracket, which would have to be there,
/// as an escape, by its number, or taken from the name that a template is given.
fn cannot_spell(source: &str) -> bool {
    !source.contains(['<', '\\', '%']) && !["bos_token", "debug"].iter().any(|word| source.contains(word))
}
