//! Fine-tuning of Llama models.
//!
//! [`data`] reads examples and says which of their tokens are trained. Modules import only those listed below them.

pub mod data;
