//! `puna openness`: what is open about a model, and what is not.

use super::{named, now};
use crate::builtin;
use crate::show::harmless;
use anyhow::{Context, Result};
use puna_text::Date;
use puna_vault::licence::Licence;
use puna_vault::openness::{Card, Facts};
use puna_vault::record::Folder;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Show what is open about a model: each component, its terms, and what frameworks of openness make of it
///
/// Verdicts are computed from the components and their licences. What nobody has looked up is not known, and said to be.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna openness cria
  puna openness meta-llama/Llama-3.1-8B-Instruct
  puna openness meta-llama/Llama-3.1-405B --json
  puna openness cria --html card.html
  puna openness cria --spdx cria.spdx.json --cyclonedx cria.cdx.json")]
pub struct Args {
    /// A model of `puna list`, its folder, or the name of a published model, which need not be here
    #[arg(default_value = builtin::NAME)]
    model: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Write a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write an SPDX 3.0 document
    #[arg(long, value_name = "FILE")]
    spdx: Option<PathBuf>,
    /// Write a CycloneDX document
    #[arg(long, value_name = "FILE")]
    cyclonedx: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let created = Date::timestamp(now());
    let today = created.split('T').next().unwrap_or_default();
    let card = card(&args.model, today)?;
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| -> Result<()> {
        if let Some(path) = path {
            puna_checkpoint::write_file(path, text().as_bytes())?;
        }
        Ok(())
    };
    let pretty = |value: serde_json::Value| serde_json::to_string_pretty(&value).expect("a value is JSON") + "\n";
    write(&args.html, &|| card.to_html())?;
    write(&args.spdx, &|| pretty(card.to_spdx(&created)))?;
    write(&args.cyclonedx, &|| pretty(card.to_cyclonedx(&created)))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&card)?)?;
    } else if args.html.is_none() && args.spdx.is_none() && args.cyclonedx.is_none() {
        write!(out, "{}", harmless(&card.to_string()))?;
    }
    Ok(())
}

fn card(model: &str, today: &str) -> Result<Card> {
    if builtin::is_meant(Path::new(model)) {
        return Ok(Card::new(model, Facts::default(), None, today));
    }
    match named(model) {
        Ok(model) => {
            let record = Folder::of(&model.dir).read()?;
            let licence = record.as_ref().and_then(|record| record.known_licence());
            let name = model.manifest.name.to_string();
            let licence = licence.or_else(|| Licence::of_name(&name));
            Ok(Card::new(&name, Facts::of(&model.manifest), licence, today))
        }
        // A published model can be spoken of before anybody has it.
        Err(error) => {
            let card = Card::new(model, Facts::default(), Licence::of_name(model), today);
            if card.components.iter().all(|part| part.present == puna_vault::openness::Presence::NotKnown) {
                return Err(error).context("nothing is known of a published model of this name, either");
            }
            Ok(card)
        }
    }
}
