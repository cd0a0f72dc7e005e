//! GGUF: header reader, the Llama in it, and a streaming writer.

mod header;
mod metadata;
mod model;
mod writer;

pub use crate::safetensors::Declaration;
pub(crate) use header::encoded_metadata;
pub use header::{Dims, Header, HeaderError, TensorInfo, Value, ValueType};
pub use metadata::metadata;
pub use model::from_bytes;
pub(crate) use model::{FREQUENCIES, open};
pub use writer::{MetadataValue, Writer};
