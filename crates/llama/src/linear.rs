//! A matrix of the model with what adapters add to it.

use puna_backend::Backend;

/// `y = W x + Σ scale · B (A x)`.
pub(crate) struct Linear<B: Backend> {
    /// `W`, `[out, in]`.
    pub weight: B::Matrix,
    /// Any number of adapters, none in a model as it comes.
    pub adapters: Vec<LowRank<B>>,
}

/// A low-rank change of a matrix: LoRA (Hu et al. 2021, arXiv 2106.09685).
pub(crate) struct LowRank<B: Backend> {
    /// `A`, `[rank, in]`.
    pub a: B::Matrix,
    /// `B`, `[out, rank]`.
    pub b: B::Matrix,
    pub rank: usize,
    pub scale: f32,
}

impl<B: Backend> Linear<B> {
    pub fn new(weight: B::Matrix) -> Self {
        Linear { weight, adapters: Vec::new() }
    }

    /// Adds `Σ scale · B (A x)` of `n` rows to `out`.
    pub fn add_adapters(
        &self,
        backend: &B,
        x: &B::Activations,
        n: usize,
        out: &mut B::Activations,
    ) -> Result<(), puna_backend::Error> {
        for adapter in &self.adapters {
            backend.matmul_add(&adapter.inner(backend, x, n)?, &adapter.b, out);
        }
        Ok(())
    }
}

impl<B: Backend> LowRank<B> {
    /// `scale · A x`, of `n` rows.
    pub fn inner(&self, backend: &B, x: &B::Activations, n: usize) -> Result<B::Activations, puna_backend::Error> {
        let mut inner = backend.activations(n, self.rank)?;
        backend.matmul(x, &self.a, &mut inner);
        backend.scale(&mut inner, self.scale);
        Ok(inner)
    }
}
