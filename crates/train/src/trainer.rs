//! From batches to changed weights: one step.

use crate::{AdamW, Batch, MomentFormat, Moments, Preference, Schedule, Step};
use puna_llama::{Error, Learner};

/// How weights are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Constants of the optimizer.
    pub adam: AdamW,
    /// How its moments are stored.
    pub moments: MomentFormat,
    /// Learning rates.
    pub schedule: Schedule,
    /// Largest norm of the gradient; it is scaled down to it.
    pub clip: Option<f32>,
    /// Of what is random.
    pub seed: u64,
}

/// What a step was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Which step, from 1.
    pub step: u64,
    /// Its loss, before the change.
    pub loss: f64,
    /// Norm of the gradient, before it was scaled.
    pub gradient_norm: f64,
    /// Learning rate.
    pub rate: f32,
    /// Tokens that the model read.
    pub n_tokens: usize,
    /// Tokens that it was to predict.
    pub n_labels: usize,
    /// Whether weights were changed: not if loss or gradient are no finite numbers.
    pub changed: bool,
}

/// Changes a learner's weights, step by step.
pub struct Trainer {
    options: TrainerOptions,
    /// Steps done.
    n_steps: u64,
    /// Of each parameter, in the learner's order; none before the first step.
    moments: Vec<Moments>,
}

/// Pairs of completions for a pass: the chosen and the rejected document of each pair lie one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    /// Documents 2i and 2i + 1 are a pair; labels are their completions' tokens.
    pub batch: Batch,
    /// Log-probabilities of both completions of each pair by the reference.
    pub reference: Vec<[f64; 2]>,
}

impl Trainer {
    /// Before the first step.
    pub fn new(options: TrainerOptions) -> Trainer {
        Trainer { options, n_steps: 0, moments: Vec::new() }
    }

    /// Steps done.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// What a checkpoint of the optimizer holds, beside [`Self::n_steps`].
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Goes on behind `n_steps` steps with these moments, one a parameter, or none if there was no step.
    pub fn restore(&mut self, n_steps: u64, moments: Vec<Moments>) {
        self.n_steps = n_steps;
        self.moments = moments;
    }

    /// How moments are stored.
    pub fn moment_format(&self) -> MomentFormat {
        self.options.moments
    }

    /// One step on batches, whose labels all count the same: the loss is the mean of their negative log-probabilities.
    ///
    /// # Panics
    /// When there is no label.
    pub fn step(&mut self, learner: &mut dyn Learner, batches: &[Batch]) -> Result<Progress, Error> {
        let n_labels: usize = batches.iter().map(Batch::n_labels).sum();
        assert!(n_labels > 0, "a step without labels");
        let (mut sum, mut log_probabilities) = (0.0, Vec::new());
        for (i, batch) in batches.iter().enumerate() {
            let coefficients = vec![-1.0 / n_labels as f32; batch.n_labels()];
            log_probabilities.clear();
            learner.learn(&batch.documents(), &coefficients, self.key(i), &mut log_probabilities)?;
            sum += log_probabilities.iter().map(|value| f64::from(*value)).sum::<f64>();
        }
        self.change(learner, -sum / n_labels as f64, batches)
    }

    /// One step of direct preference optimization; the loss is the mean over pairs. Gives the margin of each pair, too.
    ///
    /// # Panics
    /// When there is no pair.
    pub fn prefer(
        &mut self,
        learner: &mut dyn Learner,
        beta: f64,
        passes: &[Pairs],
    ) -> Result<(Progress, Vec<f64>), Error> {
        let n_pairs: usize = passes.iter().map(|pairs| pairs.reference.len()).sum();
        assert!(n_pairs > 0, "a step without pairs");
        let (mut loss, mut margins) = (0.0, Vec::new());
        for (i, Pairs { batch, reference }) in passes.iter().enumerate() {
            // How a label counts depends on all labels of its pair: these come first.
            let sums = score(learner, batch, true)?;
            let preferences: Vec<Preference> = (sums.as_chunks::<2>().0.iter().zip(reference))
                .map(|(sums, reference)| Preference::new(beta, *sums, *reference))
                .collect();
            let slopes = preferences.iter().flat_map(|of| [of.slope, -of.slope]);
            let slopes: Vec<f32> = slopes.map(|slope| (slope / n_pairs as f64) as f32).collect();
            learner.learn(&batch.documents(), &batch.spread(&slopes), self.key(i), &mut Vec::new())?;
            loss += preferences.iter().map(|of| of.loss).sum::<f64>();
            margins.extend(preferences.iter().map(|of| of.margin));
        }
        let batches: Vec<&Batch> = passes.iter().map(|pairs| &pairs.batch).collect();
        Ok((self.change(learner, loss / n_pairs as f64, batches)?, margins))
    }

    /// What dropout depends on in pass `idx` of the next step.
    fn key(&self, idx: usize) -> u64 {
        let words = [self.options.seed, self.n_steps, idx as u64];
        words.into_iter().fold(0, |key: u64, word| (key ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
    }

    /// Changes the weights by their gradients, and sets these to zero.
    fn change<'a>(
        &mut self,
        learner: &mut dyn Learner,
        loss: f64,
        batches: impl IntoIterator<Item = &'a Batch>,
    ) -> Result<Progress, Error> {
        let mut square = 0f64;
        learner.for_each(&mut |_, _, gradient| {
            square += gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        })?;
        let gradient_norm = square.sqrt();
        self.n_steps += 1;
        let number = self.n_steps;
        let rate = self.options.schedule.rate(number);
        let changed = loss.is_finite() && gradient_norm.is_finite();
        if changed {
            let scale = |clip: f32| (f64::from(clip) / gradient_norm).min(1.0) as f32;
            let step = Step { rate, number, gradient_scale: self.options.clip.map_or(1.0, scale) };
            let (adam, format) = (self.options.adam, self.options.moments);
            let (mut i, moments) = (0, &mut self.moments);
            learner.for_each(&mut |_, values, gradient| {
                if i == moments.len() {
                    moments.push(Moments::new(format, values.len()));
                }
                adam.update(&step, values, gradient, &mut moments[i]);
                i += 1;
            })?;
        }
        learner.zero_gradients();
        let (mut n_tokens, mut n_labels) = (0, 0);
        for batch in batches {
            n_tokens += batch.n_tokens();
            n_labels += batch.n_labels();
        }
        Ok(Progress { step: number, loss, gradient_norm, rate, n_tokens, n_labels, changed })
    }
}

/// The log-probability of each document's labels together.
pub fn score(learner: &mut dyn Learner, batch: &Batch, adapts: bool) -> Result<Vec<f64>, Error> {
    let mut log_probabilities = Vec::new();
    learner.score(&batch.documents(), adapts, &mut log_probabilities)?;
    Ok(batch.sums(&log_probabilities))
}
