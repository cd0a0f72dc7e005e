//! Stories that were asked for, and questions about them.

use super::{Turn, manner};
use crate::english;
use crate::grammar::Grammar;
use crate::plot::Story;
use crate::random::Random;

/// What cria says before another story, when it does not know what was asked for.
const INSTEAD: &str = "I don't know much about that, but I know another story.";

/// A story, and perhaps talk about it.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let story = grammar.story(random);
    let mut turns =
        if random.chance(8) { offered(grammar, &story, random) } else { vec![request(grammar, &story, random)] };
    turns.extend(questions(grammar, &story, random));
    if random.chance(6) {
        let another = grammar.story(random);
        turns.push(Turn::new(grammar.say("another", "", random), another.text));
    }
    turns
}

/// A story that cria has offered itself.
fn offered(grammar: &Grammar, story: &Story, random: &mut Random) -> Vec<Turn> {
    let (name, wishes) = if random.chance(60) {
        ("sad", ["Yes, please.", "Yes.", "Yes, I would like that.", "OK."])
    } else {
        ("bored", ["A story.", "A story, please.", "I would like a story.", "Tell me a story."])
    };
    vec![manner(grammar, name, random), Turn::new(*random.pick(&wishes), &story.text)]
}

fn request(grammar: &Grammar, story: &Story, random: &mut Random) -> Turn {
    match random.below(100) {
        0..25 => Turn::new(grammar.say("story", "", random), &story.text),
        25..32 => {
            let about = grammar.say("unknown", "", random);
            Turn::new(grammar.say("story about", &about, random), format!("{INSTEAD}\n\n{}", story.text))
        }
        _ => {
            let about = random.pick(&story.about);
            Turn::new(grammar.say("story about", about, random), &story.text)
        }
    }
}

fn questions(grammar: &Grammar, story: &Story, random: &mut Random) -> Vec<Turn> {
    let n = [0, 0, 0, 1, 1, 2, 3][random.below(7)];
    let asked = random.sample(&story.questions, n);
    let mut turns: Vec<Turn> = asked.into_iter().cloned().map(Turn::from).collect();
    if random.chance(22) {
        turns.push(Turn::new(grammar.say("sum up", "", random), english::finished(&story.summary)));
    }
    turns
}
