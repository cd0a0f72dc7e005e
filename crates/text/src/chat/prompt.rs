//! A prompt: special tokens and text, kept apart.

use super::ChatError;
use crate::tokenizer::{TokenId, Tokenizer};
use serde::{Deserialize, Serialize};

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// A special token by its name. Only a formatter makes one.
    Special(String),
    /// Ordinary text. Neighbouring texts are one text to the tokenizer.
    Text(String),
    /// Ends a text without a token: what stands before and behind is encoded by itself.
    Cut,
}

/// What is sent to a model: the exact text, and which parts of it are special tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prompt {
    segments: Vec<Segment>,
    /// What the assistant says, in order. Only the native formats know.
    #[serde(skip)]
    answers: Vec<Answered>,
}

/// A message of the assistant: all that the model itself writes of it, the token that ends it included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answered {
    message: usize,
    start: Place,
    end: Place,
}

/// A segment of a prompt, and a byte of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    segment: usize,
    byte: usize,
}

impl Prompt {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Prompt {
        Prompt::default()
    }

    /// Appends a special token.
    pub fn push_special(&mut self, name: &str) {
        self.segments.push(Segment::Special(name.to_owned()));
    }

    /// Appends text, to the text before if there is one.
    pub fn push_text(&mut self, text: &str) {
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Text(before)) => before.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
    }

    /// Ends the text before; what follows is encoded by itself.
    pub fn cut(&mut self) {
        if let Some(Segment::Text(_)) = self.segments.last() {
            self.segments.push(Segment::Cut);
        }
    }

    /// Where the next piece will stand.
    pub(super) fn end(&self) -> Place {
        match self.segments.last() {
            Some(Segment::Text(text)) => Place { segment: self.segments.len() - 1, byte: text.len() },
            _ => Place { segment: self.segments.len(), byte: 0 },
        }
    }

    /// All from `start` to here is what the model writes of a message.
    pub(super) fn mark_answer(&mut self, message: usize, start: Place) {
        self.answers.push(Answered { message, start, end: self.end() });
    }

    /// Makes a template's prompt, which has no answers marked, begin with this special token, once.
    pub(crate) fn begin_once_with(&mut self, name: &str) {
        debug_assert!(self.answers.is_empty(), "their places would move");
        let begins = |segment: &&Segment| matches!(segment, Segment::Special(special) if special == name);
        let n_begins = self.segments.iter().take_while(begins).count();
        self.segments.splice(..n_begins, [Segment::Special(name.to_owned())]);
    }

    /// The parts in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The whole prompt as one text, special tokens by their names. For people to read: from this text alone it can't be
    /// told which names are tokens.
    #[must_use]
    pub fn text(&self) -> String {
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Special(text) | Segment::Text(text) => text.as_str(),
                Segment::Cut => "",
            })
            .collect()
    }

    /// The ids: special tokens from special segments only, every run of texts as one ordinary text.
    ///
    /// # Errors
    /// A special token that the vocabulary lacks.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<TokenId>, ChatError> {
        Ok(self.encode_marked(tokenizer)?.into_iter().map(|(id, _)| id).collect())
    }

    /// The same ids, each with the message that it is the assistant's part of: the number of the message in the
    /// conversation, from 0. The model writes these tokens itself, which is content, calls and the token that ends the
    /// message; all others are given to it, a message's header too. Prompts of templates have no such marks.
    ///
    /// A text is encoded whole, wherever the marks are, so that a model is trained on the ids it is served with. A token
    /// that begins in front of an answer and ends in it is not the answer's: it was given. In Llama 3's formats there is
    /// none, since `\n\n` and a trimmed content never share a token, and Meta's encoder cuts between them. In Llama 2's
    /// an answer begins with the space behind `[/INST]`, with which its first token begins too.
    ///
    /// # Errors
    /// A special token that the vocabulary lacks.
    pub fn encode_marked(&self, tokenizer: &Tokenizer) -> Result<Vec<(TokenId, Option<usize>)>, ChatError> {
        let mut tokens = Vec::new();
        let mut text = String::new();
        let mut segment = 0;
        let flush = |text: &mut String, segment: usize, tokens: &mut Vec<(TokenId, Place)>| {
            let ids = tokenizer.encode(text);
            let starts = tokenizer.token_starts(text, &ids);
            tokens.extend(ids.into_iter().zip(starts.into_iter().map(|byte| Place { segment, byte })));
            text.clear();
        };
        for (idx, part) in self.segments.iter().enumerate() {
            match part {
                Segment::Text(more) => {
                    if text.is_empty() {
                        segment = idx;
                    }
                    text.push_str(more);
                }
                Segment::Special(name) => {
                    flush(&mut text, segment, &mut tokens);
                    let missing = || ChatError::NoSpecialToken { token: name.clone() };
                    let id = tokenizer.special(name).ok_or_else(missing)?;
                    tokens.push((id, Place { segment: idx, byte: 0 }));
                }
                Segment::Cut => flush(&mut text, segment, &mut tokens),
            }
        }
        flush(&mut text, segment, &mut tokens);

        let mut answers = self.answers.iter().peekable();
        let mut message_at = |place: Place| {
            while answers.next_if(|answer| answer.end <= place).is_some() {}
            answers.peek().filter(|answer| answer.start <= place).map(|answer| answer.message)
        };
        Ok(tokens.into_iter().map(|(id, place)| (id, message_at(place))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Conversation, Dialect, Message, Role, ToolCall, render};
    use super::*;
    use crate::tokenizer::GgufVocabulary;
    use proptest::prelude::*;
    use serde_json::json;

    /// Every byte a token, and line ends that merge.
    fn llama3() -> Tokenizer {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let line = |byte: u8| {
            let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
            format!("{}== {byte}\n", String::from_utf8_lossy(&digits))
        };
        let bytes: String = (0..=u8::MAX).map(line).collect();
        // "\n\n" and "\n\n\n".
        Tokenizer::from_tiktoken(format!("{bytes}Cgo= 256\nCgoK 257\n").as_bytes()).unwrap()
    }

    /// Bytes, the specials of Llama 2, and words that begin with a space.
    fn llama2() -> Tokenizer {
        let bytes = (0..=u8::MAX).map(|byte| (format!("<0x{byte:02X}>"), 6));
        let words = ["▁", "a", "b", "]", "▁a", "▁ab", "ab", "▁▁", "a]"].map(|word| (word.to_owned(), 1));
        let specials = ["<s>", "</s>"].map(|name| (name.to_owned(), 3));
        let (tokens, token_types): (Vec<String>, Vec<i32>) = bytes.chain(words).chain(specials).unzip();
        let scores = (0..tokens.len()).map(|id| -((id % 7) as f32)).collect();
        let model = "llama".to_owned();
        Tokenizer::from_gguf(&GgufVocabulary { model, tokens, token_types, scores, ..Default::default() }).unwrap()
    }

    /// What the assistant says by message, special tokens by their names.
    fn answers(conversation: &Conversation, dialect: Dialect, tokenizer: &Tokenizer) -> Vec<(usize, String)> {
        let prompt = render(conversation, dialect).unwrap();
        let marked = prompt.encode_marked(tokenizer).unwrap();
        let ids: Vec<TokenId> = marked.iter().map(|(id, _)| *id).collect();
        assert_eq!(prompt.encode(tokenizer).unwrap(), ids);
        let mut answers: Vec<(usize, Vec<TokenId>)> = Vec::new();
        for (id, message) in marked {
            match (message, answers.last_mut()) {
                (None, _) => {}
                (Some(idx), Some((last, ids))) if *last == idx => ids.push(id),
                (Some(idx), _) => answers.push((idx, vec![id])),
            }
        }
        let text = |ids: &[TokenId]| -> String {
            ids.iter().map(|id| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap()).into_owned()).collect()
        };
        answers.into_iter().map(|(idx, ids)| (idx, text(&ids))).collect()
    }

    fn calling(name: &str, arguments: serde_json::Value) -> Message {
        let tool_calls = vec![ToolCall { id: None, name: name.to_owned(), arguments }];
        Message { tool_calls, ..Message::assistant("") }
    }

    #[test]
    fn answers_are_content_and_terminator() {
        let mut conversation = Conversation::new(vec![
            Message::system("s"),
            Message::user("u"),
            Message::assistant(" a "),
            Message::user("v"),
            calling("f", json!({"x": 1})),
            Message::new(Role::Tool, "r"),
            Message::assistant("b"),
        ]);
        let expected = |first: &str, call: &str| {
            vec![(2, format!("{first}<|eot_id|>")), (4, call.to_owned()), (6, "b<|eot_id|>".to_owned())]
        };
        let template = answers(&conversation, Dialect::Template, &llama3());
        assert_eq!(template, expected("a", "{\"name\": \"f\", \"parameters\": {\"x\": 1}}<|eot_id|>"));
        let meta = answers(&conversation, Dialect::Meta, &llama3());
        let call = "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"x\": 1}}<|eot_id|>";
        assert_eq!(meta, expected(" a ", call));
        // The generation prompt is a header and nobody's words.
        conversation.add_generation_prompt = false;
        assert_eq!(answers(&conversation, Dialect::Template, &llama3()), template);
    }

    #[test]
    fn built_in_tools_have_their_tag_and_end() {
        let messages = vec![
            Message::user("u"),
            calling("brave_search", json!({"query": "q"})),
            Message::new(Role::Tool, "r"),
            Message::assistant("a"),
        ];
        let builtin_tools = Some(vec!["brave_search".to_owned()]);
        let conversation = Conversation { builtin_tools, ..Conversation::new(messages) };
        assert_eq!(
            answers(&conversation, Dialect::Template, &llama3()),
            [(1, "<|python_tag|>brave_search.call(query=\"q\")<|eom_id|>".to_owned()), (3, "a<|eot_id|>".to_owned()),]
        );
    }

    #[test]
    fn a_user_with_tools_offered_is_no_assistant() {
        let messages = vec![Message::assistant("first"), Message::user("u"), Message::assistant("a")];
        let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
        let conversation = Conversation { tools, ..Conversation::new(messages) };
        // The template offers tools in the first message, whosever it is, and has it said by the user.
        assert_eq!(answers(&conversation, Dialect::Template, &llama3()), [(2, "a<|eot_id|>".to_owned())]);
    }

    #[test]
    fn line_ends_in_front_of_an_answer_are_its_own() {
        let conversation = Conversation::new(vec![Message::user("u"), Message::assistant("\n\n\na")]);
        assert_eq!(answers(&conversation, Dialect::Meta, &llama3()), [(1, "\n\n\na<|eot_id|>".to_owned())]);
        assert_eq!(answers(&conversation, Dialect::Template, &llama3()), [(1, "a<|eot_id|>".to_owned())]);
    }

    #[test]
    fn llama2s_answers_begin_with_a_space() {
        let messages =
            ["ab", "a", "b", "ab a"].into_iter().zip([Role::User, Role::Assistant, Role::User, Role::Assistant]);
        let messages = messages.map(|(text, role)| Message::new(role, text)).collect();
        let conversation = Conversation { add_generation_prompt: false, ..Conversation::new(messages) };
        assert_eq!(
            answers(&conversation, Dialect::Llama2, &llama2()),
            [(1, " a </s>".to_owned()), (3, " ab a </s>".to_owned())]
        );
    }

    proptest! {
        /// From one start to the next lie the bytes of the token, but for spaces that encoding put in front.
        #[test]
        fn tokens_begin_where_they_stand(text in "([ab\\]\n ▁é🦙]|  ){0,20}") {
            for tokenizer in [llama3(), llama2()] {
                let ids = tokenizer.encode(&text);
                let starts = tokenizer.token_starts(&text, &ids);
                prop_assert_eq!(starts.len(), ids.len());
                for (idx, id) in ids.iter().enumerate() {
                    let end = starts.get(idx + 1).copied().unwrap_or(text.len());
                    let token = tokenizer.token_bytes(*id).unwrap();
                    let there = &text.as_bytes()[starts[idx]..end];
                    let same = match std::str::from_utf8(there) {
                        Ok(there) if tokenizer.is_sentence_piece() => {
                            let there = there.replace('▁', " ");
                            token == there.as_bytes() || token.strip_prefix(b" ") == Some(there.as_bytes())
                        }
                        _ => token == there,
                    };
                    prop_assert!(same, "{:?} {:?} {:?}", text, token, there);
                }
            }
        }
    }
}
