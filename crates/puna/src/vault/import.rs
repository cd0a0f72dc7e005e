//! `puna import`: models that are on this machine already.

use super::{counted, now, store, to_json, with_bar};
use crate::show::{byte_bar, bytes, one_line};
use anyhow::{Context, Result};
use puna_vault::import::{Import, import};
use puna_vault::manifest::ModelName;
use std::io::Write;
use std::path::PathBuf;

/// Keep a model that is on this machine already
///
/// It is opened to see that it can be, hashed, held against the hashes that lie beside it, and copied; on file systems that
/// let files share their bytes, without writing them again. Afterwards its name is as good as a path for every other verb.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna import ./Llama-3.1-8B-Instruct
  puna import ./model.gguf --name me/llama --json
  puna import ./Llama-3.2-1B-Instruct --name old --link
  puna import ./model")]
pub struct Args {
    /// A folder in any published form, one of a Hugging Face cache, or a .gguf file, any one of a split set
    path: PathBuf,
    /// What to call it, OWNER/NAME or NAME, whose owner is `local` [default: as the cache, the folder or the file is called]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Which revision it is [default: that of the cache, or else the beginning of its hash]
    #[arg(long)]
    revision: Option<String>,
    /// Take the folder `original`, too: in Meta's repositories it has all weights once more, in Meta's form
    #[arg(long)]
    original: bool,
    /// Link files that nobody may write rather than copy them; what changes them later changes them here, too
    #[arg(long)]
    link: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Takes a model as it is found.
    pub fn of(path: PathBuf, json: bool) -> Args {
        Args { path, name: None, revision: None, original: false, link: false, json }
    }
}

/// Models without an owner.
const OWNER: &str = "local";

pub fn run(args: Args) -> Result<()> {
    let name = match &args.name {
        Some(name) => given(name)?,
        None => found(&args.path)?,
    };
    let what = Import { path: &args.path, name, revision: args.revision, original: args.original, link: args.link };
    let imported = with_bar(byte_bar("importing", 0), |progress| {
        Ok::<_, anyhow::Error>(import(&store()?, &what, now(), progress)?)
    })?;
    let adopted = &imported.adopted;
    let model = &adopted.model;
    if !imported.absent.is_empty() {
        eprintln!("note: its checklist names files that are not there: {}", one_line(&imported.absent.join(", ")));
    }
    if imported.n_left_out > 0 {
        eprintln!("note: {} files in `original` were left out; --original takes them", imported.n_left_out);
    }
    if adopted.copied > 0 {
        eprintln!("note: this file system has no hard links, so that {} lie there twice", bytes(adopted.copied));
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut json = to_json(model);
        json["shared_bytes"] = adopted.shared.into();
        json["linked_bytes"] = imported.linked.into();
        json["cloned_bytes"] = imported.cloned.into();
        json["n_checked"] = imported.n_checked.into();
        json["absent"] = imported.absent.clone().into();
        writeln!(out, "{json}")?;
        return Ok(());
    }
    let manifest = &model.manifest;
    writeln!(out, "{}: {}", model.full_name(), counted(manifest.files.len(), manifest.size()))?;
    if imported.n_checked > 0 {
        writeln!(out, "{} files have the hashes that lay beside them", imported.n_checked)?;
    }
    if adopted.shared > 0 {
        writeln!(out, "{} were here already, in this or another model", bytes(adopted.shared))?;
    }
    Ok(())
}

/// A name of the command line.
fn given(name: &str) -> Result<ModelName> {
    let whole = if name.contains('/') { name.to_owned() } else { format!("{OWNER}/{name}") };
    whole.parse().context("--name")
}

/// The name of a cache's folder, `models--OWNER--NAME`, of a folder or of a file.
fn found(path: &std::path::Path) -> Result<ModelName> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    let parts = path.ancestors().filter_map(|path| path.file_name()?.to_str());
    let cached = parts.clone().find_map(|name| name.strip_prefix("models--")?.split_once("--"));
    let name = match cached {
        Some((owner, name)) => format!("{owner}/{name}"),
        None => {
            let own = if path.is_dir() { path.file_name() } else { path.file_stem() };
            format!("{OWNER}/{}", own.unwrap_or_default().to_string_lossy())
        }
    };
    name.parse().context("--name gives it one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(given("a").unwrap().to_string(), "local/a");
        assert_eq!(given("a/b").unwrap().to_string(), "a/b");
        assert!(given("a/b/c").is_err() && given("").is_err());
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("models--meta-llama--Llama-3.1-8B/snapshots/abc");
        std::fs::create_dir_all(&cache).unwrap();
        assert_eq!(found(&cache).unwrap().to_string(), "meta-llama/Llama-3.1-8B");
        let file = dir.path().join("Llama-Q4_0.gguf");
        std::fs::write(&file, "").unwrap();
        assert_eq!(found(&file).unwrap().to_string(), "local/Llama-Q4_0");
    }
}
