//! What a run is made of: settings, model and data, as `plan` and `run` take them.

use super::{Choices, Data};
use crate::builtin;
use crate::machine::Machine;
use crate::prompt::Choice;
use crate::show;
use crate::vault;
use anyhow::{Context, Result, bail};
use puna_checkpoint::Checkpoint;
use puna_checkpoint::synth::{self, Shape};
use puna_cpu::Cpu;
use puna_text::Date;
use puna_text::chat::Dialect;
use puna_train::data::{Counts, Example, Pair, Source, examples, pairs};
use puna_train::run::{self, hold_back};
use puna_train::{DEFAULT_LENGTH, Method, Objective, Settings};
use std::path::{Path, PathBuf};

/// Which model learns from which data, and how.
#[derive(clap::Args)]
pub struct JobArgs {
    /// The model to be tuned: a directory as published by Hugging Face or Meta, or a .gguf file, in any format
    #[arg(short, long, required_unless_present = "init", value_parser = vault::model_parser())]
    model: Option<PathBuf>,
    /// Instead of a model: the sizes of one that is trained from nothing, a JSON file
    #[arg(long, value_name = "SIZES", requires = "tokenizer", conflicts_with = "model")]
    init: Option<PathBuf>,
    /// The vocabulary of a model that is trained from nothing: a tokenizer.model or tokenizer.json
    #[arg(long, value_name = "FILE", requires = "init")]
    tokenizer: Option<PathBuf>,
    /// A file of rows (JSON Lines, a JSON array, Parquet), a text file (.txt, .md), or a directory with files named train,
    /// valid and test; several if they are of several formats
    #[arg(short, long, required = true)]
    data: Vec<PathBuf>,
    /// Settings, a TOML file: docs/tune.md lists them
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting over those of the file, such as steps=20 or lr=1e-3; any number of times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Threads [default: as many as this process may run at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Everything that a run begins with.
pub struct Job {
    /// With nothing left open.
    pub settings: Settings,
    pub checkpoint: Checkpoint,
    /// Where it came from.
    pub model: PathBuf,
    pub data: run::Data,
    pub valid: run::Data,
}

/// What of the settings may change when a run goes on: nothing that says which rows come next or which values there are.
const CHANGEABLE: [&str; 12] = [
    "lr",
    "schedule",
    "warmup",
    "min_lr",
    "weight_decay",
    "clip",
    "steps",
    "epochs",
    "eval_every",
    "save_every",
    "patience",
    "recompute",
];

impl JobArgs {
    /// The machine that will compute.
    pub fn machine(&self) -> Machine {
        Machine::new(Cpu::new(self.threads.map_or_else(Cpu::default_threads, usize::from)))
    }

    /// Whether there is no model to begin with.
    pub fn is_from_nothing(&self) -> bool {
        self.init.is_some()
    }

    /// Where the data are, for people.
    pub fn data(&self) -> String {
        self.data.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The settings that were asked for.
    pub fn settings(&self) -> Result<Settings> {
        let base = if self.is_from_nothing() { Settings::from_nothing() } else { Settings::default() };
        let settings = self.over(&base)?;
        if self.is_from_nothing() && settings.method != Method::Full {
            bail!("method: expected full, since --init has nothing to put adapters on, found lora");
        }
        Ok(settings)
    }

    /// The settings of a run that goes on, and what of them is not as it was, in words.
    pub fn resumed(&self, stored: &Settings) -> Result<(Settings, Vec<String>)> {
        let asked = match &self.config {
            Some(_) => self.pinned(self.settings()?, stored),
            None => self.over(stored)?,
        };
        let mut changes = Vec::new();
        for (key, was, is) in stored.differences(&asked) {
            if !CHANGEABLE.contains(&key.as_str()) {
                bail!("{key}: expected {was}, as the run began, found {is}; begin a new run with another directory");
            }
            changes.push(format!("{key} is {is} from here on, it was {was}"));
        }
        Ok((asked, changes))
    }

    /// What a file leaves open stays as it was when the run began.
    fn pinned(&self, mut asked: Settings, stored: &Settings) -> Settings {
        asked.objective = asked.objective.or(stored.objective);
        asked.length = asked.length.or(stored.length);
        asked.chat_format = asked.chat_format.or(stored.chat_format);
        asked.format = asked.format.or(stored.format);
        asked.date = asked.date.or_else(|| stored.date.clone());
        asked
    }

    fn over(&self, base: &Settings) -> Result<Settings> {
        let (place, text) = match &self.config {
            Some(file) => {
                let place = file.display().to_string();
                let text = std::fs::read_to_string(file).with_context(|| place.clone())?;
                (place, text)
            }
            None => (String::new(), String::new()),
        };
        Ok(base.with(&place, &text, &self.set)?)
    }

    /// The model; one that begins from nothing is written to `initial` first, unless it lies there.
    pub fn model(&self, initial: &Path, settings: &Settings) -> Result<(PathBuf, Checkpoint)> {
        match (&self.model, &self.init, &self.tokenizer) {
            (Some(model), ..) => Ok((model.clone(), builtin::open(model)?)),
            (None, Some(sizes), Some(tokenizer)) => {
                if !initial.exists() {
                    write_initial(sizes, tokenizer, initial, settings.seed)?;
                }
                // Random numbers of this run's own, which nobody is asked to have signed.
                Ok((initial.to_owned(), puna_checkpoint::open(initial)?))
            }
            _ => bail!("expected --model, or --init with --tokenizer"),
        }
    }
}

impl Job {
    /// Reads the data and settles what the settings leave open.
    pub fn new(args: &JobArgs, mut settings: Settings, (model, checkpoint): (PathBuf, Checkpoint)) -> Result<Job> {
        let length = settings.length.unwrap_or(DEFAULT_LENGTH.min(checkpoint.config.context_length));
        settings.length = Some(length);
        let date = match &settings.date {
            Some(date) => Some(
                Date::parse(date).with_context(|| format!("date: expected a day such as 23 Nov 2026, found {date}"))?,
            ),
            None => None,
        };
        let chat_format = settings.chat_format.map_or(Choice::Auto, |dialect| match dialect {
            Dialect::Template => Choice::Template,
            Dialect::Meta => Choice::Meta,
            Dialect::Llama2 => Choice::Llama2,
        });
        let spinner = show::spinner("reading data");
        let mut rows = Rows::default();
        for path in &args.data {
            let choices = Choices {
                data: path,
                format: settings.format,
                trained: settings.trained,
                length,
                overlong: settings.overlong,
                overlap: settings.overlap,
                chat_format,
                date,
            };
            rows.add(&Data::open(&choices, &checkpoint, &model)?, &mut settings)?;
        }
        spinner.finish_and_clear();
        let (data, valid) = rows.split(&settings);
        if data.is_empty() {
            bail!("{}: expected a row to learn from, found none", args.data());
        }
        Ok(Job { settings, checkpoint, model, data, valid })
    }
}

/// What is read of all data sets.
#[derive(Default)]
struct Rows {
    examples: [Vec<Example>; 2],
    pairs: [Vec<Pair>; 2],
    /// Whether a data set has a part to validate on.
    has_valid: bool,
}

impl Rows {
    /// Reads a data set, and settles what of the settings depends on it.
    fn add(&mut self, data: &Data, settings: &mut Settings) -> Result<()> {
        settings.chat_format = Some(data.options.dialect);
        settings.date = Some(data.options.date.clone());
        let format = data.splits.train.format();
        let objective = if format.is_preference() { Objective::Dpo } else { Objective::Sft };
        match settings.objective {
            Some(asked) if asked != objective => {
                bail!("{}: expected rows for {asked}, found {format}, rows for {objective}", data.splits.train)
            }
            _ => settings.objective = Some(objective),
        }
        self.has_valid |= data.splits.valid.is_some();
        let encoder = data.encoder();
        for (source, part) in [Some(&data.splits.train), data.splits.valid.as_ref()].into_iter().zip(0..) {
            let Some(source) = source else { continue };
            let counts = if objective == Objective::Dpo {
                let loaded = pairs(source, &encoder, &data.limit)?;
                self.pairs[part].extend(loaded.items);
                loaded.counts
            } else {
                let loaded = examples(source, &encoder, &data.limit)?;
                self.examples[part].extend(loaded.items);
                loaded.counts
            };
            tell(source, counts);
        }
        Ok(())
    }

    /// What is learned from, and what is held back.
    fn split(self, settings: &Settings) -> (run::Data, run::Data) {
        let Rows { examples, pairs, has_valid } = self;
        if settings.objective == Some(Objective::Dpo) {
            let (data, valid) = parts(pairs, has_valid, settings);
            (run::Data::Pairs(data, Vec::new()), run::Data::Pairs(valid, Vec::new()))
        } else {
            let (data, valid) = parts(examples, has_valid, settings);
            (run::Data::Examples(data), run::Data::Examples(valid))
        }
    }
}

/// As the data set has them, or as the settings say.
fn parts<T>([train, valid]: [Vec<T>; 2], has_valid: bool, settings: &Settings) -> (Vec<T>, Vec<T>) {
    if has_valid { (train, valid) } else { hold_back(train, settings.valid, settings.seed) }
}

/// Tells which rows were not taken whole.
fn tell(source: &Source, counts: Counts) {
    let Counts { rows, dropped, truncated, split } = counts;
    for (n, what) in [(dropped, "left out"), (truncated, "truncated"), (split, "split")] {
        if n > 0 {
            eprintln!("{source}: {n} of {rows} rows are too long and {what}");
        }
    }
}

/// Random weights of these sizes, with this vocabulary.
fn write_initial(sizes: &Path, tokenizer: &Path, out: &Path, seed: u64) -> Result<()> {
    let place = sizes.display().to_string();
    let json = std::fs::read_to_string(sizes).with_context(|| place.clone())?;
    let name = sizes.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let shape = Shape::from_json(&name, &json).with_context(|| place.clone())?;
    let vocabulary = puna_session::gguf_vocabulary(&puna_session::load_tokenizer(tokenizer)?, tokenizer)?;
    let bar = show::byte_bar("writing", 0);
    synth::write_initial(&shape, &vocabulary, None, out, seed, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(())
}
