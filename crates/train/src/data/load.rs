//! From a source to examples: read, understood, encoded, made to fit.

use super::encode::{Encoded, Encoder, Example, Pair};
use super::fault::{DataError, Fault, Origin, Place};
use super::fit::{Fitted, Limit};
use super::format::{Format, Notes, Sample};
use super::source::{Row, Source};
use serde::Serialize;

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoding {
    /// The row.
    pub origin: Origin,
    /// Its tokens before anything was cut.
    pub length: usize,
    /// As many of them are trained.
    pub n_trained: usize,
    /// What is trained on.
    pub outcome: Outcome,
}

/// What is trained on of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All of it.
    Whole(Encoded),
    /// What is left after cutting.
    Truncated(Encoded),
    /// A text in parts.
    Parts(Vec<Example>),
    /// Nothing.
    Dropped,
}

/// All of a source, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// What is trained on.
    pub items: Vec<T>,
    /// What was left out and cut.
    pub counts: Counts,
}

/// How many rows of a source were changed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows that were read.
    pub rows: usize,
    /// Rows that were left out.
    pub dropped: usize,
    /// Rows that were shortened.
    pub truncated: usize,
    /// Rows that were cut into parts.
    pub split: usize,
}

impl Counts {
    pub(super) fn count(&mut self, outcome: &Outcome) {
        self.rows += 1;
        match outcome {
            Outcome::Whole(_) => {}
            Outcome::Truncated(_) => self.truncated += 1,
            Outcome::Parts(_) => self.split += 1,
            Outcome::Dropped => self.dropped += 1,
        }
    }
}

/// A row that was understood.
pub(super) struct Understood {
    pub origin: Origin,
    pub sample: Sample,
    pub notes: Notes,
}

/// What a row says.
pub(super) fn understand(format: Format, row: Row) -> Result<Understood, Fault> {
    let Row { at, members } = row;
    let mut notes = Notes::default();
    match format.parse(members, &mut notes) {
        Ok(sample) => Ok(Understood { origin: at, sample, notes }),
        Err(problem) => Err(Fault { at, problem }),
    }
}

/// What a row becomes.
pub(super) fn encode(understood: &Understood, encoder: &Encoder, limit: &Limit) -> Result<Encoding, Fault> {
    let Understood { origin, sample, .. } = understood;
    let fault = |problem| Fault { at: origin.clone(), problem };
    let encoded = encoder.encode(sample, origin.clone()).map_err(fault)?;
    let (length, n_trained) = (encoded.len(), encoded.n_trained());
    let (is_text, is_file) = (matches!(sample, Sample::Text(_)), origin.place == Place::File);
    let outcome = match limit.fit(encoded, encoder.tokenizer().bos(), is_text, is_file).map_err(fault)? {
        Fitted::Whole(encoded) => Outcome::Whole(encoded),
        Fitted::Truncated(encoded) => Outcome::Truncated(encoded),
        Fitted::Parts(parts) => Outcome::Parts(parts),
        Fitted::Dropped => Outcome::Dropped,
    };
    Ok(Encoding { origin: origin.clone(), length, n_trained, outcome })
}

/// What is wrong with a row of which no token is trained: its loss would be a division by nothing.
pub(super) fn untrained(at: Origin) -> Fault {
    Fault { at, problem: "expected a token that is trained, found none".to_owned() }
}

/// What the rows of a source become, one by one. A row without a token that is trained is a fault.
pub fn encoded_rows<'a>(
    source: &'a Source,
    encoder: &'a Encoder,
    limit: &'a Limit,
) -> impl Iterator<Item = Result<Encoding, DataError>> + 'a {
    source.rows().map(move |row| {
        let encoding = encode(&understand(source.format(), row?)?, encoder, limit)?;
        if encoding.n_trained == 0 { Err(untrained(encoding.origin).into()) } else { Ok(encoding) }
    })
}

/// Reads all examples.
///
/// # Errors
/// The first row with a fault, a row without a token that is trained, or a source of preferences.
pub fn examples(source: &Source, encoder: &Encoder, limit: &Limit) -> Result<Loaded<Example>, DataError> {
    if source.format().is_preference() {
        return Err(wrong_kind(source, "examples, one answer each", "pairs of answers"));
    }
    let mut loaded = Loaded { items: Vec::new(), counts: Counts::default() };
    for encoding in encoded_rows(source, encoder, limit) {
        let outcome = encoding?.outcome;
        loaded.counts.count(&outcome);
        match outcome {
            Outcome::Whole(Encoded::Example(example)) | Outcome::Truncated(Encoded::Example(example)) => {
                loaded.items.push(example);
            }
            Outcome::Parts(parts) => loaded.items.extend(parts),
            Outcome::Whole(Encoded::Pair(_)) | Outcome::Truncated(Encoded::Pair(_)) | Outcome::Dropped => {}
        }
    }
    Ok(loaded)
}

/// Reads all pairs of answers.
///
/// # Errors
/// The first row with a fault, or a source without preferences.
pub fn pairs(source: &Source, encoder: &Encoder, limit: &Limit) -> Result<Loaded<Pair>, DataError> {
    if !source.format().is_preference() {
        return Err(wrong_kind(source, "pairs of answers", "examples"));
    }
    let mut loaded = Loaded { items: Vec::new(), counts: Counts::default() };
    for encoding in encoded_rows(source, encoder, limit) {
        let outcome = encoding?.outcome;
        loaded.counts.count(&outcome);
        if let Outcome::Whole(Encoded::Pair(pair)) | Outcome::Truncated(Encoded::Pair(pair)) = outcome {
            loaded.items.push(pair);
        }
    }
    Ok(loaded)
}

fn wrong_kind(source: &Source, expected: &str, found: &str) -> DataError {
    let problem = format!("expected {expected}, found {found} (format {})", source.format());
    DataError::Source { path: source.name().to_owned(), problem }
}
