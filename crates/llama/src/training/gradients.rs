//! Where gradients are gathered, in the shape of the model.

use crate::Error;
use crate::linear::Linear;
use crate::weights::{LINEARS, Layer, Weights};
use puna_backend::Gradients;
use puna_checkpoint::{Checkpoint, Config, LayerTensor, Name};

/// Of a matrix, if it is trained, and of its adapters.
pub(super) struct LinearGradients<B: Gradients> {
    /// `[out, in]`
    pub weight: Option<B::Activations>,
    /// Of `A` and of `B`.
    pub adapters: Vec<[B::Activations; 2]>,
}

/// A norm's weights, which a back-end only takes whole, and their gradient.
pub(super) struct TrainedNorm<B: Gradients> {
    pub values: Vec<f32>,
    /// `[1, dim]`
    pub gradient: B::Activations,
}

/// Of a layer.
pub(super) struct LayerGradients<B: Gradients> {
    pub attention_norm: Option<TrainedNorm<B>>,
    pub ffn_norm: Option<TrainedNorm<B>>,
    /// In the order of [`LINEARS`].
    pub linears: [LinearGradients<B>; 7],
}

/// Of all that is trained.
pub(super) struct ModelGradients<B: Gradients> {
    /// Of an embedding that is trained and not tied to the output matrix.
    pub embedding: Option<B::Activations>,
    pub layers: Vec<LayerGradients<B>>,
    pub output_norm: Option<TrainedNorm<B>>,
    pub output: LinearGradients<B>,
}

fn zeros<B: Gradients>(backend: &B, rows: usize, cols: usize) -> Result<B::Activations, Error> {
    let mut gradient = backend.activations(rows, cols)?;
    backend.zero(rows, &mut gradient);
    Ok(gradient)
}

impl<B: Gradients> LinearGradients<B> {
    fn new(backend: &B, linear: &Linear<B>, (rows, cols): (usize, usize), whole: bool) -> Result<Self, Error> {
        let adapters = linear
            .adapters
            .iter()
            .map(|adapter| Ok([zeros(backend, adapter.rank, cols)?, zeros(backend, rows, adapter.rank)?]));
        let adapters = adapters.collect::<Result<_, Error>>()?;
        Ok(LinearGradients { weight: whole.then(|| zeros(backend, rows, cols)).transpose()?, adapters })
    }

    fn zero(&mut self, backend: &B, linear: &Linear<B>, rows: usize) {
        if let Some(weight) = &mut self.weight {
            backend.zero(rows, weight);
        }
        for ([a, b], adapter) in self.adapters.iter_mut().zip(&linear.adapters) {
            backend.zero(adapter.rank, a);
            backend.zero(rows, b);
        }
    }
}

impl<B: Gradients> ModelGradients<B> {
    /// For the adapters that the weights have, and for all weights if `whole`.
    pub fn new(backend: &B, checkpoint: &Checkpoint, weights: &Weights<B>, whole: bool) -> Result<Self, Error> {
        let config = &checkpoint.config;
        let norm = |name: Name| {
            let trained = || {
                let values = checkpoint.tensor(name).ok_or(Error::Missing(name))?.to_f32();
                Ok::<_, Error>(TrainedNorm { gradient: zeros(backend, 1, values.len())?, values })
            };
            whole.then(trained).transpose()
        };
        let of_layer = |(layer, weights): (usize, &Layer<B>)| {
            let name = |tensor| Name::Layer { layer, tensor };
            let linears = LINEARS.iter().zip(weights.linears());
            let linears: Result<Vec<_>, Error> = linears
                .map(|(tensor, linear)| LinearGradients::new(backend, linear, config.shape(name(*tensor)), whole))
                .collect();
            Ok(LayerGradients {
                attention_norm: norm(name(LayerTensor::AttentionNorm))?,
                ffn_norm: norm(name(LayerTensor::FfnNorm))?,
                linears: linears?.try_into().unwrap_or_else(|_| unreachable!("seven matrices a layer")),
            })
        };
        let shape = config.shape(Name::Output);
        let embedding = (whole && !config.tied_embeddings).then(|| zeros(backend, shape.0, shape.1));
        Ok(ModelGradients {
            embedding: embedding.transpose()?,
            layers: weights.layers.iter().enumerate().map(of_layer).collect::<Result<_, Error>>()?,
            output_norm: norm(Name::OutputNorm)?,
            output: LinearGradients::new(backend, &weights.output, shape, whole)?,
        })
    }

    /// Sets all to zero.
    pub fn zero(&mut self, backend: &B, config: &Config, weights: &Weights<B>) {
        let norm = |norm: &mut Option<TrainedNorm<B>>| {
            if let Some(norm) = norm {
                backend.zero(1, &mut norm.gradient);
            }
        };
        if let Some(embedding) = &mut self.embedding {
            backend.zero(config.vocab_size, embedding);
        }
        for (gradients, layer) in self.layers.iter_mut().zip(&weights.layers) {
            norm(&mut gradients.attention_norm);
            norm(&mut gradients.ffn_norm);
            for ((gradients, linear), tensor) in gradients.linears.iter_mut().zip(layer.linears()).zip(LINEARS) {
                gradients.zero(backend, linear, config.shape(Name::Layer { layer: 0, tensor }).0);
            }
        }
        norm(&mut self.output_norm);
        self.output.zero(backend, &weights.output, config.vocab_size);
    }
}
