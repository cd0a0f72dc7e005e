//! Random choices: equal for equal seeds, on every machine.

use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A stream of choices.
pub struct Random(Pcg64Mcg);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(Pcg64Mcg::seed_from_u64(seed))
    }

    /// A number in `0..n`; `n` is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        // The high half of a product of 64 bits by 64 bits is below n, and as even as 64 bits allow.
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent as usize
    }

    /// One of some things, of which there is at least one.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// `n` different ones of some things in random order, or all of them if there are fewer.
    pub fn sample<'a, T>(&mut self, from: &'a [T], n: usize) -> Vec<&'a T> {
        let mut left: Vec<&T> = from.iter().collect();
        let n = n.min(left.len());
        (0..n).map(|_| left.swap_remove(self.below(left.len()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_stay_in_their_range(seed: u64, low in 0usize..50, more in 0usize..50) {
            let mut random = Random::new(seed);
            prop_assert!((low..=low + more).contains(&random.between(low, low + more)));
        }

        #[test]
        fn a_sample_has_different_things(seed: u64, n in 0usize..30) {
            let from: Vec<usize> = (0..20).collect();
            let mut sample: Vec<usize> = Random::new(seed).sample(&from, n).into_iter().copied().collect();
            prop_assert_eq!(sample.len(), n.min(20));
            sample.sort_unstable();
            sample.dedup();
            prop_assert_eq!(sample.len(), n.min(20));
        }
    }

    #[test]
    fn every_choice_comes_up() {
        let mut random = Random::new(7);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[random.below(6)] += 1;
        }
        assert!(seen.iter().all(|n| *n > 60), "{seen:?}");
    }
}
