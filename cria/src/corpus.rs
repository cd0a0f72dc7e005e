//! The whole corpus: what was written by hand and what is generated, without repeats, in two parts.

use crate::dialogue::{self, Dialogue};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::{Error, check, handwritten};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Who says something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever set up the model.
    System,
    /// Whoever talks with the model.
    User,
    /// The model.
    Assistant,
}

/// What is said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// Never empty.
    pub content: String,
}

/// One row of a file of dialogues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Perhaps one of the system, then of user and assistant in turn.
    pub messages: Vec<Message>,
    /// The date that the chat format tells the model, which has nothing to do with what is said: another one in each
    /// dialogue, so that none is a surprise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// One row of a file of stories.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Paragraphs with an empty line between them.
    pub text: String,
}

/// What to generate.
pub struct Request {
    /// Equal seeds give equal files.
    pub seed: u64,
    /// How many stories the grammar makes; those written by hand come on top.
    pub stories: usize,
    /// How many dialogues the grammar makes; those written by hand come on top.
    pub dialogues: usize,
    /// About how many of a hundred documents are kept for validation.
    pub valid_percent: u64,
}

/// Documents in two parts that share none.
pub struct Parts<T> {
    /// To train on.
    pub train: Vec<T>,
    /// To measure on.
    pub valid: Vec<T>,
}

/// The corpus.
pub struct Corpus {
    /// Texts.
    pub stories: Parts<Text>,
    /// Conversations.
    pub dialogues: Parts<Messages>,
}

/// How many documents are made for each that is asked for, before the grammar is held to have nothing new to say.
const TRIES: usize = 20;

impl Corpus {
    /// Makes the corpus: the pieces that were written by hand, and so many documents from the grammar.
    ///
    /// # Errors
    /// When the crate's own files are not as they should be, a text breaks a rule of [`check`], or the grammar cannot
    /// make as many different documents.
    pub fn generate(request: &Request) -> Result<Corpus, Error> {
        let grammar = Grammar::read()?;
        let mut random = Random::new(request.seed);
        let mut seen = HashSet::new();
        let mut stories = Parts { train: Vec::new(), valid: Vec::new() };
        let mut dialogues = Parts { train: Vec::new(), valid: Vec::new() };

        for story in handwritten::stories()? {
            let is_valid = is_valid(&story.text, request);
            seen.insert(hash(&story.text));
            // Whoever asks for the story gets it, in the same part of the corpus.
            let asked = grammar.say("story about", story.about, &mut random);
            let turn = [(Role::User, asked), (Role::Assistant, story.text.clone())];
            dialogues.add(messages(turn), is_valid);
            stories.add(Text { text: story.text }, is_valid);
        }
        for dialogue in handwritten::dialogues()? {
            let text = joined(&dialogue);
            seen.insert(hash(&text));
            dialogues.add(dialogue, is_valid(&text, request));
        }

        let story = || grammar.story(&mut random).text;
        for text in different(request.stories, "stories", &mut seen, story, String::clone)? {
            if let Some(problem) = check::written(&text) {
                return Err(Error::Text { kind: "story", problem, text });
            }
            let is_valid = is_valid(&text, request);
            stories.add(Text { text }, is_valid);
        }
        let dialogue = || conversation(dialogue::dialogue(&grammar, &mut random));
        for dialogue in different(request.dialogues, "dialogues", &mut seen, dialogue, joined)? {
            for message in &dialogue.messages {
                let problem = match message.role {
                    Role::Assistant => check::written(&message.content),
                    Role::System | Role::User => check::said(&message.content),
                };
                if let Some(problem) = problem {
                    return Err(Error::Text { kind: "dialogue", problem, text: message.content.clone() });
                }
            }
            let is_valid = is_valid(&joined(&dialogue), request);
            dialogues.add(dialogue, is_valid);
        }
        stories.shuffle(&mut random);
        dialogues.shuffle(&mut random);
        for dialogue in dialogues.train.iter_mut().chain(&mut dialogues.valid) {
            dialogue.date = Some(date(hash(&joined(dialogue))));
        }
        Ok(Corpus { stories, dialogues })
    }
}

impl<T> Parts<T> {
    fn add(&mut self, document: T, is_valid: bool) {
        if is_valid { self.valid.push(document) } else { self.train.push(document) }
    }

    /// So that a reader from the start meets every sort of document.
    fn shuffle(&mut self, random: &mut Random) {
        for part in [&mut self.train, &mut self.valid] {
            for index in (1..part.len()).rev() {
                part.swap(index, random.below(index + 1));
            }
        }
    }
}

/// `n` documents whose texts are different from each other and from those `seen`.
fn different<T>(
    n: usize,
    kind: &'static str,
    seen: &mut HashSet<u64>,
    mut make: impl FnMut() -> T,
    text: impl Fn(&T) -> String,
) -> Result<Vec<T>, Error> {
    let mut documents = Vec::new();
    for _ in 0..n.saturating_mul(TRIES) {
        if documents.len() == n {
            break;
        }
        let document = make();
        if seen.insert(hash(&text(&document))) {
            documents.push(document);
        }
    }
    if documents.len() < n {
        return Err(Error::TooMany { kind, expected: n, found: documents.len() });
    }
    Ok(documents)
}

/// Whether a document is for validation: that depends on its text alone, so it stays there for every seed.
fn is_valid(text: &str, request: &Request) -> bool {
    // The low bits of the hash decide where a set keeps it; these are others.
    (hash(text) >> 32) % 100 < request.valid_percent
}

/// FNV-1a, which is the same everywhere.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A day of some thirty years, of equal months: any number is one.
fn date(number: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut random = Random::new(number);
    let (day, year) = (random.between(1, 28), random.between(2024, 2053));
    format!("{day:02} {} {year}", random.pick(&MONTHS))
}

fn messages(said: impl IntoIterator<Item = (Role, String)>) -> Messages {
    Messages { messages: said.into_iter().map(|(role, content)| Message { role, content }).collect(), date: None }
}

fn conversation(dialogue: Dialogue) -> Messages {
    let system = dialogue.system.map(|system| (Role::System, system));
    let turns =
        dialogue.turns.into_iter().flat_map(|turn| [(Role::User, turn.user), (Role::Assistant, turn.assistant)]);
    messages(system.into_iter().chain(turns))
}

/// All that is said, to compare dialogues by.
fn joined(dialogue: &Messages) -> String {
    let contents: Vec<&str> = dialogue.messages.iter().map(|message| message.content.as_str()).collect();
    contents.join("\u{0}")
}
