//! A few sentences of the user, and a question about them.

use super::Turn;
use crate::english::{self, number};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::{ANIMAL_NAMES, ANIMALS, CHILDREN, Name, PLACES};

const COLOURS: [&str; 9] = ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange"];
const THINGS: [&str; 12] =
    ["hat", "bag", "scarf", "blanket", "bell", "flute", "kite", "poncho", "basket", "lamp", "rope", "cup"];
const SPOTS: [&str; 10] = [
    "under the table",
    "on the bed",
    "behind the door",
    "on the roof",
    "in the basket",
    "beside the oven",
    "on the wall",
    "in front of the house",
    "under the old tree",
    "by the fire",
];

/// One or two questions about a text.
pub fn topic(_: &Grammar, random: &mut Random) -> Vec<Turn> {
    let names: Vec<&Name> = random.sample(&CHILDREN, 2);
    let (a, b) = (names[0], names[1]);
    let turns = match random.below(7) {
        0 => colours(a, b, random),
        1 => spots(random),
        2 => gift(a, b, random),
        3 => taller(a, b, random),
        4 => journey(a, random),
        5 => pet(a, random),
        _ => heap(a, b, random),
    };
    turns.into_iter().map(|(user, answer)| Turn::new(english::finished(&user), english::finished(&answer))).collect()
}

type Pairs = Vec<(String, String)>;

fn two<T: Copy>(from: &[T], random: &mut Random) -> (T, T) {
    let sample = random.sample(from, 2);
    (*sample[0], *sample[1])
}

/// One question, or now and then both.
fn one_or_both(text: &str, mut questions: Pairs, random: &mut Random) -> Pairs {
    let first = questions.swap_remove(random.below(questions.len()));
    let mut pairs = vec![(format!("{text} {}", first.0), first.1)];
    if random.chance(30) {
        let n = random.below(questions.len());
        pairs.push(questions.swap_remove(n));
    }
    pairs
}

fn colours(a: &Name, b: &Name, random: &mut Random) -> Pairs {
    let ((x, y), thing) = (two(&COLOURS, random), random.pick(&THINGS));
    let text = format!("{} has a {x} {thing}. {} has a {y} {thing}.", a.name, b.name);
    let (who, colour) = if random.chance(50) { (a.name, x) } else { (b.name, y) };
    let (other, other_colour) = if who == a.name { (b.name, y) } else { (a.name, x) };
    let questions = vec![
        (format!("What colour is the {thing} of {who}?"), format!("The {thing} of {who} is {colour}.")),
        (format!("Who has the {other_colour} {thing}?"), format!("{other} has the {other_colour} {thing}.")),
    ];
    one_or_both(&text, questions, random)
}

fn spots(random: &mut Random) -> Pairs {
    let ((x, y), (p, q)) =
        (two(&["dog", "cat", "hen", "llama", "lamb", "mouse", "boy", "baby"], random), two(&SPOTS, random));
    let verb = random.pick(&["sleeps", "sits", "is"]);
    let text = format!("The {x} {verb} {p}. The {y} {verb} {q}.");
    let questions = vec![
        (format!("Where is the {x}?"), format!("The {x} is {p}.")),
        (format!("Where is the {y}?"), format!("The {y} is {q}.")),
        (format!("Who is {q}?"), format!("The {y} is {q}.")),
    ];
    one_or_both(&text, questions, random)
}

fn gift(a: &Name, b: &Name, random: &mut Random) -> Pairs {
    let (thing, colour) = (random.pick(&THINGS), random.pick(&COLOURS));
    let text = format!("{} gave a {colour} {thing} to {}.", a.name, b.name);
    let questions = vec![
        (format!("Who got the {thing}?"), format!("{} got the {thing}.", b.name)),
        (format!("Who gave the {thing} away?"), format!("{} gave the {thing} away.", a.name)),
        (
            format!("What did {} give to {}?", a.name, b.name),
            format!("{} gave a {colour} {thing} to {}.", a.name, b.name),
        ),
        (format!("What colour is the {thing}?"), format!("The {thing} is {colour}.")),
    ];
    one_or_both(&text, questions, random)
}

fn taller(a: &Name, b: &Name, random: &mut Random) -> Pairs {
    let (more, less) =
        *random.pick(&[("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("stronger", "weaker")]);
    let text = format!("{} is {more} than {}.", a.name, b.name);
    let questions = vec![
        (format!("Who is {more}?"), format!("{} is {more}.", a.name)),
        (format!("Who is {less}?"), format!("{} is {less}.", b.name)),
    ];
    one_or_both(&text, questions, random)
}

fn journey(a: &Name, random: &mut Random) -> Pairs {
    let sample = random.sample(&PLACES, 2);
    let (p, q) = (sample[0], sample[1]);
    let he = if a.she { "she" } else { "he" };
    let text = format!("First, {} went {}. Then {he} went {}.", a.name, p.to, q.to);
    let questions = vec![
        (format!("Where did {} go first?", a.name), format!("First, {} went {}.", a.name, p.to)),
        (format!("Where did {} go then?", a.name), format!("Then {} went {}.", a.name, q.to)),
    ];
    one_or_both(&text, questions, random)
}

fn pet(a: &Name, random: &mut Random) -> Pairs {
    let animals: Vec<_> = ANIMALS.iter().filter(|animal| animal.is_tame()).collect();
    let (animal, name) = (*random.pick(&animals), random.pick(&ANIMAL_NAMES));
    let colour = random.pick(&["white", "black", "brown", "grey", "spotted"]);
    let is = if name.she { "She" } else { "He" };
    let kind = animal.name;
    let text = format!("{} has a {kind} called {}. {is} is {colour}.", a.name, name.name);
    let questions = vec![
        (format!("What is the {kind} called?"), format!("The {kind} is called {}.", name.name)),
        (format!("What colour is {}?", name.name), format!("{} is {colour}.", name.name)),
        (format!("Who is {}?", name.name), format!("{} is the {kind} of {}.", name.name, a.name)),
    ];
    one_or_both(&text, questions, random)
}

fn heap(a: &Name, b: &Name, random: &mut Random) -> Pairs {
    let (n, m) = two(&[2, 3, 4, 5, 6, 7, 8, 9], random);
    let things = random.pick(&["stones", "beans", "eggs", "apples", "feathers", "potatoes"]);
    let text = format!("{} has {} {things}. {} has {} {things}.", a.name, number(n), b.name, number(m));
    let (more, fewer) = if n > m { (a, b) } else { (b, a) };
    let questions = vec![
        (format!("Who has more {things}?"), format!("{} has more {things}.", more.name)),
        (format!("Who has fewer {things}?"), format!("{} has fewer {things}.", fewer.name)),
        (format!("How many {things} does {} have?", a.name), format!("{} has {} {things}.", a.name, number(n))),
        (
            "How many are there together?".to_owned(),
            format!("{n} + {m} = {}. There are {} {things} together.", n + m, number(n + m)),
        ),
    ];
    one_or_both(&text, questions, random)
}
