//! Text and tokens: tokenizer, chat format, templates and the streaming decoder.
//!
//! Nothing here knows a model, reads a file or opens a socket; callers hand in bytes and strings. Modules import only those
//! listed below them.

pub mod stream;
pub mod tokenizer;

mod split;
mod unicode;

pub use stream::StreamDecoder;
pub use tokenizer::{GgufVocabulary, TokenId, Tokenizer, TokenizerError};
