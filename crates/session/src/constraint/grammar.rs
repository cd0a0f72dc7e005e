//! What an answer may look like.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde::Deserialize;
use serde_json::{Value, json};

use super::limits::{MAX_BYTES, MAX_NESTING, check, check_json, check_lark};
use super::{GrammarError, ToolCalls};

/// What an answer may look like. It is checked when it is compiled.
///
/// JSON is written on one line, with a space or none behind commas and colons, so that no answer gets lost in white space.
/// A number without bounds may have more digits, or a larger exponent, than its reader can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes. Properties come in the order in which the schema has them. What can't be enforced
    /// (`uniqueItems`, `not`, `oneOf` where several may fit, …) is an error, as are unknown formats.
    JsonSchema(Value),
    /// Text that a regular expression matches as a whole, in the syntax of Rust's `regex`, without look-around.
    Regex(String),
    /// A grammar in Lark's notation, as llguidance knows it.
    Lark(String),
    /// One of these.
    Choice(Vec<String>),
    /// Calls of tools, or text.
    ToolCalls(ToolCalls),
}

/// How OpenAI's APIs say what an answer looks like; they differ in how a schema is wrapped.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Format<S> {
    Text {},
    JsonObject {},
    JsonSchema(S),
}

/// As in `response_format`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    json_schema: NamedSchema,
}

impl From<Wrapped> for NamedSchema {
    fn from(wrapped: Wrapped) -> NamedSchema {
        wrapped.json_schema
    }
}

/// A schema with its name, as in `text.format`. What is not `schema` changes nothing: it is always kept to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedSchema {
    schema: Value,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// Compact JSON.
pub(super) const COMPACT: Separators = Separators { item: ", ?", key: ": ?" };

/// What stands between items and behind keys, as regular expressions.
pub(super) struct Separators {
    pub item: &'static str,
    pub key: &'static str,
}

impl Grammar {
    /// Reads the `response_format` of OpenAI's API for chats; none for text.
    ///
    /// # Errors
    /// Another type, a `json_schema` without `schema`, or something that is not known.
    pub fn from_response_format(format: &Value) -> Result<Option<Grammar>, GrammarError> {
        Grammar::from_format::<Wrapped>("response_format", format)
    }

    /// Reads the `text.format` of OpenAI's API for responses; none for text.
    ///
    /// # Errors
    /// As [`Grammar::from_response_format`].
    pub fn from_text_format(format: &Value) -> Result<Option<Grammar>, GrammarError> {
        Grammar::from_format::<NamedSchema>("format", format)
    }

    fn from_format<'a, S: Deserialize<'a> + Into<NamedSchema>>(
        what: &str,
        format: &'a Value,
    ) -> Result<Option<Grammar>, GrammarError> {
        let format = Format::<S>::deserialize(format);
        Ok(match format.map_err(|error| GrammarError::invalid(what, error.to_string()))? {
            Format::Text {} => None,
            Format::JsonObject {} => Some(Grammar::JsonObject),
            Format::JsonSchema(schema) => Some(Grammar::JsonSchema(schema.into().schema)),
        })
    }

    /// What messages call it.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Grammar::JsonObject | Grammar::JsonSchema(_) => "the JSON schema",
            Grammar::Regex(_) => "the regular expression",
            Grammar::Lark(_) => "the grammar",
            Grammar::Choice(_) => "the choice",
            Grammar::ToolCalls(_) => "the tools",
        }
    }

    /// The same for the library.
    ///
    /// # Errors
    /// It is too large, or can be seen to be wrong.
    pub(super) fn to_library(&self) -> Result<TopLevelGrammar, GrammarError> {
        let what = self.what();
        let grammar = match self {
            Grammar::JsonObject => json_grammar(json!({"type": "object"}), &COMPACT),
            Grammar::JsonSchema(schema) => {
                check_json(what, schema)?;
                if !(schema.is_object() || schema.is_boolean()) {
                    return Err(GrammarError::invalid(what, "expected an object"));
                }
                json_grammar(schema.clone(), &COMPACT)
            }
            Grammar::Regex(regex) => {
                check(what, regex.len(), "bytes", MAX_BYTES)?;
                // The library reads it in a way that lets a backslash at the end pass.
                if regex.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
                    return Err(GrammarError::invalid(what, "ends in a backslash with nothing behind it"));
                }
                if regex.is_empty() {
                    return Err(GrammarError::invalid(what, "is empty"));
                }
                GrammarWithLexer::from_regex(regex)
            }
            Grammar::Lark(text) => {
                check_lark(what, text)?;
                GrammarWithLexer::from_lark(text.clone())
            }
            Grammar::Choice(options) => {
                check(what, options.iter().map(String::len).sum(), "bytes", MAX_BYTES)?;
                check(what, options.len(), "strings", MAX_NESTING)?;
                if options.is_empty() || options.iter().any(String::is_empty) {
                    return Err(GrammarError::invalid(what, "expected one or more strings, none of them empty"));
                }
                let options: Vec<String> = options.iter().map(|option| lark_string(option)).collect();
                GrammarWithLexer::from_lark(format!("start: CHOICE\nCHOICE: {}\n", options.join(" | ")))
            }
            Grammar::ToolCalls(tools) => return tools.to_library(),
        };
        Ok(TopLevelGrammar::from_grammar(grammar))
    }
}

/// JSON by a schema, an object or a truth value, with these separators and no other white space.
pub(super) fn json_grammar(schema: Value, separators: &Separators) -> GrammarWithLexer {
    let mut schema = match schema {
        Value::Object(schema) => schema,
        other => json!({"allOf": [other]}).as_object().cloned().unwrap_or_default(),
    };
    // The library looks for its options in the schema, so a stranger's are replaced.
    let options = json!({
        "item_separator": separators.item,
        "key_separator": separators.key,
        "whitespace_flexible": false,
    });
    schema.insert("x-guidance".to_owned(), options);
    GrammarWithLexer { json_schema: Some(Value::Object(schema)), ..GrammarWithLexer::default() }
}

/// A string in Lark's notation: that of JSON, where control characters are escaped, the one that JSON lets pass too.
pub(super) fn lark_string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
