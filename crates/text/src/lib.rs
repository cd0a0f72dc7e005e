//! Text and tokens: tokenizer, chat format, templates and the streaming decoder.
//!
//! Nothing here knows a model, reads a file or opens a socket; callers hand in bytes and strings. Modules import only those
//! listed below them.

pub mod template;

pub mod chat;
pub mod stream;
pub mod tokenizer;

pub mod base64;
mod date;
mod python_json;
mod split;
mod unicode;

pub use date::Date;
pub use stream::StreamDecoder;
pub use tokenizer::{GgufVocabulary, TokenId, Tokenizer, TokenizerError, TrainError, Trained, Trainer, TrainerOptions};
