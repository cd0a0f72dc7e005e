//! GGUF: header reader, the Llama in it, and a streaming writer.

mod header;
mod model;

pub use header::{Dims, Header, HeaderError, TensorInfo, Value, ValueType};
pub(crate) use model::open;
