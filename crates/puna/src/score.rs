//! `puna score`: what a model thinks of given tokens.

use crate::model::{ModelArgs, Wanted};
use crate::show;
use anyhow::{Context, Result, bail};
use puna_checkpoint::Config;
use puna_checkpoint::safetensors::{Declaration, Writer};
use puna_engine::Engine;
use puna_engine::sampler::LogProbabilities;
use puna_format::Format;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Window for texts, where --context gives none: what published perplexities use most.
const TEXT_CONTEXT: usize = 512;

/// Log-probabilities, mean negative log-likelihood and perplexity of given tokens
///
/// Token ids are scored as they are, each but the first. A text is scored in consecutive windows of context−1 tokens,
/// each after one begin-of-text token; all tokens count, and a last partial window is left out.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna score ./model.gguf --text-file wiki.test.raw --context 512
  puna score ./model --ids-file ids.json --json --logits logits.safetensors")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A JSON array of token ids
    #[arg(long, value_name = "FILE", required_unless_present = "text_file", conflicts_with = "text_file")]
    ids_file: Option<PathBuf>,
    /// A UTF-8 text
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,
    /// Compute in chunks of so many tokens; the result is the same
    #[arg(long, value_name = "TOKENS", hide = true)]
    chunk: Option<usize>,
    /// Write the logits after every token: `logits`, f32, [n, vocabulary]
    #[arg(long, value_name = "OUT.safetensors", requires = "ids_file")]
    logits: Option<PathBuf>,
    /// One JSON object: `nll`, `perplexity`, `tokens`, `logprobs`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let mut machine = args.model.machine();
    let logprobs = match (&args.ids_file, &args.text_file) {
        (Some(file), _) => {
            let ids = read_ids(file, &checkpoint.config)?;
            let wanted = Wanted::Exactly(ids.len().min(checkpoint.config.context_length));
            let mut engine = args.model.engine(&mut machine, &checkpoint, wanted)?;
            args.chunk.inspect(|chunk| engine.set_chunk(*chunk));
            score_ids(&mut engine, &ids, args.logits.as_deref())?
        }
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let tokenizer = args.model.tokenizer(&checkpoint)?;
            let bos = tokenizer.bos().context("expected a begin-of-text token in the vocabulary, found none")?;
            let context = TEXT_CONTEXT.min(checkpoint.config.context_length);
            let mut engine = args.model.engine(&mut machine, &checkpoint, Wanted::Exactly(context))?;
            args.chunk.inspect(|chunk| engine.set_chunk(*chunk));
            score_text(&mut engine, bos, &tokenizer.encode(&text)).with_context(|| file.display().to_string())?
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let n = logprobs.len();
    let nll = -logprobs.iter().map(|p| f64::from(*p)).sum::<f64>() / n.max(1) as f64;
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({ "nll": nll, "perplexity": nll.exp(), "tokens": n, "logprobs": logprobs });
        writeln!(out, "{object}")?;
    } else {
        writeln!(out, "{n} tokens, negative log-likelihood {nll:.6}, perplexity {:.4}", nll.exp())?;
    }
    Ok(())
}

/// A JSON array of token ids, at least one, all of the model's vocabulary.
pub fn read_ids(file: &Path, config: &Config) -> Result<Vec<u32>> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| name.to_string())?;
    let ids: Vec<u32> =
        serde_json::from_slice(&bytes).with_context(|| format!("{name}: expected a JSON array of token ids"))?;
    if ids.is_empty() {
        bail!("{name}: expected at least one token id, found none");
    }
    let vocab_size = config.vocab_size;
    if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
        bail!("{name}: [{at}]: expected a token id below the vocabulary's {vocab_size}, found {id}");
    }
    Ok(ids)
}

fn score_ids(engine: &mut Engine, ids: &[u32], logits_file: Option<&Path>) -> Result<Vec<f32>> {
    let vocab_size = engine.model().config().vocab_size;
    let mut writer = match logits_file {
        Some(path) => {
            let logits = Declaration { name: "logits".into(), format: Format::F32, shape: vec![ids.len(), vocab_size] };
            Some(Writer::create(path, &[logits])?)
        }
        None => None,
    };
    let bar = show::token_bar("scoring", ids.len() as u64);
    let mut logprobs = Vec::with_capacity(ids.len());
    let mut written = Ok(());
    engine.score(ids, &mut |position, logits| {
        if let Some(next) = ids.get(position + 1) {
            logprobs.push(LogProbabilities::new(logits).of(*next));
        }
        if let (Some(writer), Ok(())) = (&mut writer, &written) {
            let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            written = writer.append(&bytes);
        }
        bar.set_position(position as u64 + 1);
    })?;
    bar.finish_and_clear();
    written?;
    if let Some(writer) = writer {
        writer.finish()?;
    }
    Ok(logprobs)
}

fn score_text(engine: &mut Engine, bos: u32, ids: &[u32]) -> Result<Vec<f32>> {
    let window = engine.context() - 1;
    if window == 0 {
        bail!("--context: expected at least 2, found {}", engine.context());
    }
    if ids.len() < window {
        bail!("expected at least one window of {window} tokens, found {}; lower --context", ids.len());
    }
    let bar = show::token_bar("scoring", ids.len() as u64);
    let mut logprobs = Vec::with_capacity(ids.len());
    for window in ids.chunks_exact(window) {
        let prompt: Vec<u32> = std::iter::once(bos).chain(window.iter().copied()).collect();
        // The last token's logits predict nothing that is counted.
        engine.score(&prompt[..prompt.len() - 1], &mut |position, logits| {
            logprobs.push(LogProbabilities::new(logits).of(prompt[position + 1]));
        })?;
        bar.inc(window.len() as u64);
    }
    bar.finish_and_clear();
    Ok(logprobs)
}
