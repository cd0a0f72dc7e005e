//! `Name three birds.`

use super::Turn;
use crate::english::{self, number};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::animals::{Cover, Kind};
use crate::world::{ANIMALS, Animal};

/// Whether an animal belongs to a group.
type IsOf = fn(&Animal) -> bool;

/// Groups of animals.
const ANIMAL_GROUPS: [(&str, IsOf); 16] = [
    ("animals", |_| true),
    ("animals of the puna", |_| true),
    ("birds", |animal| animal.kind == Kind::Bird),
    ("insects", |animal| animal.kind == Kind::Insect),
    ("animals with wool", |animal| animal.covered == Cover::Wool),
    ("animals with fur", |animal| animal.covered == Cover::Fur),
    ("animals that can fly", |animal| animal.flies),
    ("animals that can swim", |animal| animal.swims == Some(true)),
    ("animals that are awake at night", |animal| animal.night),
    ("animals that live with people", Animal::is_tame),
    ("wild animals", |animal| !animal.is_tame()),
    ("animals that lay eggs", |animal| animal.eggs),
    ("animals with four legs", |animal| animal.legs == 4),
    ("small animals", |animal| animal.bulk < 15),
    ("big animals", |animal| animal.bulk >= 50),
    ("animals that eat grass", |animal| animal.eats[0]),
];

/// Groups of other things.
const GROUPS: [(&str, &[&str]); 14] = [
    ("colours", &["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "pink", "purple"]),
    ("things to eat", &["potatoes", "maize", "quinoa", "beans", "cheese", "bread", "soup", "eggs"]),
    ("plants", &["quinoa", "maize", "grass", "moss", "a cactus", "a reed", "a bean", "a potato"]),
    ("things to wear", &["a hat", "a poncho", "a scarf", "a belt", "a coat", "socks"]),
    ("things that fall from the sky", &["rain", "snow", "hail"]),
    ("things in the sky", &["the sun", "the moon", "the stars", "the clouds"]),
    ("people of the village", &["a shepherd", "a weaver", "a baker", "a teacher", "a farmer"]),
    ("things that make music", &["a flute", "a drum", "a bell"]),
    ("places in the village", &["the market", "the school", "the church", "the well"]),
    ("places on the puna", &["a lake", "a salt flat", "a hill", "a river", "a valley", "a cave", "a meadow"]),
    ("things of wool", &["a blanket", "a scarf", "a hat", "a belt", "socks"]),
    ("things of stone", &["a wall", "a bridge", "a house", "a terrace"]),
    ("kinds of weather", &["wind", "rain", "snow", "hail", "fog", "sun", "frost"]),
    ("feelings", &["happy", "sad", "angry", "afraid", "proud", "tired", "glad"]),
];

/// A list, sometimes with more of it.
pub fn topic(_: &Grammar, random: &mut Random) -> Vec<Turn> {
    let (group, names) = if random.chance(65) {
        let (group, is_of) = random.pick(&ANIMAL_GROUPS);
        let of = ANIMALS.iter().filter(|animal| is_of(animal));
        (*group, of.map(|animal| english::with_articles(&format!("a {}", animal.name))).collect::<Vec<_>>())
    } else {
        let (group, names) = random.pick(&GROUPS);
        (*group, names.iter().map(|name| (*name).to_owned()).collect())
    };
    let n = random.between(2, 5).min(names.len());
    let all = random.sample(&names, 2 * n);
    let n_word = if random.chance(70) { number(n) } else { n.to_string() };
    let forms = [
        format!("Name {n_word} {group}."),
        format!("List {n_word} {group}."),
        format!("Tell me {n_word} {group}."),
        format!("Can you name {n_word} {group}?"),
        format!("Give me {n_word} {group}."),
        format!("Which {n_word} {group} do you know?"),
    ];
    let mut turns = vec![Turn::new(random.pick(&forms).clone(), sentence(&all[..n]))];
    if all.len() == 2 * n && random.chance(20) {
        let more = [format!("{} more, please.", english::capitalised(&n_word)), format!("And {n_word} more?")];
        turns.push(Turn::new(random.pick(&more).clone(), sentence(&all[n..])));
    }
    turns
}

fn sentence(names: &[&String]) -> String {
    english::capitalised(&english::list(names)) + "."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_two() {
        for (group, is_of) in ANIMAL_GROUPS {
            assert!(ANIMALS.iter().filter(|animal| is_of(animal)).count() >= 2, "{group}");
        }
    }
}
