//! Dialogues: a user asks, cria answers in one to three short sentences, or with a story.

mod beyond;
mod facts;
mod lists;
mod memory;
mod numbers;
mod reading;
mod riddles;
mod stories;
mod style;
mod things;
mod words;

use crate::answers::{Answer, Pair, Subject};
use crate::grammar::{self, Grammar};
use crate::random::Random;
use crate::template::Slots;

/// A dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialogue {
    /// What the system says first, if anything.
    pub system: Option<String>,
    /// What the user says, and what cria answers.
    pub turns: Vec<Turn>,
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The user.
    pub user: String,
    /// The assistant.
    pub assistant: String,
    /// Whether the user's words must stay as they are: cria repeats them.
    exact: bool,
}

impl Turn {
    fn new(user: impl Into<String>, assistant: impl Into<String>) -> Turn {
        Turn { user: user.into(), assistant: assistant.into(), exact: false }
    }

    /// A turn whose question is not varied.
    fn exact(user: impl Into<String>, assistant: impl Into<String>) -> Turn {
        Turn { exact: true, ..Turn::new(user, assistant) }
    }
}

impl From<Pair> for Turn {
    fn from((user, assistant): Pair) -> Turn {
        Turn::new(user, assistant)
    }
}

/// What is said about one topic.
type Topic = fn(&Grammar, &mut Random) -> Vec<Turn>;

/// Topics, and how often each comes up.
const TOPICS: [(Topic, u32); 13] = [
    (facts::topic, 26),
    (facts::comparison, 6),
    (things::topic, 10),
    (numbers::topic, 18),
    (words::topic, 8),
    (lists::topic, 6),
    (riddles::topic, 4),
    (reading::topic, 5),
    (|grammar, random| fixed(&grammar.why, grammar, random), 9),
    (|grammar, random| fixed(&grammar.identity, grammar, random), 9),
    (|grammar, random| fixed(&grammar.commands, grammar, random), 5),
    (|grammar, random| fixed(&grammar.manners, grammar, random), 7),
    (beyond::topic, 11),
];

/// The most turns of a dialogue.
const MAX_TURNS: usize = 6;

/// Makes a dialogue.
pub fn dialogue(grammar: &Grammar, random: &mut Random) -> Dialogue {
    if random.chance(2) {
        let system = Some(grammar.say("one sentence", "", random));
        return finished(Dialogue { system, turns: facts::in_one_sentence(grammar, random) }, random);
    }
    let mut turns = match random.below(100) {
        0..14 => stories::topic(grammar, random),
        14..22 => memory::topic(grammar, random),
        22..26 => vec![manner(grammar, "hello", random)],
        _ => topics(grammar, random),
    };
    if turns.len() < MAX_TURNS && random.chance(10) {
        let greeting = *random.pick(&["hello", "hello", "good morning", "how are you"]);
        turns.insert(0, manner(grammar, greeting, random));
    }
    if turns.len() < MAX_TURNS && random.chance(12) {
        let farewell = *random.pick(&["thanks", "thanks", "goodbye", "good night"]);
        turns.push(manner(grammar, farewell, random));
    }
    let system = random.chance(6).then(|| grammar.say("system", "", random));
    finished(Dialogue { system, turns }, random)
}

/// Not too long, and in the words of some user.
fn finished(mut dialogue: Dialogue, random: &mut Random) -> Dialogue {
    dialogue.turns.truncate(MAX_TURNS);
    for turn in dialogue.turns.iter_mut().filter(|turn| !turn.exact) {
        turn.user = style::varied(&turn.user, random);
    }
    dialogue
}

/// One to three topics, one after another.
fn topics(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let n = [1, 1, 1, 2, 2, 3][random.below(6)];
    (0..n).flat_map(|_| topic(grammar, random)).collect()
}

fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let total: u32 = TOPICS.iter().map(|(_, weight)| weight).sum();
    let mut left = random.below(total as usize) as u32;
    for (topic, weight) in TOPICS {
        if left < weight {
            return topic(grammar, random);
        }
        left -= weight;
    }
    Vec::new()
}

/// A question that has one answer, out of a file.
fn fixed(answers: &[Answer], grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let answer = random.pick(answers);
    let slots = Slots::default();
    let first = answer.pair(Subject::Noun, &slots, &grammar.phrases, random);
    let next = if random.chance(50) { answer.next(&slots, &grammar.phrases, random) } else { None };
    first.into_iter().chain(next).map(Turn::from).collect()
}

fn manner(grammar: &Grammar, name: &str, random: &mut Random) -> Turn {
    let answer = grammar::named(&grammar.manners, name);
    let pair = answer.pair(Subject::Noun, &Slots::default(), &grammar.phrases, random);
    pair.expect("every section has a question").into()
}
