//! Training: what a model learns from, and how a loss becomes a change of its weights.
//!
//! [`data`] reads examples and says which of their tokens are trained; a [`Trainer`] takes steps; [`log`] keeps what
//! happened. The model's own forward and backward pass is `puna_llama`'s; nothing here names a back-end. Modules import
//! only those listed below them.

mod trainer;

pub mod data;
pub mod log;

mod batch;
mod optimizer;
mod preference;
mod schedule;

pub use batch::Batch;
pub use optimizer::{AdamW, MomentFormat, Moments, Step};
pub use preference::Preference;
pub use schedule::{Schedule, Shape};
pub use trainer::{Pairs, Progress, Trainer, TrainerOptions, score};
