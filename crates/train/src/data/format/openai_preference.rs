//! OpenAI's pairs of answers: `{"input": {"messages": […]}, "preferred_output": [message], "non_preferred_output":
//! [message]}`.

use super::fields::Fields;
use super::messages::{conversation, read};
use super::preference::chat_pair;
use super::{Notes, Sample};

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let mut input = Fields::of(row.required("input", "an object with `messages`")?, "input")?;
    let (prompt, _) = read(input.required_list("messages")?, "input.messages", notes)?;
    let (chosen, _) = read(row.required_list("preferred_output")?, "preferred_output", notes)?;
    let (rejected, _) = read(row.required_list("non_preferred_output")?, "non_preferred_output", notes)?;
    let prompt = conversation(prompt, &mut input)?;
    input.finish(notes);
    row.finish(notes);
    chat_pair(["input.messages", "preferred_output", "non_preferred_output"], prompt, chosen, rejected)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use puna_text::chat::Message;
    use serde_json::{Value, json};

    fn parse(row: Value) -> Result<Sample, String> {
        Format::OpenaiPreference.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    #[test]
    fn reads_a_pair() {
        let row = json!({"input": {"messages": [{"role": "user", "content": "u"}], "tools": []},
            "preferred_output": [{"role": "assistant", "content": "a"}],
            "non_preferred_output": [{"role": "assistant", "content": "b"}]});
        let Ok(Sample::ChatPair { prompt, answers }) = parse(row) else { panic!("no pair") };
        assert_eq!(prompt.messages, [Message::user("u")]);
        assert_eq!(*answers, ["a", "b"].map(Message::assistant));
    }

    #[test]
    fn says_what_is_wrong_where() {
        let answer = json!([{"role": "assistant", "content": "a"}]);
        for (row, expected) in [
            (
                json!({"input": [], "preferred_output": answer, "non_preferred_output": answer}),
                "input: expected an object, found a list",
            ),
            (
                json!({"input": {}, "preferred_output": answer}),
                "input.messages: expected a list, found no such key beside nothing else",
            ),
            (
                json!({"input": {"messages": []}, "preferred_output": answer}),
                "non_preferred_output: expected a list, found no such key",
            ),
            (
                json!({"input": {"messages": []}, "preferred_output": answer, "non_preferred_output": answer}),
                "input.messages[0]: expected a message",
            ),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }
}
