//! What models run on: the threads that all of them share, the memory that they may take, and what it gives.

use puna_cpu::Cpu;
use puna_cpu::measure::Memory;
use puna_session::Timings;
use std::fmt::{Display, Formatter};

/// Passes over the memory of one measurement; the best counts.
pub const PASSES: usize = 3;

/// A back-end and its memory. Models that are loaded on it share its threads.
pub struct Machine {
    cpu: Cpu,
    /// Bytes of the caches of all models so far, which take them only as they fill.
    promised: u64,
}

impl Machine {
    /// With nothing on it yet.
    pub fn new(cpu: Cpu) -> Machine {
        Machine { cpu, promised: 0 }
    }

    /// The back-end.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Memory that neither a program nor a model's cache will want, in bytes, where the system tells.
    pub fn available(&self) -> Option<u64> {
        Some(available_memory()?.saturating_sub(self.promised))
    }

    /// Keeps memory for a cache of so many bytes.
    pub fn promise(&mut self, bytes: u64) {
        self.promised += bytes;
    }

    /// How fast an answer was read from memory, if it took forward passes. What the memory gives is measured now: that
    /// takes about a tenth of a second, and some memory for as long; where that is short, nothing is measured.
    pub fn reading(&self, timings: &Timings) -> Option<Reading> {
        if timings.decode_passes == 0 {
            return None;
        }
        let room = available_memory().is_none_or(|available| available / 4 > Memory::bytes(&self.cpu) as u64);
        let memory = room.then(|| Memory::new(&self.cpu).ok()).flatten();
        let bandwidth = memory.map(|memory| memory.read_bandwidth(&self.cpu, PASSES));
        Some(Reading { bytes_per_second: timings.decode_bandwidth(), bandwidth })
    }
}

/// Memory that can be had without pushing anything else out, in bytes, where the system tells.
pub fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// How fast decoding reads weights and cache, in bytes a second, and how fast the same threads read memory that they do
/// nothing else with, if that was measured.
pub struct Reading {
    pub bytes_per_second: f64,
    pub bandwidth: Option<f64>,
}

impl Reading {
    /// The share of what the memory gives. A model that fits into the caches may pass 1.
    pub fn share(&self) -> Option<f64> {
        Some(self.bytes_per_second / self.bandwidth?)
    }
}

impl Display for Reading {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} GB/s", self.bytes_per_second / 1e9)?;
        match self.share() {
            Some(share) => write!(f, ", {:.0} % of what this memory gives", 100.0 * share),
            None => Ok(()),
        }
    }
}
