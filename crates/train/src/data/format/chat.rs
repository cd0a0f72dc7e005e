//! OpenAI's chat format: `{"messages": [{"role": …, "content": …}, …]}`, with `weight` 0 or 1 for an assistant's message,
//! `tool_calls`, messages of the role `tool`, and `tools`.

use super::fields::Fields;
use super::messages::{End, check_turns, dialogue, read};
use super::{Notes, Sample};

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let messages = read(row.required_list("messages")?, "messages", notes)?;
    check_turns(&messages.0, End::Answered, |idx| format!("messages[{idx}]"))?;
    let dialogue = dialogue(messages, 0, &mut row)?;
    row.finish(notes);
    Ok(Sample::Chat(dialogue))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use puna_text::chat::Role;
    use serde_json::{Value, json};

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Chat.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    fn call() -> Value {
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]})
    }

    #[test]
    fn reads_messages_weights_and_tools() {
        let row = json!({"id": 7, "tools": [{"type": "function", "function": {"name": "f"}}], "messages": [
            {"role": "system", "content": "s", "name": "x"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "user", "content": "v"},
            call(),
            {"role": "tool", "tool_call_id": "1", "content": "r"},
            {"role": "assistant", "content": "b", "weight": 1.0},
        ]});
        let mut notes = Notes::default();
        let sample = Format::Chat.parse(row.as_object().unwrap().clone(), &mut notes).unwrap();
        let Sample::Chat(dialogue) = sample else { panic!("{sample:?}") };
        assert_eq!(dialogue.weights, [true, true, false, true, true, true, true]);
        assert_eq!((dialogue.given, dialogue.conversation.tools.len()), (0, 1));
        assert!(!dialogue.conversation.add_generation_prompt);
        assert_eq!(dialogue.conversation.messages[5].role, Role::Tool);
        assert_eq!(notes.unknown_keys, ["messages.name", "id"]);
    }

    #[test]
    fn says_what_is_wrong_where() {
        let user = json!({"role": "user", "content": "u"});
        let answer = json!({"role": "assistant", "content": "a"});
        let weighted = |message: &Value, weight: Value| {
            let mut message = message.clone();
            message["weight"] = weight;
            message
        };
        for (row, expected) in [
            (json!({"messages": "a"}), "messages: expected a list, found a text"),
            (json!({"messages": null, "id": 1}), "messages: expected a list, found no such key beside id"),
            (json!({"messages": []}), "messages[0]: expected a message, found none"),
            (json!({"messages": [1]}), "messages[0]: expected an object, found a number"),
            (
                json!({"messages": [{"content": "a"}]}),
                "messages[0].role: expected a text, found no such key beside content",
            ),
            (
                json!({"messages": [{"role": "robot", "content": "a"}]}),
                "messages[0].role: expected system, developer, user, assistant or tool, found \"robot\"",
            ),
            (json!({"messages": [{"role": "user", "content": 1}]}), "messages[0]: content is neither text nor"),
            (
                json!({"messages": [user, user]}),
                "messages[1]: expected a message of the assistant, found one of the user",
            ),
            (
                json!({"messages": [answer]}),
                "messages[0]: expected a message of the system or user, found one of the assistant",
            ),
            (
                json!({"messages": [user, answer, answer]}),
                "messages[2]: expected a message of the user, found one of the assistant",
            ),
            (
                json!({"messages": [user, answer, user]}),
                "messages[2]: expected the last message to be of the assistant, found one of the user",
            ),
            (
                json!({"messages": [user, call(), answer]}),
                "messages[2]: expected a message of the tool, found one of the assistant",
            ),
            (
                json!({"messages": [user, {"role": "tool", "content": "r"}]}),
                "messages[1]: expected a message of the assistant, found one of the tool",
            ),
            (
                json!({"messages": [user, {"role": "assistant", "content": " \n"}]}),
                "messages[1]: expected a text or tool calls of the assistant, found neither",
            ),
            (
                json!({"messages": [user, weighted(&answer, json!(0.5))]}),
                "messages[1].weight: expected 0 or 1, found 0.5",
            ),
            (json!({"messages": [weighted(&user, json!(1)), answer]}), "messages[0].weight: expected none"),
            (json!({"messages": [user, answer], "tools": {}}), "tools: expected a list, found an object"),
            (json!({"messages": [user, answer], "tools": [{}]}), "tools[0]: expected a `function`"),
            (json!({"messages": [user, answer], "tool_style": "xml"}), "tool_style: unknown variant `xml`"),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
        let mut broken = call();
        broken["tool_calls"][0]["function"]["arguments"] = json!("{oops");
        let error = parse(json!({"messages": [user, broken]})).unwrap_err();
        assert!(error.contains("messages[1].tool_calls[0]: expected arguments that are an object"), "{error}");
    }

    #[test]
    fn a_call_may_be_the_last_word() {
        assert!(parse(json!({"messages": [{"role": "user", "content": "u"}, call()]})).is_ok());
    }
}
