//! Opposites, days, months, directions, and words that are said again.

use super::Turn;
use crate::english;
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::{ANIMALS, THINGS};

/// One or two questions about words and order.
pub fn topic(_: &Grammar, random: &mut Random) -> Vec<Turn> {
    match random.below(100) {
        0..30 => opposites(random),
        30..38 => vec![another_word(random)],
        38..56 => order(random),
        56..66 => vec![direction(random)],
        66..84 => vec![again(random)],
        84..94 => vec![odd_one_out(random)],
        _ => vec![sentence_with(random)],
    }
}

/// Each is the opposite of the other.
const OPPOSITES: [[&str; 2]; 40] = [
    ["hot", "cold"],
    ["big", "small"],
    ["long", "short"],
    ["high", "low"],
    ["fast", "slow"],
    ["old", "young"],
    ["wet", "dry"],
    ["hard", "soft"],
    ["loud", "quiet"],
    ["happy", "sad"],
    ["day", "night"],
    ["north", "south"],
    ["east", "west"],
    ["left", "right"],
    ["up", "down"],
    ["open", "shut"],
    ["full", "empty"],
    ["early", "late"],
    ["thick", "thin"],
    ["wide", "narrow"],
    ["strong", "weak"],
    ["clean", "dirty"],
    ["near", "far"],
    ["first", "last"],
    ["summer", "winter"],
    ["black", "white"],
    ["good", "bad"],
    ["inside", "outside"],
    ["above", "below"],
    ["yes", "no"],
    ["beginning", "end"],
    ["morning", "evening"],
    ["deep", "shallow"],
    ["rich", "poor"],
    ["light", "dark"],
    ["brave", "afraid"],
    ["wild", "tame"],
    ["before", "after"],
    ["always", "never"],
    ["friend", "stranger"],
];

fn opposites(random: &mut Random) -> Vec<Turn> {
    let n = if random.chance(25) { 2 } else { 1 };
    let mut turns = Vec::new();
    for (index, pair) in random.sample(&OPPOSITES, n).into_iter().enumerate() {
        let (word, other) = if random.chance(50) { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
        let question = if index > 0 {
            format!("And of {word}?")
        } else {
            let forms = [
                format!("What is the opposite of {word}?"),
                format!("What's the opposite of {word}?"),
                format!("Tell me the opposite of {word}."),
                format!("The opposite of {word}?"),
                format!("Which word is the opposite of {word}?"),
            ];
            random.pick(&forms).clone()
        };
        turns.push(Turn::new(question, format!("The opposite of {word} is {other}.")));
    }
    turns
}

/// Words that mean nearly the same.
const SAME: [[&str; 2]; 14] = [
    ["happy", "glad"],
    ["big", "large"],
    ["small", "little"],
    ["fast", "quick"],
    ["beautiful", "pretty"],
    ["begin", "start"],
    ["shout", "cry"],
    ["near", "close"],
    ["quiet", "silent"],
    ["path", "way"],
    ["rock", "stone"],
    ["kind", "friendly"],
    ["afraid", "scared"],
    ["sick", "ill"],
];

fn another_word(random: &mut Random) -> Turn {
    let [a, b] = *random.pick(&SAME);
    let (word, other) = if random.chance(50) { (a, b) } else { (b, a) };
    let forms = [format!("What is another word for {word}?"), format!("Do you know another word for {word}?")];
    Turn::new(random.pick(&forms).clone(), format!("Another word for {word} is {other}."))
}

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SEASONS: [&str; 4] = ["Spring", "Summer", "Autumn", "Winter"];
const ORDINALS: [&str; 12] = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
];

fn order(random: &mut Random) -> Vec<Turn> {
    let (what, names, whole): (&str, &[&str], &str) = match random.below(6) {
        0..3 => ("day", &DAYS, "week"),
        3..5 => ("month", &MONTHS, "year"),
        _ => ("season", &SEASONS, ""),
    };
    let index = random.below(names.len());
    let name = |index: usize| names[index % names.len()];
    let within = |index: usize| if whole.is_empty() { name(index).to_lowercase() } else { name(index).to_owned() };
    let after = |index: usize| {
        Turn::new(
            format!("Which {what} comes after {}?", within(index)),
            format!("{} comes after {}.", name(index + 1), within(index)),
        )
    };
    match random.below(6) {
        0 | 1 => vec![after(index)],
        2 => {
            let question = format!("What comes after {}?", within(index));
            vec![Turn::new(question, after(index).assistant)]
        }
        3 => {
            let next = Turn::new("And after that?", after(index + 1).assistant);
            vec![after(index), next]
        }
        4 if !whole.is_empty() => {
            let nth = ORDINALS[index];
            let question = format!("Which is the {nth} {what} of the {whole}?");
            vec![Turn::new(question, format!("{} is the {nth} {what} of the {whole}.", name(index)))]
        }
        _ => {
            let before = index + names.len() - 1;
            let question = format!("Which {what} comes before {}?", within(index));
            vec![Turn::new(question, format!("{} comes before {}.", name(before), within(index)))]
        }
    }
}

/// In the order of the sun.
const DIRECTIONS: [&str; 4] = ["north", "east", "south", "west"];

fn direction(random: &mut Random) -> Turn {
    let index = random.below(4);
    let (turn, words) = [(1, "on my right"), (2, "behind me"), (3, "on my left")][random.below(3)];
    let looks = DIRECTIONS[index];
    let found = DIRECTIONS[(index + turn) % 4];
    let forms =
        [format!("If I look to the {looks}, what is {words}?"), format!("I look to the {looks}. What is {words}?")];
    let yours = words.replace("my", "your").replace("me", "you");
    Turn::new(random.pick(&forms).clone(), format!("The {found} is {yours}."))
}

/// Short sentences to be said again: who, what, where.
const WHO: [&str; 14] = [
    "the wind",
    "the old man",
    "the little girl",
    "a white llama",
    "my brother",
    "the shepherd",
    "a grey fox",
    "the river",
    "a small bird",
    "our teacher",
    "the black dog",
    "the moon",
    "a young condor",
    "the baker",
];
const DOES: [&str; 12] = [
    "sleeps",
    "sings",
    "waits",
    "comes back",
    "stands still",
    "is tired",
    "is happy",
    "looks up",
    "goes home",
    "is here",
    "says hello",
    "is quiet",
];
const WHEN: [&str; 8] = [
    "",
    " in the morning",
    " in the evening",
    " every day",
    " behind the house",
    " by the lake",
    " on the hill",
    " today",
];

fn again(random: &mut Random) -> Turn {
    if random.chance(40) {
        let word = *random.pick(&[
            "llama", "stone", "wind", "hello", "snow", "potato", "condor", "star", "yes", "puna", "fox", "rain",
        ]);
        let (times, n) = [("twice", 2), ("three times", 3), ("four times", 4), ("five times", 5)][random.below(4)];
        let said = english::capitalised(&vec![word; n].join(", ")) + ".";
        return Turn::new(format!("Say the word {word} {times}."), said);
    }
    let sentence = english::finished(&format!("{} {}{}.", random.pick(&WHO), random.pick(&DOES), random.pick(&WHEN)));
    let forms = ["Repeat after me:", "Say this:", "Please say:", "Repeat this sentence:", "Say after me:"];
    Turn::exact(format!("{} {sentence}", random.pick(&forms)), sentence)
}

fn odd_one_out(random: &mut Random) -> Turn {
    type Has = fn(&crate::world::Animal) -> bool;
    let properties: [(&str, &str, Has); 6] = [
        ("is not a bird", "is not a bird", |animal| animal.cover.ends_with("feathers")),
        ("cannot fly", "cannot fly", |animal| animal.flies),
        ("has no fur", "has no fur", |animal| animal.cover.ends_with("fur") || animal.name == "chinchilla"),
        ("does not lay eggs", "does not lay eggs", |animal| animal.eggs),
        ("does not live with people", "does not live with people", crate::world::Animal::is_tame),
        ("does not have four legs", "does not have four legs", |animal| animal.legs == 4),
    ];
    let (asked, answered, has) = *random.pick(&properties);
    let with: Vec<_> = ANIMALS.iter().filter(|animal| has(animal)).collect();
    let without: Vec<_> = ANIMALS.iter().filter(|animal| !has(animal)).collect();
    let odd = *random.pick(&without);
    let mut three: Vec<_> = random.sample(&with, 2).into_iter().copied().collect();
    three.insert(random.below(3), odd);
    let names: Vec<String> = three.iter().map(|animal| format!("a {}", animal.name)).collect();
    let question = format!("Which of these {asked}: {}, {} or {}?", names[0], names[1], names[2]);
    Turn::new(english::finished(&question), format!("The {} {answered}.", odd.name))
}

fn sentence_with(random: &mut Random) -> Turn {
    let (word, answer) = if random.chance(60) {
        let animal = random.pick(&ANIMALS);
        (animal.name.to_owned(), format!("A {} lives {}.", animal.name, animal.home))
    } else {
        let thing = random.pick(&THINGS);
        let word = thing.name.rsplit_once(' ').map_or(thing.name, |(_, word)| word);
        (word.to_owned(), format!("{} is {}.", thing.name, thing.is))
    };
    let forms = [format!("Make a sentence with the word {word}."), format!("Use the word {word} in a sentence.")];
    Turn::new(random.pick(&forms).clone(), english::finished(&answer))
}
