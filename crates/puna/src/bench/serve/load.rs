//! Loads: when requests come, how long they are, and what became of them.

use super::client::{Address, Outcome, Usage};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Random numbers that follow from a seed: a counter, mixed.
struct Random(u64);

impl Random {
    /// Those of one request in one load.
    fn new(seed: u64, load: usize, request: usize) -> Random {
        let mut random = Random(seed);
        for value in [load, request] {
            random.0 = random.next() ^ value as u64;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^ (mixed >> 32)
    }

    /// At least 0, below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// So many clients ask one request after another.
    Clients(usize),
    /// So many a second, at times that know nothing of each other, whether others are answered or not.
    Rate(f64),
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arrivals::Clients(1) => f.write_str("1 client"),
            Arrivals::Clients(n) => write!(f, "{n} clients"),
            Arrivals::Rate(rate) => write!(f, "{rate:.3} a second"),
        }
    }
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub arrivals: Arrivals,
    pub n_requests: usize,
    /// Share of the prompts that they all have in common.
    pub shared: f64,
}

/// How long prompts and answers are, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub prompt: usize,
    pub answer: usize,
    /// They are up to this share longer or shorter.
    pub spread: f64,
}

/// What prompts are made of: short words that most vocabularies have as one token each.
const WORDS: [&str; 32] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "number", "night", "point", "home",
];

fn words(random: &mut Random, n: usize, text: &mut String) {
    for _ in 0..n {
        *text += WORDS[(random.next() % WORDS.len() as u64) as usize];
        text.push(' ');
    }
}

/// Asks a server.
pub struct Asker {
    address: Address,
    model: String,
    seed: u64,
    lengths: Lengths,
    /// Tokens of a prompt without words, and of each word.
    fixed: f64,
    per_word: f64,
}

impl Asker {
    /// Learns by two requests how many words make a prompt of so many tokens.
    pub async fn new(address: Address, seed: u64, lengths: Lengths) -> Result<Asker> {
        let model = address.model().await?;
        let mut asker = Asker { address, model, seed, lengths, fixed: 0.0, per_word: 1.0 };
        let [few, many] = [32, 128];
        let [least, most] = [asker.count(few).await?, asker.count(many).await?];
        asker.per_word = (most - least) / (many - few) as f64;
        asker.fixed = least - asker.per_word * few as f64;
        if asker.per_word <= 0.0 {
            bail!("{address}: expected a longer prompt to have more tokens, found {least} and {most}");
        }
        Ok(asker)
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Tokens of a prompt with so many words.
    async fn count(&self, n_words: usize) -> Result<f64> {
        let mut text = String::new();
        words(&mut Random::new(self.seed, usize::MAX, n_words), n_words, &mut text);
        match self.address.ask(&self.body(&text, 1)).await {
            Outcome::Answered { usage, .. } => Ok(usage.prompt_tokens as f64),
            Outcome::Refused { .. } => bail!("{}: expected an idle server, found one without room", self.address),
            Outcome::Failed(error) => bail!("{}: {error}", self.address),
        }
    }

    fn body(&self, text: &str, n_answer: usize) -> Value {
        json!({
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": n_answer,
            "ignore_eos": true,
            // Of random weights, a nucleus is nearly all tokens, and picking from it costs as much as a layer.
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        })
    }

    /// One request of a load.
    fn request(&self, load: &Load, n_load: usize, n: usize) -> Value {
        let mut random = Random::new(self.seed, n_load, n);
        let mut length = |mean: usize| {
            let factor = 1.0 + self.lengths.spread * (2.0 * random.unit() - 1.0);
            (mean as f64 * factor).round().max(1.0)
        };
        let n_words = ((length(self.lengths.prompt) - self.fixed) / self.per_word).round().max(1.0) as usize;
        let n_answer = length(self.lengths.answer) as usize;
        let mut text = String::new();
        // Of the shortest prompt: all of them begin with it.
        let shared = load.shared * (1.0 - self.lengths.spread) * self.lengths.prompt as f64;
        let n_shared = (((shared - self.fixed) / self.per_word).round().max(0.0) as usize).min(n_words);
        words(&mut Random::new(self.seed, n_load, usize::MAX), n_shared, &mut text);
        words(&mut random, n_words - n_shared, &mut text);
        self.body(&text, n_answer)
    }

    /// Brings a load to the server, and waits for all that becomes of it.
    pub async fn run(self: &Arc<Self>, load: Load, n_load: usize, bar: &ProgressBar) -> Result<Measured> {
        if load.shared > 0.0 {
            // Somebody was there before.
            let first = self.request(&load, n_load, load.n_requests);
            if let Outcome::Failed(error) = self.address.ask(&first).await {
                bail!("{}: {error}", self.address);
            }
        }
        let records = Arc::new(Mutex::new(Vec::with_capacity(load.n_requests)));
        let start = Instant::now();
        let ask = {
            let (asker, records, bar) = (self.clone(), records.clone(), bar.clone());
            move |n: usize, due: Option<Instant>| {
                let (asker, records, bar) = (asker.clone(), records.clone(), bar.clone());
                async move {
                    let body = asker.request(&load, n_load, n);
                    let since = due.unwrap_or_else(Instant::now);
                    let outcome = asker.address.ask(&body).await;
                    let retry_after = match outcome {
                        Outcome::Refused { retry_after, .. } => Some(retry_after),
                        _ => None,
                    };
                    records.lock().unwrap_or_else(PoisonError::into_inner).push((since, outcome));
                    bar.inc(1);
                    retry_after
                }
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        match load.arrivals {
            Arrivals::Clients(n_clients) => {
                let next = Arc::new(AtomicUsize::new(0));
                for _ in 0..n_clients {
                    let (ask, next) = (ask.clone(), next.clone());
                    tasks.spawn(async move {
                        loop {
                            let n = next.fetch_add(1, Ordering::Relaxed);
                            if n >= load.n_requests {
                                return;
                            }
                            // Who is told to come later does.
                            if let Some(seconds) = ask(n, None).await {
                                tokio::time::sleep(Duration::from_secs_f64(seconds.clamp(0.0, 60.0))).await;
                            }
                        }
                    });
                }
            }
            Arrivals::Rate(rate) => {
                let (mut random, mut due) = (Random::new(self.seed, n_load, usize::MAX - 1), start);
                for n in 0..load.n_requests {
                    due += Duration::from_secs_f64((-(1.0 - random.unit()).ln() / rate).min(86_400.0));
                    tokio::time::sleep_until(due.into()).await;
                    let asking = ask(n, Some(due));
                    // What it waited for us counts, too.
                    tasks.spawn(async move {
                        asking.await;
                    });
                }
            }
        }
        while let Some(task) = tasks.join_next().await {
            task.context("a client")?;
        }
        let records = std::mem::take(&mut *records.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Measured::new(load, start, records))
    }
}

/// Seconds, ascending.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    fn new(mut seconds: Vec<f64>) -> Times {
        seconds.sort_by(f64::total_cmp);
        Times(seconds)
    }

    /// What so large a share took at most; none of nothing.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        Some(self.0[((self.0.len() as f64 * share).ceil() as usize).saturating_sub(1).min(last)])
    }
}

/// What became of a load.
pub struct Measured {
    pub load: Load,
    pub answered: usize,
    pub refused: usize,
    pub failed: usize,
    /// One of the failures.
    pub failure: Option<String>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Tokens of all answered requests.
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub answer_tokens: u64,
    /// From a request to the first piece of its answer.
    pub first: Times,
    /// Between two pieces of an answer.
    pub between: Times,
    /// From a request to the end of its answer.
    pub whole: Times,
    /// From a request to its refusal.
    pub refusal: Times,
}

impl Measured {
    fn new(load: Load, start: Instant, records: Vec<(Instant, Outcome)>) -> Measured {
        let (mut first, mut between, mut whole, mut refusal) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut last, mut failed, mut failure, mut all) = (start, 0, None, Vec::<Usage>::new());
        for (since, outcome) in records {
            let after = |end: Instant| end.saturating_duration_since(since).as_secs_f64();
            match outcome {
                Outcome::Answered { pieces, end, usage } => {
                    first.extend(pieces.first().map(|piece| after(*piece)));
                    between.extend(pieces.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()));
                    whole.push(after(end));
                    last = last.max(end);
                    all.push(usage);
                }
                Outcome::Refused { end, .. } => refusal.push(after(end)),
                Outcome::Failed(error) => {
                    failed += 1;
                    failure.get_or_insert(error);
                }
            }
        }
        let sum = |tokens: fn(&Usage) -> u64| all.iter().map(tokens).sum();
        Measured {
            load,
            answered: all.len(),
            refused: refusal.len(),
            failed,
            failure,
            seconds: (last - start).as_secs_f64(),
            prompt_tokens: sum(|usage| usage.prompt_tokens),
            cached_tokens: sum(Usage::cached_tokens),
            answer_tokens: sum(|usage| usage.completion_tokens),
            first: Times::new(first),
            between: Times::new(between),
            whole: Times::new(whole),
            refusal: Times::new(refusal),
        }
    }

    /// Answered requests a second.
    pub fn requests_per_second(&self) -> f64 {
        self.answered as f64 / self.seconds.max(1e-9)
    }

    /// Tokens of answers a second: of whole ones only.
    pub fn tokens_per_second(&self) -> f64 {
        self.answer_tokens as f64 / self.seconds.max(1e-9)
    }

    /// Of so many tokens, how many each answered request has.
    pub fn mean(&self, tokens: u64) -> f64 {
        tokens as f64 / self.answered.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = Times::new((1..=100).rev().map(f64::from).collect());
        let quantiles = [0.0, 0.5, 0.95, 0.99, 1.0].map(|share| times.quantile(share).unwrap());
        assert_eq!(quantiles, [1.0, 50.0, 95.0, 99.0, 100.0]);
        assert_eq!(Times::new(vec![3.0]).quantile(0.99), Some(3.0));
        assert_eq!(Times::default().quantile(0.5), None);
    }

    #[test]
    fn requests_follow_from_the_seed_and_share_what_they_should() {
        let lengths = Lengths { prompt: 100, answer: 20, spread: 0.5 };
        let address = "http://127.0.0.1:1".parse().unwrap();
        let asker = Asker { address, model: "m".into(), seed: 7, lengths, fixed: 10.0, per_word: 1.0 };
        let load = |shared| Load { arrivals: Arrivals::Clients(1), n_requests: 9, shared };
        let texts = |shared, n_load| {
            let text =
                |n| asker.request(&load(shared), n_load, n)["messages"][0]["content"].as_str().unwrap().to_owned();
            (0..50).map(text).collect::<Vec<_>>()
        };
        assert_eq!(texts(0.0, 0), texts(0.0, 0));
        assert_ne!(texts(0.0, 0), texts(0.0, 1));
        let counts: Vec<usize> = texts(0.0, 0).iter().map(|text| text.split(' ').count() - 1).collect();
        assert!(counts.iter().all(|n| (40..=140).contains(n)), "{counts:?}");
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() > 50, "{counts:?}");
        // 80 % of the 50 tokens that each has at least, of which 10 are no words.
        let texts = texts(0.8, 0);
        let words: Vec<Vec<&str>> = texts.iter().map(|text| text.split(' ').collect()).collect();
        let common = |n: usize| words.iter().all(|text| text[..n] == words[0][..n]);
        assert!(common(30) && !common(34));
    }
}
