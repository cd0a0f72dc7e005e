//! How users write: with and without capitals, full stops and "please".

use crate::random::Random;

/// What users put before a question.
const BEFORE: [&str; 9] = [
    "Please tell me: ",
    "Cria, ",
    "Hey, ",
    "One question: ",
    "Tell me, ",
    "I would like to know: ",
    "Now, ",
    "Hello, ",
    "A question: ",
];

/// Words that questions and requests start with; what starts otherwise gets nothing put before it.
const STARTS: [&str; 19] = [
    "What", "Where", "Which", "Who", "How", "Why", "When", "Is", "Are", "Can", "Do", "Does", "Name", "List", "Count",
    "Could", "Will", "Tell", "With",
];

/// The same in the words of some user.
pub fn varied(text: &str, random: &mut Random) -> String {
    let mut text = text.to_owned();
    let first = text.split(' ').next().unwrap_or_default();
    if STARTS.contains(&first) && text.ends_with('?') {
        if random.chance(9) {
            text = format!("{}{}{}", random.pick(&BEFORE), text[..1].to_lowercase(), &text[1..]);
        } else if random.chance(3) {
            text.truncate(text.len() - 1);
            text += ", please?";
        }
    }
    match random.below(100) {
        0..13 => plain(&without_end(&text)),
        13..19 => plain(&text),
        19..27 => without_end(&text),
        _ => text,
    }
}

/// Without capitals and without the one letter that most keyboards lack.
fn plain(text: &str) -> String {
    text.to_lowercase().replace('ñ', "n")
}

/// Without the last full stop, question or exclamation mark; what is nothing else stays.
fn without_end(text: &str) -> String {
    let short = text.trim_end_matches(['.', '?', '!', ' ']);
    if short.is_empty() { text.to_owned() } else { short.to_owned() }
}
