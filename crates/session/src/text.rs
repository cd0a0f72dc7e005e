//! The text of an answer, as its tokens come.

use crate::stop::StopStrings;
use puna_text::{StreamDecoder, Tokenizer};

/// Turns an answer's tokens into text that can be shown at once, up to its end token or a stop string.
pub struct AnswerText<'a> {
    /// None when the text has ended.
    decoder: Option<StreamDecoder<'a>>,
    stops: StopStrings,
    stop_tokens: Vec<u32>,
    stop_token: Option<u32>,
}

impl<'a> AnswerText<'a> {
    /// Of an answer that ends with one of `stop_tokens`, or before one of the strings `stop`.
    pub fn new(tokenizer: &'a Tokenizer, stop: &[String], stop_tokens: Vec<u32>, show_specials: bool) -> Self {
        AnswerText {
            decoder: Some(tokenizer.decoder().show_specials(show_specials)),
            stops: StopStrings::new(stop),
            stop_tokens,
            stop_token: None,
        }
    }

    /// Takes a token. What that adds to the text, and whether a stop string ended it.
    pub fn push(&mut self, id: u32) -> (String, bool) {
        if self.stop_tokens.contains(&id) {
            self.stop_token = Some(id);
            return (String::new(), false);
        }
        let Some(decoder) = &mut self.decoder else { return (String::new(), self.stops.found().is_some()) };
        let (text, stopped) = self.stops.push(&decoder.push(id));
        if stopped {
            self.decoder = None;
        }
        (text, stopped)
    }

    /// No more tokens come: what was held back.
    pub fn finish(&mut self) -> String {
        let Some(decoder) = self.decoder.take() else { return String::new() };
        let (mut text, stopped) = self.stops.push(&decoder.finish());
        if !stopped {
            text += &self.stops.finish();
        }
        text
    }

    /// The end token that came, if one did.
    pub fn stop_token(&self) -> Option<u32> {
        self.stop_token
    }

    /// The stop string that ended the text, if one did.
    pub fn stop_string(&self) -> Option<&str> {
        self.stops.found()
    }
}
