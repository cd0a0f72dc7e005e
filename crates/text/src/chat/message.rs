//! Messages and conversations, as programs hand them over: OpenAI's shape, read leniently and written as it is.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::date::Date;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation. OpenAI's newer name is `developer`.
    #[serde(alias = "developer")]
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// What a tool returned. Llama 3.1 calls this role `ipython`.
    #[serde(alias = "ipython", alias = "function")]
    Tool,
}

impl Role {
    /// The role's name in OpenAI's shape.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// What a tool returned, if it is no text: Llama 3.1 sees it as JSON.
    Json(Value),
}

impl Default for Content {
    fn default() -> Content {
        Content::Text(String::new())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Content {
        Content::Text(text)
    }
}

/// A call of a tool by the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Ties the call to its result; models don't see it.
    pub id: Option<String>,
    /// The tool.
    pub name: String,
    /// Arguments by name. Anything but an object is what a model wrote that is none.
    pub arguments: Value,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Content,
    /// Tools that the assistant calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers; models don't see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The assistant's message ended with `<|eom_id|>`, to go on after the tool's result, and not with `<|eot_id|>`. Only
    /// [`Dialect::Meta`](super::Dialect::Meta) asks: the template decides by itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub end_of_message: bool,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: impl Into<Content>) -> Message {
        Message { role, content: content.into(), tool_calls: Vec::new(), tool_call_id: None, end_of_message: false }
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new(Role::System, text.into())
    }

    /// The person's words.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new(Role::User, text.into())
    }

    /// The model's words.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new(Role::Assistant, text.into())
    }
}

/// How tools are offered to the model and how it is to call them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStyle {
    /// Schemas in JSON; calls are `{"name": …, "parameters": …}`.
    #[default]
    Json,
    /// As Meta's guide to Llama 3.1 has it; calls are `<function=NAME>{…}</function>`.
    FunctionTag,
}

/// All that goes into a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Tools in OpenAI's shape: `{"type": "function", "function": {"name": …, "description": …, "parameters": …}}`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tools: Vec<Value>,
    /// Llama 3.1's own tools: `brave_search`, `wolfram_alpha`, `code_interpreter`.
    #[serde(default)]
    pub builtin_tools: Option<Vec<String>>,
    /// Tools are offered in the first user message, and otherwise in the system message.
    #[serde(default = "yes")]
    pub tools_in_user_message: bool,
    /// How tools are offered.
    #[serde(default)]
    pub tool_style: ToolStyle,
    /// The date that the model is told, such as `23 Nov 2026`; today's by default.
    #[serde(default = "today", alias = "date_string")]
    pub date: String,
    /// The prompt ends with the header of the assistant's answer.
    #[serde(default = "yes")]
    pub add_generation_prompt: bool,
}

fn yes() -> bool {
    true
}

fn today() -> String {
    Date::today().to_string()
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Conversation {
    /// A conversation without tools, today, to be answered.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Conversation {
        Conversation {
            messages,
            tools: Vec::new(),
            builtin_tools: None,
            tools_in_user_message: true,
            tool_style: ToolStyle::Json,
            date: today(),
            add_generation_prompt: true,
        }
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            role: Role,
            #[serde(default)]
            content: Value,
            #[serde(default, deserialize_with = "null_as_default")]
            tool_calls: Vec<ToolCall>,
            #[serde(default)]
            tool_call_id: Option<String>,
            #[serde(default, deserialize_with = "null_as_default")]
            end_of_message: bool,
        }
        let Fields { role, content, tool_calls, tool_call_id, end_of_message } = Fields::deserialize(deserializer)?;
        let content = content_of(role, content).map_err(D::Error::custom)?;
        Ok(Message { role, content, tool_calls, tool_call_id, end_of_message })
    }
}

/// Text, or a list of parts that are text. Only a tool may return something else.
fn content_of(role: Role, content: Value) -> Result<Content, String> {
    match content {
        Value::Null => Ok(Content::default()),
        Value::String(text) => Ok(Content::Text(text)),
        Value::Array(parts) if role != Role::Tool || parts.iter().all(|part| part["type"] == "text") => {
            let mut texts = Vec::with_capacity(parts.len());
            for (idx, part) in parts.iter().enumerate() {
                match (&part["type"], &part["text"]) {
                    (Value::String(kind), Value::String(text)) if kind == "text" => texts.push(text.as_str()),
                    (Value::String(kind), _) if kind != "text" => {
                        return Err(format!("content[{idx}] is of type {kind:?}; this model takes only text"));
                    }
                    _ => return Err(format!("content[{idx}] is not of the form {{\"type\": \"text\", \"text\": …}}")),
                }
            }
            Ok(Content::Text(texts.join("\n")))
        }
        other if role == Role::Tool => Ok(Content::Json(other)),
        _ => Err("content is neither text nor a list of parts".to_owned()),
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ToolCall, D::Error> {
        #[derive(Deserialize)]
        struct Function {
            name: String,
            #[serde(default)]
            arguments: Value,
        }
        #[derive(Deserialize)]
        struct Fields {
            #[serde(default)]
            id: Option<String>,
            function: Function,
        }
        let Fields { id, function: Function { name, arguments } } = Fields::deserialize(deserializer)?;
        // OpenAI's API has the arguments as JSON in a string; a model may have written one that is none.
        let arguments = match arguments {
            Value::Null => Value::Object(serde_json::Map::new()),
            Value::String(text) if text.trim().is_empty() => Value::Object(serde_json::Map::new()),
            Value::String(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value @ Value::Object(_)) => value,
                _ => Value::String(text),
            },
            other => other,
        };
        Ok(ToolCall { id, name, arguments })
    }
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ToolCall { id, name, arguments } = self;
        // OpenAI's API has them as JSON in a string.
        let arguments = match arguments {
            Value::Object(_) => arguments.to_string().into(),
            other => other.clone(),
        };
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(value: Value) -> Message {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn reads_openai_messages() {
        assert_eq!(message(json!({"role": "user", "content": "hi"})), Message::user("hi"));
        assert_eq!(message(json!({"role": "developer", "content": "hi", "name": "x"})), Message::system("hi"));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(message(json!({"role": "user", "content": parts})), Message::user("a\nb"));
        let call = message(json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
            {"function": {"name": "g", "arguments": {"x": []}}},
            {"function": {"name": "h", "arguments": "{oops"}},
            {"function": {"name": "i", "arguments": ""}},
        ]}));
        assert_eq!(call.content, Content::default());
        assert_eq!(call.tool_calls[0].arguments.to_string(), "{\"b\":1,\"a\":2}");
        assert_eq!(call.tool_calls[1].arguments, json!({"x": []}));
        assert_eq!(call.tool_calls[2].arguments, json!("{oops"));
        assert_eq!(call.tool_calls[3].arguments, json!({}));
        let result = message(json!({"role": "ipython", "content": {"a": 1}, "tool_call_id": "1"}));
        assert_eq!((result.role, result.content), (Role::Tool, Content::Json(json!({"a": 1}))));
        assert_eq!(message(json!({"role": "tool", "content": [1, 2]})).content, Content::Json(json!([1, 2])));
    }

    #[test]
    fn reads_what_it_writes() {
        let call = |arguments| ToolCall { id: Some("1".to_owned()), name: "f".to_owned(), arguments };
        let calls = [json!({"b": 1, "a": "\""}), json!({}), json!("{oops"), json!([1])].map(call).to_vec();
        let mut conversation = Conversation::new(vec![
            Message::system("be brief"),
            Message { tool_calls: calls, end_of_message: true, ..Message::assistant("") },
            Message {
                tool_call_id: Some("1".to_owned()),
                ..Message::new(Role::Tool, Content::Json(json!({"x": [1]})))
            },
        ]);
        conversation.tools = vec![json!({"type": "function"})];
        conversation.tool_style = ToolStyle::FunctionTag;
        let text = serde_json::to_string(&conversation).unwrap();
        assert_eq!(serde_json::from_str::<Conversation>(&text).unwrap(), conversation);
    }

    #[test]
    fn refuses_what_is_no_text() {
        for (value, expected) in [
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
                "\"image_url\"; this model takes only text",
            ),
            (json!({"role": "user", "content": [{"text": "a"}]}), "content[0] is not of the form"),
            (json!({"role": "user", "content": {"a": 1}}), "neither text nor"),
            (json!({"role": "robot", "content": "a"}), "unknown variant `robot`"),
            (json!({"content": "a"}), "missing field `role`"),
            (json!({"role": "assistant", "tool_calls": [{"function": {}}]}), "missing field `name`"),
        ] {
            let error = serde_json::from_value::<Message>(value).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn conversations_have_defaults() {
        let conversation: Conversation = serde_json::from_value(json!({"messages": [], "tools": null})).unwrap();
        assert_eq!(conversation, Conversation::new(Vec::new()));
        assert!(conversation.tools_in_user_message && conversation.add_generation_prompt);
        let dated: Conversation = serde_json::from_value(json!({"messages": [], "date_string": "1 May 2025"})).unwrap();
        assert_eq!(dated.date, "1 May 2025");
    }
}
