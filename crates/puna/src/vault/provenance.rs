//! The record of what a model or an adapter was made from, which goes along with it.

use super::{now, with_bar};
use crate::builtin;
use crate::show::byte_bar;
use anyhow::Result;
use puna_cpu::Cpu;
use puna_vault::model::PROVENANCE;
use puna_vault::provenance::{Parent, Provenance, Role};
use serde_json::Value;
use std::path::Path;

/// The name of the record, and its bytes: of what a verb makes from a base and adapters, with these options.
pub fn record(verb: &str, options: Value, base: &Path, adapters: &[&Path]) -> Result<(String, Vec<u8>)> {
    let mut made_from = vec![parent(Role::Base, base)?];
    for adapter in adapters {
        made_from.push(parent(Role::Adapter, adapter)?);
    }
    let program = concat!("puna ", env!("CARGO_PKG_VERSION"));
    Ok((PROVENANCE.into(), Provenance::new(program, verb, options, made_from, now()).to_json()))
}

fn parent(role: Role, path: &Path) -> Result<Parent> {
    if role == Role::Base && builtin::is_meant(path) {
        return Ok(Parent::of_bytes(builtin::NAME, &"cria.gguf".parse()?, builtin::FILE));
    }
    let (parent, unreadable) =
        with_bar(byte_bar("hashing", 0), |progress| Parent::of(role, path, Cpu::default_threads(), progress))?;
    if let Some(error) = unreadable {
        eprintln!("note: {error}; it is not taken along");
    }
    Ok(parent)
}
