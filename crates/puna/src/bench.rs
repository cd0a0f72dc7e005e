//! `puna bench`: how fast a model runs here, and how much of the machine that uses.

mod serve;
mod speculation;

use crate::builtin;
use crate::machine::{PASSES, Reading};
use crate::model::{Loaded, Loading, ModelArgs, Wanted};
use crate::show;
use anyhow::{Result, bail};
use puna_cpu::measure;
use puna_engine::{Engine, Sequence};
use puna_llama::operations;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Measure prefill and decode speed, and the share of the machine's memory bandwidth and arithmetic that they use
///
/// Every figure is the median over repeats. The bandwidth and the arithmetic peak are measured between the repeats, on
/// the same threads. `serve` measures a server under load instead.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    mut_arg("model", |model| model.required(false).default_value(builtin::NAME)),
    after_help = "\
Examples:
  puna bench ./Llama-3.1-8B-Instruct-Q8_0.gguf
  puna bench ./model.gguf -p 2048 -n 64 --depth 8192 --json
  puna bench ./model.gguf --lookup --acceptance 0.8

Without a model to measure, write one of the right size first:
  puna synth llama-3.1-8b --format q8_0 -o 8b.gguf && puna bench 8b.gguf"
)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt; 0 to leave prefill out
    #[arg(short = 'p', long, value_name = "TOKENS", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to generate; 0 to leave decode out
    #[arg(short = 'n', long, value_name = "TOKENS", default_value_t = 128)]
    tokens: usize,
    /// Tokens that are in the context before
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    depth: usize,
    /// Repeats, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Measure prompt lookup instead, on an answer that repeats the prompt, turn by turn with plain decoding
    #[arg(long, group = "guesser", conflicts_with = "draft")]
    lookup: bool,
    /// Measure a draft model instead, turn by turn with plain decoding
    #[arg(long, value_name = "MODEL", group = "guesser")]
    draft: Option<PathBuf>,
    /// Share of the repeated tokens, or of the draft model's guesses, that are made right
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = parse_share, requires = "guesser")]
    acceptance: f64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum What {
    Serve(serve::Args),
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("expected 0 to 1, found {text}"))
}

pub fn run(args: Args) -> Result<()> {
    if let Some(What::Serve(args)) = args.what {
        return serve::run(args);
    }
    if args.lookup || args.draft.is_some() {
        return speculation::run(&args);
    }
    let Args { prompt_tokens, tokens, depth, .. } = args;
    if prompt_tokens == 0 && tokens == 0 {
        bail!("-p and -n: expected at least one above 0, found both 0");
    }
    let checkpoint = args.model.open()?;
    let wanted = depth.saturating_add(prompt_tokens.max(tokens));
    let mut machine = args.model.machine();
    let Loaded { model, context, loading } = args.model.load(&mut machine, &checkpoint, Wanted::Exactly(wanted))?;
    let mut engine = Engine::new(model, context);
    let cpu = machine.cpu();
    // Any tokens will do: no sum depends on their values, and no two neighbours are alike.
    let vocab_size = engine.model().config().vocab_size as u64;
    let ids: Vec<u32> = (0..wanted as u64).map(|i| (i * 7919 % vocab_size) as u32).collect();

    let n_repeats = usize::from(args.repeats);
    let bar = show::token_bar("measuring", (depth + (n_repeats + 1) * (prompt_tokens + tokens)) as u64);
    let mut sequence = Sequence::default();
    if depth > 0 {
        engine.prefill(&mut sequence, &ids[..depth], &mut |done, _| {
            bar.set_position(done as u64);
            true
        })?;
    }
    let memory = measure::Memory::new(cpu)?;
    let (mut prefill, mut decode, mut bandwidth, mut peak) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut decode_bytes = 0;
    for repeat in 0..=n_repeats {
        let mut seconds = [0.0; 2];
        if prompt_tokens > 0 {
            let start = Instant::now();
            engine.prefill(&mut sequence, &ids[..depth + prompt_tokens], &mut |_, _| true)?;
            seconds[0] = start.elapsed().as_secs_f64();
            engine.truncate(&mut sequence, depth);
            bar.inc(prompt_tokens as u64);
        }
        if tokens > 0 {
            let (start, read_before) = (Instant::now(), engine.bytes_read());
            for id in &ids[depth..depth + tokens] {
                engine.decode(&mut sequence, *id)?;
                bar.inc(1);
            }
            seconds[1] = start.elapsed().as_secs_f64();
            decode_bytes = engine.bytes_read() - read_before;
            engine.truncate(&mut sequence, depth);
        }
        // The first brings the files into memory and the processor up to speed.
        if repeat > 0 {
            prefill.push(prompt_tokens as f64 / seconds[0]);
            decode.push(tokens as f64 / seconds[1]);
            bandwidth.push(memory.read_bandwidth(cpu, PASSES));
            peak.push(measure::f32_peak(cpu, PASSES));
        }
    }
    bar.finish_and_clear();
    let limits = Limits { bandwidth: median(&mut bandwidth), peak: median(&mut peak) };
    let prefill = (prompt_tokens > 0).then(|| Prefill::new(&engine, depth, prompt_tokens, prefill));
    let decode = (tokens > 0).then(|| Decode::new(&engine, tokens, decode_bytes, decode));
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({
            "model": args.model.model.display().to_string(),
            "machine": engine.model().describe(),
            "depth": depth,
            "repeats": n_repeats,
            "loading": loading_json(&loading),
            "weight_bytes_per_token": engine.model().bytes_per_token(),
            "read_bandwidth": limits.bandwidth,
            "f32_peak": limits.peak,
            "prefill": prefill.as_ref().map(|prefill| prefill.json(&limits)),
            "decode": decode.as_ref().map(|decode| decode.json(&limits)),
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{} · {}", args.model.model.display(), engine.model().describe())?;
    writeln!(out, "{}", loading_line(&loading))?;
    writeln!(
        out,
        "machine  reads {:.1} GB/s, computes {:.0} GFLOP/s in f32",
        limits.bandwidth / 1e9,
        limits.peak / 1e9
    )?;
    let at = if depth > 0 { format!(" after {depth}") } else { String::new() };
    if let Some(p) = &prefill {
        writeln!(
            out,
            "prefill  {prompt_tokens} tokens{at}: {} · {:.0} GFLOP/s useful, {:.0} % of the peak",
            p.rate,
            p.flops / 1e9,
            100.0 * p.flops / limits.peak
        )?;
    }
    if let Some(d) = &decode {
        writeln!(out, "decode   {tokens} tokens{at}: {} · {}", d.rate, d.reading(&limits))?;
    }
    Ok(())
}

fn loading_line(loading: &Loading) -> String {
    let Loading { seconds, bytes, repacked_bytes } = loading;
    format!("loading  {} in {seconds:.1} s, {} repacked", show::bytes(*bytes), show::bytes(*repacked_bytes))
}

fn loading_json(loading: &Loading) -> Value {
    json!({ "seconds": loading.seconds, "bytes": loading.bytes, "repacked_bytes": loading.repacked_bytes })
}

/// What the machine can do at best, a second.
struct Limits {
    /// Bytes read from memory.
    bandwidth: f64,
    /// Operations in f32.
    peak: f64,
}

/// Tokens a second over the repeats.
struct Rate {
    median: f64,
    slowest: f64,
    fastest: f64,
}

impl Rate {
    fn new(mut rates: Vec<f64>) -> Rate {
        let median = median(&mut rates);
        Rate { median, slowest: rates[0], fastest: rates[rates.len() - 1] }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "slowest": self.slowest, "fastest": self.fastest })
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} tokens/s ({:.2} to {:.2})", self.median, self.slowest, self.fastest)
    }
}

/// The median; sorts the figures. The mean of the two in the middle where they are even.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) { (figures[middle - 1] + figures[middle]) / 2.0 } else { figures[middle] }
}

struct Prefill {
    tokens: usize,
    rate: Rate,
    /// Useful operations a second.
    flops: f64,
}

impl Prefill {
    fn new(engine: &Engine, depth: usize, tokens: usize, rates: Vec<f64>) -> Prefill {
        let rate = Rate::new(rates);
        let operations = operations(engine.model().config(), depth, tokens, 1);
        Prefill { tokens, flops: operations as f64 / tokens as f64 * rate.median, rate }
    }

    fn json(&self, limits: &Limits) -> Value {
        json!({
            "tokens": self.tokens,
            "tokens_per_second": self.rate.json(),
            "flops": self.flops,
            "share_of_f32_peak": self.flops / limits.peak,
        })
    }
}

struct Decode {
    tokens: usize,
    rate: Rate,
    weight_bytes: f64,
    /// Keys and values that a token reads, on average.
    kv_bytes: f64,
}

impl Decode {
    /// Of `tokens` that read so many bytes.
    fn new(engine: &Engine, tokens: usize, bytes: u64, rates: Vec<f64>) -> Decode {
        let weight_bytes = engine.model().bytes_per_token() as f64;
        Decode { tokens, rate: Rate::new(rates), weight_bytes, kv_bytes: bytes as f64 / tokens as f64 - weight_bytes }
    }

    fn reading(&self, limits: &Limits) -> Reading {
        let bytes_per_second = (self.weight_bytes + self.kv_bytes) * self.rate.median;
        Reading { bytes_per_second, bandwidth: Some(limits.bandwidth) }
    }

    fn json(&self, limits: &Limits) -> Value {
        let reading = self.reading(limits);
        json!({
            "tokens": self.tokens,
            "tokens_per_second": self.rate.json(),
            "kv_bytes_per_token": self.kv_bytes,
            "bytes_per_second": reading.bytes_per_second,
            "weight_bytes_per_second": self.weight_bytes * self.rate.median,
            "share_of_bandwidth": reading.share(),
        })
    }
}
