//! Prompt and completion: `{"prompt": …, "completion": …}`, both texts, which are trained as raw text, or both lists of
//! messages, which are a conversation. The prompt is only given.

use super::fields::{Fields, kind, list};
use super::messages::{End, check_turns, dialogue, read};
use super::{Notes, Sample};
use serde_json::Value;

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    if row.take("label").is_some() {
        return Err("label: expected none; rows that are rated good or bad, without a pair, can't be trained on".into());
    }
    let prompt = row.required("prompt", "a text or a list of messages")?;
    let completion = row.required("completion", "a text or a list of messages")?;
    let sample = match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) if completion.is_empty() => {
            return Err(format!(
                "completion: expected a text, found an empty one after a prompt of {} bytes",
                prompt.len()
            ));
        }
        (Value::String(prompt), Value::String(completion)) => Sample::Completion { prompt, completion },
        (prompt @ Value::Array(_), completion) => {
            let mut messages = read(list(prompt, "prompt")?, "prompt", notes)?;
            let given = messages.0.len();
            check_turns(&messages.0, End::Open, |idx| format!("prompt[{idx}]"))?;
            let (more, weights) = read(list(completion, "completion")?, "completion", notes)?;
            if more.is_empty() {
                return Err("completion[0]: expected a message, found none".to_owned());
            }
            messages.0.extend(more);
            messages.1.extend(weights);
            let path_of = |idx: usize| format!("completion[{}]", idx.saturating_sub(given));
            check_turns(&messages.0, End::Answered, path_of)?;
            Sample::Chat(dialogue(messages, given, &mut row)?)
        }
        (Value::String(_), other) => {
            return Err(format!("completion: expected a text like the prompt, found {}", kind(&other)));
        }
        (other, _) => return Err(format!("prompt: expected a text or a list of messages, found {}", kind(&other))),
    };
    row.finish(notes);
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Completion.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    #[test]
    fn texts_are_raw_and_messages_a_conversation() {
        let sample = parse(json!({"prompt": "2+2=", "completion": "4"})).unwrap();
        assert_eq!(sample, Sample::Completion { prompt: "2+2=".to_owned(), completion: "4".to_owned() });
        let [user, answer] = [json!({"role": "user", "content": "u"}), json!({"role": "assistant", "content": "a"})];
        let sample = parse(json!({"prompt": [user, answer, user], "completion": [answer]})).unwrap();
        let Sample::Chat(dialogue) = sample else { panic!("{sample:?}") };
        assert_eq!((dialogue.given, dialogue.conversation.messages.len(), dialogue.weights.len()), (3, 4, 4));
    }

    #[test]
    fn says_what_is_wrong_where() {
        let [user, answer] = [json!({"role": "user", "content": "u"}), json!({"role": "assistant", "content": "a"})];
        for (row, expected) in [
            (json!({"prompt": "a"}), "completion: expected a text or a list of messages, found no such key"),
            (json!({"prompt": 1, "completion": "a"}), "prompt: expected a text or a list of messages, found a number"),
            (
                json!({"prompt": "a", "completion": [answer]}),
                "completion: expected a text like the prompt, found a list",
            ),
            (json!({"prompt": [user], "completion": "a"}), "completion: expected a list, found a text"),
            (json!({"prompt": "a", "completion": ""}), "completion: expected a text, found an empty one"),
            (json!({"prompt": [user], "completion": []}), "completion[0]: expected a message, found none"),
            (json!({"prompt": [user], "completion": [user]}), "completion[0]: expected a message of the assistant"),
            (
                json!({"prompt": [user, answer], "completion": [answer]}),
                "prompt[1]: expected the last message to be of the user or tool",
            ),
            (json!({"prompt": "a", "completion": "b", "label": true}), "label: expected none"),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }
}
