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
    /// Sees only the rows that ask for this adapter; without, all.
    pub adapter: Option<u32>,
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

    /// Adds `Σ scale · B (A x)` of `n` rows to `out`; `asked` says which adapter each row asks for, if any row does.
    pub fn add_adapters(
        &self,
        backend: &B,
        x: &B::Activations,
        n: usize,
        asked: &[Option<u32>],
        out: &mut B::Activations,
    ) -> Result<(), puna_backend::Error> {
        for low_rank in &self.adapters {
            if low_rank.adapter.is_some() && !asked.contains(&low_rank.adapter) {
                continue;
            }
            let mut inner = low_rank.inner(backend, x, n)?;
            if low_rank.adapter.is_some() && asked.iter().any(|asked| *asked != low_rank.adapter) {
                // Rows of others are computed too and count nothing: they are few, and thin.
                let mut values = Vec::new();
                backend.read(&inner, &mut values);
                for (row, asked) in values.chunks_exact_mut(low_rank.rank).zip(asked) {
                    if *asked != low_rank.adapter {
                        row.fill(0.0);
                    }
                }
                backend.write(&values, &mut inner);
            }
            backend.matmul_add(&inner, &low_rank.b, out);
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
