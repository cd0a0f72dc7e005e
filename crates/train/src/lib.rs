//! Training: what a model learns from, and how a loss becomes a change of its weights.
//!
//! [`data`] reads examples and says which of their tokens are trained; a [`Trainer`] takes steps. The model's own forward
//! and backward pass is `puna_llama`'s; nothing here names a back-end. Modules import only those listed below them.

pub mod run;

pub mod log;

mod adapter;
mod settings;
mod trainer;

pub mod data;

mod batch;
mod optimizer;
mod preference;
mod schedule;

pub use adapter::{initial as initial_adapter, n_parameters as n_adapter_parameters, trained as trained_adapter};
pub use batch::Batch;
pub use optimizer::{AdamW, MomentFormat, Moments, Step};
pub use preference::Preference;
pub use schedule::{Schedule, Shape};
pub use settings::{DEFAULT_LENGTH, Method, Objective, Optimizer, Recompute, Settings, SettingsError, TARGETS};
pub use trainer::{Pairs, Progress, Trainer, TrainerOptions, score};
