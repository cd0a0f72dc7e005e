//! What becomes of rows that are too long.

use super::encode::{Encoded, Example, Pair};
use super::fault::DataError;
use puna_text::TokenId;
use serde::{Deserialize, Serialize};

/// What becomes of a row that is longer than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// It is an error.
    #[default]
    Error,
    /// It is left out.
    Drop,
    /// Tokens that are not trained are cut off: first behind the last that is, then in front, but not the one that begins
    /// a text. If what is trained does not fit then, the row is left out.
    Truncate,
    /// A raw text is cut into parts; any other row is an error, since a part of a conversation is another conversation.
    Split,
}

/// How long sequences may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    length: usize,
    overlong: Overlong,
    overlap: usize,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fitted {
    /// It was short enough.
    Whole(Encoded),
    /// It was shortened.
    Truncated(Encoded),
    /// It was cut into parts.
    Parts(Vec<Example>),
    /// It was left out.
    Dropped,
}

impl Limit {
    /// At most `length` tokens. Parts of a text begin with the last `overlap` tokens of the one before, which are given
    /// there and not trained again.
    ///
    /// # Errors
    /// A length below 2, or an overlap that leaves no room for a token and the one that begins a text.
    pub fn new(length: usize, overlong: Overlong, overlap: usize) -> Result<Limit, DataError> {
        if length < 2 {
            let expected = "at least 2 tokens".to_owned();
            return Err(DataError::Limit { name: "length", expected, found: length });
        }
        if overlap > length - 2 {
            let expected = format!("at most {} tokens, two less than the length", length - 2);
            return Err(DataError::Limit { name: "overlap", expected, found: overlap });
        }
        Ok(Limit { length, overlong, overlap })
    }

    /// Tokens that a sequence may have.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Makes a row fit. `bos` is the token that begins a text; `is_text` says that the row is raw text, and `is_file` that
    /// it is a whole file of it, which is cut into parts in any case.
    ///
    /// # Errors
    /// A row that is too long, with its length and the limit.
    pub(super) fn fit(
        &self,
        encoded: Encoded,
        bos: Option<TokenId>,
        is_text: bool,
        is_file: bool,
    ) -> Result<Fitted, String> {
        let found = encoded.len();
        if found <= self.length {
            return Ok(Fitted::Whole(encoded));
        }
        match (self.overlong, encoded) {
            (overlong, Encoded::Example(example)) if is_text && (is_file || overlong == Overlong::Split) => {
                Ok(Fitted::Parts(self.split(&example, bos)))
            }
            (Overlong::Error | Overlong::Split, _) => {
                Err(format!("expected at most {} tokens, found {found}", self.length))
            }
            (Overlong::Drop, _) => Ok(Fitted::Dropped),
            (Overlong::Truncate, Encoded::Example(example)) => {
                let fitted = truncate(example, self.length, bos);
                Ok(fitted.map_or(Fitted::Dropped, |example| Fitted::Truncated(Encoded::Example(example))))
            }
            (Overlong::Truncate, Encoded::Pair(pair)) => {
                let fitted = truncate_pair(pair, self.length, bos);
                Ok(fitted.map_or(Fitted::Dropped, |pair| Fitted::Truncated(Encoded::Pair(pair))))
            }
        }
    }

    /// Parts of a raw text, each with the token that begins one. Every token is trained in one of them, but the first.
    fn split(&self, example: &Example, bos: Option<TokenId>) -> Vec<Example> {
        let bos = bos.filter(|bos| example.ids.first() == Some(bos));
        let n_bos = usize::from(bos.is_some());
        let text = example.ids.get(n_bos..).unwrap_or_default();
        let room = self.length - n_bos;
        let mut parts = Vec::new();
        let mut start = 0;
        loop {
            let end = text.len().min(start + room);
            let ids: Vec<TokenId> = bos.into_iter().chain(text[start..end].iter().copied()).collect();
            let n_given = n_bos + if start == 0 { 0 } else { self.overlap };
            let trained = (0..ids.len()).map(|at| at >= n_given.max(1)).collect();
            parts.push(Example { ids, trained, origin: example.origin.clone() });
            if end == text.len() {
                return parts;
            }
            start = end - self.overlap;
        }
    }
}

/// The example with all that is trained and as much else as there is room for.
fn truncate(mut example: Example, length: usize, bos: Option<TokenId>) -> Option<Example> {
    let first = example.trained.iter().position(|trained| *trained)?;
    let last = example.trained.iter().rposition(|trained| *trained)?;
    let end = (last + 1).max(length);
    example.ids.truncate(end);
    example.trained.truncate(end);
    let excess = end - length;
    if excess > 0 {
        // At least one token stays in front of what is trained.
        let n_bos = usize::from(bos.is_some() && example.ids.first().copied() == bos);
        if excess + n_bos.max(1) > first {
            return None;
        }
        example.ids.drain(n_bos..n_bos + excess);
        example.trained.drain(n_bos..n_bos + excess);
    }
    Some(example)
}

/// The pair with a shorter prompt.
fn truncate_pair(mut pair: Pair, length: usize, bos: Option<TokenId>) -> Option<Pair> {
    let answer = pair.chosen.len().max(pair.rejected.len());
    let excess = (pair.prompt.len() + answer).saturating_sub(length);
    let n_bos = usize::from(bos.is_some() && pair.prompt.first().copied() == bos);
    if excess + n_bos.max(1) > pair.prompt.len() {
        return None;
    }
    pair.prompt.drain(n_bos..n_bos + excess);
    Some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Origin, Place};
    use proptest::prelude::*;

    fn origin() -> Origin {
        Origin { file: "f".into(), place: Place::Line(1) }
    }

    /// An example of the ids 0, 1, … with these tokens trained.
    fn example(n: usize, trained: &[usize]) -> Example {
        let trained = (0..n).map(|at| trained.contains(&at)).collect();
        Example { ids: (0..n as u32).collect(), trained, origin: origin() }
    }

    fn truncated(n: usize, trained: &[usize], length: usize) -> Option<Vec<TokenId>> {
        let limit = Limit::new(length, Overlong::Truncate, 0).unwrap();
        match limit.fit(Encoded::Example(example(n, trained)), Some(0), false, false).unwrap() {
            Fitted::Truncated(Encoded::Example(example)) => Some(example.ids),
            Fitted::Dropped => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_have_limits() {
        assert_eq!(
            Limit::new(1, Overlong::Error, 0).unwrap_err().to_string(),
            "length: expected at least 2 tokens, found 1"
        );
        assert_eq!(
            Limit::new(8, Overlong::Split, 7).unwrap_err().to_string(),
            "overlap: expected at most 6 tokens, two less than the length, found 7"
        );
    }

    #[test]
    fn errors_and_drops() {
        let long = || Encoded::Example(example(9, &[3]));
        let fit = |overlong| Limit::new(8, overlong, 0).unwrap().fit(long(), Some(0), false, false);
        assert_eq!(fit(Overlong::Error).unwrap_err(), "expected at most 8 tokens, found 9");
        assert_eq!(fit(Overlong::Split).unwrap_err(), "expected at most 8 tokens, found 9");
        assert_eq!(fit(Overlong::Drop), Ok(Fitted::Dropped));
        let enough = Limit::new(9, Overlong::Error, 0).unwrap();
        assert_eq!(enough.fit(long(), Some(0), false, false), Ok(Fitted::Whole(long())));
    }

    #[test]
    fn what_is_trained_stays() {
        assert_eq!(truncated(9, &[3, 4], 6), Some(vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(truncated(9, &[7, 8], 5), Some(vec![0, 5, 6, 7, 8]));
        assert_eq!(truncated(9, &[7, 8], 3), Some(vec![0, 7, 8]));
        assert_eq!(truncated(9, &[7, 8], 2), None);
        assert_eq!(truncated(9, &[2, 8], 8), Some(vec![0, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(truncated(9, &[1, 8], 8), None);
        assert_eq!(truncated(9, &[], 8), None);
    }

    #[test]
    fn pairs_lose_the_start_of_their_prompt() {
        let pair =
            |n: u32| Pair { prompt: (0..n).collect(), chosen: vec![90; 3], rejected: vec![91; 2], origin: origin() };
        let fit = |n, length| {
            let limit = Limit::new(length, Overlong::Truncate, 0).unwrap();
            limit.fit(Encoded::Pair(pair(n)), Some(0), false, false).unwrap()
        };
        assert_eq!(fit(6, 9), Fitted::Whole(Encoded::Pair(pair(6))));
        assert_eq!(fit(6, 6), Fitted::Truncated(Encoded::Pair(Pair { prompt: vec![0, 4, 5], ..pair(6) })));
        assert_eq!(fit(6, 4), Fitted::Truncated(Encoded::Pair(Pair { prompt: vec![0], ..pair(6) })));
        assert_eq!(fit(6, 3), Fitted::Dropped);
    }

    proptest! {
        /// Parts put together are the text, and every token but the first is trained once.
        #[test]
        fn parts_are_the_text(n in 1_usize..60, length in 3_usize..20, overlap in 0_usize..18, with_bos: bool) {
            let overlap = overlap.min(length - 2);
            let limit = Limit::new(length, Overlong::Split, overlap).unwrap();
            let text: Vec<usize> = (1..n).collect();
            let bos = with_bos.then_some(0);
            let n_bos = usize::from(with_bos);
            let parts = match limit.fit(Encoded::Example(example(n, &text)), bos, true, false).unwrap() {
                Fitted::Whole(Encoded::Example(example)) => vec![example],
                Fitted::Parts(parts) => parts,
                other => panic!("{other:?}"),
            };
            let mut ids: Vec<TokenId> = (0..n_bos as u32).collect();
            let mut trained = vec![0; n];
            for (idx, part) in parts.iter().enumerate() {
                prop_assert!(part.ids.len() <= length && part.ids.len() == part.trained.len());
                prop_assert!(!part.trained[0]);
                prop_assert!(!with_bos || part.ids[0] == 0);
                let repeated = if idx == 0 { 0 } else { overlap };
                ids.extend(&part.ids[n_bos + repeated..]);
                for (id, is_trained) in part.ids.iter().zip(&part.trained) {
                    trained[*id as usize] += u32::from(*is_trained);
                }
            }
            prop_assert_eq!(ids, (0..n as u32).collect::<Vec<_>>());
            // Without a token that begins a text, the first of a part that repeats none can't be trained.
            let n_lost = if with_bos || overlap > 0 { 0 } else { parts.len() - 1 };
            prop_assert_eq!(trained.iter().sum::<u32>() as usize, n - 1 - n_lost);
            prop_assert!(trained.iter().all(|n| *n <= 1));
        }
    }
}
