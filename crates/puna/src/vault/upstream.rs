//! `puna upstream`: what has become of the place that a model came from.

use super::network::NetworkArgs;
use super::{named, now, runtime};
use crate::show::one_line;
use anyhow::Result;
use puna_vault::http::Patience;
use puna_vault::record::{self, Change};
use puna_vault::source::Source;
use puna_vault::upstream::look;
use serde_json::json;
use std::io::Write;
use std::time::Duration;

/// Ask the place that a model came from whether it is still there, with the same weights and terms
///
/// The answer goes into the model's records, new texts of the terms too. Of the model nothing changes, whatever the answer is.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna upstream meta-llama/Llama-3.1-8B-Instruct
  puna upstream local/Llama-3.1-8B-Instruct --source hf:meta-llama/Llama-3.1-8B-Instruct --json")]
pub struct Args {
    /// A model of `puna list`, with @ and a revision where there are several
    model: String,
    /// Ask there instead, as `puna pull` would
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    #[command(flatten)]
    network: NetworkArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How long somebody who does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(6);

pub fn run(args: Args) -> Result<()> {
    let model = named(&args.model)?;
    let source = args.source.as_deref().map(|source| Source::parse(source, |_| false)).transpose()?;
    let (folder, mut record) = record::of_model(&model, now())?;
    let access = args.network.access(Patience { budget: PATIENCE, ..Patience::default() })?;
    let seen = runtime()?.block_on(look(&access, &model, source.as_ref()))?;
    let changes = seen.note(&folder, &mut record, now())?;
    let new: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::New { role, sha256, .. } => Some((*role, *sha256)),
            _ => None,
        })
        .collect();
    let mut out = std::io::stdout().lock();
    if args.json {
        let terms: Vec<_> = new.iter().map(|(role, hash)| json!({ "role": role, "sha256": hash })).collect();
        let json = json!({
            "model": model.full_name(), "state": seen.state, "status": seen.status, "code": seen.code, "said": seen.said,
            "renamed": seen.renamed, "commit": seen.commit, "new_terms": terms,
            "weights": seen.other_weights.map(|(kept, there)| json!({ "kept": kept, "there": there })),
        });
        writeln!(out, "{json}")?;
        return Ok(());
    }
    write!(out, "{}: {}", model.full_name(), seen.state)?;
    if let Some(said) = &seen.said {
        write!(out, ": {}", one_line(said.trim()))?;
    }
    writeln!(out)?;
    if let Some(name) = &seen.renamed {
        writeln!(out, "it is called {name} now")?;
    }
    if let Some(commit) = seen.commit.as_ref().filter(|commit| **commit != model.manifest.revision) {
        writeln!(out, "the commit there is {}; the one that is kept is {}", one_line(commit), model.manifest.revision)?;
    }
    if let Some((kept, there)) = seen.other_weights {
        writeln!(out, "other weights are there: {there}; those that are kept: {kept}")?;
    }
    for (role, hash) in &new {
        writeln!(out, "another {role} is there, {hash}: it was added to the records; `puna terms show --text` has it")?;
    }
    writeln!(out, "what is kept stays as it is")?;
    Ok(())
}
