//! What a forward pass leaves for the way back.

use crate::layer::{KEPT, Kept, Pass, Tape};
use crate::{Config, Error};
use puna_backend::Gradients;
use puna_checkpoint::{LayerTensor, Name};

/// The values of a layer that its gradient needs, in the order of [`Kept`].
pub(super) type Values<B> = [<B as puna_backend::Backend>::Activations; KEPT.len()];

/// What is kept of a pass.
pub(super) enum Record<B: Gradients> {
    /// Everything, of each layer.
    Everything(Vec<Values<B>>),
    /// The input of each layer, and room for everything of one.
    Inputs { inputs: Vec<B::Activations>, values: Values<B> },
}

/// Width of a value.
pub(crate) fn kept_width(config: &Config, kept: Kept) -> usize {
    match kept {
        Kept::Input | Kept::Middle => config.dim,
        Kept::Query | Kept::Attended => config.n_heads * config.head_dim,
        Kept::Key | Kept::Value => config.n_kv_heads * config.head_dim,
        Kept::Gate | Kept::Up => config.ffn_dim,
    }
}

impl<B: Gradients> Record<B> {
    /// For at most `n` tokens.
    pub fn new(backend: &B, config: &Config, n: usize, recompute: bool) -> Result<Self, Error> {
        let values = || -> Result<Values<B>, Error> {
            let values: Result<Vec<_>, _> =
                KEPT.iter().map(|kept| backend.activations(n, kept_width(config, *kept))).collect();
            Ok(values?.try_into().unwrap_or_else(|_| unreachable!("as many as there are kinds")))
        };
        Ok(match recompute {
            true => Record::Inputs {
                inputs: (0..config.n_layers).map(|_| backend.activations(n, config.dim)).collect::<Result<_, _>>()?,
                values: values()?,
            },
            false => Record::Everything((0..config.n_layers).map(|_| values()).collect::<Result<_, _>>()?),
        })
    }

    /// Where the forward pass leaves what is kept of a layer.
    pub fn of_layer(&mut self, layer: usize) -> &mut [B::Activations] {
        match self {
            Record::Everything(layers) => &mut layers[layer],
            Record::Inputs { inputs, .. } => std::slice::from_mut(&mut inputs[layer]),
        }
    }
}

/// Dropout of adapters' inputs in a pass.
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    /// Probability that a value is dropped; 0 drops nothing.
    pub rate: f32,
    /// Which values are dropped is a function of this, the matrix and the place, so that it can be found again.
    pub key: u64,
}

/// The same for the adapters of a matrix.
pub(super) struct MatrixDropout {
    rate: f32,
    key: u64,
    /// Columns of the matrix.
    width: usize,
}

impl Dropout {
    /// Of a matrix, if anything is dropped.
    pub fn of(&self, config: &Config, layer: usize, tensor: LayerTensor) -> Option<MatrixDropout> {
        let place = (layer * 16 + tensor as usize) as u64;
        let key = self.key ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (_, width) = config.shape(Name::Layer { layer, tensor });
        (self.rate > 0.0).then_some(MatrixDropout { rate: self.rate, key, width })
    }
}

impl MatrixDropout {
    /// What adapters see of `n` rows of input.
    pub fn seen<B: Gradients>(
        &self,
        backend: &B,
        x: &B::Activations,
        n: usize,
    ) -> Result<B::Activations, puna_backend::Error> {
        let mut seen = backend.activations(n, self.width)?;
        backend.copy(x, &mut seen);
        backend.dropout(&mut seen, self.rate, self.key);
        Ok(seen)
    }

    /// Adds to `d_x` what of a gradient `[n, rank] · A` passes.
    pub fn add_backward<B: Gradients>(
        &self,
        backend: &B,
        d_inner: &B::Activations,
        a: &B::Matrix,
        n: usize,
        d_x: &mut B::Activations,
    ) -> Result<(), puna_backend::Error> {
        let mut d_seen = backend.activations(n, self.width)?;
        backend.zero(n, &mut d_seen);
        backend.matmul_backward(d_inner, a, &mut d_seen);
        backend.dropout(&mut d_seen, self.rate, self.key);
        backend.add(d_x, &d_seen);
        Ok(())
    }
}

/// Keeps what goes by of a layer.
pub(super) struct Watch<'a, B: Gradients> {
    pub pass: &'a Pass<'a, B>,
    pub config: &'a Config,
    pub layer: usize,
    /// Room for the first kinds of values, or for all.
    pub kept: &'a mut [B::Activations],
    /// Adapters' dropout, if they take part.
    pub adapters: Option<Dropout>,
}

impl<B: Gradients> Tape<B> for Watch<'_, B> {
    fn keep(&mut self, kept: Kept, x: &B::Activations) {
        if let Some(slot) = self.kept.get_mut(kept as usize) {
            self.pass.backend.copy(x, slot);
        }
    }

    fn adapts(&self) -> bool {
        self.adapters.is_some()
    }

    fn seen(&self, tensor: LayerTensor, x: &B::Activations) -> Result<Option<B::Activations>, puna_backend::Error> {
        let dropout = self.adapters.and_then(|dropout| dropout.of(self.config, self.layer, tensor));
        dropout.map(|dropout| dropout.seen(self.pass.backend, x, self.pass.batch.ids.len())).transpose()
    }
}
