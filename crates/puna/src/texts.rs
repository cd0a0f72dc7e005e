//! Texts to learn from: plain files, rows of JSON, and directories of both, read as a stream.

use crate::show;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use puna_text::chat::{Content, Message};
use serde::Deserialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

/// Files of texts.
#[derive(Default)]
pub struct Files {
    /// In the order of the command line, those of a directory by name.
    pub files: Vec<(PathBuf, Kind)>,
    /// Their bytes.
    pub n_bytes: u64,
    /// Files in directories that are of another kind.
    pub passed_over: usize,
}

/// What is in a file.
#[derive(Clone, Copy)]
pub enum Kind {
    /// One text.
    Plain,
    /// A JSON object in each line.
    Rows,
}

impl Kind {
    fn of(path: &Path) -> Option<Kind> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "txt" | "md" => Some(Kind::Plain),
            "jsonl" => Some(Kind::Rows),
            _ => None,
        }
    }
}

/// The files of texts that are named, or are in directories that are.
pub fn find(paths: &[PathBuf]) -> Result<Files> {
    let mut files = Files::default();
    for path in paths {
        let name = || path.display().to_string();
        let metadata = path.metadata().with_context(name)?;
        match Kind::of(path) {
            _ if metadata.is_dir() => files.add_directory(path).with_context(name)?,
            Some(kind) => files.add(path.clone(), kind)?,
            None => bail!("{}: expected a directory, or a file .txt, .md or .jsonl", name()),
        }
    }
    if files.files.is_empty() {
        bail!("expected files .txt, .md or .jsonl, found {} others", files.passed_over);
    }
    Ok(files)
}

impl Files {
    fn add(&mut self, path: PathBuf, kind: Kind) -> Result<()> {
        self.n_bytes += path.metadata().with_context(|| path.display().to_string())?.len();
        self.files.push((path, kind));
        Ok(())
    }

    /// All below, but for what links lead to other directories.
    fn add_directory(&mut self, dir: &Path) -> Result<()> {
        let entries = dir.read_dir()?.collect::<std::io::Result<Vec<_>>>()?;
        let mut entries: Vec<_> = entries.into_iter().map(|entry| (entry.path(), entry)).collect();
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (path, entry) in entries {
            if entry.file_type()?.is_dir() {
                self.add_directory(&path).with_context(|| path.display().to_string())?;
                continue;
            }
            match Kind::of(&path).filter(|_| path.is_file()) {
                Some(kind) => self.add(path, kind)?,
                None => self.passed_over += 1,
            }
        }
        Ok(())
    }
}

/// Bytes of a plain text that are handed out at once, if a line ends there.
const STRETCH: usize = 1 << 20;

/// Draws texts from files until there are none, or something is wrong: [`Texts::finish`] tells. A long plain text comes
/// in several stretches, cut where [`Trainer::count`](puna_text::Trainer::count) sees no difference.
pub struct Texts {
    files: std::vec::IntoIter<(PathBuf, Kind)>,
    reader: Option<Reader>,
    /// Read, but not handed out yet.
    waiting: VecDeque<String>,
    n_texts: usize,
    failure: Option<anyhow::Error>,
    bar: ProgressBar,
}

impl Texts {
    /// Nothing is opened yet. `bar` hears of bytes read.
    pub fn new(files: Vec<(PathBuf, Kind)>, bar: ProgressBar) -> Texts {
        let files = files.into_iter();
        Texts { files, reader: None, waiting: VecDeque::new(), n_texts: 0, failure: None, bar }
    }

    /// Number of texts: plain files, texts of rows and messages, empty ones not counted. There must be one.
    pub fn finish(self) -> Result<usize> {
        match (self.failure, self.n_texts) {
            (Some(failure), _) => Err(failure),
            (None, 0) => bail!("expected text, found only empty files"),
            (None, n) => Ok(n),
        }
    }

    fn read(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Ok(Some(text));
            }
            let Some(reader) = &mut self.reader else {
                let Some((path, kind)) = self.files.next() else { return Ok(None) };
                self.reader = Some(Reader::open(path, kind, self.bar.clone())?);
                continue;
            };
            let is_start = reader.line_number == 0;
            match reader.kind {
                Kind::Plain => {
                    self.waiting.extend(reader.stretch()?);
                    self.n_texts += if is_start { self.waiting.len() } else { 0 };
                }
                Kind::Rows => {
                    self.waiting.extend(reader.row()?);
                    self.n_texts += self.waiting.len();
                }
            }
            if reader.is_at_end {
                self.reader = None;
            }
        }
    }
}

impl Iterator for Texts {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.failure.is_some() {
            return None;
        }
        self.read().unwrap_or_else(|failure| {
            self.failure = Some(failure);
            None
        })
    }
}

/// One file, line by line.
struct Reader {
    path: PathBuf,
    kind: Kind,
    file: BufReader<File>,
    bar: ProgressBar,
    /// The last that was read, with its end.
    line: String,
    /// From 1.
    line_number: usize,
    is_at_end: bool,
}

impl Reader {
    fn open(path: PathBuf, kind: Kind, bar: ProgressBar) -> Result<Reader> {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        let file = BufReader::with_capacity(1 << 16, file);
        Ok(Reader { path, kind, file, bar, line: String::new(), line_number: 0, is_at_end: false })
    }

    /// Where the last line is.
    fn place(&self) -> String {
        format!("{}: line {}", self.path.display(), self.line_number)
    }

    /// Reads a line; `false`, and an empty one, at the end.
    fn next_line(&mut self) -> Result<bool> {
        self.line.clear();
        self.line_number += 1;
        let n_bytes = match self.file.read_line(&mut self.line) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                bail!("{}: expected UTF-8, found other bytes", self.place())
            }
            read => read.with_context(|| self.place())?,
        };
        self.bar.inc(n_bytes as u64);
        self.is_at_end = n_bytes == 0;
        Ok(!self.is_at_end)
    }

    /// What is next of a plain text: whole lines, and behind them one that does not start with white space.
    fn stretch(&mut self) -> Result<Option<String>> {
        let mut stretch = std::mem::take(&mut self.line);
        while self.next_line()? {
            if stretch.len() >= STRETCH && !self.line.starts_with(char::is_whitespace) {
                break;
            }
            stretch.push_str(&self.line);
        }
        Ok((!stretch.is_empty()).then_some(stretch))
    }

    /// The texts of the next line that is not blank.
    fn row(&mut self) -> Result<Vec<String>> {
        while self.next_line()? {
            if !self.line.trim().is_empty() {
                return texts_of_row(self.line.trim_end()).with_context(|| self.place());
            }
        }
        Ok(Vec::new())
    }
}

/// What a row's `text` or its `messages` say, but for what is empty.
fn texts_of_row(line: &str) -> Result<Vec<String>> {
    let row: Value = match serde_json::from_str(line) {
        Ok(row) => row,
        Err(error) => {
            let (column, problem) = show::json_error(&error);
            bail!("expected a JSON object, found at column {column}: {problem}")
        }
    };
    let texts = match (row.get("text"), row.get("messages")) {
        (Some(Value::String(text)), None) => vec![text.clone()],
        (None, Some(Value::Array(messages))) => {
            let mut texts = Vec::with_capacity(messages.len());
            for (idx, message) in messages.iter().enumerate() {
                let message = Message::deserialize(message).with_context(|| format!("messages[{idx}]"))?;
                if let Content::Text(text) = message.content {
                    texts.push(text);
                }
            }
            texts
        }
        (Some(_), Some(_)) => bail!("expected `text` or `messages`, found both"),
        (None, None) => bail!("expected an object with `text` or `messages`, found neither"),
        (Some(other), None) => bail!("`text`: expected a string, found {}", kind(other)),
        (None, Some(other)) => bail!("`messages`: expected an array, found {}", kind(other)),
    };
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// What sort of JSON a value is: the value itself may be long.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_text::{Trainer, TrainerOptions};

    fn read(path: &Path) -> (Vec<String>, Result<usize>) {
        let mut texts = Texts::new(find(&[path.to_owned()]).unwrap().files, ProgressBar::hidden());
        let read = texts.by_ref().collect();
        (read, texts.finish())
    }

    /// Each stretch but the last is long enough, and training sees no difference.
    #[test]
    fn long_texts_come_in_stretches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.txt");
        let text = "One line, and another.\n  \n  (indented)\r\n\u{3000}wide\n!\n\n".repeat(60_000);
        std::fs::write(&path, &text).unwrap();
        let (stretches, n_texts) = read(&path);
        assert_eq!(n_texts.unwrap(), 1);
        assert_eq!(stretches.concat(), text);
        let (last, whole) = stretches.split_last().unwrap();
        assert!(!last.is_empty() && whole.len() >= 2, "{}", whole.len());
        assert!(whole.iter().all(|stretch| (STRETCH..STRETCH + 100).contains(&stretch.len())));
        let train = |texts: &[String]| {
            let mut trainer = Trainer::new(TrainerOptions::new(600)).unwrap();
            trainer.count(texts);
            trainer.train(&mut |_, _| {}).unwrap()
        };
        assert_eq!(train(&stretches), train(&[text]));
    }

    #[test]
    fn rows_have_text_or_messages() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let rows = concat!(
            "{\"text\": \"a\\nb\", \"id\": 1}\r\n",
            "\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"c\"}]}, ",
            "{\"role\": \"assistant\", \"content\": null}, {\"role\": \"tool\", \"content\": {\"x\": 1}}]}\n",
            "{\"text\": \"\"}\n",
            "{\"text\": \"d\"}",
        );
        std::fs::write(&path, rows).unwrap();
        let (texts, n_texts) = read(&path);
        assert_eq!(texts, ["a\nb", "c", "d"]);
        assert_eq!(n_texts.unwrap(), 3);
    }
}
