//! A model's answer, back to the tools that it calls.
//!
//! Models write calls in several ways, whichever they were asked for. What is recognised here has the shape of a call; that
//! the tool was offered is for the caller to check.

use serde_json::{Map, Value, json};

use super::ToolCall;

/// An answer taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What is said to the person.
    pub content: String,
    /// Tools that are called.
    pub tool_calls: Vec<ToolCall>,
}

const PYTHON_TAG: &str = "<|python_tag|>";
const OPEN: &str = "<function=";
const CLOSE: &str = "</function>";

/// Takes an assistant's answer apart. `python_tag` says that it began with the token `<|python_tag|>`; whether the text has
/// the token's name in front does not matter then, and without it such a name is text.
///
/// Recognised are `name.call(key="value")` behind the tag, JSON objects with `name` and `parameters` (or `arguments`),
/// `type` and `function` around them or not, one or several, and `<function=NAME>{…}</function>`. Anything else behind the
/// tag is code for the `code_interpreter`. An answer that is no call is its own content.
#[must_use]
pub fn parse_tool_calls(answer: &str, python_tag: bool) -> Answer {
    let text = if python_tag { answer.trim_start().strip_prefix(PYTHON_TAG).unwrap_or(answer) } else { answer };
    if let Some(answer) = tagged_calls(text) {
        return answer;
    }
    if let Some(tool_calls) = json_calls(text) {
        return Answer { content: String::new(), tool_calls };
    }
    if python_tag {
        let call = builtin_call(text.trim()).unwrap_or_else(|| ToolCall {
            id: None,
            name: "code_interpreter".to_owned(),
            arguments: json!({"code": text}),
        });
        return Answer { content: String::new(), tool_calls: vec![call] };
    }
    Answer { content: answer.to_owned(), tool_calls: Vec::new() }
}

/// `name.call(key="value", …)` and nothing else. Values are not escaped in this format: one ends at the last quotation mark
/// before the next key or the closing parenthesis.
fn builtin_call(text: &str) -> Option<ToolCall> {
    let (name, rest) = text.split_once(".call(")?;
    let mut rest = rest.strip_suffix(')')?.trim();
    if !is_identifier(name) {
        return None;
    }
    let mut arguments = Map::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once("=\"")?;
        if !is_identifier(key) {
            return None;
        }
        let (value, after) = match next_argument(value) {
            Some((end, after)) => (value.get(..end)?, value.get(after..)?),
            None => (value.strip_suffix('"')?, ""),
        };
        arguments.insert(key.to_owned(), Value::String(value.to_owned()));
        rest = after;
    }
    Some(ToolCall { id: None, name: name.to_owned(), arguments: Value::Object(arguments) })
}

/// Where a value ends and the next argument starts: at `", key="`.
fn next_argument(value: &str) -> Option<(usize, usize)> {
    value.match_indices("\",").find_map(|(end, separator)| {
        let after = value.get(end + separator.len()..)?;
        let key = after.trim_start();
        let start = value.len() - key.len();
        let name = key.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
        let (name, behind) = key.split_at(name);
        (is_identifier(name) && behind.starts_with("=\"")).then_some((end, start))
    })
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

/// `<function=NAME>{…}</function>`, with whatever is said around them. The closing tag may be missing at the very end, where
/// models leave it out.
fn tagged_calls(text: &str) -> Option<Answer> {
    let mut answer = Answer::default();
    let mut rest = text;
    while let Some((before, call)) = rest.split_once(OPEN) {
        let (name, body) = call.split_once('>')?;
        let name = name.trim().trim_matches('"');
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        let Some(Ok(arguments @ Value::Object(_))) = values.next() else { return None };
        let after = body.get(values.byte_offset()..)?.trim_start();
        rest = match after.strip_prefix(CLOSE) {
            Some(rest) => rest,
            None if after.is_empty() => "",
            None => return None,
        };
        if name.is_empty() {
            return None;
        }
        answer.content.push_str(before);
        answer.tool_calls.push(ToolCall { id: None, name: name.to_owned(), arguments });
    }
    if answer.tool_calls.is_empty() {
        return None;
    }
    answer.content.push_str(rest);
    answer.content = answer.content.trim().to_owned();
    Some(answer)
}

/// Calls in JSON and nothing else: objects, or lists of them, with commas, semicolons or white space between.
fn json_calls(text: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    // Anything but an object or a list is not worth a parser's time, and most answers are prose.
    while !rest.is_empty() {
        if !rest.starts_with(['{', '[']) {
            return None;
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        match values.next()?.ok()? {
            Value::Array(values) if !values.is_empty() => {
                for value in values {
                    calls.push(json_call(value)?);
                }
            }
            value => calls.push(json_call(value)?),
        }
        rest =
            rest.get(values.byte_offset()..)?.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
    }
    (!calls.is_empty()).then_some(calls)
}

fn json_call(value: Value) -> Option<ToolCall> {
    let Value::Object(mut call) = value else { return None };
    if let Some(kind) = call.get("type")
        && kind != "function"
    {
        return None;
    }
    if let Some(Value::Object(function)) = call.get("function").cloned() {
        call = function;
    }
    let Some(Value::String(name)) = call.remove("name") else { return None };
    let arguments = call.remove("parameters").or_else(|| call.remove("arguments"))?;
    let arguments = match arguments {
        Value::String(text) => serde_json::from_str(&text).ok()?,
        Value::Null => json!({}),
        other => other,
    };
    (arguments.is_object() && !name.is_empty()).then_some(ToolCall { id: None, name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(answer: &str, python_tag: bool) -> Vec<(String, Value)> {
        let parsed = parse_tool_calls(answer, python_tag);
        assert!(parsed.tool_calls.is_empty() || parsed.content.is_empty());
        parsed.tool_calls.into_iter().map(|call| (call.name, call.arguments)).collect()
    }

    fn one(name: &str, arguments: Value) -> Vec<(String, Value)> {
        vec![(name.to_owned(), arguments)]
    }

    #[test]
    fn builtin_tools() {
        let gold = one("brave_search", json!({"query": "gold \"price\" (oz)"}));
        assert_eq!(calls("brave_search.call(query=\"gold \"price\" (oz)\")", true), gold);
        assert_eq!(calls("<|python_tag|>brave_search.call(query=\"gold \"price\" (oz)\")", true), gold);
        assert_eq!(calls("t.call(a=\"x, y\", b=\"\")", true), one("t", json!({"a": "x, y", "b": ""})));
        assert_eq!(calls("t.call()", true), one("t", json!({})));
        assert_eq!(calls("brave_search.call(query=\"x\")", false), []);
    }

    #[test]
    fn code_is_kept_as_it_is() {
        for code in ["\nprint(7)\n", "x.call(y)", "f.call(q=\"a\") + 1", "{1: 2}", ""] {
            assert_eq!(calls(code, true), one("code_interpreter", json!({"code": code})), "{code}");
        }
    }

    #[test]
    fn json_in_its_many_forms() {
        let expected = one("add", json!({"a": 1}));
        for answer in [
            "{\"name\": \"add\", \"parameters\": {\"a\": 1}}",
            "\n {\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1}} ",
            "{\"type\": \"function\", \"function\": {\"name\": \"add\", \"parameters\": {\"a\": 1}}}",
            "{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}",
            "[{\"name\": \"add\", \"parameters\": {\"a\": 1}}]",
        ] {
            assert_eq!(calls(answer, false), expected, "{answer}");
            assert_eq!(calls(answer, true), expected, "{answer}");
        }
        let two = "{\"name\": \"a\", \"parameters\": {}}; {\"name\": \"b\", \"parameters\": {}}";
        assert_eq!(calls(two, false).len(), 2);
        for answer in [
            "Sure: {\"name\": \"add\", \"parameters\": {}}",
            "{\"name\": \"Bob\"}",
            "{\"name\": \"Bob\", \"parameters\": 3}",
            "{\"type\": \"person\", \"name\": \"Bob\", \"parameters\": {}}",
            "{\"name\": \"add\", \"parameters\": {",
            "[]",
            "[1]",
            "",
        ] {
            assert_eq!(parse_tool_calls(answer, false), Answer { content: answer.to_owned(), tool_calls: vec![] });
        }
    }

    #[test]
    fn function_tags() {
        let parsed = parse_tool_calls("Let me see. <function=add>{\"a\": \"</function>\"}</function>", false);
        assert_eq!(parsed.content, "Let me see.");
        assert_eq!(parsed.tool_calls[0].arguments, json!({"a": "</function>"}));
        assert_eq!(calls("<function=add>{\"a\": 1}", false), one("add", json!({"a": 1})));
        assert_eq!(calls("<function=a>{}</function><function=b>{}</function>", false).len(), 2);
        for answer in
            ["<function=add>x</function>", "<function=add", "<function=>{}</function>", "<function=a>{} and so on"]
        {
            assert_eq!(parse_tool_calls(answer, false).content, answer);
        }
    }

    #[test]
    fn the_tags_name_in_text_is_text() {
        let answer = "<|python_tag|>print(1)";
        assert_eq!(parse_tool_calls(answer, false).content, answer);
    }

    #[test]
    fn deep_nesting_is_no_call() {
        let answer = "[".repeat(100_000);
        assert_eq!(parse_tool_calls(&answer, false).content, answer);
    }
}
