//! Log-probabilities in OpenAI's shapes.

use puna_engine::{Scored, Token};
use puna_text::Tokenizer;
use serde_json::{Map, Value, json};

/// A token's text; of bytes that are no text by themselves their escape, so that no two tokens have the same name.
pub fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
    }
}

/// One token of a chat's `logprobs.content`.
pub fn chat(tokenizer: &Tokenizer, scored: &Scored) -> Value {
    let one = |token: &Token| {
        json!({
            "token": token_text(tokenizer, token.id),
            "logprob": token.logprob,
            "bytes": tokenizer.token_bytes(token.id).unwrap_or_default(),
        })
    };
    let mut value = one(&scored.token);
    value["top_logprobs"] = scored.top.iter().map(one).collect();
    value
}

/// A completion's `logprobs`, token by token.
#[derive(Default)]
pub struct Completion {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    offset: usize,
}

impl Completion {
    /// A token that was given and has no score: the first.
    pub fn push_given(&mut self, tokenizer: &Tokenizer, id: u32) {
        self.push_token(tokenizer, id);
        self.token_logprobs.push(Value::Null);
        self.top_logprobs.push(Value::Null);
    }

    /// A token with its score, and those of the most probable; itself is always among them.
    pub fn push(&mut self, tokenizer: &Tokenizer, scored: &Scored) {
        let Token { id, logprob } = scored.token;
        self.push_token(tokenizer, id);
        self.token_logprobs.push(json!(logprob));
        let all = scored.top.iter().chain([&scored.token]);
        let top: Map<String, Value> =
            all.map(|token| (token_text(tokenizer, token.id), json!(token.logprob))).collect();
        self.top_logprobs.push(top.into());
    }

    fn push_token(&mut self, tokenizer: &Tokenizer, id: u32) {
        let text = token_text(tokenizer, id);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text.into());
    }

    /// What was pushed since the last time.
    pub fn take(&mut self) -> Value {
        let Completion { tokens, token_logprobs, top_logprobs, text_offset, .. } = self;
        json!({
            "tokens": std::mem::take(tokens),
            "token_logprobs": std::mem::take(token_logprobs),
            "top_logprobs": std::mem::take(top_logprobs),
            "text_offset": std::mem::take(text_offset),
        })
    }
}
