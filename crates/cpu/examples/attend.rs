//! Speed of attention over a long context, the cache coming from memory:
//!
//! ```console
//! $ cargo run --release -p puna-cpu --example attend -- depth 16384 tokens 1 kv f16 heads 32 kv-heads 8 head-dim 64
//! ```
//!
//! `sequences` sequences of `tokens` new tokens each after `depth` others, in `layers` layers, with the instruction set
//! `set` (0 is the best). Also how fast the cache was filled.

use puna_backend::{Backend, Batch, KvFormat, KvShape, PAGE_LEN, Span};
use puna_cpu::{Cpu, Instructions, measure::Memory};
use std::time::Instant;

/// Tokens stored at a time.
const CHUNK: usize = 512;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str| args.iter().position(|arg| arg == name).map(|i| args[i + 1].clone());
    let number = |name: &str, default: usize| text(name).map_or(default, |n| n.parse().expect("a number"));
    let kv = text("kv").unwrap_or_else(|| "f16".into());
    let format = KvFormat::ALL.into_iter().find(|format| format.name() == kv).expect("f16, f32 or q8_0");
    let (n_layers, n_heads) = (number("layers", 16), number("heads", 32));
    let (n_kv_heads, head_dim) = (number("kv-heads", 8), number("head-dim", 64));
    let (depth, n, n_sequences) = (number("depth", 16384), number("tokens", 1), number("sequences", 1));
    let instructions = Instructions::available()[number("set", 0)];
    let cpu = Cpu::new(number("threads", Cpu::default_threads())).with_instructions(instructions);

    let n_pages = (depth + n).div_ceil(PAGE_LEN);
    let shape = KvShape { n_layers, n_kv_heads, head_dim, format, n_pages: n_pages * n_sequences };
    let mut cache = cpu.kv_cache(shape).expect("memory");
    let pages: Vec<u32> = (0..shape.n_pages as u32).collect();
    let pages: Vec<&[u32]> = pages.chunks(n_pages).collect();
    let rows = |n: usize, cols: usize| {
        let mut x = cpu.activations(n, cols).expect("memory");
        cpu.write(&(0..n * cols).map(|i| (i * 7919 % 1009) as f32 / 500.0 - 1.0).collect::<Vec<_>>(), &mut x);
        x
    };
    // Once for the system to give the memory, once for the time.
    let mut per_token = 0.0;
    for _ in 0..2 {
        let start = Instant::now();
        for &pages in &pages {
            for at in (0..depth + n).step_by(CHUNK) {
                let len = CHUNK.min(depth + n - at);
                let batch = Batch { ids: &vec![0; len], spans: &[Span { start: at, len, pages }], outputs: &[] };
                let k = rows(len, n_kv_heads * head_dim);
                for layer in 0..n_layers {
                    cpu.store_kv(&mut cache, layer, &batch, &k, &k).expect("memory");
                }
            }
        }
        per_token = start.elapsed().as_secs_f64() / ((depth + n) * n_sequences) as f64;
    }
    println!("{} {}: stored {:.1} µs a token", instructions.name(), format.name(), per_token * 1e6);

    let spans: Vec<Span<'_>> = pages.iter().map(|pages| Span { start: depth, len: n, pages }).collect();
    let ids = vec![0; n * n_sequences];
    let batch = Batch { ids: &ids, spans: &spans, outputs: &[] };
    let q = rows(ids.len(), n_heads * head_dim);
    let mut out = cpu.activations(ids.len(), n_heads * head_dim).expect("memory");
    let memory = Memory::new(&cpu).expect("memory");
    let (mut seconds, mut bandwidth) = (Vec::new(), Vec::new());
    for _ in 0..number("repeats", 11) {
        let start = Instant::now();
        for layer in 0..n_layers {
            cpu.attend(&q, &cache, layer, &batch, &mut out);
        }
        seconds.push(start.elapsed().as_secs_f64());
        bandwidth.push(memory.read_bandwidth(&cpu, 1));
    }
    seconds.sort_by(f64::total_cmp);
    bandwidth.sort_by(f64::total_cmp);
    let bytes = (n_sequences * n_pages * shape.page_bytes()) as f64;
    let operations = (4 * n_layers * ids.len() * n_heads * head_dim) as f64 * (depth as f64 + n as f64 / 2.0);
    for (what, t) in [("best", seconds[0]), ("median", seconds[seconds.len() / 2])] {
        println!("{what:6} {:8.2} ms {:6.1} GB/s {:6.1} GFLOP/s", t * 1e3, bytes / t / 1e9, operations / t / 1e9);
    }
    println!("memory {:.1} GB/s", bandwidth[bandwidth.len() / 2] / 1e9);
}
