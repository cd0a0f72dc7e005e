//! The log of a training run: what happened, in the order of time, one JSON object a line.
//!
//! A [`Writer`] appends whole lines, so whoever reads a log while it grows finds records, and at most a torn line
//! behind them. A run that goes on from a checkpoint goes on in the same file: [`Writer::append_to`] takes out what was
//! done behind that checkpoint and will be done again.
//!
//! JSON has no word for a float that is not finite: as a loss, a norm or a time it is written as `null`, and read as
//! NaN.

use crate::{Method, Objective};
use serde::{Deserialize, Deserializer, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// The name of the log in the directory of a run.
pub const FILE_NAME: &str = "log.jsonl";

/// A longer line is no record: another file would be read as a whole.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A line of a log. Its key `event` says which one it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Record {
    /// The first line, and no other.
    Start(Start),
    /// The run goes on from a checkpoint.
    Resume(Resume),
    /// A step was taken.
    Step(Step),
    /// The model was tried on the validation data.
    Valid(Valid),
    /// What it takes to go on from here was written.
    Checkpoint(Checkpoint),
    /// Something that whoever reads the log should know.
    Warning(Warning),
    /// The run is over, or its process is.
    End(End),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// When, in seconds since 1 January 1970 UTC.
    pub time: f64,
    /// Which version of puna.
    pub version: String,
    /// The model, as it was named.
    pub model: String,
    /// The data, as they were named.
    pub data: String,
    /// What of the model is trained.
    pub method: Method,
    /// What it is trained to.
    pub objective: Objective,
    /// Steps of the whole run.
    pub steps: u64,
    /// How often the run goes through the data, if that was asked for rather than a number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Sequences of an epoch; pairs of preference optimization.
    pub sequences: u64,
    /// Tokens of an epoch.
    pub tokens: u64,
    /// Values that are trained.
    pub trained_parameters: u64,
    /// Threads that compute.
    pub threads: u64,
    /// What computes, in words that say its threads too.
    pub device: String,
}

/// Where a run goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// When, in seconds since 1 January 1970 UTC.
    pub time: f64,
    /// The last step that had been taken.
    pub step: u64,
    /// Steps of the whole run from here on; as before in logs that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
}

/// What a step was like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which, from 1.
    pub step: u64,
    /// Its loss before the change, in nats: the mean over labels, or over pairs.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Norm of the gradient, before it was clipped.
    #[serde(deserialize_with = "or_nan")]
    pub gradient_norm: f64,
    /// Learning rate.
    pub lr: f32,
    /// Tokens that the model read.
    pub tokens: u64,
    /// Tokens that it was to predict.
    pub labels: u64,
    /// Seconds that the step took.
    #[serde(deserialize_with = "or_nan")]
    pub seconds: f64,
    /// Whether weights were changed: not if loss or gradient were not finite.
    pub changed: bool,
    /// Mean over pairs of how much likelier than before the chosen answer has become beside the rejected one, in nats
    /// and times beta. Only of preference optimization, and if it is finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Share of pairs whose margin is above 0. Only of preference optimization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// What the model makes of the validation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Valid {
    /// Steps that had been taken.
    pub step: u64,
    /// Mean loss, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Tokens that the model was to predict.
    pub labels: u64,
    /// Whether no loss before was as low.
    pub best: bool,
    /// Share of pairs whose margin is above 0. Only of preference optimization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// From where a run can go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps that had been taken.
    pub step: u64,
    /// The file or directory, as seen from the log's directory.
    pub path: String,
}

/// A word of caution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warning {
    /// Steps that had been taken.
    pub step: u64,
    /// For people.
    pub message: String,
}

/// How a process left a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Steps that had been taken.
    pub step: u64,
    /// Why.
    pub end: Outcome,
    /// Seconds since the run started, or was resumed.
    #[serde(deserialize_with = "or_nan")]
    pub seconds: f64,
    /// The last loss on the validation data, or else of a step, in nats, if it is finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// Why a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All steps are done.
    Done,
    /// The loss on the validation data did not fall any more.
    Early,
    /// Somebody stopped it.
    Stopped,
    /// It could not go on.
    Failed,
}

/// `null` is a float that was not finite.
fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Record {
    /// The steps that had been taken, this one included if it is one. The start is before all of them.
    #[must_use]
    pub fn step(&self) -> u64 {
        match self {
            Record::Start(_) => 0,
            Record::Resume(resume) => resume.step,
            Record::Step(step) => step.step,
            Record::Valid(valid) => valid.step,
            Record::Checkpoint(checkpoint) => checkpoint.step,
            Record::Warning(warning) => warning.step,
            Record::End(end) => end.step,
        }
    }
}

/// Why a log can't be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A fault of the file system.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A line that is no record, or not in its place.
    #[error("{path}:{line}: {problem}")]
    Line {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What was expected and what was found.
        problem: String,
    },
    /// No whole line.
    #[error("{path}: expected the log of a training run, found no record")]
    Empty {
        /// The file.
        path: String,
    },
}

impl LogError {
    fn file(path: &Path) -> impl Fn(io::Error) -> LogError {
        move |error| LogError::File { path: path.display().to_string(), error }
    }
}

/// Appends records to a log.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// A log of a new run. The caller writes the start.
    ///
    /// # Errors
    /// When there is such a file, or none can be made.
    pub fn create(path: &Path) -> Result<Writer, LogError> {
        let file = OpenOptions::new().append(true).create_new(true).open(path).map_err(LogError::file(path))?;
        Ok(Writer { file, path: path.to_owned() })
    }

    /// The log of a run that goes on from a checkpoint after `step` steps. Records of later steps, and a torn last
    /// line, are taken out; the others stay as they are. The caller writes the resumption.
    ///
    /// Until the new file is complete and takes the old one's place, the old one is as it was.
    ///
    /// # Errors
    /// When the log can't be read or is none, or the new file can't be written.
    pub fn append_to(path: &Path, step: u64) -> Result<Writer, LogError> {
        let mut kept = Vec::new();
        for_each_line(path, |line, record| {
            if record.step() <= step {
                kept.extend_from_slice(line);
            }
        })?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let mut file = File::create(&temporary).map_err(LogError::file(&temporary))?;
        file.write_all(&kept).and_then(|()| file.sync_all()).map_err(LogError::file(&temporary))?;
        fs::rename(&temporary, path).map_err(LogError::file(path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(LogError::file(path))?;
        Ok(Writer { file, path: path.to_owned() })
    }

    /// Appends a record. When this returns, whoever reads the file finds it.
    ///
    /// # Errors
    /// A fault of the file system.
    pub fn write(&mut self, record: &Record) -> Result<(), LogError> {
        let error = LogError::file(&self.path);
        let mut line = serde_json::to_vec(record).map_err(|fault| error(fault.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(error)
    }
}

/// Reads a log: a start, then whatever happened, steps in ascending order. A last line without an end was torn when the
/// process was killed, or is being written; it is not read.
///
/// # Errors
/// When the file can't be read, or has no record; for a line that is no record, the record of an unknown event, or one
/// that is not in its place.
pub fn read(path: &Path) -> Result<Vec<Record>, LogError> {
    let mut records = Vec::new();
    for_each_line(path, |_, record| records.push(record))?;
    Ok(records)
}

/// Goes through the whole lines of a log, of which there is at least one. They are given with their ends.
fn for_each_line(path: &Path, mut found: impl FnMut(&[u8], Record)) -> Result<(), LogError> {
    let mut reader = BufReader::new(File::open(path).map_err(LogError::file(path))?);
    let mut line = Vec::new();
    // The last step so far.
    let mut step = None;
    for number in 1.. {
        line.clear();
        let mut limited = (&mut reader).take(MAX_LINE_BYTES as u64 + 1);
        limited.read_until(b'\n', &mut line).map_err(LogError::file(path))?;
        let fault = |problem| LogError::Line { path: path.display().to_string(), line: number, problem };
        if line.len() > MAX_LINE_BYTES {
            return Err(fault(format!("expected a line of at most {} MiB, found a longer one", MAX_LINE_BYTES >> 20)));
        }
        if line.last() != Some(&b'\n') {
            break;
        }
        let record = parse(&line).map_err(fault)?;
        step = Some(in_place(step, &record).map_err(fault)?);
        found(&line, record);
    }
    if step.is_none() { Err(LogError::Empty { path: path.display().to_string() }) } else { Ok(()) }
}

fn parse(line: &[u8]) -> Result<Record, String> {
    serde_json::from_slice(line).map_err(|error| {
        // The library counts lines from where this one begins.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        if error.is_data() { text.to_owned() } else { format!("broken JSON in column {}: {text}", error.column()) }
    })
}

/// Holds a record against those before it, of which the last step is given; without any there is none. Gives the last
/// step with this record.
fn in_place(last: Option<u64>, record: &Record) -> Result<u64, String> {
    match (last, record) {
        (None, Record::Start(_)) => Ok(0),
        (None, _) => Err("expected the start of a run, found another event".to_owned()),
        (Some(_), Record::Start(_)) => Err("expected one start of a run, found another".to_owned()),
        (Some(last), Record::Step(Step { step, .. })) if *step <= last => {
            Err(format!("expected a step after {last}, found {step}"))
        }
        (Some(_), Record::Step(Step { step, .. })) => Ok(*step),
        (Some(last), _) => Ok(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> Start {
        Start {
            time: 1.5,
            version: "0.1.0".to_owned(),
            model: "m.gguf".to_owned(),
            data: "d.jsonl".to_owned(),
            method: Method::Lora,
            objective: Objective::Sft,
            steps: 9,
            epochs: None,
            sequences: 3,
            tokens: 100,
            trained_parameters: 64,
            threads: 2,
            device: "CPU".to_owned(),
        }
    }

    fn step(step: u64) -> Step {
        Step {
            step,
            loss: 2.5,
            gradient_norm: 0.5,
            lr: 1e-5,
            tokens: 64,
            labels: 32,
            seconds: 0.25,
            changed: true,
            margin: None,
            accuracy: None,
        }
    }

    /// Floats with so few digits that the reader gives exactly the float that was written, and one that is not finite.
    fn figures() -> impl Strategy<Value = f64> {
        let finite =
            (any::<i32>(), -12..9).prop_map(|(digits, exponent)| format!("{digits}e{exponent}").parse().unwrap());
        prop_oneof![9 => finite, 1 => Just(f64::NAN)]
    }

    fn finite() -> impl Strategy<Value = f64> {
        figures().prop_filter("finite", |figure| figure.is_finite())
    }

    prop_compose! {
        fn starts()(
            time in finite(), texts in prop::array::uniform4(any::<String>()), lora: bool, dpo: bool,
            epochs in prop::option::of(finite()), numbers: [u64; 5],
        ) -> Record {
            let [version, model, data, device] = texts;
            let [steps, sequences, tokens, trained_parameters, threads] = numbers;
            let method = if lora { Method::Lora } else { Method::Full };
            let objective = if dpo { Objective::Dpo } else { Objective::Sft };
            Record::Start(Start {
                time, version, model, data, method, objective, steps, epochs, sequences, tokens, trained_parameters,
                threads, device,
            })
        }
    }

    /// A record at a step, of any kind but the start.
    fn records(at: u64) -> impl Strategy<Value = Record> {
        let optional = || prop::option::of(finite());
        let outcome = prop::sample::select(vec![Outcome::Done, Outcome::Early, Outcome::Stopped, Outcome::Failed]);
        let steps =
            (figures(), figures(), 0f32..1.0, any::<[u64; 2]>(), figures(), any::<bool>(), optional(), optional());
        prop_oneof![
            steps.prop_map(move |(loss, gradient_norm, lr, [tokens, labels], seconds, changed, margin, accuracy)| {
                Record::Step(Step {
                    step: at,
                    loss,
                    gradient_norm,
                    lr,
                    tokens,
                    labels,
                    seconds,
                    changed,
                    margin,
                    accuracy,
                })
            }),
            (finite(), proptest::option::of(any::<u64>())).prop_map(move |(time, steps)| Record::Resume(Resume {
                time,
                step: at,
                steps
            })),
            (figures(), any::<u64>(), any::<bool>(), optional()).prop_map(move |(loss, labels, best, accuracy)| {
                Record::Valid(Valid { step: at, loss, labels, best, accuracy })
            }),
            any::<String>().prop_map(move |path| Record::Checkpoint(Checkpoint { step: at, path })),
            any::<String>().prop_map(move |message| Record::Warning(Warning { step: at, message })),
            (outcome, figures(), optional())
                .prop_map(move |(end, seconds, loss)| { Record::End(End { step: at, end, seconds, loss }) }),
        ]
    }

    prop_compose! {
        /// A whole log: steps ascend.
        fn logs()(start in starts(), gaps in prop::collection::vec(1_u64..4, 0..20))(
            start in Just(start),
            rest in gaps.iter().scan(0, |at, gap| { *at += gap; Some(records(*at)) }).collect::<Vec<_>>(),
        ) -> Vec<Record> {
            [vec![start], rest].concat()
        }
    }

    fn write(path: &Path, records: &[Record]) {
        let mut writer = Writer::create(path).unwrap();
        records.iter().for_each(|record| writer.write(record).unwrap());
    }

    /// NaN differs from itself, its text does not.
    fn texts(records: &[Record]) -> Vec<String> {
        records.iter().map(|record| format!("{record:?}")).collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in logs()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE_NAME);
            write(&path, &records);
            prop_assert_eq!(texts(&read(&path).unwrap()), texts(&records));
        }

        /// Wherever the process is killed.
        #[test]
        fn a_torn_line_is_passed_over(records in logs(), place: prop::sample::Index) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE_NAME);
            write(&path, &records);
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(place.index(bytes.len() + 1));
            fs::write(&path, &bytes).unwrap();
            let n_whole = bytes.iter().filter(|byte| **byte == b'\n').count();
            match read(&path) {
                Ok(found) => prop_assert_eq!(texts(&found), texts(&records[..n_whole])),
                Err(LogError::Empty { .. }) => prop_assert_eq!(n_whole, 0),
                Err(error) => panic!("{error}"),
            }
        }

        #[test]
        fn a_resumed_log_has_what_belongs_to_the_checkpoint(records in logs(), at in 0_u64..60, torn: bool) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE_NAME);
            write(&path, &records);
            if torn {
                OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"event\":\"st").unwrap();
            }
            let added = [Record::Resume(Resume { time: 3.0, step: at, steps: None }), Record::Step(step(at + 1))];
            let mut writer = Writer::append_to(&path, at).unwrap();
            added.iter().for_each(|record| writer.write(record).unwrap());
            let kept: Vec<Record> = records.into_iter().filter(|record| record.step() <= at).collect();
            prop_assert_eq!(texts(&read(&path).unwrap()), texts(&[&kept[..], &added].concat()));
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left of the way there");
        }
    }

    #[test]
    fn a_line_is_one_object() {
        let (infinite, nan) = (f64::INFINITY, f64::NAN);
        let cases = [
            (Record::Step(step(7)), r#"{"event":"step","step":7,"loss":2.5,"gradient_norm":0.5,REST,"changed":true}"#),
            (
                Record::Step(Step { loss: nan, gradient_norm: infinite, changed: false, margin: Some(0.5), ..step(8) }),
                r#"{"event":"step","step":8,"loss":null,"gradient_norm":null,REST,"changed":false,"margin":0.5}"#,
            ),
            (
                Record::Valid(Valid { step: 8, loss: 2.0, labels: 5, best: true, accuracy: None }),
                r#"{"event":"valid","step":8,"loss":2.0,"labels":5,"best":true}"#,
            ),
            (
                Record::End(End { step: 8, end: Outcome::Early, seconds: 2.0, loss: None }),
                r#"{"event":"end","step":8,"end":"early","seconds":2.0}"#,
            ),
        ];
        for (record, expected) in cases {
            let expected = expected.replace("REST", r#""lr":0.00001,"tokens":64,"labels":32,"seconds":0.25"#);
            assert_eq!(serde_json::to_string(&record).unwrap(), expected);
        }
        let start = serde_json::to_value(Record::Start(start())).unwrap();
        assert_eq!(
            (&start["event"], &start["method"], &start["objective"]),
            (&"start".into(), &"lora".into(), &"sft".into())
        );
    }

    #[test]
    fn faults_have_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let start = serde_json::to_string(&Record::Start(start())).unwrap();
        let step = serde_json::to_string(&Record::Step(step(3))).unwrap();
        let long = format!("{{\"event\":\"{}\"}}", "x".repeat(MAX_LINE_BYTES));
        let cases = [
            (format!("{start}\n{step}\n{{\"event\":\"nap\"}}\n"), ":3: unknown variant `nap`, expected one of `start`"),
            (format!("{start}\n{step}\n{{\"step\":4}}\n"), ":3: missing field `event`"),
            (format!("{start}\n{{\"event\":\"step\",\"step\":4}}\n"), ":2: missing field `loss`"),
            (format!("{start}\n{}\n", step.replace("loss", "less")), ":2: unknown field `less`, expected one of"),
            (format!("{start}\n{}\n", step.replace("2.5", "\"high\"")), ":2: invalid type: string \"high\""),
            (format!("{start}\n{step}\n{step}\n"), ":3: expected a step after 3, found 3"),
            (format!("{start}\n{}\n", step.replace(":3,", ":0,")), ":2: expected a step after 0, found 0"),
            (format!("{start}\n{start}\n"), ":2: expected one start of a run, found another"),
            (format!("{step}\n"), ":1: expected the start of a run, found another event"),
            (format!("{start}\n\n{step}\n"), ":2: broken JSON in column"),
            (format!("{start}\n{{\"event\": step}}\n"), ":2: broken JSON in column 11: expected"),
            (long, ":1: expected a line of at most 1 MiB, found a longer one"),
            (String::new(), ": expected the log of a training run, found no record"),
            ("{\"event\":\"start\"".to_owned(), ": expected the log of a training run, found no record"),
        ];
        for (text, expected) in cases {
            fs::write(&path, &text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{FILE_NAME}{expected}")), "{expected}: {error}");
            // No file is changed that is not understood.
            assert!(Writer::append_to(&path, 3).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, b"\xff\xfe\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains(":1: broken JSON in column 1"));
        let absent = read(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(absent.contains("absent: ") && absent.contains("No such file"), "{absent}");
        // A log is never begun over another file.
        assert!(Writer::create(&path).unwrap_err().to_string().contains(FILE_NAME));
        assert_eq!(fs::read(&path).unwrap(), b"\xff\xfe\n");
    }
}
