//! A run as it is between two steps, on disk: enough to go on as if it had not been stopped, bit for bit.
//!
//! A checkpoint is a directory, written under another name, synced and renamed: it is there whole or not at all. It holds
//! `state.json` and `state.bin`: the values of all parameters in the learner's order, then their moments. The hash of the
//! latter stands in the former.

use super::RunError;
use crate::{MomentFormat, Moments, Trainer};
use puna_llama::{Learner, Parameter, Part};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Where a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Which pass over the data, from 0.
    pub epoch: u64,
    /// Sequences of it that were seen.
    pub sequence: usize,
    /// Steps in a row that changed nothing.
    pub skipped: u32,
    /// The best validation so far.
    pub best: Option<Validation>,
    /// Validations since.
    pub worse: u32,
    /// Tokens read so far.
    pub n_tokens: u64,
}

/// A validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Behind which step.
    pub step: u64,
    /// The mean loss.
    pub loss: f64,
    /// Tokens that were to be predicted.
    pub n_labels: usize,
    /// Share of pairs whose better answer became likelier than the other one, seen from the base.
    pub accuracy: Option<f64>,
}

/// What a run begins with: a checkpoint goes on with the same only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The model.
    pub base: String,
    /// What is learned from.
    pub data: String,
    /// What is held back.
    pub valid: String,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    identity: Identity,
    position: Position,
    /// Name and part of each parameter, and how many values it has.
    parameters: Vec<(String, String, usize)>,
    eight_bits: bool,
    sha256: String,
}

const VERSION: u32 = 1;
const STATE: &str = "state.json";
const VALUES: &str = "state.bin";

/// The directory of the checkpoint behind a step.
pub fn directory(checkpoints: &Path, step: u64) -> PathBuf {
    checkpoints.join(format!("step-{step:08}"))
}

/// Steps of which there is a checkpoint, ascending. What was not finished is none.
pub fn steps(checkpoints: &Path) -> Result<Vec<u64>, RunError> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::file(checkpoints, error)),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| RunError::file(checkpoints, error))?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        steps.extend(step.and_then(|step| step.parse::<u64>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

fn described(parameter: &Parameter, n: usize) -> (String, String, usize) {
    let part = match parameter.part {
        Part::Whole => "weight",
        Part::A => "lora_A",
        Part::B => "lora_B",
    };
    (parameter.name.to_string(), part.to_owned(), n)
}

/// Writes to a file and hashes what goes by.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a checkpoint; then those that are neither the one before nor the best one's go.
///
/// # Errors
/// Those of the file system, a full disk for one: older checkpoints stay as they are.
pub fn write(
    checkpoints: &Path,
    position: &Position,
    identity: &Identity,
    learner: &mut dyn Learner,
    trainer: &Trainer,
) -> Result<PathBuf, RunError> {
    let target = directory(checkpoints, position.step);
    let pending = checkpoints.join(format!(".step-{:08}.part", position.step));
    let file_error = |error| RunError::file(&pending, error);
    // What an earlier attempt left.
    if pending.exists() {
        fs::remove_dir_all(&pending).map_err(file_error)?;
    }
    fs::create_dir_all(&pending).map_err(file_error)?;
    let written = write_state(&pending, position, identity, learner, trainer);
    if let Err(error) = written {
        // On a full disk there is room again.
        let _ = fs::remove_dir_all(&pending);
        return Err(error);
    }
    if target.exists() {
        fs::remove_dir_all(&target).map_err(file_error)?;
    }
    fs::rename(&pending, &target).map_err(file_error)?;
    if cfg!(unix) {
        File::open(checkpoints).and_then(|dir| dir.sync_all()).map_err(file_error)?;
    }
    let best = position.best.map(|best| best.step);
    let all = steps(checkpoints)?;
    for step in all.iter().rev().skip(2).filter(|step| Some(**step) != best) {
        let old = directory(checkpoints, *step);
        fs::remove_dir_all(&old).map_err(|error| RunError::file(&old, error))?;
    }
    Ok(target)
}

fn write_state(
    directory: &Path,
    position: &Position,
    identity: &Identity,
    learner: &mut dyn Learner,
    trainer: &Trainer,
) -> Result<(), RunError> {
    let path = directory.join(VALUES);
    let file_error = |error| RunError::file(&path, error);
    let file = File::create(&path).map_err(file_error)?;
    let mut out = Hashing { inner: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new() };
    let (mut parameters, mut result) = (Vec::new(), Ok(()));
    learner.for_each(&mut |parameter, values, _| {
        parameters.push(described(parameter, values.len()));
        if result.is_ok() {
            result = out.write_all(bytemuck::cast_slice(values));
        }
    })?;
    result.map_err(file_error)?;
    for moments in trainer.moments() {
        moments.write(&mut out).map_err(file_error)?;
    }
    let Hashing { inner, hash } = out;
    let file = inner.into_inner().map_err(|error| file_error(error.into_error()))?;
    file.sync_all().map_err(file_error)?;
    let eight_bits = trainer.moment_format() == MomentFormat::EightBits;
    let (position, identity) = (position.clone(), identity.clone());
    let state = State { version: VERSION, identity, position, parameters, eight_bits, sha256: hex(hash) };
    let json = serde_json::to_vec_pretty(&state).unwrap_or_else(|_| unreachable!("plain values"));
    puna_checkpoint::write_file(&directory.join(STATE), &json)
        .map_err(|error| RunError::Checkpoint { path: directory.to_owned(), problem: error.to_string() })
}

/// Reads a checkpoint into a learner and its trainer, which are made from the same model and the same settings.
///
/// # Errors
/// A checkpoint of other parameters, or one that is damaged; learner and trainer may be changed in part then.
pub fn read(
    directory: &Path,
    identity: &Identity,
    learner: &mut dyn Learner,
    trainer: &mut Trainer,
) -> Result<Position, RunError> {
    let broken = |problem: String| RunError::Checkpoint { path: directory.to_owned(), problem };
    let json = fs::read(directory.join(STATE)).map_err(|error| RunError::file(&directory.join(STATE), error))?;
    let state: State = serde_json::from_slice(&json).map_err(|error| broken(format!("{STATE}: {error}")))?;
    if state.version != VERSION {
        return Err(broken(format!("expected version {VERSION}, found {}", state.version)));
    }
    for (what, expected, found) in [
        ("a run of this base", &identity.base, &state.identity.base),
        ("a run on this data", &identity.data, &state.identity.data),
        ("a run with these held-back rows", &identity.valid, &state.identity.valid),
    ] {
        if expected != found {
            return Err(broken(format!("expected {what} ({expected}), found another ({found})")));
        }
    }
    let mut parameters = Vec::new();
    learner.for_each(&mut |parameter, values, _| parameters.push(described(parameter, values.len())))?;
    if parameters != state.parameters {
        let differing = parameters.iter().zip(&state.parameters).find(|(here, there)| here != there);
        let found = differing.map_or(format!("{} of them", state.parameters.len()), |(_, there)| format!("{there:?}"));
        let expected = differing.map_or(format!("{} parameters", parameters.len()), |(here, _)| format!("{here:?}"));
        return Err(broken(format!("expected {expected}, found {found}: another model or other settings")));
    }
    let format = if state.eight_bits { MomentFormat::EightBits } else { MomentFormat::F32 };
    if format != trainer.moment_format() {
        return Err(broken("expected moments as the settings say, found others".to_owned()));
    }
    let path = directory.join(VALUES);
    let file_error = |error| RunError::file(&path, error);
    let file = File::open(&path).map_err(file_error)?;
    let mut input = Hashing { inner: BufReader::with_capacity(1 << 20, file), hash: Sha256::new() };
    let mut result = Ok(());
    learner.for_each(&mut |_, values, _| {
        if result.is_ok() {
            result = input.read_exact(bytemuck::cast_slice_mut(values));
        }
    })?;
    result.map_err(file_error)?;
    let mut moments = Vec::new();
    if state.position.step > 0 {
        for (_, _, n) in &state.parameters {
            moments.push(Moments::read(format, *n, &mut input).map_err(file_error)?);
        }
    }
    if input.read(&mut [0]).map_err(file_error)? != 0 || hex(input.hash) != state.sha256 {
        return Err(broken(format!("{VALUES} is damaged: its hash is not the one in {STATE}")));
    }
    trainer.restore(state.position.step, moments);
    Ok(state.position)
}
