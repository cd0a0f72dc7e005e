//! Stories that were asked for, and questions about them.

use super::Turn;
use crate::english;
use crate::grammar::Grammar;
use crate::plot::Story;
use crate::random::Random;

/// What cria says before another story, when it does not know what was asked for.
const INSTEAD: &str = "I don't know much about that, but I know another story.";

/// A story, and perhaps talk about it.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let story = grammar.story(random);
    let mut turns = vec![request(grammar, &story, random)];
    turns.extend(questions(grammar, &story, random));
    if random.chance(6) {
        let another = grammar.story(random);
        turns.push(Turn::new(grammar.say("another", "", random), another.text));
    }
    turns
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
