//! `puna tune log`: how a training goes or went, from the log that it keeps.

mod report;
mod svg;
mod terminal;

mod summary;

mod figures;

use crate::show;
use anyhow::{Context, Result, bail};
use puna_train::log;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use summary::{Mean, Summary};

/// Show how a training goes or went: its figures, a chart of the loss, validations, warnings
///
/// The exit code is 2 if the run failed or diverged.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune log ./my-run
  puna tune log ./my-run --html report.html
  puna tune log ./my-run/log.jsonl --smoothing 0.98 --json")]
pub struct Args {
    /// The directory of a run, or its log
    run: PathBuf,
    /// What the mean loss keeps of itself at each step, from 0, which is no mean, to below 1 [default: 0.9, or more
    /// where a hundredth of the run is more than 10 steps]
    #[arg(long, value_name = "SHARE", value_parser = parse_smoothing)]
    smoothing: Option<f64>,
    /// No colours; nor with the variable NO_COLOR
    #[arg(long)]
    no_color: bool,
    /// One JSON object: the figures, and all of `training`, `validation`, `checkpoints`, `warnings`
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write a report for browsers, with charts of everything, in one file that needs no other
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the report over what is there
    #[arg(long, requires = "html")]
    force: bool,
}

fn parse_smoothing(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| format!("expected 0 to below 1, found {text}"))
}

pub fn run(args: Args) -> Result<()> {
    let path = if args.run.is_dir() { args.run.join(log::FILE_NAME) } else { args.run.clone() };
    let mut summary = Summary::new(log::read(&path)?, args.smoothing).with_context(|| path.display().to_string())?;
    summary.silence = seconds_since_written(&path);
    if let Some(file) = &args.html {
        write_report(&summary, file, args.force)?;
    } else {
        let mut out = std::io::stdout().lock();
        if args.json {
            writeln!(out, "{}", to_json(&summary))?;
        } else {
            let colours = show::has_colours(&out, args.no_color);
            let name = show::one_line(&args.run.display().to_string());
            write!(out, "{}", terminal::draw(&summary, &name, terminal_width(), colours))?;
        }
    }
    match summary.fault() {
        None => Ok(()),
        Some(fault) => bail!("{}: {fault}", path.display()),
    }
}

fn write_report(summary: &Summary, file: &Path, force: bool) -> Result<()> {
    if file.exists() && !force {
        bail!("{}: the file exists; name a new one, or write over it with --force", file.display());
    }
    let report = report::page(summary);
    puna_checkpoint::write_file(file, report.as_bytes())?;
    eprintln!("{}: {}", file.display(), show::bytes(report.len() as u64));
    Ok(())
}

fn seconds_since_written(path: &Path) -> Option<f64> {
    let written = path.metadata().ok()?.modified().ok()?;
    written.elapsed().ok().map(|since| since.as_secs_f64())
}

/// Columns of the terminal that standard output goes to; 80 elsewhere.
fn terminal_width() -> usize {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_col > 0
    {
        return size.ws_col.into();
    }
    80
}

fn to_json(summary: &Summary) -> Value {
    let mut mean = Mean::new(summary.smoothing);
    let training: Vec<Value> = summary
        .steps
        .iter()
        .map(|step| {
            let smoothed = step.loss.is_finite().then(|| mean.add(step.loss));
            json!({
                "step": step.step,
                "loss": step.loss,
                "smoothed_loss": smoothed,
                "gradient_norm": step.gradient_norm,
                "lr": show::shortest(step.lr),
                "tokens": step.tokens,
                "labels": step.labels,
                "seconds": step.seconds,
                "changed": step.changed,
                "margin": step.margin,
                "accuracy": step.accuracy,
            })
        })
        .collect();
    json!({
        "state": summary.state.name(),
        "start": summary.start,
        "step": summary.last_step(),
        "resumed_after": summary.resumed_after,
        "tokens": summary.n_tokens(),
        "tokens_per_second": summary.tokens_per_second(),
        "seconds_in_steps": summary.seconds(),
        "seconds_in_all": summary.seconds_in_all,
        "seconds_left": summary.seconds_left(),
        "seconds_since_last_record": summary.silence,
        "smoothing": summary.smoothing,
        "smoothed_loss": summary.loss(),
        "best": summary.best(),
        "training": training,
        "validation": summary.valid,
        "checkpoints": summary.checkpoints,
        "warnings": summary.warnings,
    })
}
