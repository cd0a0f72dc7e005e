//! Where a row stands, and what is wrong with it.

use serde::{Serialize, Serializer};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Where a row stands: a file, and the place in it. Displayed as `data.jsonl:12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file's path, as it was given.
    pub file: Arc<str>,
    /// Where in the file.
    pub place: Place,
}

/// A place in a file; lines and rows are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of JSON Lines.
    Line(usize),
    /// A row of a JSON array or of a Parquet file.
    Row(usize),
    /// The whole of a text file.
    File,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Line(line) => write!(f, "{}:{line}", self.file),
            Place::Row(row) => write!(f, "{}: row {row}", self.file),
            Place::File => f.write_str(&self.file),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A row that can't be trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct Fault {
    /// The row.
    pub at: Origin,
    /// What was expected and what was found.
    pub problem: String,
}

/// Why data can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file that can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A file or directory that is no data set, or not of one format.
    #[error("{path}: {problem}")]
    Source {
        /// The file or directory.
        path: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A row that can't be trained on.
    #[error(transparent)]
    Row(#[from] Fault),
    /// A limit that no row could keep to.
    #[error("{name}: expected {expected}, found {found}")]
    Limit {
        /// Which.
        name: &'static str,
        /// Its range.
        expected: String,
        /// What was given.
        found: usize,
    },
}
