//! Writes the seeds of the targets, small files that are valid or nearly, into `fuzz/seeds`:
//!
//!     cargo run --manifest-path fuzz/Cargo.toml --example seeds
//!
//! After a change of what is valid, and whenever a target wants another. All of them are made here.

#[path = "../../crates/checkpoint/tests/material/mod.rs"]
mod material;

use material::{CONFIG_JSON, PARAMS_JSON, Saved, encode, pickle, pth, vocabulary, zip};
use puna_checkpoint::{
    Config, LayerTensor, Name, Rope, RopePairing, RopeScaling,
    adapter::{self, Adapter, BaseIdentity, Digest, LowRank, Settings},
    fuzzing,
    gguf::{self, Declaration},
    safetensors,
};
use puna_format::Format;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// libFuzzer's default limit of an input's length where no seed is longer.
const MAX_BYTES: usize = 4096;

fn seed(target: &str, name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&dir).expect("the repository can be written to");
    dir.join(name)
}

fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    assert!(bytes.as_ref().len() <= MAX_BYTES, "{target}/{name}");
    fs::write(seed(target, name), bytes).expect("the repository can be written to");
}

fn main() {
    configurations();
    weights();
    adapters();
    vocabularies();
    texts();
    conversations();
    grammars();
    rows();
    parquet();
    templates();
}

fn configurations() {
    put("config_json", "llama3", CONFIG_JSON);
    let fp8 = r#"{"quantization_config": {"quant_method": "fbgemm_fp8"},"#;
    put("config_json", "fp8", CONFIG_JSON.replacen('{', fp8, 1));
    put("config_json", "linear", CONFIG_JSON.replace("llama3", "linear"));
    put("config_json", "parameters", CONFIG_JSON.replace("rope_scaling", "rope_parameters"));
    put("config_json", "code", r#"{"auto_map": {"AutoModel": "x.Y"}}"#);
    put("config_json", "generation", r#"{"bos_token_id": 1, "eos_token_id": [2, 3], "temperature": 0.6, "top_k": 3}"#);
    put("config_json", "template", r#"{"chat_template": "{{ a }}", "bos_token": {"content": "<s>"}}"#);
    put("config_json", "templates", r#"{"chat_template": [{"name": "default", "template": "{{ a }}"}]}"#);

    put("params_json", "llama3", PARAMS_JSON);
    let llama2 = r#"{"dim": 32, "multiple_of": 256, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-06, "vocab_size": -1}"#;
    put("params_json", "llama2", llama2);
    let llama32 = r#"{"rope_scaling_factor": 32.0, "high_freq_factor": 4,"#;
    put("params_json", "llama32", PARAMS_JSON.replacen('{', llama32, 1));
    put(
        "params_json",
        "adapted",
        PARAMS_JSON.replacen('{', r#"{"lora_args": {"rank": 16}, "quantization_args": null,"#, 1),
    );

    let small = r#"{"dim": 32, "n_layers": 2, "n_heads": 4, "ffn_dim": 96"#;
    put("shape_json", "small", format!("{small}}}"));
    let rest = r#""vocab_size": 40, "context_length": 64, "norm_eps": 1e-6, "rope_theta": 1e4"#;
    put("shape_json", "all", format!("{small}, \"n_kv_heads\": 2, \"head_dim\": 8, {rest}, \"rope_factor\": 0}}"));

    let two = r#"{"metadata": {"total_size": 1},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    put("index_json", "two", two);
    put("index_json", "outside", r#"{"weight_map": {"a": "../a.safetensors", "\u0062": "/b.safetensors"}}"#);
}

fn declaration(name: &str, format: Format, shape: &[usize]) -> Declaration {
    Declaration { name: name.to_owned(), format, shape: shape.to_vec() }
}

fn weights() {
    let tensors = [Saved::bf16("norm.weight", &[2], &[1.0; 2]), Saved::bf16("output.weight", &[3, 2], &[0.5; 6])];
    let mut fp8 = Saved::bf16("layers.1.feed_forward.w1.weight", &[1, 2], &[1.0; 2]);
    fp8.storage = "torch.storage UntypedStorage";
    fp8.bytes.truncate(2);
    let all = [&tensors[..], &[fp8]].concat();
    put("pickle", "two", pickle(&tensors));
    put("pickle", "fp8", pickle(&all));
    put("pickle", "none", b"\x80\x02}.");
    put("pickle", "code", b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.");
    put("pth", "two", pth(&tensors));
    put("pth", "fp8", pth(&all));
    put("pth", "empty", zip(&[]));

    let declared = [declaration("a", Format::F32, &[2, 1]), declaration("b", Format::BF16, &[3])];
    let mut writer = safetensors::Writer::create(&seed("safetensors", "two"), &declared).expect("valid declarations");
    writer.append(&[0; 8]).expect("eight bytes were declared");
    writer.append(&[0; 6]).expect("six bytes were declared");
    writer.finish().expect("everything was appended");
    for (name, header, n_bytes) in [
        ("escapes", r#"{"\u0061":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, 2),
        ("metadata", r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]}}"#, 1),
        ("none", "{}", 0),
    ] {
        put("safetensors", name, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; n_bytes]].concat());
    }

    for (name, scaling, format) in [
        ("plain", RopeScaling::None, Format::F16),
        ("linear", RopeScaling::Linear { factor: 2.0 }, Format::BF16),
        ("factors", RopeScaling::Factors([1.0].into()), Format::F32),
    ] {
        let config = Config {
            dim: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            ffn_dim: 2,
            vocab_size: 4,
            context_length: 16,
            norm_eps: 1e-5,
            rope: Rope { theta: 10_000.0, scaling, pairing: RopePairing::Interleaved },
            tied_embeddings: name == "linear",
        };
        let mut vocabulary = vocabulary();
        vocabulary.tokens.truncate(4);
        vocabulary.token_types.truncate(4);
        let mut tensors: Vec<(Declaration, Vec<u8>)> = config
            .required()
            .map(|name| {
                let (rows, cols) = config.shape(name);
                let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
                (declaration(&name.gguf(), format, &shape), encode(format, &vec![1.0; rows * cols]))
            })
            .collect();
        if name == "factors" {
            tensors.push((declaration("rope_freqs.weight", Format::F32, &[1]), encode(Format::F32, &[1.0])));
        }
        let path = seed("gguf", name);
        material::write_gguf(&path, &gguf::metadata(name, &config, &vocabulary, Some("t")), &tensors);
        let file = fs::read(&path).expect("it was just written");
        assert!(file.len() <= MAX_BYTES);
        fuzzing::gguf(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn adapters() {
    let base = puna_fuzz::base();
    let layer = |layer, tensor| Name::Layer { layer, tensor };
    let all = |tensor| vec![layer(0, tensor), layer(1, tensor)];
    for (name, rank_stabilized, ranks, matrices) in [
        ("queries", false, 1, all(LayerTensor::Query)),
        ("stabilized", true, 2, all(LayerTensor::Key)),
        ("output", false, 1, vec![Name::Output, layer(1, LayerTensor::Down)]),
    ] {
        let matrices = matrices
            .into_iter()
            .enumerate()
            .map(|(i, name)| {
                let ((rows, cols), rank) = (base.shape(name), 1 + i % ranks);
                (name, LowRank { rank, alpha: 2.0 + i as f32, a: vec![0.5; rank * cols], b: vec![0.25; rows * rank] })
            })
            .collect();
        let recorded = name == "output";
        let digest = Digest::of(b"seed");
        let identity = || BaseIdentity { sizes: "s".into(), formats: "BF16".into(), norms: digest, values: digest };
        let settings = Settings {
            rank_stabilized,
            base_name: Some("base".into()),
            base: recorded.then(identity),
            chat_template: recorded.then_some(digest),
            ..Settings::default()
        };
        let adapter = Adapter { settings, pairing: base.rope.pairing, matrices };

        let path = seed("adapter_gguf", name);
        adapter::write_gguf(&adapter, &path, &base).expect("it fits the base");
        let file = fs::read(&path).expect("it was just written");
        put("adapter_gguf", name, &file);
        fuzzing::gguf_adapter(&file).unwrap_or_else(|error| panic!("{error}"));

        let dir = seed("adapter_peft", &format!("{name}.parts"));
        adapter::write_peft(&adapter, &dir, &base).expect("it fits the base");
        let part = |name: &str| fs::read(dir.join(name)).expect("it was just written");
        let (config, weights) = (part("adapter_config.json"), part("adapter_model.safetensors"));
        fs::remove_dir_all(&dir).expect("it was just made");
        put("adapter_peft", name, [&config, &b"\0"[..], &weights].concat());
        fuzzing::peft_adapter(&config, &weights).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn vocabularies() {
    put("tiktoken", "words", "YWI= 256\nYWJj 257\nIGFi 258\n8J+Z 259\n");
    put("tiktoken", "spaces", "ICA= 257\r\n\r\n  ICAg  256 \n");

    let split = r#"{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false}"#;
    let llama3 = format!(
        r#"{{"added_tokens":[{{"id":258,"content":"<|eot_id|>","special":true}},{{"id":259,"content":" x","normalized":false}}],
"pre_tokenizer":{{"type":"Sequence","pretokenizers":[{split},{{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}}]}},
"model":{{"type":"BPE","ignore_merges":true,"vocab":{{"BYTES":0,"ab":256,"Ġab":257}},"merges":["a b","Ġ ab"]}}}}"#
    );
    put("tokenizer_json", "llama3", &llama3);
    put(
        "tokenizer_json",
        "pairs",
        llama3.replace(r#""a b","Ġ ab""#, r#"["a","b"],["Ġ","ab"]"#).replace("true", "false"),
    );
    let llama2 = r#"{"added_tokens":[{"id":259,"content":"</s>","special":true},{"id":260,"content":"x y"}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},
"model":{"byte_fallback":true,"vocab":{"<BYTES>":0,"▁":256,"a":257,"▁a":258},"merges":["▁ a"]}}"#;
    put("tokenizer_json", "llama2", llama2);
    for scheme in ["always", "first", "never"] {
        let pre = format!(
            r#""pre_tokenizer":{{"type":"Metaspace","replacement":"▁","prepend_scheme":"{scheme}","split":false}},"#
        );
        let start = llama2.find("\"normalizer\"").expect("it is there");
        let end = llama2.find("\"model\"").expect("it is there");
        put("tokenizer_json", scheme, [&llama2[..start], &pre, &llama2[end..]].concat());
    }

    put("gguf_vocabulary", "llama3", "abe\n30<s>\n30</s>\n10ab\n10abc\n10Ġab\n40 x\n50unused\n\na b\nab c\nĠ ab");
    put("gguf_vocabulary", "smaug", "bm\n30<s>\n10aa\n10aaaa\n\na a\naa aa");
    put("gguf_vocabulary", "llama2", "sabe\n20<unk>\n30<s>\n30</s>\n11▁\n12a\n13▁a\n12b\n11ab\n10▁ab\n10a▁b\n40x\n10é");
    put("gguf_vocabulary", "no_prefix", "sp\n10▁\n11a\n12aa\n11▁▁");
}

fn texts() {
    put("encode", "english", "I'm sure he'd say: 'WE'RE 1234567 of 99%'.\r\n\r\n\tabc  ab   \n");
    put("encode", "unicode", "Việt 你好，世界 é e\u{301} 🦙🏽 \u{1F600}x Ⅷ½ \u{85}\u{2028}\u{a0}ſ 'ſ ▁a▁");
    put("encode", "specials", "<|begin_of_text|><|eot_id|></s><s><|<|>");
    put("encode", "bytes", b"\xf0\x9f a\xff\xc3 \xed\xa0\x80 ab\xe2\x96");
    put("stream", "llama", [0, 0xF0, 0, 0x9F, 0, 0xA6, 0, 0x99, 1, 4, 0, 0xC3, 1, 20, 0, 0xA9, 1, 43, 1, 1]);
    put("stream", "ends_early", [0, 0xC3, 0, 0x41, 0, 0xFF, 0, 0xF0, 0, 0x9F]);

    put("tool_calls", "builtin", r#"brave_search.call(query="say "hi", or not", n="3")"#);
    put("tool_calls", "tag", r#"<|python_tag|>wolfram_alpha.call(query="x")"#);
    put(
        "tool_calls",
        "json",
        r#"{"name": "f", "parameters": {"a": [1, {"b": null}]}}; {"type": "function", "function": {"name": "g", "arguments": "{\"x\": 1}"}}"#,
    );
    put("tool_calls", "list", r#"[{"name": "f", "parameters": {}}, {"name": "g", "arguments": null}]"#);
    put("tool_calls", "function", r#"First: <function=f>{"a": "b"}</function> then <function="g">{} "#);
    put("tool_calls", "prose", "It is 3.0 (or \"4\"), not [5].");
}

fn conversations() {
    put(
        "conversation",
        "plain",
        r#"{"messages": [{"role": "system", "content": " s "}, {"role": "user", "content": "<|eot_id|>"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": null}]}"#,
    );
    put(
        "conversation",
        "parts",
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "date_string": "1 May 2025", "add_generation_prompt": false}"#,
    );
    put(
        "conversation",
        "calls",
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1.5}"}}]}, {"role": "ipython", "content": {"r": [true, null]}, "tool_call_id": "1"}], "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "number", "default": 1}}, "required": ["a"]}}}]}"#,
    );
    put(
        "conversation",
        "tags",
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}], "tools": [{"name": "f", "parameters": {}}], "tool_style": "function_tag", "tools_in_user_message": false}"#,
    );
    put(
        "conversation",
        "builtin",
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": {"name": "brave_search", "arguments": {"query": "x"}}}], "end_of_message": true}, {"role": "tool", "content": "t"}], "builtin_tools": ["brave_search", "code_interpreter"]}"#,
    );
}

/// The first byte chooses what the rest is, and the tokens.
fn grammars() {
    let person = r##"{"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "pattern": "^b"}, "c": {"enum": [1, "x"]}, "d": {"type": "array", "items": {"$ref": "#/$defs/e"}, "maxItems": 3}}, "required": ["a"], "additionalProperties": false, "$defs": {"e": {"type": ["integer", "null"], "minimum": -3, "maximum": 40}}}"##;
    let merged = r##"{"allOf": [{"anyOf": [{"type": "object", "patternProperties": {"^x": {"type": "number", "multipleOf": 0.5}}}, {"const": [true]}]}, {"minProperties": 1}], "oneOf": [{"type": "object"}, {"type": "array", "prefixItems": [{}]}]}"##;
    let tree = r##"{"type": "object", "properties": {"n": {"type": "string", "format": "date"}, "t": {"$ref": "#"}}, "required": ["n"]}"##;
    let lark = "start: sum (\";\" sum)*\n%ignore / /\nsum: term (\"+\" term)~1..3\nterm: NUMBER | \"(\" sum \")\" | @json\nNUMBER: /[0-9]+/ & ~/.*7.*/\n";
    let nested = "start[max_tokens=9]: a{2,3} %json {\"type\": \"null\"} <|eot_id|>\na: \"x\"i | [\"a\"..\"f\"] | %regex {\"substring_words\": \"a b\"}\n";
    let tools = r#"{"messages": [], "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}, {"name": "g"}], "builtin_tools": ["brave_search", "code_interpreter"], "tool_style": "function_tag"}"#;
    let seeds: [(&str, u8, &str); 9] = [
        ("person", 0, person),
        ("merged", 10, merged),
        ("tree", 25, tree),
        ("regex", 1, r"(?i)[a-c]{2,5}(\d+|\w*?é)\.\n?"),
        ("repeated", 11, "((a|b){0,100}){3,}c"),
        ("lark", 2, lark),
        ("nested", 12, nested),
        ("choice", 3, "ab\nabc\n\"é"),
        ("tools", 4, tools),
    ];
    for (name, kind, text) in seeds {
        put("grammar", name, [&[kind], text.as_bytes()].concat());
    }
}

/// The first byte chooses the format, the dialect, what is trained, and the container.
fn rows() {
    let [user, answer] =
        [r#"{"role": "user", "content": "u"}"#, r#"{"role": "assistant", "content": "a", "weight": 1}"#];
    let seeds: [(&str, u8, String); 9] = [
        ("chat", 7, format!(r#"{{"messages": [{user}, {answer}], "tools": [{{"name": "f"}}], "id": 1}}"#)),
        ("array", 128 + 5, format!(r#"[{{"messages": [{user}, {answer}]}}, {{"messages": [{answer}]}}]"#)),
        ("sharegpt", 8, r#"{"conversations": [{"from": "human", "value": "u"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}]}"#.to_owned()),
        ("alpaca", 9, r#"{"instruction": "i", "input": "n", "output": "o", "history": [["q", "a"]]}"#.to_owned()),
        ("completion", 10, "{\"prompt\": \"p\", \"completion\": \"c\"}\n\n{\"prompt\": []}".to_owned()),
        ("completion_chat", 32 + 6, format!(r#"{{"prompt": [{user}], "completion": [{answer}]}}"#)),
        ("preference", 11, r#"{"chosen": "a b", "rejected": "a c"}"#.to_owned()),
        ("openai", 12, format!(r#"{{"input": {{"messages": [{user}]}}, "preferred_output": [{answer}], "non_preferred_output": [{{"role": "assistant", "content": "b"}}]}}"#)),
        ("text", 20, format!(r#"{{"text": "{}"}}"#, "ab <|eot_id|> ".repeat(20))),
    ];
    for (name, choice, text) in seeds {
        put("rows", name, [&[choice], text.as_bytes()].concat());
    }
}

fn parquet() {
    // A conversation of two turns and one without any, levels first: where a list begins, and what is not null.
    let levels = [runs(&[(1, 0), (1, 1), (1, 0)]), runs(&[(2, 2), (1, 0)])];
    let level_lens = levels.each_ref().map(Vec::len);
    let bytes =
        |texts: &[&str]| texts.iter().flat_map(|text| [&le(text.len())[..], text.as_bytes()].concat()).collect();
    let [roles, contents]: [Vec<u8>; 2] = [bytes(&["user", "assistant"]), bytes(&["u", "a"])];
    let with_levels = |values: &[u8]| {
        let [repetitions, definitions] = &levels;
        [&le(repetitions.len())[..], repetitions, &le(definitions.len()), definitions, values].concat()
    };
    let values_header = |encoding| structure(5 - 3, &[int(1, 3), int(1, encoding), int(1, 3), int(1, 3)]);
    let plain = |values: &[u8]| page(0, with_levels(values), 0, values_header(0));
    put("parquet", "plain", parquet_file(0, [plain(&roles), plain(&contents)], false));

    // Places of one bit in a dictionary; a copy of nothing but one literal is Snappy too.
    let snappy = |bytes: &[u8]| [&[bytes.len() as u8, (bytes.len() as u8 - 1) << 2][..], bytes].concat();
    let dictionary = |values: &[u8]| page(2, snappy(values), values.len(), structure(7 - 3, &[int(1, 2), int(1, 0)]));
    let places = [vec![1], vec![3, 0b10]].concat();
    let second = || {
        let [repetitions, definitions] = level_lens.map(|len| len as i64);
        let header = [int(1, 3), int(1, 1), int(1, 2), int(1, 8), int(1, definitions), int(1, repetitions)];
        let body = [levels.concat(), snappy(&places)].concat();
        page(3, body, levels.concat().len() + places.len(), structure(8 - 3, &header))
    };
    let columns = [roles, contents].map(|values| [dictionary(&values), second()].concat());
    put("parquet", "dictionary", parquet_file(1, columns, true));
}

/// A file of conversations: two columns of two rows.
fn parquet_file(codec: i64, columns: [Vec<u8>; 2], is_dictionary: bool) -> Vec<u8> {
    let mut file = b"PAR1".to_vec();
    let chunks = columns.map(|column| {
        let (start, len) = (file.len() as i64, column.len() as i64);
        file.extend(column);
        let mut metadata = vec![int(1, 6), int(4 - 1, codec), int(1, 3), int(1, len), int(1, len), int(2, start)];
        metadata.extend(is_dictionary.then(|| int(2, start)));
        [int(2, 0), structure(1, &metadata)].concat()
    });
    // Type, repetition, name, children, meaning.
    let group = |repetition, name: &str, n, meaning: Option<i64>| {
        let meaning = meaning.map(|meaning| int(1, meaning));
        [int(3, repetition), binary(1, name), int(1, n), meaning.unwrap_or_default()].concat()
    };
    let text = |name| [int(1, 6), int(2, 1), binary(1, name), int(2, 0)].concat();
    let schema = [
        group(0, "rows", 1, None),
        group(0, "messages", 1, Some(3)),
        group(2, "list", 1, None),
        group(0, "element", 2, None),
        text("role"),
        text("content"),
    ];
    let row_group = [list(1, &chunks), int(1, 0), int(1, 2)].concat();
    let mut footer = [int(1, 2), list(1, &schema), int(1, 2), list(1, &[row_group])].concat();
    footer.push(0);
    [file, footer.clone(), le(footer.len()).to_vec(), b"PAR1".to_vec()].concat()
}

/// A page of a kind, of so many bytes when unpacked (0: as many as there are).
fn page(kind: i64, body: Vec<u8>, len: usize, header: Vec<u8>) -> Vec<u8> {
    let len = if len == 0 { body.len() } else { len };
    [int(1, kind), int(1, len as i64), int(1, body.len() as i64), header, vec![0], body].concat()
}

/// Runs of equal levels of at most 8 bits.
fn runs(runs: &[(u8, u8)]) -> Vec<u8> {
    runs.iter().flat_map(|&(n, level)| [n << 1, level]).collect()
}

fn le(len: usize) -> [u8; 4] {
    (len as u32).to_le_bytes()
}

/// Fields in Thrift's compact protocol, each so much behind the one before.
fn int(delta: u8, int: i64) -> Vec<u8> {
    let mut rest = ((int << 1) ^ (int >> 63)) as u64;
    let mut bytes = vec![delta << 4 | 6];
    while rest > 0x7F {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn binary(delta: u8, text: &str) -> Vec<u8> {
    [&[delta << 4 | 8, text.len() as u8][..], text.as_bytes()].concat()
}

fn structure(delta: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![delta << 4 | 12], fields.concat(), vec![0]].concat()
}

/// Of structures, at most 14.
fn list(delta: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let head = vec![delta << 4 | 9, (items.len() as u8) << 4 | 12];
    let items = items.iter().flat_map(|item| [&item[..], &[0]].concat());
    head.into_iter().chain(items).collect()
}

fn templates() {
    put(
        "template",
        "chatml",
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message.content | trim }}{% endfor %}{% if add_generation_prompt %}<s>{% endif %}\x0026 Jul 2024\0hi\0f\0r",
    );
    put(
        "template",
        "tools",
        "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ messages[1].tool_calls[0].function.arguments | tojson }}{{ messages | length }}\x005 Jun 2031\0a\0b",
    );
    put(
        "template",
        "methods",
        "{%- generation -%}{{ messages[0].content.split('|')[-1].strip().replace('a', 'b').upper() }}{{ ','.join(['a', 'b']) }}{%- endgeneration %}{{ 'x'.startswith(('x', 'y')) }}\0\0 <|eot_id|> ",
    );
    put(
        "template",
        "date",
        "{{ strftime_now('%d %B %Y') }}{{ date_string }}{{ raise_exception('no ' ~ messages[0].role) }}\x0029 Feb 2000\0",
    );
    put(
        "template",
        "set",
        "{% set s = messages[0]['content'][1:4] %}{% set d = {'a': s} %}{{ d.a }}{{ range(3) | list }}{{ d | tojson(sort_keys=true, separators=(',', ':')) }}\0<s>\0<s><|<|\u{F0000}",
    );
    put(
        "template",
        "llama31",
        "<|start_header_id|>Cutting Knowledge Date{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}\0\0a",
    );
}
