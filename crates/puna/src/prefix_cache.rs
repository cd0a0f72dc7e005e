//! A server's prefix cache in a file: read when it starts, written when it ends.

use crate::adapter::base::Given;
use crate::model::ModelArgs;
use crate::show;
use anyhow::{Context, Result, bail};
use puna_checkpoint::Checkpoint;
use puna_checkpoint::adapter::{self, Digest};
use puna_engine::Engine;
use puna_session::Service;
use puna_session::kept::{self, Fault};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a prefix cache outlives its server.
pub struct PrefixCache {
    path: PathBuf,
    /// What its keys and values depend on.
    computed_by: Digest,
}

impl PrefixCache {
    /// Takes what the file has into an engine whose model was made of these; nothing where there is no file yet.
    pub fn open(
        path: &Path,
        model: &ModelArgs,
        named: &[Given],
        checkpoint: &Checkpoint,
        engine: &mut Engine,
    ) -> Result<PrefixCache> {
        kept::try_to_write(path).context("--prefix-cache")?;
        let computed_by = computed_by(model, named, checkpoint, engine)?;
        let bar = show::byte_bar("prefixes", 0);
        let (counted, result) = kept::read(engine, path, &computed_by, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        match result {
            Ok(()) if counted.pages == 0 => {}
            Ok(()) => eprintln!("prefixes: {} tokens from {}", counted.tokens, path.display()),
            Err(fault @ (Fault::Read(_) | Fault::Foreign)) => bail!("--prefix-cache {}: {fault}", path.display()),
            // A cache is worth no more than the time to compute it again.
            Err(fault) => eprintln!(
                "warning: --prefix-cache {}: {fault}; {} tokens were taken, and the file is replaced when the server ends",
                path.display(),
                counted.tokens
            ),
        }
        Ok(PrefixCache { path: path.to_owned(), computed_by })
    }

    /// Writes what the engine knows into the file, unless it is stopped.
    pub fn keep(self, service: &Service, stopped: Arc<AtomicBool>) -> Result<()> {
        let shown = self.path.display().to_string();
        let kept = service.visit(move |engine| {
            let bar = show::byte_bar("prefixes", 0);
            let kept = kept::write(engine, &self.path, &self.computed_by, &mut |done, all| {
                bar.set_length(all);
                bar.set_position(done);
                !stopped.load(Ordering::Relaxed)
            });
            bar.finish_and_clear();
            kept
        });
        let kept = kept.context("--prefix-cache")?.context("--prefix-cache")?;
        eprintln!("prefixes: {} tokens kept in {shown}", kept.tokens);
        Ok(())
    }
}

/// The form in which the back-end lays out a page: a number that changes with it.
const LAYOUT: u32 = 1;

/// All that keys and values depend on: the model's weights and constants, adapters, their format, and what computes.
fn computed_by(model: &ModelArgs, named: &[Given], checkpoint: &Checkpoint, engine: &Engine) -> Result<Digest> {
    let bar = show::byte_bar("hashing", checkpoint.tensor_bytes());
    let weights = adapter::digest_of_weights(checkpoint, &|n_bytes| bar.inc(n_bytes));
    bar.finish_and_clear();
    let config = &checkpoint.config;
    let (instructions, kv_format) = (model.instructions().name(), engine.model().kv_shape().format.name());
    let mut text = format!("{LAYOUT} {instructions} {kv_format}\n{weights}\n{config:?}\n");
    // By their order, which is what requests are told apart by.
    for (kind, given) in [("fixed", &model.adapters[..]), ("named", named)] {
        for Given { path, weight } in given {
            let _ = writeln!(text, "{kind} {} {weight}", adapter::list(path)?.load(config)?.digest());
        }
    }
    Ok(Digest::of(text.as_bytes()))
}
