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

    /// Makes the prompt begin with this special token, once.
    pub(crate) fn begin_once_with(&mut self, name: &str) {
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
        let mut ids = Vec::new();
        let mut text = String::new();
        for segment in &self.segments {
            if let Segment::Text(more) = segment {
                text.push_str(more);
                continue;
            }
            ids.extend(tokenizer.encode(&text));
            text.clear();
            if let Segment::Special(name) = segment {
                let missing = || ChatError::NoSpecialToken { token: name.clone() };
                ids.push(tokenizer.special(name).ok_or_else(missing)?);
            }
        }
        ids.extend(tokenizer.encode(&text));
        Ok(ids)
    }
}
