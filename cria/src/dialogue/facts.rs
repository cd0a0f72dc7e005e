//! Questions about animals, all answered from the table.

use super::Turn;
use crate::answers::Subject;
use crate::english;
use crate::grammar::{self, Grammar};
use crate::random::Random;
use crate::template::Slots;
use crate::world::animals::{Company, Cover, FOODS, Kind};
use crate::world::{ANIMALS, Animal};

/// How an animal is spoken of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `a llama`
    One,
    /// `the llama`
    The,
    /// `llamas`
    Many,
}

/// Questions about one animal, or the same question about two.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let animal = random.pick(&ANIMALS);
    let form = *random.pick(&[Form::One, Form::One, Form::The, Form::Many, Form::Many]);
    let sections = sections(animal, random);
    let first = *random.pick(&sections);
    let mut turns = Vec::new();
    turns.extend(ask(grammar, animal, form, first, Subject::Noun, random));
    if first.0 == "about" && random.chance(40) {
        let slots = slots(animal, Form::One, Subject::Noun, "");
        let answer = grammar::named(&grammar.facts, "is").answer(&slots, &grammar.phrases, random);
        turns.push(Turn::new(grammar.say("again", "", random), answer));
    }
    match random.below(100) {
        0..35 => {
            let n = random.between(1, 2);
            for next in random.sample(&sections, n) {
                if *next != first {
                    turns.extend(ask(grammar, animal, form, *next, Subject::Pronoun, random));
                }
            }
        }
        35..50 => turns.extend(the_same_of_another(grammar, animal, form, first.0, random)),
        _ => {}
    }
    turns
}

/// What an animal is, if one sentence must do.
pub fn in_one_sentence(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let animal = random.pick(&ANIMALS);
    let slots = slots(animal, Form::One, Subject::Noun, "");
    let about = grammar::named(&grammar.facts, "about").pair(Subject::Noun, &slots, &grammar.phrases, random);
    let answer = grammar::named(&grammar.facts, "is").answer(&slots, &grammar.phrases, random);
    about.map(|(question, _)| Turn::new(question, answer)).into_iter().collect()
}

/// Which of two animals is bigger or faster.
pub fn comparison(_: &Grammar, random: &mut Random) -> Vec<Turn> {
    let by_speed = random.chance(40);
    let measure = |animal: &Animal| if by_speed { animal.speed } else { animal.bulk };
    let (a, b) = loop {
        let (a, b) = (random.pick(&ANIMALS), random.pick(&ANIMALS));
        let (x, y) = (measure(a), measure(b));
        // Only what nobody would dispute.
        if x > 0 && y > 0 && x.max(y) * 10 >= x.min(y) * 14 {
            break (a, b);
        }
    };
    let (more, less) = if by_speed { ("faster", "slower") } else { ("bigger", "smaller") };
    let (x, y) = if measure(a) > measure(b) { (a, b) } else { (b, a) };
    let more_text = format!("A {} is {more} than a {}.", x.name, y.name);
    let less_text = format!("A {} is {less} than a {}.", y.name, x.name);
    let turns = match random.below(5) {
        0 => vec![(format!("Which is {more}, a {} or a {}?", a.name, b.name), more_text)],
        1 => vec![(format!("Which is {less}, a {} or a {}?", a.name, b.name), less_text)],
        2 => {
            let which = ["Which animal", "What"][random.below(2)];
            let next = [format!("And which is {less}?"), format!("Which one is {less}?")];
            vec![
                (format!("{which} is {more}, a {} or a {}?", a.name, b.name), more_text),
                (next[random.below(2)].clone(), less_text),
            ]
        }
        3 => {
            let (answer, text) = if measure(a) > measure(b) { ("Yes", more_text) } else { ("No", less_text) };
            vec![(format!("Is a {} {more} than a {}?", a.name, b.name), format!("{answer}. {text}"))]
        }
        _ => {
            let (answer, text) = if measure(a) < measure(b) { ("Yes", less_text) } else { ("No", more_text) };
            vec![(format!("Is a {} {less} than a {}?", a.name, b.name), format!("{answer}. {text}"))]
        }
    };
    turns.into_iter().map(|(user, answer)| Turn::new(english::finished(&user), english::finished(&answer))).collect()
}

/// The sections of `facts.txt` that are true of an animal, each with its slot `what`.
fn sections(animal: &Animal, random: &mut Random) -> Vec<(&'static str, &'static str)> {
    let food = random.below(FOODS.len());
    let (coat, of) = *random.pick(&[("wool", Cover::Wool), ("fur", Cover::Fur), ("feathers", Cover::Feathers)]);
    let (kind, of_kind) = *random.pick(&[("bird", Kind::Bird), ("insect", Kind::Insect)]);
    let choose = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
    let is_alone = animal.company == Company::Alone;
    let mut sections = vec![
        ("food", ""),
        ("food", ""),
        ("home", ""),
        ("home", ""),
        ("colour", ""),
        ("colour", ""),
        ("size", ""),
        ("cover", ""),
        ("sound", ""),
        ("legs", ""),
        ("is", ""),
        ("is", ""),
        ("about", ""),
        ("about", ""),
        ("fact", ""),
        ("in one sentence", ""),
        (choose(is_alone, "alone", "not alone"), ""),
        (choose(animal.young.is_some(), "young", "no word for the young"), ""),
        (choose(animal.flies, "flies", "does not fly"), ""),
        (choose(animal.night, "awake at night", "asleep at night"), ""),
        (choose(animal.is_tame(), "tame", "wild"), ""),
        (choose(animal.eggs, "lays eggs", "lays no eggs"), ""),
        (choose(animal.eats[food], "eats it", "does not eat it"), FOODS[food]),
        (choose(animal.kind == of_kind, "is of the kind", "is not of the kind"), kind),
        (choose(animal.covered == of, "has the coat", "does not have the coat"), coat),
    ];
    if let Some(swims) = animal.swims {
        sections.push((choose(swims, "swims", "does not swim"), ""));
    }
    if !is_alone {
        sections.push(("company", ""));
    }
    // These words are shared by many animals: a chick may be a baby condor or a baby hen.
    let own_word = animal.young.filter(|[young, _]| {
        ANIMALS.iter().filter(|other| other.young.is_some_and(|[other, _]| other == *young)).count() == 1
    });
    if own_word.is_some() {
        sections.push(("young turned around", ""));
    }
    sections
}

fn ask(
    grammar: &Grammar,
    animal: &Animal,
    form: Form,
    (section, what): (&str, &str),
    subject: Subject,
    random: &mut Random,
) -> Option<Turn> {
    let slots = slots(animal, form, subject, what);
    grammar::named(&grammar.facts, section).pair(subject, &slots, &grammar.phrases, random).map(Turn::from)
}

/// `And a fox?` after a question about another animal.
fn the_same_of_another(
    grammar: &Grammar,
    animal: &Animal,
    form: Form,
    section: &str,
    random: &mut Random,
) -> Option<Turn> {
    if !["food", "home", "colour", "size", "sound", "legs"].contains(&section) {
        return None;
    }
    let other = random.pick(&ANIMALS);
    if other.name == animal.name {
        return None;
    }
    let slots = slots(other, form, Subject::Noun, "");
    let name = slots.get("s").unwrap_or_default();
    let question = match random.below(3) {
        0 => format!("And {name}?"),
        1 => format!("And what about {name}?"),
        _ => format!("What about {name}?"),
    };
    let answer = grammar::named(&grammar.facts, section).answer(&slots, &grammar.phrases, random);
    Some(Turn::new(english::finished(&question), answer))
}

fn slots(animal: &Animal, form: Form, subject: Subject, what: &str) -> Slots {
    let many = form == Form::Many;
    let name = match form {
        Form::One => format!("a {}", animal.name),
        Form::The => format!("the {}", animal.name),
        Form::Many => animal.plural.to_owned(),
    };
    let (s, o) = match subject {
        Subject::Noun => (name.as_str(), name.as_str()),
        Subject::Pronoun if many => ("they", "them"),
        Subject::Pronoun => ("it", "it"),
    };
    let index = usize::from(many);
    let legs = if animal.legs == 0 { "no".to_owned() } else { english::number(animal.legs) };
    let a = format!("a {}", animal.name);
    let young = animal.young.map_or("", |[young, _]| young);
    let values = [
        s,
        o,
        &a,
        animal.name,
        animal.plural,
        animal.food,
        animal.home,
        animal.colour,
        animal.size,
        animal.cover,
        animal.sound[index],
        young,
        animal.company()[index],
        &legs,
        animal.is,
        animal.fact,
        what,
    ];
    let mut slots = Slots::of(many);
    for (slot, value) in grammar::FACT_SLOTS.iter().zip(values) {
        slots.set(*slot, value);
    }
    slots
}
