//! `puna adapter inspect`: what an adapter changes, and whether a model is its base.

use super::base::Base;
use crate::builtin;
use crate::show::{self, one_line};
use crate::vault;
use anyhow::Result;
use puna_checkpoint::Name;
use puna_checkpoint::adapter::{self, Form, Likeness, Listing, Stored};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Show which matrices an adapter changes, their ranks and scales, and what it was trained on
///
/// Every name and setting is checked, and with a model every shape and value.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna adapter inspect ./my-adapter
  puna adapter inspect ./my-adapter.gguf -m ./Llama-3.1-8B-Instruct-Q8_0.gguf --json")]
pub struct Args {
    /// A directory of PEFT's, or a .gguf file of llama.cpp's
    adapter: PathBuf,
    /// A model to hold the adapter against
    #[arg(short, long, value_name = "MODEL", value_parser = vault::model_parser())]
    model: Option<PathBuf>,
    /// List every matrix
    #[arg(long)]
    tensors: bool,
    /// One JSON object, with every matrix
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let listing = adapter::list(&args.adapter)?;
    let model = args.model.as_deref().map(|path| Comparison::new(path, &listing)).transpose()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(&listing, model.as_ref()))?;
        return Ok(());
    }
    let settings = &listing.settings;
    let n_files = listing.files.len();
    writeln!(
        out,
        "adapter       {} · {}, {n_files} {}, {}",
        args.adapter.display(),
        form(&listing),
        if n_files == 1 { "file" } else { "files" },
        show::bytes(listing.files.iter().map(|file| file.bytes).sum())
    )?;
    writeln!(
        out,
        "low rank      {} matrices, {} parameters, {}",
        listing.matrices.len(),
        listing.n_parameters(),
        formats(&listing).join(", ")
    )?;
    if settings.dropout > 0.0 {
        writeln!(out, "dropout       {} in training", settings.dropout)?;
    }
    for name in listing.base_copies.keys() {
        writeln!(out, "beside them   a copy of the base's {name}, which is not used")?;
    }
    let base_name = settings.base_name.as_deref().map_or("no name".to_owned(), one_line);
    match &settings.base {
        None => writeln!(out, "base          {base_name} · its weights are not recorded")?,
        Some(base) => writeln!(
            out,
            "base          {base_name} · {}, values {:.12}, norms {:.12}\n              {}",
            one_line(&base.formats),
            base.values,
            base.norms,
            one_line(&base.sizes)
        )?,
    }
    match settings.chat_template {
        None => writeln!(out, "chat template not recorded")?,
        Some(digest) => writeln!(out, "chat template {digest:.12}")?,
    }
    writeln!(out)?;
    let over = if settings.rank_stabilized { "√rank" } else { "rank" };
    for group in groups(&listing) {
        let Group { kind, rank, alpha, layers } = &group;
        let layers = if layers.is_empty() { String::new() } else { format!("  layers {}", ranges(layers)) };
        let scale = settings.scale(*rank, *alpha);
        writeln!(out, "{kind:18} rank {rank:<4} scale {scale} = {alpha}/{over}{layers}")?;
    }
    if args.tensors {
        writeln!(out)?;
        for (name, Stored { a, b, .. }) in &listing.matrices {
            let shape = format!("{} x {} x {}", b.rows, a.rows, a.cols);
            writeln!(out, "{:32} {:>8} {:>8}  {shape:>20}", name.to_string(), a.format.name(), b.format.name())?;
        }
    }
    if let Some(Comparison { path, likeness, same_template }) = model {
        writeln!(out, "\nmodel         {}: {}", path.display(), verdict(likeness.as_ref()))?;
        match same_template {
            Some(true) => writeln!(out, "              its chat template is the one of the training")?,
            Some(false) => writeln!(out, "              its chat template is not the one of the training")?,
            None => {}
        }
    }
    Ok(())
}

/// A model, held against what an adapter says of its base.
struct Comparison {
    path: PathBuf,
    /// `None` where nothing is recorded.
    likeness: Option<Likeness>,
    /// `None` where the adapter or the model has none.
    same_template: Option<bool>,
}

impl Comparison {
    /// The adapter must fit the model.
    fn new(path: &Path, listing: &Listing) -> Result<Comparison> {
        let checkpoint = builtin::open(path)?;
        listing.load(&checkpoint.config)?;
        let base = Base::new(path, &checkpoint);
        Ok(Comparison {
            path: path.to_owned(),
            likeness: base.likeness(listing),
            same_template: base.has_same_template(listing),
        })
    }
}

fn verdict(likeness: Option<&Likeness>) -> String {
    match likeness {
        None => "the shapes fit; whether it is the base is not recorded".to_owned(),
        Some(Likeness::Same) => "the base of the training".to_owned(),
        Some(Likeness::OtherFormat) => "the base in another format, or a near relative of it".to_owned(),
        Some(Likeness::Another { what, recorded, found }) => {
            format!("not the base: {what} recorded as {}, found {}", one_line(recorded), one_line(found))
        }
    }
}

fn to_json(listing: &Listing, model: Option<&Comparison>) -> Value {
    let settings = &listing.settings;
    let matrices: Vec<Value> = listing
        .matrices
        .iter()
        .map(|(name, stored)| {
            let Stored { alpha, a, b } = stored;
            json!({
                "name": name.to_string(),
                "rank": stored.rank(),
                "alpha": show::shortest(*alpha),
                "scale": show::shortest(settings.scale(stored.rank(), *alpha)),
                "shape": [b.rows, a.cols],
                "formats": [a.format.name(), b.format.name()],
            })
        })
        .collect();
    let files: Vec<Value> = listing
        .files
        .iter()
        .map(|file| json!({ "path": file.path.display().to_string(), "bytes": file.bytes }))
        .collect();
    let base = settings.base.as_ref().map(|base| {
        json!({
            "sizes": base.sizes,
            "formats": base.formats,
            "norms": base.norms.to_string(),
            "values": base.values.to_string(),
        })
    });
    let model = model.map(|model| {
        let likeness = model.likeness.as_ref().map(|likeness| match likeness {
            Likeness::Same => "same",
            Likeness::OtherFormat => "other_format",
            Likeness::Another { .. } => "another",
        });
        json!({
            "path": model.path.display().to_string(),
            "likeness": likeness,
            "verdict": verdict(model.likeness.as_ref()),
            "same_chat_template": model.same_template,
        })
    });
    json!({
        "form": form(listing),
        "files": files,
        "parameters": listing.n_parameters(),
        "formats": formats(listing),
        "rank_stabilized": settings.rank_stabilized,
        "dropout": show::shortest(settings.dropout),
        "base_name": settings.base_name,
        "base": base,
        "chat_template": settings.chat_template.map(|digest| digest.to_string()),
        "matrices": matrices,
        "model": model,
    })
}

fn form(listing: &Listing) -> &'static str {
    match listing.form {
        Form::Peft => "PEFT",
        Form::Gguf => "GGUF",
    }
}

fn formats(listing: &Listing) -> Vec<&'static str> {
    listing.formats().into_iter().map(|format| format.name()).collect()
}

/// Matrices of one kind, rank and alpha.
struct Group {
    kind: String,
    rank: usize,
    alpha: f32,
    /// Empty for a matrix that is in no layer.
    layers: Vec<usize>,
}

fn groups(listing: &Listing) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, stored) in &listing.matrices {
        let (layer, kind) = match *name {
            Name::Layer { layer, .. } => {
                (Some(layer), name.to_string().trim_start_matches(&format!("layers.{layer}.")).to_owned())
            }
            _ => (None, name.to_string()),
        };
        let (rank, alpha) = (stored.rank(), stored.alpha);
        let same = |group: &&mut Group| group.kind == kind && group.rank == rank && group.alpha == alpha;
        match groups.iter_mut().find(same) {
            Some(group) => group.layers.extend(layer),
            None => groups.push(Group { kind, rank, alpha, layers: layer.into_iter().collect() }),
        }
    }
    groups
}

/// Ascending numbers for people: `0-3, 7`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(usize::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_of_layers() {
        assert_eq!(super::ranges(&[0, 1, 2, 4, 6, 7]), "0-2, 4, 6-7");
        assert_eq!(super::ranges(&[5]), "5");
    }
}
