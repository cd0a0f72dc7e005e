//! The CPU back-end conforms, with every instruction set it has and on several threads.

use puna_backend::{Backend, MatrixSource, conformance};
use puna_cpu::Cpu;
use puna_format::FORMATS;
use std::sync::Arc;

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

/// Products of bytes are exact in integers, however a processor forms them.
#[test]
fn vnni_changes_no_bit() {
    let (rows, cols) = (37, 512);
    let mut state = seed();
    println!("seed {state}");
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    for info in FORMATS {
        let weights: Vec<f32> = (0..rows * cols).map(|_| value()).collect();
        let mut bytes = vec![0; info.format.row_bytes(cols).expect("whole blocks") * rows];
        info.format.encode(&weights, &mut bytes);
        let source = MatrixSource::whole("w", info.format, rows, cols, Arc::new(bytes));
        for n_tokens in [1, 2, 3, 4, 7] {
            let x: Vec<f32> = (0..n_tokens * cols).map(|_| value()).collect();
            let [with, without] = [Cpu::new(2), Cpu::without_vnni(2)].map(|cpu| {
                let w = cpu.matrix(source.clone()).expect("a matrix");
                let mut input = cpu.activations(n_tokens, cols).expect("memory");
                let mut out = cpu.activations(n_tokens, rows).expect("memory");
                cpu.write(&x, &mut input);
                cpu.matmul(&input, &w, &mut out);
                let mut values = Vec::new();
                cpu.read(&out, &mut values);
                values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert_eq!(with, without, "{}, {n_tokens} tokens", info.name);
        }
    }
}
