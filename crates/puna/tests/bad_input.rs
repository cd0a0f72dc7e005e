//! Bad input at the command line: one line that names what is wrong, exit code 2, no panic, and a small process.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "../../checkpoint/tests/material/mod.rs"]
mod material;
mod model;

use model::{Files, SHAPE, binary, puna, run, text};
use puna_checkpoint::{gguf, safetensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// `puna inspect`, which reads a model as all verbs do, in little memory and time.
#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    // Half a gigabyte of address space; other systems have no such limit.
    let mut command = if cfg!(target_os = "linux") {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 500000 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_puna")]);
        shell
    } else {
        binary()
    };
    let start = Instant::now();
    run(command.arg("inspect").arg(path), b"").refused(expected);
    assert!(start.elapsed() < Duration::from_secs(120), "{path:?} took {:?}", start.elapsed());
}

/// A copy of the bytes with others at a place.
fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy[at..at + with.len()].copy_from_slice(with);
    copy
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

// GGUF.

#[test]
fn damaged_gguf() {
    let files = Files::new();
    let good = fs::read(files.model("good.gguf", "F16")).unwrap();
    let header = gguf::Header::parse(&good).unwrap();
    let norm = header.tensors.iter().find(|tensor| tensor.name == "blk.0.attn_norm.weight").unwrap();
    // Name, number of dimensions, dimensions, type, offset.
    let name = |name: &str| find(&good, name.as_bytes()) + name.len();
    let matrix = name("blk.0.ffn_up.weight");
    let [kind, offset] = [matrix + 4 + 16, matrix + 4 + 16 + 4];
    let u64 = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
    let moved = |by: i64| patched(&good, offset, &u64(offset).wrapping_add_signed(by).to_le_bytes());
    let huge = u64::MAX.to_le_bytes();
    let cases = [
        ("empty", Vec::new(), ["empty.gguf", "ends at byte 0"]),
        ("cut header", good[..1000].to_vec(), ["cut header.gguf", "length of an array is 1024, expected at most"]),
        ("cut data", good[..good.len() - 1].to_vec(), ["cut data.gguf", "cut short"]),
        ("long", [&good[..], &[0]].concat(), ["long.gguf", "bytes after the last tensor"]),
        ("magic", patched(&good, 0, b"GGML"), ["magic.gguf", "expected `GGUF`"]),
        ("version", patched(&good, 4, &[4, 0, 0, 0]), ["version 4", "expected 2 or 3"]),
        ("tensors", patched(&good, 8, &huge), ["tensors.gguf", "number of tensors is 18446744073709551615"]),
        ("pairs", patched(&good, 16, &huge), ["pairs.gguf", "number of metadata pairs is 18446744073709551615"]),
        (
            "key",
            patched(&good, 24, &(1u64 << 40).to_le_bytes()),
            ["key.gguf", "metadata key is 1099511627776 bytes long, expected at most"],
        ),
        (
            "array",
            patched(&good, name("tokenizer.ggml.tokens") + 8, &(1u64 << 40).to_le_bytes()),
            ["array.gguf", "length of an array is 1099511627776"],
        ),
        (
            "dimension",
            patched(&good, matrix + 4, &huge),
            ["`blk.0.ffn_up.weight`: row length is 18446744073709551615", "expected"],
        ),
        ("type", patched(&good, kind, &[99, 0, 0, 0]), ["`blk.0.ffn_up.weight`: ggml_type is 99", "expected"]),
        ("overlap", moved(-32), ["`blk.0.ffn_up.weight`: offset is", "expected"]),
        ("misaligned", moved(1), ["`blk.0.ffn_up.weight`: offset is", "expected a multiple of 32"]),
        ("hole", moved(32), ["`blk.0.ffn_up.weight`: offset is", "expected"]),
        ("unknown", patched(&good, matrix - 9, b"in"), ["unknown.gguf", "unknown tensor `blk.0.ffn_in.weight`"]),
        (
            "NaN",
            patched(&good, norm.start as usize + 8, &f32::NAN.to_le_bytes()),
            ["`blk.0.attn_norm.weight`: a norm weight is NaN at 2", "expected a finite number"],
        ),
    ];
    for (class, bytes, expected) in cases {
        refused(&files.write(&format!("{class}.gguf"), bytes), &expected);
    }
    // Whatever is asked of it.
    let [long, file] = [files.path("long.gguf"), files.write("file.json", "[1]")];
    let [long, file] = [text(&long), text(&file)];
    let asked: [&[&str]; 5] = [
        &["run", long, "Hello"],
        &["score", long, "--ids-file", file],
        &["tokenize", long, "Hello"],
        &["chat-format", long, "--messages", file],
        &["bench", long],
    ];
    for args in asked {
        puna(args).refused(if args[0] == "chat-format" { &["file.json"] } else { &["long.gguf: the file has"] });
    }
}

// Hugging Face directories.

/// A safetensors file: its header as JSON, and the data.
fn parts(file: &[u8]) -> (Value, &[u8]) {
    let (header, data) = file[8..].split_at(u64::from_le_bytes(file[..8].try_into().unwrap()) as usize);
    (serde_json::from_slice(header).unwrap(), data)
}

fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn damaged_safetensors() {
    let files = Files::new();
    let dir = files.model("hf", "BF16");
    let path = dir.join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let (header, data) = parts(&good);
    let up = "model.layers.0.mlp.up_proj.weight";
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        edit(&mut header);
        joined(&header, data)
    };
    let moved = |by: i64| {
        edited(&|header| {
            for offset in header[up]["data_offsets"].as_array_mut().unwrap() {
                *offset = (offset.as_i64().unwrap() + by).into();
            }
        })
    };
    // All tensors one byte later, after one of a single byte.
    let misaligned = {
        let mut header = header.clone();
        for tensor in header.as_object_mut().unwrap().values_mut() {
            for offset in tensor.get_mut("data_offsets").and_then(Value::as_array_mut).into_iter().flatten() {
                *offset = (offset.as_u64().unwrap() + 1).into();
            }
        }
        header["a"] = json!({ "dtype": "U8", "shape": [1], "data_offsets": [0, 1] });
        joined(&header, &[&[0], data].concat())
    };
    let norm = safetensors::Header::parse(&good).unwrap().get("model.norm.weight").unwrap().start as usize;
    let cases = [
        (good[..good.len() - 1].to_vec(), ["expected", "the file is cut short"]),
        (good[..100].to_vec(), ["safetensors header of", "in a file of 100: the file is cut short"]),
        ([&good[..], &[0]].concat(), ["expected", "the file is too long"]),
        (patched(&good, 0, &u64::MAX.to_le_bytes()), ["18446744073709551615", "expected at most"]),
        (moved(-2), [up, "begins at"]),
        (moved(2), [up, "begins at"]),
        (misaligned, ["begins at 1, expected a multiple of", "2"]),
        (edited(&|header| header[up]["shape"] = json!([1u64 << 40, 1u64 << 40])), [up, "too large"]),
        (edited(&|header| header[up]["shape"] = json!([64, 96])), [up, "shape is [64, 96], expected [96, 64]"]),
        (edited(&|header| header[up]["dtype"] = "I16".into()), [up, "I16"]),
        (edited(&|header| header[up]["dtype"] = "F33".into()), [up, "unknown dtype `F33`"]),
        (patched(&good, find(&good, b"up_proj"), b"in_proj"), ["unknown tensor", "layers.0.mlp.in_proj.weight"]),
        (patched(&good, norm, &[0xc0, 0x7f]), ["`model.norm.weight`", "NaN at 0"]),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        refused(&dir, &["model.safetensors", expected[0], expected[1]]);
    }
}

#[test]
fn config_json_of_another_model() {
    let files = Files::new();
    let dir = files.model("hf", "BF16");
    let path = dir.join("config.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let cases = [
        ("architectures", json!(["MambaForCausalLM"]), ["MambaForCausalLM", "LlamaForCausalLM"]),
        ("model_type", json!("mamba"), ["`model_type` is mamba", "expected"]),
        ("auto_map", json!({ "AutoModelForCausalLM": "code.Model" }), ["`auto_map`", "code"]),
        ("hidden_size", json!(0), ["`hidden_size` is 0", "expected 1 to"]),
        ("hidden_size", json!(1u64 << 60), ["`hidden_size` is 1152921504606846976", "expected 1 to"]),
        ("num_hidden_layers", json!(3), ["9 required tensors are missing", "layers.2.attention_norm"]),
        ("num_hidden_layers", json!(1), ["unknown tensor `model.layers.1.", "fewer layers"]),
        ("num_key_value_heads", json!(3), ["`num_key_value_heads` is 3", "expected"]),
        ("vocab_size", json!(1025), ["shape is [1024, 64]", "expected [1025, 64]"]),
        ("rope_theta", json!("many"), ["rope_theta", "many"]),
    ];
    for (key, value, expected) in cases {
        let mut config = good.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        refused(&dir, &["hf", expected[0], expected[1]]);
    }
    fs::write(&path, "{").unwrap();
    refused(&dir, &["config.json", "EOF"]);
}

#[test]
fn missing_files() {
    let files = Files::new();
    let sharded = files.directory("sharded");
    material::hugging_face_sharded(&sharded, 4);
    for shard in [2, 4] {
        fs::remove_file(sharded.join(format!("model-{shard:05}-of-00004.safetensors"))).unwrap();
    }
    let missing = "model-00002-of-00004.safetensors, model-00004-of-00004.safetensors";
    refused(&sharded, &["sharded: 2 of 4 files are missing", missing]);

    let meta = files.directory("meta");
    material::meta(&meta, 4, false);
    fs::remove_file(meta.join("consolidated.01.pth")).unwrap();
    refused(&meta, &["meta: 1 of 4 files are missing: consolidated.01.pth"]);

    refused(&files.path("nowhere"), &["nowhere: "]);
    refused(&files.directory("void"), &["void: not a model", "config.json", "params.json"]);
    refused(&files.write("letter.txt", "Dear all,"), &["letter.txt: begins with", "expected `GGUF`"]);
}

// Meta's directories.

#[test]
fn hostile_pth() {
    let files = Files::new();
    let dir = files.directory("meta");
    material::meta(&dir, 1, false);
    let path = dir.join("consolidated.00.pth");
    run(binary().arg("inspect").arg(&dir), b"").succeeded();
    let good = fs::read(&path).unwrap();
    let pickled = |body: &[u8]| {
        let mut members = material::pth_members(&material::rank(0, 1, false));
        members[0].1 = [b"\x80\x02", body].concat();
        material::zip(&members)
    };
    let central = find(&good, b"PK\x01\x02");
    let compressed = patched(&good, central + 10, &[8]);
    let tensors = |change: &dyn Fn(&mut Vec<material::Saved>)| {
        let mut tensors = material::rank(0, 1, false);
        change(&mut tensors);
        material::pth(&tensors)
    };
    let nested = [b"N".as_slice(), &vec![0x85; 1 << 19]].concat();
    let cases = [
        (good[..good.len() / 2].to_vec(), "does not end with a zip end record"),
        ([&good[..], b"x"].concat(), "does not end with a zip end record"),
        (b"\x80\x02}.".to_vec(), "zip"),
        (compressed, "compression method is 8, expected 0, stored"),
        (pickled(b"cposix\nsystem\nX\x02\0\0\0id\x85R."), "global `posix.system` (opcode GLOBAL at byte 2)"),
        (pickled(b"\xff."), "opcode 0xff at byte 2"),
        (pickled(b"}q\0X\x01\0\0\0ah\0s."), "`a` is no tensor"),
        (pickled(&nested), "more than 16384 tuples"),
        (pickled(b"}"), "cut short at byte 3"),
        (tensors(&|tensors| tensors[2].key = "evil.weight".into()), "`evil.weight`"),
        (tensors(&|tensors| drop(tensors.remove(2))), "1 required tensors are missing"),
        (tensors(&|tensors| tensors[1].bytes[..2].copy_from_slice(&[0xc0, 0x7f])), "NaN at 0"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        refused(&dir, &["meta", expected]);
    }
}

// What is asked of a good model.

#[test]
fn prompts() {
    let files = Files::new();
    let model = files.model("good.gguf", "F16");
    let ids = |text: String| files.write("ids.json", text);
    let cases = [
        ("[1, 2, 1024]", "ids.json: [2]: expected a token id below the vocabulary's 1024, found 1024"),
        ("[]", "ids.json: expected at least one token id, found none"),
        ("", "ids.json: expected a JSON array of token ids"),
        ("[1, -2]", "ids.json: expected a JSON array of token ids"),
        ("[1, 2.5]", "ids.json: expected a JSON array of token ids"),
        ("[1, 99999999999]", "ids.json: expected a JSON array of token ids"),
        ("{\"ids\": [1]}", "ids.json: expected a JSON array of token ids"),
        ("[1] [2]", "ids.json: expected a JSON array of token ids"),
    ];
    for verb in ["run", "score"] {
        for (contents, expected) in cases {
            puna(&[verb, text(&model), "--ids-file", text(&ids(contents.into()))]).refused(&[expected]);
        }
        let long = ids(format!("{:?}", [7; 513]));
        let expected = "the prompt has 513 tokens: expected at most 512, the context";
        puna(&[verb, text(&model), "--ids-file", text(&long)]).refused(&[expected]);
        puna(&[verb, text(&model), "--ids-file", text(&files.path("none.json"))]).refused(&["none.json: "]);
    }
    let long = "word ".repeat(400);
    puna(&["run", text(&model), &long, "--context", "300"]).refused(&["the prompt has", "expected at most 300"]);
    puna(&["run", text(&model), &long, "--raw", "--context", "300"]).refused(&["expected at most 300, the context"]);
    puna(&["run", text(&model), ""]).refused(&["the prompt is empty"]);
    puna(&["run", text(&model)]).refused(&["the prompt is empty"]);
    run(binary().arg("run").arg(&model), b"\xff\xfe").refused(&["standard input", "UTF-8"]);

    let score = |contents: &[u8]| puna(&["score", text(&model), "--text-file", text(&files.write("a.txt", contents))]);
    score(b"short").refused(&["a.txt: expected at least one window of 511 tokens", "lower --context"]);
    score(b"\xff\xfe").refused(&["a.txt: ", "UTF-8"]);
    puna(&["score", text(&model)]).misused(&["--ids-file"]);
}

#[test]
fn options_out_of_range() {
    let files = Files::new();
    let model = files.model("good.gguf", "F16");
    let with = |args: &[&str]| puna(&[&["run", text(&model), "Hello"], args].concat());
    let cases = [
        (["--temperature", "-1"], "temperature: expected 0 to 100, found -1"),
        (["--temperature", "NaN"], "temperature: expected 0 to 100, found NaN"),
        (["--top-p", "0"], "top_p: expected above 0, at most 1, found 0"),
        (["--top-p", "1.5"], "top_p: expected above 0, at most 1, found 1.5"),
        (["--min-p", "-0.5"], "min_p: expected 0 to 1, found -0.5"),
        (["--typical", "0"], "typical: expected above 0, at most 1, found 0"),
        (["--repetition-penalty", "0"], "repetition_penalty: expected 0.01 to 100, found 0"),
        (["--frequency-penalty", "inf"], "frequency_penalty: expected -100 to 100, found inf"),
        (["--presence-penalty", "-101"], "presence_penalty: expected -100 to 100, found -101"),
        (["--logit-bias", "1024=1"], "logit_bias: expected a token id below the vocabulary's 1024, found 1024"),
        (["--logit-bias", "5=NaN"], "logit_bias: expected -1000 to 1000, found NaN for token 5"),
        (["--context", "0"], "context: expected at least 1 token, found 0"),
        (["--context", "513"], "context: expected at most 512 tokens, what the model was trained for, found 513"),
    ];
    for (args, expected) in cases {
        with(&args).refused(&[expected]);
    }
    with(&["--logit-bias", "5"]).misused(&["--logit-bias <ID=BIAS>", "expected ID=BIAS"]);
    with(&["--threads", "0"]).misused(&["--threads <N>"]);
    with(&["--kv", "q4"]).misused(&["--kv <KV>", "q8_0"]);
    with(&["--top-k", "many"]).misused(&["--top-k <K>"]);
    with(&["--date", "tomorrow"]).misused(&["expected a day such as 23 Nov 2026, found \"tomorrow\""]);
    with(&["--raw", "--system", "Be brief."]).misused(&["--raw", "--system"]);

    puna(&["bench", text(&model), "-p", "0", "-n", "0"]).refused(&["-p and -n: expected at least one above 0"]);
    puna(&["bench", text(&model), "-p", "513"]).refused(&["context: expected at most 512 tokens", "found 513"]);
    puna(&["inspect", text(&model), "--context", "513"]).refused(&["--context: expected 1 to 512", "found 513"]);
}

/// Keys and values of 4 layers in 2²⁸ positions are 64 TiB: more than any machine has. Only Linux tells how much there
/// is.
#[cfg(target_os = "linux")]
#[test]
fn a_context_that_no_memory_holds() {
    let files = Files::new();
    let shape = r#"{"dim": 32, "n_layers": 4, "n_heads": 32, "n_kv_heads": 32, "head_dim": 512, "ffn_dim": 32,
      "vocab_size": 512, "context_length": 268435456}"#;
    let model = files.model_of(shape, "long.gguf", "F16");
    puna(&["run", text(&model), "Hello", "--context", "268435456"]).refused(&[
        "a context of 268435456 tokens needs 64.00 TiB for keys and values",
        "the available memory",
        "lower --context",
    ]);
    // Without being asked for that much, it takes what fits.
    let answer = puna(&["run", text(&model), "Hello", "--max-tokens", "1", "--json"]).json();
    assert_eq!(answer["completion_tokens"], 1);
}

#[test]
fn other_files() {
    let files = Files::new();
    let model = files.model("good.gguf", "F16");
    let ids = files.write("ids.json", "[1, 2]");
    let out = files.path("absent").join("out.safetensors");
    puna(&["score", text(&model), "--ids-file", text(&ids), "--logits", text(&out)])
        .refused(&["absent/out.safetensors"]);

    let chat = |contents: &str| {
        let messages = files.write("chat.json", contents);
        puna(&["chat-format", text(&model), "--messages", text(&messages)])
    };
    chat("").refused(&["chat.json: EOF"]);
    chat("7").refused(&["chat.json: expected an array of messages or an object with `messages`, found 7"]);
    chat("{}").refused(&["chat.json: missing field `messages`"]);
    chat("[]").refused(&["chat.json: the conversation has no messages"]);
    chat("[7]").refused(&["chat.json: messages[0]: invalid type: integer `7`, expected a message"]);
    chat(r#"[{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]"#)
        .refused(&["chat.json: messages[1]: unknown variant `wizard`, expected one of", "`user`"]);
    let messages = files.write("chat.json", r#"[{"role": "user", "content": "a"}]"#);
    puna(&["chat-format", text(&model), "--messages", text(&messages), "--chat-format", "model"])
        .refused(&["--chat-format model: expected a chat template in the model's files, found none"]);
    puna(&["chat-format", text(&model), "--messages", text(&files.path("none.json"))]).refused(&["none.json: "]);

    let hf = files.model("hf", "F16");
    let tokenizer = hf.join("tokenizer.json");
    fs::write(&tokenizer, "{}").unwrap();
    for verb in [["tokenize", text(&tokenizer), "a"], ["tokenize", text(&hf), "a"], ["run", text(&hf), "a"]] {
        puna(&verb).refused(&["tokenizer.json: not a tokenizer.json: missing field"]);
    }
    fs::remove_file(&tokenizer).unwrap();
    puna(&["run", text(&hf), "a"]).refused(&["hf: expected a tokenizer.json", "found none of them"]);
    puna(&["tokenize", text(&tokenizer), "a"]).refused(&["tokenizer.json: "]);
}

#[test]
fn synth() {
    let files = Files::new();
    let shape = files.write("tiny.json", SHAPE);
    let synth =
        |shape: &Path, format: &str, out: &Path| puna(&["synth", text(shape), "--format", format, "-o", text(out)]);
    let out = files.path("out.gguf");
    synth(&shape, "Q9", &out).refused(&["--format: expected one of F32, F16, BF16", "Q4_K_M", "found Q9"]);
    synth(&shape, "FP8", &out).refused(&["out.gguf: FP8 has no place in GGUF"]);
    synth(&shape, "Q4_K", &out)
        .refused(&["out.gguf: tensor `token_embd.weight`: Q4_K needs rows of a multiple of 256"]);
    synth(&shape, "Q8_0", &files.path("dir")).refused(&["dir: Q8_0 has no place in safetensors"]);
    let absent = files.path("absent").join("out.gguf");
    synth(&shape, "F16", &absent).refused(&["absent/out.gguf: "]);
    synth(Path::new("llama-9"), "F16", &out).refused(&["shape: expected llama-3.1-8b", "found llama-9"]);
    synth(&files.path("none.json"), "F16", &out).refused(&["none.json: "]);
    synth(&files.write("bad.json", r#"{"dim": 64}"#), "F16", &out).refused(&["bad.json: missing field `n_layers`"]);
    synth(&files.write("bad.json", "[1]"), "F16", &out).refused(&["bad.json: ", "expected an object of sizes"]);
    let odd = SHAPE.replace("\"n_kv_heads\": 1", "\"n_kv_heads\": 3");
    synth(&files.write("bad.json", odd), "F16", &out).refused(&["bad.json: `n_kv_heads` is 3, expected"]);
    let small = SHAPE.replace("1024", "500");
    synth(&files.write("bad.json", small), "F16", &out).refused(&["a vocabulary of 500, expected at least 512"]);
    let full = files.directory("full");
    fs::write(full.join("x"), "").unwrap();
    synth(&shape, "F16", &full).refused(&["full: the directory is not empty"]);
    assert!(!out.exists(), "nothing is left of what failed");
}
