//! What a row means, one file a format.
//!
//! A format is recognised by the keys of its rows. `null` is as good as no key: Parquet and many tools write it where a row
//! has none. Keys that nobody knows are noted, never an error.

mod alpaca;
mod chat;
mod completion;
mod openai_preference;
mod preference;
mod sharegpt;
mod text;

mod fields;
mod messages;

use fields::Fields;
use puna_text::chat::{Content, Conversation, Message, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// A format of data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// OpenAI's `messages`.
    Chat,
    /// `conversations` of `from` and `value`.
    Sharegpt,
    /// `instruction`, `input` and `output`.
    Alpaca,
    /// `prompt` and `completion`, texts or messages.
    Completion,
    /// TRL's pairs: `chosen` and `rejected`, with `prompt` or without, texts or messages.
    Preference,
    /// OpenAI's pairs: `input`, `preferred_output` and `non_preferred_output`.
    OpenaiPreference,
    /// `text`, or text files.
    Text,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 7] = [
        Format::Chat,
        Format::Sharegpt,
        Format::Alpaca,
        Format::Completion,
        Format::Preference,
        Format::OpenaiPreference,
        Format::Text,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Chat => "chat",
            Format::Sharegpt => "sharegpt",
            Format::Alpaca => "alpaca",
            Format::Completion => "completion",
            Format::Preference => "preference",
            Format::OpenaiPreference => "openai-preference",
            Format::Text => "text",
        }
    }

    /// The keys that every row of it has.
    #[must_use]
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Format::Chat => &["messages"],
            Format::Sharegpt => &["conversations"],
            Format::Alpaca => &["instruction", "output"],
            Format::Completion => &["prompt", "completion"],
            Format::Preference => &["chosen", "rejected"],
            Format::OpenaiPreference => &["preferred_output", "non_preferred_output"],
            Format::Text => &["text"],
        }
    }

    /// Whether its rows are pairs of a better and a worse answer.
    #[must_use]
    pub fn is_preference(self) -> bool {
        matches!(self, Format::Preference | Format::OpenaiPreference)
    }

    /// The formats whose keys a row has. `text` beside the keys of another is a rendering of the same and does not count.
    pub(super) fn candidates(row: &Map<String, Value>) -> Vec<Format> {
        let has = |key: &&str| row.get(*key).is_some_and(|value| !value.is_null());
        let mut formats: Vec<Format> = Format::ALL.into_iter().filter(|format| format.keys().iter().all(has)).collect();
        if formats.len() > 1 {
            formats.retain(|format| *format != Format::Text);
        }
        formats
    }

    /// Reads a row.
    ///
    /// # Errors
    /// What was expected at which key, and what was found.
    pub(super) fn parse(self, row: Map<String, Value>, notes: &mut Notes) -> Result<Sample, String> {
        let row = Fields::of_row(row);
        match self {
            Format::Chat => chat::parse(row, notes),
            Format::Sharegpt => sharegpt::parse(row, notes),
            Format::Alpaca => alpaca::parse(row, notes),
            Format::Completion => completion::parse(row, notes),
            Format::Preference => preference::parse(row, notes),
            Format::OpenaiPreference => openai_preference::parse(row, notes),
            Format::Text => text::parse(row, notes),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        Format::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let names = Format::ALL.map(Format::name).join(", ");
            format!("expected one of {names}, found {name:?}")
        })
    }
}

/// What was seen in a row beside what it says.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Keys that nobody knows, by their path without numbers: `messages.name`.
    pub unknown_keys: Vec<String>,
}

/// What a row says, whatever format it was written in.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sample {
    /// A conversation.
    Chat(Dialogue),
    /// A text and how it goes on.
    Completion { prompt: String, completion: String },
    /// A text.
    Text(String),
    /// Two answers to a conversation, the better one first.
    ChatPair { prompt: Conversation, answers: Box<[Message; 2]> },
    /// Two ways in which a text goes on.
    TextPair { prompt: String, chosen: String, rejected: String },
}

/// A conversation, and what of it is only there to be answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dialogue {
    /// An empty date is none: the one of the options is used.
    pub conversation: Conversation,
    /// So many messages are the prompt of a completion.
    pub given: usize,
    /// For each message whether it may be trained: its `weight` is not 0.
    pub weights: Vec<bool>,
}

impl Sample {
    /// All texts that somebody wrote, and whether the chat format may trim each.
    pub fn texts(&self) -> Vec<(&str, bool)> {
        fn of(message: &Message) -> Option<(&str, bool)> {
            match &message.content {
                Content::Text(text) => Some((text, message.role != Role::Tool)),
                Content::Json(_) => None,
            }
        }
        match self {
            Sample::Chat(dialogue) => dialogue.conversation.messages.iter().filter_map(of).collect(),
            Sample::Completion { prompt, completion } => vec![(prompt, false), (completion, false)],
            Sample::Text(text) => vec![(text, false)],
            Sample::ChatPair { prompt, answers } => {
                prompt.messages.iter().chain(answers.iter()).filter_map(of).collect()
            }
            Sample::TextPair { prompt, chosen, rejected } => {
                vec![(prompt, false), (chosen, false), (rejected, false)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn keys_tell_formats_apart() {
        for (row, expected) in [
            (json!({"messages": [], "id": 1}), vec![Format::Chat]),
            (json!({"prompt": "a", "messages": []}), vec![Format::Chat]),
            (json!({"conversations": []}), vec![Format::Sharegpt]),
            (json!({"instruction": "a", "input": "", "output": "b", "text": "ab"}), vec![Format::Alpaca]),
            (json!({"prompt": "a", "completion": "b"}), vec![Format::Completion]),
            (json!({"chosen": "a", "rejected": "b"}), vec![Format::Preference]),
            (json!({"input": {}, "preferred_output": [], "non_preferred_output": []}), vec![Format::OpenaiPreference]),
            (json!({"text": "a", "messages": null}), vec![Format::Text]),
            (json!({"messages": [], "chosen": [], "rejected": []}), vec![Format::Chat, Format::Preference]),
            (json!({"a": 1}), vec![]),
        ] {
            assert_eq!(Format::candidates(row.as_object().unwrap()), expected, "{row}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
        assert!("json".parse::<Format>().unwrap_err().contains("chat, sharegpt"));
    }

    /// Any JSON, with keys of the formats more often than not.
    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z <|>\n]{0,8}".prop_map(Value::from),
            prop::sample::select(vec!["user", "assistant", "system", "tool", "gpt", "human", "[]", "{}"])
                .prop_map(Value::from),
        ];
        let key = prop::sample::select(vec![
            "messages",
            "role",
            "content",
            "weight",
            "tools",
            "tool_calls",
            "function",
            "name",
            "arguments",
            "prompt",
            "completion",
            "chosen",
            "rejected",
            "input",
            "preferred_output",
            "non_preferred_output",
            "instruction",
            "output",
            "history",
            "system",
            "conversations",
            "from",
            "value",
            "text",
            "type",
            "id",
            "label",
            "date",
            "tool_style",
            "builtin_tools",
        ]);
        leaf.prop_recursive(4, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|members| {
                    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_row_is_a_panic(value in json_value()) {
            for format in Format::ALL {
                let row = value.as_object().cloned().unwrap_or_else(|| {
                    format.keys().iter().map(|key| ((*key).to_owned(), value.clone())).collect()
                });
                if let Ok(sample) = format.parse(row, &mut Notes::default()) {
                    prop_assert!(!sample.texts().is_empty());
                }
            }
        }
    }
}
