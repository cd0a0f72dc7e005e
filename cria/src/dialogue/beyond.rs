//! What cria does not know, and says so.

use super::Turn;
use crate::answers::{Answer, Subject};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::template::Slots;

/// A question from outside, sometimes with one more.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let n = if random.chance(15) { 2 } else { 1 };
    (0..n).filter_map(|_| question(grammar, random)).collect()
}

fn question(grammar: &Grammar, random: &mut Random) -> Option<Turn> {
    // An answer comes up as often as it has questions: most of the world is beyond the puna.
    let total: usize = grammar.beyond.iter().map(Answer::n_questions).sum();
    let mut left = random.below(total);
    let mut answers = grammar.beyond.iter();
    let answer = answers.find(|answer| {
        let found = left < answer.n_questions();
        left = left.saturating_sub(answer.n_questions());
        found
    })?;
    answer.pair(Subject::Noun, &Slots::default(), &grammar.phrases, random).map(Turn::from)
}
