//! The CPU back-end conforms, with every instruction set of this processor and on several threads.

use puna_backend::{Backend, MatrixSource, conformance};
use puna_cpu::{Cpu, Instructions};
use puna_format::FORMATS;
use std::sync::Arc;

/// Another seed each run; it is printed, and a failure shows it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_nanos() as u64
}

#[test]
fn every_instruction_set() {
    for instructions in Instructions::available() {
        for n_threads in [1, 3] {
            conformance::run(&Cpu::new(n_threads).with_instructions(instructions), seed());
        }
    }
}

#[test]
fn weights_read_in_place() {
    for instructions in Instructions::available() {
        conformance::run(&Cpu::new(2).with_instructions(instructions).with_budget(0), seed());
    }
}

/// Products of blocks are exact in integers and are scaled lane by lane: neither the instruction set, nor the threads, nor
/// where the weights lie, nor the other tokens change a bit. (The portable kernels round otherwise; floats are summed by
/// as many lanes as there are.)
#[test]
fn products_of_blocks_are_the_same_bits_everywhere() {
    let mut state = seed();
    println!("seed {state}");
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let sets: Vec<Instructions> =
        Instructions::available().into_iter().filter(|set| set.name() != "portable").collect();
    for info in FORMATS.iter().filter(|info| info.block_elems > 1) {
        for (rows, cols) in [(37, 512), (1, 256), (48, 768), (16, 288), (33, 32)] {
            if cols % info.block_elems != 0 {
                continue;
            }
            let weights: Vec<f32> = (0..rows * cols).map(|_| value()).collect();
            let mut bytes = vec![0; info.format.row_bytes(cols).expect("whole blocks") * rows];
            info.format.encode(&weights, &mut bytes);
            let source = MatrixSource::whole("w", info.format, rows, cols, Arc::new(bytes));
            let x: Vec<f32> = (0..20 * cols).map(|_| value()).collect();
            let mut expected: Option<Vec<u32>> = None;
            for set in &sets {
                for (n_threads, budget) in [(1, u64::MAX), (3, 0)] {
                    let cpu = Cpu::new(n_threads).with_instructions(*set).with_budget(budget);
                    let w = cpu.matrix(source.clone()).expect("a matrix");
                    for n_tokens in (1..=9).chain([17, 20]) {
                        let mut input = cpu.activations(n_tokens, cols).expect("memory");
                        let mut out = cpu.activations(n_tokens, rows).expect("memory");
                        cpu.write(&x[..n_tokens * cols], &mut input);
                        cpu.matmul(&input, &w, &mut out);
                        let mut values = Vec::new();
                        cpu.read(&out, &mut values);
                        let bits: Vec<u32> = values.into_iter().map(f32::to_bits).collect();
                        if n_tokens == 1 && expected.is_none() {
                            let mut all = cpu.activations(20, rows).expect("memory");
                            let mut input = cpu.activations(20, cols).expect("memory");
                            cpu.write(&x, &mut input);
                            cpu.matmul(&input, &w, &mut all);
                            let mut values = Vec::new();
                            cpu.read(&all, &mut values);
                            expected = Some(values.into_iter().map(f32::to_bits).collect());
                        }
                        let expected = &expected.as_ref().expect("set above")[..n_tokens * rows];
                        assert_eq!(bits, expected, "{} {rows}x{cols}, {n_tokens} tokens, {set:?}", info.name);
                    }
                }
            }
        }
    }
}
