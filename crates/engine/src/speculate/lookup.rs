//! Prompt lookup: where the text's last tokens stood before, what followed them then may follow now (Saxena 2023).
//!
//! It costs next to nothing, and is right where an answer repeats its prompt or itself: code that is edited, texts that
//! are quoted, loops. The last occurrence of every pair and the chain of all occurrences of every triple are kept, as
//! LZ77 compressors do; the longest match wins, the latest among equals.

use super::Drafter;
use crate::Error;
use std::collections::HashMap;

/// Occurrences of a triple that are compared.
const MAX_OCCURRENCES: usize = 32;
/// Classes by the length of the match: from so many tokens on, and the chance of a guess before anything is known.
const CLASSES: [usize; 5] = [2, 3, 4, 6, 12];
const PRIORS: [f64; 5] = [0.25, 0.45, 0.65, 0.8, 0.9];
/// No match in the chain of occurrences.
const NONE: u32 = u32::MAX;

/// See the module's documentation.
#[derive(Default)]
pub struct PromptLookup {
    /// The position after the last occurrence of two tokens.
    pairs: HashMap<[u32; 2], u32>,
    /// The same of three tokens.
    triples: HashMap<[u32; 3], u32>,
    /// For each position, the one before it that is behind the same three tokens, or [`NONE`].
    earlier: Vec<u32>,
    /// Where what follows now stood before.
    source: Option<usize>,
    /// Length of the text when `source` was found.
    seen: usize,
}

impl PromptLookup {
    /// Knows nothing yet.
    pub fn new() -> PromptLookup {
        PromptLookup::default()
    }

    /// Takes in every position that is new and has a token.
    fn index(&mut self, ids: &[u32]) {
        for position in self.earlier.len()..ids.len() {
            // A text of 2³² tokens is longer than any context.
            let number = position as u32;
            let before = &ids[..position];
            if let Some(pair) = before.last_chunk() {
                self.pairs.insert(*pair, number);
            }
            let earlier = before.last_chunk().and_then(|triple| self.triples.insert(*triple, number));
            self.earlier.push(earlier.unwrap_or(NONE));
        }
    }

    /// The position whose preceding tokens agree with the text's last ones the longest, and how many do; up to the
    /// longest that matters.
    fn longest(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let longest = CLASSES[CLASSES.len() - 1];
        let agreeing = |position: usize| {
            let pairs = ids[..position].iter().rev().zip(ids.iter().rev());
            pairs.take(longest).take_while(|(a, b)| a == b).count()
        };
        // Where the last guess came from, as far on as the text has grown, it probably goes on.
        let mut best = None;
        if let Some(source) = self.source {
            let position = source + (ids.len() - self.seen);
            best = Some((position, agreeing(position)));
        }
        let mut next = ids.last_chunk().and_then(|triple| self.triples.get(triple)).copied().unwrap_or(NONE);
        for _ in 0..MAX_OCCURRENCES {
            if next == NONE || best.is_some_and(|(_, n)| n >= longest) {
                break;
            }
            let position = next as usize;
            let n = agreeing(position);
            if best.is_none_or(|(_, best)| n > best) {
                best = Some((position, n));
            }
            next = self.earlier[position];
        }
        if best.is_none_or(|(_, n)| n < 2)
            && let Some(position) = ids.last_chunk().and_then(|pair| self.pairs.get(pair))
        {
            best = Some((*position as usize, 2));
        }
        best.filter(|(_, n)| *n >= CLASSES[0])
    }
}

impl Drafter for PromptLookup {
    fn priors(&self) -> &[f64] {
        &PRIORS
    }

    fn cost(&self) -> f64 {
        0.0
    }

    fn begin(&mut self) {
        *self = PromptLookup::new();
    }

    fn look(&mut self, ids: &[u32]) -> Result<Option<usize>, Error> {
        self.index(ids);
        let found = self.longest(ids);
        self.source = found.map(|(position, _)| position);
        self.seen = ids.len();
        Ok(found.map(|(_, n)| CLASSES.iter().rposition(|from| n >= *from).unwrap_or(0)))
    }

    fn draft(&mut self, ids: &[u32], n: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        let Some(source) = self.source else { return Ok(()) };
        let start = out.len();
        for position in source..source + n {
            // A text that repeats its own end goes on into the guesses.
            out.push(if position < ids.len() { ids[position] } else { out[start + position - ids.len()] });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guess(lookup: &mut PromptLookup, ids: &[u32], n: usize) -> Option<(usize, Vec<u32>)> {
        let class = lookup.look(ids).unwrap()?;
        let mut out = vec![99];
        lookup.draft(ids, n, &mut out).unwrap();
        assert_eq!(out.remove(0), 99, "guesses are appended");
        Some((class, out))
    }

    #[test]
    fn the_longest_match_wins() {
        let mut lookup = PromptLookup::new();
        let at_once = |lookup: &mut PromptLookup, ids: &[u32], n| {
            lookup.begin();
            guess(lookup, ids, n)
        };
        assert_eq!(at_once(&mut lookup, &[], 3), None);
        assert_eq!(at_once(&mut lookup, &[1, 2, 3, 4, 3], 3), None);
        assert_eq!(at_once(&mut lookup, &[1, 2, 3, 4, 1, 2], 2), Some((0, vec![3, 4])));
        // Four tokens agree at the first place, three at the later ones.
        let text = [9, 1, 2, 3, 50, 51, 8, 1, 2, 3, 60, 7, 1, 2, 3, 70, 9, 1, 2, 3];
        assert_eq!(at_once(&mut lookup, &text, 2), Some((2, vec![50, 51])));
        // The latest among equals.
        assert_eq!(at_once(&mut lookup, &text[1..], 2), Some((1, vec![70, 9])));
        // A loop goes on.
        assert_eq!(at_once(&mut lookup, &[5, 6, 7, 5, 6, 7, 5, 6], 7), Some((2, vec![7, 5, 6, 7, 5, 6, 7])));
        assert_eq!(at_once(&mut lookup, &[4, 4, 4], 3), Some((0, vec![4, 4, 4])));
    }

    #[test]
    fn a_copy_goes_on_where_it_was() {
        // The pair before each place is everywhere, more often than occurrences are compared.
        let mut text: Vec<u32> = (0..50).collect();
        (0..100).for_each(|i| text.extend([20, 21, 22, 1000 + i]));
        text.extend([17, 18, 19]);
        let mut lookup = PromptLookup::new();
        for next in 20..40 {
            let (_, guesses) = guess(&mut lookup, &text, 1).unwrap();
            assert_eq!(guesses, [next]);
            text.push(next);
        }
    }

    proptest! {
        /// Against looking through the whole text.
        #[test]
        fn finds_what_is_there(ids in proptest::collection::vec(0u32..3, 0..35), cut in 0usize..35) {
            let mut lookup = PromptLookup::new();
            lookup.look(&ids[..cut.min(ids.len())]).unwrap();
            let found = guess(&mut lookup, &ids, 1);
            let agreeing = |p: usize| ids[..p].iter().rev().zip(ids.iter().rev()).take_while(|(a, b)| a == b).count();
            let longest = (0..ids.len()).map(agreeing).max().unwrap_or(0);
            let class = CLASSES.iter().rposition(|from| longest >= *from);
            prop_assert_eq!(found.as_ref().map(|(class, _)| *class), class);
            if let (Some((_, guesses)), Some(class)) = (found, class) {
                let most = (0..ids.len()).filter(|p| agreeing(*p) >= CLASSES[class]);
                prop_assert!(most.map(|p| ids[p]).any(|id| id == guesses[0]));
            }
        }
    }
}
