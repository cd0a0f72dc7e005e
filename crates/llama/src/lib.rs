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

pub use cost::{activation_bytes, operations};
pub use linear::AdapterSource;
pub use model::{Llama, Model, kv_shape};
pub use puna_backend::{Batch, KvFormat, KvShape, PAGE_LEN, Span};
pub use puna_checkpoint::Config;
pub use rope::inverse_frequencies;
pub use training::{Documents, HEAD_ROWS, Learner, Parameter, Part, Trained, Training, TrainingOptions, Visitor};
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
    /// An adapter of a tensor that is no matrix to multiply with, or that the model does not have.
    #[error("an adapter of {0}: expected one of the model's matrices")]
    NotAdaptable(puna_checkpoint::Name),
    /// An adapter of another shape.
    #[error("an adapter of {name}: expected {expected} values in {part} of rank {rank}, found {found}")]
    AdapterShape {
        /// The matrix.
        name: puna_checkpoint::Name,
        /// `A` or `B`.
        part: &'static str,
        /// The adapter's rank, at least 1.
        rank: usize,
        /// Values that the model's shape asks for.
        expected: usize,
        /// Values that there are.
        found: usize,
    },
    /// A token that the model doesn't have.
    #[error("token id {id}: expected below the vocabulary's {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
}
