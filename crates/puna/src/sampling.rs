//! How answers are sampled, on the command line.

use anyhow::Result;
use clap::Args;
use puna_checkpoint::Generation;
use puna_engine::Sampling;
use puna_session::Options;

/// Where neither the command line nor the publisher says anything: the defaults of Meta's reference code.
const TEMPERATURE: f32 = 0.6;
const TOP_P: f32 = 0.9;

/// Sampling and where to stop.
#[derive(Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Tokens to generate at most [default: as many as the context has room for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 always takes the most probable token [default: the model's recommendation, or 0.6]
    #[arg(long)]
    temperature: Option<f32>,
    /// Sample from the most probable tokens that together reach this probability [default: the model's recommendation,
    /// or 0.9]
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
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Subtracted from a token's logit if it was generated
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
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
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| format!("expected ID=BIAS, e.g. 128009=-1.5, found {text}"))
}

impl SamplingArgs {
    /// The options of an answer, where nothing is said as the publisher recommends.
    pub fn options(&self, recommended: &Generation) -> Result<Options> {
        // A publisher who says not to sample means greedy.
        let temperature = if recommended.do_sample == Some(false) { Some(0.0) } else { recommended.temperature };
        let sampling = Sampling {
            temperature: self.temperature.or(temperature).unwrap_or(TEMPERATURE),
            top_p: self.top_p.or(recommended.top_p).unwrap_or(TOP_P),
            top_k: self.top_k.or(recommended.top_k.map(|k| k as usize)).unwrap_or(0),
            min_p: self.min_p.or(recommended.min_p).unwrap_or(0.0),
            typical: self.typical.or(recommended.typical_p).unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty.or(recommended.repetition_penalty).unwrap_or(1.0),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        };
        sampling.check()?;
        Ok(Options { sampling, max_tokens: self.max_tokens, stop: self.stop.clone(), ignore_end: self.ignore_eos })
    }
}
