//! `puna run`: answer a prompt.

use crate::model::{ModelArgs, decode_figures};
use crate::{score, show};
use anyhow::{Context, Result, bail};
use puna_engine::Sampling;
use puna_session::{Event, Options};
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Continue a prompt
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna run ./Llama-3.1-8B --raw 'Once upon a time'
  puna run ./Llama-3.1-8B --ids-file prompt.json --max-tokens 64 --temperature 0 --json")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt [default: standard input]
    prompt: Option<String>,
    /// Continue the text as it is, without chat format
    #[arg(long)]
    raw: bool,
    /// The whole prompt as a JSON array of token ids
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw"])]
    ids_file: Option<PathBuf>,
    /// Tokens to generate at most [default: as many as the context has room for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 always takes the most probable token [default: the model's recommendation]
    #[arg(long)]
    temperature: Option<f32>,
    /// Sample from the most probable tokens that together reach this probability [default: the model's recommendation]
    #[arg(long)]
    top_p: Option<f32>,
    /// Sample from so many most probable tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from tokens with at least this share of the most probable one's probability
    #[arg(long)]
    min_p: Option<f32>,
    /// Locally typical sampling; 1 for off
    #[arg(long)]
    typical: Option<f32>,
    /// Divides the logits of tokens that occurred already; 1 for off
    #[arg(long)]
    repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it was generated
    #[arg(long, default_value_t = 0.0)]
    frequency_penalty: f32,
    /// Subtracted from a token's logit if it was generated
    #[arg(long, default_value_t = 0.0)]
    presence_penalty: f32,
    /// Added to a token's logit; may be given several times
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Equal seeds give equal answers [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the model's end tokens, and show special tokens
    #[arg(long)]
    ignore_eos: bool,
    /// One JSON object: `ids`, `text`, `prompt_tokens`, `completion_tokens`, `finish_reason`, `timings`
    #[arg(long)]
    json: bool,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| format!("expected ID=BIAS, e.g. 128009=-1.5, found {text}"))
}

pub fn run(args: Args) -> Result<()> {
    if !args.raw && args.ids_file.is_none() {
        bail!("expected --raw or --ids-file: the chat format is not built yet");
    }
    let checkpoint = args.model.open()?;
    let recommended = &checkpoint.generation;
    // A publisher who says not to sample means greedy.
    let recommended_temperature =
        if recommended.do_sample == Some(false) { Some(0.0) } else { recommended.temperature };
    let sampling = Sampling {
        temperature: args.temperature.or(recommended_temperature).unwrap_or(1.0),
        top_p: args.top_p.or(recommended.top_p).unwrap_or(1.0),
        top_k: args.top_k.or(recommended.top_k.map(|k| k as usize)).unwrap_or(0),
        min_p: args.min_p.or(recommended.min_p).unwrap_or(0.0),
        typical: args.typical.or(recommended.typical_p).unwrap_or(1.0),
        repetition_penalty: args.repetition_penalty.or(recommended.repetition_penalty).unwrap_or(1.0),
        frequency_penalty: args.frequency_penalty,
        presence_penalty: args.presence_penalty,
        logit_bias: args.logit_bias.clone(),
        seed: args.seed,
    };
    sampling.check()?;
    let options =
        Options { sampling, max_tokens: args.max_tokens, stop: args.stop.clone(), ignore_end: args.ignore_eos };
    let mut session = args.model.session(&checkpoint)?;
    let prompt = match &args.ids_file {
        Some(file) => score::read_ids(file)?,
        None => {
            let text = prompt_text(args.prompt)?;
            let bos = session.tokenizer().bos();
            bos.into_iter().chain(session.tokenizer().encode(&text)).collect()
        }
    };
    let bar = show::token_bar("prompt", prompt.len() as u64);
    let (mut out, mut failed) = (std::io::stdout().lock(), None);
    let answer = session.answer(&prompt, &options, &mut |event| {
        let result = match event {
            Event::Prefill { done, total } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if done == total {
                    bar.finish_and_clear();
                }
                Ok(())
            }
            Event::Text(_) if args.json => Ok(()),
            Event::Text(text) => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let t = &answer.timings;
    if args.json {
        let object = json!({
            "ids": answer.ids,
            "text": answer.text,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.ids.len(),
            "finish_reason": answer.finish_reason,
            "timings": {
                "prefill_seconds": t.prefill.as_secs_f64(),
                "prefill_tokens_per_second": t.prefill_rate(),
                "decode_seconds": t.decode.as_secs_f64(),
                "decode_tokens_per_second": t.decode_rate(),
            },
        });
        writeln!(out, "{object}")?;
    } else if !answer.text.ends_with('\n') {
        writeln!(out)?;
    }
    eprintln!(
        "{} · prompt {} tokens, {:.1} tokens/s · answer {} tokens, {}",
        session.engine().model().describe(),
        answer.prompt_tokens,
        t.prefill_rate(),
        answer.ids.len(),
        decode_figures(session.engine().model(), t.decode_rate()),
    );
    Ok(())
}

fn prompt_text(argument: Option<String>) -> Result<String> {
    if let Some(text) = argument {
        return Ok(text);
    }
    if std::io::stdin().is_terminal() {
        bail!("expected a prompt as the second argument or on standard input");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}
