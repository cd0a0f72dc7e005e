//! `puna tune run`: a model learns.

use super::job::{Job, JobArgs};
use super::memory::{self, Memory};
use crate::licence::{LicenceArgs, Terms};
use crate::machine::Machine;
use crate::show;
use crate::vault;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use puna_checkpoint::adapter::{self, Adapter, BaseIdentity, Digest};
use puna_checkpoint::export::{self, Options};
use puna_checkpoint::{Config, Layout, Name, Tensor, WeightFormat, is_left_of, write_file};
use puna_cpu::Cpu;
use puna_llama::{Learner, Trained, Training, TrainingOptions};
use puna_train::log::{self, Outcome, Record};
use puna_train::run::{self, Data, End, EventFile, Observer, Run, Validation};
use puna_train::{Method, Progress, Settings, initial_adapter, trained_adapter};
use serde_json::json;
use signal_hook::consts::SIGINT;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Fine-tune a model on data; the adapter lands in OUT
///
/// OUT becomes a directory in PEFT's form, which `puna run --adapter` takes, with the run's log, settings and checkpoints
/// beside it. Ctrl-C writes a checkpoint and stops; --resume goes on from the last one, as if nothing had happened.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune run -m ./Llama-3.1-8B-Instruct -d data.jsonl -o ./my-adapter
  puna tune run -m ./model.gguf -d ./data -o ./my-run -c tune.toml --set steps=20 --set lr=1e-4
  puna tune run -m ./model.gguf -d ./data -o ./my-run --resume
  puna tune run --init sizes.json --tokenizer tokenizer.model -d ./corpus -o ./my-model")]
pub struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// The directory of the run: new or empty, or that of the run which goes on
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Go on from the last checkpoint in OUT
    #[arg(long)]
    resume: bool,
    /// Of a whole model (method full): the format of its weights [default: each as it was in the model]
    #[arg(long, value_name = "FORMAT")]
    save_as: Option<WeightFormat>,
    #[command(flatten)]
    licence: LicenceArgs,
    /// One JSON object at the end: `end`, `step`, `loss`, `valid`, `seconds`, `tokens_per_second`, `output`
    #[arg(long)]
    json: bool,
}

/// Files of a run.
struct Files {
    settings: PathBuf,
    log: PathBuf,
    events: PathBuf,
    checkpoints: PathBuf,
    /// Held while a process works on the run.
    lock: PathBuf,
    /// The random weights of a model that is trained from nothing.
    initial: PathBuf,
}

impl Files {
    fn new(out: &Path) -> Files {
        Files {
            settings: out.join("tune.toml"),
            log: out.join(log::FILE_NAME),
            events: out.join("tensorboard"),
            checkpoints: out.join("checkpoints"),
            lock: out.join(".lock"),
            initial: out.join("initial.gguf"),
        }
    }

    /// Whether this is what a run left that did not get far enough to have settings.
    fn is_left(&self, path: &Path) -> bool {
        path == self.initial || is_left_of(&self.initial, path) || is_left_of(&self.settings, path)
    }
}

pub fn run(args: Args) -> Result<()> {
    let files = Files::new(&args.output);
    let (settings, changes) = settings(&args, &files)?;
    let _lock = lock(&files.lock)?;
    if !args.resume {
        // Nobody writes it any more: he would have the lock.
        for path in entries(&args.output)?.into_iter().filter(|path| files.is_left(path)) {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    let machine = args.job.machine();
    let model = args.job.model(&files.initial, &settings)?;
    let mut job = Job::new(&args.job, settings, model)?;
    let recompute = memory::recompute(&job, &machine);
    let memory = Memory::new(&job, &job.settings, recompute);
    check_memory(&job, &memory, &machine, recompute)?;
    write_file(&files.settings, job.settings.to_toml().as_bytes())?;

    // Of a whole model; before anything is learned, since it may be an error.
    let is_derived = job.settings.method == Method::Full && !args.job.is_from_nothing();
    let terms = is_derived.then(|| args.licence.terms(&job.model, &job.checkpoint, &[], &args.output)).transpose()?;
    let base = BaseIdentity::of(&job.checkpoint);
    let adapter = (job.settings.method == Method::Lora).then(|| new_adapter(&job, &base));
    let mut learner = load(&job, &machine, &memory, recompute, adapter.clone())?;
    if let Data::Pairs(..) = job.data {
        for data in [&mut job.data, &mut job.valid] {
            if let Data::Pairs(pairs, reference) = data {
                let bar = show::step_bar(pairs.len() as u64).with_message("pairs, by the model as it is");
                *reference = run::reference(&mut learner, pairs, &mut |done, _| bar.set_position(done as u64))?;
                bar.finish_and_clear();
            }
        }
    }
    let learned = learn(&args, &files, &job, &memory, &machine, &mut learner, &base, &changes)?;
    let written = match learned.end {
        // A checkpoint is all that it takes to go on.
        End::Stopped => args.output.clone(),
        End::Done | End::Early => write_result(&args, &job, adapter, terms, &mut learner, learned.step)?,
    };
    learned.tell(&written, args.json)
}

/// How a run ended.
struct Learned {
    end: End,
    /// Steps done.
    step: u64,
    /// Of the last step.
    loss: Option<f64>,
    best: Option<Validation>,
    /// Since the run began, or went on.
    seconds: f64,
    tokens_per_second: f64,
}

impl Learned {
    fn tell(&self, output: &Path, json: bool) -> Result<()> {
        let Learned { end, step, loss, best, seconds, tokens_per_second } = *self;
        if json {
            let object = json!({
                "end": outcome(end), "step": step, "loss": loss, "valid": best.map(|best| best.loss),
                "best_step": best.map(|best| best.step), "seconds": seconds,
                "tokens_per_second": tokens_per_second, "output": output,
            });
            writeln!(std::io::stdout(), "{object}")?;
        }
        let ended = match end {
            End::Done => format!("{step} steps"),
            End::Early => format!("{step} steps, ended early: validation got no better"),
            End::Stopped => format!("stopped after {step} steps, go on with --resume"),
        };
        let best = best
            .map_or(String::new(), |best| format!(" · best validation loss {:.4} after step {}", best.loss, best.step));
        let time = show::duration(seconds);
        eprintln!("{ended} in {time}, {tokens_per_second:.0} tokens/s{best} · {}", output.display());
        Ok(())
    }
}

fn outcome(end: End) -> Outcome {
    match end {
        End::Done => Outcome::Done,
        End::Early => Outcome::Early,
        End::Stopped => Outcome::Stopped,
    }
}

/// The run itself, or what is left of it, with its logs.
#[allow(clippy::too_many_arguments, reason = "all that a run is made of")]
fn learn(
    args: &Args,
    files: &Files,
    job: &Job,
    memory: &Memory,
    machine: &Machine,
    learner: &mut Training<Cpu>,
    base: &BaseIdentity,
    changes: &[String],
) -> Result<Learned> {
    let stop = Arc::new(AtomicBool::new(false));
    // A second Ctrl-C does not wait for the step to end.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, stop.clone())?;
    signal_hook::flag::register(SIGINT, stop.clone())?;
    let base = format!("{}, {}, values {:.16}", base.sizes, base.formats, base.values);
    let device = learner.describe();
    let mut run = Run::new(learner, &job.settings, &job.data, &job.valid, &files.checkpoints, base);
    let resumed = if args.resume { run.resume()? } else { None };
    if args.resume && resumed.is_none() && files.log.exists() {
        // It was stopped before its first checkpoint: what it did is done again.
        std::fs::remove_file(&files.log).with_context(|| files.log.display().to_string())?;
    }
    let mut watcher = Watcher::open(files, run.steps(), resumed)?;
    watcher.record(&match resumed {
        Some(step) => Record::Resume(log::Resume { time: now(), step, steps: Some(run.steps()) }),
        None => Record::Start(start(job, args, memory, run.steps(), machine, device)),
    })?;
    for change in changes {
        watcher.warn(resumed.unwrap_or(0), change);
    }
    let result = run.train(&stop, &mut watcher);
    let best = run.position().best;
    let (step, seconds) = (watcher.step, watcher.begin.elapsed().as_secs_f64());
    let end = result.as_ref().map_or(Outcome::Failed, |end| outcome(*end));
    let loss = best.map(|best| best.loss).or(watcher.loss);
    watcher.record(&Record::End(log::End { step, end, seconds, loss }))?;
    watcher.bar.finish_and_clear();
    let end = result?;
    match watcher.failed.take() {
        Some(error) => Err(error),
        None => {
            let tokens_per_second = watcher.n_tokens as f64 / seconds.max(1e-9);
            Ok(Learned { end, step, loss: watcher.loss, best, seconds, tokens_per_second })
        }
    }
}

/// Keeps a second process out of the run's directory, for as long as the file is open.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{}: expected a run that nobody works on, found another process at it", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// What is in a directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.with_context(|| directory.display().to_string())
}

/// The settings of the run, and what of them changed since it began.
fn settings(args: &Args, files: &Files) -> Result<(Settings, Vec<String>)> {
    let stored = match std::fs::read_to_string(&files.settings) {
        Ok(text) => Some(Settings::default().with(&files.settings.display().to_string(), &text, &[])?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| files.settings.display().to_string()),
    };
    match (stored, args.resume) {
        (Some(stored), true) => args.job.resumed(&stored),
        (Some(_), false) => bail!(
            "{}: expected a new directory, found a run; go on with it by --resume, or name another",
            args.output.display()
        ),
        (None, true) => bail!("{}: expected a run to go on with, found no tune.toml", args.output.display()),
        (None, false) => {
            let settings = args.job.settings()?;
            let out = || args.output.display().to_string();
            std::fs::create_dir_all(&args.output).with_context(out)?;
            if entries(&args.output)?.iter().any(|path| *path != files.lock && !files.is_left(path)) {
                bail!("{}: expected a new or empty directory, found files in it", out());
            }
            Ok((settings, Vec::new()))
        }
    }
}

/// Refuses a run that would drive the machine out of its memory.
fn check_memory(job: &Job, memory: &Memory, machine: &Machine, recompute: bool) -> Result<()> {
    let needed = memory.unmapped();
    let Some(available) = machine.available().filter(|available| needed > *available) else { return Ok(()) };
    let savings: Vec<String> = memory::savings(job, recompute)
        .into_iter()
        .filter(|(_, memory)| memory.unmapped() < needed)
        .map(|(set, memory)| format!("--set {set} ({})", show::bytes(memory.unmapped())))
        .collect();
    bail!(
        "the run needs {}: expected at most {}, the available memory; less is needed with {}",
        show::bytes(needed),
        show::bytes(available),
        savings.join(", ")
    )
}

/// An adapter that changes nothing yet and knows its base.
fn new_adapter(job: &Job, base: &BaseIdentity) -> Adapter {
    let mut adapter = initial_adapter(&job.settings, &job.checkpoint.config);
    adapter.settings = adapter::Settings {
        base_name: Some(job.model.display().to_string()),
        base: Some(base.clone()),
        chat_template: job.checkpoint.chat_template.as_ref().map(|template| Digest::of(template.as_bytes())),
        ..adapter.settings
    };
    adapter
}

fn load(
    job: &Job,
    machine: &Machine,
    memory: &Memory,
    recompute: bool,
    adapter: Option<Adapter>,
) -> Result<Training<Cpu>> {
    let checkpoint = &job.checkpoint;
    let trained = adapter.map_or(Trained::Weights, Trained::Adapter);
    let options = TrainingOptions { max_tokens: job.settings.pass_tokens(), recompute };
    // What is left beside all the rest may be used to arrange weights.
    let room = machine.available().map_or(u64::MAX, |available| available.saturating_sub(memory.beside_weights()));
    let bar = show::byte_bar("loading", checkpoint.tensor_bytes());
    let cpu = machine.cpu().clone().with_budget(room);
    let training = Training::load(cpu, checkpoint, trained, options, &mut |done, _| bar.set_position(done))
        .with_context(|| job.model.display().to_string())?;
    bar.finish_and_clear();
    Ok(training)
}

/// What comes out: a PEFT directory, or a whole model.
fn write_result(
    args: &Args,
    job: &Job,
    adapter: Option<Adapter>,
    terms: Option<Terms>,
    learner: &mut dyn Learner,
    step: u64,
) -> Result<PathBuf> {
    let (out, checkpoint) = (&args.output, &job.checkpoint);
    if let Some(adapter) = adapter {
        adapter::replace_peft(&trained_adapter(adapter, learner)?, out, &checkpoint.config)?;
        let (name, record) = record(args, job, step)?;
        write_file(&out.join(name), &record)?;
        return Ok(out.clone());
    }
    let directory = out.join("model");
    // That of an earlier end of this run; its checkpoints have what was in it.
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let model = match checkpoint.layout {
        Layout::Gguf => {
            std::fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
            directory.join("model.gguf")
        }
        Layout::HuggingFace | Layout::Meta => directory,
    };
    let mut options = Options { format: args.save_as, ..Options::default() };
    if let Some(terms) = terms {
        let about = format!("{} after {step} steps of `puna tune run` on {}.", terms.base(), args.job.data());
        options.beside = terms.files(&about);
        options.metadata = terms.metadata();
        if let Some(reminder) = terms.reminder() {
            eprintln!("note: {reminder}");
        }
    }
    options.beside.push(record(args, job, step)?);
    let mut failed = None;
    let values = &mut |tensor: &Tensor| match values_of(learner, tensor.name, &checkpoint.config) {
        Ok(values) => values,
        Err(error) => {
            failed.get_or_insert(error);
            None
        }
    };
    let bar = show::byte_bar("writing", checkpoint.tensor_bytes());
    export::write(checkpoint, &model, &options, values, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(model),
    }
}

/// What it is made from.
fn record(args: &Args, job: &Job, step: u64) -> Result<(String, Vec<u8>)> {
    let options = json!({ "data": args.job.data(), "steps": step, "method": job.settings.method });
    vault::provenance::record("tune run", options, &job.model, &[])
}

/// The values that a tensor has now, if it is trained; an embedding that is tied to the output matrix is trained as that.
fn values_of(learner: &mut dyn Learner, name: Name, config: &Config) -> Result<Option<Vec<f32>>, puna_llama::Error> {
    let trained = if name == Name::TokenEmbedding && config.tied_embeddings { Name::Output } else { name };
    let mut found = None;
    learner.for_each(&mut |parameter, values, _| {
        if parameter.name == trained {
            found = Some(values.to_vec());
        }
    })?;
    Ok(found)
}

fn start(job: &Job, args: &Args, memory: &Memory, steps: u64, machine: &Machine, device: String) -> log::Start {
    let settings = &job.settings;
    log::Start {
        time: now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: job.model.display().to_string(),
        data: args.job.data(),
        method: settings.method,
        objective: job.data.objective(),
        steps,
        epochs: settings.steps.is_none().then_some(settings.epochs as f64),
        sequences: job.data.len() as u64,
        tokens: job.data.n_tokens(),
        trained_parameters: memory.n_parameters,
        threads: machine.cpu().n_threads() as u64,
        device,
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Tells of a run: to the log, to TensorBoard's file, and on a bar.
struct Watcher {
    log: log::Writer,
    events: EventFile,
    bar: ProgressBar,
    begin: Instant,
    /// When the last step ended.
    last: Instant,
    step: u64,
    /// Tokens since the beginning.
    n_tokens: u64,
    loss: Option<f64>,
    /// The first error of a log.
    failed: Option<anyhow::Error>,
}

impl Watcher {
    fn open(files: &Files, steps: u64, resumed: Option<u64>) -> Result<Watcher> {
        let log = match resumed {
            Some(step) => log::Writer::append_to(&files.log, step)?,
            None => log::Writer::create(&files.log)?,
        };
        let time = now();
        let events = files.events.join(format!("events.out.tfevents.{}.puna", time as u64));
        let with_path = || events.display().to_string();
        std::fs::create_dir_all(&files.events).with_context(with_path)?;
        let events = EventFile::create(&events, time).with_context(with_path)?;
        let bar = show::step_bar(steps);
        bar.set_position(resumed.unwrap_or(0));
        let (begin, step) = (Instant::now(), resumed.unwrap_or(0));
        Ok(Watcher { log, events, bar, begin, last: begin, step, n_tokens: 0, loss: None, failed: None })
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        Ok(self.log.write(record)?)
    }

    /// The same from inside the run, which goes on; the first error is kept.
    fn note(&mut self, record: &Record, scalars: &[(&str, f64)]) {
        let written = self.record(record).and_then(|()| Ok(self.events.scalars(now(), record.step(), scalars)?));
        if let Err(error) = written {
            self.failed.get_or_insert(error.context("the log of the run"));
        }
    }
}

impl Observer for Watcher {
    fn step(&mut self, progress: &Progress, margins: &[f64]) {
        let Progress { step, loss, gradient_norm, rate, n_tokens, n_labels, changed } = *progress;
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.step = step;
        self.n_tokens += n_tokens as u64;
        self.loss = Some(loss).filter(|loss| loss.is_finite());
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / margins.len() as f64;
        let margin = (!margins.is_empty()).then(|| mean(&mut margins.iter().copied()));
        let right = |margin: &f64| f64::from(u8::from(*margin > 0.0));
        let accuracy = margin.map(|_| mean(&mut margins.iter().map(right)));
        let mut scalars = vec![
            ("train/loss", loss),
            ("train/gradient_norm", gradient_norm),
            ("train/lr", f64::from(rate)),
            ("train/tokens_per_second", n_tokens as f64 / seconds),
        ];
        scalars.extend(margin.map(|margin| ("train/margin", margin)));
        scalars.extend(accuracy.map(|accuracy| ("train/accuracy", accuracy)));
        let record = Record::Step(log::Step {
            step,
            loss,
            gradient_norm,
            lr: rate,
            tokens: n_tokens as u64,
            labels: n_labels as u64,
            seconds,
            changed,
            margin,
            accuracy,
        });
        self.note(&record, &scalars);
        let speed = self.n_tokens as f64 / self.begin.elapsed().as_secs_f64();
        self.bar.set_message(format!("loss {loss:.4} · {speed:.0} tokens/s"));
        self.bar.set_position(step);
    }

    fn validated(&mut self, validation: Validation, best: bool) {
        let Validation { step, loss, n_labels, accuracy } = validation;
        let record = Record::Valid(log::Valid { step, loss, labels: n_labels as u64, best, accuracy });
        let mut scalars = vec![("valid/loss", loss)];
        scalars.extend(accuracy.map(|accuracy| ("valid/accuracy", accuracy)));
        self.note(&record, &scalars);
        let mark = if best { ", the best so far" } else { "" };
        self.say(&format!("step {step}: validation loss {loss:.4}{mark}"));
        self.last = Instant::now();
    }

    fn saved(&mut self, step: u64, path: &Path) {
        let path = Path::new("checkpoints").join(path.file_name().unwrap_or_default()).display().to_string();
        self.note(&Record::Checkpoint(log::Checkpoint { step, path }), &[]);
        self.last = Instant::now();
    }

    fn warn(&mut self, step: u64, message: &str) {
        self.note(&Record::Warning(log::Warning { step, message: message.to_owned() }), &[]);
        self.say(&format!("step {step}: {message}"));
    }
}

impl Watcher {
    /// A line above the bar, or for whoever reads standard error.
    fn say(&self, line: &str) {
        let line = show::harmless(line);
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
