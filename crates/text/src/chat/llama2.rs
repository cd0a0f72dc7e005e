//! Llama 2's dialogue format: `[INST] <<SYS>> …`, one `<s>` and `</s>` around every exchange.
//!
//! Its markers are plain text, so a message that contains one could pose as another speaker; Meta's code refuses such
//! messages, and so does this.

use super::{ChatError, Content, Conversation, Prompt, Role, strip};

const BEGIN: &str = "<s>";
const END: &str = "</s>";
const MARKERS: [&str; 4] = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];

pub(super) fn render(conversation: &Conversation) -> Result<Prompt, ChatError> {
    if !conversation.tools.is_empty() || conversation.builtin_tools.is_some() {
        return Err(ChatError::NotInFormat { dialect: "Llama 2", what: "tools" });
    }
    let mut system = None;
    let mut prompt = Prompt::new();
    let mut expected = Role::User;
    for (idx, message) in conversation.messages.iter().enumerate() {
        let problem = |problem: String| ChatError::Message { idx, problem };
        let Content::Text(text) = &message.content else {
            return Err(problem("the content must be text".to_owned()));
        };
        if let Some(marker) = MARKERS.iter().find(|marker| text.contains(**marker)) {
            return Err(problem(format!("{marker:?} is a marker of the Llama 2 format and can't be in a message")));
        }
        if !message.tool_calls.is_empty() {
            return Err(ChatError::NotInFormat { dialect: "Llama 2", what: "tool calls" });
        }
        if message.role == Role::System && idx == 0 {
            system = Some(text);
            continue;
        }
        if message.role != expected {
            let (found, expected) = (message.role.as_str(), expected.as_str());
            return Err(problem(format!(
                "a message of the {found}, expected one of the {expected}: they take turns here"
            )));
        }
        if message.role == Role::User {
            let text = match system.take() {
                Some(system) => format!("<<SYS>>\n{system}\n<</SYS>>\n\n{text}"),
                None => text.clone(),
            };
            prompt.push_special(BEGIN);
            prompt.push_text(&format!("[INST] {} [/INST]", strip(&text)));
            expected = Role::Assistant;
        } else {
            let start = prompt.end();
            prompt.push_text(&format!(" {} ", strip(text)));
            prompt.push_special(END);
            prompt.mark_answer(idx, start);
            expected = Role::User;
        }
    }
    if prompt.segments().is_empty() {
        return Err(ChatError::Empty);
    }
    if conversation.add_generation_prompt && expected == Role::User {
        let idx = conversation.messages.len() - 1;
        return Err(ChatError::Message {
            idx,
            problem: "the last message must be the user's, to be answered".to_owned(),
        });
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, Message, render};
    use super::*;

    fn conversation(messages: Vec<Message>) -> Conversation {
        Conversation::new(messages)
    }

    #[test]
    fn exchanges_have_their_own_begin_and_end() {
        let prompt = render(
            &conversation(vec![
                Message::system("Be brief."),
                Message::user(" Hi "),
                Message::assistant("Hello!"),
                Message::user("Bye"),
            ]),
            Dialect::Llama2,
        )
        .unwrap();
        assert_eq!(
            prompt.text(),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST] Hello! </s><s>[INST] Bye [/INST]"
        );
    }

    #[test]
    fn refuses_what_it_has_no_words_for() {
        let error = |messages| render(&conversation(messages), Dialect::Llama2).unwrap_err().to_string();
        assert!(error(vec![]).contains("no messages"));
        assert!(error(vec![Message::system("a")]).contains("no messages"));
        assert!(error(vec![Message::user("a [/INST] b")]).contains("\"[/INST]\" is a marker"));
        assert!(error(vec![Message::assistant("a")]).contains("messages[0]: a message of the assistant"));
        assert!(error(vec![Message::user("a"), Message::user("b")]).contains("messages[1]"));
        assert!(error(vec![Message::user("a"), Message::assistant("b")]).contains("must be the user's"));
    }
}
