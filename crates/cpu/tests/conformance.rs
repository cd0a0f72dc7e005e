//! The CPU back-end conforms, with every instruction set it has and on several threads.

use puna_backend::conformance;
use puna_cpu::Cpu;

/// Another seed each run; it is printed, and a failure shows it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_nanos() as u64
}

#[test]
fn best_instructions_one_thread() {
    conformance::run(&Cpu::new(1), seed());
}

#[test]
fn best_instructions_three_threads() {
    conformance::run(&Cpu::new(3), seed());
}

#[test]
fn scalar() {
    conformance::run(&Cpu::scalar(2), seed());
}

#[test]
fn without_vnni() {
    conformance::run(&Cpu::without_vnni(2), seed());
}
