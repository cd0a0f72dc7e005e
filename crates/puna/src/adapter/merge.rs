//! `puna adapter merge`: a whole model, with what adapters change in its weights.

use super::base::{Base, Given};
use crate::builtin;
use crate::licence::LicenceArgs;
use crate::show;
use crate::vault;
use anyhow::Result;
use puna_checkpoint::adapter::Adapter;
use puna_checkpoint::export::{self, Deviation, Options, Rounded};
use puna_checkpoint::{Checkpoint, Container, GgufVocabulary, Layout, WeightFormat};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write a model with what adapters change in its weights
///
/// The new weights W + Σ s·B·A are rounded to their format, which loses some of what an adapter does, the more the fewer
/// bits the format has. How much is told. Licence, notice and a model card are written along.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna adapter merge -m ./Llama-3.1-8B-Instruct ./my-adapter -o ./Llama-3.1-8B-Mine
  puna adapter merge -m ./Llama-3.1-8B-Instruct ./my-adapter -o Llama-3.1-8B-Mine.gguf --format Q8_0
  puna adapter merge -m ./Llama-3.1-8B-Instruct ./my-adapter=0.7 ./my-adapter.gguf=0.3 -o ./Llama-3.1-8B-Both --json")]
pub struct Args {
    /// A directory of PEFT's, or a .gguf file of llama.cpp's; several add up, each times its weight
    #[arg(required = true, value_name = "ADAPTER[=WEIGHT]")]
    adapters: Vec<Given>,
    /// The model that the adapters belong to
    #[arg(short, long, value_name = "MODEL", value_parser = vault::model_parser())]
    model: PathBuf,
    /// The file to write, if it ends in .gguf; else a new directory, which a GGUF model can't become
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// A number or block format, or a mix such as Q4_K_M, for all weights [default: every tensor keeps its own]
    #[arg(long)]
    format: Option<WeightFormat>,
    #[command(flatten)]
    licence: LicenceArgs,
    /// List every changed matrix
    #[arg(long)]
    tensors: bool,
    /// One JSON object: `name`, `licence`, `tensors`, `all`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let checkpoint = builtin::open(&args.model)?;
    let base = Base::new(&args.model, &checkpoint);
    let adapters = args.adapters.iter().map(|given| base.load(given)).collect::<Result<Vec<(Adapter, f32)>>>()?;
    let names: Vec<&str> = adapters.iter().filter_map(|(adapter, _)| adapter.settings.base_name.as_deref()).collect();
    let terms = args.licence.terms(&args.model, &checkpoint, &names, &args.output)?;
    let n_adapters = adapters.len();
    let mut beside = terms.files(&about(&args));
    beside.push(record(&args)?);
    let options = Options {
        format: args.format,
        beside,
        metadata: terms.metadata(),
        vocabulary: vocabulary_for(&args.output, &args.model, &checkpoint)?,
    };
    let bar = show::byte_bar("merging", checkpoint.tensor_bytes());
    let rounded = export::write_merged(&checkpoint, adapters, &args.output, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    let bytes = bar.position();
    bar.finish_and_clear();

    let all: Deviation = rounded.iter().map(|rounded| rounded.deviation).sum();
    let mut out = std::io::stdout().lock();
    if args.json {
        let tensors: Vec<Value> = rounded.iter().map(tensor_json).collect();
        let object = json!({
            "output": args.output.display().to_string(),
            "name": terms.name,
            "licence": terms.licence(),
            "tensors": tensors,
            "all": deviation_json(&all),
        });
        writeln!(out, "{object}")?;
    } else {
        let adapters = if n_adapters == 1 { "1 adapter".to_owned() } else { format!("{n_adapters} adapters") };
        writeln!(out, "{adapters} merged into {} matrices; rounding error, root mean square:", rounded.len())?;
        if args.tensors {
            for Rounded { name, format, deviation } in &rounded {
                writeln!(out, "{:32} {:>6}  {}", name.to_string(), format.name(), figures(deviation))?;
            }
        }
        let mut formats: BTreeMap<_, Vec<Deviation>> = BTreeMap::new();
        for Rounded { format, deviation, .. } in &rounded {
            formats.entry(*format).or_default().push(*deviation);
        }
        for (format, deviations) in formats {
            let (n, all) = (deviations.len(), deviations.into_iter().sum());
            writeln!(out, "{:32} {:>6}  {}", format!("{n} matrices"), format.name(), figures(&all))?;
        }
    }
    eprintln!("{}: {}, {} of weights", args.output.display(), terms.name, show::bytes(bytes));
    if let (Some(of_change), Some(kept)) = (all.of_change(), all.kept())
        && (of_change > MUCH || kept < 1.0 - MUCH)
    {
        eprintln!(
            "warning: rounding moves the weights {of_change:.2} times as far as the adapters do, and keeps {:.0} % of \
             what they do; choose a --format of more bits, or leave them unmerged: puna run --adapter",
            100.0 * kept
        );
    }
    if let Some(reminder) = terms.reminder() {
        eprintln!("note: {reminder}");
    }
    Ok(())
}

/// The vocabulary of a directory, if it is to become a GGUF file.
fn vocabulary_for(out: &Path, model: &Path, checkpoint: &Checkpoint) -> Result<Option<GgufVocabulary>> {
    if Container::of(out) != Container::Gguf || checkpoint.layout == Layout::Gguf {
        return Ok(None);
    }
    let tokenizer = puna_session::tokenizer(checkpoint, model)?;
    Ok(Some(puna_session::gguf_vocabulary(&tokenizer, model)?))
}

/// A rounding error, relative to the change, that is worth a warning.
const MUCH: f64 = 0.5;

/// What it is made from.
fn record(args: &Args) -> Result<(String, Vec<u8>)> {
    let weights: Vec<f32> = args.adapters.iter().map(|given| given.weight).collect();
    let options = json!({ "weights": weights, "format": args.format.map(|format| format.to_string()) });
    let adapters: Vec<&Path> = args.adapters.iter().map(|given| given.path.as_path()).collect();
    vault::provenance::record("adapter merge", options, &args.model, &adapters)
}

/// What the model card says of the model.
fn about(args: &Args) -> String {
    let file_name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let adapters = args.adapters.iter().map(|given| format!("{} (times {})", file_name(&given.path), given.weight));
    let format = args.format.map_or_else(String::new, |format| format!(", in {format}"));
    format!(
        "{} with the LoRA adapters {} merged into its weights{format}, by `puna adapter merge`.",
        file_name(&args.model),
        adapters.collect::<Vec<_>>().join(", ")
    )
}

fn figures(deviation: &Deviation) -> String {
    match (deviation.of_weights(), deviation.of_change(), deviation.kept()) {
        (Some(of_weights), Some(of_change), Some(kept)) => format!(
            "{of_weights:.2e} of the weights, {of_change:.2e} of the change, {:.1} % of which is kept",
            100.0 * kept
        ),
        _ => "nothing was changed".to_owned(),
    }
}

fn tensor_json(rounded: &Rounded) -> Value {
    let mut json = deviation_json(&rounded.deviation);
    json["name"] = rounded.name.to_string().into();
    json["format"] = rounded.format.name().into();
    json
}

fn deviation_json(deviation: &Deviation) -> Value {
    json!({
        "error_of_weights": deviation.of_weights(),
        "error_of_change": deviation.of_change(),
        "change_kept": deviation.kept(),
    })
}
