//! How answers are sampled, on the command line.

use anyhow::Result;
use clap::Args;
use puna_checkpoint::Checkpoint;
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
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample from the most probable tokens that together reach this probability [default: the model's recommendation,
    /// or 0.9]
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample from so many most probable tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from tokens with at least this share of the most probable one's probability
    #[arg(long, allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Locally typical sampling; 1 for off
    #[arg(long, allow_negative_numbers = true)]
    typical: Option<f32>,
    /// Divides the logits of tokens that occurred already; 1 for off
    #[arg(long, allow_negative_numbers = true)]
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

/// How a model is sampled where nobody says otherwise: as its publisher recommends.
pub fn recommended(checkpoint: &Checkpoint) -> Sampling {
    let recommended = &checkpoint.generation;
    // A publisher who says not to sample means greedy.
    let temperature = if recommended.do_sample == Some(false) { Some(0.0) } else { recommended.temperature };
    Sampling {
        temperature: temperature.unwrap_or(TEMPERATURE),
        top_p: recommended.top_p.unwrap_or(TOP_P),
        top_k: recommended.top_k.map_or(0, |k| k as usize),
        min_p: recommended.min_p.unwrap_or(0.0),
        typical: recommended.typical_p.unwrap_or(1.0),
        repetition_penalty: recommended.repetition_penalty.unwrap_or(1.0),
        ..Sampling::default()
    }
}

impl SamplingArgs {
    /// The options of an answer, where nothing is said as the publisher recommends.
    pub fn options(&self, checkpoint: &Checkpoint) -> Result<Options> {
        let recommended = recommended(checkpoint);
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(recommended.temperature),
            top_p: self.top_p.unwrap_or(recommended.top_p),
            top_k: self.top_k.unwrap_or(recommended.top_k),
            min_p: self.min_p.unwrap_or(recommended.min_p),
            typical: self.typical.unwrap_or(recommended.typical),
            repetition_penalty: self.repetition_penalty.unwrap_or(recommended.repetition_penalty),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
        };
        sampling.check(checkpoint.config.vocab_size)?;
        Ok(Options {
            sampling,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ignore_end: self.ignore_eos,
            constraint: None,
        })
    }
}
