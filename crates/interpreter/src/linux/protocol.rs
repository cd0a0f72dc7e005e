//! What the server, the supervisor and the confined process tell each other: lines of JSON.

use crate::{Limits, Output, Protections};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the server asks the supervisor, and the supervisor the second step.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// Run this code and reply with a [`Reply`].
    Supervise {
        sandbox: Sandbox,
        code: String,
        /// The server. If it has another number, it is gone.
        parent: u32,
    },
    /// Confine yourself, [`Report`], and become Python.
    Confine(Sandbox),
}

/// Python and what is around it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// Python, by the path under which it finds its libraries.
    pub python: PathBuf,
    /// What it may read.
    pub readable: Vec<PathBuf>,
    pub limits: Limits,
    /// Namespaces are all there, or none is used.
    pub namespaces: bool,
}

/// Of the supervisor.
pub type Reply = Result<(Protections, Output), String>;

/// Of the confined process, before it becomes Python.
pub type Report = Result<Protections, String>;
