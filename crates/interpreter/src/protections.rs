//! What keeps the code in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// What keeps the code in on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protections {
    /// Namespaces of its own: users, mounts, processes, network, IPC, host name, cgroups. If not, why not.
    pub namespaces: Result<(), String>,
    /// Landlock's version, if it is in force.
    pub landlock: Option<u32>,
    /// System calls that are allowed. All others are refused.
    pub system_calls: usize,
    /// Files and folders that can be read. Nothing else can.
    pub readable: Vec<PathBuf>,
}

/// Some lines for an operator.
impl fmt::Display for Protections {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.namespaces {
            Ok(()) => writeln!(f, "namespaces: users, mounts, processes, network, IPC, host name, cgroups")?,
            Err(reason) => writeln!(f, "namespaces: none, so no scratch folder and no threads ({reason})")?,
        }
        match self.landlock {
            Some(version) => writeln!(f, "Landlock: version {version}")?,
            None => writeln!(f, "Landlock: none")?,
        }
        writeln!(f, "system calls: {} allowed; none for sockets or processes", self.system_calls)?;
        write!(f, "readable:")?;
        self.readable.iter().try_for_each(|path| write!(f, " {}", path.display()))
    }
}
