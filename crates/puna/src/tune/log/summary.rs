//! What the records of a log say together: where the run stands, how fast it goes, what came out.

use super::figures;
use anyhow::{Result, bail};
use puna_text::Date;
use puna_train::log::{Checkpoint, Outcome, Record, Start, Step, Valid, Warning};
use puna_train::{Method, Objective};

/// A run has diverged when so many steps in a row changed nothing.
const UNCHANGED_STEPS: usize = 3;
/// The time that is left is told from so many last steps.
const LAST_STEPS: usize = 50;

/// Values at steps, ascending and finite.
pub type Points = Vec<(f64, f64)>;

/// A run as its log tells it.
pub struct Summary {
    pub start: Start,
    pub state: State,
    pub steps: Vec<Step>,
    pub valid: Vec<Valid>,
    pub checkpoints: Vec<Checkpoint>,
    pub warnings: Vec<Warning>,
    /// After which steps the run was taken up again.
    pub resumed_after: Vec<u64>,
    /// Seconds of all the run's processes; none if one has not said how long it took.
    pub seconds_in_all: Option<f64>,
    /// Seconds since the last record was written, if that is known.
    pub silence: Option<f64>,
    /// What the mean loss keeps of itself at each step.
    pub smoothing: f64,
}

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Or it was killed, and had no time to say so.
    Running,
    Finished,
    Early,
    Stopped,
    Failed,
    Diverged,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Finished => "finished",
            State::Early => "finished early",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::Diverged => "diverged",
        }
    }
}

impl Summary {
    /// Of a log's records, as they are read. Without a `smoothing` the mean loss is one over a hundredth of the run, or
    /// over ten steps if they are more.
    pub fn new(records: Vec<Record>, smoothing: Option<f64>) -> Result<Summary> {
        let mut records = records.into_iter();
        let Some(Record::Start(start)) = records.next() else { bail!("expected the start of a run, found none") };
        let mean_over = (start.steps / 100).clamp(10, 1000) as f64;
        let mut summary = Summary {
            start,
            state: State::Running,
            steps: Vec::new(),
            valid: Vec::new(),
            checkpoints: Vec::new(),
            warnings: Vec::new(),
            resumed_after: Vec::new(),
            seconds_in_all: None,
            silence: None,
            smoothing: smoothing.unwrap_or(1.0 - 1.0 / mean_over),
        };
        let (mut n_ends, mut seconds) = (0, 0.0);
        for record in records {
            match record {
                Record::Start(_) => bail!("expected one start of a run, found two"),
                Record::Resume(resume) => {
                    summary.state = State::Running;
                    summary.resumed_after.push(resume.step);
                    summary.start.steps = resume.steps.unwrap_or(summary.start.steps);
                }
                Record::Step(step) => summary.steps.push(step),
                Record::Valid(valid) => summary.valid.push(valid),
                Record::Checkpoint(checkpoint) => summary.checkpoints.push(checkpoint),
                Record::Warning(warning) => summary.warnings.push(warning),
                Record::End(end) => {
                    n_ends += 1;
                    seconds += end.seconds;
                    summary.state = match end.end {
                        Outcome::Done => State::Finished,
                        Outcome::Early => State::Early,
                        Outcome::Stopped => State::Stopped,
                        Outcome::Failed => State::Failed,
                    };
                }
            }
        }
        if summary.n_unchanged_last() >= UNCHANGED_STEPS {
            summary.state = State::Diverged;
        }
        summary.seconds_in_all = (n_ends == 1 + summary.resumed_after.len()).then_some(seconds);
        Ok(summary)
    }

    /// What went wrong with the run as a whole.
    pub fn fault(&self) -> Option<String> {
        match self.state {
            State::Diverged => Some(format!(
                "the run diverged: the last {} steps changed nothing, because loss or gradient were not finite",
                self.n_unchanged_last()
            )),
            State::Failed => Some(format!("the run failed after step {}", self.last_step())),
            _ => None,
        }
    }

    /// Steps at the end that changed nothing.
    fn n_unchanged_last(&self) -> usize {
        self.steps.iter().rev().take_while(|step| !step.changed).count()
    }

    /// Steps that changed nothing.
    pub fn unchanged(&self) -> Vec<u64> {
        self.steps.iter().filter(|step| !step.changed).map(|step| step.step).collect()
    }

    pub fn last_step(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.step)
    }

    /// Tokens that the model read in all steps.
    pub fn n_tokens(&self) -> u64 {
        self.steps.iter().fold(0, |sum, step| sum.saturating_add(step.tokens))
    }

    /// Seconds that all steps took.
    pub fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds).filter(|seconds| seconds.is_finite()).sum()
    }

    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.seconds();
        (seconds > 0.0).then(|| self.n_tokens() as f64 / seconds)
    }

    /// Seconds that the steps to come will take, if the run goes on.
    pub fn seconds_left(&self) -> Option<f64> {
        let last = &self.steps[self.steps.len().saturating_sub(LAST_STEPS)..];
        let seconds: f64 = last.iter().map(|step| step.seconds).filter(|seconds| seconds.is_finite()).sum();
        let left = self.start.steps.saturating_sub(self.last_step());
        (self.state == State::Running && left > 0 && seconds > 0.0).then(|| left as f64 * seconds / last.len() as f64)
    }

    /// The mean loss after the last step.
    pub fn loss(&self) -> Option<f64> {
        smoothed(&self.points(|step| Some(step.loss)), self.smoothing).last().map(|(_, loss)| *loss)
    }

    /// The validation with the lowest loss.
    pub fn best(&self) -> Option<&Valid> {
        self.valid.iter().rfind(|valid| valid.best)
    }

    /// A figure of every step for which it is finite.
    pub fn points(&self, figure: impl Fn(&Step) -> Option<f64>) -> Points {
        let points = self.steps.iter().filter_map(|step| Some((step.step as f64, figure(step)?)));
        points.filter(|(_, value)| value.is_finite()).collect()
    }

    /// A figure of every validation for which it is finite.
    pub fn valid_points(&self, figure: impl Fn(&Valid) -> Option<f64>) -> Points {
        let points = self.valid.iter().filter_map(|valid| Some((valid.step as f64, figure(valid)?)));
        points.filter(|(_, value)| value.is_finite()).collect()
    }

    /// The right end of charts: the last step that something is known of.
    pub fn last_charted_step(&self) -> u64 {
        self.last_step().max(self.valid.last().map_or(0, |valid| valid.step))
    }

    /// What the mean loss is a mean over, in words.
    pub fn mean_over(&self) -> String {
        match (1.0 / (1.0 - self.smoothing)).round() {
            n if n > 1.0 => format!("mean over about {} steps", figures::count(n as u64)),
            _ => "of every step".to_owned(),
        }
    }

    /// What is worth saying in front of any chart: names and words.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Start { model, data, sequences, tokens, trained_parameters, steps, epochs, .. } = &self.start;
        let (method, objective) = match (self.start.method, self.start.objective) {
            (Method::Lora, Objective::Sft) => ("LoRA", "SFT"),
            (Method::Lora, Objective::Dpo) => ("LoRA", "DPO"),
            (Method::Full, Objective::Sft) => ("all weights", "SFT"),
            (Method::Full, Objective::Dpo) => ("all weights", "DPO"),
        };
        let sequence = if self.start.objective == Objective::Dpo { "pairs" } else { "sequences" };
        let (n_sequences, n_tokens) = (figures::count(*sequences), figures::count(*tokens));
        let n_parameters = figures::count(*trained_parameters);
        let mut facts = vec![
            ("model", model.clone()),
            ("data", format!("{data} · {n_sequences} {sequence} and {n_tokens} tokens an epoch")),
            ("training", format!("{method}, {objective} · {n_parameters} parameters trained")),
            ("device", self.start.device.clone()),
        ];
        let started = Date::from_days((self.start.time / 86_400.0).floor() as i64);
        facts.push(("started", format!("{started} (UTC) with puna {}", self.start.version)));
        let mut progress = format!("step {} of {}", figures::count(self.last_step()), figures::count(*steps));
        if let Some(epochs) = epochs {
            let epoch = epochs * self.last_step() as f64 / (*steps).max(1) as f64;
            progress += &format!(" · epoch {epoch:.2} of {epochs}");
        }
        if let Some(step) = self.resumed_after.last() {
            progress += &format!(" · resumed after step {}", figures::count(*step));
        }
        if let Some(silence) = self.silence.filter(|_| self.state == State::Running) {
            progress += &format!(" · last record {} ago", figures::duration(silence));
        }
        facts.push(("progress", progress));
        if let Some(speed) = self.tokens_per_second() {
            let n_tokens = figures::count(self.n_tokens());
            facts.push(("speed", format!("{} tokens/s · {n_tokens} tokens so far", figures::speed(speed))));
            let mut time = format!("{} in steps", figures::duration(self.seconds()));
            if let Some(seconds) = self.seconds_in_all {
                time += &format!(" · {} in all", figures::duration(seconds));
            }
            if let Some(seconds) = self.seconds_left() {
                time += &format!(" · about {} left", figures::duration(seconds));
            }
            facts.push(("time", time));
        }
        if let Some(loss) = self.loss() {
            facts.push(("loss", format!("{} · {}", figures::loss(loss), self.mean_over())));
        }
        if let Some(last) = self.valid.last() {
            let mut text = format!("{} after step {}", figures::loss(last.loss), figures::count(last.step));
            match self.best() {
                Some(best) if best.step == last.step => text += " · the best so far",
                Some(best) => {
                    let best_at = figures::count(best.step);
                    text += &format!(" · the best was {} after step {best_at}", figures::loss(best.loss));
                }
                None => {}
            }
            facts.push(("validation", text));
        }
        facts
    }

    /// Warnings for people: those of the log, and one of steps that changed nothing. Each with its step.
    pub fn cautions(&self) -> Vec<(u64, String)> {
        let mut cautions: Vec<(u64, String)> =
            self.warnings.iter().map(|warning| (warning.step, warning.message.clone())).collect();
        let unchanged = self.unchanged();
        if let (Some(&first), Some(&last)) = (unchanged.first(), unchanged.last()) {
            let which = match unchanged.len() {
                1 => "this step".to_owned(),
                n => format!("{} steps from here to step {}", figures::count(n as u64), figures::count(last)),
            };
            let message = format!("{which} changed nothing: loss or gradient not finite");
            let at = cautions.partition_point(|(step, _)| *step <= first);
            cautions.insert(at, (first, message));
        }
        cautions
    }
}

/// An exponential mean, without the pull towards the zero that it begins with.
pub struct Mean {
    keep: f64,
    sum: f64,
    weight: f64,
}

impl Mean {
    /// What it keeps of itself with each value.
    pub fn new(keep: f64) -> Mean {
        Mean { keep, sum: 0.0, weight: 0.0 }
    }

    /// The mean with one more value.
    pub fn add(&mut self, value: f64) -> f64 {
        self.sum = self.keep * self.sum + (1.0 - self.keep) * value;
        self.weight = self.keep * self.weight + (1.0 - self.keep);
        self.sum / self.weight
    }
}

/// The exponential mean at every point.
pub fn smoothed(points: &Points, keep: f64) -> Points {
    let mut mean = Mean::new(keep);
    points.iter().map(|(step, value)| (*step, mean.add(*value))).collect()
}

/// The limits between which all but some outliers lie; none without points.
pub fn typical(points: &Points) -> Option<[f64; 2]> {
    let mut values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    values.sort_unstable_by(f64::total_cmp);
    let outliers = values.len() / 50;
    Some([*values.get(outliers)?, *values.get(values.len() - 1 - outliers)?])
}

/// Few points that draw the same line in so many columns up to the step `last`: of each column the first, the lowest,
/// the highest and the last.
pub fn thinned(points: &Points, last: u64, n_columns: usize) -> Points {
    let column = |step: f64| (step / last.max(1) as f64 * n_columns as f64) as usize;
    let mut thinned = Points::new();
    for points in points.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (lowest, highest) = (points.iter().min_by(by_value), points.iter().max_by(by_value));
        let mut kept: Points =
            [points.first(), lowest, highest, points.last()].into_iter().flatten().copied().collect();
        kept.sort_by(|a, b| a.0.total_cmp(&b.0));
        kept.dedup();
        thinned.extend(kept);
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_train::log::{End, Resume};

    fn start() -> Record {
        Record::Start(Start {
            time: 0.0,
            version: String::new(),
            model: String::new(),
            data: String::new(),
            method: Method::Lora,
            objective: Objective::Sft,
            steps: 100,
            epochs: Some(2.0),
            sequences: 10,
            tokens: 100,
            trained_parameters: 1,
            threads: 1,
            device: String::new(),
        })
    }

    fn step(step: u64, loss: f64) -> Record {
        Record::Step(Step {
            step,
            loss,
            gradient_norm: 1.0,
            lr: 0.1,
            tokens: 30,
            labels: 3,
            seconds: 2.0,
            changed: loss.is_finite(),
            margin: None,
            accuracy: None,
        })
    }

    fn end(step: u64, end: Outcome) -> Record {
        Record::End(End { step, end, seconds: 10.0, loss: None })
    }

    fn summary(records: &[Record]) -> Summary {
        Summary::new([&[start()], records].concat(), Some(0.5)).unwrap()
    }

    #[test]
    fn states() {
        let resume = Record::Resume(Resume { time: 1.0, step: 1, steps: None });
        let nan = |n| step(n, f64::NAN);
        for (records, expected) in [
            (vec![], State::Running),
            (vec![step(1, 2.0), end(1, Outcome::Stopped)], State::Stopped),
            (vec![step(1, 2.0), end(1, Outcome::Stopped), resume], State::Running),
            (vec![step(1, 2.0), end(1, Outcome::Early)], State::Early),
            (vec![step(1, 2.0), end(1, Outcome::Done)], State::Finished),
            (vec![step(1, 2.0), end(1, Outcome::Failed)], State::Failed),
            (vec![step(1, 2.0), nan(2), nan(3)], State::Running),
            (vec![step(1, 2.0), nan(2), nan(3), nan(4)], State::Diverged),
            (vec![nan(2), nan(3), nan(4), end(4, Outcome::Done)], State::Diverged),
            (vec![nan(2), nan(3), nan(4), step(5, 2.0)], State::Running),
        ] {
            let summary = summary(&records);
            assert_eq!(summary.state, expected, "{records:?}");
            assert_eq!(summary.fault().is_some(), matches!(expected, State::Failed | State::Diverged));
        }
        assert_eq!(Summary::new(vec![start()], None).unwrap().mean_over(), "mean over about 10 steps");
        assert!(Summary::new(vec![step(1, 2.0)], None).is_err());
        assert!(Summary::new(vec![start(), start()], None).is_err());
    }

    #[test]
    fn times() {
        let resume = Record::Resume(Resume { time: 1.0, step: 2, steps: Some(150) });
        let running = summary(&[step(1, 2.0), step(2, 2.0), end(2, Outcome::Stopped), resume, step(3, 2.0)]);
        assert_eq!((running.seconds(), running.seconds_in_all, running.seconds_left()), (6.0, None, Some(294.0)));
        assert_eq!(running.tokens_per_second(), Some(15.0));
        let ended = summary(&[step(1, 2.0), end(1, Outcome::Done)]);
        assert_eq!((ended.seconds_in_all, ended.seconds_left()), (Some(10.0), None));
        assert_eq!((summary(&[]).tokens_per_second(), summary(&[]).seconds_left()), (None, None));
    }

    #[test]
    fn the_mean_begins_with_the_first_value() {
        let points = vec![(1.0, 8.0), (2.0, 4.0), (3.0, 4.0)];
        // (8/4 + 4/2) / (1/4 + 1/2), and so on.
        assert_eq!(smoothed(&points, 0.5), [(1.0, 8.0), (2.0, 16.0 / 3.0), (3.0, 4.0 + 4.0 / 7.0)]);
        assert_eq!(smoothed(&points, 0.0), points);
    }

    #[test]
    fn outliers_are_left_out() {
        let points: Points = (0..100).map(|i| (f64::from(i), if i == 50 { 1e9 } else { f64::from(i) })).collect();
        assert_eq!(typical(&points), Some([2.0, 98.0]));
        assert_eq!((typical(&vec![(1.0, 3.0)]), typical(&Points::new())), (Some([3.0, 3.0]), None));
    }

    #[test]
    fn thinned_lines_look_the_same() {
        let points: Points = (0..1000).map(|i| (f64::from(i), f64::from(i * 7919 % 1000))).collect();
        let thinned = thinned(&points, 1000, 10);
        assert!(thinned.len() <= 40 && thinned.is_sorted_by(|a, b| a.0 < b.0));
        for column in 0..10 {
            let of = |points: &Points| {
                let inside = points.iter().filter(|(step, _)| (step / 100.0) as usize == column);
                let values: Vec<f64> = inside.map(|(_, value)| *value).collect();
                let by = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick);
                [values.first().copied(), values.last().copied(), by(f64::min), by(f64::max)]
            };
            assert_eq!(of(&thinned), of(&points));
        }
        let few = points[..5].to_vec();
        assert_eq!(super::thinned(&few, 1000, 1000), few);
    }
}
