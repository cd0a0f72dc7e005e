//! Models that are yours: taken in, checked, and kept, with their terms in plain words.
//!
//! Whatever is read here (names, sizes, hashes, manifests, records) may be a stranger's, and is checked before anything is
//! made of it.
//!
//! Modules import only from those in groups below theirs.

pub mod obligations;
pub mod openness;

pub mod provenance;

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

pub mod digest;
pub mod normalise;
pub mod path;
pub mod tree;
pub mod wording;

pub use disk::DiskError;
pub use hashing::Progress;
