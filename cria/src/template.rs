//! Sentences with choices and gaps.
//!
//! | written | becomes |
//! |---|---|
//! | `[a\|b\|]` | one of the alternatives, which may be empty and may hold others |
//! | `{h.he}` | the value of the slot `h.he` |
//! | `{H.He}`, `{E}` | the same with a capital, if the last part of the name starts with one |
//! | `{*glad}` | one line of the list of phrases `glad`; `{*Glad}` with a capital |
//! | `{eats/eat}` | the first for one, the second for many |

use crate::english;
use crate::random::Random;
use std::collections::{HashMap, HashSet};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Choice(Vec<Template>),
    Slot { name: String, capital: bool },
    Phrase { name: String, capital: bool },
    Agree { one: String, many: String },
}

/// Lists of phrases by name.
pub type Phrases = HashMap<String, Vec<Template>>;

/// What the gaps of a template are filled with.
#[derive(Default)]
pub struct Slots {
    values: HashMap<String, String>,
    /// Whether the subject of the sentence is more than one: decides `{eats/eat}`.
    pub many: bool,
}

impl Slots {
    /// No slots yet, for a subject that is one or many.
    pub fn of(many: bool) -> Slots {
        Slots { many, ..Slots::default() }
    }

    /// Sets a slot, and replaces what it had.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.values.insert(name.into(), value.into());
    }

    /// The value of a slot, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

impl Template {
    /// Parses a template; what is wrong with it otherwise.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut rest = text;
        let template = parse_until(&mut rest, &[])?;
        if rest.is_empty() { Ok(template) } else { Err(format!("expected an end, found {rest:?}")) }
    }

    /// Whether every gap can be filled: its slot is `known`, or its list exists and can be filled itself.
    pub fn check(&self, known: &HashSet<String>, phrases: &Phrases) -> Result<(), String> {
        self.check_within(known, phrases, &mut Vec::new())
    }

    fn check_within(&self, known: &HashSet<String>, phrases: &Phrases, within: &mut Vec<String>) -> Result<(), String> {
        for piece in &self.0 {
            match piece {
                Piece::Text(_) | Piece::Agree { .. } => {}
                Piece::Choice(choices) => {
                    for choice in choices {
                        choice.check_within(known, phrases, within)?;
                    }
                }
                Piece::Slot { name, .. } if known.contains(name) => {}
                Piece::Slot { name, .. } => return Err(format!("slot {name:?} is not set before it is used")),
                Piece::Phrase { name, .. } => {
                    let list = phrases.get(name).ok_or_else(|| format!("there is no list of phrases {name:?}"))?;
                    if within.contains(name) {
                        return Err(format!("the list of phrases {name:?} holds itself"));
                    }
                    within.push(name.clone());
                    for phrase in list {
                        phrase.check_within(known, phrases, within)?;
                    }
                    within.pop();
                }
            }
        }
        Ok(())
    }

    /// The template with its choices made and its gaps filled, as [`Template::check`] promised it can be; the caller
    /// finishes the English.
    pub fn expand(&self, slots: &Slots, phrases: &Phrases, random: &mut Random) -> String {
        let mut out = String::new();
        self.expand_into(&mut out, slots, phrases, random);
        out
    }

    fn expand_into(&self, out: &mut String, slots: &Slots, phrases: &Phrases, random: &mut Random) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => *out += text,
                Piece::Choice(choices) => random.pick(choices).expand_into(out, slots, phrases, random),
                Piece::Slot { name, capital } => {
                    let value = slots.get(name).expect("checked: the slot is set");
                    push(out, value, *capital);
                }
                Piece::Phrase { name, capital } => {
                    let phrase = random.pick(&phrases[name]).expand(slots, phrases, random);
                    push(out, &phrase, *capital);
                }
                Piece::Agree { one, many } => *out += if slots.many { many } else { one },
            }
        }
    }

    /// All words that stand in the template itself, whichever choices are made.
    #[cfg(test)]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => {
                    words.extend(text.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase));
                }
                Piece::Choice(choices) => words.extend(choices.iter().flat_map(Template::words)),
                _ => {}
            }
        }
        words
    }
}

fn push(out: &mut String, value: &str, capital: bool) {
    if capital {
        *out += &english::capitalised(value);
    } else {
        *out += value;
    }
}

/// Parses up to one of `ends`, which is left in `rest`, or to the end of the text.
fn parse_until(rest: &mut &str, ends: &[char]) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    while let Some(c) = rest.chars().next() {
        if ends.contains(&c) {
            break;
        }
        *rest = &rest[c.len_utf8()..];
        let piece = match c {
            '[' => parse_choice(rest)?,
            '{' => parse_gap(rest)?,
            ']' | '}' => return Err(format!("found {c:?} that nothing opened, before {rest:?}")),
            _ => {
                text.push(c);
                continue;
            }
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(piece);
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(Template(pieces))
}

fn parse_choice(rest: &mut &str) -> Result<Piece, String> {
    let mut choices = Vec::new();
    loop {
        choices.push(parse_until(rest, &['|', ']'])?);
        let more = rest.starts_with('|');
        *rest = rest.get(1..).ok_or("expected ']', found the end of the line")?;
        if !more {
            return Ok(Piece::Choice(choices));
        }
    }
}

fn parse_gap(rest: &mut &str) -> Result<Piece, String> {
    let (inside, after) = rest.split_once('}').ok_or("expected '}', found the end of the line")?;
    *rest = after;
    if let Some((one, many)) = inside.split_once('/') {
        return Ok(Piece::Agree { one: one.to_owned(), many: many.to_owned() });
    }
    let (is_phrase, written) = match inside.strip_prefix('*') {
        Some(name) => (true, name),
        None => (false, inside),
    };
    let last = written.rfind('.').map_or(0, |dot| dot + 1);
    let capital = written[last..].starts_with(|c: char| c.is_uppercase());
    let name = written.to_lowercase();
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "._".contains(c)) {
        return Err(format!("expected the name of a slot between braces, found {inside:?}"));
    }
    Ok(if is_phrase { Piece::Phrase { name, capital } } else { Piece::Slot { name, capital } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand(text: &str, slots: &Slots, phrases: &Phrases, seed: u64) -> String {
        Template::parse(text).unwrap().expand(slots, phrases, &mut Random::new(seed))
    }

    #[test]
    fn choices_gaps_and_agreement() {
        let mut slots = Slots::default();
        slots.set("h", "ana");
        slots.set("h.he", "she");
        let phrases = Phrases::from([("walked".to_owned(), vec![Template::parse("ran").unwrap()])]);
        assert_eq!(expand("{H} {*walked}, and {h.he} {eats/eat}.", &slots, &phrases, 1), "Ana ran, and she eats.");
        assert_eq!(expand("{h.He} {*Walked}", &slots, &phrases, 1), "She Ran");
        slots.many = true;
        assert_eq!(expand("{eats/eat}", &slots, &phrases, 1), "eat");
        let seen: HashSet<String> = (0..60).map(|seed| expand("x[a|b[c|d]|]", &slots, &phrases, seed)).collect();
        assert_eq!(seen, ["xa", "xbc", "xbd", "x"].map(str::to_owned).into());
    }

    #[test]
    fn what_cannot_be_filled_is_named() {
        let known = HashSet::from(["h".to_owned()]);
        let phrases = Phrases::from([("a".to_owned(), vec![Template::parse("{*a}").unwrap()])]);
        let problem = |text: &str| Template::parse(text).unwrap().check(&known, &phrases).unwrap_err();
        assert_eq!(problem("{h} [x|{g}]"), "slot \"g\" is not set before it is used");
        assert_eq!(problem("{*b}"), "there is no list of phrases \"b\"");
        assert_eq!(problem("{*a}"), "the list of phrases \"a\" holds itself");
        for broken in ["[a|b", "a]", "{h", "}", "{}", "{a b}", "{*}"] {
            Template::parse(broken).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[a{}\\[\\]|*./ ñ]{0,20}") {
            let _ = Template::parse(&text);
        }
    }
}
