//! Every fault of a data set at once, and what else is worth knowing before a training.

use super::encode::{Encoded, Encoder};
use super::fault::{DataError, Fault, Origin};
use super::fit::Limit;
use super::format::Format;
use super::load::{Counts, Outcome, encode, understand, untrained};
use super::source::Source;
use puna_text::{TokenId, Tokenizer};
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// So many faults are listed, and so many duplicates; all are counted.
const LISTED: usize = 1000;

/// What is known of a source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its format.
    pub format: Format,
    /// Rows without a fault, and what was cut of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Sequences to train on, or pairs.
    pub examples: usize,
    /// Tokens of all that is trained on; those of a prompt once for a pair.
    pub tokens: usize,
    /// Those that are trained themselves.
    pub trained_tokens: usize,
    /// Tokens of rows as they are, before anything was cut. None without rows.
    pub lengths: Option<Lengths>,
    /// Rows that have the same tokens as one before.
    pub duplicates: Duplicates,
    /// Rows of which the chat format trims a message.
    pub trimmed: usize,
    /// Keys that mean nothing here, with the number of rows that have them.
    pub unknown_keys: BTreeMap<String, usize>,
    /// Names of special tokens that messages or texts spell, with the number of rows; they stay text.
    pub special_names: BTreeMap<String, usize>,
    /// Rows of which no token is trained; each is a fault.
    pub untrained: usize,
    /// Rows that can't be trained on.
    pub faults: Faults,
}

/// Quantiles of lengths, in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// Half of the rows are at most so long.
    pub p50: usize,
    /// Nine tenths are.
    pub p90: usize,
    /// All but one of a hundred are.
    pub p99: usize,
    /// The longest.
    pub max: usize,
    /// The row that is the longest.
    pub longest: Origin,
}

/// Rows that were there before.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Duplicates {
    /// All of them.
    pub count: usize,
    /// The first thousand, each with the row that it repeats.
    pub listed: Vec<(Origin, Origin)>,
}

/// Rows with a fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Faults {
    /// All of them.
    pub count: usize,
    /// The first thousand.
    pub listed: Vec<Fault>,
}

/// Looks at every row of a source.
///
/// # Errors
/// A file that can't be read. What is wrong with rows is in the report.
pub fn check(source: &Source, encoder: &Encoder, limit: &Limit) -> Result<Report, DataError> {
    let mut report = Report {
        format: source.format(),
        counts: Counts::default(),
        examples: 0,
        tokens: 0,
        trained_tokens: 0,
        lengths: None,
        duplicates: Duplicates::default(),
        trimmed: 0,
        unknown_keys: BTreeMap::new(),
        special_names: BTreeMap::new(),
        untrained: 0,
        faults: Faults::default(),
    };
    let names = SpecialNames::new(encoder.tokenizer());
    let mut seen: HashMap<u64, Origin> = HashMap::new();
    let mut lengths: Vec<usize> = Vec::new();
    let mut longest: Option<(usize, Origin)> = None;
    for row in source.rows() {
        let understood = match row.map(|row| understand(source.format(), row)) {
            Ok(Ok(understood)) => understood,
            Ok(Err(fault)) | Err(DataError::Row(fault)) => {
                report.faults.add(fault);
                continue;
            }
            Err(error) => return Err(error),
        };
        let unknown: HashSet<&String> = understood.notes.unknown_keys.iter().collect();
        for key in unknown {
            *report.unknown_keys.entry(key.clone()).or_default() += 1;
        }
        let texts = understood.sample.texts();
        let dialect = encoder.options().dialect;
        report.trimmed += usize::from(texts.iter().any(|(text, trims)| *trims && dialect.trim(text) != *text));
        for name in texts.iter().flat_map(|(text, _)| names.spelled(text)).collect::<HashSet<_>>() {
            *report.special_names.entry(name.to_owned()).or_default() += 1;
        }
        let encoding = match encode(&understood, encoder, limit) {
            Ok(encoding) if encoding.n_trained == 0 => {
                report.untrained += 1;
                report.faults.add(untrained(encoding.origin));
                continue;
            }
            Ok(encoding) => encoding,
            Err(fault) => {
                report.faults.add(fault);
                continue;
            }
        };
        lengths.push(encoding.length);
        if longest.as_ref().is_none_or(|(other, _)| encoding.length > *other) {
            longest = Some((encoding.length, encoding.origin.clone()));
        }
        match hash(&encoding.outcome).map(|hash| seen.entry(hash)) {
            Some(Entry::Occupied(first)) => report.duplicates.add(encoding.origin, first.get().clone()),
            Some(Entry::Vacant(place)) => {
                place.insert(encoding.origin);
            }
            None => {}
        }
        report.add(&encoding.outcome);
    }
    report.lengths = longest.map(|(_, longest)| Lengths::new(lengths, longest));
    Ok(report)
}

impl Report {
    fn add(&mut self, outcome: &Outcome) {
        self.counts.count(outcome);
        match outcome {
            Outcome::Whole(encoded) | Outcome::Truncated(encoded) => {
                self.examples += 1;
                self.tokens += match encoded {
                    Encoded::Example(example) => example.ids.len(),
                    Encoded::Pair(pair) => pair.prompt.len() + pair.chosen.len() + pair.rejected.len(),
                };
                self.trained_tokens += encoded.n_trained();
            }
            Outcome::Parts(parts) => {
                self.examples += parts.len();
                self.tokens += parts.iter().map(|part| part.ids.len()).sum::<usize>();
                self.trained_tokens += parts.iter().flat_map(|part| &part.trained).filter(|trained| **trained).count();
            }
            Outcome::Dropped => {}
        }
    }
}

impl Faults {
    fn add(&mut self, fault: Fault) {
        self.count += 1;
        if self.listed.len() < LISTED {
            self.listed.push(fault);
        }
    }
}

impl Duplicates {
    fn add(&mut self, origin: Origin, first: Origin) {
        self.count += 1;
        if self.listed.len() < LISTED {
            self.listed.push((origin, first));
        }
    }
}

impl Lengths {
    /// Of at least one length.
    fn new(mut lengths: Vec<usize>, longest: Origin) -> Lengths {
        lengths.sort_unstable();
        let last = lengths.len().saturating_sub(1);
        // The least length that this share of rows does not exceed.
        let quantile = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).saturating_sub(1)];
        Lengths {
            min: lengths[0],
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
            max: lengths[last],
            longest,
        }
    }
}

/// A fingerprint of all tokens of a row; none if it was left out.
fn hash(outcome: &Outcome) -> Option<u64> {
    let sequences: Vec<&[TokenId]> = match outcome {
        Outcome::Whole(Encoded::Example(example)) | Outcome::Truncated(Encoded::Example(example)) => vec![&example.ids],
        Outcome::Whole(Encoded::Pair(pair)) | Outcome::Truncated(Encoded::Pair(pair)) => {
            vec![&pair.prompt, &pair.chosen, &pair.rejected]
        }
        Outcome::Parts(parts) => parts.iter().map(|part| &part.ids[..]).collect(),
        Outcome::Dropped => return None,
    };
    let mut hasher = DefaultHasher::new();
    sequences.hash(&mut hasher);
    Some(hasher.finish())
}

/// Names of special tokens by their first bytes, longest first.
struct SpecialNames<'a>(Vec<Vec<&'a str>>);

impl<'a> SpecialNames<'a> {
    fn new(tokenizer: &'a Tokenizer) -> SpecialNames<'a> {
        let mut names = vec![Vec::new(); 256];
        for (name, _) in tokenizer.specials() {
            if let Some(first) = name.bytes().next() {
                names[usize::from(first)].push(name);
            }
        }
        names.iter_mut().for_each(|names| names.sort_by_key(|name| std::cmp::Reverse(name.len())));
        SpecialNames(names)
    }

    /// The names that a text spells.
    fn spelled(&self, text: &str) -> impl Iterator<Item = &'a str> {
        text.bytes().enumerate().filter_map(move |(at, first)| {
            let names = &self.0[usize::from(first)];
            names.iter().find(|name| text.as_bytes()[at..].starts_with(name.as_bytes())).copied()
        })
    }
}
