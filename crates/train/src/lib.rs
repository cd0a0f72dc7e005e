//! Training: what a model learns from, how a loss becomes a change of its weights, and how a run goes on and ends.
//!
//! The model's own forward and backward pass is `puna_llama`'s; nothing here names a back-end.

mod optimizer;
mod schedule;

pub use optimizer::{AdamW, MomentFormat, Moments, Step};
pub use schedule::{Schedule, Shape};
