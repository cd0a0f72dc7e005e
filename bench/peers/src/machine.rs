//! What the peers run on: the processor, its memory, what both give at best, and the instructions that everything was
//! built for.

use crate::phase::{Limit, PAUSE};
use anyhow::{Result, bail};
use clap::ValueEnum;
use puna_cpu::Cpu;
use puna_cpu::measure::{Memory, f32_peak};

/// Which instructions are used.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Instructions {
    /// The best that the processor has
    Best,
    /// AVX2 and FMA, as if the processor had nothing newer
    Avx2,
}

impl Instructions {
    /// The back-end of puna.
    pub fn cpu(self, threads: usize) -> Cpu {
        let best = puna_cpu::Instructions::best();
        let set = match self {
            Instructions::Best => best,
            Instructions::Avx2 => "AVX2".parse().unwrap_or(best),
        };
        Cpu::new(threads).with_instructions(set)
    }

    /// Whether llama.cpp was built for the same: unlike the others, it can't choose when it runs.
    #[cfg(target_arch = "x86_64")]
    pub fn check_build(self) -> Result<()> {
        // The binding hands on to llama.cpp what rustc was told.
        let built = cfg!(target_feature = "avx512f") || cfg!(target_feature = "avxvnni");
        let has = is_x86_feature_detected!("avx512f") || is_x86_feature_detected!("avxvnni");
        match self {
            Instructions::Avx2 if built || cfg!(feature = "avx512") => {
                bail!(
                    "--instructions avx2: the peers are built for more; expected a build with \
                     RUSTFLAGS=-Ctarget-cpu=x86-64-v3 and --no-default-features (see README.md)"
                )
            }
            Instructions::Best if has && !built => bail!(
                "the processor has AVX-512 or AVX-VNNI, and llama.cpp is built without: build without RUSTFLAGS, or \
                 measure with --instructions avx2"
            ),
            _ => Ok(()),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn check_build(self) -> Result<()> {
        if self == Instructions::Avx2 {
            bail!("--instructions avx2: expected an x86-64 processor");
        }
        Ok(())
    }
}

/// Passes of one measurement of a limit; the best counts, as in `puna bench`.
const PASSES: usize = 3;

/// What the machine gives at best, on puna's threads.
pub struct Limits {
    cpu: Cpu,
    memory: Memory,
}

impl Limits {
    pub fn new(cpu: Cpu) -> Result<Limits> {
        Ok(Limits { memory: Memory::new(&cpu)?, cpu })
    }

    /// Measures a limit now: bytes or FLOP a second.
    pub fn measure(&self, limit: Limit) -> f64 {
        std::thread::sleep(PAUSE);
        match limit {
            Limit::Bandwidth => self.memory.read_bandwidth(&self.cpu, PASSES),
            Limit::F32Peak => f32_peak(&self.cpu, PASSES),
        }
    }
}

/// The processor's name, where the system tells it.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Bytes that programs can still take, where the system tells.
pub fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1024)
}
