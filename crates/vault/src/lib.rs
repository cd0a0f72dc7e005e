//! Models that are yours: obtained from where they are published, checked, and kept, with their terms in plain words.
//!
//! This is the only crate that opens connections to other machines. Whatever comes from there (names, sizes, hashes,
//! headers, bytes) is a stranger's, and is checked before anything is made of it.
//!
//! Modules import only from those in groups below theirs.

pub mod source;

pub mod hub;
pub mod meta;

pub mod download;

pub mod catalogue;
pub mod http;

pub mod manifest;

pub mod digest;
pub mod path;
pub mod tree;
