//! The models that are kept: what their verbs have in common. One file a verb.

pub mod diff;
pub mod gc;
pub mod import;
pub mod keep;
pub mod list;
mod network;
pub mod openness;
pub mod provenance;
pub mod publish;
pub mod pull;
pub mod rm;
pub mod show;
pub mod sign;
pub mod terms;
pub mod trust;
pub mod upstream;
pub mod verify;

use crate::home;
use crate::show::bytes;
use anyhow::{Context, Result};
use clap::builder::{PathBufValueParser, TypedValueParser};
use indicatif::ProgressBar;
use puna_serve::time::Time;
use puna_vault::model::{MANIFEST, Model, ModelError, RECORDS};
use puna_vault::store::{Store, StoreError};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// The store of this user.
fn store() -> Result<Store> {
    Ok(Store::open(&home::data()?)?)
}

/// Now, in milliseconds since 1970.
fn now() -> i64 {
    Time::now().millis()
}

/// Threads for connections.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads for connections")
}

/// Runs something that tells how much is done, and how much there is in all, under a bar.
fn with_bar<T>(bar: ProgressBar, run: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> T) -> T {
    let result = run(&|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result
}

/// A model that somebody names: a folder with a manifest, such as a bundle, or one in the store.
fn named(model: &str) -> Result<Model> {
    match Model::open(Path::new(model)) {
        Err(ModelError::NoManifest { .. }) => Ok(store()?.find(model)?),
        opened => Ok(opened?),
    }
}

/// What somebody names to sign or to check: a model that is kept, or any folder or file. What lies there goes first.
fn anything(model: &str) -> Result<(PathBuf, Option<Model>)> {
    let path = Path::new(model);
    if path.exists() && !path.join(RECORDS).join(MANIFEST).exists() {
        return Ok((path.to_owned(), None));
    }
    let model = named(model)?;
    Ok((model.dir.clone(), Some(model)))
}

/// What the command line's MODEL opens: a path that is there, or else a model in the store, if it has one of this name.
fn locate(model: &Path) -> Result<PathBuf> {
    let as_it_is = || Ok(model.to_owned());
    let Some(name) = model.to_str().filter(|_| !model.exists()) else { return as_it_is() };
    let Ok(store) = store() else { return as_it_is() };
    match store.find(name) {
        Ok(model) => Ok(model.weights()?),
        Err(StoreError::Unknown { .. }) => as_it_is(),
        Err(error) => Err(error.into()),
    }
}

/// Reads a MODEL of the command line.
pub fn model_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|model| locate(&model))
}

/// What a model that lies at this path is called: in the store, as its manifest has it, where the folder is called by a
/// revision.
pub fn name_of(path: &Path) -> Option<String> {
    Model::open(path).ok().map(|model| model.manifest.name.name)
}

/// A model as one JSON object.
fn to_json(model: &Model) -> Value {
    let manifest = &model.manifest;
    json!({
        "name": manifest.name, "revision": manifest.revision, "dir": model.dir, "source": manifest.source,
        "kept_at": manifest.kept_at, "bytes": manifest.size(), "root": manifest.root(), "n_files": manifest.files.len(),
    })
}

/// `3 files, 4.65 GiB`.
fn counted(n_files: usize, n_bytes: u64) -> String {
    format!("{n_files} {}, {}", if n_files == 1 { "file" } else { "files" }, bytes(n_bytes))
}
