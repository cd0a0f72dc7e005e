//! The CPU back-end conforms, with every instruction set of this processor and on several threads.

use puna_backend::{Backend, Batch, KvFormat, KvShape, MatrixPart, MatrixSource, PAGE_LEN, Span, Storage, conformance};
use puna_cpu::{Cpu, Instructions};
use puna_format::{FORMATS, Format};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Another seed each run; it is printed, and a failure shows it.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_nanos() as u64
}

/// Values from -1 to 1, others each run.
fn random() -> impl FnMut() -> f32 {
    let mut state = seed();
    println!("seed {state}");
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
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
fn gradients_of_every_instruction_set() {
    for instructions in Instructions::available() {
        for (n_threads, budget) in [(1, u64::MAX), (3, 0)] {
            let cpu = Cpu::new(n_threads).with_instructions(instructions).with_budget(budget);
            conformance::gradients::run(&cpu, seed());
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
/// as many lanes as there are; and what makes signed codes unsigned subtracts the difference in f32.)
#[test]
fn products_of_blocks_are_the_same_bits_everywhere() {
    let mut value = random();
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
            let signed = matches!(info.name, "Q8_0" | "IQ4_NL" | "IQ4_XS");
            let mut expected: Option<Vec<u32>> = None;
            for set in &sets {
                if signed && set.name() == "AVX2" {
                    // The last, after those that have VNNI.
                    expected = None;
                }
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

/// Floats are summed in lanes by column: neither the threads nor the other tokens change a bit, however few or many, of
/// odd widths, and of matrices that are cut within a vector or a stretch of columns.
#[test]
fn products_of_floats_are_the_same_bits_in_any_batch() {
    const ROWS: usize = 21;
    let mut value = random();
    for info in FORMATS.iter().filter(|info| info.block_elems == 1) {
        for cuts in [&[0, 512][..], &[0, 5], &[0, 777], &[0, 3, 6, 300, 1029]] {
            let cols = cuts[cuts.len() - 1];
            let mut weights = vec![0f32; ROWS * cols];
            let mut parts = Vec::new();
            for cut in cuts.windows(2) {
                let (col0, cols_of_part) = (cut[0], cut[1] - cut[0]);
                let values: Vec<f32> = (0..ROWS * cols_of_part).map(|_| value()).collect();
                let mut bytes = vec![0; info.format.row_bytes(cols_of_part).expect("whole blocks") * ROWS];
                info.format.encode(&values, &mut bytes);
                let mut decoded = vec![0f32; values.len()];
                info.format.decode(&bytes, &mut decoded);
                for (row, values) in decoded.chunks_exact(cols_of_part).enumerate() {
                    weights[row * cols + col0..][..cols_of_part].copy_from_slice(values);
                }
                let bytes = Arc::new(bytes);
                parts.push(MatrixPart { row0: 0, rows: ROWS, col0, cols: cols_of_part, bytes, row_scales: None });
            }
            let source = MatrixSource { name: "w".into(), format: info.format, rows: ROWS, cols, parts };
            // More than meet decoded weights at once.
            let x: Vec<f32> = (0..203 * cols).map(|_| value()).collect();
            for set in Instructions::available() {
                let run = |n_threads: usize, x: &[f32]| {
                    let cpu = Cpu::new(n_threads).with_instructions(set);
                    let w = cpu.matrix(source.clone()).expect("a matrix");
                    let mut input = cpu.activations(x.len() / cols, cols).expect("memory");
                    let mut out = cpu.activations(x.len() / cols, ROWS).expect("memory");
                    cpu.write(x, &mut input);
                    cpu.matmul(&input, &w, &mut out);
                    let mut values = Vec::new();
                    cpu.read(&out, &mut values);
                    values
                };
                let expected: Vec<f32> = x.chunks_exact(cols).flat_map(|x| run(1, x)).collect();
                for (token, x) in x.chunks_exact(cols).enumerate() {
                    for (row, w) in weights.chunks_exact(cols).enumerate() {
                        let product: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let size: f64 = w.iter().zip(x).map(|(w, x)| (f64::from(*w) * f64::from(*x)).abs()).sum();
                        // Each column is rounded into a sum at most twice, and lanes and parts are added up.
                        let tolerance = size * (2 * cols + 16) as f64 * f64::from(f32::EPSILON) / 2.0;
                        let found = f64::from(expected[token * ROWS + row]);
                        assert!((found - product).abs() <= tolerance, "{} {cuts:?}, {set:?}: {found}", info.name);
                    }
                }
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                for n_tokens in (2..=9).chain([17, 203]) {
                    for n_threads in [1, 3] {
                        let found = run(n_threads, &x[..n_tokens * cols]);
                        let expected = &expected[..n_tokens * ROWS];
                        assert_eq!(bits(&found), bits(expected), "{} {cuts:?}, {n_tokens}, {set:?}", info.name);
                    }
                }
            }
        }
    }
}

/// With many threads the chunks of a long cache are tasks of their own, with one they are not.
#[test]
fn attention_is_the_same_bits_on_any_number_of_threads() {
    const DEPTH: usize = 3500;
    let (n_heads, n_kv_heads, head_dim) = (8, 2, 64);
    let pages: Vec<u32> = (0..DEPTH.div_ceil(PAGE_LEN) as u32).rev().collect();
    let mut value = random();
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| 2.0 * value()).collect() };
    let (q, k) = (values(40 * n_heads * head_dim), values(DEPTH * n_kv_heads * head_dim));
    for format in KvFormat::ALL {
        for set in Instructions::available() {
            let run = |n_threads: usize, n: usize| {
                let cpu = Cpu::new(n_threads).with_instructions(set);
                let rows = |values: &[f32], cols: usize| {
                    let mut x = cpu.activations(values.len() / cols, cols).expect("memory");
                    cpu.write(values, &mut x);
                    x
                };
                let shape = KvShape { n_layers: 1, n_kv_heads, head_dim, format, n_pages: pages.len() };
                let mut cache = cpu.kv_cache(shape).expect("memory");
                let k = rows(&k, n_kv_heads * head_dim);
                let spans = [Span { start: 0, len: DEPTH, pages: &pages }];
                let batch = Batch { ids: &vec![0; DEPTH], spans: &spans, outputs: &[] };
                cpu.store_kv(&mut cache, 0, &batch, &k, &k).expect("memory");
                let q = rows(&q[..n * n_heads * head_dim], n_heads * head_dim);
                let mut out = cpu.activations(n, n_heads * head_dim).expect("memory");
                let spans = [Span { start: DEPTH - n, len: n, pages: &pages }];
                cpu.attend(&q, &cache, 0, &Batch { ids: &vec![0; n], spans: &spans, outputs: &[] }, &mut out);
                let mut values = Vec::new();
                cpu.read(&out, &mut values);
                values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            for n in [1, 3, 40] {
                let expected = run(1, n);
                for n_threads in [2, 7] {
                    assert_eq!(run(n_threads, n), expected, "{set:?}, {} with {n} tokens", format.name());
                }
            }
        }
    }
}

/// What one clone copies is not there for another; another budget is another's.
#[test]
fn clones_share_their_budget() {
    let format = Format::Q8_0;
    let n_bytes = 32 * format.row_bytes(64).expect("whole blocks");
    let source = MatrixSource::whole("w", format, 32, 64, Arc::new(vec![0; n_bytes]));
    let cpu = Cpu::new(1).with_budget(n_bytes as u64 + 1);
    let clone = cpu.clone();
    let _first = clone.matrix(source.clone()).expect("a matrix");
    assert_eq!((cpu.budget(), clone.budget()), (1, 1));
    let _second = cpu.matrix(source.clone()).expect("a matrix");
    assert_eq!(cpu.budget(), 1, "the second is read in place");
    let other = cpu.clone().with_budget(n_bytes as u64);
    let _third = other.matrix(source).expect("a matrix");
    assert_eq!((cpu.budget(), other.budget()), (1, 0));
    assert_eq!((cpu.copied(), clone.copied(), other.copied()), (n_bytes as u64, n_bytes as u64, n_bytes as u64));
}

#[test]
#[should_panic(expected = "every token of the batch has a slot of its own")]
fn two_tokens_in_one_slot_are_refused() {
    let cpu = Cpu::new(2);
    let shape = KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 32, format: KvFormat::F16, n_pages: 1 };
    let mut cache = cpu.kv_cache(shape).expect("memory");
    let mut k = cpu.activations(4, 32).expect("memory");
    cpu.write(&[0.0; 4 * 32], &mut k);
    let spans = [Span { start: 3, len: 2, pages: &[0] }, Span { start: 4, len: 2, pages: &[0] }];
    let _ = cpu.store_kv(&mut cache, 0, &Batch { ids: &[0; 4], spans: &spans, outputs: &[] }, &k, &k);
}

#[test]
fn floats_that_stay_in_memory_are_asked_for_once() {
    struct Counted(Vec<u8>, AtomicUsize);
    impl Storage for Counted {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn will_need(&self) {
            self.1.fetch_add(1, Relaxed);
        }
    }
    let times = |format: Format, budget: u64| {
        let n_bytes = 16 * format.row_bytes(32).expect("whole blocks");
        let bytes = Arc::new(Counted(vec![0; n_bytes], AtomicUsize::new(0)));
        let cpu = Cpu::new(1).with_budget(budget);
        let matrix = cpu.matrix(MatrixSource::whole("w", format, 16, 32, bytes.clone())).expect("a matrix");
        (0..3).for_each(|_| cpu.expect(&matrix));
        bytes.1.load(Relaxed)
    };
    assert_eq!((times(Format::F16, 1024), times(Format::F16, 1023)), (1, 3));
    assert_eq!((times(Format::Q8_0, 544), times(Format::Q8_0, 543)), (0, 3));
}
