//! `puna publish --check`: may a model be passed on like this?

use super::now;
use crate::show::{self, one_line};
use anyhow::{Result, bail};
use puna_text::Date;
use puna_vault::licence::{Licence, Occasion};
use puna_vault::obligations::{Applied, Publication, Report, apply, check};
use puna_vault::record::State;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Check a folder against what its model's licence asks of whoever passes it on
///
/// Row by row: what is asked, whether the folder fulfils it, and what to do if it does not. Nothing is sent anywhere.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna publish --check ./Llama-3.1-8B-Bard --fix --base ./Llama-3.1-8B-Instruct
  puna publish --check ./Llama-3.1-8B-Bard --json")]
pub struct Args {
    /// The folder to check
    #[arg(long, value_name = "DIR")]
    check: PathBuf,
    /// What the model is to be called [default: as the folder]
    #[arg(long)]
    name: Option<String>,
    /// Its licence, such as llama3.1 or apache-2.0 [default: what the folder tells]
    #[arg(long, value_name = "LICENCE", value_parser = licence)]
    licence: Option<&'static Licence>,
    /// The folder of the model that it was made from, for the texts that lie there
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// It is the very model that was published, unchanged
    #[arg(long, conflicts_with = "base")]
    unchanged: bool,
    /// Write what is missing, as far as a program can: nothing that is there is taken away
    #[arg(long)]
    fix: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn licence(text: &str) -> Result<&'static Licence, String> {
    Licence::of_id(text).ok_or_else(|| {
        let known: Vec<&str> = puna_vault::licence::all().iter().map(|licence| licence.id.as_str()).collect();
        format!("expected one of {}, found {text}", known.join(", "))
    })
}

pub fn run(args: Args) -> Result<()> {
    let publication = Publication {
        dir: &args.check,
        name: args.name.as_deref(),
        licence: args.licence,
        is_derived: args.unchanged.then_some(false),
        base: args.base.as_deref(),
    };
    let look = || check(&publication, Occasion::Push);
    let mut report = look()?;
    let mut applied = Vec::new();
    if args.fix {
        applied = apply(&publication, &report)?;
        report = look()?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(&report, &applied))?;
    } else {
        for done in &applied {
            match done {
                Applied::Wrote { id, file } => writeln!(out, "wrote {file}, for {id}")?,
                Applied::Missing { id, why } => writeln!(out, "{id}: {}", one_line(why))?,
            }
        }
        for (licence, why) in &report.licences {
            writeln!(out, "{}: {}, by {}", one_line(&report.name), licence.name, one_line(why))?;
        }
        let rows = report.rows.iter().map(|row| {
            vec![
                row.state.to_string(),
                row.obligation.id.clone(),
                row.obligation.clause.clone(),
                one_line(&row.evidence),
            ]
        });
        write!(out, "{}", show::table(&rows.collect::<Vec<_>>(), 4))?;
        for row in report.rows.iter().filter(|row| row.state == State::Unmet) {
            let remedy = row.remedy.as_deref().unwrap_or("a person has to see to it");
            writeln!(out, "{}: {} To do: {}", row.obligation.id, row.obligation.words, one_line(remedy))?;
        }
    }
    out.flush()?;
    if report.is_refused() {
        bail!("{}: not to be passed on like this; --fix writes what a program can", args.check.display());
    }
    Ok(())
}

fn to_json(report: &Report, applied: &[Applied]) -> serde_json::Value {
    let rows = report.rows.iter().map(|row| {
        json!({
            "licence": row.licence.id, "id": row.obligation.id, "clause": row.obligation.clause, "state": row.state,
            "words": row.obligation.words, "evidence": row.evidence, "remedy": row.remedy,
        })
    });
    let applied = applied.iter().map(|done| match done {
        Applied::Wrote { id, file } => json!({ "id": id, "wrote": file }),
        Applied::Missing { id, why } => json!({ "id": id, "missing": why }),
    });
    json!({
        "name": report.name, "checked_at": Date::timestamp(now()), "refused": report.is_refused(),
        "licences": report.licences.iter().map(|(licence, why)| json!({ "id": licence.id, "by": why })).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(), "applied": applied.collect::<Vec<_>>(),
    })
}
