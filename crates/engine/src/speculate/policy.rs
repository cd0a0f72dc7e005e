//! How many guesses pay.
//!
//! With chance `p` for each guess, `k` guesses yield `1 + p + … + p^k` tokens, for the time of a forward pass of `k + 1`
//! tokens and of guessing. Both are learned as the answer goes on; old observations fade.

use super::MAX_DRAFT;

/// Weight of what is believed before the first observation, in observations.
const PRIOR: f64 = 4.0;
/// Observations that an estimate remembers.
const MEMORY: f64 = 32.0;
/// Share of the time that may be spent on guesses which are not expected to pay, to see whether they would again.
const PROBING: f64 = 0.01;
/// Forward passes of one token that are measured before the first with guesses.
const MEASURED_FIRST: usize = 2;
/// Forward passes with guesses, one after another, after which one without is measured again.
const STALE: usize = 128;
/// Nothing is believed to cost more than this many passes of one token for each token.
const DEAREST: f64 = 4.0;

/// What a forward pass of `1 + k` tokens is assumed to cost, in passes of one token, before it was measured: weights are
/// read once for all of them.
fn assumed(k: usize) -> f64 {
    1.0 + 0.08 * k as f64
}

/// What forward passes cost.
pub(super) struct Cost {
    /// Of `1 + k` tokens, in passes of one token.
    by_guesses: [f64; MAX_DRAFT + 1],
    /// Seconds of a pass of one token.
    plain: f64,
    n_plain: usize,
    /// Passes since the last of one token.
    since_plain: usize,
    measured: bool,
}

/// Moves an estimate of a time towards an observation. Other programs only ever make a pass slower, so what is lower is
/// believed sooner.
fn approach(estimate: &mut f64, observed: f64) {
    let rate = if observed < *estimate { 1.0 / 2.0 } else { 1.0 / 8.0 };
    *estimate += (observed - *estimate) * rate;
}

impl Cost {
    pub fn new(measured: bool) -> Cost {
        Cost { by_guesses: std::array::from_fn(assumed), plain: 0.0, n_plain: 0, since_plain: 0, measured }
    }

    /// Whether the next pass should be of one token, to see what that costs.
    pub fn wants_plain(&self) -> bool {
        self.measured && (self.n_plain < MEASURED_FIRST || self.since_plain >= STALE)
    }

    /// A pass of one token and `k` guesses took so long.
    pub fn learn(&mut self, k: usize, seconds: f64) {
        if k == 0 {
            if self.n_plain < MEASURED_FIRST {
                // The first waited for the file.
                self.plain = seconds;
            } else {
                let most = 2.0 * self.plain;
                approach(&mut self.plain, seconds.min(most));
            }
            self.n_plain += 1;
            self.since_plain = 0;
        } else if self.plain > 0.0 {
            let observed = (seconds / self.plain).clamp(1.0, DEAREST * (1 + k) as f64);
            let mut learned = self.by_guesses[k];
            approach(&mut learned, observed);
            let moved = learned - self.by_guesses[k];
            // Passes of nearly as many tokens cost nearly as much.
            for (other, cost) in self.by_guesses.iter_mut().enumerate().skip(1) {
                *cost = (*cost + moved / (1 + other.abs_diff(k)) as f64).max(1.0);
            }
            self.since_plain += 1;
        }
    }

    /// Moves `estimate`, in passes of one token, towards a measured time.
    pub fn learn_relative(&self, estimate: &mut f64, seconds: f64) {
        if self.plain > 0.0 {
            approach(estimate, (seconds / self.plain).min(DEAREST));
        }
    }
}

/// How often guesses of one kind are right.
pub(super) struct Acceptance {
    right: f64,
    looked_at: f64,
    /// Time saved by not probing, in passes of one token.
    saved: f64,
}

impl Acceptance {
    pub fn new(prior: f64) -> Acceptance {
        Acceptance { right: PRIOR * prior, looked_at: PRIOR, saved: 0.0 }
    }

    /// The number of guesses up to `max` that promises most, and how many times as fast as none it would be. `each` is
    /// what guessing one token takes. Where none pays, sometimes some are tried anyway: as many as would pay if they cost
    /// no more than was assumed.
    pub fn best(&mut self, cost: &Cost, each: f64, max: usize) -> (usize, f64) {
        let max = max.min(MAX_DRAFT);
        let best = self.best_at(|k| cost.by_guesses[k] + each * k as f64, max);
        if best.0 > 0 || max == 0 {
            return best;
        }
        let probe = self.best_at(assumed, max).0.max(1);
        self.saved += PROBING;
        if self.saved < cost.by_guesses[probe] - 1.0 + each * probe as f64 {
            return best;
        }
        self.saved = 0.0;
        (probe, 1.0)
    }

    fn best_at(&self, cost: impl Fn(usize) -> f64, max: usize) -> (usize, f64) {
        let chance = self.right / self.looked_at;
        let (mut best, mut tokens, mut power) = ((0, 1.0), 1.0, 1.0);
        for k in 1..=max {
            power *= chance;
            tokens += power;
            let gain = tokens / cost(k);
            if gain > best.1 {
                best = (k, gain);
            }
        }
        best
    }

    /// So many guesses were right, and one behind them was wrong or none was looked at.
    pub fn learn(&mut self, n_right: usize, wrong: bool) {
        let n = n_right as f64 + f64::from(u8::from(wrong));
        let keep = (1.0 - n / MEMORY).max(0.5);
        self.right = self.right * keep + n_right as f64;
        self.looked_at = self.looked_at * keep + n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_as_many_as_pay() {
        let cost = Cost::new(false);
        let best = |chance, each| Acceptance::new(chance).best(&cost, each, 100).0;
        assert_eq!(best(0.05, 0.0), 0);
        assert_eq!(best(0.1, 0.0), 1);
        assert!((2..=4).contains(&best(0.5, 0.0)));
        assert_eq!(best(0.99, 0.0), MAX_DRAFT);
        // A draft model that takes half as long as the model itself must be very good.
        assert_eq!(best(0.5, 0.5), 0);
        assert!(best(0.9, 0.5) > 0);
        // 1 + p + … + p^k over the cost, by hand: k = 1 gives 1.5 / 1.08, k = 2 gives 1.75 / 1.16.
        let (k, gain) = Acceptance::new(0.5).best(&cost, 0.0, 2);
        assert!(k == 2 && (gain - 1.75 / 1.16).abs() < 1e-12);
    }

    #[test]
    fn gives_up_and_comes_back() {
        let cost = Cost::new(false);
        let mut acceptance = Acceptance::new(0.5);
        (0..20).for_each(|_| acceptance.learn(0, true));
        let tried = |acceptance: &mut Acceptance| (0..1000).filter(|_| acceptance.best(&cost, 0.0, 15).0 > 0).count();
        // A hundredth of the time: a guess costs 0.08, so one in eight or nine.
        assert!((110..=125).contains(&tried(&mut acceptance)));
        (0..20).for_each(|_| acceptance.learn(1, false));
        assert_eq!(tried(&mut acceptance), 1000);
    }

    /// Passes of a machine with these costs, and how many tokens they yield in the time of 10,000 plain ones.
    fn simulate(chance: f64, true_cost: impl Fn(usize) -> f64) -> f64 {
        let (mut cost, mut acceptance) = (Cost::new(true), Acceptance::new(0.5));
        let (mut time, mut tokens, mut random) = (0.0, 0.0, 1u64);
        while time < 10_000.0 {
            let (k, _) = acceptance.best(&cost, 0.0, MAX_DRAFT);
            let k = if cost.wants_plain() { 0 } else { k };
            let mut right = || {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((random >> 11) as f64 / (1u64 << 53) as f64) < chance
            };
            let n_right = (0..k).take_while(|_| right()).count();
            // Now and then another program is on the processor.
            let took = true_cost(k) * if random % 7 == 0 { 1.5 } else { 1.0 };
            time += true_cost(k);
            tokens += 1.0 + n_right as f64;
            cost.learn(k, took);
            if k > 0 {
                acceptance.learn(n_right, n_right < k);
            }
        }
        tokens / time
    }

    #[test]
    fn near_the_best_on_every_machine() {
        let gain = |chance: f64, k: usize, cost: f64| (0..=k as i32).map(|i| chance.powi(i)).sum::<f64>() / cost;
        for chance in [0.0, 0.1, 0.4, 0.7, 0.9, 0.98] {
            for machine in 0..4 {
                let cost = |k: usize| match machine {
                    _ if k == 0 => 1.0,
                    // Hardly more; tiles of eight; a jump where another kernel is used; nothing is shared.
                    0 => 1.0 + 0.03 * k as f64,
                    1 => {
                        if k < 8 {
                            1.0 + 0.1 * k as f64
                        } else {
                            2.5 + 0.1 * k as f64
                        }
                    }
                    2 => 3.0 + 0.4 * k as f64,
                    _ => 1.0 + k as f64,
                };
                let best = (0..=MAX_DRAFT).map(|k| gain(chance, k, cost(k))).fold(0.0, f64::max);
                let found = simulate(chance, cost);
                assert!(found > 0.9 * best, "chance {chance}, machine {machine}: {found:.2} of {best:.2}");
                assert!(found > 0.97, "chance {chance}, machine {machine}: {found:.2}");
            }
        }
    }

    #[test]
    fn guessing_has_its_cost() {
        let mut cost = Cost::new(true);
        assert!(cost.wants_plain());
        // Cold, then warm.
        cost.learn(0, 5.0);
        cost.learn(0, 0.1);
        assert!(!cost.wants_plain());
        let mut each = 1.0;
        (0..100).for_each(|_| cost.learn_relative(&mut each, 0.02));
        assert!((each - 0.2).abs() < 0.01);
        (0..STALE).for_each(|_| cost.learn(3, 0.2));
        assert!(cost.wants_plain());
    }
}
