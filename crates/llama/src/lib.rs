//! Llama: the one forward pass, over any back-end, for weights from any source.
//!
//! Reading order: [`model`] is the network, [`layer`] one layer as the equations read; [`training`] goes the same way back;
//! [`weights`] brings a checkpoint's tensors
//! to the back-end; [`rope`] has the angles. Nothing here names a back-end, a file or a token's text.

mod cost;
mod training;

mod model;

mod layer;
mod linear;
mod rope;
mod weights;

pub use cost::{TrainingBytes, activation_bytes, operations, training_bytes, training_operations};
pub use model::{Input, Llama, Model, Outputs, Through, kv_shape};
pub use puna_backend::{Batch, KvFormat, KvShape, PAGE_LEN, Span};
pub use puna_checkpoint::Config;
pub use rope::inverse_frequencies;
pub use training::{Documents, Learner, Parameter, Part, Probe, Trained, Training, TrainingOptions, Visitor};
pub use weights::LoadOptions;

/// What can go wrong between a checkpoint and its logits.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The back-end could not hold or do something.
    #[error(transparent)]
    Backend(#[from] puna_backend::Error),
    /// The checkpoint has no such tensor. `puna_checkpoint::open` finds this first.
    #[error("tensor {0}: expected in the checkpoint, found nothing")]
    Missing(puna_checkpoint::Name),
    /// An adapter that does not fit the model: of which matrix, and how.
    #[error("{0}")]
    Adapter(String),
    /// A token that the model doesn't have.
    #[error("token id {id}: expected below the vocabulary's {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
}
