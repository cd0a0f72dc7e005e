//! How much a run may use.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How much one run may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space in bytes. Python itself takes some 30 MiB, with NumPy some 150.
    pub memory: u64,
    /// Processor time of all threads together; full seconds, rounded up.
    pub cpu: Duration,
    /// Time from start to end.
    pub wall: Duration,
    /// Threads, the first one included. Without namespaces there is only the first.
    pub threads: u32,
    /// Bytes in the scratch folder. They are in memory, and come on top of [`Limits::memory`].
    pub scratch: u64,
    /// Bytes that are kept of each of the two outputs. Of a longer one the middle is left out; who prints sixteen times
    /// as much is stopped.
    pub output: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            cpu: Duration::from_secs(10),
            wall: Duration::from_secs(20),
            threads: 16,
            scratch: 64 << 20,
            output: 16 << 10,
        }
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Limits {
    /// Processor time as the kernel counts it, in seconds.
    pub(crate) fn cpu_seconds(&self) -> u64 {
        self.cpu.as_secs().saturating_add(u64::from(self.cpu.subsec_nanos() > 0)).max(1)
    }
}
