//! A run: steps until the end, with validations and checkpoints on the way.
//!
//! Nothing here prints or looks at a clock: an [`Observer`] hears of what happens.

mod data;

mod checkpoint;
mod tensorboard;

pub use checkpoint::{Identity, Position, Validation};
pub use data::{Data, hold_back};
pub use tensorboard::EventFile;

use crate::data::Pair;
use crate::{Batch, Pairs, Preference, Progress, Settings, Trainer, TrainerOptions, score};
use data::push_pair;
use puna_llama::Learner;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Losses to hold the next one against, and by how many of their standard deviations it leaps.
const LEAP_MEMORY: usize = 50;
const LEAP: f64 = 6.0;

/// Steps in a row without a finite loss and gradient, after which a run ends.
const MAX_SKIPPED: u32 = 3;

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The model could not be computed.
    #[error(transparent)]
    Model(#[from] puna_llama::Error),
    /// A file that could not be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A checkpoint that does not belong to the run, or is damaged.
    #[error("checkpoint {path}: {problem}")]
    Checkpoint {
        /// Its directory.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// A loss or a gradient that is no finite number, several times in a row.
    #[error(
        "step {step}: expected a finite loss and gradient, found {loss} and {gradient_norm}, for the {MAX_SKIPPED}rd time \
         in a row; the last checkpoint is good: go on from it with a lower learning rate (lr)"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The norm of its gradient.
        gradient_norm: f64,
    },
}

impl RunError {
    fn file(path: &Path, error: std::io::Error) -> RunError {
        RunError::File { path: path.to_owned(), error }
    }
}

/// Sequences of the first pass over the data; those of the others are about as many.
pub fn n_sequences(settings: &Settings, data: &Data) -> usize {
    data.sequences(settings, 0).len()
}

/// Steps of a run on data of so many sequences.
pub fn n_steps(settings: &Settings, n_sequences: usize) -> u64 {
    settings.steps.unwrap_or((n_sequences as u64 * settings.epochs).div_ceil(settings.batch as u64))
}

/// The log-probabilities of both answers of each pair by the model without adapters; `progress(done, in all)`.
pub fn reference(
    learner: &mut dyn Learner,
    pairs: &[Pair],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<[f64; 2]>, RunError> {
    let mut found = Vec::with_capacity(pairs.len());
    for (i, pair) in pairs.iter().enumerate() {
        progress(i, pairs.len());
        let mut batch = Batch::default();
        push_pair(&mut batch, pair);
        found.extend_from_slice(score(learner, &batch, false)?.as_chunks::<2>().0);
    }
    progress(pairs.len(), pairs.len());
    Ok(found)
}

/// Hears of what happens.
pub trait Observer {
    /// A step was done; margins of its pairs, if it learned from pairs.
    fn step(&mut self, progress: &Progress, margins: &[f64]);
    /// A validation; whether it is the best so far.
    fn validated(&mut self, validation: Validation, best: bool);
    /// A checkpoint was written.
    fn saved(&mut self, step: u64, path: &Path);
    /// Something to be told: what and why.
    fn warn(&mut self, step: u64, message: &str);
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Done,
    /// Validation got no better for a while.
    Early,
    /// It was asked to stop, and can go on from its last checkpoint.
    Stopped,
}

/// A run.
pub struct Run<'a> {
    learner: &'a mut dyn Learner,
    trainer: Trainer,
    settings: &'a Settings,
    data: &'a Data,
    valid: &'a Data,
    checkpoints: PathBuf,
    identity: Identity,
    position: Position,
    steps: u64,
    /// Of the present epoch.
    sequences: Vec<Vec<usize>>,
    /// Recent losses, to tell what is unusual.
    recent: Vec<f64>,
}

impl<'a> Run<'a> {
    /// A new run, whose checkpoints lie in `checkpoints`. `base` says which model it begins with.
    ///
    /// # Panics
    /// Without data.
    pub fn new(
        learner: &'a mut dyn Learner,
        settings: &'a Settings,
        data: &'a Data,
        valid: &'a Data,
        checkpoints: &Path,
        base: String,
    ) -> Run<'a> {
        assert!(!data.is_empty(), "data to learn from");
        let identity = Identity { base, data: data.digest(), valid: valid.digest() };
        let sequences = data.sequences(settings, 0);
        let steps = n_steps(settings, sequences.len());
        let trainer = Trainer::new(TrainerOptions {
            adam: settings.adam(),
            moments: settings.moments(),
            schedule: settings.schedule(steps),
            clip: (settings.clip > 0.0).then_some(settings.clip),
            seed: settings.seed,
        });
        let checkpoints = checkpoints.to_owned();
        let (position, recent) = (Position::default(), Vec::new());
        Run { learner, trainer, settings, data, valid, checkpoints, identity, position, steps, sequences, recent }
    }

    /// Goes on from the last checkpoint, if there is one.
    pub fn resume(&mut self) -> Result<Option<u64>, RunError> {
        let Some(step) = checkpoint::steps(&self.checkpoints)?.pop() else { return Ok(None) };
        self.load(step)?;
        Ok(Some(step))
    }

    fn load(&mut self, step: u64) -> Result<(), RunError> {
        let directory = checkpoint::directory(&self.checkpoints, step);
        self.position = checkpoint::read(&directory, &self.identity, self.learner, &mut self.trainer)?;
        self.sequences = self.data.sequences(self.settings, self.position.epoch);
        Ok(())
    }

    /// Where it is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes steps until the end, or until `stop` is set. At the end the learner has the values of the best validation, or
    /// the last ones if there was none.
    pub fn train(&mut self, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<End, RunError> {
        let tenth = (self.steps / 10).max(1);
        let eval_every = self.settings.eval_every.unwrap_or(tenth);
        let save_every = self.settings.save_every.unwrap_or(eval_every);
        while self.position.step < self.steps {
            if self.is_stuck() {
                self.load_best()?;
                return Ok(End::Early);
            }
            let (rows, progress, margins) = self.step()?;
            observer.step(&progress, &margins);
            self.watch(&rows, &progress, observer)?;
            let last = self.position.step == self.steps;
            let mut save = last || self.position.step.is_multiple_of(save_every);
            if !self.valid.is_empty() && (last || self.position.step.is_multiple_of(eval_every)) {
                let better = self.validate(observer)?;
                save |= better || self.is_stuck();
            }
            let stopped = stop.load(Ordering::Relaxed);
            if save || stopped {
                let Run { checkpoints, position, identity, learner, trainer, .. } = self;
                let path = checkpoint::write(checkpoints, position, identity, *learner, trainer)?;
                observer.saved(self.position.step, &path);
            }
            if stopped && !last {
                return Ok(End::Stopped);
            }
        }
        self.load_best()?;
        Ok(End::Done)
    }

    /// Whether validation has got no better for so long that the run is to end.
    fn is_stuck(&self) -> bool {
        self.settings.patience > 0 && self.position.worse >= self.settings.patience
    }

    fn load_best(&mut self) -> Result<(), RunError> {
        match self.position.best {
            Some(best) if best.step != self.position.step => self.load(best.step),
            _ => Ok(()),
        }
    }

    /// The next sequences, over the end of an epoch if need be.
    fn next_rows(&mut self) -> Vec<Vec<usize>> {
        let mut rows = Vec::with_capacity(self.settings.batch);
        while rows.len() < self.settings.batch {
            if self.position.sequence == self.sequences.len() {
                self.position.epoch += 1;
                self.position.sequence = 0;
                self.sequences = self.data.sequences(self.settings, self.position.epoch);
            }
            rows.push(self.sequences[self.position.sequence].clone());
            self.position.sequence += 1;
        }
        rows
    }

    /// One step: its rows, how it went, and the margins of its pairs.
    fn step(&mut self) -> Result<(Vec<usize>, Progress, Vec<f64>), RunError> {
        let sequences = self.next_rows();
        let passes = self.data.passes(sequences, self.settings.pass_tokens());
        let (progress, margins) = match self.data {
            Data::Examples(examples) => {
                let batches: Vec<Batch> = passes.iter().map(|rows| Data::batch(examples, rows)).collect();
                (self.trainer.step(self.learner, &batches)?, Vec::new())
            }
            Data::Pairs(pairs, reference) => {
                let pass = |rows: &Vec<usize>| {
                    let mut pass = Pairs::default();
                    for row in rows {
                        push_pair(&mut pass.batch, &pairs[*row]);
                        pass.reference.push(reference[*row]);
                    }
                    pass
                };
                let pairs: Vec<Pairs> = passes.iter().map(pass).collect();
                self.trainer.prefer(self.learner, self.settings.beta, &pairs)?
            }
        };
        self.position.step = progress.step;
        self.position.n_tokens += progress.n_tokens as u64;
        Ok((passes.concat(), progress, margins))
    }

    /// Stops a run whose loss is no number any more, and tells of one that leaps.
    fn watch(&mut self, rows: &[usize], progress: &Progress, observer: &mut dyn Observer) -> Result<(), RunError> {
        let Progress { step, loss, gradient_norm, changed, .. } = *progress;
        let origins = || self.data.origins(rows);
        if !changed {
            self.position.skipped += 1;
            let found = format!("loss {loss} and gradient {gradient_norm}, expected finite ones");
            observer.warn(step, &format!("{found}; no weight was changed; learned from {}", origins()));
            if self.position.skipped == MAX_SKIPPED {
                return Err(RunError::NotFinite { step, loss, gradient_norm });
            }
            return Ok(());
        }
        self.position.skipped = 0;
        let n = self.recent.len();
        let mean = self.recent.iter().sum::<f64>() / n as f64;
        let deviation = (self.recent.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / n as f64).sqrt();
        if n >= LEAP_MEMORY / 2 && loss > mean + LEAP * deviation {
            let leap = format!("loss {loss:.3} leaps above the last {n}, whose mean is {mean:.3}");
            observer.warn(step, &format!("{leap}; learned from {}", origins()));
        }
        self.recent.push(loss);
        if self.recent.len() > LEAP_MEMORY {
            self.recent.remove(0);
        }
        Ok(())
    }

    /// Whether the loss on what is held back is the best so far.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<bool, RunError> {
        let validation = self.validation()?;
        let better = validation.loss.is_finite() && self.position.best.is_none_or(|best| validation.loss < best.loss);
        if better {
            self.position.best = Some(validation);
            self.position.worse = 0;
        } else {
            self.position.worse += 1;
        }
        observer.validated(validation, better);
        Ok(better)
    }

    /// The mean over labels, or over pairs.
    fn validation(&mut self) -> Result<Validation, RunError> {
        let (step, capacity) = (self.position.step, self.settings.pass_tokens());
        let passes = self.valid.passes(self.valid.sequences(self.settings, 0), capacity);
        let (mut loss, mut n_labels, mut n_right) = (0.0, 0, 0);
        for rows in passes {
            match self.valid {
                Data::Examples(examples) => {
                    let batch = Data::batch(examples, &rows);
                    loss -= score(self.learner, &batch, true)?.iter().sum::<f64>();
                    n_labels += batch.n_labels();
                }
                Data::Pairs(pairs, reference) => {
                    let mut batch = Batch::default();
                    rows.iter().for_each(|row| push_pair(&mut batch, &pairs[*row]));
                    let sums = score(self.learner, &batch, true)?;
                    for (sums, row) in sums.as_chunks::<2>().0.iter().zip(&rows) {
                        let preference = Preference::new(self.settings.beta, *sums, reference[*row]);
                        loss += preference.loss;
                        n_right += usize::from(preference.margin > 0.0);
                    }
                    n_labels += batch.n_labels();
                }
            }
        }
        Ok(match self.valid {
            Data::Examples(_) => Validation { step, loss: loss / n_labels as f64, n_labels, accuracy: None },
            Data::Pairs(pairs, _) => {
                let n = pairs.len() as f64;
                Validation { step, loss: loss / n, n_labels, accuracy: Some(n_right as f64 / n) }
            }
        })
    }
}
