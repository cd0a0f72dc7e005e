//! Models that are yours: obtained from where they are published, checked, and kept, with their terms in plain words.
//!
//! This is the only crate that opens connections to other machines. Whatever comes from there or is read here (names,
//! sizes, hashes, headers, manifests, records, bytes) is a stranger's, and is checked before anything is made of it.
//!
//! Modules import only from those in groups below theirs.

pub mod obligations;
pub mod openness;

pub mod provenance;

pub mod upstream;

pub mod pull;

pub mod source;

pub mod hub;
pub mod meta;

pub mod download;

pub mod catalogue;
pub mod http;

pub mod signing;

pub mod bundle;
pub mod diff;
pub mod import;

pub mod store;

pub mod verify;

pub mod record;

pub mod model;

pub mod events;
pub mod licence;
pub mod manifest;

mod hashing;

mod disk;

pub mod checklist;

pub mod digest;
pub mod normalise;
pub mod path;
pub mod tree;
pub mod wording;

pub use disk::DiskError;
pub use hashing::Progress;
