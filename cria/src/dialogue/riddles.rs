//! Riddles, whose clues are facts.

use super::{Turn, manner};
use crate::english;
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::{ANIMALS, Animal};

/// A riddle that the user asks, or one that cria asks.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let animal = random.pick(&ANIMALS);
    let clues = clues(animal, random);
    if random.chance(55) {
        let question = format!("{clues} {}", random.pick(&["Who am I?", "What am I?", "Which animal am I?"]));
        return vec![Turn::new(question, said("You are", animal))];
    }
    let asked = random.pick(&[
        "Give me a riddle.",
        "Ask me a riddle.",
        "Tell me a riddle.",
        "Do you know a riddle?",
        "A riddle, please.",
        "I would like a riddle.",
        "Can you ask me something?",
        "Let us play a guessing game.",
    ]);
    let riddle = format!("{clues} Who am I?");
    let mut turns = if random.chance(12) {
        let wish = random.pick(&["A riddle.", "A riddle, please.", "Give me a riddle."]);
        vec![manner(grammar, "bored", random), Turn::new(*wish, riddle)]
    } else {
        vec![Turn::new(*asked, riddle)]
    };
    let guess = if random.chance(60) { animal } else { random.pick(&ANIMALS) };
    let guesses = [
        format!("A {}.", guess.name),
        format!("A {}!", guess.name),
        format!("Are you a {}?", guess.name),
        format!("You are a {}.", guess.name),
        format!("Is it a {}?", guess.name),
    ];
    if random.chance(75) {
        let start = if guess.name == animal.name { "Yes, that is right!" } else { "No." };
        let answer = format!("{start} {}", said("I am", animal));
        let guess = random.pick(&guesses);
        turns.push(Turn::new(english::finished(guess), answer));
    } else {
        let give_up =
            random.pick(&["I don't know.", "Tell me.", "I give up.", "Who are you?", "That is too hard for me."]);
        turns.push(Turn::new(*give_up, said("I am", animal)));
    }
    turns
}

fn said(start: &str, animal: &Animal) -> String {
    english::finished(&format!("{start} a {}.", animal.name))
}

/// Clues that fit no other animal.
fn clues(animal: &Animal, random: &mut Random) -> String {
    let text = match random.below(3) {
        0 => format!("I am {}.", animal.is),
        1 => format!("I live {}. I eat {}. I have {}.", animal.home, animal.food, animal.cover),
        _ => format!("I eat {}. I have {}. I am {}.", animal.food, animal.cover, animal.colour),
    };
    english::finished(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_riddle_has_one_answer() {
        for a in &ANIMALS {
            for b in ANIMALS.iter().filter(|b| b.name != a.name) {
                assert_ne!(a.is, b.is, "{} {}", a.name, b.name);
                assert_ne!((a.home, a.food, a.cover), (b.home, b.food, b.cover), "{} {}", a.name, b.name);
                assert_ne!((a.food, a.cover, a.colour), (b.food, b.cover, b.colour), "{} {}", a.name, b.name);
            }
        }
    }
}
