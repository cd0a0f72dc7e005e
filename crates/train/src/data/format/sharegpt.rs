//! ShareGPT's format: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]}`, with `system`
//! and `tools` beside it.

use super::fields::{Fields, kind};
use super::messages::{End, check_said, check_turns, dialogue, weight};
use super::{Notes, Sample};
use puna_text::chat::{Message, Role, ToolCall};
use serde_json::Value;

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let turns = row.required_list("conversations")?;
    let system = row.text("system")?.filter(|text| !text.trim().is_empty());
    let n_before = usize::from(system.is_some());
    let mut messages: Vec<Message> = system.map(Message::system).into_iter().collect();
    let mut weights = vec![true; n_before];
    for (idx, turn) in turns.into_iter().enumerate() {
        let path = format!("conversations[{idx}]");
        let mut turn = Fields::of(turn, &path)?;
        let message = message(&turn.required_text("from")?, turn.required_text("value")?, &path)?;
        weights.push(weight(&mut turn, message.role)?);
        turn.finish(notes);
        check_said(&message, &path)?;
        messages.push(message);
    }
    check_turns(&messages, End::Answered, |idx| match idx.checked_sub(n_before) {
        Some(idx) => format!("conversations[{idx}]"),
        None => "system".to_owned(),
    })?;
    let dialogue = dialogue((messages, weights), 0, &mut row)?;
    row.finish(notes);
    Ok(Sample::Chat(dialogue))
}

/// A message by one of the names that its speaker goes by.
fn message(from: &str, value: String, path: &str) -> Result<Message, String> {
    match from {
        "system" => Ok(Message::system(value)),
        "human" | "user" => Ok(Message::user(value)),
        "gpt" | "assistant" | "chatgpt" | "model" => Ok(Message::assistant(value)),
        "observation" | "tool" | "function_response" => Ok(Message::new(Role::Tool, value)),
        "function_call" | "tool_call" => Ok(Message { tool_calls: calls(&value, path)?, ..Message::assistant("") }),
        _ => Err(format!(
            "{path}.from: expected system, human (user), gpt (assistant), function_call or observation (tool), \
             found {from:?}"
        )),
    }
}

/// `{"name": …, "arguments": {…}}`, or a list of them, in JSON.
fn calls(text: &str, path: &str) -> Result<Vec<ToolCall>, String> {
    let problem = |found: &str| {
        format!("{path}.value: expected a call {{\"name\": …, \"arguments\": {{…}}}} in JSON, found {found}")
    };
    let value: Value = serde_json::from_str(text).map_err(|_| problem("something else"))?;
    let calls = match value {
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let call = |mut call: Value| {
        let name = call["name"].as_str().ok_or_else(|| problem("no name"))?.to_owned();
        match call["arguments"].take() {
            arguments @ Value::Object(_) => Ok(ToolCall { id: None, name, arguments }),
            other => Err(problem(&format!("arguments that are {}", kind(&other)))),
        }
    };
    calls.into_iter().map(|value| if value.is_object() { call(value) } else { Err(problem(kind(&value))) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Sharegpt.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    #[test]
    fn speakers_have_several_names() {
        let row = json!({"system": "s", "tools": "[{\"name\": \"f\"}]", "conversations": [
            {"from": "human", "value": "u"},
            {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
            {"from": "observation", "value": "r"},
            {"from": "gpt", "value": "a", "weight": 0},
            {"from": "user", "value": "v"},
            {"from": "assistant", "value": "b"},
        ]});
        let Ok(Sample::Chat(dialogue)) = parse(row) else { panic!("no conversation") };
        let roles: Vec<Role> = dialogue.conversation.messages.iter().map(|message| message.role).collect();
        use Role::{Assistant, System, Tool, User};
        assert_eq!(roles, [System, User, Assistant, Tool, Assistant, User, Assistant]);
        assert_eq!(dialogue.conversation.messages[2].tool_calls[0].arguments, json!({"a": 1}));
        assert_eq!(dialogue.conversation.tools, [json!({"type": "function", "function": {"name": "f"}})]);
        assert_eq!(dialogue.weights, [true, true, true, true, false, true, true]);
    }

    #[test]
    fn says_what_is_wrong_where() {
        let human = json!({"from": "human", "value": "u"});
        let turn = |from: &str, value: &str| json!({"from": from, "value": value});
        for (row, expected) in [
            (json!({"conversations": 1}), "conversations: expected a list, found a number"),
            (json!({"conversations": []}), "conversations[0]: expected a message, found none"),
            (json!({"conversations": [turn("alien", "a")]}), "conversations[0].from: expected system, human"),
            (
                json!({"conversations": [{"from": "human"}]}),
                "conversations[0].value: expected a text, found no such key",
            ),
            (json!({"conversations": [human, human]}), "conversations[1]: expected a message of the assistant"),
            (
                json!({"system": "s", "conversations": [turn("system", "t")]}),
                "conversations[0]: expected a message of the user, found one of the system",
            ),
            (json!({"system": "s", "conversations": []}), "system: expected the last message"),
            (json!({"conversations": [human, turn("gpt", "")]}), "conversations[1]: expected a text or tool calls"),
            (
                json!({"conversations": [human, turn("function_call", "f()")]}),
                "conversations[1].value: expected a call",
            ),
            (json!({"conversations": [human, turn("function_call", "[1]")]}), "found a number"),
            (
                json!({"conversations": [human, turn("function_call", "{\"name\": \"f\", \"arguments\": 1}")]}),
                "arguments that are a number",
            ),
            (
                json!({"conversations": [human, turn("gpt", "a")], "tools": "oops"}),
                "tools: expected a list, or one in JSON",
            ),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }
}
