//! `puna tune plan`: what a run would take, before it does.

use super::job::{Job, JobArgs};
use super::memory::{self, Memory};
use crate::show;
use anyhow::Result;
use puna_checkpoint::Checkpoint;
use puna_cpu::Cpu;
use puna_llama::{Probe, training_operations};
use puna_train::run::{n_sequences, n_steps};
use puna_train::{Method, Objective};
use serde_json::json;
use std::io::Write;
use std::time::Instant;

/// Say what a run would take: memory by item, time, whether it fits, and what to change if not
///
/// Reads the data and measures the machine for a moment; trains nothing.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune plan -m ./Llama-3.1-8B-Instruct -d data.jsonl
  puna tune plan -m ./model.gguf -d ./data --set length=4096 --set rank=64 --json")]
pub struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// One JSON object: `memory`, `available`, `fits`, `savings`, `steps`, `tokens`, `seconds`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let machine = args.job.machine();
    let settings = args.job.settings()?;
    let initial = Initial(std::env::temp_dir().join(format!("puna-plan-{}.gguf", std::process::id())));
    let model = args.job.model(&initial.0, &settings)?;
    let job = Job::new(&args.job, settings, model)?;
    let recompute = memory::recompute(&job, &machine);
    let memory = Memory::new(&job, &job.settings, recompute);
    let (total, available) = (memory.total(), machine.available());
    let fits = available.map(|available| total <= available);
    let savings = memory::savings(&job, recompute);
    let seconds_per_token = seconds_per_token(machine.cpu(), &job.checkpoint, &job, recompute)?;
    let n_sequences = n_sequences(&job.settings, &job.data);
    let steps = n_steps(&job.settings, n_sequences);
    let epoch = job.data.n_tokens();
    let tokens = epoch as f64 * (steps * job.settings.batch as u64) as f64 / n_sequences as f64;
    let seconds = tokens * seconds_per_token;
    let mut out = std::io::stdout().lock();
    if args.json {
        let items: Vec<_> = memory.items.iter().map(|(what, bytes)| json!({ "what": what, "bytes": bytes })).collect();
        let savings: Vec<_> =
            savings.iter().map(|(set, memory)| json!({ "set": set, "bytes": memory.total() })).collect();
        let object = json!({
            "parameters": memory.n_parameters, "recompute": recompute, "memory": items, "bytes": total,
            "available": available, "fits": fits, "savings": savings, "rows": job.data.len(), "steps": steps,
            "tokens": tokens, "tokens_per_second": 1.0 / seconds_per_token, "seconds": seconds,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "memory, {} parameters trained", memory.n_parameters)?;
    for (what, bytes) in &memory.items {
        writeln!(out, "  {what:36} {:>12}", show::bytes(*bytes))?;
    }
    let verdict = match available {
        Some(available) if total <= available => format!("of {} that are available: it fits", show::bytes(available)),
        Some(available) => format!("of {} that are available: it does not fit", show::bytes(available)),
        None => String::new(),
    };
    writeln!(out, "  {:36} {:>12} {verdict}", "in all", show::bytes(total))?;
    writeln!(out, "time, from a product measured now")?;
    writeln!(
        out,
        "  {} rows, {} held back, {epoch} tokens; {steps} steps of {} sequences",
        job.data.len(),
        job.valid.len(),
        job.settings.batch
    )?;
    writeln!(out, "  about {:.0} tokens/s, {} in all", 1.0 / seconds_per_token, show::duration(seconds))?;
    writeln!(out, "to take less memory")?;
    for (set, memory) in savings.iter().filter(|(_, memory)| memory.total() < total) {
        writeln!(out, "  --set {set:30} {:>12}", show::bytes(memory.total()))?;
    }
    Ok(())
}

/// A model that was written only to be planned with.
struct Initial(std::path::PathBuf);

impl Drop for Initial {
    fn drop(&mut self) {
        // It may not exist, and there is nobody to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Estimated from products of one of the model's matrices. Both answers of a pair are computed twice: to know how they
/// count, and to learn.
fn seconds_per_token(cpu: &Cpu, checkpoint: &Checkpoint, job: &Job, recompute: bool) -> Result<f64> {
    let n = job.settings.length();
    let whole = job.settings.method == Method::Full;
    let mut probe = Probe::new(cpu.clone(), checkpoint, n, whole)?;
    let mut best = |run: &mut dyn FnMut(&mut Probe<Cpu>)| {
        let time = |probe: &mut Probe<Cpu>, run: &mut dyn FnMut(&mut Probe<Cpu>)| {
            let start = Instant::now();
            run(probe);
            start.elapsed().as_secs_f64()
        };
        (0..3).map(|_| time(&mut probe, run)).fold(f64::INFINITY, f64::min)
    };
    let seconds = [best(&mut Probe::forward), best(&mut Probe::backward)];
    let operations = training_operations(&checkpoint.config, n, recompute, whole);
    let [forward, backward] = [0, 1].map(|i| operations[i] as f64 * seconds[i] / probe.operations() as f64);
    let again = if job.settings.objective == Some(Objective::Dpo) { forward } else { 0.0 };
    Ok((forward + backward + again) / n as f64)
}
