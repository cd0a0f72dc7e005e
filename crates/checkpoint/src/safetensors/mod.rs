//! The safetensors container: header reader and streaming writer. No model knowledge.
//!
//! Layout: a little-endian u64 `n`, `n` bytes of JSON (name → `dtype`, `shape`, `data_offsets`), then the data, to the
//! end of the file, without gaps.

mod files;
mod header;
mod writer;

pub(crate) use files::write_files;
pub use header::{Entry, Header, HeaderError, Shape, metadata};
pub use writer::{Declaration, Writer};
