//! The model that adapters are to be used with: whether it is their base, and the adapters as it needs them.

use crate::vault;
use anyhow::{Result, bail};
use puna_checkpoint::Checkpoint;
use puna_checkpoint::adapter::{self, Adapter, BaseIdentity, Digest, Likeness, Listing};
use puna_vault::provenance::Role;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An adapter on the command line, `PATH` or `PATH=WEIGHT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// A directory of PEFT's, or a .gguf file of llama.cpp's.
    pub path: PathBuf,
    /// What multiplies its effect.
    pub weight: f32,
}

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Given, String> {
        let whole = Given { path: text.into(), weight: 1.0 };
        let Some((path, weight)) = text.rsplit_once('=') else { return Ok(whole) };
        // A name may have the sign in it.
        if whole.path.exists() {
            return Ok(whole);
        }
        let weight: f32 = weight.parse().map_err(|_| format!("expected a number behind `=`, found `{weight}`"))?;
        if path.is_empty() || !weight.is_finite() || weight == 0.0 {
            return Err("expected ADAPTER=WEIGHT with a number other than 0, e.g. ./my-adapter=0.5".into());
        }
        Ok(Given { path: path.into(), weight })
    }
}

/// A model that adapters are held against.
pub struct Base<'a> {
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    /// Computed once, and only for an adapter that has recorded one.
    identity: OnceCell<BaseIdentity>,
}

impl<'a> Base<'a> {
    pub fn new(path: &'a Path, checkpoint: &'a Checkpoint) -> Base<'a> {
        Base { path, checkpoint, identity: OnceCell::new() }
    }

    /// How it is like the base that an adapter has recorded; `None` where nothing is recorded.
    pub fn likeness(&self, listing: &Listing) -> Option<Likeness> {
        let recorded = listing.settings.base.as_ref()?;
        Some(recorded.likeness(self.identity.get_or_init(|| BaseIdentity::of(self.checkpoint))))
    }

    /// Whether its chat template is the one of the training; `None` where the adapter or the model has none.
    pub fn has_same_template(&self, listing: &Listing) -> Option<bool> {
        let recorded = listing.settings.chat_template?;
        let template = self.checkpoint.chat_template.as_deref()?;
        Some(recorded == Digest::of(template.as_bytes()))
    }

    /// Refuses the adapter at `path` of another base; says so where that can't be known for sure.
    pub fn expect(&self, path: &Path, listing: &Listing) -> Result<()> {
        let (adapter, model) = (path.display(), self.path.display());
        match self.likeness(listing) {
            None | Some(Likeness::Same) => Ok(()),
            Some(Likeness::OtherFormat) => {
                eprintln!("note: {model} is the base of {adapter} in another format, or a near relative of it");
                Ok(())
            }
            Some(Likeness::Another { what, recorded, found }) => {
                bail!(
                    "{model}: not the base that {adapter} was trained on: its {what} are {found}, expected {recorded}"
                )
            }
        }
    }

    /// Reads an adapter, all of whose matrices fit the model, and gives it with its weight; a chat template other than
    /// the adapter's is told.
    pub fn load(&self, given: &Given) -> Result<(Adapter, f32)> {
        let Given { path, weight } = given;
        vault::trust::check(Role::Adapter, path)?;
        let listing = adapter::list(path)?;
        self.expect(path, &listing)?;
        let adapter = listing.load(&self.checkpoint.config)?;
        if self.has_same_template(&listing) == Some(false) {
            let (adapter, model) = (path.display(), self.path.display());
            eprintln!("warning: the chat template of {model} is not the one that {adapter} was trained with");
        }
        Ok((adapter, *weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_told_from_names() {
        let given = |path: &str, weight| Ok(Given { path: path.into(), weight });
        assert_eq!("./a".parse(), given("./a", 1.0));
        assert_eq!("./a=0.5".parse(), given("./a", 0.5));
        assert_eq!("a=b=-2".parse(), given("a=b", -2.0));
        for bad in ["a=", "a=half", "a=0", "a=inf", "=1"] {
            assert!(bad.parse::<Given>().is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rank=16");
        std::fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(path.parse(), given(path, 1.0));
        assert_eq!(format!("{path}=2").parse(), given(path, 2.0));
    }
}
