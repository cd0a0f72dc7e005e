//! Hostile headers are refused in memory of twice their size and a mebibyte.
//!
//! One test in a binary of its own, as it counts what the whole process allocates.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::{adapter, gguf, open, pth, safetensors};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request is handed to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[track_caller]
fn bounded(class: &str, header: usize, run: impl FnOnce()) {
    PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
    let before = NOW.load(Ordering::Relaxed);
    let start = Instant::now();
    run();
    let elapsed = start.elapsed();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    println!("{class}: header {header}, peak {peak}, {elapsed:?}");
    assert!(peak <= 2 * header + (1 << 20), "{class}: peak {peak} for a header of {header} bytes");
}

fn safetensors_file(json: &str) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat()
}

#[test]
fn peak_memory_on_hostile_headers() {
    // Safetensors: very many tiny tensors, long names, escapes, deep nesting.
    let tensors = |n: usize, name: &dyn Fn(usize) -> String| {
        let entries: Vec<String> =
            (0..n).map(|i| format!(r#""{}":{{"dtype":"I8","shape":[],"data_offsets":[0,1]}}"#, name(i))).collect();
        safetensors_file(&format!("{{{}}}", entries.join(",")))
    };
    let cases = [
        ("many tensors", tensors(100_000, &|i| format!("{i:x}"))),
        ("one name", tensors(100_000, &|_| String::new())),
        ("escaped names", tensors(20_000, &|i| "\\u0061".repeat(20) + &i.to_string())),
        ("long shape", safetensors_file(&format!(r#"{{"a":{{"shape":[{}1]"#, "1,".repeat(1 << 20)))),
        (
            "long metadata",
            safetensors_file(&format!(r#"{{"__metadata__":{{{}"a":"b"}}}}"#, r#""a":"b","#.repeat(1 << 18))),
        ),
        ("deep", safetensors_file(&format!(r#"{{"a":{}"#, "{\"a\":".repeat(1 << 18)))),
        ("long key", safetensors_file(&format!(r#"{{"a":{{"{}":1"#, "k".repeat(1 << 20)))),
    ];
    for (class, file) in &cases {
        bounded(class, file.len(), || drop(safetensors::Header::parse(file)));
    }
    let mut lying = safetensors_file("{}");
    lying[..8].copy_from_slice(&99_000_000u64.to_le_bytes());
    bounded("a long header announced", lying.len(), || drop(safetensors::Header::parse(&lying)));

    // GGUF: counts that lie, and many small things.
    let gguf = |tensors: u64, pairs: u64, body: &[u8]| {
        [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &pairs.to_le_bytes(), body].concat()
    };
    let string = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let tensor = |i: usize| {
        [string(&format!("{i}")), [1u32.to_le_bytes(), 1u32.to_le_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat()]
            .concat()
    };
    let pair = |i: usize| [string(&format!("{i:x}")), vec![0, 0, 0, 0, 7]].concat();
    let strings = |n: usize| {
        let head = [string("tokenizer.ggml.tokens"), vec![9, 0, 0, 0, 8, 0, 0, 0], (n as u64).to_le_bytes().to_vec()];
        [head.concat(), vec![0; 8 * n]].concat()
    };
    let cases = [
        ("most tensors", gguf(u64::MAX, 0, &[0; 1000])),
        ("most pairs", gguf(0, u64::MAX, &[0; 1000])),
        ("as many tensors as fit", gguf(60_000, 0, &(0..60_000).flat_map(tensor).collect::<Vec<u8>>())),
        ("as many pairs as allowed", gguf(0, 4096, &(0..4096).flat_map(pair).collect::<Vec<u8>>())),
        ("a million empty strings", gguf(0, 1, &strings(1 << 20))),
        (
            "a long string announced",
            gguf(0, 1, &[string("a"), vec![8, 0, 0, 0], vec![0, 0, 0, 1, 0, 0, 0, 0]].concat()),
        ),
    ];
    for (class, file) in &cases {
        bounded(class, file.len(), || drop(gguf::Header::parse(file)));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    for (class, file) in &cases {
        fs::write(&path, file).unwrap();
        bounded(class, file.len(), || drop(open(&path)));
    }

    // Pickles: each table of the interpreter filled to its limit, and everything at once.
    let pickle = |body: &[u8]| [b"\x80\x02".as_slice(), body].concat();
    let put = |n: u32| (0..n).flat_map(|i| [b"r".as_slice(), &i.to_le_bytes()].concat()).collect::<Vec<u8>>();
    let cases = [
        ("stack", pickle(&vec![b'N'; 1 << 20])),
        ("marks", pickle(&vec![b'('; 1 << 20])),
        ("memo", pickle(&[b"N".as_slice(), &put(40_000)].concat())),
        ("nested tuples", pickle(&[b"N".as_slice(), &vec![0x85; 1 << 20]].concat())),
        ("wide tuples", pickle(&[b"N".as_slice(), &b"(NNNNNNNNNNNNNNNNt".repeat(60_000)].concat())),
        ("entries", pickle(&[b"}".as_slice(), &b"X\0\0\0\0Ns".repeat(20_000)].concat())),
        ("dictionaries", pickle(&vec![b'}'; 1 << 20])),
        (
            "all",
            pickle(
                &[
                    b"}".as_slice(),
                    &b"X\0\0\0\0Ns".repeat(8_000),
                    b"N",
                    &put(32_000),
                    &vec![0x85; 16_000],
                    &vec![b'N'; 8_000],
                ]
                .concat(),
            ),
        ),
    ];
    for (class, file) in &cases {
        bounded(class, file.len(), || drop(pth::interpret(file)));
    }

    // Zip: a directory that lies.
    let mut end = b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff".to_vec();
    end.extend([0xff; 8]);
    end.extend([0; 2]);
    bounded("most members", end.len(), || drop(pth::read(&end)));

    // JSON: lists where numbers belong, long strings, deep nesting, an index of many names.
    let config = |text: String| {
        fs::write(dir.path().join("config.json"), &text).unwrap();
        text.len()
    };
    let cases = [
        ("list of lists", format!(r#"{{"architectures":[{}"#, "[],".repeat(1 << 20))),
        ("ids", format!(r#"{{"eos_token_id":[{}1]}}"#, "1,".repeat(1 << 20))),
        ("long string", format!(r#"{{"model_type":"{}"}}"#, "a".repeat(1 << 21))),
        ("ignored list", format!(r#"{{"id2label":[{}1]}}"#, "[],".repeat(1 << 20))),
        ("deep", format!(r#"{{"id2label":{}"#, "[".repeat(1 << 21))),
    ];
    for (class, text) in cases {
        let n = config(text);
        bounded(class, n, || drop(open(dir.path())));
    }
    // The same of an adapter.
    let weights = safetensors_file("{}");
    fs::write(dir.path().join("adapter_model.safetensors"), &weights).unwrap();
    let cases = [
        ("targets", format!(r#"{{"target_modules":[{}""]}}"#, "\"\",".repeat(1 << 20))),
        ("layers", format!(r#"{{"layers_to_transform":[{}1]}}"#, "1,".repeat(1 << 20))),
        ("patterns", format!(r#"{{"alpha_pattern":{{{}"a":1}}}}"#, "\"a\":1,".repeat(1 << 18))),
        ("a long pattern", format!(r#"{{"rank_pattern":{{"{}":1}}}}"#, "a".repeat(1 << 21))),
        ("a long unknown list", format!(r#"{{"x":[{}1]}}"#, "[],".repeat(1 << 20))),
        ("a long unknown string", format!(r#"{{"x":"{}"}}"#, "a".repeat(1 << 21))),
    ];
    for (class, text) in cases {
        fs::write(dir.path().join("adapter_config.json"), &text).unwrap();
        bounded(class, text.len(), || drop(adapter::list(dir.path())));
    }
    let many = safetensors_file(&format!(r#"{{"__metadata__":{{{}"a":"b"}}}}"#, r#""a":"b","#.repeat(1 << 18)));
    bounded("metadata of an adapter", many.len(), || drop(safetensors::metadata(&many, &["c"])));

    let index: String = (0..50_000).map(|i| format!(r#""{i:x}":"a.safetensors","#)).collect();
    config(CONFIG.into());
    let index = format!(r#"{{"weight_map":{{{index}"x":"a.safetensors"}}}}"#);
    fs::write(dir.path().join("model.safetensors.index.json"), &index).unwrap();
    bounded("index", index.len(), || drop(open(dir.path())));
}

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 96,
  "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 40}"#;
