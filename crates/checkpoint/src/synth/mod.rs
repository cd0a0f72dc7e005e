//! Random-weight models of any size, to measure a machine before downloading anything; and, by [`write_initial`], those
//! that training from scratch begins with.
//!
//! Weights to measure with are normal with standard deviation 1/√(values per row), norms are 1, so activations stay of
//! ordinary size. They are not drawn one by one: for every format and row length a pool of 4,096 encoded runs of
//! (mostly) 256 values is made from the seed, and every row of every tensor is put together from runs that a
//! counter-based hash of (seed, tensor, row, run) picks. So writing costs a copy, whatever the format costs to encode;
//! rows differ from each other; and the bytes depend on the seed alone, not on threads. Memory is the pools (a few MiB
//! each) and one chunk.

mod format;
mod initial;
mod shape;
mod vocabulary;

pub use format::SynthFormat;
pub use initial::write_initial;
pub use shape::Shape;

use crate::{
    Error,
    config::{Config, RopeScaling},
    gguf::{self, MetadataValue},
    name::{LayerTensor, Name},
    safetensors::{self, Declaration},
    stream::{make_empty, write_file, wrong},
};
use puna_format::Format;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

/// The form of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// One `.gguf` file.
    Gguf,
    /// A Hugging Face directory.
    Safetensors,
}

impl Container {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Container::Gguf => "GGUF",
            Container::Safetensors => "safetensors",
        }
    }
}

/// What the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Random; equal seeds give equal files.
    Random {
        /// The seed.
        seed: u64,
    },
    /// Holes in the files: zeros that take no room on the disk, for models larger than it.
    Holes,
}

/// Some of a tensor.
enum Piece<'a> {
    Bytes(&'a [u8]),
    Hole(u64),
}

impl Piece<'_> {
    fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Hole(n) => *n,
        }
    }
}

/// Weights in one safetensors file, at most; what the hub's tools split at.
const SHARD: u64 = 5_000_000_000;
/// Bytes made and written at once.
const CHUNK: usize = 16 << 20;

/// Writes a model; `progress` hears of bytes done and bytes in all.
///
/// `out` is the file of a [`Container::Gguf`], which is replaced, or the directory of a [`Container::Safetensors`],
/// which must be new or empty.
///
/// # Errors
/// When format and container don't go together, a row length is no whole number of blocks, or on a fault of the file
/// system.
pub fn write(
    shape: &Shape,
    format: SynthFormat,
    container: Container,
    out: &Path,
    weights: Weights,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let config = shape.config();
    vocabulary::check(config, out)?;
    let fits = match container {
        Container::Gguf => format != SynthFormat::Fp8,
        Container::Safetensors => format.fits_safetensors(),
    };
    if !fits {
        return Err(wrong(out, format!("{format} has no place in {}", container.name())));
    }
    let tensors = plan(config, format, container);
    let mut written = Written::new(&tensors, out, progress)?;
    let mut pools = Pools { weights, pools: BTreeMap::new(), scratch: Vec::new() };
    match container {
        Container::Gguf => {
            let metadata = gguf::metadata(shape.name(), config, &vocabulary::gguf(config), None);
            file(&metadata, &tensors, out, &mut pools, &mut written)
        }
        Container::Safetensors => {
            make_empty(out)?;
            directory(shape, format, &tensors, out, &mut pools, &mut written)
        }
    }
}

struct Written<'p> {
    done: u64,
    total: u64,
    progress: &'p mut dyn FnMut(u64, u64),
}

impl<'p> Written<'p> {
    /// Nothing yet of these tensors.
    fn new(tensors: &[Planned], out: &Path, progress: &'p mut dyn FnMut(u64, u64)) -> Result<Written<'p>, Error> {
        let mut total = 0;
        for Planned { declaration, .. } in tensors {
            let n = declaration.n_bytes();
            total += n.ok_or_else(|| {
                let Declaration { name, format, .. } = declaration;
                let block = format.info().block_elems;
                wrong(out, format!("tensor `{name}`: {format} needs rows of a multiple of {block} values"))
            })?;
        }
        Ok(Written { total, done: 0, progress })
    }

    fn add(&mut self, piece: &Piece<'_>) {
        self.done += piece.len();
        (self.progress)(self.done, self.total);
    }
}

/// Writes a GGUF file.
fn file(
    metadata: &[(String, MetadataValue)],
    tensors: &[Planned],
    out: &Path,
    pools: &mut Pools,
    written: &mut Written<'_>,
) -> Result<(), Error> {
    let declarations: Vec<Declaration> = tensors.iter().map(|tensor| tensor.declaration.clone()).collect();
    let mut writer = gguf::Writer::create(out, metadata, &declarations)?;
    for tensor in tensors {
        pools.write(tensor, &mut |piece| {
            match piece {
                Piece::Bytes(bytes) => writer.append(bytes)?,
                Piece::Hole(n) => writer.skip(n)?,
            }
            written.add(&piece);
            Ok(())
        })?;
    }
    writer.finish()
}

/// Writes the shards, and `config.json` last, so that an unfinished directory is no model.
fn directory(
    shape: &Shape,
    format: SynthFormat,
    tensors: &[Planned],
    out: &Path,
    pools: &mut Pools,
    written: &mut Written<'_>,
) -> Result<(), Error> {
    let mut shards: Vec<Vec<&Planned>> = vec![Vec::new()];
    let mut size = 0u64;
    for tensor in tensors {
        let n = tensor.declaration.n_bytes().unwrap_or(0);
        if size > 0 && size + n > SHARD {
            shards.push(Vec::new());
            size = 0;
        }
        size += n;
        shards.last_mut().expect("begins with one").push(tensor);
    }
    let n = shards.len();
    let mut map = serde_json::Map::new();
    for (i, shard) in shards.iter_mut().enumerate() {
        let name =
            if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) };
        // Larger elements first, so that each begins at a multiple of its size.
        shard.sort_by_key(|tensor| std::cmp::Reverse(tensor.declaration.format.info().block_bytes));
        let declarations: Vec<Declaration> = shard.iter().map(|tensor| tensor.declaration.clone()).collect();
        let mut writer = safetensors::Writer::create(&out.join(&name), &declarations)?;
        for tensor in shard.iter() {
            pools.write(tensor, &mut |piece| {
                match piece {
                    Piece::Bytes(bytes) => writer.append(bytes)?,
                    Piece::Hole(n) => writer.skip(n)?,
                }
                written.add(&piece);
                Ok(())
            })?;
            map.insert(tensor.declaration.name.clone(), name.clone().into());
        }
        writer.finish()?;
    }
    let config = shape.config();
    let save = |name: &str, json: serde_json::Value| write_file(&out.join(name), format!("{json:#}\n").as_bytes());
    if n > 1 {
        let index = json!({ "metadata": { "total_size": written.total }, "weight_map": map });
        save("model.safetensors.index.json", index)?;
    }
    write_file(&out.join("tokenizer.json"), vocabulary::tokenizer_json(config).to_string().as_bytes())?;
    let [bos, eos] = vocabulary::bos_and_eos(config);
    save("generation_config.json", json!({ "bos_token_id": bos, "eos_token_id": eos }))?;
    save("config.json", config_json(config, format, bos, &eos))
}

fn config_json(
    config: &Config,
    format: SynthFormat,
    bos: serde_json::Value,
    eos: &serde_json::Value,
) -> serde_json::Value {
    let mut json = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": match format.matrix(config, Name::Output) {
            Format::F32 => "float32",
            Format::F16 => "float16",
            _ => "bfloat16",
        },
        "bos_token_id": bos,
        "eos_token_id": eos,
    });
    if let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = config.rope.scaling {
        json["rope_scaling"] = json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        });
    }
    if format == SynthFormat::Fp8 {
        json["quantization_config"] = json!({ "quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0 });
    }
    json
}

/// A tensor to write.
struct Planned {
    declaration: Declaration,
    content: Content,
}

enum Content {
    /// Random rows from a pool; the number makes tensors differ.
    Random { tensor: u64 },
    /// Values drawn one by one from a normal distribution, in f32; the number makes tensors differ.
    Drawn { tensor: u64, std: f32 },
    /// One value everywhere, in the declared format.
    Constant(f32),
    /// These values, in the declared format.
    Values(Vec<f32>),
}

/// FP8 stores a normal value times this, so that four standard deviations are its largest number, 448.
const FP8_SCALE: f32 = 112.0;

fn plan(config: &Config, format: SynthFormat, container: Container) -> Vec<Planned> {
    let mut tensors = Vec::new();
    for (i, name) in config.required().enumerate() {
        let called = match container {
            Container::Gguf => name.gguf(),
            Container::Safetensors => name.hugging_face(),
        };
        let (rows, cols) = config.shape(name);
        let (shape, format, content) = if name.is_norm() {
            let norm = if container == Container::Gguf { Format::F32 } else { format.matrix(config, Name::Output) };
            (vec![cols], norm, Content::Constant(1.0))
        } else {
            (vec![rows, cols], format.matrix(config, name), Content::Random { tensor: i as u64 })
        };
        if is_fp8(format) {
            let declaration =
                Declaration { name: format!("{called}_scale"), format: Format::F32, shape: vec![rows, 1] };
            let scale = 1.0 / (cols as f32).sqrt() / FP8_SCALE;
            tensors.push(Planned { declaration, content: Content::Constant(scale) });
        }
        tensors.push(Planned { declaration: Declaration { name: called, format, shape }, content });
    }
    if container == Container::Gguf && matches!(config.rope.scaling, RopeScaling::Llama3 { .. }) {
        let factors = config.rope.divisors(config.head_dim);
        let declaration =
            Declaration { name: "rope_freqs.weight".into(), format: Format::F32, shape: vec![factors.len()] };
        tensors.push(Planned { declaration, content: Content::Values(factors) });
    }
    tensors
}

fn is_fp8(format: Format) -> bool {
    format.info().safetensors_dtype == Some("F8_E4M3")
}

/// Encoded runs to put rows together from.
struct Pool {
    run_bytes: usize,
    bytes: Vec<u8>,
}

struct Pools {
    weights: Weights,
    /// By format and row length, on which the standard deviation depends.
    pools: BTreeMap<(Format, usize), Pool>,
    scratch: Vec<u8>,
}

/// Runs in a pool, a power of two.
const RUNS: usize = 1 << 12;
/// Values in a run: the largest block; less where rows are no multiple of it.
const RUN: usize = 256;

impl Pools {
    fn write(&mut self, tensor: &Planned, append: &mut dyn FnMut(Piece) -> Result<(), Error>) -> Result<(), Error> {
        let Declaration { format, shape, .. } = &tensor.declaration;
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / cols;
        let tensor_bytes = tensor.declaration.n_bytes().expect("`write` checked every tensor's size");
        match &tensor.content {
            Content::Values(values) => append(Piece::Bytes(&encoded(*format, values))),
            Content::Constant(value) => append(Piece::Bytes(&encoded(*format, &vec![*value; rows * cols]))),
            Content::Random { tensor } => {
                let Weights::Random { seed } = self.weights else {
                    return append(Piece::Hole(tensor_bytes));
                };
                let pool = self.pools.entry((*format, cols)).or_insert_with(|| Pool::new(*format, cols, seed));
                let row_bytes = format.row_bytes(cols).expect("`Written::new` checked every row length");
                let fill = |row: &mut [u8], i| pool.fill(row, row_seed(seed, *tensor, i));
                append_rows(rows, row_bytes, &mut self.scratch, fill, append)
            }
            Content::Drawn { tensor, std } => {
                let Weights::Random { seed } = self.weights else {
                    return append(Piece::Hole(tensor_bytes));
                };
                let fill = |row: &mut [u8], i| draw(row, *std, row_seed(seed, *tensor, i));
                append_rows(rows, 4 * cols, &mut self.scratch, fill, append)
            }
        }
    }
}

/// Appends `n_rows` rows of so many bytes, chunk by chunk; `fill` makes a row by its number.
fn append_rows(
    n_rows: usize,
    row_bytes: usize,
    scratch: &mut Vec<u8>,
    fill: impl Fn(&mut [u8], u64) + Sync,
    append: &mut dyn FnMut(Piece) -> Result<(), Error>,
) -> Result<(), Error> {
    let rows_at_once = (CHUNK / row_bytes).clamp(1, n_rows);
    for first in (0..n_rows).step_by(rows_at_once) {
        let n = rows_at_once.min(n_rows - first);
        scratch.resize(n * row_bytes, 0);
        let rows = scratch.par_chunks_exact_mut(row_bytes).enumerate().with_min_len(16);
        rows.for_each(|(i, row)| fill(row, (first + i) as u64));
        append(Piece::Bytes(scratch))?;
    }
    Ok(())
}

fn encoded(format: Format, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(values.len()).expect("constants are declared in formats without blocks")];
    format.encode(values, &mut bytes);
    bytes
}

impl Pool {
    fn new(format: Format, cols: usize, seed: u64) -> Pool {
        // The largest power of two up to RUN that divides a row; a block divides the row, and is a power of two.
        let run = RUN.min(1 << cols.trailing_zeros());
        let run_bytes = format.row_bytes(run).expect("a row is whole blocks, and so is its largest power of two");
        let std = if is_fp8(format) { FP8_SCALE } else { 1.0 / (cols as f32).sqrt() };
        let mut bytes = vec![0; RUNS * run_bytes];
        bytes.par_chunks_exact_mut(run_bytes).enumerate().for_each(|(i, bytes)| {
            let mut random = Pcg64::seed_from_u64(mix(seed ^ mix(i as u64)));
            let mut values = [0f32; RUN];
            let values = &mut values[..run];
            values.iter_mut().for_each(|v| *v = std * normal(&mut random));
            format.encode(values, bytes);
        });
        Pool { run_bytes, bytes }
    }

    fn fill(&self, row: &mut [u8], row_seed: u64) {
        for (i, run) in row.chunks_exact_mut(self.run_bytes).enumerate() {
            let pick = mix(row_seed ^ i as u64) as usize % RUNS;
            run.copy_from_slice(&self.bytes[pick * self.run_bytes..(pick + 1) * self.run_bytes]);
        }
    }
}

/// Draws the values of a row, f32 each, from a normal distribution.
fn draw(row: &mut [u8], std: f32, row_seed: u64) {
    let mut random = Pcg64::seed_from_u64(row_seed);
    for value in row.as_chunks_mut::<4>().0 {
        *value = (std * normal(&mut random)).to_le_bytes();
    }
}

/// What the random numbers of a row depend on.
fn row_seed(seed: u64, tensor: u64, row: u64) -> u64 {
    mix(seed ^ mix(tensor << 40 ^ row))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads a counter.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// A value near the standard normal distribution: the sum of twelve uniform ones, cut off at four.
fn normal(random: &mut Pcg64) -> f32 {
    let mut sum = 0f32;
    for _ in 0..6 {
        let bits = random.next_u64();
        sum += (bits >> 40) as f32 + (bits >> 16 & 0xFF_FFFF) as f32;
    }
    (sum / (1 << 24) as f32 - 6.0).clamp(-4.0, 4.0)
}

/// Which layer tensor, for the rules of the mixes.
pub(crate) fn layer_tensor(name: Name) -> Option<(usize, LayerTensor)> {
    match name {
        Name::Layer { layer, tensor } => Some((layer, tensor)),
        _ => None,
    }
}
