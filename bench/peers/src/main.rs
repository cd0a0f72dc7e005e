//! puna beside its peers: one process, the same file, the same threads, the same tokens, turn by turn.
//!
//! Whatever a machine does to one of them in a minute it does to the others; what counts is the ratio.

mod candle;
mod llama_cpp;
mod machine;
mod model;
mod peer;
mod phase;
mod plot;
mod puna;
mod run;

use anyhow::{Context, Result, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use machine::Instructions;
use model::{FORMATS, Model, SHAPES};
use peer::Peer;
use phase::Phase;
use plot::Plot;
use run::{Run, Settings};
use std::path::PathBuf;

/// Measure puna beside its peers
#[derive(Parser)]
struct Args {
    /// The 1B shape only, nothing at depth, three turns: unless they are named
    #[arg(long)]
    quick: bool,
    /// One JSON object on standard output: `machine`, `cells`, `skipped`
    #[arg(long)]
    json: bool,
    /// Where the models are, or are written: 40 GB, 5 GB with --quick
    #[arg(long, value_name = "DIR", default_value = "models")]
    models: PathBuf,
    /// Threads of each
    #[arg(long, default_value_t = puna_cpu::Cpu::default_threads())]
    threads: usize,
    /// Turns, after one that is not counted [default: 5]
    #[arg(long)]
    turns: Option<usize>,
    /// Only these shapes
    #[arg(long = "shape", value_delimiter = ',', value_parser = PossibleValuesParser::new(SHAPES))]
    shapes: Vec<String>,
    /// Only these formats
    #[arg(long = "format", value_delimiter = ',', value_parser = PossibleValuesParser::new(FORMATS))]
    formats: Vec<String>,
    /// Only these phases
    #[arg(long, value_delimiter = ',')]
    phases: Vec<Phase>,
    /// Beside these only
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Instructions of all: avx2 needs a build for it, see README.md
    #[arg(long, default_value = "best")]
    instructions: Instructions,
    /// Measure nothing: draw what --json printed, of one machine, as an SVG on standard output
    #[arg(long, value_name = "JSON", num_args = 1.., exclusive = true)]
    plot: Vec<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if !args.plot.is_empty() {
        print!("{}", draw(&args.plot)?);
        return Ok(());
    }
    ensure!(args.threads > 0, "--threads: expected at least 1, found 0");
    args.instructions.check_build()?;
    // SAFETY: the first thread is the only one so far.
    unsafe { candle::configure(args.threads, args.instructions == Instructions::Avx2) };
    std::fs::create_dir_all(&args.models).with_context(|| args.models.display().to_string())?;

    let or = |named: Vec<String>, all: &[&str]| {
        if named.is_empty() { all.iter().map(|name| name.to_string()).collect() } else { named }
    };
    let shapes = or(args.shapes, if args.quick { &SHAPES[..1] } else { &SHAPES });
    let formats = or(args.formats, &FORMATS);
    let turns = args.turns.unwrap_or(if args.quick { 3 } else { 5 });
    ensure!(turns > 0, "--turns: expected at least 1, found 0");
    let phases = match (args.phases.is_empty(), args.quick) {
        (true, false) => Phase::value_variants().to_vec(),
        (true, true) => vec![Phase::Prefill, Phase::Decode, Phase::Together],
        (false, _) => args.phases,
    };
    let peers = if args.peers.is_empty() { Peer::value_variants().to_vec() } else { args.peers };
    let settings =
        Settings { phases, peers, turns, threads: args.threads, instructions: args.instructions, json: args.json };
    let mut run = Run::new(settings)?;
    for shape in SHAPES.iter().filter(|shape| shapes.iter().any(|wanted| wanted == *shape)) {
        for format in FORMATS.iter().filter(|format| formats.iter().any(|wanted| wanted == *format)) {
            run.model(&Model::new(&args.models, shape, format)?)?;
        }
    }
    if args.json {
        println!("{:#}", run.json());
    }
    Ok(())
}

/// The picture of what these files say.
fn draw(files: &[PathBuf]) -> Result<String> {
    let mut plot = Plot::default();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let run = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        plot.add(&run).with_context(|| file.display().to_string())?;
    }
    Ok(plot.svg())
}
