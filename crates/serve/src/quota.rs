//! Quotas: how many requests and tokens a key may still take.
//!
//! Each limit is a bucket that holds as much as the limit allows in its window and is refilled steadily. So a key that
//! was idle may take a whole window's worth at once; over time it gets what the limit says, and within no window more
//! than twice that, less what requests give back.
//!
//! A request is admitted with the tokens that it may take at most, and settled with those that it took. One that is
//! never settled has taken them all. Nothing here reads a clock: times are durations since any moment, as long as it is
//! always the same.

use crate::keys::{KeyId, Limits};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Requests a minute.
    RequestsPerMinute,
    /// Tokens a minute.
    TokensPerMinute,
    /// Tokens a day.
    TokensPerDay,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::RequestsPerMinute => "requests per minute",
            Limit::TokensPerMinute => "tokens per minute",
            Limit::TokensPerDay => "tokens per day",
        })
    }
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that stands in the way; of several the one that does longest.
    pub limit: Limit,
    /// How much it allows.
    pub allowed: u64,
    /// How much of it is taken.
    pub used: u64,
    /// How much was asked for.
    pub asked: u64,
    /// Whole seconds until that much will be free, if nobody takes any; none if it never will, because the limit allows
    /// less.
    pub retry_after: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { limit, allowed, used, asked, retry_after } = self;
        match retry_after {
            Some(seconds) => write!(
                f,
                "the key's limit of {allowed} {limit} leaves no room for {asked}: {used} are used; retry in {seconds} s"
            ),
            None => write!(f, "the request may take {asked}, which the key's limit of {allowed} {limit} never allows"),
        }
    }
}

impl std::error::Error for Refusal {}

/// An amount that is refilled steadily.
#[derive(Clone, Debug)]
struct Bucket {
    /// At most 2^64, so that products with a window of nanoseconds, below 2^47, fit.
    limit: u64,
    window: Duration,
    /// What is free, times the nanoseconds of the window: a nanosecond adds the limit, and nothing is ever rounded.
    /// Below 0 if a request took more than it said.
    level: i128,
    /// When the level was right.
    at: Duration,
}

impl Bucket {
    /// A full one.
    fn new(limit: u64, window: Duration) -> Bucket {
        let mut bucket = Bucket { limit, window, level: 0, at: Duration::ZERO };
        bucket.level = bucket.times_window(limit);
        bucket
    }

    fn times_window(&self, amount: u64) -> i128 {
        i128::from(amount) * self.window.as_nanos() as i128
    }

    /// Adds what flowed in. Time that runs backwards adds nothing.
    fn refill(&mut self, now: Duration) {
        let passed = i128::try_from(now.saturating_sub(self.at).as_nanos()).unwrap_or(i128::MAX);
        let inflow = passed.saturating_mul(i128::from(self.limit));
        self.level = self.level.saturating_add(inflow).min(self.times_window(self.limit));
        self.at = self.at.max(now);
    }

    fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(self.times_window(amount));
    }

    fn give_back(&mut self, amount: u64) {
        self.level = self.level.saturating_add(self.times_window(amount)).min(self.times_window(self.limit));
    }

    /// What is taken, rounded up.
    fn used(&self) -> u64 {
        let taken = self.times_window(self.limit).saturating_sub(self.level);
        u64::try_from(ceil_div(taken, self.window.as_nanos() as i128)).unwrap_or(u64::MAX)
    }

    /// Whole seconds until so much is free: 0 for now, none for never.
    fn wait(&self, amount: u64) -> Option<u64> {
        if amount > self.limit {
            return None;
        }
        let missing = self.times_window(amount).saturating_sub(self.level).max(0);
        // With a limit of 0 the amount is 0, and nothing is missing unless there are debts, which stay.
        let nanos =
            if missing == 0 { 0 } else { ceil_div(missing, (self.limit > 0).then_some(i128::from(self.limit))?) };
        Some(u64::try_from(ceil_div(nanos, 1_000_000_000)).unwrap_or(u64::MAX))
    }
}

/// For numbers from 0 and above 0.
fn ceil_div(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b > 0)
}

/// What was reserved for a request that was admitted.
#[derive(Clone, Copy, Debug)]
#[must_use = "a request that is never settled has taken all that it may"]
pub struct Admission {
    tokens: u64,
}

/// The buckets of one key.
#[derive(Clone, Debug)]
pub struct Quota(Vec<(Limit, Bucket)>);

impl Quota {
    /// Nothing is taken yet.
    #[must_use]
    pub fn new(limits: Limits) -> Quota {
        let Limits { requests_per_minute, tokens_per_minute, tokens_per_day } = limits;
        let all = [
            (Limit::RequestsPerMinute, requests_per_minute, MINUTE),
            (Limit::TokensPerMinute, tokens_per_minute, MINUTE),
            (Limit::TokensPerDay, tokens_per_day, DAY),
        ];
        let bucket = |(which, limit, window)| Option::map(limit, |limit| (which, Bucket::new(limit, window)));
        Quota(all.into_iter().filter_map(bucket).collect())
    }

    /// Admits a request that takes at most so many tokens, of its prompt and its answer together, or takes nothing.
    ///
    /// # Errors
    /// When a limit leaves no room.
    pub fn admit(&mut self, now: Duration, tokens: u64) -> Result<Admission, Refusal> {
        self.reserve(now, 1, 0, tokens)?;
        Ok(Admission { tokens })
    }

    /// Reserves more tokens for a request that was admitted, or takes nothing.
    ///
    /// # Errors
    /// When a limit leaves no room.
    pub fn extend(&mut self, now: Duration, admission: &mut Admission, tokens: u64) -> Result<(), Refusal> {
        self.reserve(now, 0, admission.tokens, tokens)?;
        admission.tokens = admission.tokens.saturating_add(tokens);
        Ok(())
    }

    /// Takes requests and tokens for a request that has some tokens already.
    fn reserve(&mut self, now: Duration, requests: u64, had: u64, tokens: u64) -> Result<(), Refusal> {
        let asked = |limit| if limit == Limit::RequestsPerMinute { (0, requests) } else { (had, tokens) };
        self.refill(now);
        let refusals = self.0.iter().filter_map(|(limit, bucket)| {
            let (had, more) = asked(*limit);
            let (allowed, used) = (bucket.limit, bucket.used());
            let whole = had.saturating_add(more);
            // What is more than the limit in all will not be allowed however long one waits between its parts.
            let (asked, retry_after) = if whole > allowed { (whole, None) } else { (more, bucket.wait(more)) };
            let refusal = Refusal { limit: *limit, allowed, used, asked, retry_after };
            (retry_after != Some(0)).then_some(refusal)
        });
        if let Some(refusal) = refusals.max_by_key(|refusal| refusal.retry_after.unwrap_or(u64::MAX)) {
            return Err(refusal);
        }
        for (limit, bucket) in &mut self.0 {
            bucket.take(asked(*limit).1);
        }
        Ok(())
    }

    /// Gives back what a request did not take of its tokens. What it took beyond them is taken from those to come.
    pub fn settle(&mut self, now: Duration, admission: Admission, tokens: u64) {
        self.refill(now);
        for (limit, bucket) in &mut self.0 {
            if *limit != Limit::RequestsPerMinute {
                bucket.give_back(admission.tokens.saturating_sub(tokens));
                bucket.take(tokens.saturating_sub(admission.tokens));
            }
        }
    }

    /// Takes tokens without asking.
    pub fn charge(&mut self, now: Duration, tokens: u64) {
        self.settle(now, Admission { tokens: 0 }, tokens);
    }

    fn refill(&mut self, now: Duration) {
        for (_, bucket) in &mut self.0 {
            bucket.refill(now);
        }
    }
}

/// The quotas of all keys that asked so far, for many threads. Times are durations since the server started.
#[derive(Debug, Default)]
pub struct Quotas(Mutex<HashMap<KeyId, Quota>>);

impl Quotas {
    /// Takes tokens that the key used so long before the server started, so that starting it anew gives no key a day's
    /// worth again. Older ones come first.
    pub fn restore(&self, key: &KeyId, limits: Limits, age: Duration, tokens: u64) {
        self.with(key, limits, |quota| quota.charge(DAY.saturating_sub(age), tokens));
    }

    /// Admits a request of a key, see [`Quota::admit`].
    ///
    /// # Errors
    /// When a limit leaves no room.
    pub fn admit(&self, key: &KeyId, limits: Limits, now: Duration, tokens: u64) -> Result<Admission, Refusal> {
        self.with(key, limits, |quota| quota.admit(DAY.saturating_add(now), tokens))
    }

    /// Reserves more for a request of a key, see [`Quota::extend`].
    ///
    /// # Errors
    /// When a limit leaves no room.
    pub fn extend(
        &self,
        key: &KeyId,
        limits: Limits,
        now: Duration,
        admission: &mut Admission,
        tokens: u64,
    ) -> Result<(), Refusal> {
        self.with(key, limits, |quota| quota.extend(DAY.saturating_add(now), admission, tokens))
    }

    /// Settles a request of a key, see [`Quota::settle`].
    pub fn settle(&self, key: &KeyId, limits: Limits, now: Duration, admission: Admission, tokens: u64) {
        self.with(key, limits, |quota| quota.settle(DAY.saturating_add(now), admission, tokens));
    }

    fn with<T>(&self, key: &KeyId, limits: Limits, work: impl FnOnce(&mut Quota) -> T) -> T {
        let mut quotas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = quotas.get_mut(key) {
            return work(quota);
        }
        work(quotas.entry(key.clone()).or_insert_with(|| Quota::new(limits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(requests: u64, minute: u64, day: u64) -> Limits {
        Limits { requests_per_minute: Some(requests), tokens_per_minute: Some(minute), tokens_per_day: Some(day) }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_wait() {
        let mut quota = Quota::new(limits(10, 600, 1_000));
        let admission = quota.admit(seconds(0), 500).unwrap();
        let refusal = quota.admit(seconds(10), 300).unwrap_err();
        // 100 flowed in: 200 are free, 100 are missing, 10 come in a second.
        let expected =
            Refusal { limit: Limit::TokensPerMinute, allowed: 600, used: 400, asked: 300, retry_after: Some(10) };
        assert_eq!(refusal, expected);
        assert_eq!(
            refusal.to_string(),
            "the key's limit of 600 tokens per minute leaves no room for 300: 400 are used; retry in 10 s"
        );
        quota.settle(seconds(10), admission, 100);
        let _ = quota.admit(seconds(10), 600).unwrap();
        // Of the day's 1,000, 700 are taken but for the 11 hundredths that flowed in.
        let refusal = quota.admit(seconds(10), 600).unwrap_err();
        assert_eq!((refusal.limit, refusal.used, refusal.retry_after), (Limit::TokensPerDay, 700, Some(25_910)));
        let never = quota.admit(seconds(10), 1_001).unwrap_err();
        assert_eq!((never.limit, never.retry_after), (Limit::TokensPerDay, None));
        assert_eq!(
            never.to_string(),
            "the request may take 1001, which the key's limit of 1000 tokens per day never allows"
        );
    }

    #[test]
    fn a_refused_request_takes_nothing_of_any_limit() {
        let mut quota = Quota::new(limits(1, 100, 100));
        for _ in 0..100 {
            assert!(quota.admit(seconds(0), 101).is_err());
        }
        let _ = quota.admit(seconds(0), 100).unwrap();
    }

    #[test]
    fn a_request_in_parts_is_one_request() {
        let mut quota = Quota::new(limits(1, 100, 100));
        let mut admission = quota.admit(seconds(0), 50).unwrap();
        quota.extend(seconds(0), &mut admission, 30).unwrap();
        // 80 and 30 are never allowed together, however long one waits.
        let refusal = quota.extend(seconds(0), &mut admission, 30).unwrap_err();
        assert_eq!((refusal.asked, refusal.retry_after), (110, None));
        quota.settle(seconds(0), admission, 10);
        assert_eq!(quota.admit(seconds(0), 10).unwrap_err().limit, Limit::RequestsPerMinute);
        let _ = quota.admit(seconds(60), 80).unwrap();
    }

    #[test]
    fn what_was_used_before_a_start_counts_after_it() {
        let quotas = Quotas::default();
        let (key, limits) = ("0123456789ab".parse().unwrap(), limits(10, 1_000, 1_000));
        quotas.restore(&key, limits, seconds(43_200), 1_000);
        let refusal = quotas.admit(&key, limits, seconds(0), 600).unwrap_err();
        assert_eq!((refusal.limit, refusal.used), (Limit::TokensPerDay, 500));
        let _ = quotas.admit(&key, limits, seconds(0), 500).unwrap();
    }

    #[test]
    fn no_limits_admit_everything() {
        let mut quota = Quota::new(Limits::default());
        for now in [Duration::MAX, Duration::ZERO] {
            let admission = quota.admit(now, u64::MAX).unwrap();
            quota.settle(now, admission, u64::MAX);
        }
    }

    /// What happens to a quota.
    #[derive(Clone, Debug)]
    enum Event {
        Pass(u64),
        Ask(u64),
        Settle(usize, u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            (0..20_000_000_000u64).prop_map(Event::Pass),
            (0..150u64).prop_map(Event::Ask),
            (any::<usize>(), 0..150u64).prop_map(|(which, used)| Event::Settle(which, used)),
        ];
        prop::collection::vec(event, 0..200)
    }

    proptest! {
        #[test]
        fn no_window_takes_more_than_limit_and_burst(events in events(), limit in 1..150u64) {
            let mut quota = Quota::new(Limits { tokens_per_minute: Some(limit), ..Limits::default() });
            let mut now = Duration::ZERO;
            // What was taken, less what was given back, and when.
            let mut taken: Vec<(Duration, i128)> = Vec::new();
            let mut running = Vec::new();
            for event in events {
                match event {
                    Event::Pass(nanos) => now += Duration::from_nanos(nanos),
                    Event::Ask(tokens) => match quota.admit(now, tokens) {
                        Ok(admission) => {
                            running.push(admission);
                            taken.push((now, i128::from(tokens)));
                        }
                        // A refusal's time is enough, and a second less is not.
                        Err(Refusal { retry_after: Some(wait), .. }) => {
                            prop_assert!(wait > 0);
                            prop_assert!(quota.clone().admit(now + seconds(wait), tokens).is_ok());
                            prop_assert!(quota.clone().admit(now + seconds(wait - 1), tokens).is_err());
                        }
                        Err(refusal) => prop_assert!(tokens > limit, "{refusal}"),
                    },
                    Event::Settle(which, used) if !running.is_empty() => {
                        let admission = running.swap_remove(which % running.len());
                        let used = used.min(admission.tokens);
                        quota.settle(now, admission, used);
                        taken.push((now, i128::from(used) - i128::from(admission.tokens)));
                    }
                    Event::Settle(..) => {}
                }
            }
            for (first, (begin, _)) in taken.iter().enumerate() {
                let window = taken[first..].iter().take_while(|(at, _)| *at < *begin + MINUTE);
                let total: i128 = window.map(|(_, tokens)| tokens).sum();
                prop_assert!(total <= 2 * i128::from(limit), "{total} of {limit}");
            }
        }

        #[test]
        fn what_is_given_back_is_free_again(
            limit in 1..1_000_000u64,
            reserved in 0..1_000_000u64,
            used in 0..1_000_000u64,
        ) {
            let (reserved, used) = (reserved % (limit + 1), used % (limit + 1));
            let mut quota = Quota::new(Limits { tokens_per_day: Some(limit), ..Limits::default() });
            let admission = quota.admit(seconds(5), reserved).unwrap();
            quota.settle(seconds(5), admission, used);
            prop_assert!(quota.clone().admit(seconds(5), limit - used).is_ok());
            if used > 0 {
                prop_assert_eq!(quota.admit(seconds(5), limit - used + 1).unwrap_err().used, used);
            }
        }

        #[test]
        fn absurd_numbers_do_no_harm(
            limit in any::<u64>(),
            events in prop::collection::vec((any::<Duration>(), any::<u64>(), any::<u64>()), 0..20),
        ) {
            let mut quota = Quota::new(limits(limit, limit, limit));
            for (now, asked, used) in events {
                match quota.admit(now, asked) {
                    Ok(admission) => {
                        prop_assert!(asked <= limit);
                        quota.settle(now, admission, used);
                    }
                    Err(refusal) => prop_assert_ne!(refusal.retry_after, Some(0)),
                }
            }
        }
    }
}
