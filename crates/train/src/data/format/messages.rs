//! What formats of conversations share: messages in OpenAI's shape, turns, tools.

use super::fields::{Fields, kind, list};
use super::{Dialogue, Notes};
use puna_text::chat::{Content, Conversation, Message, Role, ToolStyle};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Messages, and for each whether its weight is not 0.
pub(super) type Weighted = (Vec<Message>, Vec<bool>);

/// A list of messages in OpenAI's shape.
pub(super) fn read(values: Vec<Value>, path: &str, notes: &mut Notes) -> Result<Weighted, String> {
    values.into_iter().enumerate().map(|(idx, value)| read_one(value, &format!("{path}[{idx}]"), notes)).collect()
}

fn read_one(value: Value, path: &str, notes: &mut Notes) -> Result<(Message, bool), String> {
    let mut fields = Fields::of(value.clone(), path)?;
    let role = fields.required_text("role")?;
    if Role::deserialize(Value::from(role.as_str())).is_err() {
        return Err(format!("{path}.role: expected system, developer, user, assistant or tool, found {role:?}"));
    }
    let message = Message::deserialize(value).map_err(|error| format!("{path}: {error}"))?;
    let weight = weight(&mut fields, message.role)?;
    for key in ["content", "tool_calls", "tool_call_id", "end_of_message"] {
        fields.take(key);
    }
    fields.finish(notes);
    check_said(&message, path)?;
    Ok((message, weight))
}

/// Whether a message is trained: its `weight`, 1 if it has none.
pub(super) fn weight(fields: &mut Fields, role: Role) -> Result<bool, String> {
    let path = fields.path_of("weight");
    match fields.take("weight") {
        None => Ok(true),
        Some(_) if role != Role::Assistant => {
            Err(format!("{path}: expected none, since only an assistant's message is trained"))
        }
        Some(value) => match value.as_f64() {
            Some(0.0) => Ok(false),
            Some(1.0) => Ok(true),
            _ => Err(format!("{path}: expected 0 or 1, found {value}")),
        },
    }
}

/// Checks that an assistant's message says something, and that only an assistant calls tools.
pub(super) fn check_said(message: &Message, path: &str) -> Result<(), String> {
    if message.role != Role::Assistant {
        return match message.tool_calls.len() {
            0 => Ok(()),
            _ => {
                let role = message.role.as_str();
                Err(format!(
                    "{path}.tool_calls: expected none in a message of the {role}, only the assistant calls tools"
                ))
            }
        };
    }
    let is_blank = matches!(&message.content, Content::Text(text) if text.trim().is_empty());
    if is_blank && message.tool_calls.is_empty() {
        return Err(format!("{path}: expected a text or tool calls of the assistant, found neither"));
    }
    for (idx, call) in message.tool_calls.iter().enumerate() {
        if !call.arguments.is_object() {
            let found = kind(&call.arguments);
            return Err(format!("{path}.tool_calls[{idx}]: expected arguments that are an object, found {found}"));
        }
    }
    Ok(())
}

/// Who may have the last word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The assistant: a whole example.
    Answered,
    /// The user, or a tool: a prompt that wants an answer.
    Open,
}

/// Checks that speakers take turns as chat templates expect them: a system's message or none, then user and assistant in
/// turn; a message with tool calls is followed by their results, and those by the assistant. `path_of` names a message.
pub(super) fn check_turns(messages: &[Message], end: End, path_of: impl Fn(usize) -> String) -> Result<(), String> {
    let mut expected: &[Role] = &[Role::System, Role::User];
    for (idx, message) in messages.iter().enumerate() {
        if !expected.contains(&message.role) {
            let (names, found) = (names(expected), message.role.as_str());
            return Err(format!("{}: expected a message of the {names}, found one of the {found}", path_of(idx)));
        }
        expected = match message.role {
            Role::System => &[Role::User],
            Role::Assistant if message.tool_calls.is_empty() => &[Role::User],
            Role::Assistant => &[Role::Tool],
            Role::User => &[Role::Assistant],
            Role::Tool => &[Role::Assistant, Role::Tool],
        };
    }
    let Some(last) = messages.last() else {
        return Err(format!("{}: expected a message, found none", path_of(0)));
    };
    let wanted: &[Role] = match end {
        End::Answered => &[Role::Assistant],
        End::Open => &[Role::User, Role::Tool],
    };
    if !wanted.contains(&last.role) {
        let (path, names, found) = (path_of(messages.len() - 1), names(wanted), last.role.as_str());
        return Err(format!("{path}: expected the last message to be of the {names}, found one of the {found}"));
    }
    Ok(())
}

fn names(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ")
}

/// A conversation of these messages, with the tools and settings of the row.
pub(super) fn conversation(messages: Vec<Message>, row: &mut Fields) -> Result<Conversation, String> {
    let tools = tools(row)?;
    let date = match row.text("date")? {
        Some(date) => Some(date),
        None => row.text("date_string")?,
    };
    Ok(Conversation {
        messages,
        tools,
        builtin_tools: setting(row, "builtin_tools")?,
        tools_in_user_message: setting(row, "tools_in_user_message")?.unwrap_or(true),
        tool_style: setting(row, "tool_style")?.unwrap_or(ToolStyle::Json),
        date: date.unwrap_or_default(),
        add_generation_prompt: false,
    })
}

/// A conversation of which every message may be trained that is not given.
pub(super) fn dialogue(messages: Weighted, given: usize, row: &mut Fields) -> Result<Dialogue, String> {
    let (messages, weights) = messages;
    Ok(Dialogue { conversation: conversation(messages, row)?, given, weights })
}

fn setting<T: DeserializeOwned>(row: &mut Fields, key: &str) -> Result<Option<T>, String> {
    let path = row.path_of(key);
    row.take(key).map(|value| serde_json::from_value(value).map_err(|error| format!("{path}: {error}"))).transpose()
}

/// `tools`: a list, or a text that is one in JSON, as columns of a table have it. A bare function is put into OpenAI's
/// shape.
fn tools(row: &mut Fields) -> Result<Vec<Value>, String> {
    let path = row.path_of("tools");
    let tools = match row.take("tools") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => {
            serde_json::from_str(&text).map_err(|error| format!("{path}: expected a list, or one in JSON: {error}"))?
        }
        Some(value) => value,
    };
    let in_shape = |(idx, tool): (usize, Value)| match &tool {
        Value::Object(members) if members.contains_key("function") => Ok(tool),
        Value::Object(members) if members.contains_key("name") => Ok(json!({"type": "function", "function": tool})),
        Value::Object(_) => {
            Err(format!("{path}[{idx}]: expected a `function`, or a function with a `name`, found neither"))
        }
        other => Err(format!("{path}[{idx}]: expected an object, found {}", kind(other))),
    };
    list(tools, &path)?.into_iter().enumerate().map(in_shape).collect()
}
