//! Speed of the matrix products by format, instruction set and number of tokens, weights coming from memory:
//!
//! ```console
//! $ cargo run --release -p puna-cpu --example matmul -- Q4_0 1 4 512
//! ```
//!
//! The first argument is a format, or `all`; the others are numbers of tokens.

use puna_backend::{Backend, MatrixSource};
use puna_cpu::{Cpu, Instructions, measure::Memory};
use puna_format::{FORMATS, Format};
use std::sync::Arc;
use std::time::Instant;

const ROWS: usize = 4096;
const COLS: usize = 4096;
/// Bytes of weights that are passed over, so that none are left in a cache from the pass before.
const WEIGHTS: usize = 600 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "all".into());
    let tokens: Vec<usize> = args.map(|n| n.parse().expect("a number of tokens")).collect();
    let tokens = if tokens.is_empty() { vec![1, 4, 512] } else { tokens };
    let threads = Cpu::default_threads();
    let memory = Memory::new(&Cpu::new(threads)).expect("memory");
    for info in FORMATS.iter().filter(|info| name == "all" || info.name.eq_ignore_ascii_case(&name)) {
        for set in Instructions::available() {
            let cpu = Cpu::new(threads).with_instructions(set);
            let bytes = random(info.format);
            let n_matrices = (WEIGHTS / bytes.len()).max(1);
            // Each has bytes of its own: floats are read where they lie.
            let source = || MatrixSource::whole("w", info.format, ROWS, COLS, Arc::new(bytes.clone()));
            let matrices: Vec<_> =
                (0..n_matrices).map(|_| cpu.matrix(source()).expect("memory for the weights")).collect();
            for &n in &tokens {
                let (mut x, mut out) =
                    (cpu.activations(n, COLS).expect("memory"), cpu.activations(n, ROWS).expect("memory"));
                let values: Vec<f32> = (0..n * COLS).map(|i| (i * 7919 % 1009) as f32 / 500.0 - 1.0).collect();
                cpu.write(&values, &mut x);
                let n_matrices = if n > 16 { (n_matrices / 16).max(1) } else { n_matrices };
                let mut seconds: Vec<f64> = (0..7)
                    .map(|_| {
                        let start = Instant::now();
                        matrices[..n_matrices].iter().for_each(|w| cpu.matmul(&x, w, &mut out));
                        start.elapsed().as_secs_f64() / n_matrices as f64
                    })
                    .collect();
                seconds.sort_by(f64::total_cmp);
                let bytes = ROWS * info.format.row_bytes(COLS).expect("whole blocks");
                println!(
                    "{:6} {:9} {n:4} tokens {:7.1} GB/s of weights {:7.1} GMAC/s   memory {:.1} GB/s",
                    info.name,
                    set.name(),
                    bytes as f64 / seconds[3] / 1e9,
                    (ROWS * COLS * n) as f64 / seconds[3] / 1e9,
                    memory.read_bandwidth(&cpu, 3) / 1e9,
                );
            }
        }
    }
}

fn random(format: Format) -> Vec<u8> {
    let mut state = 1u64;
    let row: Vec<f32> = (0..COLS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    let mut encoded = vec![0; format.row_bytes(COLS).expect("whole blocks")];
    format.encode(&row, &mut encoded);
    encoded.repeat(ROWS)
}
