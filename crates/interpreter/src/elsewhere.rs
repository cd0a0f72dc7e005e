//! Systems that lack what it takes.

use crate::{Error, Limits, Output, Protections};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Runs code in a sandbox; there is none on this system.
pub enum Interpreter {}

impl Interpreter {
    /// Refuses.
    pub fn start(_worker: &Path, _python: &Path, _limits: Limits) -> Result<Self, Error> {
        Err(unsupported())
    }

    /// What keeps the code in.
    pub fn protections(&self) -> &Protections {
        match *self {}
    }

    /// Runs code.
    pub fn run(&self, _code: &str, _stop: &AtomicBool) -> Result<Output, Error> {
        match *self {}
    }
}

/// Refuses.
pub fn worker() -> Result<(), Error> {
    Err(unsupported())
}

/// Refuses.
pub fn go_offline() -> Result<(), Error> {
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    Err(Error::Offline(format!("expected Linux on x86-64 or ARM64, found {system} on {processor}")))
}

fn unsupported() -> Error {
    Error::System { system: std::env::consts::OS, processor: std::env::consts::ARCH }
}
