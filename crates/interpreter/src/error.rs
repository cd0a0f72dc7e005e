//! What can go wrong outside of the code that is run; what goes wrong inside is its output.

use std::path::PathBuf;

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a system that has what it takes.
    #[error("the code interpreter: expected Linux on x86-64 or ARM64, found {system} on {processor}")]
    System {
        /// The operating system.
        system: &'static str,
        /// The processor architecture.
        processor: &'static str,
    },
    /// The process can't be kept from opening connections.
    #[error("going offline: {0}")]
    Offline(String),
    /// Not a Python that can be used.
    #[error("{}: expected a Python 3 for the code interpreter: {reason}", python.display())]
    Python {
        /// The program.
        python: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel, or the container, gives too little.
    #[error(
        "the code interpreter: expected a kernel that keeps code from files and processes, by namespaces or by \
         Landlock; found neither. Namespaces: {namespaces}. Landlock: {landlock}"
    )]
    Unprotected {
        /// Why there are no namespaces.
        namespaces: String,
        /// Why Landlock is not enough.
        landlock: String,
    },
    /// Protections are there by name, but don't protect.
    #[error("the code interpreter: expected a sandbox that refuses everything, found one that permits: {permitted}")]
    Leaky {
        /// What could be done.
        permitted: String,
    },
    /// Code that is too long to be run.
    #[error("the code interpreter: expected at most {limit} bytes of code, found {found}")]
    Code {
        /// Bytes of code.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The caller said so.
    #[error("the code interpreter was stopped")]
    Stopped,
    /// The sandbox could not be set up, or its worker died.
    #[error("the code interpreter's worker: {0}")]
    Worker(String),
}
