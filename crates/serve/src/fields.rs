//! The fields of a request: a table says which there are, for reading, for `/openapi.json`, and for the tests.
//!
//! What a table does not name is refused by name, so that nobody believes a setting works which is not looked at; apart from
//! what changes no answer, in a list of its own.

use crate::error::ApiError;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// One field of a request.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its JSON schema.
    pub schema: &'static str,
    /// What it does.
    pub about: &'static str,
    /// A value, in JSON.
    pub example: &'static str,
}

/// Which model answers.
pub const MODEL: Field = Field {
    name: "model",
    schema: r#"{"type": "string"}"#,
    about: "The model's name, or an adapter's; the model without it",
    example: "null",
};

/// A conversation.
pub const MESSAGES: Field = Field {
    name: "messages",
    schema: r#"{"type": "array", "items": {"type": "object"}}"#,
    about: "The conversation, oldest first; a last message of the assistant is gone on with",
    example: r#"[{"role": "user", "content": "Hello!"}]"#,
};

/// Tools in OpenAI's shape.
pub const TOOLS: Field = Field {
    name: "tools",
    schema: r#"{"type": "array", "items": {"type": "object"}}"#,
    about: "Functions that the model may call",
    example: r#"[{"type": "function", "function": {"name": "now", "description": "The time",
        "parameters": {"type": "object", "properties": {}}}}]"#,
};

/// Whether a conversation's last message is gone on with.
pub const CONTINUE_FINAL_MESSAGE: Field = Field {
    name: "continue_final_message",
    schema: r#"{"type": "boolean"}"#,
    about: "Whether the last message, of the assistant, is gone on with",
    example: "false",
};

/// How a conversation's prompt ends.
pub const ADD_GENERATION_PROMPT: Field = Field {
    name: "add_generation_prompt",
    schema: r#"{"type": "boolean"}"#,
    about: "Whether the prompt ends with the header of the answer",
    example: "true",
};

/// Whether several tools may be called at once.
pub const PARALLEL_TOOL_CALLS: Field = Field {
    name: "parallel_tool_calls",
    schema: r#"{"type": "boolean"}"#,
    about: "Whether an answer may call several tools; it may unless this is false",
    example: "true",
};

/// How the answer is sent.
pub const STREAM: Field = Field {
    name: "stream",
    schema: r#"{"type": "boolean"}"#,
    about: "Sends the answer as server-sent events while it is made",
    example: "false",
};

/// Texts before which an answer may end, at most, and bytes of each.
pub const MAX_STOPS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;

/// How deep a request's JSON may be nested.
const MAX_DEPTH: usize = 64;

/// A request's body, to be taken apart field by field.
pub struct Fields {
    values: Map<String, Value>,
    names: Vec<&'static str>,
}

impl Fields {
    /// Reads a body. Of its fields those in `tables` are there to be taken; those in `harmless` are passed over.
    ///
    /// # Errors
    /// When the body is no JSON object, is nested too deeply, or has another field.
    pub fn read(body: &[u8], tables: &[&[Field]], harmless: &[&str]) -> Result<Fields, ApiError> {
        let invalid = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message);
        if depth(body) > MAX_DEPTH {
            return Err(invalid(format!("the body is nested deeper than {MAX_DEPTH} levels")));
        }
        let value = serde_json::from_slice(body).map_err(|error| invalid(format!("the body is no JSON: {error}")))?;
        let Value::Object(mut values) = value else {
            return Err(invalid("the body: expected a JSON object, found another value".into()));
        };
        // To say nothing is to leave a field out.
        values.retain(|name, value| !value.is_null() && !harmless.contains(&name.as_str()));
        let names: Vec<&str> = tables.iter().flat_map(|table| table.iter()).map(|field| field.name).collect();
        match values.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => Err(ApiError::field(name, "this server has no such setting; leave it out")),
            None => Ok(Fields { values, names }),
        }
    }

    /// A field's value, if it is there.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        debug_assert!(self.names.contains(&name), "{name} is in no table");
        let Some(value) = self.values.remove(name) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| ApiError::field(name, error))
    }

    /// A field's value.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        self.take(name)?.ok_or_else(|| ApiError::field(name, "expected a value, found none"))
    }

    /// The largest value of `range` that a whole number may have.
    ///
    /// # Errors
    /// When it is outside of it.
    pub fn integer(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take::<Value>(name)? else { return Ok(None) };
        match value.as_u64().filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => {
                let (first, last) = range.into_inner();
                Err(ApiError::field(name, format!("expected a whole number from {first} to {last}, found {value}")))
            }
        }
    }

    /// Tools in OpenAI's shape.
    ///
    /// # Errors
    /// When they are no list of objects.
    pub fn tools(&mut self) -> Result<Vec<Value>, ApiError> {
        let tools: Vec<Map<String, Value>> = self.take("tools")?.unwrap_or_default();
        Ok(tools.into_iter().map(Value::Object).collect())
    }

    /// Texts before which the answer ends.
    ///
    /// # Errors
    /// Those of [`stop_texts`].
    pub fn stop_texts(&mut self, name: &str) -> Result<Vec<String>, ApiError> {
        self.take(name)?.map_or(Ok(Vec::new()), |value| stop_texts(name, value))
    }
}

/// A text, or several, before which an answer ends.
///
/// # Errors
/// When it is neither, more than [`MAX_STOPS`], or one is too long.
pub fn stop_texts(name: &str, value: Value) -> Result<Vec<String>, ApiError> {
    let texts: Vec<String> = match value {
        Value::String(text) => vec![text],
        value => serde_json::from_value(value)
            .map_err(|_| ApiError::field(name, "expected a text or a list of texts, found something else"))?,
    };
    if texts.len() > MAX_STOPS {
        return Err(ApiError::field(name, format!("expected at most {MAX_STOPS} texts, found {}", texts.len())));
    }
    // Every token of an answer is compared with all of them.
    if let Some(text) = texts.iter().find(|text| text.len() > MAX_STOP_BYTES) {
        return Err(ApiError::field(
            name,
            format!("expected texts of at most {MAX_STOP_BYTES} bytes, found {}", text.len()),
        ));
    }
    Ok(texts)
}

/// How deep brackets outside of strings are nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Field] = &[Field { name: "n", schema: "{}", about: "", example: "1" }];

    fn read(body: &str) -> Result<Fields, String> {
        Fields::read(body.as_bytes(), &[TABLE], &["user"]).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(read(r#"{"n": 1, "user": "x", "zap": null}"#).unwrap().take::<u8>("n").unwrap(), Some(1));
        assert!(read(r#"{"zap": 1}"#).err().unwrap().starts_with("zap: "));
        assert!(read("[1]").err().unwrap().contains("expected a JSON object"));
        assert!(read("{").err().unwrap().contains("no JSON"));
        let error = read(r#"{"n": "1"}"#).unwrap().take::<u8>("n").unwrap_err();
        assert!(error.message().starts_with("n: invalid type: string"), "{}", error.message());
        for value in ["-1", "11", "1.5", "1e99", "\"1\"", "[]"] {
            let error = read(&format!(r#"{{"n": {value}}}"#)).unwrap().integer("n", 0..=10).unwrap_err();
            assert!(error.message().starts_with("n: expected a whole number from 0 to 10"), "{}", error.message());
        }
    }

    #[test]
    fn depth_is_that_of_brackets_outside_of_strings() {
        assert_eq!(depth(br#"{"a": ["[[[[", {"b\"[": []}]}"#), 4);
        let deep = format!("{{\"n\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).err().unwrap().contains("nested deeper than 64"));
    }
}
