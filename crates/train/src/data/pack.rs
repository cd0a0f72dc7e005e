//! Documents into sequences, and into batches.
//!
//! A sequence of a fixed length holds several whole documents; each begins again at position 0 and sees nothing of the
//! others. What goes where depends on the lengths, the seed and the epoch alone: not on the machine, nor on how many take
//! part.

use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::BTreeMap;

/// Documents that are packed together: enough that gaps find documents to fill them, and few enough that the order of
/// training stays random.
const WINDOW: usize = 4096;

/// Documents that no sequence has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("document {document}: expected at most {length} tokens, the length of a sequence, found {found}")]
pub struct TooLong {
    /// Which document.
    pub document: usize,
    /// Its length.
    pub found: usize,
    /// The length of a sequence.
    pub length: usize,
}

/// Packs documents of these lengths into sequences of at most `length` tokens: for each sequence its documents, in the
/// order in which they stand in it. Every document is in one sequence, whole.
///
/// Documents are shuffled; of each window of them the longest comes first, to the fullest sequence that has room for it
/// (best fit, decreasing); then sequences are shuffled within their window.
///
/// # Errors
/// A document that is longer than a sequence.
pub fn pack(lengths: &[usize], length: usize, seed: u64, epoch: u64) -> Result<Vec<Vec<usize>>, TooLong> {
    if let Some((document, found)) = lengths.iter().enumerate().find(|(_, found)| **found > length) {
        return Err(TooLong { document, found: *found, length });
    }
    let random = &mut random(seed, epoch);
    let order = shuffled(lengths.len(), random);
    let mut sequences = Vec::new();
    for window in order.chunks(WINDOW) {
        let packed = best_fit(window, lengths, length);
        let order = shuffled(packed.len(), random);
        let mut packed: Vec<Option<Vec<usize>>> = packed.into_iter().map(Some).collect();
        sequences.extend(order.into_iter().filter_map(|idx| packed[idx].take()));
    }
    Ok(sequences)
}

/// Documents in shuffled batches of `size`, each a sequence of its own; the last batch may be smaller.
///
/// # Panics
/// With a size of 0.
#[must_use]
pub fn batches(n_documents: usize, size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    shuffled(n_documents, &mut random(seed, epoch)).chunks(size).map(<[usize]>::to_vec).collect()
}

fn best_fit(window: &[usize], lengths: &[usize], length: usize) -> Vec<Vec<usize>> {
    let mut documents = window.to_vec();
    // A stable sort: documents of one length stay in their random order.
    documents.sort_by_key(|document| std::cmp::Reverse(lengths[*document]));
    let mut sequences: Vec<Vec<usize>> = Vec::new();
    // Sequences by the room that is left in them.
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for document in documents {
        let needed = lengths[document];
        let fullest = by_room.range_mut(needed..).next().and_then(|(room, sequences)| Some((*room, sequences.pop()?)));
        let (room, sequence) = fullest.unwrap_or_else(|| {
            sequences.push(Vec::new());
            (length, sequences.len() - 1)
        });
        if by_room.get(&room).is_some_and(Vec::is_empty) {
            by_room.remove(&room);
        }
        sequences[sequence].push(document);
        by_room.entry(room - needed).or_default().push(sequence);
    }
    sequences
}

fn random(seed: u64, epoch: u64) -> Pcg64 {
    // The odd number nearest 2^64 divided by the golden ratio: seeds and epochs that are neighbours give others.
    Pcg64::seed_from_u64(seed.wrapping_add(epoch.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// The numbers below `n` in random order (Fisher and Yates).
fn shuffled(n: usize, random: &mut Pcg64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        // The upper half of the product is below `last + 1`.
        let other = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        numbers.swap(last, other as usize);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::RngCore;

    #[test]
    fn the_longest_fill_first() {
        let packed = pack(&[6, 4, 3, 7, 2, 5, 3], 10, 1, 0).unwrap();
        let mut sums: Vec<usize> = packed
            .iter()
            .map(|documents| documents.iter().map(|document| [6, 4, 3, 7, 2, 5, 3][*document]).sum())
            .collect();
        sums.sort_unstable();
        assert_eq!(sums, [10, 10, 10]);
        assert!(pack(&[], 10, 1, 0).unwrap().is_empty());
        assert_eq!(pack(&[3, 11], 10, 1, 0), Err(TooLong { document: 1, found: 11, length: 10 }));
    }

    /// Lengths as conversations have them: few long ones, log-normally.
    fn conversations(n: usize, median: f64, spread: f64, length: usize, seed: u64) -> Vec<usize> {
        let random = &mut Pcg64::seed_from_u64(seed);
        let mut uniform = || (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        (0..n)
            .map(|_| {
                let normal = (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
                ((median * (spread * normal).exp()) as usize).clamp(8, length)
            })
            .collect()
    }

    #[test]
    fn sequences_are_full() {
        for (seed, (median, spread)) in [(300.0, 0.9), (150.0, 0.6), (500.0, 1.0), (30.0, 1.2)].into_iter().enumerate()
        {
            let lengths = conversations(20_000, median, spread, 4096, seed as u64);
            let packed = pack(&lengths, 4096, 7, 3).unwrap();
            let fill = lengths.iter().sum::<usize>() as f64 / (packed.len() * 4096) as f64;
            assert!(fill >= 0.98, "median {median}: {fill}");
        }
    }

    #[test]
    fn every_epoch_has_its_order() {
        let lengths = conversations(500, 100.0, 0.5, 512, 1);
        let first = pack(&lengths, 512, 1, 0).unwrap();
        assert_eq!(pack(&lengths, 512, 1, 0).unwrap(), first);
        assert_ne!(pack(&lengths, 512, 1, 1).unwrap(), first);
        assert_ne!(pack(&lengths, 512, 2, 0).unwrap(), first);
        // Long documents come everywhere, not first.
        let longest = |sequences: &[Vec<usize>]| sequences.iter().flatten().map(|document| lengths[*document]).max();
        let (front, back) = first.split_at(first.len() / 2);
        assert!(longest(front) > Some(150) && longest(back) > Some(150));
    }

    proptest! {
        #[test]
        fn every_document_is_in_one_sequence(
            lengths in prop::collection::vec(0_usize..=64, 0..300), length in 64_usize..200, seed: u64, epoch: u64,
        ) {
            let packed = pack(&lengths, length, seed, epoch).unwrap();
            let mut seen: Vec<usize> = packed.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for documents in &packed {
                prop_assert!(!documents.is_empty());
                prop_assert!(documents.iter().map(|document| lengths[*document]).sum::<usize>() <= length);
            }
            // No two sequences would have gone into one.
            let sums: Vec<usize> =
                packed.iter().map(|documents| documents.iter().map(|document| lengths[*document]).sum()).collect();
            let mut smallest = sums;
            smallest.sort_unstable();
            prop_assert!(smallest.len() < 2 || smallest[0] + smallest[1] > length);
        }

        #[test]
        fn batches_have_every_document(n in 0_usize..200, size in 1_usize..20, seed: u64, epoch: u64) {
            let batches = batches(n, size, seed, epoch);
            prop_assert!(batches.iter().rev().skip(1).all(|batch| batch.len() == size));
            let mut seen: Vec<usize> = batches.into_iter().flatten().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
    }
}
