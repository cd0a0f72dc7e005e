//! TRL's pairs of answers: `{"prompt": …, "chosen": …, "rejected": …}`, all texts or all lists of messages. Without a prompt
//! both begin with it: with the same messages, or with the same text, whose last word may be the answers' first.

use super::fields::{Fields, kind, list};
use super::messages::{End, check_turns, conversation, read};
use super::{Notes, Sample};
use puna_text::chat::{Conversation, Message, Role};
use serde_json::Value;

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let prompt = row.take("prompt");
    let chosen = row.required("chosen", "a text or a list of messages")?;
    let rejected = row.required("rejected", "a text or a list of messages")?;
    let sample = match (prompt, chosen, rejected) {
        (Some(Value::String(prompt)), Value::String(chosen), Value::String(rejected)) => {
            text_pair(prompt, chosen, rejected)?
        }
        (None, Value::String(chosen), Value::String(rejected)) => {
            let at = common_start(&chosen, &rejected);
            let (prompt, chosen) = chosen.split_at(at);
            text_pair(prompt.to_owned(), chosen.to_owned(), rejected[at..].to_owned())?
        }
        (prompt, chosen @ Value::Array(_), rejected @ Value::Array(_)) => {
            let prompt = prompt.map(|prompt| list(prompt, "prompt")).transpose()?;
            let prompt = prompt.map(|prompt| read(prompt, "prompt", notes)).transpose()?;
            let (mut chosen, _) = read(list(chosen, "chosen")?, "chosen", notes)?;
            let (mut rejected, _) = read(list(rejected, "rejected")?, "rejected", notes)?;
            let prompt = match prompt {
                Some((prompt, _)) => prompt,
                None => {
                    let n = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
                    rejected.drain(..n);
                    chosen.drain(..n).collect()
                }
            };
            let prompt = conversation(prompt, &mut row)?;
            chat_pair(["prompt", "chosen", "rejected"], prompt, chosen, rejected)?
        }
        (_, chosen, rejected) => {
            let (chosen, rejected) = (kind(&chosen), kind(&rejected));
            return Err(format!(
                "chosen, rejected: expected texts or lists of messages, like the prompt, found {chosen} and {rejected}"
            ));
        }
    };
    row.finish(notes);
    Ok(sample)
}

fn text_pair(prompt: String, chosen: String, rejected: String) -> Result<Sample, String> {
    for (name, text) in [("chosen", &chosen), ("rejected", &rejected)] {
        if text.is_empty() {
            return Err(format!("{name}: expected a text, found none after what both begin with"));
        }
    }
    if chosen == rejected {
        return Err("chosen, rejected: expected different texts, found equal ones".to_owned());
    }
    Ok(Sample::TextPair { prompt, chosen, rejected })
}

/// A prompt to be answered and two messages that answer it, with the names that the row has for the three.
pub(super) fn chat_pair(
    names: [&str; 3],
    prompt: Conversation,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<Sample, String> {
    check_turns(&prompt.messages, End::Open, |idx| format!("{}[{idx}]", names[0]))?;
    let chosen = only_answer(chosen, names[1])?;
    let rejected = only_answer(rejected, names[2])?;
    if chosen == rejected {
        return Err(format!("{}, {}: expected different answers, found equal ones", names[1], names[2]));
    }
    Ok(Sample::ChatPair { prompt, answers: Box::new([chosen, rejected]) })
}

fn only_answer(messages: Vec<Message>, name: &str) -> Result<Message, String> {
    match <[Message; 1]>::try_from(messages) {
        Ok([message]) if message.role == Role::Assistant => Ok(message),
        Ok([message]) => {
            Err(format!("{name}[0]: expected a message of the assistant, found one of the {}", message.role.as_str()))
        }
        Err(messages) => {
            let n = messages.len();
            Err(format!("{name}: expected one message of the assistant behind the prompt, found {n} messages"))
        }
    }
}

/// Bytes that two texts begin with both, up to the start of the word in which they part.
fn common_start(one: &str, other: &str) -> usize {
    let same = one.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
    let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
    one[..end].rfind(char::is_whitespace).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::json;

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Preference.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    fn texts(prompt: &str, chosen: &str, rejected: &str) -> Sample {
        Sample::TextPair { prompt: prompt.to_owned(), chosen: chosen.to_owned(), rejected: rejected.to_owned() }
    }

    #[test]
    fn a_prompt_may_be_in_both() {
        let row = json!({"prompt": "Q: hi\nA:", "chosen": " hello", "rejected": " go"});
        assert_eq!(parse(row).unwrap(), texts("Q: hi\nA:", " hello", " go"));
        let row = json!({"chosen": "Q: hi\nA: hello", "rejected": "Q: hi\nA: help"});
        assert_eq!(parse(row).unwrap(), texts("Q: hi\nA:", " hello", " help"));
        let [user, good, bad] = [("user", "u"), ("assistant", "a"), ("assistant", "b")]
            .map(|(role, content)| json!({"role": role, "content": content}));
        let apart = parse(json!({"prompt": [user], "chosen": [good], "rejected": [bad]})).unwrap();
        assert_eq!(parse(json!({"chosen": [user, good], "rejected": [user, bad]})).unwrap(), apart);
        let Sample::ChatPair { prompt, answers } = apart else { panic!("{apart:?}") };
        assert_eq!(prompt.messages, [Message::user("u")]);
        assert_eq!(*answers, ["a", "b"].map(Message::assistant));
    }

    #[test]
    fn common_starts_end_in_front_of_a_word() {
        for (one, other, expected) in [
            ("a b", "a c", 1),
            ("ab", "ac", 0),
            ("é é", "é è", 2),
            ("", "a", 0),
            ("a  b", "a  c", 2),
            ("a b", "a b c", 1),
        ] {
            assert_eq!(common_start(one, other), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn says_what_is_wrong_where() {
        let [user, good, bad] = [("user", "u"), ("assistant", "a"), ("assistant", "b")]
            .map(|(role, content)| json!({"role": role, "content": content}));
        for (row, expected) in [
            (json!({"chosen": "a"}), "rejected: expected a text or a list of messages, found no such key"),
            (json!({"chosen": "a", "rejected": [bad]}), "chosen, rejected: expected texts or lists of messages"),
            (json!({"prompt": "a", "chosen": [good], "rejected": [bad]}), "prompt: expected a list, found a text"),
            (json!({"prompt": "a", "chosen": "b", "rejected": ""}), "rejected: expected a text, found none"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "b"}), "found equal ones"),
            (json!({"prompt": [user], "chosen": [good], "rejected": [good]}), "found equal ones"),
            (
                json!({"prompt": [user, good], "chosen": [good], "rejected": [bad]}),
                "prompt[1]: expected the last message",
            ),
            (
                json!({"prompt": [user], "chosen": [user], "rejected": [bad]}),
                "chosen[0]: expected a message of the assistant",
            ),
            (
                json!({"prompt": [user], "chosen": [good, bad], "rejected": [bad]}),
                "chosen: expected one message of the assistant behind the prompt, found 2 messages",
            ),
            (json!({"chosen": [good], "rejected": [bad]}), "prompt[0]: expected a message, found none"),
        ] {
            let error = parse(row.clone()).unwrap_err();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }
}
