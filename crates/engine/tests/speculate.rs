//! Whoever guesses, and whatever: an answer is the one without guesses, to the last bit.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_checkpoint::{Rope, RopePairing, RopeScaling};
use puna_engine::{
    DraftModel, Drafted, Drafter, Engine, Error, Finish, Generation, Limits, PromptLookup, Sampler, Sampling, Sequence,
    Speculator,
};
use puna_llama::{Batch, Config, KvFormat, KvShape, Model, PAGE_LEN, kv_shape};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A model whose logits after a token follow from the two last tokens, and a little from all before, which it finds in
/// its cache alone.
struct Fake {
    config: Config,
    shape: KvShape,
    cache: Vec<u32>,
    seed: u64,
    /// After this token the logits are not finite.
    damaged: Option<u32>,
    n_passes: Arc<AtomicUsize>,
}

impl Fake {
    fn new(vocab_size: usize, context: usize, seed: u64) -> Fake {
        let rope = Rope { theta: 1e4, scaling: RopeScaling::None, pairing: RopePairing::Halves };
        let config = Config {
            dim: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            ffn_dim: 2,
            vocab_size,
            context_length: context,
            norm_eps: 1e-5,
            rope,
            tied_embeddings: true,
        };
        let shape = kv_shape(&config, KvFormat::F32, context);
        Fake { config, cache: vec![0; shape.n_pages * PAGE_LEN], shape, seed, damaged: None, n_passes: Arc::default() }
    }

    fn engine(self) -> Engine {
        let context = self.config.context_length;
        Engine::new(Box::new(self), context)
    }

    fn logits(&self, ids: &[u32]) -> impl Iterator<Item = f32> {
        let hash = |ids: &[u32], id: u32| {
            let mix = |h: u64, id: &u32| (h ^ u64::from(*id)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            (ids.iter().chain([&id]).fold(self.seed, mix) >> 40) as f32 / (1 << 24) as f32
        };
        let damaged = self.damaged.is_some() && ids.last().copied() == self.damaged;
        (0..self.config.vocab_size as u32).map(move |id| {
            let recent = &ids[ids.len().saturating_sub(2)..];
            if damaged { f32::NAN } else { 4.0 * hash(recent, id) + 0.1 * hash(ids, id) }
        })
    }
}

impl Model for Fake {
    fn config(&self) -> &Config {
        &self.config
    }
    fn kv_shape(&self) -> &KvShape {
        &self.shape
    }
    fn max_batch(&self) -> usize {
        32
    }
    fn describe(&self) -> String {
        "fake".into()
    }
    fn bytes_per_token(&self) -> u64 {
        1
    }
    fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), puna_llama::Error> {
        self.n_passes.fetch_add(1, Ordering::Relaxed);
        let slot = |pages: &[u32], p: usize| pages[p / PAGE_LEN] as usize * PAGE_LEN + p % PAGE_LEN;
        let [span] = batch.spans else { panic!("one sequence") };
        for (id, position) in batch.ids.iter().zip(span.start..) {
            self.cache[slot(span.pages, position)] = *id;
        }
        logits.clear();
        for row in batch.outputs {
            let text: Vec<u32> = (0..=span.start + row).map(|p| self.cache[slot(span.pages, p)]).collect();
            logits.extend(self.logits(&text));
        }
        Ok(())
    }
}

/// Guesses by a rule.
struct Rule<F>(F);

impl<F: FnMut(&[u32], usize) -> Result<Vec<u32>, Error> + Send> Drafter for Rule<F> {
    fn priors(&self) -> &[f64] {
        &[0.9]
    }
    fn cost(&self) -> f64 {
        0.0
    }
    fn begin(&mut self) {}
    fn look(&mut self, _: &[u32]) -> Result<Option<usize>, Error> {
        Ok(Some(0))
    }
    fn draft(&mut self, ids: &[u32], n: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        out.extend((self.0)(ids, n)?);
        Ok(())
    }
}

fn rule(rule: impl FnMut(&[u32], usize) -> Result<Vec<u32>, Error> + Send + 'static) -> Box<dyn Drafter> {
    Box::new(Rule(rule))
}

struct Outcome {
    tokens: Vec<(u32, u32)>,
    finish: Option<Finish>,
    /// What is in the cache at the end.
    kept: Vec<u32>,
    error: Option<String>,
    n_passes: usize,
}

struct Case<'a> {
    prompt: &'a [u32],
    sampling: &'a Sampling,
    limits: Limits,
    /// The caller has seen enough after so many tokens.
    enough: usize,
}

fn answer(engine: &mut Engine, case: &Case<'_>, mut speculator: Option<&mut Speculator>) -> Outcome {
    let mut sequence = Sequence::default();
    let vocab_size = engine.model().config().vocab_size;
    let sampler = Sampler::new(case.sampling.clone(), vocab_size, case.prompt, 0).unwrap();
    let logits = engine.prefill(&mut sequence, case.prompt, &mut |_, _| true).unwrap().unwrap();
    let mut generation = Generation::new(sampler, case.limits.clone(), logits);
    if let Some(speculator) = &mut speculator {
        speculator.begin();
    }
    let (mut tokens, mut error) = (Vec::new(), None);
    while let Some(token) = generation.take() {
        tokens.push((token.id, token.logprob.to_bits()));
        if tokens.len() >= case.enough {
            break;
        }
        let result = match &mut speculator {
            Some(speculator) => generation.speculate(engine, &mut sequence, token, speculator),
            None => generation.advance(engine, &mut sequence, token),
        };
        if let Err(failed) = result {
            error = Some(failed.to_string());
            break;
        }
    }
    generation.abandon(engine, &mut sequence);
    let outcome = Outcome {
        tokens,
        finish: generation.finish(),
        kept: sequence.ids().to_vec(),
        error,
        n_passes: generation.n_passes(),
    };
    engine.release(sequence);
    outcome
}

#[track_caller]
fn assert_equal(plain: &Outcome, speculated: &Outcome) {
    assert_eq!(plain.tokens, speculated.tokens);
    assert_eq!(plain.finish, speculated.finish);
    assert_eq!(plain.kept, speculated.kept);
    assert_eq!(plain.error, speculated.error);
}

const VOCAB: usize = 24;

/// Every kind of drafter, alone and together.
fn speculators(plain: &Outcome, prompt: &[u32], context: usize) -> Vec<Speculator> {
    let text: Vec<u32> = prompt.iter().copied().chain(plain.tokens.iter().map(|(id, _)| *id)).collect();
    let right = {
        let text = text.clone();
        move |ids: &[u32], n: usize| Ok(text[ids.len().min(text.len())..].iter().copied().take(n).collect())
    };
    let often_right = {
        let right = right.clone();
        move |ids: &[u32], n: usize| {
            let mut guesses: Vec<u32> = right(ids, n)?;
            guesses.iter_mut().zip(ids.len()..).filter(|(_, at)| at % 5 == 2).for_each(|(id, _)| *id = (*id + 1) % 24);
            Ok(guesses)
        }
    };
    let wrong = move |ids: &[u32], n: usize| Ok(text.iter().skip(ids.len()).map(|id| (id + 1) % 24).take(n).collect());
    let nonsense = |ids: &[u32], n: usize| Ok(vec![VOCAB as u32 + ids.len() as u32 % 2; n + 5]);
    let mut calls = 0;
    let fails = move |_: &[u32], n: usize| {
        calls += 1;
        if calls > 2 { Err(Error::Empty) } else { Ok(vec![1; n]) }
    };
    let same = || Box::new(DraftModel::new(Fake::new(VOCAB, context, 1).engine(), 20));
    let other = || Box::new(DraftModel::new(Fake::new(VOCAB, 50, 2).engine(), 20));
    let mut seconds = 0.0;
    let clock = Box::new(move || {
        seconds += 1e-3;
        seconds
    });
    let sets: [Vec<Box<dyn Drafter>>; 9] = [
        vec![],
        vec![rule(right)],
        vec![rule(often_right)],
        vec![rule(wrong)],
        vec![rule(nonsense)],
        vec![rule(fails), Box::new(PromptLookup::new())],
        vec![Box::new(PromptLookup::new())],
        vec![same()],
        vec![other(), Box::new(PromptLookup::new())],
    ];
    let mut all: Vec<_> = sets.into_iter().map(|drafters| Speculator::new(drafters, None)).collect();
    all.push(Speculator::new(vec![same(), Box::new(PromptLookup::new())], Some(clock)));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn answers_are_those_of_plain_decoding(
        prompt in proptest::collection::vec(0u32..VOCAB as u32, 1..90),
        temperature in prop_oneof![Just(0f32), 0.1f32..2.0],
        (top_k, top_p, min_p, typical) in (0usize..8, 0.3f32..=1.0, 0f32..0.3, 0.3f32..=1.0),
        (repetition_penalty, frequency_penalty, presence_penalty) in prop_oneof![
            Just((1f32, 0f32, 0f32)), (0.8f32..1.4, -0.5f32..0.5, -0.5f32..0.5)
        ],
        bias in proptest::collection::vec((0u32..VOCAB as u32, -3f32..3.0), 0..3),
        seed: u64,
        max_tokens in prop_oneof![0usize..100, Just(usize::MAX)],
        stop_tokens in proptest::collection::vec(0u32..VOCAB as u32, 0..2),
        enough in prop_oneof![1usize..60, Just(usize::MAX)],
        context in 90usize..160,
        damaged in proptest::option::weighted(0.2, 0u32..VOCAB as u32),
    ) {
        let sampling = Sampling {
            temperature, top_k, top_p, min_p, typical, repetition_penalty, frequency_penalty, presence_penalty,
            logit_bias: bias, seed: Some(seed),
        };
        // Prompts that the model can read to their end.
        let damaged = damaged.filter(|id| prompt.last() != Some(id));
        let case = Case { prompt: &prompt, sampling: &sampling, limits: Limits { max_tokens, stop_tokens }, enough };
        let mut engine = Fake { damaged, ..Fake::new(VOCAB, context, 1) }.engine();
        let plain = answer(&mut engine, &case, None);
        for mut speculator in speculators(&plain, &prompt, context) {
            // Twice: what was learned, and the draft model's cache, are from the first time.
            for _ in 0..2 {
                let speculated = answer(&mut engine, &case, Some(&mut speculator));
                assert_equal(&plain, &speculated);
                prop_assert!(speculated.n_passes <= plain.n_passes);
                let Drafted { drafted, accepted } = speculator.counts();
                prop_assert!(accepted <= drafted);
            }
        }
    }
}

fn long_answer(sampling: &Sampling) -> Case<'_> {
    Case {
        prompt: &[1, 2, 3, 4, 5, 6],
        sampling,
        limits: Limits { max_tokens: 200, stop_tokens: vec![] },
        enough: usize::MAX,
    }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

#[test]
fn right_guesses_spare_passes_and_wrong_ones_end() {
    let sampling = greedy();
    let case = long_answer(&sampling);
    let mut engine = Fake::new(VOCAB, 256, 1).engine();
    let plain = answer(&mut engine, &case, None);
    assert_eq!(plain.n_passes, 199);
    let text: Vec<u32> = case.prompt.iter().copied().chain(plain.tokens.iter().map(|(id, _)| *id)).collect();
    let guess = |shift: u32| {
        let text = text.clone();
        rule(move |ids, n| Ok(text[ids.len()..].iter().take(n).map(|id| (id + shift) % 24).collect()))
    };

    let mut right = Speculator::new(vec![guess(0)], None);
    let speculated = answer(&mut engine, &case, Some(&mut right));
    assert_equal(&plain, &speculated);
    assert!(speculated.n_passes < 25, "{}", speculated.n_passes);
    // The token in front of the guesses, and those that they bring: all but the first of the answer.
    let Drafted { drafted, accepted } = right.counts();
    assert_eq!((drafted, accepted), (199 - speculated.n_passes, drafted));

    let mut wrong = Speculator::new(vec![guess(1)], None);
    let speculated = answer(&mut engine, &case, Some(&mut wrong));
    assert_eq!((speculated.n_passes, wrong.counts().accepted), (199, 0));
    assert!((1..90).contains(&wrong.counts().drafted), "{:?}", wrong.counts());

    // The model itself as draft: every guess is right, its text is the same twice.
    let draft = Fake::new(VOCAB, 256, 1);
    let n_passes = draft.n_passes.clone();
    let mut model = Speculator::new(vec![Box::new(DraftModel::new(draft.engine(), 20))], None);
    for _ in 0..2 {
        let speculated = answer(&mut engine, &case, Some(&mut model));
        assert_equal(&plain, &speculated);
        assert!(speculated.n_passes < 30 && model.counts().accepted == model.counts().drafted);
    }
    assert!(n_passes.load(Ordering::Relaxed) < 2 * 200 + 30);
}

#[test]
fn lookup_finds_loops() {
    // Greedy answers of a model that sees little of the past go round.
    let sampling = greedy();
    let case = long_answer(&sampling);
    let mut engine = Fake::new(VOCAB, 256, 5).engine();
    let plain = answer(&mut engine, &case, None);
    let mut lookup = Speculator::new(vec![Box::new(PromptLookup::new())], None);
    let speculated = answer(&mut engine, &case, Some(&mut lookup));
    assert_equal(&plain, &speculated);
    assert!(speculated.n_passes < 100, "{} {:?}", speculated.n_passes, lookup.counts());
}

#[test]
fn what_does_not_pay_ends_by_the_clock() {
    let sampling = greedy();
    let case = long_answer(&sampling);
    let text = {
        let mut engine = Fake::new(VOCAB, 256, 1).engine();
        let plain = answer(&mut engine, &case, None);
        let answer = plain.tokens.iter().map(|(id, _)| *id);
        case.prompt.iter().copied().chain(answer).collect::<Vec<_>>()
    };
    // A machine on which every token costs as much as the first: time is what the fake model has computed.
    let n_rows = Arc::new(Mutex::new(0.0));
    struct Slow(Fake, Arc<Mutex<f64>>);
    impl Model for Slow {
        fn config(&self) -> &Config {
            self.0.config()
        }
        fn kv_shape(&self) -> &KvShape {
            self.0.kv_shape()
        }
        fn max_batch(&self) -> usize {
            self.0.max_batch()
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn bytes_per_token(&self) -> u64 {
            1
        }
        fn forward(&mut self, batch: &Batch<'_>, logits: &mut Vec<f32>) -> Result<(), puna_llama::Error> {
            *self.1.lock().unwrap() += batch.ids.len() as f64;
            self.0.forward(batch, logits)
        }
    }
    let mut engine = Engine::new(Box::new(Slow(Fake::new(VOCAB, 256, 1), n_rows.clone())), 256);
    // Every other guess is right.
    let half =
        rule(move |ids, n| Ok((ids.len()..text.len()).take(n).map(|at| (text[at] + at as u32 % 2) % 24).collect()));
    let clock = n_rows.clone();
    let mut speculator = Speculator::new(vec![half], Some(Box::new(move || *clock.lock().unwrap())));
    for round in 0..3 {
        let before = *n_rows.lock().unwrap();
        answer(&mut engine, &case, Some(&mut speculator));
        let spent = *n_rows.lock().unwrap() - before;
        // The prompt, and a row for each token; when that is known, hardly more.
        assert!(spent < if round == 0 { 300.0 } else { 215.0 }, "round {round}: {spent}");
    }
}

/// The joint distribution of three tokens is the model's own (chi-square, 63 degrees of freedom).
#[test]
fn sampled_answers_keep_their_distribution() {
    const N: usize = 20_000;
    let prompt = [0, 1, 2];
    let model = Fake::new(4, 64, 9);
    let probabilities = |ids: &[u32]| {
        let weights: Vec<f64> = model.logits(ids).map(|logit| f64::from(logit).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect::<Vec<_>>()
    };
    let mut expected = vec![1.0; 64];
    for (i, p) in expected.iter_mut().enumerate() {
        let mut text = prompt.to_vec();
        for id in [i / 16, i / 4 % 4, i % 4] {
            *p *= probabilities(&text)[id];
            text.push(id as u32);
        }
    }
    let mut next = 0;
    let guess = move |_: &[u32], n: usize| {
        next = (next + 1) % 4;
        Ok(vec![next; n])
    };
    let sets: [Vec<Box<dyn Drafter>>; 3] = [
        vec![Box::new(DraftModel::new(Fake::new(4, 64, 9).engine(), 20))],
        vec![Box::new(DraftModel::new(Fake::new(4, 64, 7).engine(), 20))],
        vec![rule(guess), Box::new(PromptLookup::new())],
    ];
    let mut engine = Fake::new(4, 64, 9).engine();
    for drafters in sets {
        let mut speculator = Speculator::new(drafters, None);
        let mut counts = vec![0f64; 64];
        let mut accepted = 0;
        for seed in 0..N as u64 {
            let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
            let limits = Limits { max_tokens: 3, stop_tokens: vec![] };
            let case = Case { prompt: &prompt, sampling: &sampling, limits, enough: usize::MAX };
            let tokens = answer(&mut engine, &case, Some(&mut speculator)).tokens;
            counts[tokens.iter().fold(0, |at, (id, _)| 4 * at + *id as usize)] += 1.0;
            accepted += speculator.counts().accepted;
        }
        let chi_square: f64 =
            counts.iter().zip(&expected).map(|(n, p)| (n - p * N as f64).powi(2) / (p * N as f64)).sum();
        // Five standard deviations of the distribution above its mean.
        assert!(chi_square < 63.0 + 5.0 * (2.0f64 * 63.0).sqrt(), "{chi_square}");
        assert!(accepted > N / 50, "guesses were accepted, so there was something to test: {accepted}");
    }
}

#[test]
fn a_drafter_that_fails_is_named_and_ends_nothing() {
    let sampling = greedy();
    let case = long_answer(&sampling);
    let mut engine = Fake::new(VOCAB, 256, 1).engine();
    let plain = answer(&mut engine, &case, None);
    let damaged = Fake { damaged: Some(plain.tokens[1].0), ..Fake::new(VOCAB, 256, 1) };
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(damaged.engine(), 20))], None);
    for _ in 0..2 {
        let speculated = answer(&mut engine, &case, Some(&mut speculator));
        assert_equal(&plain, &speculated);
        assert!(speculator.failure().unwrap().to_string().contains("not finite"));
    }
    speculator.begin();
    assert!(speculator.failure().is_none());
}

/// A long prompt is caught up with step by step.
#[test]
fn a_draft_model_catches_up() {
    let prompt: Vec<u32> = (0..600).map(|i| i * i % 23).collect();
    let sampling = greedy();
    let limits = Limits { max_tokens: 100, stop_tokens: vec![] };
    let case = Case { prompt: &prompt, sampling: &sampling, limits, enough: usize::MAX };
    let mut engine = Fake::new(VOCAB, 1000, 1).engine();
    let plain = answer(&mut engine, &case, None);
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(Fake::new(VOCAB, 1000, 1).engine(), 20))], None);
    let speculated = answer(&mut engine, &case, Some(&mut speculator));
    assert_equal(&plain, &speculated);
    assert!(speculator.counts().accepted > 70, "{:?}", speculator.counts());
    // One whose context ends earlier drafts no further.
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(Fake::new(VOCAB, 650, 1).engine(), 20))], None);
    assert_equal(&plain, &answer(&mut engine, &case, Some(&mut speculator)));
    assert!((20..60).contains(&speculator.counts().accepted), "{:?}", speculator.counts());
}
