//! Questions about plants, weather, land and the village.

use super::Turn;
use crate::answers::Subject;
use crate::grammar::{self, Grammar};
use crate::random::Random;
use crate::template::Slots;
use crate::world::{THINGS, Thing};

/// One or two questions about a thing.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let thing = random.pick(&THINGS);
    let slots = slots(thing);
    let mut sections: Vec<&str> = vec!["is", "is", "about"];
    sections.extend(
        [("place", thing.place), ("colour", thing.colour)]
            .iter()
            .filter(|(_, has)| !has.is_empty())
            .map(|(name, _)| *name),
    );
    let n = if random.chance(25) { 2 } else { 1 };
    let mut turns: Vec<Turn> = Vec::new();
    let mut asked: Vec<&str> = Vec::new();
    for name in random.sample(&sections, n) {
        if !asked.contains(name) {
            let pair = grammar::named(&grammar.things, name).pair(Subject::Noun, &slots, &grammar.phrases, random);
            turns.extend(pair.map(Turn::from));
            asked.push(name);
        }
    }
    if random.chance(15) {
        let more = grammar::named(&grammar.things, "more");
        turns.extend(more.pair(Subject::Noun, &slots, &grammar.phrases, random).map(Turn::from));
    }
    turns
}

fn slots(thing: &Thing) -> Slots {
    let mut slots = Slots::default();
    let word = thing.name.split_once(' ').filter(|(article, _)| ["a", "an", "the"].contains(article));
    slots.set("s", thing.name);
    slots.set("word", word.map_or(thing.name, |(_, word)| word));
    slots.set("is", thing.is);
    slots.set("place", thing.place);
    slots.set("colour", thing.colour);
    slots.set("more", thing.more);
    slots
}
