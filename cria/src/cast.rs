//! Who plays a role in a story, and what the story can say about them.

use crate::english;
use crate::random::Random;
use crate::template::Slots;
use crate::world::{ANIMAL_NAMES, ANIMALS, Animal, CHILDREN, Name};

/// What a role asks for.
pub enum Part {
    /// A girl or a boy with a name.
    Child,
    /// A name of an animal, whose kind the plot gives.
    Pet,
    /// A grown relative of another role: `her grandmother`.
    Elder { of: String },
    /// A brother or a sister of another role.
    Sibling { of: String },
    /// An animal of one of some kinds, with a name.
    Named(Vec<&'static Animal>),
    /// An animal of one of some kinds without a name: `the fox`.
    Plain(Vec<&'static Animal>),
}

/// Kinds of animals that fit the same roles.
const CLASSES: [(&str, &[&str]); 20] = [
    ("asker", &["guanaco", "alpaca", "chinchilla", "mouse", "fox", "goose", "donkey", "guinea pig"]),
    ("big", &["llama", "donkey", "puma", "bear", "guanaco", "fox"]),
    ("bird", &["condor", "hawk", "gull", "owl"]),
    ("dreamer", &["llama", "alpaca", "sheep", "donkey", "vicuña", "guanaco"]),
    ("fast", &["vicuña", "rhea", "fox", "deer", "guanaco"]),
    ("grazer", &["llama", "alpaca", "vicuña", "guanaco", "sheep", "deer", "donkey"]),
    ("hunter", &["puma", "fox", "mountain cat"]),
    ("keeper", &["mouse", "chinchilla", "viscacha"]),
    ("lake", &["flamingo", "duck", "goose", "coot", "gull"]),
    ("singer", &["frog", "toad", "duck", "woodpecker"]),
    ("sleeper", &["llama", "alpaca", "vicuña", "sheep", "donkey", "mouse", "chinchilla", "guinea pig", "deer"]),
    ("slow", &["toad", "frog", "sheep", "donkey", "armadillo", "alpaca", "duck"]),
    ("small", &["mouse", "chinchilla", "viscacha", "guinea pig", "frog", "toad", "lizard", "hummingbird"]),
    ("smallbird", &["hummingbird", "woodpecker", "gull"]),
    ("trader", &["frog", "duck", "flamingo", "gull", "coot"]),
    ("trader2", &["llama", "viscacha", "sheep", "donkey", "mouse", "guinea pig", "alpaca"]),
    ("walker", &["llama", "alpaca", "vicuña", "guanaco", "sheep", "deer", "donkey", "fox", "viscacha", "rhea"]),
    ("watched", &["vicuña", "guanaco", "condor", "fox", "viscacha", "chinchilla", "flamingo", "puma", "owl", "rhea"]),
    (
        "animal",
        &[
            "llama",
            "alpaca",
            "vicuña",
            "guanaco",
            "fox",
            "viscacha",
            "chinchilla",
            "frog",
            "duck",
            "sheep",
            "mouse",
            "donkey",
            "goose",
            "puma",
            "deer",
            "toad",
            "rhea",
            "armadillo",
            "guinea pig",
            "lizard",
            "skunk",
            "owl",
            "bear",
        ],
    ),
    // An empty list stands for the whole table.
    ("any", &[]),
];

/// The animals of a class, if there is such a class.
pub fn class(name: &str) -> Option<Vec<&'static Animal>> {
    let (_, kinds) = CLASSES.iter().find(|(class, _)| *class == name)?;
    Some(match kinds {
        [] => ANIMALS.iter().collect(),
        kinds => kinds.iter().map(|kind| Animal::named(kind)).collect(),
    })
}

const PRONOUNS: [&str; 4] = ["he", "him", "his", "himself"];
const FACTS: [&str; 12] =
    ["kind", "kinds", "a", "is", "food", "home", "colour", "size", "cover", "sound", "company", "baby"];

impl Part {
    /// The slots that a role of this part sets.
    pub fn slots(&self, role: &str) -> Vec<String> {
        let mut slots = vec![role.to_owned()];
        slots.extend(PRONOUNS.iter().map(|slot| format!("{role}.{slot}")));
        match self {
            Part::Child => slots.extend(["kind", "a", "home"].iter().map(|slot| format!("{role}.{slot}"))),
            Part::Pet | Part::Elder { .. } | Part::Sibling { .. } => {}
            Part::Named(_) | Part::Plain(_) => {
                slots.extend(FACTS.iter().chain(&["fact"]).map(|slot| format!("{role}.{slot}")));
            }
        }
        slots
    }
}

/// The roles of one story: no name and no kind of animal comes twice.
#[derive(Default)]
pub struct Cast {
    names: Vec<&'static str>,
    kinds: Vec<&'static str>,
    relatives: Vec<&'static str>,
}

impl Cast {
    /// Fills a role, and sets its slots.
    pub fn play(&mut self, role: &str, part: &Part, slots: &mut Slots, random: &mut Random) {
        match part {
            Part::Child => {
                let name = self.name(&CHILDREN, slots, role, random);
                let kind = if name.she { "girl" } else { "boy" };
                slots.set(format!("{role}.kind"), kind);
                slots.set(format!("{role}.a"), format!("a {kind}"));
                slots.set(format!("{role}.home"), "in a village on the puna");
            }
            Part::Pet => {
                self.name(&ANIMAL_NAMES, slots, role, random);
            }
            Part::Elder { of } => {
                let elders =
                    [("mother", 1), ("father", 0), ("grandmother", 1), ("grandfather", 0), ("aunt", 1), ("uncle", 0)];
                self.relative(&elders, of, slots, role, random);
            }
            Part::Sibling { of } => self.relative(&[("sister", 1), ("brother", 0)], of, slots, role, random),
            Part::Named(animals) => {
                let animal = self.animal(animals, random);
                self.name(&ANIMAL_NAMES, slots, role, random);
                facts(animal, slots, role);
            }
            Part::Plain(animals) => {
                let animal = self.animal(animals, random);
                slots.set(role, format!("the {}", animal.name));
                pronouns(slots, role, ["it", "it", "its", "itself"]);
                facts(animal, slots, role);
            }
        }
    }

    fn name(&mut self, names: &'static [Name], slots: &mut Slots, role: &str, random: &mut Random) -> &'static Name {
        let left: Vec<&Name> = names.iter().filter(|name| !self.names.contains(&name.name)).collect();
        let name = *random.pick(&left);
        self.names.push(name.name);
        slots.set(role, name.name);
        of_sex(slots, role, name.she);
        name
    }

    fn relative(
        &mut self,
        relatives: &[(&'static str, u8)],
        of: &str,
        slots: &mut Slots,
        role: &str,
        random: &mut Random,
    ) {
        let left: Vec<_> = relatives.iter().filter(|(relative, _)| !self.relatives.contains(relative)).collect();
        let (relative, she) = **random.pick(&left);
        self.relatives.push(relative);
        let whose = slots.get(&format!("{of}.his")).expect("checked: the other role is cast").to_owned();
        slots.set(role, format!("{whose} {relative}"));
        of_sex(slots, role, she == 1);
    }

    fn animal(&mut self, animals: &[&'static Animal], random: &mut Random) -> &'static Animal {
        let left: Vec<&'static Animal> =
            animals.iter().copied().filter(|animal| !self.kinds.contains(&animal.name)).collect();
        let animal = *random.pick(&left);
        self.kinds.push(animal.name);
        animal
    }
}

fn of_sex(slots: &mut Slots, role: &str, she: bool) {
    pronouns(slots, role, if she { ["she", "her", "her", "herself"] } else { PRONOUNS });
}

fn pronouns(slots: &mut Slots, role: &str, values: [&str; 4]) {
    for (slot, value) in PRONOUNS.iter().zip(values) {
        slots.set(format!("{role}.{slot}"), value);
    }
}

fn facts(animal: &Animal, slots: &mut Slots, role: &str) {
    let name = animal.name;
    let baby = match animal.young {
        Some([young, _]) => format!("A baby {name} is called a {young}."),
        None => format!("A young {name} looks like its parents, but it is smaller."),
    };
    let values = [
        name,
        animal.plural,
        &format!("a {name}"),
        animal.is,
        animal.food,
        animal.home,
        animal.colour,
        animal.size,
        animal.cover,
        animal.sound[0],
        animal.company()[0],
        &english::finished(&baby),
    ];
    for (slot, value) in FACTS.iter().zip(values) {
        slots.set(format!("{role}.{slot}"), value);
    }
    slots.set(format!("{role}.fact"), animal.fact);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_enough_animals_for_three_roles() {
        for (name, _) in CLASSES {
            assert!(class(name).unwrap().len() >= 3, "{name}");
        }
        assert!(class("unicorn").is_none());
    }

    #[test]
    fn a_role_sets_the_slots_that_it_promises_and_nobody_comes_twice() {
        for seed in 0..200 {
            let (mut cast, mut slots) = (Cast::default(), Slots::default());
            let mut random = Random::new(seed);
            let parts = [
                ("a", Part::Child),
                ("b", Part::Child),
                ("c", Part::Elder { of: "a".to_owned() }),
                ("d", Part::Elder { of: "b".to_owned() }),
                ("e", Part::Sibling { of: "a".to_owned() }),
                ("f", Part::Pet),
                ("g", Part::Named(class("hunter").unwrap())),
                ("h", Part::Plain(class("hunter").unwrap())),
            ];
            for (role, part) in &parts {
                cast.play(role, part, &mut slots, &mut random);
                for slot in part.slots(role) {
                    assert!(slots.get(&slot).is_some(), "{slot}");
                }
            }
            assert_ne!(slots.get("a"), slots.get("b"));
            assert_ne!(slots.get("g.kind"), slots.get("h.kind"));
            let she = CHILDREN.iter().find(|name| Some(name.name) == slots.get("a")).unwrap().she;
            assert_eq!(slots.get("a.he"), Some(if she { "she" } else { "he" }));
        }
    }
}
