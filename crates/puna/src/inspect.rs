//! `puna inspect`: what a model is, and what it needs.

use crate::builtin;
use crate::machine::available_memory;
use crate::model::MAX_BATCH;
use crate::show;
use crate::vault;
use anyhow::{Result, bail};
use puna_checkpoint::{Checkpoint, Config, Layout, RopePairing, RopeScaling, TokenizerSource};
use puna_format::Format;
use puna_llama::{KvFormat, activation_bytes, kv_shape};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

/// Show a model's architecture, tensors, formats and bytes, and the memory that it needs
///
/// Every tensor is checked on the way, as when the model is run; nothing is loaded.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna inspect ./Llama-3.1-8B-Instruct
  puna inspect cria
  puna inspect ./model.gguf --tensors
  puna inspect ./model.gguf --context 32768 --json")]
pub struct Args {
    /// A directory as published by Hugging Face or Meta, a .gguf file, a model of `puna list`, or `cria`: a small one in the
    /// program itself
    #[arg(value_parser = vault::model_parser())]
    model: PathBuf,
    /// Show the memory needed at this context; may be given several times [default: 4096, 32768 and the model's own]
    #[arg(long, value_name = "TOKENS")]
    context: Vec<usize>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// One JSON object, with every tensor
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let checkpoint = builtin::open(&args.model)?;
    let longest = checkpoint.config.context_length;
    let mut contexts = args.context;
    match contexts.iter().find(|context| !(1..=longest).contains(*context)) {
        Some(context) => bail!("--context: expected 1 to {longest}, what the model was made for, found {context}"),
        None if contexts.is_empty() => {
            contexts.extend([4096, 32768].into_iter().filter(|c| *c < longest).chain([longest]))
        }
        None => {}
    }
    let needs: Vec<Need> = contexts.into_iter().map(|context| Need::new(&checkpoint, context)).collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(&checkpoint, &needs))?;
        return Ok(());
    }
    let config = &checkpoint.config;
    let n_files = checkpoint.files.len();
    let file_bytes = checkpoint.files.iter().map(|file| file.bytes).sum();
    let weights = n_weights(&checkpoint);
    writeln!(
        out,
        "model         {} · {}, {n_files} {} of weights, {}",
        args.model.display(),
        layout(&checkpoint),
        if n_files == 1 { "file" } else { "files" },
        show::bytes(file_bytes)
    )?;
    if builtin::is_meant(&args.model) {
        writeln!(out, "              {}", builtin::ABOUT)?;
    }
    writeln!(
        out,
        "architecture  Llama: {} layers, width {}, {} heads of {}, {} KV heads, feed-forward {}",
        config.n_layers, config.dim, config.n_heads, config.head_dim, config.n_kv_heads, config.ffn_dim
    )?;
    writeln!(
        out,
        "weights       {}, {:.2} bits each{}",
        count(weights),
        8.0 * checkpoint.tensor_bytes() as f64 / weights as f64,
        if config.tied_embeddings { ", output tied to the embedding" } else { "" }
    )?;
    writeln!(out, "vocabulary    {} tokens · {}", config.vocab_size, tokenizer(&checkpoint))?;
    writeln!(
        out,
        "chat template {}",
        if checkpoint.chat_template.is_some() { "in the files" } else { "none in the files" }
    )?;
    writeln!(out, "context       {longest} tokens · {}", rope(config))?;
    writeln!(out)?;
    for (format, (n_tensors, bytes)) in formats(&checkpoint) {
        writeln!(out, "{:>8}  {n_tensors:>5} tensors  {:>11}", format.to_string(), show::bytes(bytes))?;
    }
    if args.tensors {
        writeln!(out)?;
        for tensor in checkpoint.tensors() {
            let parts = match tensor.parts.len() {
                1 => String::new(),
                n => format!("  in {n} parts"),
            };
            writeln!(
                out,
                "{:32} {:>8}  {:>16}  {:>11}{parts}",
                tensor.name.to_string(),
                tensor.format.to_string(),
                format!("{} x {}", tensor.rows, tensor.cols),
                show::bytes(tensor.n_bytes())
            )?;
        }
    }
    writeln!(out, "\nmemory at a context of")?;
    for need in &needs {
        write!(out, "{:>10} tokens", need.context)?;
        for (format, kv) in &need.kv {
            write!(out, "  {:>11} with --kv {}", show::bytes(need.fixed() + kv), format.name())?;
        }
        writeln!(out)?;
    }
    if let Some(available) = available_memory() {
        writeln!(out, "this machine has {} free", show::bytes(available))?;
    }
    Ok(())
}

/// Memory at a context, in bytes.
struct Need {
    context: usize,
    weights: u64,
    activations: u64,
    kv: Vec<(KvFormat, u64)>,
}

impl Need {
    fn new(checkpoint: &Checkpoint, context: usize) -> Need {
        let config = &checkpoint.config;
        // Blocks of 32 along the head.
        let formats = KvFormat::ALL.into_iter().filter(|f| *f != KvFormat::Q8_0 || config.head_dim.is_multiple_of(32));
        Need {
            context,
            weights: checkpoint.tensor_bytes(),
            activations: activation_bytes(config, MAX_BATCH),
            kv: formats.map(|format| (format, kv_shape(config, format, context).bytes_at(context))).collect(),
        }
    }

    fn fixed(&self) -> u64 {
        self.weights + self.activations
    }

    fn json(&self) -> Value {
        let kv: serde_json::Map<String, Value> =
            self.kv.iter().map(|(format, bytes)| (format.name().to_owned(), json!(bytes))).collect();
        json!({ "context": self.context, "weights": self.weights, "activations": self.activations, "kv": kv })
    }
}

fn to_json(checkpoint: &Checkpoint, needs: &[Need]) -> Value {
    let config = &checkpoint.config;
    let tensors: Vec<Value> = checkpoint
        .tensors()
        .map(|tensor| {
            json!({
                "name": tensor.name.to_string(),
                "format": tensor.format.to_string(),
                "shape": [tensor.rows, tensor.cols],
                "bytes": tensor.n_bytes(),
                "parts": tensor.parts.len(),
            })
        })
        .collect();
    let formats: serde_json::Map<String, Value> = formats(checkpoint)
        .into_iter()
        .map(|(format, (tensors, bytes))| (format.to_string(), json!({ "tensors": tensors, "bytes": bytes })))
        .collect();
    let files: Vec<Value> = checkpoint
        .files
        .iter()
        .map(|file| json!({ "path": file.path.display().to_string(), "bytes": file.bytes }))
        .collect();
    json!({
        "architecture": "llama",
        "layout": layout(checkpoint),
        "files": files,
        "config": {
            "dim": config.dim,
            "n_layers": config.n_layers,
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "ffn_dim": config.ffn_dim,
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "norm_eps": show::shortest(config.norm_eps),
            "tied_embeddings": config.tied_embeddings,
            "rope": rope_json(config),
        },
        "tokenizer": tokenizer(checkpoint),
        "chat_template": checkpoint.chat_template.is_some(),
        "parameters": n_weights(checkpoint),
        "tensor_bytes": checkpoint.tensor_bytes(),
        "formats": formats,
        "memory": needs.iter().map(Need::json).collect::<Vec<_>>(),
        "tensors": tensors,
    })
}

fn layout(checkpoint: &Checkpoint) -> &'static str {
    match checkpoint.layout {
        Layout::HuggingFace => "Hugging Face",
        Layout::Meta => "Meta",
        Layout::Gguf => "GGUF",
    }
}

/// Number of weights, all tensors together.
pub fn n_weights(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|tensor| tensor.rows as u64 * tensor.cols as u64).sum()
}

/// Tensors and bytes of each format.
pub fn formats(checkpoint: &Checkpoint) -> BTreeMap<Format, (usize, u64)> {
    let mut formats = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let (n_tensors, bytes) = formats.entry(tensor.format).or_insert((0, 0));
        *n_tensors += 1;
        *bytes += tensor.n_bytes();
    }
    formats
}

fn tokenizer(checkpoint: &Checkpoint) -> String {
    match &checkpoint.tokenizer {
        TokenizerSource::Tiktoken(file) | TokenizerSource::TokenizerJson(file) => {
            file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        }
        TokenizerSource::Gguf(vocabulary) => format!("in the GGUF's metadata ({:?})", vocabulary.model),
        TokenizerSource::None => "no tokenizer".to_owned(),
    }
}

fn rope(config: &Config) -> String {
    let scaling = match &config.rope.scaling {
        RopeScaling::None => "no scaling".to_owned(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            format!(
                "llama3 scaling by {factor} from {original_context} (low {low_freq_factor}, high {high_freq_factor})"
            )
        }
        RopeScaling::Factors(factors) => format!("a factor for each of {} frequencies", factors.len()),
    };
    format!("RoPE theta {}, {scaling}", config.rope.theta)
}

fn rope_json(config: &Config) -> Value {
    let scaling = match &config.rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": show::shortest(*factor) }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "type": "llama3",
            "factor": show::shortest(*factor),
            "low_freq_factor": show::shortest(*low_freq_factor),
            "high_freq_factor": show::shortest(*high_freq_factor),
            "original_context": original_context,
        }),
        RopeScaling::Factors(factors) => {
            let factors: Vec<f64> = factors.iter().map(|factor| show::shortest(*factor)).collect();
            json!({ "type": "factors", "factors": factors })
        }
    };
    let pairing = match config.rope.pairing {
        RopePairing::Interleaved => "interleaved",
        RopePairing::Halves => "halves",
    };
    json!({ "theta": show::shortest(config.rope.theta), "scaling": scaling, "pairing": pairing })
}

/// A count for people: `8.03 billion`.
fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} billion", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} million", n as f64 / 1e6),
        _ => n.to_string(),
    }
}
