//! Prompts without a chat format, as clients write them: texts in which special tokens may be spelled, or token ids.

use crate::error::ApiError;
use puna_text::Tokenizer;
use serde_json::Value;

/// Prompts of one request at most; as many as OpenAI's.
const MAX_PROMPTS: usize = 2048;

/// The tokens of a text in which special tokens are meant where their names stand. For prompts that their writer wrote
/// whole; what users say goes through the chat format, where a name is only text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let (mut ids, mut start) = (Vec::new(), 0);
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        if at < start {
            continue;
        }
        // The longest, so that no name hides one that goes on.
        let special =
            tokenizer.specials().filter(|(name, _)| rest.starts_with(name)).max_by_key(|(name, _)| name.len());
        if let Some((name, id)) = special {
            ids.extend(tokenizer.encode(&text[start..at]));
            ids.push(id);
            start = at + name.len();
        }
    }
    ids.extend(tokenizer.encode(&text[start..]));
    ids
}

/// A text's tokens behind the vocabulary's first one, if there is one and they do not begin with it already.
pub fn begun(tokenizer: &Tokenizer, ids: Vec<u32>) -> Vec<u32> {
    let bos = tokenizer.bos().filter(|bos| ids.first() != Some(bos));
    bos.into_iter().chain(ids).collect()
}

/// The prompts of a request: a text, several, token ids, or several lists of them. Texts are taken as `encode` says, and
/// ids as they are.
///
/// # Errors
/// When it is something else, or too many.
pub fn prompts(name: &str, value: Value, encode: impl Fn(&str) -> Vec<u32>) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong = || ApiError::field(name, "expected a text, token ids, or a list of either, found something else");
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let list = match value {
        Value::String(one) => return Ok(vec![encode(&one)]),
        Value::Array(list) => list,
        _ => return Err(wrong()),
    };
    if list.iter().all(Value::is_u64) {
        return Ok(vec![list.iter().map(id).collect::<Option<_>>().ok_or_else(wrong)?]);
    }
    if list.len() > MAX_PROMPTS {
        return Err(ApiError::field(name, format!("expected at most {MAX_PROMPTS} prompts, found {}", list.len())));
    }
    let one = |value: &Value| match value {
        Value::String(one) => Some(encode(one)),
        Value::Array(ids) => ids.iter().map(id).collect(),
        _ => None,
    };
    list.iter().map(one).collect::<Option<_>>().ok_or_else(wrong)
}
