//! Runs of a learner that needs no model: checkpoints, resumption, validation, ends.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_checkpoint::Name;
use puna_llama::{Config, Documents, Error, Learner, Parameter, Part, Visitor};
use puna_train::data::{Example, Origin, Place};
use puna_train::run::{Data, End, Observer, Run, RunError, Validation, hold_back};
use puna_train::{Optimizer, Progress, Settings};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Predicts a label `y` with log-probability `−Σ (values − y)²`, whatever is in front.
struct Parabola {
    config: Config,
    values: Vec<f32>,
    gradient: Vec<f32>,
    /// A label that makes the loss infinite.
    poison: Option<u32>,
}

impl Parabola {
    fn new() -> Parabola {
        let shape = puna_checkpoint::synth::Shape::named("llama-3.2-1b").unwrap();
        let values: Vec<f32> = (0..300).map(|i| (i as f32 * 0.37).sin()).collect();
        Parabola { config: shape.config().clone(), gradient: vec![0.0; values.len()], values, poison: None }
    }
}

impl Learner for Parabola {
    fn config(&self) -> &Config {
        &self.config
    }

    fn describe(&self) -> String {
        "a parabola".to_owned()
    }

    fn score(&mut self, documents: &Documents<'_>, _: bool, out: &mut Vec<f32>) -> Result<(), Error> {
        out.extend(documents.labels.iter().map(|label| match self.poison {
            Some(poison) if poison == *label => f32::NAN,
            _ => -self.values.iter().map(|value| (value - *label as f32).powi(2)).sum::<f32>(),
        }));
        Ok(())
    }

    fn learn(&mut self, d: &Documents<'_>, coefficients: &[f32], key: u64, out: &mut Vec<f32>) -> Result<(), Error> {
        // Something that depends on the key, as dropout does.
        let left_out = (key % 300) as usize;
        for (label, coefficient) in d.labels.iter().zip(coefficients) {
            for (i, (g, value)) in self.gradient.iter_mut().zip(&self.values).enumerate() {
                *g += if i == left_out { 0.0 } else { -2.0 * coefficient * (value - *label as f32) };
            }
        }
        self.score(d, true, out)
    }

    fn zero_gradients(&mut self) {
        self.gradient.fill(0.0);
    }

    fn for_each(&mut self, f: &mut Visitor<'_>) -> Result<(), Error> {
        let parameter = Parameter { name: Name::Output, part: Part::Whole, rows: 1, cols: self.values.len() };
        f(&parameter, &mut self.values, &self.gradient);
        Ok(())
    }
}

/// So many examples of three tokens, of which the last two are trained.
fn data(n: u32) -> Data {
    let example = |i: u32| Example {
        ids: vec![0, i % 5, 2],
        trained: vec![false, true, true],
        origin: Origin { file: "rows.jsonl".into(), place: Place::Line(i as usize + 1) },
    };
    Data::Examples((0..n).map(example).collect())
}

fn settings(steps: u64) -> Settings {
    Settings {
        steps: Some(steps),
        batch: 3,
        length: Some(8),
        lr: Some(0.05),
        eval_every: Some(4),
        save_every: Some(2),
        ..Settings::default()
    }
}

/// What happened, in words, and a flag to stop at a step.
#[derive(Default)]
struct Notes {
    said: Vec<String>,
    losses: Vec<f64>,
    stop: Arc<AtomicBool>,
    stop_at: Option<u64>,
}

impl Observer for Notes {
    fn step(&mut self, progress: &Progress, _: &[f64]) {
        self.losses.push(progress.loss);
        self.stop.store(self.stop_at == Some(progress.step), Ordering::Relaxed);
    }

    fn validated(&mut self, validation: Validation, best: bool) {
        self.said.push(format!("validated {} {best}", validation.step));
    }

    fn saved(&mut self, step: u64, path: &Path) {
        assert!(path.is_dir());
        self.said.push(format!("saved {step}"));
    }

    fn warn(&mut self, step: u64, message: &str) {
        self.said.push(format!("warned {step}: {message}"));
    }
}

/// Trains; gives the values at the end.
fn train(
    checkpoints: &Path,
    settings: &Settings,
    resume: bool,
    notes: &mut Notes,
) -> (Result<End, RunError>, Vec<u32>) {
    let (mut learner, data, valid) = (Parabola::new(), data(20), data(6));
    let mut run = Run::new(&mut learner, settings, &data, &valid, checkpoints, "base".to_owned());
    if resume {
        assert!(run.resume().unwrap().is_some());
    }
    let stop = notes.stop.clone();
    stop.store(false, Ordering::Relaxed);
    let end = run.train(&stop, notes);
    (end, learner.values.iter().map(|value| value.to_bits()).collect())
}

#[test]
fn a_run_that_was_stopped_goes_on_as_if_it_had_not_been() {
    for optimizer in [Optimizer::Adamw, Optimizer::Adamw8bit] {
        let settings = Settings { optimizer, patience: 0, ..settings(11) };
        let directory = tempfile::tempdir().unwrap();
        let mut whole = Notes::default();
        let (end, expected) = train(&directory.path().join("whole"), &settings, false, &mut whole);
        assert_eq!(end.unwrap(), End::Done);
        assert_eq!(whole.losses.len(), 11);
        assert!(whole.losses[10] < whole.losses[0]);

        let checkpoints = directory.path().join("parts");
        let mut parts = Notes { stop_at: Some(5), ..Notes::default() };
        let (end, _) = train(&checkpoints, &settings, false, &mut parts);
        assert_eq!(end.unwrap(), End::Stopped);
        parts.stop_at = None;
        let (end, found) = train(&checkpoints, &settings, true, &mut parts);
        assert_eq!(end.unwrap(), End::Done);
        assert_eq!(parts.losses, whole.losses);
        assert!(found == expected, "the same values, bit for bit");
    }
}

/// A checkpoint that was not finished is none, and one that is damaged says so.
#[test]
fn torn_checkpoints_are_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { patience: 0, ..settings(8) };
    let (_, expected) = train(directory.path(), &settings, false, &mut Notes::default());
    let steps = || {
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    // The last two; the best one is the last.
    assert_eq!(steps(), ["step-00000006", "step-00000008"]);
    let (torn, whole) = (directory.path().join(".step-00000010.part"), directory.path().join("step-00000008"));
    std::fs::create_dir(&torn).unwrap();
    std::fs::write(torn.join("state.bin"), "torn").unwrap();
    let (end, found) = train(directory.path(), &settings, true, &mut Notes::default());
    assert_eq!(end.unwrap(), End::Done);
    assert!(found == expected);

    let path = whole.join("state.bin");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (mut learner, data, valid) = (Parabola::new(), data(20), self::data(6));
    let mut run = Run::new(&mut learner, &settings, &data, &valid, directory.path(), "base".to_owned());
    let error = run.resume().unwrap_err().to_string();
    assert!(error.contains("step-00000008") && error.contains("damaged"), "{error}");
    // Cut short.
    std::fs::write(&path, &bytes[..50]).unwrap();
    assert!(run.resume().unwrap_err().to_string().contains("state.bin"));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(4);
    train(directory.path(), &settings, false, &mut Notes::default()).0.unwrap();
    let (rows, other, valid) = (data(20), data(21), data(6));
    for (data, base, expected) in [(&other, "base", "on this data"), (&rows, "another", "of this base")] {
        let mut learner = Parabola::new();
        let mut run = Run::new(&mut learner, &settings, data, &valid, directory.path(), base.to_owned());
        let error = run.resume().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let settings = Settings { optimizer: Optimizer::Adamw8bit, ..settings };
    let mut learner = Parabola::new();
    let mut run = Run::new(&mut learner, &settings, &rows, &valid, directory.path(), "base".to_owned());
    assert!(run.resume().unwrap_err().to_string().contains("moments"));
}

#[test]
fn a_run_ends_early_with_its_best_values() {
    let directory = tempfile::tempdir().unwrap();
    // So fast that it overshoots.
    let settings = Settings { lr: Some(30.0), patience: 2, schedule: puna_train::Shape::Constant, ..settings(100) };
    let mut notes = Notes::default();
    let (end, values) = train(directory.path(), &settings, false, &mut notes);
    assert_eq!(end.unwrap(), End::Early);
    let validations: Vec<&String> = notes.said.iter().filter(|line| line.starts_with("validated")).collect();
    let best = validations.iter().rposition(|line| line.ends_with("true")).unwrap();
    assert_eq!(best + 1 + 2, validations.len(), "{validations:?}");
    let step: u64 = validations[best].split(' ').nth(1).unwrap().parse().unwrap();
    let mut learner = Parabola::new();
    let (rows, valid) = (data(20), data(6));
    let mut run = Run::new(&mut learner, &settings, &rows, &valid, directory.path(), "base".to_owned());
    run.resume().unwrap();
    assert_eq!(run.position().best.unwrap().step, step);
    drop(run);
    let last: Vec<u32> = learner.values.iter().map(|value| value.to_bits()).collect();
    assert!(last != values, "the best values, not the last ones");
}

#[test]
fn a_loss_that_is_no_number_changes_nothing_and_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(10);
    let mut learner = Parabola { poison: Some(2), ..Parabola::new() };
    let before = learner.values.clone();
    let (rows, valid) = (data(20), data(0));
    let mut run = Run::new(&mut learner, &settings, &rows, &valid, directory.path(), "base".to_owned());
    let mut notes = Notes::default();
    let error = run.train(&AtomicBool::new(false), &mut notes).unwrap_err();
    assert!(matches!(error, RunError::NotFinite { step: 3, .. }), "{error}");
    let warned =
        notes.said.iter().filter(|line| line.contains("no weight was changed; learned from rows.jsonl:")).count();
    assert_eq!(warned, 3, "{:?}", notes.said);
    assert_eq!(learner.values, before);
}

#[test]
fn what_is_held_back_is_not_learned_from() {
    let (kept, held_back) = hold_back((0..100).collect(), 0.1, 3);
    assert_eq!((kept.len(), held_back.len()), (90, 10));
    let mut all = [kept, held_back.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    assert_ne!(hold_back((0..100).collect::<Vec<_>>(), 0.1, 4).1, held_back);
    assert_eq!(hold_back(vec![1, 2, 3], 0.3, 0).0.len(), 3);
}
