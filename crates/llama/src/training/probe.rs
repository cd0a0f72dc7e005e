//! One product of a model, to find out how fast a machine trains before anything is loaded.

use crate::Error;
use crate::weights::source;
use puna_backend::Gradients;
use puna_checkpoint::{Checkpoint, LayerTensor, Name};

/// A matrix of the first layer, and activations to multiply it with.
pub struct Probe<B: Gradients> {
    backend: B,
    matrix: B::Matrix,
    x: B::Activations,
    out: B::Activations,
    operations: u64,
}

impl<B: Gradients> Probe<B> {
    /// For products with `n` tokens; with the matrix in f32 if it is to be trained as a `whole`.
    ///
    /// # Errors
    /// A checkpoint without layers, and memory.
    pub fn new(backend: B, checkpoint: &Checkpoint, n: usize, whole: bool) -> Result<Self, Error> {
        let name = Name::Layer { layer: 0, tensor: LayerTensor::Gate };
        let tensor = checkpoint.tensor(name).ok_or(Error::Missing(name))?;
        let matrix = match whole {
            true => backend.trainable(&name.to_string(), tensor.rows, tensor.cols, tensor.to_f32())?,
            false => backend.matrix(source(tensor))?,
        };
        let (mut x, mut out) = (backend.activations(n, tensor.cols)?, backend.activations(n, tensor.rows)?);
        backend.zero(n, &mut x);
        backend.zero(n, &mut out);
        let operations = 2 * (n * tensor.rows * tensor.cols) as u64;
        Ok(Probe { backend, matrix, x, out, operations })
    }

    /// Floating-point operations of either product.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// A product of the forward pass.
    pub fn forward(&mut self) {
        self.backend.matmul(&self.x, &self.matrix, &mut self.out);
    }

    /// A product of the way back.
    pub fn backward(&mut self) {
        self.backend.matmul_backward(&self.out, &self.matrix, &mut self.x);
    }
}
