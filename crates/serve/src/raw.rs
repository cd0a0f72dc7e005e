//! Prompts without a chat format, as clients write them: texts in which special tokens may be spelled, or token ids.

use crate::error::ApiError;
use axum::http::StatusCode;
use puna_text::Tokenizer;
use serde_json::Value;

/// Prompts of one request at most; as many as OpenAI's.
const MAX_PROMPTS: usize = 2048;

/// The tokens of a text in which special tokens are meant where their names stand. For prompts that their writer wrote
/// whole; what users say goes through the chat format, where a name is only text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let (mut ids, mut start, mut specials) = (Vec::new(), 0, Vec::new());
    for (at, _) in text.match_indices('<') {
        if at < start {
            continue;
        }
        if specials.is_empty() {
            specials.extend(tokenizer.specials());
            specials.sort_unstable();
        }
        if let Some((name, id)) = longest(&specials, &text[at..]) {
            ids.extend(tokenizer.encode(&text[start..at]));
            ids.push(id);
            start = at + name.len();
        }
    }
    ids.extend(tokenizer.encode(&text[start..]));
    ids
}

/// The longest of some sorted names with which a text begins, so that no name hides one that goes on. A text may be nothing
/// but beginnings of names: each is looked up, and not compared with all.
fn longest<'a>(names: &[(&'a str, u32)], text: &str) -> Option<(&'a str, u32)> {
    let mut text = text.as_bytes();
    loop {
        let n_up_to = names.partition_point(|(name, _)| name.as_bytes() <= text);
        let (name, id) = names[n_up_to.checked_sub(1)?];
        let n_common = name.bytes().zip(text).take_while(|(one, other)| one == *other).count();
        if n_common == name.len() {
            return Some((name, id));
        }
        // A name that is shorter has to agree with this one.
        text = &text[..n_common];
    }
}

/// Does what takes as long as a request's text is where nobody else's answer waits for it.
///
/// # Errors
/// When it panics, which is a fault of the program.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request could not be made ready")
    })
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

#[cfg(test)]
mod tests {
    use super::longest;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_longest_name_is_found(
            names in prop::collection::btree_set("[ab<é]{1,5}", 0..20), text in "[ab<é]{0,7}"
        ) {
            let sorted: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 0)).collect();
            let expected = sorted.iter().filter(|(name, _)| text.starts_with(name)).max_by_key(|(name, _)| name.len());
            prop_assert_eq!(longest(&sorted, &text), expected.copied());
        }
    }
}
