//! What came of a run.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// What the code printed.
    pub stdout: Stream,
    /// Where Python reports exceptions.
    pub stderr: Stream,
    /// How it ended.
    pub status: Status,
    /// Time from start to end.
    pub wall: Duration,
    /// Processor time, to a hundredth of a second.
    pub cpu: Duration,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Valid text: what was not UTF-8 is `U+FFFD`. If something is left out, a line in square brackets says so in its
    /// place.
    pub text: String,
    /// Bytes that are left out.
    pub dropped: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By itself, with this exit code: 0, or 1 after an exception.
    Exited(i32),
    /// By this signal, e.g. 11 after a fault in a library.
    Signal(i32),
    /// The time or the processor time was over.
    TimedOut,
    /// It printed without end.
    OutputExceeded,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::TimedOut => write!(f, "stopped: out of time"),
            Self::OutputExceeded => write!(f, "stopped: too much output"),
        }
    }
}
