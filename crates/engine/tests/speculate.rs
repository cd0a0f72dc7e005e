//! Whoever guesses, and whatever: an answer is the one without guesses, to the last bit.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::Fake;
use proptest::prelude::*;
use puna_engine::{
    BatchLimits, Batcher, DraftModel, Drafted, Drafter, Engine, Error, Event, Finish, Limits, PromptLookup, Request,
    Sampling, Scored, Speculator,
};
use puna_llama::{Model, Through};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

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

/// With the batcher's speculator, if it has one.
fn answer(batcher: &mut Batcher, case: &Case<'_>) -> Outcome {
    let request = Request::new(case.prompt.to_vec(), case.sampling.clone(), case.limits.clone());
    let id = batcher.submit(request).unwrap();
    let mut outcome = Outcome { tokens: Vec::new(), finish: None, error: None, n_passes: 0 };
    loop {
        let answering = !outcome.tokens.is_empty();
        let stepped = batcher.step(&mut |_, event| match event {
            Event::Token(Scored { token, .. }) if outcome.tokens.len() < case.enough => {
                outcome.tokens.push((token.id, token.logprob.to_bits()));
            }
            Event::Finished(finish) => outcome.finish = Some(finish),
            Event::Failed(error) => outcome.error = Some(error.to_string()),
            _ => {}
        });
        outcome.n_passes += usize::from(answering && stepped);
        if outcome.tokens.len() >= case.enough {
            batcher.cancel(id);
            outcome.finish = None;
        }
        if !stepped {
            return outcome;
        }
    }
}

fn speculating(batcher: &mut Batcher, case: &Case<'_>, speculator: Speculator) -> (Outcome, Drafted) {
    batcher.set_speculator(Some(speculator));
    let outcome = answer(batcher, case);
    (outcome, batcher.speculator().unwrap().counts())
}

fn batcher(model: impl Model + 'static) -> Batcher {
    let context = model.config().context_length;
    Batcher::new(Engine::new(Box::new(model), context), None, BatchLimits::default())
}

#[track_caller]
fn assert_equal(plain: &Outcome, speculated: &Outcome) {
    assert_eq!(plain.tokens, speculated.tokens);
    assert_eq!(plain.finish, speculated.finish);
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
        let mut batcher = batcher(Fake { damaged, ..Fake::new(VOCAB, context, 1) });
        let plain = answer(&mut batcher, &case);
        for speculator in speculators(&plain, &prompt, context) {
            batcher.set_speculator(Some(speculator));
            // Twice: what was learned, and the draft model's cache, are from the first time.
            for _ in 0..2 {
                let speculated = answer(&mut batcher, &case);
                assert_equal(&plain, &speculated);
                prop_assert!(speculated.n_passes <= plain.n_passes);
                let Drafted { drafted, accepted } = batcher.speculator().unwrap().counts();
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
    let mut batcher = batcher(Fake::new(VOCAB, 256, 1));
    let plain = answer(&mut batcher, &case);
    assert_eq!(plain.n_passes, 199);
    let text: Vec<u32> = case.prompt.iter().copied().chain(plain.tokens.iter().map(|(id, _)| *id)).collect();
    let guess = |shift: u32| {
        let text = text.clone();
        rule(move |ids, n| Ok(text[ids.len()..].iter().take(n).map(|id| (id + shift) % 24).collect()))
    };

    let (speculated, counts) = speculating(&mut batcher, &case, Speculator::new(vec![guess(0)], None));
    assert_equal(&plain, &speculated);
    assert!(speculated.n_passes < 25, "{}", speculated.n_passes);
    // The token in front of the guesses, and those that they bring: all but the first of the answer.
    let Drafted { drafted, accepted } = counts;
    assert_eq!((drafted, accepted), (199 - speculated.n_passes, drafted));

    let (speculated, wrong) = speculating(&mut batcher, &case, Speculator::new(vec![guess(1)], None));
    assert_eq!((speculated.n_passes, wrong.accepted), (199, 0));
    assert!((1..90).contains(&wrong.drafted), "{wrong:?}");

    // The model itself as draft: every guess is right, its text is the same twice.
    let draft = Fake::new(VOCAB, 256, 1);
    let n_passes = draft.n_passes.clone();
    let model = Speculator::new(vec![Box::new(DraftModel::new(draft.engine(), 20))], None);
    batcher.set_speculator(Some(model));
    for _ in 0..2 {
        let speculated = answer(&mut batcher, &case);
        assert_equal(&plain, &speculated);
        let counts = batcher.speculator().unwrap().counts();
        assert!(speculated.n_passes < 30 && counts.accepted == counts.drafted);
    }
    assert!(n_passes.load(Ordering::Relaxed) < 2 * 200 + 30);
}

#[test]
fn lookup_finds_loops() {
    // Greedy answers of a model that sees little of the past go round.
    let sampling = greedy();
    let case = long_answer(&sampling);
    let mut batcher = batcher(Fake::new(VOCAB, 256, 1));
    let plain = answer(&mut batcher, &case);
    let lookup = Speculator::new(vec![Box::new(PromptLookup::new())], None);
    let (speculated, counts) = speculating(&mut batcher, &case, lookup);
    assert_equal(&plain, &speculated);
    assert!(speculated.n_passes < 100, "{} {:?}", speculated.n_passes, counts);
}

#[test]
fn what_does_not_pay_ends_by_the_clock() {
    let sampling = greedy();
    let case = long_answer(&sampling);
    let text = {
        let mut batcher = batcher(Fake::new(VOCAB, 256, 1));
        let plain = answer(&mut batcher, &case);
        let answer = plain.tokens.iter().map(|(id, _)| *id);
        case.prompt.iter().copied().chain(answer).collect::<Vec<_>>()
    };
    // A machine on which every token costs as much as the first: time is what the fake model has computed.
    let n_rows = Arc::new(Mutex::new(0.0));
    let computed = n_rows.clone();
    let fake = Box::new(Fake::new(VOCAB, 256, 1));
    let mut batcher = batcher(Through::new(fake, move |model, input, outputs| {
        *computed.lock().unwrap() += input.batch.ids.len() as f64;
        model.forward(input, outputs)
    }));
    // Every other guess is right.
    let half =
        rule(move |ids, n| Ok((ids.len()..text.len()).take(n).map(|at| (text[at] + at as u32 % 2) % 24).collect()));
    let clock = n_rows.clone();
    batcher.set_speculator(Some(Speculator::new(vec![half], Some(Box::new(move || *clock.lock().unwrap())))));
    for round in 0..3 {
        let before = *n_rows.lock().unwrap();
        answer(&mut batcher, &case);
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
        let weights: Vec<f64> = model.logits(ids, None).into_iter().map(|logit| f64::from(logit).exp()).collect();
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
    let mut batcher = batcher(Fake::new(4, 64, 9));
    for drafters in sets {
        batcher.set_speculator(Some(Speculator::new(drafters, None)));
        let mut counts = vec![0f64; 64];
        let mut accepted = 0;
        for seed in 0..N as u64 {
            let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
            let limits = Limits { max_tokens: 3, stop_tokens: vec![] };
            let case = Case { prompt: &prompt, sampling: &sampling, limits, enough: usize::MAX };
            let tokens = answer(&mut batcher, &case).tokens;
            counts[tokens.iter().fold(0, |at, (id, _)| 4 * at + *id as usize)] += 1.0;
            accepted += batcher.speculator().unwrap().counts().accepted;
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
    let mut batcher = batcher(Fake::new(VOCAB, 256, 1));
    let plain = answer(&mut batcher, &case);
    let damaged = Fake { damaged: Some(plain.tokens[1].0), ..Fake::new(VOCAB, 256, 1) };
    batcher.set_speculator(Some(Speculator::new(vec![Box::new(DraftModel::new(damaged.engine(), 20))], None)));
    for _ in 0..2 {
        let speculated = answer(&mut batcher, &case);
        assert_equal(&plain, &speculated);
        let speculator = batcher.speculator().unwrap();
        assert!(speculator.failure().unwrap().to_string().contains("not finite"));
    }
}

/// A long prompt is caught up with step by step.
#[test]
fn a_draft_model_catches_up() {
    let prompt: Vec<u32> = (0..600).map(|i| i * i % 23).collect();
    let sampling = greedy();
    let limits = Limits { max_tokens: 100, stop_tokens: vec![] };
    let case = Case { prompt: &prompt, sampling: &sampling, limits, enough: usize::MAX };
    let mut batcher = batcher(Fake::new(VOCAB, 1000, 1));
    let plain = answer(&mut batcher, &case);
    let draft =
        |context| Speculator::new(vec![Box::new(DraftModel::new(Fake::new(VOCAB, context, 1).engine(), 20))], None);
    let (speculated, counts) = speculating(&mut batcher, &case, draft(1000));
    assert_equal(&plain, &speculated);
    assert!(counts.accepted > 70, "{counts:?}");
    // One whose context ends earlier drafts no further.
    let (speculated, counts) = speculating(&mut batcher, &case, draft(650));
    assert_equal(&plain, &speculated);
    assert!((20..60).contains(&counts.accepted), "{counts:?}");
}
