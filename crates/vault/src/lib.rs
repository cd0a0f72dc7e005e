//! Models that are yours: obtained from where they are published, checked, and kept, with their terms in plain words.
//!
//! This is the only crate that opens connections to other machines. Whatever comes from there (names, sizes, hashes,
//! headers, bytes) is a stranger's, and is checked before anything is made of it.
//!
//! Modules import only from those in groups below theirs.

pub mod obligations;
pub mod openness;

pub mod record;

pub mod licence;
pub mod manifest;

pub mod diff;
pub mod normalise;

pub mod digest;
pub mod path;
pub mod tree;
