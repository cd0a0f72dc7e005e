//! Lines of a file, of bounded length, each with its number.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes of a request at most.
pub const MAX_LEN: usize = 16 << 20;

/// A file, line by line.
pub struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    max_len: usize,
    line: Vec<u8>,
    number: usize,
    /// Where the line begins.
    start: u64,
}

impl Lines {
    /// From the beginning; no line may be longer than `max_len` bytes.
    pub fn new(path: &Path, file: File, max_len: usize) -> Lines {
        let file = BufReader::with_capacity(1 << 16, file);
        Lines { path: path.to_owned(), file, max_len, line: Vec::new(), number: 0, start: 0 }
    }

    /// Goes to the next line that is not blank; false at the end.
    pub fn advance(&mut self) -> Result<bool> {
        loop {
            self.start += self.line.len() as u64;
            self.line.clear();
            self.number += 1;
            let most = self.max_len as u64 + 1;
            let read = self.file.by_ref().take(most).read_until(b'\n', &mut self.line);
            if read.with_context(|| self.place())? == 0 {
                return Ok(false);
            }
            if self.line.len() > self.max_len {
                bail!("{}: expected at most {} bytes, found more", self.place(), self.max_len);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// Which file and line this is.
    pub fn place(&self) -> String {
        format!("{}: line {}", self.path.display(), self.number)
    }

    /// The line's number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Where the line begins, in bytes of the file.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether the line has its end.
    pub fn is_whole(&self) -> bool {
        self.line.ends_with(b"\n")
    }

    /// The line as a JSON value.
    pub fn parse<T: DeserializeOwned>(&self, expected: &str) -> Result<T> {
        serde_json::from_slice(&self.line).map_err(|error| {
            let (column, problem) = crate::show::json_error(&error);
            anyhow::anyhow!("{}: expected {expected}, found at column {column}: {problem}", self.place())
        })
    }
}
