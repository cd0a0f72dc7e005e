//! Alpaca's format: `{"instruction": …, "input": …, "output": …}`, trained as a conversation: the user says the instruction
//! and, after an empty line, the input. `system` and `history`, a list of pairs of question and answer, come before.

use super::fields::{Fields, kind, list};
use super::messages::{End, check_turns, dialogue};
use super::{Notes, Sample};
use puna_text::chat::Message;
use serde_json::Value;

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let instruction = row.required_text("instruction")?;
    let input = row.text("input")?.unwrap_or_default();
    let output = row.required_text("output")?;
    let system = row.text("system")?.filter(|text| !text.trim().is_empty());
    let mut messages: Vec<Message> = system.map(Message::system).into_iter().collect();
    for (idx, pair) in
        row.take("history").map_or(Ok(Vec::new()), |value| list(value, "history"))?.into_iter().enumerate()
    {
        let path = format!("history[{idx}]");
        match <[Value; 2]>::try_from(list(pair, &path)?) {
            Ok([Value::String(question), Value::String(answer)]) if !answer.trim().is_empty() => {
                messages.extend([Message::user(question), Message::assistant(answer)]);
            }
            Ok([Value::String(_), Value::String(_)]) => {
                return Err(format!("{path}[1]: expected a text, found an empty one"));
            }
            Ok([question, answer]) => {
                return Err(format!("{path}: expected two texts, found {} and {}", kind(&question), kind(&answer)));
            }
            Err(items) => {
                return Err(format!("{path}: expected a question and its answer, found {} items", items.len()));
            }
        }
    }
    if output.trim().is_empty() {
        return Err("output: expected a text, found an empty one".to_owned());
    }
    let question = if input.trim().is_empty() { instruction } else { format!("{instruction}\n\n{input}") };
    messages.extend([Message::user(question), Message::assistant(output)]);
    check_turns(&messages, End::Answered, |idx| format!("message {idx}"))?;
    let weights = vec![true; messages.len()];
    let dialogue = dialogue((messages, weights), 0, &mut row)?;
    row.finish(notes);
    Ok(Sample::Chat(dialogue))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Alpaca.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    fn messages(row: Value) -> Vec<Message> {
        match parse(row).unwrap() {
            Sample::Chat(dialogue) => dialogue.conversation.messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn is_a_conversation() {
        assert_eq!(
            messages(json!({"instruction": "Add.", "input": "1, 2", "output": "3"})),
            [Message::user("Add.\n\n1, 2"), Message::assistant("3")]
        );
        let row = json!({"instruction": "i", "input": "", "output": "o", "system": "s", "history": [["q", "a"]]});
        assert_eq!(
            messages(row),
            [
                Message::system("s"),
                Message::user("q"),
                Message::assistant("a"),
                Message::user("i"),
                Message::assistant("o"),
            ]
        );
    }

    #[test]
    fn says_what_is_wrong_where() {
        for (row, expected) in [
            (json!({"instruction": "i"}), "output: expected a text, found no such key"),
            (json!({"instruction": 1, "output": "o"}), "instruction: expected a text, found a number"),
            (json!({"instruction": "i", "output": "\n"}), "output: expected a text, found an empty one"),
            (json!({"instruction": "i", "output": "o", "history": {}}), "history: expected a list, found an object"),
            (
                json!({"instruction": "i", "output": "o", "history": [["q"]]}),
                "history[0]: expected a question and its answer, found 1 items",
            ),
            (
                json!({"instruction": "i", "output": "o", "history": [["q", 1]]}),
                "history[0]: expected two texts, found a text and a number",
            ),
            (json!({"instruction": "i", "output": "o", "history": [["q", ""]]}), "history[0][1]: expected a text"),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }
}
