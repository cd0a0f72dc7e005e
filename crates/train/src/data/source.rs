//! Files of a data set, and their rows one by one.
//!
//! What a file is, is told by its first bytes, not by its name; only text files are known by their names, since any bytes
//! are text. What its rows mean is told by their keys.

mod json;
mod parquet;

use super::fault::{DataError, Fault, Origin, Place};
use super::format::Format;
use flate2::bufread::MultiGzDecoder;
use json::{JsonArray, JsonLines};
use parquet::ParquetRows;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many rows of a file are looked at to tell its format.
const PROBED_ROWS: usize = 100;
/// A longer row is none: a file without line ends would be read as a whole.
const MAX_ROW_BYTES: usize = 64 << 20;
/// A longer text file has to be cut by whoever wrote it: it is tokenized as a whole.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// A data set: what is trained, and what is only looked at.
#[derive(Debug)]
pub struct Splits {
    /// What is trained.
    pub train: Source,
    /// What tells whether training helps.
    pub valid: Option<Source>,
    /// What is kept for the end.
    pub test: Option<Source>,
    /// Files of the directory that belong to none of the three.
    pub passed_over: Vec<String>,
}

/// Files of one format.
#[derive(Debug)]
pub struct Source {
    files: Vec<DataFile>,
    format: Format,
}

#[derive(Debug)]
struct DataFile {
    path: PathBuf,
    /// The path, for people.
    name: Arc<str>,
    container: Container,
    is_gzip: bool,
}

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    JsonLines,
    JsonArray,
    Parquet,
    Text,
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub at: Origin,
    pub members: Map<String, Value>,
}

/// Opens a data set: a file of rows, a text file, or a directory with files for `train`, `valid` and `test`. Without a
/// format it is told by the keys of the first rows.
///
/// # Errors
/// A file that can't be read or is of no known kind, a directory without files for `train`, rows of no format, of several,
/// or of different ones.
pub fn open(path: &Path, format: Option<Format>) -> Result<Splits, DataError> {
    let mut passed_over = Vec::new();
    let mut sets: [Vec<PathBuf>; 3] = Default::default();
    let is_directory = fs::metadata(path).map_err(|error| read_error(path, error))?.is_dir();
    if is_directory {
        sort_into_splits(path, &mut sets, &mut passed_over)?;
    } else {
        sets[0].push(path.to_owned());
    }
    let [train, valid, test] = sets.map(|paths| {
        paths.into_iter().map(|path| DataFile::open(path, format)).collect::<Result<Vec<DataFile>, DataError>>()
    });
    let [train, valid, test] = [train?, valid?, test?];
    if train.is_empty() {
        let found = if passed_over.is_empty() { "none".to_owned() } else { passed_over.join(", ") };
        let expected = "expected a directory with a file train.jsonl (or .json, .parquet, .txt)";
        return Err(source_error(path, format!("{expected}, found {found}")));
    }
    let format = match format {
        Some(format) => format,
        None => one_format(train.iter().chain(&valid).chain(&test), path)?,
    };
    let source = |files: Vec<DataFile>| (!files.is_empty()).then_some(Source { files, format });
    let train = Source { files: train, format };
    Ok(Splits { train, valid: source(valid), test: source(test), passed_over })
}

/// Names that the files of the three splits begin with.
const SPLIT_NAMES: [&[&str]; 3] = [&["train", "training"], &["valid", "validation", "val", "dev", "eval"], &["test"]];

/// Files by the words that their names begin with; where no name begins so, text files are all for training.
fn sort_into_splits(dir: &Path, sets: &mut [Vec<PathBuf>; 3], passed_over: &mut Vec<String>) -> Result<(), DataError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| read_error(dir, error))? {
        let path = entry.map_err(|error| read_error(dir, error))?.path();
        let is_hidden = path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with('.'));
        if !is_hidden {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.iter().all(|path| is_text(path) && split_of(path).is_none()) {
        sets[0] = paths;
        return Ok(());
    }
    for path in paths {
        match split_of(&path) {
            Some(split) if path.is_file() => sets[split].push(path),
            _ => passed_over.extend(path.file_name().map(|name| name.to_string_lossy().into_owned())),
        }
    }
    Ok(())
}

fn split_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let word = name.split(['.', '-', '_']).next()?;
    SPLIT_NAMES.iter().position(|names| names.contains(&word))
}

fn is_text(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["txt", "md", "markdown"].iter().any(|text| extension.eq_ignore_ascii_case(text)))
}

fn read_error(path: &Path, error: io::Error) -> DataError {
    DataError::Read { path: path.display().to_string(), error }
}

fn source_error(path: &Path, problem: String) -> DataError {
    DataError::Source { path: path.display().to_string(), problem }
}

/// The format of all files, if it is one.
fn one_format<'a>(files: impl Iterator<Item = &'a DataFile>, path: &Path) -> Result<Format, DataError> {
    let mut first: Option<(Format, &DataFile)> = None;
    for file in files {
        let format = file.probe()?;
        match first {
            None => first = Some((format, file)),
            Some((other, _)) if other == format => {}
            Some((other, other_file)) => {
                return Err(source_error(
                    &file.path,
                    format!(
                        "expected rows of the format {other}, as in {}, found {format}; {SAY_FORMAT}",
                        other_file.name
                    ),
                ));
            }
        }
    }
    first.map(|(format, _)| format).ok_or_else(|| source_error(path, "expected files with rows, found none".to_owned()))
}

const SAY_FORMAT: &str = "say which is meant with --format";

impl Source {
    /// The format of all rows.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its first file, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        self.files.first().map_or("", |file| &file.name)
    }

    /// Whether rows are whole text files, which are always cut into parts.
    #[must_use]
    pub fn has_text_files(&self) -> bool {
        self.files.iter().any(|file| file.container == Container::Text)
    }

    /// The rows of all files in order. After an error that ends a file the next is read.
    pub(super) fn rows(&self) -> impl Iterator<Item = Result<Row, DataError>> + '_ {
        self.files.iter().flat_map(|file| match file.rows() {
            Ok(rows) => rows,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = match self.files.first().map(|file| file.container) {
            Some(Container::JsonLines) => "JSON Lines",
            Some(Container::JsonArray) => "a JSON array",
            Some(Container::Parquet) => "Parquet",
            Some(Container::Text) | None => "text files",
        };
        let files = if self.files.len() == 1 { "1 file".to_owned() } else { format!("{} files", self.files.len()) };
        write!(f, "{}, {container}, {files}", self.format)
    }
}

type Rows = Box<dyn Iterator<Item = Result<Row, DataError>>>;

/// Rows of JSON Lines or of a JSON array.
pub(super) fn json_rows(reader: Box<dyn BufRead>, file: Arc<str>, is_array: bool) -> Rows {
    if is_array { Box::new(JsonArray::new(reader, file)) } else { Box::new(JsonLines::new(reader, file)) }
}

/// Rows of a Parquet file of `len` bytes.
pub(super) fn parquet_rows(file: impl Read + Seek + 'static, len: u64, name: Arc<str>) -> Result<Rows, DataError> {
    let rows = ParquetRows::new(file, len, name.clone());
    let rows = rows.map_err(|problem| DataError::Source { path: name.to_string(), problem })?;
    Ok(Box::new(rows))
}

impl DataFile {
    fn open(path: PathBuf, format: Option<Format>) -> Result<DataFile, DataError> {
        let name: Arc<str> = path.display().to_string().into();
        let mut file = DataFile { path, name, container: Container::Text, is_gzip: false };
        if is_text(&file.path) && format.is_none_or(|format| format == Format::Text) {
            return Ok(file);
        }
        let mut reader = file.reader()?;
        let start = reader.fill_buf().map_err(|error| read_error(&file.path, error))?;
        if start.starts_with(b"PAR1") {
            file.container = Container::Parquet;
            return Ok(file);
        }
        if start.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
            let problem = "expected JSON Lines, a JSON array, Parquet or text, found zstd; unpack it first";
            return Err(source_error(&file.path, problem.to_owned()));
        }
        file.is_gzip = start.starts_with(&[0x1F, 0x8B]);
        let mut reader = file.reader()?;
        let mut bytes = (&mut reader).bytes().filter(|byte| {
            // White space and the mark of byte order.
            !matches!(byte, Ok(b' ' | b'\t' | b'\r' | b'\n' | 0xEF | 0xBB | 0xBF))
        });
        file.container = match bytes.next().transpose().map_err(|error| read_error(&file.path, error))? {
            Some(b'{') => Container::JsonLines,
            Some(b'[') => Container::JsonArray,
            Some(_) => {
                let problem =
                    "expected JSON Lines, a JSON array, Parquet or a text file (.txt, .md), found none of them";
                return Err(source_error(&file.path, problem.to_owned()));
            }
            None => return Err(source_error(&file.path, "expected rows, found none".to_owned())),
        };
        Ok(file)
    }

    fn reader(&self) -> Result<Box<dyn BufRead>, DataError> {
        let file = BufReader::new(File::open(&self.path).map_err(|error| read_error(&self.path, error))?);
        Ok(if self.is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(file))) } else { Box::new(file) })
    }

    fn rows(&self) -> Result<Rows, DataError> {
        match self.container {
            Container::JsonLines | Container::JsonArray => {
                Ok(json_rows(self.reader()?, self.name.clone(), self.container == Container::JsonArray))
            }
            Container::Parquet => {
                let file = File::open(&self.path).map_err(|error| read_error(&self.path, error))?;
                let len = file.metadata().map_err(|error| read_error(&self.path, error))?.len();
                parquet_rows(file, len, self.name.clone())
            }
            Container::Text => Ok(Box::new(std::iter::once(self.text()))),
        }
    }

    /// The whole file as one row of [`Format::Text`].
    fn text(&self) -> Result<Row, DataError> {
        let file = File::open(&self.path).map_err(|error| read_error(&self.path, error))?;
        let mut text = String::new();
        file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text).map_err(|error| read_error(&self.path, error))?;
        if text.len() as u64 > MAX_TEXT_BYTES {
            return Err(source_error(&self.path, "expected a text of at most 1 GiB, found a longer one".to_owned()));
        }
        let text = text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text);
        let members = Map::from_iter([("text".to_owned(), Value::String(text))]);
        Ok(Row { at: Origin { file: self.name.clone(), place: Place::File }, members })
    }

    /// The format that the keys of the first rows tell.
    fn probe(&self) -> Result<Format, DataError> {
        if self.container == Container::Text {
            return Ok(Format::Text);
        }
        let mut found: Option<(Format, Origin)> = None;
        let mut fault = None;
        for row in self.rows()?.take(PROBED_ROWS) {
            let Row { at, members } = match row {
                Ok(row) => row,
                // One broken row among others is found again when they are read.
                Err(DataError::Row(broken)) => {
                    fault = fault.or(Some(broken));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let format = match Format::candidates(&members)[..] {
                [format] => format,
                [] => {
                    let keys: Vec<&str> = members.keys().map(String::as_str).collect();
                    let known =
                        Format::ALL.map(|format| format!("{} ({format})", format.keys().join(" and "))).join(", ");
                    let problem = format!("expected the keys of a format, {known}; found {}", keys.join(", "));
                    return Err(Fault { at, problem }.into());
                }
                [one, other, ..] => {
                    let problem =
                        format!("expected rows of one format, found keys of {one} and of {other}; {SAY_FORMAT}");
                    return Err(Fault { at, problem }.into());
                }
            };
            match &found {
                None => found = Some((format, at)),
                Some((other, _)) if *other == format => {}
                Some((other, first)) => {
                    let problem =
                        format!("expected a row of the format {other}, as {first}, found {format}; {SAY_FORMAT}");
                    return Err(Fault { at, problem }.into());
                }
            }
        }
        match (found, fault) {
            (Some((format, _)), _) => Ok(format),
            (None, Some(fault)) => Err(fault.into()),
            (None, None) => Err(source_error(&self.path, "expected rows, found none".to_owned())),
        }
    }
}
