//! Every class of malformed file that is known gives one error that names what is wrong.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod material;

use material::*;
use puna_checkpoint::{
    LayerTensor, Name,
    gguf::{self, MetadataValue},
    open, pth, safetensors,
};
use puna_format::Format;
use std::{fs, path::Path};

#[track_caller]
fn says(message: &str, expected: &str) {
    assert!(message.contains(expected), "expected `{expected}` in: {message}");
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    let message = open(path).expect_err("expected an error").to_string();
    expected.iter().for_each(|expected| says(&message, expected));
}

// GGUF headers, byte by byte.

/// A GGUF header in the making.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, tensors: u64, pairs: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(pairs)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    fn u32(self, n: u32) -> Raw {
        self.bytes(&n.to_le_bytes())
    }

    fn u64(self, n: u64) -> Raw {
        self.bytes(&n.to_le_bytes())
    }

    fn string(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }

    fn pair(self, key: &str, value: u32) -> Raw {
        self.string(key).u32(4).u32(value)
    }

    fn tensor(self, name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Raw {
        let named = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(named, |raw, &dim| raw.u64(dim)).u32(ggml_type).u64(offset)
    }

    fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}

#[test]
fn gguf_headers() {
    let one = |dims: &[u64], ggml_type, offset| Raw::new(3, 1, 0).tensor("t", dims, ggml_type, offset);
    let cases = [
        ("empty file", Raw(vec![]), "ends at byte 0"),
        ("magic", Raw(b"GGML\x03\0\0\0".to_vec()), "expected `GGUF`"),
        ("version 0", Raw::new(0, 0, 0), "version 0"),
        ("version 1", Raw::new(1, 0, 0), "version 1, expected 2 or 3"),
        ("future version", Raw::new(4, 0, 0), "version 4"),
        ("other byte order", Raw::new(3u32.swap_bytes(), 0, 0), "big-endian"),
        ("tensors -1", Raw::new(3, u64::MAX, 0), "number of tensors is 18446744073709551615"),
        ("tensors beyond the file", Raw::new(3, 1000, 0).data(100), "number of tensors is 1000"),
        ("pairs -1", Raw::new(3, 0, u64::MAX), "number of metadata pairs"),
        (
            "key size",
            Raw::new(3, 0, 1).u64(1 << 40).data(64),
            "metadata key is 1099511627776 bytes long, expected at most 16777216",
        ),
        ("key past the end", Raw::new(3, 0, 1).u64(1000).data(64), "inside of metadata key"),
        ("key empty", Raw::new(3, 0, 1).pair("", 1), "metadata key at byte 24 is empty"),
        ("key not UTF-8", Raw::new(3, 0, 1).u64(2).bytes(b"\xff\xfe").u32(4).u32(1), "is not UTF-8"),
        ("value type", Raw::new(3, 0, 1).string("key").u32(13).u32(1), "`key` has type 13"),
        ("duplicate key", Raw::new(3, 0, 2).pair("key", 1).pair("key", 2), "`key` occurs twice"),
        ("alignment 0", Raw::new(3, 0, 1).pair("general.alignment", 0), "`general.alignment` is 0"),
        ("alignment 33", Raw::new(3, 0, 1).pair("general.alignment", 33), "a power of two"),
        (
            "alignment type",
            Raw::new(3, 0, 1).string("general.alignment").u32(8).string("32"),
            "`general.alignment` has type string",
        ),
        (
            "alignment and offsets",
            Raw::new(3, 2, 1).pair("general.alignment", 64).tensor("a", &[8], 0, 0).tensor("b", &[8], 0, 32).data(128),
            "`b`: offset is 32, expected a multiple of 64",
        ),
        ("bool of 2", Raw::new(3, 0, 1).string("key").u32(7).bytes(&[2]), "a bool of byte 2"),
        ("string value size", Raw::new(3, 0, 1).string("key").u32(8).u64(u64::MAX), "a metadata value is"),
        ("array length", Raw::new(3, 0, 1).string("key").u32(9).u32(0).u64(u64::MAX), "length of an array"),
        ("array past the end", Raw::new(3, 0, 1).string("key").u32(9).u32(12).u64(100), "length of an array is 100"),
        ("array of strings", Raw::new(3, 0, 1).string("key").u32(9).u32(8).u64(1).u64(9), "string of an array"),
        ("nested array", Raw::new(3, 0, 1).string("key").u32(9).u32(9).u64(0).u32(0).u64(0), "nested arrays"),
        ("array of nothing", Raw::new(3, 0, 1).string("key").u32(9).u32(99).u64(0), "`key` has type 99"),
        ("tensor name size", Raw::new(3, 1, 0).u64(1 << 40).data(64), "tensor name is"),
        ("tensor name empty", Raw::new(3, 1, 0).tensor("", &[8], 0, 0).data(32), "tensor name at byte 24 is empty"),
        (
            "duplicate tensor",
            Raw::new(3, 2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64),
            "tensor `t` occurs twice",
        ),
        ("no dimension", one(&[], 0, 0).data(32), "number of dimensions is 0"),
        ("five dimensions", one(&[1; 5], 0, 0).data(32), "number of dimensions is 5"),
        ("dimension of 0", one(&[8, 0], 0, 0).data(32), "no dimension of 0"),
        ("dimensions too large", one(&[1 << 40, 1 << 40], 0, 0).data(32), "`t`: shape is"),
        ("bytes too many", one(&[1 << 32, 1 << 30], 0, 0).data(32), "`t`: shape is"),
        ("row too large", one(&[u64::MAX], 0, 0).data(32), "`t`: row length is"),
        ("type", one(&[8], 1000, 0).data(32), "`t`: ggml_type is 1000"),
        ("removed type", one(&[32], 4, 0).data(32), "`t`: ggml_type is 4"),
        ("no whole blocks", one(&[40], 8, 0).data(64), "a multiple of 32 for Q8_0"),
        ("offset", one(&[8], 0, 64).data(128), "`t`: offset is 64, expected 0"),
        (
            "overlap",
            Raw::new(3, 2, 0).tensor("a", &[16], 0, 0).tensor("b", &[8], 0, 32).data(96),
            "`b`: offset is 32, expected 64",
        ),
        ("offset overflow", one(&[8], 0, u64::MAX - 31).data(64), "`t`: offset is"),
        ("data short", one(&[8], 0, 0).data(31), "the file is cut short"),
        ("data absent", one(&[8], 0, 0), "the file is cut short"),
        ("data long", one(&[8], 0, 0).data(65), "bytes after the last tensor"),
    ];
    assert!(gguf::Header::parse(&one(&[8], 0, 0).data(32).0).is_ok());
    assert!(gguf::Header::parse(&Raw::new(2, 0, 1).pair("key", 1).0).is_ok());
    for (class, raw, expected) in cases {
        let message = gguf::Header::parse(&raw.0).expect_err(class).to_string();
        assert!(message.contains(expected), "{class}: expected `{expected}` in: {message}");
    }
}

#[test]
fn gguf_models() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let (metadata, tensors) = gguf_parts(Format::F16);
    let with = |key: &str, value: MetadataValue| {
        let mut metadata: Vec<_> = metadata.iter().filter(|(k, _)| k != key).cloned().collect();
        metadata.push((key.to_owned(), value));
        write_gguf(&path, &metadata, &tensors);
    };
    use MetadataValue::{F32, String as Str, Strings, U32};
    let cases: [(&str, MetadataValue, &str); 20] = [
        ("general.architecture", Str("mamba".into()), "`general.architecture` is mamba, expected `llama`"),
        ("llama.block_count", U32(0), "`llama.block_count` is 0"),
        ("llama.block_count", U32(1 << 31), "`llama.block_count` is 2147483648"),
        ("llama.block_count", U32(4), "9 required tensors are missing: layers.3.attention_norm"),
        ("llama.block_count", U32(2), "the configuration has fewer layers"),
        ("llama.block_count", Str("3".into()), "has type string, expected a non-negative integer"),
        ("llama.attention.head_count", U32(0), "`llama.attention.head_count` is 0"),
        ("llama.attention.head_count_kv", U32(3), "a divisor of 4"),
        ("llama.embedding_length", U32(64), "[40, 32], expected [40, 64]"),
        ("llama.rope.dimension_count", U32(4), "`llama.rope.dimension_count` is 4, expected 8"),
        ("llama.rope.freq_base", F32(f32::NAN), "`llama.rope.freq_base` is NaN"),
        ("llama.attention.layer_norm_rms_epsilon", F32(-1.0), "layer_norm_rms_epsilon` is -1"),
        ("llama.rope.scaling.type", Str("yarn".into()), "`llama.rope.scaling.type` is yarn"),
        ("llama.rope.scaling.factor", F32(2.0), "rope_freqs.weight"),
        ("llama.expert_count", U32(8), "mixtures of experts"),
        ("llama.attention.sliding_window", U32(8), "`llama.attention.sliding_window` is present"),
        ("llama.vocab_size", U32(41), "`llama.vocab_size` is 41, expected 40"),
        ("tokenizer.ggml.tokens", Strings(vec!["a".into()]), "`tokenizer.ggml.tokens` is 1 elements, expected 40"),
        ("tokenizer.ggml.bos_token_id", U32(40), "`tokenizer.ggml.bos_token_id` is 40"),
        ("split.count", U32(3), "a file named NAME-00001-of-00003.gguf"),
    ];
    for (key, value, expected) in cases {
        with(key, value);
        refused(&path, &["tiny.gguf", expected]);
    }

    let change = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        write_gguf(&path, &metadata, &tensors);
    };
    change(&|tensors| tensors[0].0.name = "blk.0.attn_q.bias".into());
    refused(&path, &["unknown tensor `blk.0.attn_q.bias`"]);
    change(&|tensors| {
        tensors.remove(5);
    });
    refused(&path, &["1 required tensors are missing: layers.0.attention.output"]);
    change(&|tensors| tensors[1].1[5] = 0x7f);
    change(&|tensors| tensors[1].1[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    refused(&path, &["tiny.gguf", "`blk.0.attn_norm.weight`", "NaN at 0"]);
    change(&|tensors| tensors.last_mut().unwrap().1[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    refused(&path, &["NaN"]);
}

#[test]
fn gguf_splits_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    gguf_split(dir.path(), 3);
    let [first, second, third] = [1, 2, 3].map(|n| dir.path().join(format!("tiny-{n:05}-of-00003.gguf")));
    fs::copy(&third, &second).unwrap();
    refused(&first, &["00002-of-00003", "`split.no` is 2, expected 1"]);
}

// Safetensors headers.

fn safetensors_file(json: &str, data: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn safetensors_headers() {
    let t = |fields: &str| format!(r#"{{"t":{{{fields}}}}}"#);
    let cases: [(&str, String, usize, &str); 24] = [
        ("not JSON", "hello".into(), 0, "does not begin with `{`"),
        ("leading space", r#" {"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.into(), 4, "begin with `{`"),
        ("cut JSON", r#"{"t":{"#.into(), 0, "safetensors header: EOF"),
        ("two values", "{}{}".into(), 0, "trailing characters"),
        (
            "duplicate name",
            r#"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#
                .into(),
            2,
            "`t` occurs twice",
        ),
        ("duplicate field", t(r#""dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]"#), 4, "`dtype` occurs twice"),
        ("unknown field", t(r#""dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1"#), 4, "unknown key `x`"),
        ("missing field", t(r#""dtype":"F32","shape":[1]"#), 4, "`data_offsets` is missing"),
        ("unknown dtype", t(r#""dtype":"F33","shape":[1],"data_offsets":[0,4]"#), 4, "unknown dtype `F33`"),
        ("negative", t(r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#), 4, "-1"),
        ("fraction", t(r#""dtype":"F32","shape":[1.5],"data_offsets":[0,4]"#), 4, "1.5"),
        ("three offsets", t(r#""dtype":"F32","shape":[1],"data_offsets":[0,4,8]"#), 4, "at most 2"),
        ("one offset", t(r#""dtype":"F32","shape":[1],"data_offsets":[0]"#), 4, "not two numbers"),
        ("reversed offsets", t(r#""dtype":"F32","shape":[1],"data_offsets":[4,0]"#), 4, "end before they begin"),
        ("five dimensions", t(r#""dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]"#), 4, "at most 4"),
        ("size", t(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#), 4, "span 4 bytes, expected 8"),
        (
            "dimensions overflow",
            t(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]"#),
            4,
            "dimensions are too large",
        ),
        ("sub-byte", t(r#""dtype":"F4","shape":[3],"data_offsets":[0,2]"#), 2, "do not fill whole bytes"),
        (
            "misaligned",
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#
                .into(),
            5,
            "`t`: begins at 1, expected a multiple",
        ),
        ("hole at the start", t(r#""dtype":"U8","shape":[1],"data_offsets":[1,2]"#), 2, "begins at 1, expected 0"),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"t":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#
                .into(),
            3,
            "`t`: begins at 1, expected 2",
        ),
        ("data short", t(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 7, "7 bytes of data, expected 8 by the header: the file is cut short"),
        ("data long", t(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#), 9, "the file is too long"),
        ("metadata", r#"{"__metadata__":{"a":1}}"#.into(), 0, "a string"),
    ];
    for (class, json, data, expected) in cases {
        let message = safetensors::Header::parse(&safetensors_file(&json, data)).expect_err(class).to_string();
        assert!(message.contains(expected), "{class}: expected `{expected}` in: {message}");
    }
    let lengths =
        [(vec![], "0 bytes"), (vec![1; 7], "file of 7"), (u64::MAX.to_le_bytes().to_vec(), "at most 100000000")];
    for (file, expected) in lengths {
        says(&safetensors::Header::parse(&file).unwrap_err().to_string(), expected);
    }
    let mut cut = safetensors_file("{}", 0);
    cut[0] = 3;
    says(&safetensors::Header::parse(&cut).unwrap_err().to_string(), "cut short");
    let ok = r#"{"__metadata__":{"a":"b"},"t\u0041":{"shape":[],"dtype":"F32","data_offsets":[0,4]}}  "#;
    let file = safetensors_file(ok, 4);
    assert_eq!(safetensors::Header::parse(&file).unwrap().get("tA").unwrap().len, 4);
}

// Hugging Face directories.

#[test]
fn config_json() {
    let dir = tempfile::tempdir().unwrap();
    hugging_face(dir.path(), Format::BF16);
    let add = |pair: &str| CONFIG_JSON.replacen('{', &format!("{{{pair},"), 1);
    let change = |from: &str, to: &str| {
        assert!(CONFIG_JSON.contains(from), "{from}");
        CONFIG_JSON.replace(from, to)
    };
    let cases = [
        (change("LlamaForCausalLM", "EvilForCausalLM"), "EvilForCausalLM"),
        (change(r#""model_type": "llama""#, r#""model_type": "mamba""#), "`model_type` is mamba"),
        (change(r#"["LlamaForCausalLM"]"#, "[]"), "no other architecture"),
        (change(r#""architectures": ["LlamaForCausalLM"], "model_type": "llama","#, ""), "`architectures` is missing"),
        (add(r#""auto_map": {"AutoModel": "evil.py"}"#), "`auto_map`: asks to load code"),
        (add(r#""_attn_implementation_internal": "evil/kernel""#), "`_attn_implementation_internal`: not known"),
        (add(r#""sliding_window": 4096"#), "`sliding_window`"),
        (add(r#""num_experts": 8"#), "`num_experts`: not known"),
        (add(r#""hidden_size": 64"#), "`hidden_size` occurs twice"),
        (add(r#""quantization_config": {"quant_method": "gptq"}"#), "`gptq`, expected `fbgemm_fp8`"),
        (change(r#""attention_bias": false"#, r#""attention_bias": true"#), "`attention_bias`: true"),
        (change(r#""mlp_bias": false"#, r#""mlp_bias": true"#), "`mlp_bias`: true"),
        (change("silu", "gelu"), "`hidden_act`: `gelu`, expected `silu`"),
        (change(r#""rope_type": "llama3""#, r#""rope_type": "yarn""#), "`rope_type`: `yarn`"),
        (change(r#""factor": 8.0"#, r#""factor": 0.0"#), "`rope_scaling.factor` is 0"),
        (change(r#""factor": 8.0,"#, ""), "`rope_scaling.factor` is missing"),
        (change(r#""low_freq_factor": 1.0"#, r#""low_freq_factor": 4.0"#), "`low_freq_factor` is 4"),
        (change("500000.0", "1e400"), "number out of range"),
        (change("500000.0", "1e39"), "`rope_theta` is inf"),
        (change("500000.0", "NaN"), "expected value"),
        (change("1e-05", "0"), "`rms_norm_eps` is 0"),
        (change(r#""num_attention_heads": 4"#, r#""num_attention_heads": 0"#), "`num_attention_heads` is 0"),
        (
            change(r#""num_hidden_layers": 3"#, r#""num_hidden_layers": 2147483648"#),
            "`num_hidden_layers` is 2147483648",
        ),
        (change(r#""num_hidden_layers": 3"#, r#""num_hidden_layers": -1"#), "`num_hidden_layers`"),
        (change(r#""num_hidden_layers": 3"#, r#""num_hidden_layers": "3""#), "`num_hidden_layers`"),
        (change(r#""num_hidden_layers": 3,"#, ""), "`num_hidden_layers` is missing"),
        (change(r#""num_hidden_layers": 3"#, r#""num_hidden_layers": 4"#), "9 required tensors are missing"),
        (change(r#""vocab_size": 40"#, r#""vocab_size": 41"#), "shape is [40, 32], expected [41, 32]"),
        (change(r#""num_key_value_heads": 2"#, r#""num_key_value_heads": 3"#), "a divisor of 4"),
        (add(r#""head_dim": 9"#), "an even number"),
        (String::new(), "EOF"),
        ("[]".into(), "expected a model configuration"),
        (CONFIG_JSON.to_owned() + "x", "trailing characters"),
        ("[".repeat(100_000), "invalid type"),
        (format!(r#"{{"architectures":{}"#, "[".repeat(100_000)), "`architectures`"),
        (format!(r#"{{"label2id":{}"#, "[".repeat(100_000)), "EOF while parsing a list"),
    ];
    for (text, expected) in cases {
        fs::write(dir.path().join("config.json"), text).unwrap();
        refused(dir.path(), &[expected]);
    }
    fs::write(dir.path().join("config.json"), vec![b' '; 17 << 20]).unwrap();
    refused(dir.path(), &["17825792 bytes, expected at most 16777216"]);
}

#[test]
fn hugging_face_directories() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["without config.json"]);
    fs::write(dir.path().join("config.json"), CONFIG_JSON).unwrap();
    refused(dir.path(), &["model.safetensors"]);

    hugging_face_sharded(dir.path(), 4);
    let shard = |n: usize| dir.path().join(format!("model-{n:05}-of-00004.safetensors"));
    let kept = fs::read(shard(2)).unwrap();
    fs::remove_file(shard(2)).unwrap();
    fs::remove_file(shard(4)).unwrap();
    refused(
        dir.path(),
        &["2 of 4 files are missing: model-00002-of-00004.safetensors, model-00004-of-00004.safetensors"],
    );

    hugging_face_sharded(dir.path(), 4);
    fs::write(shard(2), &kept[..kept.len() - 1]).unwrap();
    refused(dir.path(), &["model-00002-of-00004.safetensors", "cut short"]);
    // A shard in another's place.
    fs::copy(shard(1), shard(2)).unwrap();
    refused(dir.path(), &["model-00002-of-00004.safetensors", "expected model-00001-of-00004.safetensors"]);
    // The index promises a tensor that no shard has.
    hugging_face_sharded(dir.path(), 4);
    let index = dir.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    let extra = text.replacen(r#""weight_map":{"#, r#""weight_map":{"extra":"model-00001-of-00004.safetensors","#, 1);
    fs::write(&index, extra).unwrap();
    refused(dir.path(), &["tensor `extra` is absent"]);
    for (file, expected) in [
        ("../evil.safetensors", "expected a plain file name"),
        ("/etc/passwd", "expected a plain file name"),
        ("a\\\\b.safetensors", "expected a plain file name"),
        ("a\\u0000.safetensors", "expected a plain file name"),
    ] {
        fs::write(&index, format!(r#"{{"weight_map":{{"a":"{file}"}}}}"#)).unwrap();
        refused(dir.path(), &["index.json", expected]);
    }
    fs::write(&index, r#"{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}"#).unwrap();
    refused(dir.path(), &["`a` occurs twice"]);
    fs::write(&index, r#"{"metadata":{}}"#).unwrap();
    refused(dir.path(), &["`weight_map` is missing"]);
}

#[test]
fn hugging_face_tensors() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), CONFIG_JSON).unwrap();
    let path = dir.path().join("model.safetensors");
    let write = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors: Tensors = names()
            .into_iter()
            .map(|name| {
                let (rows, cols) = config().shape(name);
                let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
                let declaration = safetensors::Declaration { name: name.hugging_face(), format: Format::BF16, shape };
                (declaration, encode(Format::BF16, &values(name)))
            })
            .collect();
        change(&mut tensors);
        let declarations: Vec<_> = tensors.iter().map(|(d, _)| d.clone()).collect();
        let mut writer = safetensors::Writer::create(&path, &declarations).unwrap();
        tensors.iter().for_each(|(_, bytes)| writer.append(bytes).unwrap());
        writer.finish().unwrap();
    };
    write(&|_| {});
    assert!(open(dir.path()).is_ok());
    write(&|tensors| tensors[2].0.name = "model.layers.0.self_attn.q_proj.bias".into());
    refused(dir.path(), &["unknown tensor `model.layers.0.self_attn.q_proj.bias`"]);
    write(&|tensors| tensors[2].0.shape = vec![16, 64]);
    refused(dir.path(), &["self_attn.q_proj.weight", "[16, 64], expected [32, 32]"]);
    write(&|tensors| tensors[2].0.shape = vec![1024]);
    refused(dir.path(), &["self_attn.q_proj.weight", "shape is [1024]"]);
    write(&|tensors| tensors.truncate(3));
    refused(dir.path(), &["27 required tensors are missing: layers.0.attention.k", "and 15 more"]);
    write(&|tensors| tensors[1].1[..2].copy_from_slice(&[0x80, 0x7f]));
    refused(dir.path(), &["model.safetensors", "`model.layers.0.input_layernorm.weight`", "inf at 0"]);
    // Frequencies that old conversions saved.
    write(&|tensors| {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq".into();
        tensors.push((safetensors::Declaration { name, format: Format::BF16, shape: vec![4] }, vec![0; 8]));
    });
    assert!(open(dir.path()).is_ok());
    // FP8 without a word about it.
    write(&|tensors| {
        tensors[2].0.format = Format::F8E4M3;
        tensors[2].1.truncate(1024);
    });
    refused(dir.path(), &["q_proj.weight", "`weight_scale` is missing"]);
}

#[test]
fn fp8_scales() {
    let dir = tempfile::tempdir().unwrap();
    hugging_face_fp8(dir.path());
    assert!(open(dir.path()).is_ok());
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).unwrap();
    let header = safetensors::Header::parse(&file).unwrap();
    let scale = header.entries.iter().find(|entry| entry.name.ends_with("up_proj.weight_scale")).unwrap();
    for bad in [0f32, -1.0, f32::NAN, f32::INFINITY] {
        let mut file = file.clone();
        file[scale.start as usize + 4..][..4].copy_from_slice(&bad.to_le_bytes());
        fs::write(&path, &file).unwrap();
        refused(dir.path(), &["up_proj.weight_scale", "at row 1, expected finite and above zero"]);
    }
    fs::write(&path, &file).unwrap();
    fs::write(dir.path().join("config.json"), CONFIG_JSON).unwrap();
    refused(dir.path(), &["no quantization_config"]);
}

// Zip archives.

fn members() -> Vec<(String, Vec<u8>)> {
    pth_members(&[Saved::bf16("a", &[2, 2], &[1.0; 4]), Saved::bf16("b", &[3], &[1.0; 3])])
}

#[track_caller]
fn refused_pth(file: &[u8], expected: &str) {
    says(&pth::read(file).expect_err("expected an error").to_string(), expected);
}

fn find(file: &[u8], what: &[u8]) -> usize {
    file.windows(what.len()).position(|window| window == what).unwrap()
}

#[test]
fn zip_archives() {
    let good = zip(&members());
    let views = pth::read(&good).unwrap();
    assert_eq!(views.iter().map(|view| view.key).collect::<Vec<_>>(), ["a", "b"]);
    let central = find(&good, b"PK\x01\x02");
    let end = good.len() - 22;
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };

    refused_pth(b"", "does not end with a zip end record");
    refused_pth(&good[..good.len() - 1], "does not end with a zip end record");
    refused_pth(&[&good[..], b"x"].concat(), "does not end with a zip end record");
    refused_pth(&[b"x", &good[..]].concat(), "zip");
    refused_pth(&patched(end + 20, &[1, 0]), "comment length");
    refused_pth(&patched(end + 8, &[9, 0]), "number of members");
    refused_pth(&patched(end + 12, &[9, 0, 0, 0]), "central directory");
    refused_pth(&patched(end + 4, &[1, 0]), "disk number");
    refused_pth(&patched(central + 8, &[9]), "flags is 0x0809");
    refused_pth(&patched(central + 10, &[8]), "compression method is 8, expected 0, stored");
    refused_pth(&patched(central + 20, &[0xff]), "stored size");
    refused_pth(&patched(central + 16, &[0xff]), "data descriptor");
    refused_pth(&patched(central + 46, b"Shard"), "name in the local header");
    refused_pth(&patched(6, &[0]), "flags or method");
    refused_pth(&patched(8, &[8]), "flags or method");
    refused_pth(&patched(14, &[1, 2, 3, 4]), "CRC-32 is 67305985 in the local header");
    refused_pth(&patched(0, b"XX"), "signature");
    refused_pth(&patched(central + 42, &[1]), "position is");
    refused_pth(&patched(central + 42, &[0xff; 4]), "zip64 field");

    // One byte of the pickle, and of the byte order.
    refused_pth(&patched(find(&good, b"BFloat16Storage"), b"b"), "the file is damaged");
    let mut twice = members();
    twice.push(twice[2].clone());
    refused_pth(&zip(&twice), "`shard/data/0` occurs twice");
    let change = |change: &dyn Fn(&mut Members)| {
        let mut members = members();
        change(&mut members);
        zip(&members)
    };
    refused_pth(&change(&|m| m[1].1 = b"big".to_vec()), "`big`, expected `little`");
    refused_pth(&change(&|m| m.push(("shard/code/evil.py".into(), vec![]))), "`shard/code/evil.py`: no part");
    refused_pth(&change(&|m| m.push(("other/data/2".into(), vec![]))), "`other/data/2`: no part");
    refused_pth(&change(&|m| m.push(("shard/data/7".into(), vec![1]))), "`shard/data/7`: no tensor uses it");
    refused_pth(&change(&|m| m[2].1.push(0)), "expected 9 bytes, the size of `shard/data/0`");
    refused_pth(&change(&|m| m[2].1.truncate(6)), "4 elements of 2 bytes");
    refused_pth(&change(&|m| drop(m.remove(2))), "`shard/data/0` is missing");
    refused_pth(&change(&|m| drop(m.remove(0))), "`data.pkl` is missing");
    refused_pth(&change(&|m| m[0].1 = vec![b'N'; (1 << 20) + 1]), "expected at most 1048576");
    refused_pth(
        &change(&|m| m.iter_mut().for_each(|(name, _)| *name = name.replace("shard/", ""))),
        "`data.pkl` is missing",
    );
}

// Pickles.

#[test]
fn pickles_that_do_something_else() {
    let good = pickle(&[Saved::bf16("a", &[2, 2], &[1.0; 4])]);
    assert_eq!(pth::interpret(&good).unwrap().len(), 1);
    let p = |body: &[u8]| [b"\x80\x02", body].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("os.system", p(b"cposix\nsystem\nX\x02\0\0\0id\x85R."), "global `posix.system` (opcode GLOBAL at byte 2)"),
        ("builtins.eval", p(b"cbuiltins\neval\n."), "`builtins.eval`"),
        ("torch.load", p(b"ctorch\nload\n."), "`torch.load`"),
        ("dotted name", p(b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n."), "`torch._utils._rebuild_tensor_v2"),
        ("STACK_GLOBAL", p(b"\x8c\x05posix\x8c\x06system\x93."), "SHORT_BINUNICODE (0x8c) at byte 2 is not allowed"),
        ("INST", p(b"(iposix\nsystem\n."), "INST"),
        ("OBJ", p(b"(o."), "OBJ"),
        ("NEWOBJ", p(b"ccollections\nOrderedDict\n)\x81."), "NEWOBJ (0x81) at byte 28 is not allowed"),
        ("EXT1", p(b"\x82\x01."), "EXT"),
        ("PERSID", p(b"Pabc\n."), "PERSID"),
        ("STRING", p(b"S'a'\n."), "STRING"),
        ("list", p(b"]."), "EMPTY_LIST"),
        ("unknown opcode", p(b"\xff."), "opcode 0xff at byte 2"),
        ("protocol 4", b"\x80\x04}.".to_vec(), "expected protocol 2"),
        ("protocol again", p(b"\x80\x02}."), "expected protocol 2"),
        ("no end", p(b"}"), "cut short at byte 3"),
        ("empty", vec![], "cut short at byte 0"),
        ("after the end", p(b"}.x"), "1 bytes after STOP"),
        ("no dictionary", p(b"N."), "no dictionary"),
        ("two values", p(b"}}."), "2 values are left"),
        ("nothing", p(b"."), "0 values are left"),
        ("no tensor", p(b"}X\x01\0\0\0aNs."), "`a` is no tensor"),
        ("itself inside", p(b"}q\0X\x01\0\0\0ah\0s."), "`a` is no tensor"),
        ("tuple of itself", p(b"(h\0t."), "nothing of this number in the memo"),
        ("number as key", p(b"}K\x01Ns."), "a key is no string"),
        ("SETITEM on nothing", p(b"NNs."), "nothing on the stack"),
        ("SETITEMS without mark", p(b"}u."), "no mark"),
        ("odd SETITEMS", p(b"}(Nu."), "a key without a value"),
        ("SETITEM on a tuple", p(b")X\x01\0\0\0aNs."), "expected a dictionary"),
        ("TUPLE3 of two", p(b"NN\x87."), "too little on the stack"),
        ("mark in a tuple", p(b"N(N\x87."), "a mark inside of a tuple"),
        ("REDUCE of a tuple", p(b"))R."), "only tensors and OrderedDict"),
        ("OrderedDict of something", p(b"ccollections\nOrderedDict\nN\x85R."), "an OrderedDict made from something"),
        ("BUILD of a tuple", p(b")}b."), "expected a dictionary and its attributes"),
        ("storage of nothing", p(b")Q."), "not the id of a storage"),
        ("memo far away", p(b"}r\xff\xff\xff\xff."), "memo numbers out of order"),
        ("memo of a mark", p(b"(q\0."), "a mark can't be remembered"),
        ("long string", p(b"X\xff\xff\xff\xff."), "cut short"),
        ("not UTF-8", p(b"X\x01\0\0\0\xff."), "not UTF-8"),
        ("long integer", p(b"\x8a\x09123456789."), "more than 64 bits"),
        ("stack", p(&vec![b'N'; 1 << 20]), "more than 8192 values on the stack"),
        ("tuples", p(&b")0".repeat(1 << 19)), "POP (0x30) at byte 3 is not allowed"),
        ("nested tuples", p(&[b"N".as_slice(), &vec![0x85; 1 << 20]].concat()), "more than 16384 tuples"),
        ("dictionaries", p(&vec![b'}'; 1 << 20]), "more than 8192"),
    ];
    for (class, pickle, expected) in cases {
        let message = pth::interpret(&pickle).expect_err(class).to_string();
        assert!(message.contains(expected), "{class}: expected `{expected}` in: {message}");
    }
}

#[test]
fn pickled_tensors_outside_of_their_storage() {
    let of = |shape: &[usize]| {
        let mut saved = Saved::bf16("a", &[2, 2], &[1.0; 4]);
        saved.shape = shape.to_vec();
        pickle(&[saved])
    };
    let fails = |pickle: &[u8], expected| says(&pth::interpret(pickle).unwrap_err().to_string(), expected);
    fails(&of(&[3, 2]), "reaches past its storage");
    fails(&of(&[1 << 31, 1 << 31]), "REDUCE");
    let good = of(&[2, 2]);
    // Strides (2, 1) become (1, 2).
    let strides = find(&good, b"K\x02K\x01\x86");
    let mut transposed = good.clone();
    transposed[strides..strides + 4].copy_from_slice(b"K\x01K\x02");
    fails(&transposed, "not contiguous");
    // Offset 0 becomes 1.
    let mut moved = good.clone();
    let offset = find(&good, b"QK\0") + 2;
    moved[offset] = 1;
    fails(&moved, "reaches past its storage");
}

// Meta's directories.

#[test]
fn params_json() {
    let dir = tempfile::tempdir().unwrap();
    meta(dir.path(), 1, false);
    let add = |pair: &str| PARAMS_JSON.replacen('{', &format!("{{{pair},"), 1);
    let change = |from: &str, to: &str| {
        assert!(PARAMS_JSON.contains(from), "{from}");
        PARAMS_JSON.replace(from, to)
    };
    let cases = [
        (add(r#""quantization_args": {"scheme": "int4"}"#), "`quantization_args`: present"),
        (add(r#""lora_args": {"rank": 16}"#), "`lora_args`: present"),
        (add(r#""vision_chunk_size": 448"#), "`vision_chunk_size`: not known"),
        (add(r#""dim": 32"#), "`dim` occurs twice"),
        (change(r#""dim": 32, "#, ""), "`dim` is missing"),
        (change(r#""dim": 32"#, r#""dim": 18446744073709551615"#), "`n_heads` is 4"),
        (change(r#""dim": 32"#, r#""dim": 18446744073709551612"#), "`dim` is 18446744073709551612"),
        (change(r#""n_heads": 4"#, r#""n_heads": 0"#), "`n_heads` is 0"),
        (change(r#""n_kv_heads": 2"#, r#""n_kv_heads": 0"#), "`n_kv_heads` is 0"),
        (change("1.1", "1e300"), "`ffn_dim_multiplier`"),
        (change("1.1", "0"), "`ffn_dim_multiplier`"),
        (change("1.1", "2.1"), "shape is [96, 32], expected [192, 32]"),
        (change(r#""multiple_of": 32"#, r#""multiple_of": 0"#), "`multiple_of` is 0"),
        (change(r#""vocab_size": 40"#, r#""vocab_size": -2"#), "`vocab_size` is -2"),
        (change(r#""vocab_size": 40"#, r#""vocab_size": 41"#), "[40, 32], expected [41, 32]"),
        (change(r#""n_layers": 3"#, r#""n_layers": 99999999"#), "`n_layers` is 99999999"),
        (add(r#""rope_scaling_factor": -1"#), "`rope_scaling_factor` is -1"),
    ];
    for (text, expected) in cases {
        fs::write(dir.path().join("params.json"), text).unwrap();
        refused(dir.path(), &[expected]);
    }
    let text = add(r#""rope_scaling_factor": 32, "high_freq_factor": 5"#);
    fs::write(dir.path().join("params.json"), text).unwrap();
    let scaling = open(dir.path()).unwrap().config.rope.scaling;
    says(&format!("{scaling:?}"), "factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 5.0");
}

#[test]
fn meta_shards() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("params.json"), PARAMS_JSON).unwrap();
    refused(dir.path(), &["consolidated.00.pth"]);
    let shard = |n: usize| dir.path().join(format!("consolidated.{n:02}.pth"));
    meta(dir.path(), 4, false);
    fs::remove_file(shard(1)).unwrap();
    refused(dir.path(), &["1 of 4 files are missing: consolidated.01.pth"]);
    // The last one is missed by the shapes.
    meta(dir.path(), 4, false);
    fs::remove_file(shard(3)).unwrap();
    refused(dir.path(), &["wk.weight", "shape is [8, 32], [8, 32], [8, 32], expected [16, 32]"]);

    let write = |rank: usize, change: &dyn Fn(&mut Vec<Saved>)| {
        meta(dir.path(), 4, false);
        let mut tensors = material::rank(rank, 4, false);
        change(&mut tensors);
        fs::write(shard(rank), pth(&tensors)).unwrap();
    };
    let place = |name: Name| names().iter().position(|&n| n == name).unwrap();
    let key = place(Name::Layer { layer: 0, tensor: LayerTensor::Key });
    let norm = place(Name::OutputNorm);
    write(0, &|_| {});
    assert!(open(dir.path()).is_ok());
    write(1, &|tensors| tensors[key].bytes[0] ^= 1);
    refused(dir.path(), &["consolidated.01.pth", "layers.0.attention.wk.weight", "an equal copy"]);
    write(2, &|tensors| tensors[norm].bytes[0] ^= 1);
    refused(dir.path(), &["consolidated.02.pth", "`norm.weight`", "an equal copy"]);
    write(2, &|tensors| drop(tensors.remove(key)));
    refused(dir.path(), &["consolidated.02.pth", "consolidated.00.pth"]);
    write(2, &|tensors| tensors[key].key = "evil".into());
    refused(dir.path(), &["evil"]);
    write(2, &|tensors| {
        tensors[key].storage = "torch FloatStorage";
        tensors[key].bytes.resize(8 * 32 * 4, 0);
    });
    refused(dir.path(), &["dtype is F32, expected BF16 as in the first shard"]);
    meta(dir.path(), 1, false);
    for n in 1..4 {
        let _ = fs::remove_file(shard(n));
    }
    let mut tensors = material::rank(0, 1, false);
    tensors.push(Saved::bf16("layers.0.attention.wq.bias", &[32], &[0.0; 32]));
    fs::write(shard(0), pth(&tensors)).unwrap();
    refused(dir.path(), &["unknown tensor `layers.0.attention.wq.bias`"]);
    tensors.last_mut().unwrap().key = "rope.freqs".into();
    fs::write(shard(0), pth(&tensors)).unwrap();
    assert!(open(dir.path()).is_ok());
}

#[test]
fn meta_fp8_scales() {
    let dir = tempfile::tempdir().unwrap();
    meta_fp8(dir.path());
    fs::remove_file(dir.path().join("fp8_scales_1.pt")).unwrap();
    refused(dir.path(), &["1 of 2 files are missing: fp8_scales_1.pt"]);
    fs::remove_file(dir.path().join("fp8_scales_0.pt")).unwrap();
    refused(dir.path(), &["layers.1.feed_forward.w1.weight", "its scales is missing"]);
}

#[test]
fn things_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    refused(&dir.path().join("absent"), &["absent"]);
    let path = dir.path().join("x.txt");
    fs::write(&path, "hello world, this is text").unwrap();
    refused(&path, &["x.txt", "expected `GGUF`"]);
    #[cfg(unix)]
    refused(Path::new("/dev/null"), &["a regular file"]);
}
