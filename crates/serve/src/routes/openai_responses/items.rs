//! Items, of which the API for responses makes its conversations: read, listed, and turned to messages.

use crate::app::new_id;
use crate::builtin::{BRAVE_SEARCH, CODE_INTERPRETER, Call, Outcome, WOLFRAM_ALPHA};
use crate::error::ApiError;
use puna_text::chat::{Content, Message, Role, ToolCall};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;

/// An item, as clients send it and as this server answers with it. What else an item has changes nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// What somebody says.
    Message { role: Role, content: Text },
    /// A call of a function, which the client runs.
    FunctionCall { call_id: String, name: String, arguments: String },
    /// What the client's function returned.
    FunctionCallOutput { call_id: String, output: Text },
    /// Code that the server ran.
    CodeInterpreterCall { id: String, code: String, outputs: Option<Vec<Logs>> },
    /// A search that the server made.
    WebSearchCall { id: String, action: Search, output: String },
    /// A calculation that the server made.
    WolframAlphaCall { id: String, query: String, output: String },
}

/// What code printed.
#[derive(Clone, Debug, Deserialize)]
pub struct Logs {
    logs: String,
}

/// What is searched for.
#[derive(Clone, Debug, Deserialize)]
pub struct Search {
    query: String,
}

/// A text, or several in parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts that are text; this model takes only text")]
pub enum Text {
    One(String),
    Parts(Vec<Part>),
}

/// A part of a text.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    InputText { text: String },
    OutputText { text: String },
    Text { text: String },
}

impl Text {
    fn join(&self) -> String {
        match self {
            Text::One(text) => text.clone(),
            Text::Parts(parts) => {
                let text = |part: &Part| match part {
                    Part::InputText { text } | Part::OutputText { text } | Part::Text { text } => text.clone(),
                };
                parts.iter().map(text).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// A request's `input`, as it is stored: a list of items that have their type and their name each.
///
/// # Errors
/// When it is neither a text nor a list of objects.
pub fn listed(input: Value) -> Result<Vec<Value>, ApiError> {
    let items = match input {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items,
        _ => return Err(ApiError::field("input", "expected a text or a list of items, found something else")),
    };
    items.into_iter().enumerate().map(|(idx, item)| named(idx, item)).collect()
}

fn named(idx: usize, item: Value) -> Result<Value, ApiError> {
    let Value::Object(mut item) = item else {
        return Err(ApiError::field("input", format!("item {idx}: expected an object, found another value")));
    };
    if !item.contains_key("type") && item.contains_key("role") {
        item.insert("type".into(), "message".into());
    }
    let prefix = match item.get("type").and_then(Value::as_str) {
        Some("message") => "msg_",
        Some("function_call") => "fc_",
        Some("function_call_output") => "fco_",
        _ => "item_",
    };
    if !item.get("id").is_some_and(Value::is_string) {
        item.insert("id".into(), new_id(prefix).into());
    }
    // A text alone is one part.
    if let (Some(Value::String(text)), Some(role)) = (item.get("content"), item.get("role")) {
        let kind = if role == "assistant" { "output_text" } else { "input_text" };
        let part = json!([{"type": kind, "text": text}]);
        item.insert("content".into(), part);
    }
    Ok(Value::Object(item))
}

/// Reads items; `name` is that of the field that they come from.
///
/// # Errors
/// What is no item, or one that this server has no words for.
pub fn read(name: &str, items: &[Value]) -> Result<Vec<Item>, ApiError> {
    let one = |(idx, item): (usize, &Value)| {
        let wrong = |problem: String| ApiError::field(name, format!("item {idx}: {problem}"));
        match Item::deserialize(item).map_err(|error| wrong(error.to_string()))? {
            Item::Message { role: Role::Tool, .. } => {
                Err(wrong("expected a role of user, assistant, system or developer, found a tool's".to_owned()))
            }
            item => Ok(item),
        }
    };
    items.iter().enumerate().map(one).collect()
}

/// The messages that items stand for. `offered` are the built-in tools that the model may call now.
///
/// # Errors
/// When a function's result has no call before it.
pub fn messages(items: &[Item], offered: &[String]) -> Result<Vec<Message>, ApiError> {
    let mut messages: Vec<Message> = Vec::new();
    let mut calls = HashSet::new();
    let mut after_call = false;
    for item in items {
        let ran = |id: &String, tool: &str, input: &String, output: &str| {
            let call = Call { id: id.clone(), tool: tool.to_owned(), input: input.clone() };
            call.messages(output, offered.iter().any(|name| name == tool))
        };
        match item {
            Item::Message { role, content } => messages.push(Message::new(*role, content.join())),
            Item::FunctionCall { call_id, name, arguments } => {
                calls.insert(call_id);
                let arguments = match serde_json::from_str(arguments) {
                    Ok(arguments @ Value::Object(_)) => arguments,
                    _ => Value::String(arguments.clone()),
                };
                let call = ToolCall { id: Some(call_id.clone()), name: name.clone(), arguments };
                // Calls in a row are one message's, so that each finds its result.
                match messages.last_mut() {
                    Some(last) if after_call => last.tool_calls.push(call),
                    _ => messages.push(Message { tool_calls: vec![call], ..Message::assistant("") }),
                }
            }
            Item::FunctionCallOutput { call_id, output } => {
                if !calls.contains(call_id) {
                    let message =
                        format!("a function_call_output has the call_id {call_id:?}, which no call before it has");
                    return Err(ApiError::field("input", message));
                }
                let result = Message::new(Role::Tool, Content::Text(output.join()));
                messages.push(Message { tool_call_id: Some(call_id.clone()), ..result });
            }
            Item::CodeInterpreterCall { id, code, outputs } => {
                let logs: Vec<&str> = outputs.iter().flatten().map(|output| output.logs.as_str()).collect();
                messages.extend(ran(id, CODE_INTERPRETER, code, &logs.join("\n")));
            }
            Item::WebSearchCall { id, action, output } => {
                messages.extend(ran(id, BRAVE_SEARCH, &action.query, output));
            }
            Item::WolframAlphaCall { id, query, output } => messages.extend(ran(id, WOLFRAM_ALPHA, query, output)),
        }
        after_call = matches!(item, Item::FunctionCall { .. });
    }
    Ok(messages)
}

/// A call that the server runs or has run.
pub fn builtin(call: &Call, status: &str, outcome: Option<&Outcome>) -> Value {
    let Call { id, tool, input } = call;
    let output = outcome.map(|outcome| &outcome.output);
    match tool.as_str() {
        CODE_INTERPRETER => {
            let outputs = output.map(|output| json!([{"type": "logs", "logs": output}]));
            // Each call has a container of its own, which is gone with it.
            json!({"type": "code_interpreter_call", "id": id, "status": status, "code": input, "container_id": id,
                "outputs": outputs})
        }
        BRAVE_SEARCH => {
            let action = json!({"type": "search", "query": input});
            json!({"type": "web_search_call", "id": id, "status": status, "action": action, "output": output})
        }
        _ => json!({"type": "wolfram_alpha_call", "id": id, "status": status, "query": input, "output": output}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::Status;

    fn given(items: Value) -> Result<Vec<Message>, String> {
        let message = |error: ApiError| error.message().to_owned();
        let listed = listed(items).map_err(message)?;
        messages(&read("input", &listed).map_err(message)?, &[CODE_INTERPRETER.to_owned()]).map_err(message)
    }

    #[test]
    fn items_are_messages() {
        assert_eq!(given(json!("Hi")), Ok(vec![Message::user("Hi")]));
        let named = listed(json!([{"role": "assistant", "content": "Hi"}])).unwrap().remove(0);
        assert!(named["id"].as_str().unwrap().starts_with("msg_") && named["type"] == "message", "{named}");
        assert_eq!(named["content"], json!([{"type": "output_text", "text": "Hi"}]));
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{\"a\": 1}"});
        let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": id});
        let items = json!([
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            call("1"), call("2"), result("2"), result("1"),
            {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}], "status": "completed"},
        ]);
        let tool_call = |id: &str| ToolCall { id: Some(id.into()), name: "f".into(), arguments: json!({"a": 1}) };
        let tool_result = |id: &str| Message { tool_call_id: Some(id.into()), ..Message::new(Role::Tool, id) };
        let expected = vec![
            Message::system("Be brief."),
            Message::user("a\nb"),
            Message { tool_calls: vec![tool_call("1"), tool_call("2")], ..Message::assistant("") },
            tool_result("2"),
            tool_result("1"),
            Message::assistant("c"),
        ];
        assert_eq!(given(items), Ok(expected));
    }

    #[test]
    fn what_the_server_ran_is_read_as_it_was_told() {
        let outcome = Outcome { status: Status::Completed, output: "{\"a\": 1}".into() };
        for (tool, offered) in [(CODE_INTERPRETER, true), (BRAVE_SEARCH, false), (WOLFRAM_ALPHA, false)] {
            let call = Call { id: "call_1".into(), tool: tool.into(), input: "1 + 1".into() };
            let item = builtin(&call, "completed", Some(&outcome));
            assert_eq!(given(json!([item])), Ok(call.messages(&outcome.output, offered).to_vec()), "{item}");
        }
    }

    #[test]
    fn other_items_are_named() {
        for (items, expected) in [
            (json!(1), "input: expected a text or a list of items"),
            (json!([1]), "input: item 0: expected an object"),
            (
                json!([{"role": "user", "content": "a"}, {"type": "reasoning"}]),
                "input: item 1: unknown variant `reasoning`",
            ),
            (json!([{"role": "tool", "content": "a"}]), "input: item 0: expected a role"),
            (json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input: item 0: expected a text or"),
            (json!([{"type": "function_call_output", "call_id": "x", "output": "1"}]), "the call_id \"x\""),
            (json!([{"content": "a"}]), "input: item 0: "),
        ] {
            let error = given(items.clone()).unwrap_err();
            assert!(error.contains(expected), "{items}: {error}");
        }
    }
}
