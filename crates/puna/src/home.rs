//! Where puna keeps what outlives a run: the folders of the system for such things, or the one that PUNA_HOME names.

use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use std::path::PathBuf;

/// Moves everything.
const VARIABLE: &str = "PUNA_HOME";

/// The folder of data: keys, usage, conversations.
pub fn data() -> Result<PathBuf> {
    if let Some(dir) = moved() {
        return Ok(dir);
    }
    let dirs =
        etcetera::choose_base_strategy().context("no folder for puna's data is known; PUNA_HOME can name one")?;
    Ok(dirs.data_dir().join("puna"))
}

/// The folder of state: what is handy to have and no loss to lose.
pub fn state() -> Option<PathBuf> {
    moved().or_else(|| {
        let dirs = etcetera::choose_base_strategy().ok()?;
        Some(dirs.state_dir().unwrap_or_else(|| dirs.data_dir()).join("puna"))
    })
}

fn moved() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Which database of keys, usage and conversations.
#[derive(clap::Args)]
pub struct DatabaseArgs {
    /// The database of keys, usage, conversations and responses; by default serve.db in the data folder, or in the one that
    /// PUNA_HOME names
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
}

impl DatabaseArgs {
    /// Whether somebody named it.
    pub fn is_given(&self) -> bool {
        self.db.is_some()
    }

    pub fn path(&self) -> Result<PathBuf> {
        match &self.db {
            Some(path) => Ok(path.clone()),
            None => Ok(data()?.join("serve.db")),
        }
    }
}
