//! Small models in every published form, made in code: the same values, so that forms can be compared.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests may unwrap")]

use puna_checkpoint::{
    Config, GgufVocabulary, LayerTensor, Name, Rope, RopePairing, RopeScaling,
    adapter::{Adapter, LowRank, Settings},
    gguf::{self, MetadataValue},
    safetensors::{self, Declaration},
};
use puna_format::Format;
use std::{fs, path::Path};

/// Tensors to write, with their data.
pub type Tensors = Vec<(Declaration, Vec<u8>)>;
/// Metadata to write.
pub type Pairs = Vec<(String, MetadataValue)>;
/// Names and contents of zip members.
pub type Members = Vec<(String, Vec<u8>)>;

pub const DIM: usize = 32;
pub const VOCAB: usize = 40;

pub fn config() -> Config {
    Config {
        dim: DIM,
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        ffn_dim: 96,
        vocab_size: VOCAB,
        context_length: 131_072,
        norm_eps: 1e-5,
        rope: Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
            pairing: RopePairing::Halves,
        },
        tied_embeddings: false,
    }
}

/// The values of a tensor: small whole numbers over 64, exact in every float format.
pub fn values(name: Name) -> Vec<f32> {
    let (rows, cols) = config().shape(name);
    let salt = Name::all(3).position(|n| n == name).unwrap() as u32;
    (0..(rows * cols) as u32).map(|i| ((i * 37 + salt * 101) % 97) as f32 / 64.0 - 0.75).collect()
}

pub fn encode(format: Format, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
    format.encode(values, &mut bytes);
    bytes
}

pub fn names() -> Vec<Name> {
    config().required().collect()
}

fn shape(name: Name) -> Vec<usize> {
    match config().shape(name) {
        (1, n) => vec![n],
        (rows, cols) => vec![rows, cols],
    }
}

// Hugging Face.

pub const CONFIG_JSON: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05,
  "rope_theta": 500000.0, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
  "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "bos_token_id": 1, "eos_token_id": [2, 3], "torch_dtype": "bfloat16", "transformers_version": "5.0.0"
}"#;

pub fn safetensors(path: &Path, format: Format, names: &[Name]) {
    let declarations: Vec<Declaration> =
        names.iter().map(|&name| Declaration { name: name.hugging_face(), format, shape: shape(name) }).collect();
    let mut writer = safetensors::Writer::create(path, &declarations).unwrap();
    names.iter().for_each(|&name| writer.append(&encode(format, &values(name))).unwrap());
    writer.finish().unwrap();
}

pub fn hugging_face(dir: &Path, format: Format) {
    fs::write(dir.join("config.json"), CONFIG_JSON).unwrap();
    fs::write(dir.join("tokenizer.json"), "{}").unwrap();
    safetensors(&dir.join("model.safetensors"), format, &names());
}

pub fn hugging_face_sharded(dir: &Path, n: usize) {
    fs::write(dir.join("config.json"), CONFIG_JSON).unwrap();
    let names = names();
    let mut map = serde_json::Map::new();
    for (i, names) in names.chunks(names.len().div_ceil(n)).enumerate() {
        let file = format!("model-{:05}-of-{n:05}.safetensors", i + 1);
        safetensors(&dir.join(&file), Format::BF16, names);
        map.extend(names.iter().map(|name| (name.hugging_face(), file.clone().into())));
    }
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

pub fn is_fp8(name: Name) -> bool {
    use LayerTensor::{Down, Gate, Up};
    matches!(name, Name::Layer { layer: 1, tensor: Gate | Up | Down })
}

/// Scale of a row.
pub fn scale(row: usize) -> f32 {
    0.25 * (1 + row % 5) as f32
}

pub fn hugging_face_fp8(dir: &Path) {
    let config = CONFIG_JSON.replacen(
        '{',
        r#"{"quantization_config": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0},"#,
        1,
    );
    fs::write(dir.join("config.json"), config).unwrap();
    let mut tensors = Vec::new();
    for name in names() {
        let format = if is_fp8(name) { Format::F8E4M3 } else { Format::BF16 };
        let declaration = Declaration { name: name.hugging_face(), format, shape: shape(name) };
        tensors.push((declaration, encode(format, &values(name))));
        if is_fp8(name) {
            let rows = self::config().shape(name).0;
            let name = format!("{}_scale", name.hugging_face());
            let scales: Vec<f32> = (0..rows).map(scale).collect();
            let declaration = Declaration { name, format: Format::F32, shape: vec![rows, 1] };
            tensors.push((declaration, encode(Format::F32, &scales)));
        }
    }
    tensors.sort_by_key(|(declaration, _)| std::cmp::Reverse(declaration.format.info().block_bytes));
    let declarations: Vec<Declaration> = tensors.iter().map(|(d, _)| d.clone()).collect();
    let mut writer = safetensors::Writer::create(&dir.join("model.safetensors"), &declarations).unwrap();
    tensors.iter().for_each(|(_, bytes)| writer.append(bytes).unwrap());
    writer.finish().unwrap();
}

// GGUF.

pub fn vocabulary() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: (0..VOCAB).map(|i| format!("t{i}")).collect(),
        token_types: vec![1; VOCAB],
        scores: Vec::new(),
        merges: vec!["t 1".into(), "t 2".into()],
        bos: Some(1),
        eos: Some(2),
        add_bos: Some(true),
        add_space_prefix: None,
    }
}

pub fn gguf_parts(format: Format) -> (Pairs, Tensors) {
    let metadata = gguf::metadata("tiny", &config(), &vocabulary(), Some("{{ template }}"));
    let mut tensors: Tensors = names()
        .into_iter()
        .map(|name| {
            let format = if name.is_norm() { Format::F32 } else { format };
            let declaration = Declaration { name: name.gguf(), format, shape: shape(name) };
            (declaration, encode(format, &values(name)))
        })
        .collect();
    let factors = config().rope.divisors(8);
    let declaration = Declaration { name: "rope_freqs.weight".into(), format: Format::F32, shape: vec![4] };
    tensors.push((declaration, encode(Format::F32, &factors)));
    (metadata, tensors)
}

pub fn write_gguf(path: &Path, metadata: &[(String, MetadataValue)], tensors: &[(Declaration, Vec<u8>)]) {
    let declarations: Vec<Declaration> = tensors.iter().map(|(d, _)| d.clone()).collect();
    let mut writer = gguf::Writer::create(path, metadata, &declarations).unwrap();
    tensors.iter().for_each(|(_, bytes)| writer.append(bytes).unwrap());
    writer.finish().unwrap();
}

pub fn gguf(path: &Path, format: Format) {
    let (metadata, tensors) = gguf_parts(format);
    write_gguf(path, &metadata, &tensors);
}

/// `NAME-00001-of-0000N.gguf` and so on.
pub fn gguf_split(dir: &Path, n: usize) {
    let (metadata, tensors) = gguf_parts(Format::F16);
    let split = |i: usize| {
        [("split.no", i), ("split.count", n), ("split.tensors.count", tensors.len())]
            .map(|(key, n)| (key.to_owned(), MetadataValue::U32(n as u32)))
    };
    for (i, tensors) in tensors.chunks(tensors.len().div_ceil(n)).enumerate() {
        let mut all = if i == 0 { metadata.clone() } else { Vec::new() };
        all.extend(split(i));
        write_gguf(&dir.join(format!("tiny-{:05}-of-{n:05}.gguf", i + 1)), &all, tensors);
    }
}

// Meta.

pub const PARAMS_JSON: &str = r#"{"dim": 32, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 40,
  "ffn_dim_multiplier": 1.1, "multiple_of": 32, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true}"#;

/// A tensor of a shard.
#[derive(Clone)]
pub struct Saved {
    pub key: String,
    pub storage: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Saved {
    pub fn bf16(key: &str, shape: &[usize], values: &[f32]) -> Saved {
        let bytes = encode(Format::BF16, values);
        Saved { key: key.into(), storage: "torch BFloat16Storage", shape: shape.to_vec(), bytes }
    }

    fn element(&self) -> usize {
        if self.storage.contains("16") {
            2
        } else if self.storage.contains("Untyped") || self.storage.contains("8") {
            1
        } else {
            4
        }
    }
}

/// The pickle of a dictionary of tensors, as `torch.save` makes it.
pub fn pickle(tensors: &[Saved]) -> Vec<u8> {
    let mut p = Pickle { out: vec![0x80, 2, b'}'], memo: 0 };
    p.put();
    p.out.push(b'(');
    for (i, tensor) in tensors.iter().enumerate() {
        p.string(&tensor.key);
        let untyped = tensor.storage.contains("Untyped");
        p.global(&format!("torch._utils _rebuild_tensor_v{}", if untyped { 3 } else { 2 }));
        p.out.extend(b"((");
        p.string("storage");
        p.global(tensor.storage);
        p.string(&i.to_string());
        p.string("cpu");
        p.int(tensor.bytes.len() / tensor.element());
        p.out.push(b't');
        p.put();
        p.out.push(b'Q');
        p.int(0);
        let strides: Vec<usize> = (0..tensor.shape.len()).map(|d| tensor.shape[d + 1..].iter().product()).collect();
        for numbers in [&tensor.shape, &strides] {
            numbers.iter().for_each(|&n| p.int(n));
            p.out.push([b')', 0x85, 0x86][numbers.len()]);
            p.put();
        }
        p.out.push(0x89);
        p.global("collections OrderedDict");
        p.out.extend(b")R");
        p.put();
        if untyped {
            p.global("torch float8_e4m3fn");
        }
        p.out.push(b't');
        p.put();
        p.out.push(b'R');
        p.put();
    }
    p.out.extend(b"u.");
    p.out
}

struct Pickle {
    out: Vec<u8>,
    memo: usize,
}

impl Pickle {
    fn put(&mut self) {
        if self.memo < 256 {
            self.out.extend([b'q', self.memo as u8]);
        } else {
            self.out.push(b'r');
            self.out.extend((self.memo as u32).to_le_bytes());
        }
        self.memo += 1;
    }

    fn string(&mut self, s: &str) {
        self.out.push(b'X');
        self.out.extend((s.len() as u32).to_le_bytes());
        self.out.extend(s.as_bytes());
        self.put();
    }

    fn global(&mut self, name: &str) {
        self.out.push(b'c');
        self.out.extend(name.replace(' ', "\n").as_bytes());
        self.out.push(b'\n');
        self.put();
    }

    fn int(&mut self, n: usize) {
        match n {
            0..256 => self.out.extend([b'K', n as u8]),
            256..65_536 => {
                self.out.push(b'M');
                self.out.extend((n as u16).to_le_bytes());
            }
            _ => {
                self.out.push(b'J');
                self.out.extend((n as u32).to_le_bytes());
            }
        }
    }
}

/// A stored zip as PyTorch writes it: data aligned to 64 by a padding field, sizes in a descriptor after the data, both
/// kinds of end record.
pub fn zip(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut central = Vec::new();
    for (name, bytes) in members {
        let header = out.len();
        let crc = puna_checkpoint::pth::crc32(bytes);
        let unpadded = header + 30 + name.len() + 4;
        let padding = unpadded.next_multiple_of(64) - unpadded;
        out.extend(b"PK\x03\x04\0\0\x08\x08");
        out.extend([0; 18]);
        out.extend((name.len() as u16).to_le_bytes());
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(bytes);
        out.extend(b"PK\x07\x08");
        [crc, bytes.len() as u32, bytes.len() as u32].iter().for_each(|n| out.extend(n.to_le_bytes()));

        central.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
        central.extend([0; 6]);
        [crc, bytes.len() as u32, bytes.len() as u32].iter().for_each(|n| central.extend(n.to_le_bytes()));
        central.extend((name.len() as u16).to_le_bytes());
        central.extend([0; 12]);
        central.extend((header as u32).to_le_bytes());
        central.extend(name.as_bytes());
    }
    let (start, size, n) = (out.len() as u64, central.len() as u64, members.len() as u64);
    out.extend(central);
    let record = out.len() as u64;
    out.extend(b"PK\x06\x06");
    out.extend(44u64.to_le_bytes());
    out.extend([0x1e, 3, 0x2d, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    [n, n, size, start].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(b"PK\x06\x07\0\0\0\0");
    out.extend(record.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(b"PK\x05\x06\0\0\0\0");
    [n as u16, n as u16].iter().for_each(|n| out.extend(n.to_le_bytes()));
    [size as u32, start as u32].iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend([0, 0]);
    out
}

pub fn pth_members(tensors: &[Saved]) -> Members {
    let mut members =
        vec![("shard/data.pkl".to_owned(), pickle(tensors)), ("shard/byteorder".into(), b"little".into())];
    members.extend(tensors.iter().enumerate().map(|(i, t)| (format!("shard/data/{i}"), t.bytes.clone())));
    members.push(("shard/version".into(), b"3\n".into()));
    members
}

pub fn pth(tensors: &[Saved]) -> Vec<u8> {
    zip(&pth_members(tensors))
}

/// One rank's piece of a tensor: rows or columns `i` of `n`.
fn band(name: Name, by_rows: bool, i: usize, n: usize) -> (Vec<usize>, Vec<f32>) {
    let (rows, cols) = config().shape(name);
    let all = values(name);
    if by_rows {
        let rows = rows / n;
        (vec![rows, cols], all[i * rows * cols..(i + 1) * rows * cols].to_vec())
    } else {
        let width = cols / n;
        (vec![rows, width], all.chunks(cols).flat_map(|row| row[i * width..(i + 1) * width].to_vec()).collect())
    }
}

/// What one rank of `mp` holds. `llama2`: embedding split by columns.
pub fn rank(rank: usize, mp: usize, llama2: bool) -> Vec<Saved> {
    use LayerTensor::{AttentionOutput, Down, Key, Value};
    let config = config();
    names()
        .into_iter()
        .map(|name| {
            let (shape, values) = match name {
                _ if name.is_norm() => (vec![DIM], values(name)),
                Name::TokenEmbedding => band(name, !llama2, rank, mp),
                Name::Layer { tensor: AttentionOutput | Down, .. } => band(name, false, rank, mp),
                // More ranks than heads: several hold the same.
                Name::Layer { tensor: Key | Value, .. } if mp > config.n_kv_heads => {
                    band(name, true, rank * config.n_kv_heads / mp, config.n_kv_heads)
                }
                _ => band(name, true, rank, mp),
            };
            Saved::bf16(&name.meta(), &shape, &values)
        })
        .collect()
}

pub fn meta(dir: &Path, mp: usize, llama2: bool) {
    fs::write(dir.join("params.json"), PARAMS_JSON).unwrap();
    fs::write(dir.join("tokenizer.model"), "").unwrap();
    for i in 0..mp {
        fs::write(dir.join(format!("consolidated.{i:02}.pth")), pth(&rank(i, mp, llama2))).unwrap();
    }
}

/// Meta's FP8 form, two ranks; `w2` is split by columns, and each rank has scales of its own.
pub fn meta_fp8(dir: &Path) {
    fs::write(dir.join("params.json"), PARAMS_JSON).unwrap();
    for i in 0..2 {
        let mut scales = Vec::new();
        let mut tensors = rank(i, 2, false);
        for tensor in &mut tensors {
            let name = Name::from_meta(&tensor.key).unwrap();
            if !is_fp8(name) {
                continue;
            }
            let mut values = vec![0.0; tensor.bytes.len() / 2];
            Format::BF16.decode(&tensor.bytes, &mut values);
            tensor.bytes = encode(Format::F8E4M3, &values);
            tensor.storage = "torch.storage UntypedStorage";
            let matrix = tensor.key.trim_start_matches("layers.1.").trim_end_matches(".weight");
            let by_row: Vec<f32> = (0..tensor.shape[0]).map(|row| scale(row) * (i + 1) as f32).collect();
            scales.push(Saved {
                key: format!("1_{matrix}_{i}"),
                storage: "torch FloatStorage",
                shape: vec![tensor.shape[0]],
                bytes: encode(Format::F32, &by_row),
            });
        }
        fs::write(dir.join(format!("consolidated.{i:02}.pth")), pth(&tensors)).unwrap();
        fs::write(dir.join(format!("fp8_scales_{i}.pt")), pth(&scales)).unwrap();
    }
}

// Adapters.

/// Every matrix of [`config`] that an adapter may change: seven a layer, and the output.
pub fn adaptable() -> Vec<Name> {
    names().into_iter().filter(|&name| !name.is_norm() && name != Name::TokenEmbedding).collect()
}

/// Numbers between -1 and 1 of all 24 bits, by a multiplicative generator modulo 2³¹ − 1.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed % 0x7fff_fffe + 1;
    move || {
        state = state * 48_271 % 0x7fff_ffff;
        (state >> 7) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Low-rank matrices for these tensors, each with its rank and alpha.
pub fn adapter_of(matrices: &[(Name, usize, f32)], pairing: RopePairing, seed: u64) -> Adapter {
    let mut next = noise(seed);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| next()).collect() };
    let matrices = matrices
        .iter()
        .map(|&(name, rank, alpha)| {
            let (rows, cols) = config().shape(name);
            (name, LowRank { rank, alpha, a: values(rank * cols), b: values(rows * rank) })
        })
        .collect();
    Adapter { settings: Settings::default(), pairing, matrices }
}

/// All matrices, rank 4, alpha 8, as Hugging Face orders rows.
pub fn adapter() -> Adapter {
    let matrices: Vec<_> = adaptable().into_iter().map(|name| (name, 4, 8.0)).collect();
    adapter_of(&matrices, RopePairing::Halves, 7)
}

pub const ADAPTER_JSON: &str = r#"{
  "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": "tiny", "bias": "none", "corda_config": null,
  "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
  "init_lora_weights": true, "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
  "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.05, "megatron_config": null,
  "megatron_core": "megatron.core", "modules_to_save": null, "peft_type": "LORA", "peft_version": "0.21.2",
  "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": null,
  "target_modules": ["gate_proj", "k_proj", "v_proj", "up_proj", "o_proj", "q_proj", "down_proj", "lm_head"],
  "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_dora": false,
  "use_qalora": false, "use_rslora": false
}"#;

/// What PEFT calls one factor of a matrix.
pub fn peft_name(name: Name, side: &str) -> String {
    format!("base_model.model.{}.lora_{side}.weight", name.hugging_face().trim_end_matches(".weight"))
}

/// The tensors of an adapter, called and shaped as the two functions say, rows as they are.
fn factors(adapter: &Adapter, format: Format, called: &dyn Fn(Name, bool) -> String) -> Tensors {
    let mut tensors = Tensors::new();
    for (&name, LowRank { rank, a, b, .. }) in &adapter.matrices {
        let (rows, cols) = config().shape(name);
        for (is_b, shape, values) in [(false, vec![*rank, cols], a), (true, vec![rows, *rank], b)] {
            tensors.push((Declaration { name: called(name, is_b), format, shape }, encode(format, values)));
        }
    }
    tensors
}

pub fn peft_tensors(adapter: &Adapter, format: Format) -> Tensors {
    factors(adapter, format, &|name, is_b| peft_name(name, if is_b { "B" } else { "A" }))
}

pub fn write_safetensors(path: &Path, tensors: &Tensors) {
    let declarations: Vec<Declaration> = tensors.iter().map(|(d, _)| d.clone()).collect();
    let mut writer = safetensors::Writer::create(path, &declarations).unwrap();
    tensors.iter().for_each(|(_, bytes)| writer.append(bytes).unwrap());
    writer.finish().unwrap();
}

pub fn peft(dir: &Path, adapter: &Adapter, format: Format) {
    fs::write(dir.join("adapter_config.json"), ADAPTER_JSON).unwrap();
    write_safetensors(&dir.join("adapter_model.safetensors"), &peft_tensors(adapter, format));
}

pub fn gguf_adapter_parts(adapter: &Adapter, format: Format) -> (Pairs, Tensors) {
    let text = |text: &str| MetadataValue::String(text.into());
    let metadata = [
        ("general.architecture", text("llama")),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", MetadataValue::F32(8.0)),
    ];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let tensors =
        factors(adapter, format, &|name, is_b| format!("{}.lora_{}", name.gguf(), if is_b { "b" } else { "a" }));
    (metadata, tensors)
}
