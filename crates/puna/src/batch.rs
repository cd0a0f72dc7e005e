//! `puna batch`: a file of requests in OpenAI's batch format, answered without a server.

mod input;
mod output;

mod lines;

use crate::builtin;
use crate::served::ServedArgs;
use crate::show;
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use input::{Input, Request};
use output::Output;
use puna_serve::app::App;
use puna_serve::offline::{Offline, Reply};
use puna_session::ServiceLimits;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Answer a file of requests in OpenAI's batch format, without a server
///
/// IN has one request a line: `custom_id`, `method` (POST), `url` (/v1/chat/completions or /v1/completions) and `body`.
/// OUT gets a line for each as soon as it is answered, so not in the order of IN. Ctrl-C stops; --resume goes on with
/// those that have no line yet.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |model| model.short('m').long("model").required(false).default_value(builtin::NAME)),
    after_help = "\
Examples:
  puna batch requests.jsonl -o answers.jsonl
  puna batch requests.jsonl -o llama.jsonl -m ./Llama-3.1-8B-Instruct --adapter support=./my-adapter
  puna batch requests.jsonl -o llama.jsonl -m ./Llama-3.1-8B-Instruct --adapter support=./my-adapter --resume --json

A line of IN:
  {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}], \"max_tokens\": 50}}"
)]
pub struct Args {
    /// Requests, a JSON object a line
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where the answers go: a new file, or with --resume the one that is gone on with
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Answer only what has no line in OUT yet
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    served: ServedArgs,
    /// One JSON object at the end: `requests`, `answered_before`, `answered`, of these `failed`, `prompt_tokens`,
    /// `cached_prompt_tokens`, `generated_tokens`, `seconds`, `tokens_per_second`, `output`
    #[arg(long)]
    json: bool,
}

/// Places of the engine for the prompts and choices of the requests that are in; a request with more prompts than there
/// are places can't be answered.
const MAX_PLACES: usize = 4096;

pub fn run(args: Args) -> Result<()> {
    let mut missing = input::check(&args.input)?;
    let n_requests = missing.len();
    let resumed = match (args.output.exists(), args.resume) {
        (true, true) => Some(Output::resume(&args.output, &mut missing)?),
        (true, false) => bail!(
            "{}: expected a new file, found one; go on with it by --resume, or name another",
            args.output.display()
        ),
        (false, _) => None,
    };
    let mut tally = Tally { n_requests, n_before: n_requests - missing.len(), ..Tally::default() };
    let mut interrupted = false;
    if !missing.is_empty() {
        let model = args.served.load(|_| ServiceLimits { requests: MAX_PLACES, tokens: usize::MAX })?;
        let mut output = match resumed {
            Some(output) => output,
            None => Output::begin(&args.output)?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads")?;
        let mut work = Work {
            app: Arc::new(App::new(model)),
            input: Input::open(&args.input)?,
            missing,
            // The engine never waits for a request that could be in, nor are there more than it soon needs.
            most: 2 * args.served.parallel(),
            bar: show::step_bar(n_requests as u64),
        };
        let answered = runtime.block_on(work.answer(&mut output, &mut tally));
        work.bar.finish_and_clear();
        // What was answered is kept, whatever went wrong.
        output.sync()?;
        interrupted = answered?;
    }
    tally.tell(&args)?;
    if interrupted {
        let left = n_requests - tally.n_before - tally.n_answered;
        bail!("stopped: expected {n_requests} answers, {left} are missing; go on with --resume");
    }
    Ok(())
}

/// What was done.
#[derive(Default)]
struct Tally {
    n_requests: usize,
    /// Requests that had a line in OUT already.
    n_before: usize,
    n_answered: usize,
    /// Of these, those that could not be answered as they are.
    n_failed: usize,
    usage: Usage,
    seconds: f64,
}

/// Tokens, as answers tell them.
#[derive(Default, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    cached_tokens: u64,
}

/// What is looked at of an answer.
#[derive(Deserialize)]
struct Body {
    usage: Option<Usage>,
}

impl Tally {
    fn add(&mut self, request: &Request, reply: &Reply) -> Result<()> {
        let body: Body = serde_json::from_slice(&reply.body)
            .with_context(|| format!("the answer to {:?}: expected a JSON object", request.custom_id))?;
        self.n_answered += 1;
        self.n_failed += usize::from(reply.status >= 400);
        if let Some(usage) = body.usage {
            self.usage.prompt_tokens += usage.prompt_tokens;
            self.usage.completion_tokens += usage.completion_tokens;
            self.usage.prompt_tokens_details.cached_tokens += usage.prompt_tokens_details.cached_tokens;
        }
        Ok(())
    }

    fn tell(&self, args: &Args) -> Result<()> {
        let Tally { n_requests, n_before, n_answered, n_failed, ref usage, seconds } = *self;
        let speed = usage.completion_tokens as f64 / seconds.max(1e-9);
        if args.json {
            let object = json!({
                "requests": n_requests,
                "answered_before": n_before,
                "answered": n_answered,
                "failed": n_failed,
                "prompt_tokens": usage.prompt_tokens,
                "cached_prompt_tokens": usage.prompt_tokens_details.cached_tokens,
                "generated_tokens": usage.completion_tokens,
                "seconds": seconds,
                "tokens_per_second": speed,
                "output": args.output,
            });
            writeln!(std::io::stdout(), "{object}")?;
        }
        let before = if n_before > 0 { format!(", {n_before} before") } else { String::new() };
        let failed = if n_failed > 0 { format!(" · {n_failed} with an error") } else { String::new() };
        eprintln!(
            "{n_answered} answers{before}, of {n_requests} requests{failed} · {} tokens in {}, {speed:.1} tokens/s · \
             {}",
            usage.completion_tokens,
            show::duration(seconds),
            args.output.display()
        );
        Ok(())
    }
}

/// Requests that are answered.
struct Work {
    app: Arc<App>,
    input: Input,
    /// Those that have no line yet, and are not in.
    missing: HashSet<String>,
    /// Requests at once.
    most: usize,
    bar: ProgressBar,
}

impl Work {
    /// Answers all that are missing. True when somebody stopped it before.
    async fn answer(&mut self, output: &mut Output, tally: &mut Tally) -> Result<bool> {
        let offline = Offline::new(self.app.clone(), lines::MAX_LEN);
        let start = Instant::now();
        self.bar.set_position(tally.n_before as u64);
        self.bar.reset_eta();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        // Ends them all when it is dropped.
        let mut answers: JoinSet<(Request, Reply)> = JoinSet::new();
        // Those for which there were no places beside others; each is tried again by itself.
        let mut crowded: Vec<Request> = Vec::new();
        let mut is_alone = false;
        loop {
            while !is_alone && answers.len() < self.most && (crowded.is_empty() || answers.is_empty()) {
                let again = crowded.pop();
                is_alone = again.is_some();
                let Some(request) = again.map_or_else(|| self.next(), |request| Ok(Some(request)))? else { break };
                let (offline, app) = (offline.clone(), self.app.clone());
                answers.spawn(async move {
                    // The engine's thread gives the places of those before back a moment later.
                    while is_alone && app.model.service.status().requests > 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    let reply = request.answer(&offline).await;
                    (request, reply)
                });
            }
            let (request, reply) = tokio::select! {
                done = answers.join_next() => match done {
                    Some(done) => done.context("the answer to a request")?,
                    None => return Ok(false),
                },
                result = &mut stop => {
                    result.context("waiting for Ctrl-C")?;
                    return Ok(true);
                }
                _ = tick.tick() => {
                    let generated = self.app.model.service.status().generated_tokens;
                    let speed = generated as f64 / start.elapsed().as_secs_f64().max(1e-9);
                    self.bar.set_message(format!("{speed:.0} tokens/s"));
                    continue;
                }
            };
            let was_alone = std::mem::take(&mut is_alone);
            match reply.status {
                429 if !was_alone => {
                    crowded.push(request);
                    continue;
                }
                // This request may be a good one.
                503 => bail!("{}", String::from_utf8_lossy(&reply.body)),
                _ => {}
            }
            tally.add(&request, &reply)?;
            tally.seconds = start.elapsed().as_secs_f64();
            output.append(&request.custom_id, &reply)?;
            self.bar.inc(1);
        }
    }

    /// The next request of the file that is missing.
    fn next(&mut self) -> Result<Option<Request>> {
        while let Some(request) = self.input.next()? {
            if self.missing.remove(&request.custom_id) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }
}
