//! What is looked at before a model or an adapter is opened: whether it may be used, whether somebody signed it whom the user
//! trusts, and whether it was made from what it says.

use super::{now, store, with_bar};
use crate::home;
use crate::show::{byte_bar, one_line};
use anyhow::{Context, Result, bail};
use puna_cpu::Cpu;
use puna_vault::model::Model;
use puna_vault::provenance::{Provenance, Role};
use puna_vault::record::Folder;
use puna_vault::signing::{self, Trust};
use puna_vault::verify::{Depth, verify};
use std::path::Path;

/// In the folder of data: the public keys and the certificates of those whom the user trusts. Where it is, nothing is opened
/// that none of them signed.
const FOLDER: &str = "trusted";

/// Refuses what is not to be opened, and tells what is strange.
pub fn check(role: Role, path: &Path) -> Result<()> {
    let kept = Model::at(path);
    if let Some(record) = kept.as_ref().map(|kept| Folder::of(&kept.dir).read()).transpose()?.flatten() {
        // Whoever's licence has ended may not use the model.
        record.check_active()?;
    }
    // Without a folder of data there is nobody in it.
    let Ok(folder) = home::data().map(|data| data.join(FOLDER)) else { return Ok(()) };
    if let Some(trust) = Trust::in_folder(&folder, now())? {
        check_signed(role, path, kept.as_ref(), &trust).with_context(|| {
            format!(
                "{}: not opened: expected a signature of one of those in {}, as for everything while that folder is there",
                path.display(),
                folder.display()
            )
        })?;
    }
    let warn = |what: String| eprintln!("warning: {}: {}", path.display(), one_line(&what));
    match Provenance::of(path) {
        Ok(None) => {}
        Ok(Some(made)) => made.contradictions(&store()?)?.into_iter().for_each(warn),
        Err(error) => warn(error.to_string()),
    }
    Ok(())
}

fn check_signed(role: Role, path: &Path, kept: Option<&Model>, trust: &Trust) -> Result<()> {
    let dir = kept.map_or(path, |kept| kept.dir.as_path());
    let signature = signing::usual_place(dir);
    if !signature.is_file() {
        bail!("{}: it is not signed; `puna sign` signs it", signature.display());
    }
    if let Some(kept) = kept.filter(|kept| store().is_ok_and(|store| store.has(kept))) {
        // Its bytes were checked when it came, and are again whenever somebody asks: not each time, they are too many. Of
        // a bundle, nobody here knows what it went through.
        signing::verify_kept(kept, trust)?;
        let report = verify(kept, Depth::Quick, 1, &|_, _| ())?;
        if let Some(fault) = report.faults.iter().find(|fault| fault.what.is_damage()) {
            bail!("{fault}");
        }
        return Ok(());
    }
    // The run that an adapter comes from goes on changing.
    let ignores_unsigned = role == Role::Adapter;
    let report = with_bar(byte_bar("verifying", 0), |progress| {
        signing::verify(dir, &signature, trust, ignores_unsigned, Cpu::default_threads(), progress)
    })?;
    match report.faults.first() {
        Some(fault) => bail!("{fault}"),
        None => Ok(()),
    }
}
