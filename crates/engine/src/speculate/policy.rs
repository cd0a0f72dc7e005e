//! How many guesses pay.
//!
//! With chance `p` for each guess, `k` guesses yield `1 + p + … + p^k` tokens, for the time of a forward pass of `k + 1`
//! tokens and of guessing. Both are learned as the answer goes on; old observations fade.

/// Weight of what is believed before the first observation, in observations.
const PRIOR: f64 = 4.0;
/// Observations that an estimate remembers.
const MEMORY: f64 = 32.0;
/// Share of the time that may be spent on guesses which are not expected to pay, to see whether they would again.
const PROBING: f64 = 0.01;
/// What each token more adds to a forward pass, before it was measured: weights are read once for all of them.
const ASSUMED_SLOPE: f64 = 0.08;
/// Forward passes of one token that are measured before the first with guesses.
const MEASURED_FIRST: usize = 2;
/// Forward passes with guesses, one after another, after which one without is measured again.
const STALE: usize = 128;

/// What a forward pass costs by its number of tokens: `1 + slope · (n - 1)`, in passes of one token.
pub(super) struct Cost {
    slope: f64,
    /// Seconds of a pass of one token.
    plain: f64,
    n_plain: usize,
    /// Passes since the last of one token.
    since_plain: usize,
    measured: bool,
}

impl Cost {
    pub fn new(measured: bool) -> Cost {
        Cost { slope: ASSUMED_SLOPE, plain: 0.0, n_plain: 0, since_plain: 0, measured }
    }

    /// Whether the next pass should be of one token, to see what that costs.
    pub fn wants_plain(&self) -> bool {
        self.measured && (self.n_plain < MEASURED_FIRST || self.since_plain >= STALE)
    }

    /// A pass of `n` tokens took so long.
    pub fn learn(&mut self, n: usize, seconds: f64) {
        if n == 1 {
            // The first may have waited for the file, and the odd one for another program.
            let seconds = if self.n_plain < MEASURED_FIRST { seconds } else { seconds.min(2.0 * self.plain) };
            let rate = if self.n_plain < MEASURED_FIRST { 1.0 } else { 1.0 / 8.0 };
            self.plain += (seconds - self.plain) * rate;
            self.n_plain += 1;
            self.since_plain = 0;
        } else if self.plain > 0.0 {
            let slope = (seconds / self.plain - 1.0) / (n - 1) as f64;
            self.slope += (slope.clamp(0.0, 2.0) - self.slope) / 8.0;
            self.since_plain += 1;
        }
    }

    /// Moves `estimate`, in passes of one token, towards a measured time.
    pub fn learn_relative(&self, estimate: &mut f64, seconds: f64) {
        if self.plain > 0.0 {
            *estimate += ((seconds / self.plain).min(4.0) - *estimate) / 8.0;
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
    /// what guessing one token takes. Where none pays, sometimes one is tried anyway.
    pub fn best(&mut self, cost: &Cost, each: f64, max: usize) -> (usize, f64) {
        let chance = self.right / self.looked_at;
        let (mut best, mut tokens, mut power) = ((0, 1.0), 1.0, 1.0);
        for k in 1..=max {
            power *= chance;
            tokens += power;
            let gain = tokens / (1.0 + (cost.slope + each) * k as f64);
            if gain > best.1 {
                best = (k, gain);
            }
        }
        if best.0 == 0 && max > 0 {
            self.saved += PROBING;
            if self.saved >= cost.slope + each {
                self.saved = 0.0;
                return (1, 1.0);
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
        let best = |chance, each| Acceptance::new(chance).best(&cost, each, 15).0;
        assert_eq!(best(0.05, 0.0), 0);
        assert_eq!(best(0.1, 0.0), 1);
        assert!((2..=4).contains(&best(0.5, 0.0)));
        assert_eq!(best(0.99, 0.0), 15);
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
        // A hundredth of the time: a guess costs 0.08, so one in eight.
        assert_eq!(tried(&mut acceptance), 125);
        (0..20).for_each(|_| acceptance.learn(1, false));
        assert_eq!(tried(&mut acceptance), 1000);
    }

    #[test]
    fn costs_are_learned() {
        let mut cost = Cost::new(true);
        assert!(cost.wants_plain());
        // Cold, then warm.
        cost.learn(1, 5.0);
        cost.learn(1, 0.1);
        assert!(!cost.wants_plain());
        // No cheaper together than one by one: three more cost three more.
        (0..100).for_each(|_| cost.learn(4, 0.4));
        assert!((cost.slope - 1.0).abs() < 0.01, "{}", cost.slope);
        assert_eq!(Acceptance::new(0.9).best(&cost, 0.0, 15).0, 0);
        (0..28).for_each(|_| cost.learn(2, 0.11));
        assert!(cost.wants_plain());
        assert!((cost.slope - 0.1).abs() < 0.05, "{}", cost.slope);
        let mut each = 1.0;
        (0..100).for_each(|_| cost.learn_relative(&mut each, 0.02));
        assert!((each - 0.2).abs() < 0.01);
    }
}
