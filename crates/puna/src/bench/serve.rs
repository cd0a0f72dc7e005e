//! `puna bench serve`: how a server bears a load.

mod plot;
mod report;

mod load;

mod client;

use crate::builtin;
use crate::served::{QueueArgs, ServedArgs};
use crate::show;
use anyhow::{Context, Result, bail};
use client::Address;
use load::{Arrivals, Asker, Lengths, Load, Measured};
use puna_serve::app::App;
use puna_serve::guard::Guard;
use puna_serve::server::{self, Limits};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Measure a server under load: throughput, times to the first token and between tokens, refusals
///
/// The server is one of its own, in this process and asked over HTTP, or one of this machine that --url names. Requests
/// are streamed chat completions of random words, answered greedily. Where several loads are given, they come one after
/// another, and each is held against the first.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |model| model.index(1).required(false).default_value(builtin::NAME)),
    after_help = "\
Examples:
  puna bench serve ./model.gguf --concurrency 1,8 --requests 16 --answer-tokens 32
  puna bench serve ./model.gguf --rate 2 --requests 20 --spread 0.5 --plot load.svg
  puna bench serve --concurrency 8 --overload 5 --requests 16 -n 8 --parallel 8 --queue 8 --json

Against a server that runs already:
  puna bench serve --url http://127.0.0.1:8080 --concurrency 4 --requests 8"
)]
pub struct Args {
    #[command(flatten)]
    served: ServedArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// A server of this machine that runs already, as http://127.0.0.1:8080
    // A struct that has another one in it is no group, so what ServedArgs has besides is named.
    #[arg(long, value_name = "URL", conflicts_with_all = [
        "ModelArgs", "QueueArgs", "name", "adapter", "cache_tokens", "parallel", "chat_format", "no_speculation",
    ])]
    url: Option<Address>,
    /// Clients that ask one request after another; several numbers are several loads
    #[arg(
        long, value_name = "N,…", value_delimiter = ',', default_value = "8", conflicts_with = "rate",
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    concurrency: Vec<u16>,
    /// Requests a second instead, which come at random (a Poisson process); several numbers are several loads
    #[arg(long, value_name = "R,…", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<f64>,
    /// One more load: so many times the requests a second that the clients before got answered, at random, and as many
    /// times the number of requests
    #[arg(long, value_name = "TIMES", conflicts_with = "rate", value_parser = parse_times)]
    overload: Option<f64>,
    /// Requests of each load
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Tokens of a prompt, with all that the chat format adds
    #[arg(short = 'p', long, value_name = "TOKENS", default_value_t = 128)]
    prompt_tokens: u32,
    /// Tokens of an answer
    #[arg(
        short = 'n', long, value_name = "TOKENS", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    answer_tokens: u32,
    /// Prompts and answers are up to this share longer or shorter, at random
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = super::parse_share)]
    spread: f64,
    /// Share of the prompts that they have in common, and that was computed before; several shares are several loads
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_value = "0", value_parser = super::parse_share)]
    shared: Vec<f64>,
    /// Of lengths, words and arrivals; equal seeds give equal requests
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object; times in seconds
    #[arg(long)]
    json: bool,
    /// Draw the times of all loads
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draw over what is there
    #[arg(long, requires = "plot")]
    force: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1e-3..=1e6).contains(rate));
    rate.ok_or_else(|| format!("expected 0.001 to 1,000,000 requests a second, found {text}"))
}

fn parse_times(text: &str) -> Result<f64, String> {
    let times = text.parse().ok().filter(|times| (0.1..=100.0).contains(times));
    times.ok_or_else(|| format!("expected 0.1 to 100, found {text}"))
}

impl Args {
    /// All loads but for the one that follows from what came of them.
    fn loads(&self) -> Vec<Load> {
        let clients = self.concurrency.iter().map(|n| Arrivals::Clients(usize::from(*n)));
        let rates = self.rate.iter().map(|rate| Arrivals::Rate(*rate));
        let arrivals: Vec<Arrivals> = if self.rate.is_empty() { clients.collect() } else { rates.collect() };
        let with = |shared: f64| {
            let load = move |arrivals| Load { arrivals, n_requests: self.requests as usize, shared };
            arrivals.iter().copied().map(load).collect::<Vec<_>>()
        };
        self.shared.iter().flat_map(|shared| with(*shared)).collect()
    }
}

pub fn run(args: Args) -> Result<()> {
    if let Some(plot) = args.plot.as_ref().filter(|plot| plot.exists() && !args.force) {
        bail!("{}: the file exists; name a new one, or draw over it with --force", plot.display());
    }
    let model = match args.url {
        None => Some(args.served.load(|n_cache| args.queue.limits(&args.served, n_cache))?),
        Some(_) => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads for clients")?;
    let (name, measured) = runtime.block_on(async {
        let address = match (args.url, model) {
            (Some(address), _) => address,
            (None, model) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listening on 127.0.0.1")?;
                let address = Address(listener.local_addr()?);
                let app = Arc::new(App::new(model.expect("loaded where no address is given")));
                let limits = Limits::default();
                tokio::spawn(server::serve(listener, app, Guard::default(), limits, std::future::pending()));
                address
            }
        };
        measure(&args, address).await
    })?;
    // The engine's thread may be in a forward pass, for which nobody waits any more.
    runtime.shutdown_background();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report::to_json(&name, &measured))?;
    } else {
        writeln!(out, "{}", show::one_line(&name))?;
        write!(out, "{}", report::to_tables(&measured))?;
    }
    for failure in measured.iter().filter_map(|measured| measured.failure.as_ref()) {
        eprintln!("one of the failures: {}", show::one_line(failure));
    }
    if let Some(plot) = &args.plot {
        puna_checkpoint::write_file(plot, plot::svg(&measured).as_bytes())?;
    }
    Ok(())
}

/// The model's name, and what became of each load.
async fn measure(args: &Args, address: Address) -> Result<(String, Vec<Measured>)> {
    let (prompt, answer) = (args.prompt_tokens as usize, args.answer_tokens as usize);
    let asker = Asker::new(address, args.seed, Lengths { prompt, answer, spread: args.spread }).await?;
    let asker = Arc::new(asker);
    let loads = args.loads();
    let n_all: usize = loads.iter().map(|load| load.n_requests).sum();
    let bar = show::step_bar(n_all as u64);
    let mut measured: Vec<Measured> = Vec::new();
    for load in loads {
        bar.set_message(load.arrivals.to_string());
        measured.push(asker.run(load, measured.len(), &bar).await?);
    }
    if let (Some(times), Some(best)) = (args.overload, measured.last()) {
        if best.answered == 0 {
            bail!("--overload: expected answers to the clients before, found none");
        }
        let arrivals = Arrivals::Rate(times * best.requests_per_second());
        let n_requests = (times * f64::from(args.requests)).ceil() as usize;
        bar.inc_length(n_requests as u64);
        bar.set_message(arrivals.to_string());
        let load = Load { arrivals, n_requests, shared: best.load.shared };
        measured.push(asker.run(load, measured.len(), &bar).await?);
    }
    bar.finish_and_clear();
    Ok((asker.model().to_owned(), measured))
}
