//! The pieces that were written by hand: `stories/*.txt` and `dialogues/*.jsonl`.
//!
//! A story stands under a line `== about; title`; `about` fits after "a story about". A line of a dialogue file is one
//! dialogue in the form that OpenAI's chat API has.

use crate::corpus::{Message, Messages, Role};
use crate::{Error, check, sections};

/// A story.
pub struct Story {
    /// What it is about.
    pub about: &'static str,
    /// Paragraphs with an empty line between them.
    pub text: String,
}

macro_rules! files {
    ($folder:literal, $($name:literal),* $(,)?) => {
        [$((concat!($folder, $name), include_str!(concat!("../", $folder, $name)))),*]
    };
}

const STORIES: [(&str, &str); 9] = files![
    "stories/",
    "birds.txt",
    "friends.txt",
    "lake.txt",
    "llamas.txt",
    "night.txt",
    "small.txt",
    "village.txt",
    "weather.txt",
    "wild.txt",
];

const DIALOGUES: [(&str, &str); 6] =
    files!["dialogues/", "animals.jsonl", "beyond.jsonl", "cria.jsonl", "numbers.jsonl", "talk.jsonl", "world.jsonl",];

/// All stories.
///
/// # Errors
/// When something stands before the first heading, a story is empty, or it breaks a rule of [`check`].
pub fn stories() -> Result<Vec<Story>, Error> {
    let mut stories: Vec<(&'static str, usize, Story)> = Vec::new();
    for (file, text) in STORIES {
        let n_before = stories.len();
        for (index, line) in text.lines().enumerate() {
            let n = index + 1;
            if let Some(heading) = line.strip_prefix("== ") {
                let about = heading.split(';').next().unwrap_or(heading);
                stories.push((file, n, Story { about, text: String::new() }));
            } else if let Some((_, _, story)) = stories.get_mut(n_before..).and_then(<[_]>::last_mut) {
                story.text += line;
                story.text.push('\n');
            } else {
                let problem = format!("expected a line \"== about; title\" first, found {line:?}");
                return Err(sections::error(file, n, problem));
            }
        }
    }
    let finish = |(file, n, story): (&'static str, usize, Story)| {
        let text = story.text.trim().to_owned();
        match check::written(&text) {
            None => Ok(Story { text, ..story }),
            Some(problem) => Err(sections::error(file, n, problem)),
        }
    };
    stories.into_iter().map(finish).collect()
}

/// All dialogues.
///
/// # Errors
/// When a line is no dialogue: JSON of the wrong form, roles that do not alternate, an empty content, or an answer that
/// breaks a rule of [`check`].
pub fn dialogues() -> Result<Vec<Messages>, Error> {
    let mut dialogues = Vec::new();
    for (file, text) in DIALOGUES {
        for (index, line) in text.lines().enumerate() {
            let error = |problem| sections::error(file, index + 1, problem);
            let dialogue: Messages = serde_json::from_str(line).map_err(|wrong| error(wrong.to_string()))?;
            if let Some(problem) = wrong_order(&dialogue.messages) {
                return Err(error(problem));
            }
            for message in &dialogue.messages {
                let problem = match message.role {
                    Role::Assistant => check::written(&message.content),
                    Role::System | Role::User => check::said(&message.content),
                };
                if let Some(problem) = problem {
                    return Err(error(format!("{problem}: {:?}", message.content)));
                }
            }
            dialogues.push(dialogue);
        }
    }
    Ok(dialogues)
}

/// Why these are not the messages of a dialogue: perhaps a system, then user and assistant in turn.
fn wrong_order(messages: &[Message]) -> Option<String> {
    let turns = match messages {
        [first, turns @ ..] if first.role == Role::System => turns,
        turns => turns,
    };
    let expected = [Role::User, Role::Assistant];
    let alternate = turns.iter().zip(expected.iter().cycle()).all(|(message, role)| message.role == *role);
    if turns.is_empty() || turns.len() % 2 != 0 || !alternate {
        return Some("expected user and assistant in turn, the assistant last".to_owned());
    }
    messages.iter().any(|message| message.content.trim().is_empty()).then(|| "a content is empty".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(roles: &[Role]) -> Vec<Message> {
        roles.iter().map(|role| Message { role: *role, content: "Hello.".to_owned() }).collect()
    }

    #[test]
    fn every_piece_can_be_read() {
        let stories = stories().unwrap();
        assert!(stories.len() >= 150, "{}", stories.len());
        for story in &stories {
            let n_words = story.text.split_whitespace().count();
            assert!((60..=180).contains(&n_words), "{}: {n_words} words", story.about);
        }
        assert!(dialogues().unwrap().len() >= 200);
    }

    #[test]
    fn no_piece_is_there_twice() {
        let mut texts: Vec<String> = stories().unwrap().into_iter().map(|story| story.text).collect();
        texts.extend(dialogues().unwrap().iter().map(|dialogue| format!("{dialogue:?}")));
        let n = texts.len();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), n);
    }

    #[test]
    fn roles_must_alternate() {
        use Role::{Assistant, System, User};
        assert_eq!(wrong_order(&messages(&[User, Assistant])), None);
        assert_eq!(wrong_order(&messages(&[System, User, Assistant, User, Assistant])), None);
        for wrong in [&[][..], &[System], &[User], &[Assistant, User], &[User, User], &[User, Assistant, User]] {
            assert!(wrong_order(&messages(wrong)).is_some(), "{wrong:?}");
        }
        let mut empty = messages(&[User, Assistant]);
        empty[1].content = " ".to_owned();
        assert!(wrong_order(&empty).is_some());
    }
}
