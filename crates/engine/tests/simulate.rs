//! The batcher under load, simulated: requests come and go by chance, pages run short, logits are damaged; what every
//! request gets is what it would get alone, and nothing is left behind.
//!
//! All chance comes from a seed. `PUNA_SIMULATE=SEEDS` simulates so many instead of a few; a failure names its seed.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::Fake;
use puna_engine::{
    BatchLimits, Batcher, Constraint, ConstraintError, DraftModel, Engine, Error, Event, Finish, Limits, PAGE_LEN,
    PromptLookup, PromptScores, Request, RequestId, Sampler, Sampling, Scope, Scored, Speculator,
    sampler::LogProbabilities,
};
use std::collections::HashMap;

const VOCAB: usize = 24;
/// Few texts, so that many have their beginnings in common.
const N_TEXTS: u64 = 3;

/// Random numbers of a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Allows some tokens, others after each token, and may fail after some.
#[derive(Clone)]
struct Sieve {
    state: u64,
    lasts: usize,
    allowed: [u32; 1],
}

impl Sieve {
    fn boxed(state: u64, lasts: usize) -> Box<dyn Constraint> {
        Box::new(Sieve { state, lasts, allowed: [0] })
    }
}

impl Constraint for Sieve {
    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }

    fn allowed(&mut self) -> Result<&[u32], ConstraintError> {
        if self.lasts == 0 {
            return Err(ConstraintError::Failed { n_tokens: 0, problem: "used up".into() });
        }
        // At least one bit of the vocabulary's.
        self.allowed[0] = (Random(self.state).next() as u32 | 1 << (self.state % VOCAB as u64)) & ((1 << VOCAB) - 1);
        Ok(&self.allowed)
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        if self.allowed()?[0] >> id & 1 == 0 {
            return Err(ConstraintError::NotAllowed { id });
        }
        self.state = self.state.wrapping_mul(31).wrapping_add(u64::from(id));
        self.lasts -= 1;
        Ok(())
    }
}

/// What one request is told, in order.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Score(usize, u32, u32),
    Pooled([u32; 2]),
    Token(u32, u32),
    Finished(Finish),
    Failed,
}

/// What a request is told if it is alone with the model: picked from the logits one by one.
fn alone(model: &Fake, context: usize, request: &Request) -> Vec<Told> {
    let mut told = Vec::new();
    let mut sampler = Sampler::new(request.sampling.clone(), VOCAB, &request.prompt, request.seed).unwrap();
    let finite = |logits: &[f32]| logits.iter().all(|logit| logit.is_finite());
    let mut ids = request.prompt.clone();
    let mut constraint = request.constraint.clone();
    if request.pool {
        let state = |n| model.state(model.hash(&ids[..n], request.adapter), ids[n - 1]);
        let states: Vec<[f32; 2]> = (1..=ids.len()).map(state).collect();
        if !finite(states.as_flattened()) {
            return vec![Told::Failed];
        }
        let mean = [0, 1].map(|i| states.iter().map(|state| f64::from(state[i])).sum::<f64>() / ids.len() as f64);
        return vec![Told::Pooled(mean.map(|mean| (mean as f32).to_bits())), Told::Finished(Finish::Length)];
    }
    for position in request.prompt_scores.map_or(ids.len(), |scores| scores.from.max(1))..ids.len() {
        let logits = model.logits(&ids[..position], request.adapter);
        if !finite(&logits) {
            told.push(Told::Failed);
            return told;
        }
        let id = ids[position];
        told.push(Told::Score(position, id, LogProbabilities::new(&logits).of(id).to_bits()));
    }
    loop {
        let logits = model.logits(&ids, request.adapter);
        if !finite(&logits) {
            told.push(Told::Failed);
            return told;
        }
        if request.limits.max_tokens == 0 {
            told.push(Told::Finished(Finish::Length));
            return told;
        }
        let id = match &mut constraint {
            None => sampler.pick(&logits, None),
            Some(constraint) => {
                let Ok(allowed) = constraint.allowed() else {
                    told.push(Told::Failed);
                    return told;
                };
                let id = sampler.pick(&logits, Some(allowed));
                constraint.accept(id).unwrap();
                id
            }
        };
        sampler.accept(id);
        ids.push(id);
        told.push(Told::Token(id, LogProbabilities::new(&logits).of(id).to_bits()));
        let finish = if request.limits.stop_tokens.contains(&id) {
            Finish::Stop(id)
        } else if ids.len() - request.prompt.len() >= request.limits.max_tokens {
            Finish::Length
        } else if ids.len() > context {
            Finish::Context
        } else {
            continue;
        };
        told.push(Told::Finished(finish));
        return told;
    }
}

/// A text that begins like others do.
fn prompt(random: &mut Random, context: usize) -> Vec<u32> {
    let longest = if random.chance(30) { context } else { context / 4 };
    let len = 1 + random.below(longest);
    let text = random.next() % N_TEXTS;
    let own = random.below(len + 1);
    (0..len)
        .map(|i| {
            if i < own {
                ((text * 7 + i as u64 * (text + 3)) % VOCAB as u64) as u32
            } else {
                random.below(VOCAB) as u32
            }
        })
        .collect()
}

fn request(random: &mut Random, context: usize) -> Request {
    let prompt = prompt(random, context);
    let temperature = if random.chance(50) { 0.0 } else { 0.8 };
    let from = random.below(prompt.len());
    let pool = random.chance(15);
    Request {
        sampling: Sampling {
            temperature,
            top_k: random.below(6),
            frequency_penalty: if random.chance(20) { 0.3 } else { 0.0 },
            ..Sampling::default()
        },
        seed: random.next(),
        limits: Limits {
            max_tokens: match pool {
                true => 0,
                false if random.chance(10) => usize::MAX,
                false => random.below(80),
            },
            stop_tokens: if random.chance(50) { vec![random.below(VOCAB) as u32] } else { vec![] },
        },
        constraint: random.chance(30).then(|| Sieve::boxed(random.next() >> 8, 1 + random.below(100))),
        scope: Scope([random.below(3) as u8; 32]),
        adapter: if random.chance(40) { Some(random.below(2) as u32) } else { None },
        top: random.below(3),
        prompt_scores: (!pool && random.chance(15)).then_some(PromptScores { from, top: 2 }),
        pool,
        speculate: random.chance(70),
        prompt,
    }
}

/// Simulates one seed; how many steps that took, or what went wrong.
fn simulate(seed: u64, faulty: Option<usize>) -> Result<usize, String> {
    let mut random = Random(seed);
    let random = &mut random;
    let context = 64 + random.below(300);
    let damaged = random.chance(30).then(|| random.below(VOCAB) as u32);
    let model = || Fake { damaged, ..Fake::new(VOCAB, context, seed) };
    // From hardly enough for one to enough for many.
    let n_pages = (context + random.below(4 * context)).div_ceil(PAGE_LEN);
    let mut served = Fake { faulty, ..model() };
    served.shape.n_pages = n_pages;
    served.cache = vec![(0, 0); n_pages * PAGE_LEN];
    let mut engine = Engine::new(Box::new(served), context);
    engine.set_chunk(1 + random.below(32));
    let speculator = match random.below(3) {
        0 => None,
        1 => Some(Speculator::new(vec![Box::new(PromptLookup::new())], None)),
        _ => Some(Speculator::new(vec![Box::new(DraftModel::new(Fake::new(VOCAB, context, seed).engine(), 9))], None)),
    };
    let limits = BatchLimits { max_running: 1 + random.below(12), mixed_chunk: 1 + random.below(20) };
    let mut batcher = Batcher::new(engine, speculator, limits);
    let reference = model();

    let n_requests = 1 + random.below(40);
    let mut told: HashMap<RequestId, (Request, Vec<Told>)> = HashMap::new();
    let mut cancelled: Vec<RequestId> = Vec::new();
    let (mut n_submitted, mut n_steps) = (0, 0);
    loop {
        while n_submitted < n_requests && random.chance(25) {
            let request = request(random, context);
            let id = batcher.submit(request.clone()).map_err(|error| error.to_string())?;
            told.insert(id, (request, Vec::new()));
            n_submitted += 1;
        }
        if random.chance(3) && !told.is_empty() {
            let mut ids: Vec<_> = told.keys().copied().collect();
            ids.sort();
            let id = ids[random.below(ids.len())];
            batcher.cancel(id);
            cancelled.push(id);
        }
        let mut problem = None;
        let stepped = batcher.step(&mut |id, event| {
            if cancelled.contains(&id) {
                problem = Some(format!("{id:?} was cancelled, and is told {event:?}"));
            }
            let Some((request, told)) = told.get_mut(&id) else {
                problem = Some(format!("nobody is {id:?}"));
                return;
            };
            let scored = |Scored { token, top }: Scored, n_top: usize| {
                let listed = top.iter().find(|other| other.id == token.id).is_none_or(|other| *other == token);
                let sorted = top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob);
                assert!(top.len() == n_top && listed && sorted, "{token:?} {top:?}");
                (token.id, token.logprob.to_bits())
            };
            match event {
                Event::Prefill { done, total, cached } => {
                    if done > total || done + cached > request.prompt.len() {
                        problem = Some(format!("{id:?}: {done} of {total}"));
                    }
                }
                Event::PromptScore { position, score } => {
                    let (token, bits) = scored(score, 2);
                    told.push(Told::Score(position, token, bits));
                }
                Event::Pooled(mean) => {
                    let mean = mean.try_into().expect("as wide as the model");
                    told.push(Told::Pooled(<[f32; 2]>::map(mean, f32::to_bits)));
                }
                Event::Token(score) => {
                    let (token, bits) = scored(score, request.top);
                    told.push(Told::Token(token, bits));
                }
                Event::Finished(finish) => told.push(Told::Finished(finish)),
                Event::Failed(Error::NotFinite { .. } | Error::Constraint(_)) => told.push(Told::Failed),
                Event::Failed(error) => problem = Some(format!("{id:?}: {error}")),
            }
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
        n_steps += 1;
        let load = batcher.load();
        if load.running > limits.max_running || load.used_pages + load.idle_pages > n_pages {
            return Err(format!("{load:?}"));
        }
        if !stepped {
            if load.waiting + load.running > 0 {
                return Err(format!("nothing is done, and there is work: {load:?}"));
            }
            if n_submitted == n_requests {
                break;
            }
        }
        if n_steps > 100_000 {
            return Err("no end".into());
        }
    }
    if batcher.load().used_pages > 0 {
        return Err(format!("pages are left: {:?}", batcher.load()));
    }
    for (id, (request, told)) in told {
        let expected = alone(&reference, context, &request);
        let right = if cancelled.contains(&id) { expected.starts_with(&told) } else { expected == told };
        if !right {
            let at = expected.iter().zip(&told).take_while(|(a, b)| a == b).count();
            return Err(format!(
                "{id:?}, a prompt of {} tokens: event {at}: expected {:?}, found {:?}",
                request.prompt.len(),
                expected.get(at),
                told.get(at)
            ));
        }
    }
    Ok(n_steps)
}

#[test]
fn everybody_is_answered_as_if_alone() {
    let n_seeds: u64 = std::env::var("PUNA_SIMULATE").map_or(200, |seeds| seeds.parse().expect("a number of seeds"));
    let mut n_steps = 0;
    for seed in 0..n_seeds {
        n_steps += simulate(seed, None).unwrap_or_else(|problem| panic!("seed {seed}: {problem}"));
    }
    println!("{n_steps} steps of {n_seeds} seeds");
    assert!(n_steps as u64 > 100 * n_seeds);
}

/// The canary: a cache that loses a token now and then is noticed.
#[test]
fn a_planted_fault_is_found() {
    let found = (0..50).filter(|seed| {
        let result = std::panic::catch_unwind(|| simulate(*seed, Some(40)));
        !matches!(result, Ok(Ok(_)))
    });
    assert!(found.count() > 25);
}

/// Cached prefixes spare their prefill, and the answer is the same.
#[test]
fn a_prefix_is_computed_once() {
    let context = 1000;
    let mut batcher = Batcher::new(Fake::new(VOCAB, context, 7).engine(), None, BatchLimits::default());
    let mut ask = |n: usize, scope: u8| {
        let prompt: Vec<u32> = (0..n as u32).map(|i| i * i % VOCAB as u32).collect();
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let request = Request::new(prompt, greedy, Limits { max_tokens: 5, stop_tokens: vec![] });
        let request = Request { scope: Scope([scope; 32]), ..request };
        batcher.submit(request).unwrap();
        let (mut found, mut tokens) = (0, Vec::new());
        while batcher.step(&mut |_, event| match event {
            Event::Prefill { cached, .. } => found = cached,
            Event::Token(Scored { token, .. }) => tokens.push(token),
            _ => {}
        }) {}
        (found, tokens)
    };
    let (cached, first) = ask(600, 0);
    assert_eq!(cached, 0);
    // All but the last token, for whose logits it is computed again; that is in a page which nobody else has.
    let (cached, again) = ask(600, 0);
    assert_eq!((cached, &again), (599, &first));
    // One token more than agrees with the last answer's page.
    assert_eq!(ask(700, 0).0, 600);
    // The last page is wanted by longer texts: a part of it is nobody's.
    assert_eq!(ask(576, 0).0, 576 - PAGE_LEN);
    // Another scope finds nothing, and says the same.
    let (cached, other) = ask(600, 1);
    assert_eq!((cached, other), (0, first));
}
