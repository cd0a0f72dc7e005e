//! What a run is asked to do: a TOML file, and single settings over it.

use crate::data::{Format, Overlong, Trained};
use crate::{AdamW, MomentFormat, Schedule, Shape};
use puna_text::chat::Dialect;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank adapters beside a model that stays as it is, in any format.
    Lora,
    /// All weights.
    Full,
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// To give the trained tokens of examples, or of raw text.
    Sft,
    /// To prefer one answer over another.
    Dpo,
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Objective::Sft => "sft",
            Objective::Dpo => "dpo",
        })
    }
}

/// Whether layers are computed again on the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// If memory is short.
    Auto,
    /// In any case.
    On,
    /// Never.
    Off,
}

/// How moments are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// In f32.
    Adamw,
    /// In 8 bits.
    Adamw8bit,
}

/// All settings of a run. Each has a default; a key that is not one of these is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is changed.
    pub method: Method,
    /// What is learned. Left out, it is what the data is for.
    pub objective: Option<Objective>,
    /// Rank of adapters.
    pub rank: usize,
    /// Adapters count `alpha / rank` times.
    pub alpha: f32,
    /// Or `alpha / √rank` times.
    pub rank_stabilized: bool,
    /// Share of inputs that adapters do not see.
    pub dropout: f32,
    /// Matrices with adapters, by the names of PEFT.
    pub targets: Vec<String>,
    /// How far preferences may lead from the model as it was.
    pub beta: f64,
    /// Steps in all. Left out, as many as `epochs` need.
    pub steps: Option<u64>,
    /// How often all data is seen.
    pub epochs: u64,
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens of a sequence at most. Left out, 1024, or the model's context where that is less.
    pub length: Option<usize>,
    /// Tokens that are computed together at most: more are faster on a small model, and take more memory. Left out, those of
    /// one sequence, or of a pair.
    pub pass_tokens: Option<usize>,
    /// Whether several rows share a sequence.
    pub packing: bool,
    /// Whether rows come in random order; packed rows do in any case.
    pub shuffle: bool,
    /// Highest learning rate. Left out, 2e-4 for adapters and 1e-5 for all weights.
    pub lr: Option<f32>,
    /// How it goes.
    pub schedule: Shape,
    /// Share of the steps in which it rises.
    pub warmup: f32,
    /// Lowest learning rate at the end, as a share of the highest.
    pub min_lr: f32,
    /// How moments are stored.
    pub optimizer: Optimizer,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// What keeps a division finite.
    pub eps: f32,
    /// Share of a weight, times the learning rate, that a step takes away.
    pub weight_decay: f32,
    /// Largest norm of the gradient; 0 for any.
    pub clip: f32,
    /// Of all that is random.
    pub seed: u64,
    /// Whether layers are computed again.
    pub recompute: Recompute,
    /// Share of rows that are held back to validate on, where the data has no part for it.
    pub valid: f32,
    /// Steps from validation to validation. Left out, a tenth of all.
    pub eval_every: Option<u64>,
    /// Validations without a better loss after which the run ends; 0 for never.
    pub patience: u32,
    /// Steps from checkpoint to checkpoint. Left out, as validations.
    pub save_every: Option<u64>,
    /// What rows of the data mean. Left out, it is told by their keys.
    pub format: Option<Format>,
    /// What is trained of a row.
    pub trained: Trained,
    /// What becomes of rows that are too long.
    pub overlong: Overlong,
    /// Tokens that a part of a split text repeats from the one before.
    pub overlap: usize,
    /// How conversations are written. Left out, as the model's files say.
    pub chat_format: Option<Dialect>,
    /// The date of conversations that have none themselves, such as `23 Nov 2026`. Left out, the day on which the run
    /// begins.
    pub date: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            method: Method::Lora,
            objective: None,
            rank: 16,
            alpha: 32.0,
            rank_stabilized: false,
            dropout: 0.0,
            targets: TARGETS.map(str::to_owned).to_vec(),
            beta: 0.1,
            steps: None,
            epochs: 3,
            batch: 8,
            length: None,
            pass_tokens: None,
            packing: true,
            shuffle: true,
            lr: None,
            schedule: Shape::Cosine,
            warmup: 0.03,
            min_lr: 0.0,
            optimizer: Optimizer::Adamw,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            seed: 0,
            recompute: Recompute::Auto,
            valid: 0.05,
            eval_every: None,
            patience: 3,
            save_every: None,
            format: None,
            trained: Trained::Assistant,
            overlong: Overlong::Error,
            overlap: 0,
            chat_format: None,
            date: None,
        }
    }
}

/// Tokens of a sequence where nothing is said.
pub const DEFAULT_LENGTH: usize = 1024;

/// The matrices of a layer, as PEFT calls them.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// What is wrong with settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Not TOML, or not of these keys and kinds.
    #[error("{place}: {problem}")]
    Toml {
        /// The file or the setting.
        place: String,
        /// What the parser says, with line and column.
        problem: String,
    },
    /// A setting without a value.
    #[error("--set {found}: expected KEY=VALUE")]
    NoValue {
        /// What there is.
        found: String,
    },
    /// A value out of its range.
    #[error("{key}: expected {expected}, found {found}")]
    Range {
        /// The setting.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
}

impl Settings {
    /// Where nothing else is said about a model that is trained from nothing.
    pub fn from_nothing() -> Settings {
        Settings {
            method: Method::Full,
            lr: Some(1e-3),
            beta2: 0.95,
            weight_decay: 0.1,
            patience: 0,
            ..Settings::default()
        }
    }

    /// These settings, a TOML text from `place` over them, and each of `overrides` (`key=value`) over that.
    ///
    /// # Errors
    /// Names the key.
    pub fn with(&self, place: &str, text: &str, overrides: &[String]) -> Result<Settings, SettingsError> {
        let toml = |place: &str, error: toml::de::Error| SettingsError::Toml {
            place: place.to_owned(),
            problem: error.to_string().trim_end().replace('\n', " "),
        };
        let file: toml::Table = toml::from_str(text).map_err(|error| toml(place, error))?;
        // From the text, so that an error has its line.
        toml::from_str::<Settings>(text).map_err(|error| toml(place, error))?;
        let mut table = self.table();
        table.extend(file);
        for found in overrides {
            let (key, value) = found.split_once('=').ok_or_else(|| SettingsError::NoValue { found: found.clone() })?;
            let (key, value) = (key.trim(), value.trim());
            // A word without quotes is a text.
            let line = format!("value = {value}");
            let value = match toml::from_str::<toml::Table>(&line) {
                Ok(mut line) if line.len() == 1 => line.remove("value").unwrap_or_else(|| value.into()),
                _ => toml::Value::String(value.to_owned()),
            };
            table.insert(key.to_owned(), value);
            table.clone().try_into::<Settings>().map_err(|error| toml(&format!("--set {found}"), error))?;
        }
        let settings: Settings = table.try_into().map_err(|error| toml(place, error))?;
        settings.check()?;
        Ok(settings)
    }

    /// By way of the text, which has numbers of 32 bits as people write them.
    fn table(&self) -> toml::Table {
        toml::from_str(&self.to_toml()).unwrap_or_else(|_| unreachable!("what was written reads back"))
    }

    /// As a file, every setting in it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|_| unreachable!("settings are plain values"))
    }

    fn check(&self) -> Result<(), SettingsError> {
        let range = |key, fits: bool, expected: &str, found: &dyn std::fmt::Display| {
            let error = || SettingsError::Range { key, expected: expected.to_owned(), found: found.to_string() };
            if fits { Ok(()) } else { Err(error()) }
        };
        let share = |key, found: f32| range(key, (0.0..1.0).contains(&found), "0 to below 1", &found);
        range("rank", (1..=4096).contains(&self.rank), "1 to 4096", &self.rank)?;
        range("alpha", self.alpha.is_finite() && self.alpha > 0.0, "a number above 0", &self.alpha)?;
        share("dropout", self.dropout)?;
        for target in &self.targets {
            let known = TARGETS.contains(&target.as_str()) || target == "lm_head";
            range("targets", known, &format!("{} or lm_head", TARGETS.join(", ")), target)?;
        }
        range("targets", !self.targets.is_empty(), "at least one", &"none")?;
        range("beta", self.beta.is_finite() && self.beta > 0.0, "a number above 0", &self.beta)?;
        range("steps", self.steps != Some(0), "at least 1", &0)?;
        range("epochs", self.epochs > 0, "at least 1", &self.epochs)?;
        range("batch", self.batch > 0, "at least 1", &self.batch)?;
        range("length", self.length() >= 2, "at least 2", &self.length())?;
        let pass = self.pass_tokens();
        let least = self.sequence_tokens();
        range("pass_tokens", pass >= least, &format!("at least {least}, what is learned from together"), &pass)?;
        let rate = self.rate();
        range("lr", rate.is_finite() && rate > 0.0, "a number above 0", &rate)?;
        share("warmup", self.warmup)?;
        range("min_lr", (0.0..=1.0).contains(&self.min_lr), "0 to 1", &self.min_lr)?;
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        range("eps", self.eps.is_finite() && self.eps > 0.0, "a number above 0", &self.eps)?;
        share("weight_decay", self.weight_decay)?;
        range("clip", self.clip.is_finite() && self.clip >= 0.0, "a number of at least 0", &self.clip)?;
        share("valid", self.valid)?;
        range("eval_every", self.eval_every != Some(0), "at least 1", &0)?;
        range("save_every", self.save_every != Some(0), "at least 1", &0)
    }

    /// Tokens of a sequence at most.
    pub fn length(&self) -> usize {
        self.length.unwrap_or(DEFAULT_LENGTH)
    }

    /// Tokens that have to be computed together, at most: a sequence, or both of a pair.
    fn sequence_tokens(&self) -> usize {
        self.length().saturating_mul(if self.objective == Some(Objective::Dpo) { 2 } else { 1 })
    }

    /// Tokens of a pass through the model at most.
    pub fn pass_tokens(&self) -> usize {
        self.pass_tokens.unwrap_or(self.sequence_tokens())
    }

    /// The highest learning rate.
    pub fn rate(&self) -> f32 {
        self.lr.unwrap_or(match self.method {
            Method::Lora => 2e-4,
            Method::Full => 1e-5,
        })
    }

    /// Learning rates of a run of so many steps.
    pub fn schedule(&self, steps: u64) -> Schedule {
        let rate = self.rate();
        let warmup = (self.warmup * steps as f32).ceil() as u64;
        Schedule { shape: self.schedule, rate, lowest: rate * self.min_lr, warmup, steps }
    }

    /// Constants of the optimizer.
    pub fn adam(&self) -> AdamW {
        let Settings { beta1, beta2, eps, weight_decay, .. } = *self;
        AdamW { beta1, beta2, eps, weight_decay }
    }

    /// How its moments are stored.
    pub fn moments(&self) -> MomentFormat {
        match self.optimizer {
            Optimizer::Adamw => MomentFormat::F32,
            Optimizer::Adamw8bit => MomentFormat::EightBits,
        }
    }

    /// The settings that differ, by name, with what stands here and there, of those that are set in either.
    pub fn differences(&self, other: &Settings) -> Vec<(String, String, String)> {
        let (here, there) = (self.table(), other.table());
        let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let text = |table: &toml::Table, key: &str| table.get(key).map_or("nothing".to_owned(), toml::Value::to_string);
        let pairs = keys.into_iter().map(|key| (key.clone(), text(&here, key), text(&there, key)));
        pairs.filter(|(_, here, there)| here != there).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let settings = Settings { lr: Some(3e-4), steps: Some(7), method: Method::Full, ..Settings::default() };
        assert_eq!(Settings::default().with("a", &settings.to_toml(), &[]).unwrap(), settings);
        assert_eq!(settings.with("a", "", &[]).unwrap(), settings);
        assert_eq!(settings.differences(&settings), []);
        let differences = settings.differences(&Settings { lr: None, ..settings.clone() });
        assert_eq!(differences, [("lr".to_owned(), "0.0003".to_owned(), "nothing".to_owned())]);
    }

    #[test]
    fn settings_go_over_the_file() {
        let set = ["steps=20", "lr = 1e-3", "schedule=wsd", "targets=[\"q_proj\"]", "packing=false"];
        let set = set.map(str::to_owned);
        let settings = Settings::default().with("a", "steps = 5\nrank = 8\n", &set).unwrap();
        let expected = Settings {
            steps: Some(20),
            rank: 8,
            lr: Some(1e-3),
            schedule: Shape::Wsd,
            targets: vec!["q_proj".to_owned()],
            packing: false,
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (file, set, expected) in [
            ("stepz = 5", "seed=1", "tune.toml: "),
            ("stepz = 5", "seed=1", "stepz"),
            ("", "steps", "--set steps: expected KEY=VALUE"),
            ("", "stepz=5", "--set stepz=5: "),
            ("", "steps=many", "--set steps=many: "),
            ("", "rank=0", "rank: expected 1 to 4096, found 0"),
            ("", "dropout=1.0", "dropout: expected 0 to below 1, found 1"),
            ("", "targets=[\"k\"]", "targets: expected q_proj, "),
            ("", "lr=nan", "lr: expected a number above 0, found NaN"),
        ] {
            let error = Settings::default().with("tune.toml", file, &[set.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
