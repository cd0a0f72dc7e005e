//! Picking the next token.
//!
//! Steps, in this order: what a constraint does not allow is out; logit bias and penalties change the logits; temperature
//! divides them; then candidates are dropped by top-k, typical, top-p and min-p, each on what the one before left, and one
//! of the rest is drawn in proportion to its probability. Temperature 0 takes the largest logit, the lowest id among equals, and draws nothing.

use crate::{Error, constraint::allows};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::collections::HashMap;

/// How to sample. The default is plain sampling from the model's own distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the `top_k` most probable; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most probable whose probabilities reach this sum; 1 keeps all (Holtzman et al. 2019).
    pub top_p: f32,
    /// Drops what is less probable than this share of the most probable; 0 keeps all (Nguyen et al. 2024).
    pub min_p: f32,
    /// Keeps the fewest whose surprise is nearest the entropy and whose probabilities reach this sum; 1 keeps all
    /// (Meister et al. 2022).
    pub typical: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred, prompt included; 1 changes nothing
    /// (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it was generated at all.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal seeds give equal answers; none takes one at random.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Checks every parameter against its range, for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// Names the first that is out of it.
    pub fn check(&self, vocab_size: usize) -> Result<(), Error> {
        let checks = [
            ("temperature", self.temperature, 0.0..=100.0, "0 to 100"),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0, at most 1"),
            ("min_p", self.min_p, 0.0..=1.0, "0 to 1"),
            ("typical", self.typical, f32::MIN_POSITIVE..=1.0, "above 0, at most 1"),
            ("repetition_penalty", self.repetition_penalty, 0.01..=100.0, "0.01 to 100"),
            ("frequency_penalty", self.frequency_penalty, -100.0..=100.0, "-100 to 100"),
            ("presence_penalty", self.presence_penalty, -100.0..=100.0, "-100 to 100"),
        ];
        for (name, found, range, expected) in checks {
            if !range.contains(&found) {
                return Err(Error::Parameter { name, expected: expected.into(), found: found.to_string() });
            }
        }
        for (id, bias) in &self.logit_bias {
            let (expected, found) = if *id as usize >= vocab_size {
                (format!("a token id below the vocabulary's {vocab_size}"), id.to_string())
            } else if !(-1000.0..=1000.0).contains(bias) {
                ("-1000 to 1000".into(), format!("{bias} for token {id}"))
            } else {
                continue;
            };
            return Err(Error::Parameter { name: "logit_bias", expected, found });
        }
        Ok(())
    }
}

/// A sampler and what it has seen.
pub struct Sampler {
    sampling: Sampling,
    random: Pcg64Mcg,
    /// How often each token was generated; 0 for tokens of the prompt.
    counts: HashMap<u32, u32>,
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    id: u32,
    /// Probability, not normalised: `exp(logit - largest)`.
    weight: f64,
}

impl Sampler {
    /// A sampler for an answer to `prompt` of a model of `vocab_size` tokens; `seed` is used where the parameters give
    /// none.
    ///
    /// # Errors
    /// When a parameter is out of its range.
    pub fn new(sampling: Sampling, vocab_size: usize, prompt: &[u32], seed: u64) -> Result<Sampler, Error> {
        sampling.check(vocab_size)?;
        let random = Pcg64Mcg::seed_from_u64(sampling.seed.unwrap_or(seed));
        let counts = prompt.iter().map(|id| (*id, 0)).collect();
        Ok(Sampler { sampling, random, counts, logits: Vec::new(), candidates: Vec::new() })
    }

    /// Counts a generated token.
    pub fn accept(&mut self, id: u32) {
        *self.counts.entry(id).or_default() += 1;
    }

    /// Picks a token: one that is `allowed`, if that is said, by bits as [`Constraint::allowed`] gives them. The logits are
    /// finite, and there is a token to pick.
    ///
    /// [`Constraint::allowed`]: crate::Constraint::allowed
    pub fn pick(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> u32 {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.change_logits();
        let ids = (0..logits.len() as u32).filter(|id| allowed.is_none_or(|allowed| allows(allowed, *id)));
        if self.sampling.temperature == 0.0 { best(&self.logits, ids) } else { self.draw(ids) }
    }

    fn change_logits(&mut self) {
        let s = &self.sampling;
        for (id, bias) in &s.logit_bias {
            if let Some(logit) = self.logits.get_mut(*id as usize) {
                *logit += bias;
            }
        }
        if s.repetition_penalty == 1.0 && s.frequency_penalty == 0.0 && s.presence_penalty == 0.0 {
            return;
        }
        for (id, count) in &self.counts {
            let Some(logit) = self.logits.get_mut(*id as usize) else { continue };
            *logit *= if *logit > 0.0 { 1.0 / s.repetition_penalty } else { s.repetition_penalty };
            if *count > 0 {
                *logit -= s.frequency_penalty * *count as f32 + s.presence_penalty;
            }
        }
    }

    fn draw(&mut self, ids: impl Iterator<Item = u32> + Clone) -> u32 {
        self.weigh(ids);
        self.keep_top_k();
        self.keep_typical();
        self.keep_top_p();
        self.keep_min_p();
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        // 53 random bits: uniform in 0..1.
        let mut left = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        for candidate in &self.candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding may leave a little; then the last it is.
        self.candidates.last().expect("the most probable is never dropped").id
    }

    fn weigh(&mut self, ids: impl Iterator<Item = u32> + Clone) {
        let logits = &self.logits;
        let largest = ids.clone().map(|id| logits[id as usize]).fold(f32::NEG_INFINITY, f32::max);
        let temperature = f64::from(self.sampling.temperature);
        self.candidates.clear();
        self.candidates.extend(
            ids.map(|id| Candidate { id, weight: (f64::from(logits[id as usize] - largest) / temperature).exp() }),
        );
    }

    fn keep_top_k(&mut self) {
        let k = self.sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, by_weight);
            self.candidates.truncate(k);
            // In order of id, as without top-k: the same draw then picks from the same line.
            self.candidates.sort_unstable_by_key(|c| c.id);
        }
    }

    fn keep_top_p(&mut self) {
        if self.sampling.top_p < 1.0 {
            keep_until(&mut self.candidates, f64::from(self.sampling.top_p), by_weight);
        }
    }

    fn keep_typical(&mut self) {
        if self.sampling.typical >= 1.0 {
            return;
        }
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        let surprise = |c: &Candidate| -(c.weight / total).ln();
        let entropy: f64 =
            self.candidates.iter().filter(|c| c.weight > 0.0).map(|c| c.weight / total * surprise(c)).sum();
        keep_until(&mut self.candidates, f64::from(self.sampling.typical), |a, b| {
            let distance = |c: &Candidate| (surprise(c) - entropy).abs();
            distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id))
        });
    }

    fn keep_min_p(&mut self) {
        let largest = self.candidates.iter().map(|c| c.weight).fold(0.0, f64::max);
        let least = largest * f64::from(self.sampling.min_p);
        self.candidates.retain(|c| c.weight >= least);
    }
}

fn by_weight(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Keeps the first candidates in `order` whose weights reach `share` of all; at least one.
fn keep_until(
    candidates: &mut Vec<Candidate>,
    share: f64,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering + Copy,
) {
    let wanted = share * candidates.iter().map(|c| c.weight).sum::<f64>();
    // A nucleus is nearly always a handful: sort that much, and more only if it is not enough.
    let mut n = 256;
    loop {
        if n < candidates.len() {
            candidates.select_nth_unstable_by(n, order);
        }
        let head = n.min(candidates.len());
        candidates[..head].sort_unstable_by(order);
        let mut sum = 0.0;
        let reached = candidates[..head].iter().position(|c| {
            sum += c.weight;
            sum >= wanted
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return;
        }
        if head == candidates.len() {
            return;
        }
        n *= 8;
    }
}

/// Index of the largest; the lowest among equals.
pub fn argmax(logits: &[f32]) -> u32 {
    best(logits, 0..logits.len() as u32)
}

/// The one with the largest logit; the first among equals.
fn best(logits: &[f32], ids: impl Iterator<Item = u32>) -> u32 {
    let larger = |best: u32, id: u32| if logits[id as usize] > logits[best as usize] { id } else { best };
    ids.reduce(larger).expect("there is a token to pick")
}

/// Ids of the `n` largest, the largest first; the lower id first among equals.
pub(crate) fn largest(logits: &[f32], n: usize) -> Vec<u32> {
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.select_nth_unstable_by(n - 1, order);
    ids.truncate(n);
    ids.sort_unstable_by(order);
    ids
}

/// Natural logarithms of the softmax probabilities.
pub struct LogProbabilities<'a> {
    logits: &'a [f32],
    largest: f32,
    /// Logarithm of the sum of the exponentials of what the logits are below the largest.
    log_sum: f64,
}

impl<'a> LogProbabilities<'a> {
    /// Of finite logits.
    pub fn new(logits: &'a [f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        LogProbabilities { logits, largest, log_sum: sum.ln() }
    }

    /// That of one token.
    pub fn of(&self, id: u32) -> f32 {
        (f64::from(self.logits[id as usize] - self.largest) - self.log_sum) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frequencies(sampling: Sampling, logits: &[f32], n: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling, logits.len(), &[], 7).expect("valid");
        let mut counts = vec![0f64; logits.len()];
        for _ in 0..n {
            counts[sampler.pick(logits, None) as usize] += 1.0 / n as f64;
        }
        counts
    }

    /// Probabilities 0.4, 0.3, 0.2, 0.1 in a mixed order.
    const LOGITS: [f32; 4] = [-1.203_973, -0.916_291, -std::f32::consts::LN_10, -1.609_438];

    #[track_caller]
    fn assert_distribution(sampling: Sampling, expected: [f64; 4]) {
        let found = frequencies(sampling, &LOGITS, 40_000);
        for (found, expected) in found.iter().zip(expected) {
            // Five standard deviations of a binomial share.
            let deviation = (expected * (1.0 - expected) / 40_000.0).sqrt();
            assert!((found - expected).abs() <= 5.0 * deviation, "{found} for {expected}");
        }
    }

    #[test]
    fn each_step_keeps_what_its_definition_keeps() {
        let plain = Sampling::default;
        assert_distribution(plain(), [0.3, 0.4, 0.1, 0.2]);
        assert_distribution(Sampling { top_k: 2, ..plain() }, [3.0 / 7.0, 4.0 / 7.0, 0.0, 0.0]);
        assert_distribution(Sampling { top_p: 0.65, ..plain() }, [3.0 / 7.0, 4.0 / 7.0, 0.0, 0.0]);
        assert_distribution(Sampling { top_p: 0.85, ..plain() }, [3.0 / 9.0, 4.0 / 9.0, 0.0, 2.0 / 9.0]);
        assert_distribution(Sampling { min_p: 0.45, ..plain() }, [3.0 / 9.0, 4.0 / 9.0, 0.0, 2.0 / 9.0]);
        // The entropy is 1.28 nats; surprises 1.20, 0.92, 2.30, 1.61: nearest first 0.3, then 0.2, then 0.4.
        assert_distribution(Sampling { typical: 0.45, ..plain() }, [0.6, 0.0, 0.0, 0.4]);
        let squared = [9.0 / 30.0, 16.0 / 30.0, 1.0 / 30.0, 4.0 / 30.0];
        assert_distribution(Sampling { temperature: 0.5, ..plain() }, squared);
        let bias = vec![(2, 3f32.ln()), (3, -1000.0)];
        assert_distribution(Sampling { logit_bias: bias, ..plain() }, [0.3, 0.4, 0.3, 0.0]);
    }

    #[test]
    fn penalties_follow_their_formulas() {
        let sampling = Sampling {
            temperature: 0.0,
            repetition_penalty: 2.0,
            frequency_penalty: 0.25,
            presence_penalty: 0.5,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, 4, &[0], 0).expect("valid");
        sampler.accept(1);
        sampler.accept(1);
        sampler.logits = vec![4.0, 4.0, -1.0, 4.0];
        sampler.change_logits();
        assert_eq!(sampler.logits, [2.0, 4.0 / 2.0 - 2.0 * 0.25 - 0.5, -1.0, 4.0]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let check = |sampling: Sampling| sampling.check(4).map_err(|error| error.to_string());
        assert_eq!(check(Sampling { logit_bias: vec![(3, -1000.0)], ..Sampling::default() }), Ok(()));
        let wrong = [
            (Sampling { temperature: f32::NAN, ..Sampling::default() }, "temperature: expected 0 to 100, found NaN"),
            (
                Sampling { logit_bias: vec![(0, 1.0), (4, 1.0)], ..Sampling::default() },
                "logit_bias: expected a token id below the vocabulary's 4, found 4",
            ),
            (
                Sampling { logit_bias: vec![(3, f32::INFINITY)], ..Sampling::default() },
                "logit_bias: expected -1000 to 1000, found inf for token 3",
            ),
        ];
        for (sampling, message) in wrong {
            assert_eq!(check(sampling), Err(message.to_owned()));
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn equal_seeds_give_equal_answers() {
        let answer = |seed| {
            let mut sampler =
                Sampler::new(Sampling { seed: Some(seed), ..Sampling::default() }, 4, &[], 0).expect("valid");
            (0..50).map(|_| sampler.pick(&LOGITS, None)).collect::<Vec<_>>()
        };
        assert_eq!(answer(3), answer(3));
        assert_ne!(answer(3), answer(4));
    }

    proptest! {
        #[test]
        fn never_picks_what_is_not_there(
            logits in proptest::collection::vec(-1e30f32..1e30, 1..600),
            temperature in 0f32..100.0, top_k in 0usize..700, top_p in 0.001f32..=1.0, min_p in 0f32..=1.0,
            typical in 0.001f32..=1.0, seed: u64,
        ) {
            let sampling =
                Sampling { temperature, top_k, top_p, min_p, typical, seed: Some(seed), ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, logits.len(), &[], 0).expect("valid");
            let id = sampler.pick(&logits, None);
            prop_assert!((id as usize) < logits.len());
            prop_assert!(LogProbabilities::new(&logits).of(id) <= 0.0);
        }

        /// What is not allowed might as well not exist: the pick is that from a vocabulary of the others.
        #[test]
        fn only_what_is_allowed_is_picked(
            tokens in proptest::collection::vec((-30f32..30.0, any::<bool>()), 1..300), sure: usize,
            temperature in prop_oneof![Just(0f32), 0.01f32..3.0], top_k in 0usize..50, top_p in 0.001f32..=1.0,
            min_p in 0f32..=1.0, typical in 0.001f32..=1.0, repetition_penalty in 0.5f32..2.0,
            bias in -1000f32..1000.0, seed: u64,
        ) {
            let sure = sure % tokens.len();
            let logits: Vec<f32> = tokens.iter().map(|(logit, _)| *logit).collect();
            let is_allowed = |id: usize| id == sure || tokens[id].1;
            let kept: Vec<usize> = (0..tokens.len()).filter(|id| is_allowed(*id)).collect();
            let mut allowed = vec![0u32; tokens.len().div_ceil(32)];
            kept.iter().for_each(|id| allowed[id / 32] |= 1 << (id % 32));
            let sampling = |sure| Sampling {
                temperature, top_k, top_p, min_p, typical, repetition_penalty, logit_bias: vec![(sure as u32, bias)],
                seed: Some(seed), ..Sampling::default()
            };
            let of_all = Sampler::new(sampling(sure), logits.len(), &[sure as u32], 0)
                .expect("valid")
                .pick(&logits, Some(&allowed));
            let place = kept.binary_search(&sure).expect("it is kept");
            let of_kept = Sampler::new(sampling(place), kept.len(), &[place as u32], 0)
                .expect("valid")
                .pick(&kept.iter().map(|id| logits[*id]).collect::<Vec<_>>(), None);
            prop_assert_eq!(of_all as usize, kept[of_kept as usize]);
        }

        /// A token that nearly all of the probability goes to leaves room for the others where it is not allowed, and ids
        /// behind the last word are not allowed.
        #[test]
        fn what_is_left_may_be_improbable(gap in 0f32..1e30, temperature in 0f32..2.0, seed: u64) {
            let mut logits = vec![gap; 70];
            logits[33] = -gap;
            let sampling = Sampling { temperature, seed: Some(seed), ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, logits.len(), &[], 0).expect("valid");
            prop_assert_eq!(sampler.pick(&logits, Some(&[0, 2])), 33);
        }

        #[test]
        fn a_large_nucleus_is_found_whole(n in 1usize..5000, top_p in 0.01f32..0.999) {
            // Equal weights: the nucleus is the first ids, as many as reach the share.
            let mut candidates: Vec<_> = (0..n as u32).rev().map(|id| Candidate { id, weight: 1.0 }).collect();
            keep_until(&mut candidates, f64::from(top_p), by_weight);
            prop_assert_eq!(candidates.len(), (f64::from(top_p) * n as f64).ceil() as usize);
            prop_assert!(candidates.iter().enumerate().all(|(i, c)| c.id as usize == i));
        }
    }
}
