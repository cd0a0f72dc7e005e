//! What a run learns from, and in which order.

use super::checkpoint::hex;
use crate::data::pack::{batches, pack};
use crate::data::{Example, Pair};
use crate::{Batch, Objective, Settings};
use puna_text::TokenId;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// The epoch whose order says what is held back: none that is trained.
const HOLD_BACK: u64 = u64::MAX;

/// What a run learns from.
#[derive(Debug)]
pub enum Data {
    /// Examples, or raw text.
    Examples(Vec<Example>),
    /// Pairs of answers, and the log-probabilities of each by the model as it was.
    Pairs(Vec<Pair>, Vec<[f64; 2]>),
}

impl Data {
    /// What it is for.
    pub fn objective(&self) -> Objective {
        match self {
            Data::Examples(_) => Objective::Sft,
            Data::Pairs(..) => Objective::Dpo,
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Data::Examples(examples) => examples.len(),
            Data::Pairs(pairs, _) => pairs.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that a row takes in a pass: of a pair both documents.
    pub(super) fn tokens_of(&self, row: usize) -> usize {
        match self {
            Data::Examples(examples) => examples[row].ids.len(),
            Data::Pairs(pairs, _) => {
                let Pair { prompt, chosen, rejected, .. } = &pairs[row];
                2 * prompt.len() + chosen.len() + rejected.len()
            }
        }
    }

    /// Tokens of all rows.
    pub fn n_tokens(&self) -> u64 {
        (0..self.len()).map(|row| self.tokens_of(row) as u64).sum()
    }

    /// Of all tokens, and of which are trained, in order.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |ids: &[TokenId]| {
            hash.update((ids.len() as u64).to_le_bytes());
            hash.update(bytemuck::cast_slice(ids));
        };
        match self {
            Data::Examples(examples) => examples.iter().for_each(|example| {
                add(&example.ids);
                add(&example.trained.iter().map(|trained| u32::from(*trained)).collect::<Vec<_>>());
            }),
            Data::Pairs(pairs, _) => pairs.iter().for_each(|Pair { prompt, chosen, rejected, .. }| {
                [prompt, chosen, rejected].into_iter().for_each(|ids| add(ids));
            }),
        }
        hex(hash)
    }

    /// Where some rows come from, for people.
    pub(super) fn origins(&self, rows: &[usize]) -> String {
        let origin = |row: &usize| match self {
            Data::Examples(examples) => examples[*row].origin.to_string(),
            Data::Pairs(pairs, _) => pairs[*row].origin.to_string(),
        };
        let more = if rows.len() > 3 { format!(" and {} more", rows.len() - 3) } else { String::new() };
        rows.iter().take(3).map(origin).collect::<Vec<_>>().join(", ") + &more
    }

    /// Rows by sequences, of one pass over the data.
    pub(super) fn sequences(&self, settings: &Settings, epoch: u64) -> Vec<Vec<usize>> {
        match self {
            Data::Examples(examples) if settings.packing => {
                let lengths: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
                pack(&lengths, settings.length(), settings.seed, epoch)
                    .unwrap_or_else(|_| unreachable!("rows were made to fit"))
            }
            _ if settings.shuffle => batches(self.len(), 1, settings.seed, epoch),
            _ => (0..self.len()).map(|row| vec![row]).collect(),
        }
    }

    /// Rows by passes of at most `capacity` tokens, in the order of the sequences, each of which stays together.
    pub(super) fn passes(&self, sequences: Vec<Vec<usize>>, capacity: usize) -> Vec<Vec<usize>> {
        let mut passes: Vec<Vec<usize>> = Vec::new();
        let mut room = 0;
        for sequence in sequences {
            let n = sequence.iter().map(|row| self.tokens_of(*row)).sum::<usize>();
            match passes.last_mut().filter(|_| n <= room) {
                Some(pass) => pass.extend(sequence),
                None => {
                    passes.push(sequence);
                    room = capacity;
                }
            }
            room = room.saturating_sub(n);
        }
        passes
    }

    /// Examples as a pass takes them.
    pub(super) fn batch(examples: &[Example], rows: &[usize]) -> Batch {
        let mut batch = Batch::default();
        rows.iter().for_each(|row| batch.push(&examples[*row].ids, &examples[*row].trained));
        batch
    }
}

/// Splits off a share of the items, chosen by the seed, to validate on; each part keeps its order. There is always
/// something left to learn from.
pub fn hold_back<T>(items: Vec<T>, share: f32, seed: u64) -> (Vec<T>, Vec<T>) {
    let n = (items.len() as f64 * f64::from(share)) as usize;
    let chosen: BTreeSet<usize> = batches(items.len(), 1, seed, HOLD_BACK).into_iter().flatten().take(n).collect();
    let (mut kept, mut held_back) = (Vec::new(), Vec::new());
    for (idx, item) in items.into_iter().enumerate() {
        if chosen.contains(&idx) { held_back.push(item) } else { kept.push(item) }
    }
    (kept, held_back)
}

/// Both sides of a pair, as documents.
pub(super) fn push_pair(batch: &mut Batch, pair: &Pair) {
    for answer in [&pair.chosen, &pair.rejected] {
        let trained = [vec![false; pair.prompt.len()], vec![true; answer.len()]].concat();
        batch.push(&[&pair.prompt[..], answer].concat(), &trained);
    }
}
