//! Landlock: which files the process may open, in the kernel's own words.

use super::root::DEVICES;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};
use std::path::{Path, PathBuf};

/// The first version that keeps a file from being emptied.
const NEEDED: ABI = ABI::V3;
/// The newest that was tried; used as far as the kernel has it.
const WANTED: ABI = ABI::V7;

/// Allows reading what is readable, and everything in the scratch folder. Returns the version that is in force.
///
/// Where there is a scratch folder, there is also a root directory that holds nothing else: then any version will do.
pub fn restrict(readable: &[PathBuf], scratch: Option<&Path>) -> Result<Option<u32>, String> {
    let status = rules(readable, scratch).map_err(|error| match error {
        RulesetError::HandleAccesses(_) => "expected version 3 (Linux 6.2), found an older one, or none".into(),
        error => format!("Landlock: {error}"),
    });
    Ok(match status? {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as u32),
        _ => None,
    })
}

fn rules(readable: &[PathBuf], scratch: Option<&Path>) -> Result<LandlockStatus, RulesetError> {
    let mut ruleset = Ruleset::default();
    if scratch.is_none() {
        ruleset = ruleset.set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(NEEDED))?;
    }
    let status = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(WANTED)))?
        .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(scratch, AccessFs::from_all(WANTED)))?
        .restrict_self()?;
    Ok(status.landlock)
}
