//! A model that learns: forward with what gradients need, and backward, by hand.
//!
//! Documents lie one after another in a pass, each with positions from 0, and see only themselves. The forward pass is
//! that of inference, [layer by layer](crate::layer), with a cache of one layer in f32; a [`Record`] keeps what
//! [`backward`] needs of each layer, or only its input, from which the layer is computed again.

mod backward;
mod gradients;
mod probe;
mod record;

pub(crate) use backward::scratch_widths;
pub use probe::Probe;
pub(crate) use record::kept_width;

use crate::layer::{Pass, State};
use crate::linear::Linear;
use crate::weights::{LINEARS, Loader, Weights, source};
use crate::{Config, Error, inverse_frequencies, kv_shape};
use backward::{Back, Scratch};
use gradients::{LinearGradients, ModelGradients, TrainedNorm};
use puna_backend::{Batch, Gradients, KvFormat, KvShape, PAGE_LEN, Span};
use puna_checkpoint::{Checkpoint, LayerTensor, Name, Tensor, adapter::Adapter};
use record::{Dropout, Record, Watch};

/// Logits that are computed together at most, of some labelled tokens: there are never more of them in memory.
const LOGITS: usize = 1 << 24;

/// Labelled tokens whose logits are computed together.
pub(crate) fn head_rows(config: &Config, max_tokens: usize) -> usize {
    (LOGITS / config.vocab_size).clamp(1, max_tokens)
}

/// Documents of a training pass and what is asked about them.
#[derive(Clone, Copy, Debug)]
pub struct Documents<'a> {
    /// Token ids of all documents, one after another.
    pub ids: &'a [u32],
    /// Length of each.
    pub lens: &'a [usize],
    /// Rows that predict a label, ascending.
    pub rows: &'a [usize],
    /// The token that each of these rows is to predict.
    pub labels: &'a [u32],
}

/// What is trained.
#[allow(clippy::large_enum_variant, reason = "there is one of them in a program")]
pub enum Trained {
    /// An adapter, from these values; the model stays as it is, in any format.
    Adapter(Adapter),
    /// All weights, in f32.
    Weights,
}

/// How training goes about its memory.
#[derive(Clone, Copy, Debug)]
pub struct TrainingOptions {
    /// Tokens of a pass at most.
    pub max_tokens: usize,
    /// Whether layers keep their input only and are computed again when their gradient is: a third more work, and a tenth
    /// of the memory for activations.
    pub recompute: bool,
}

/// Which part of a matrix a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The weights themselves.
    Whole,
    /// `A` of an adapter.
    A,
    /// `B` of an adapter.
    B,
}

/// A trained tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Whose it is.
    pub name: Name,
    /// What of it.
    pub part: Part,
    /// Rows, 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// Sees a parameter, its values, which it may change, and its gradient.
pub type Visitor<'a> = dyn FnMut(&Parameter, &mut [f32], &[f32]) + 'a;

/// A model that learns, whatever computes it.
pub trait Learner: Send {
    /// Sizes and constants.
    fn config(&self) -> &Config;
    /// What computes, for people.
    fn describe(&self) -> String;
    /// Appends the log-probability of each label to `log_probabilities`; `adapts` says whether adapters take part.
    fn score(&mut self, documents: &Documents<'_>, adapts: bool, log_probabilities: &mut Vec<f32>)
    -> Result<(), Error>;
    /// The same with adapters, and adds the gradient of `Σ coefficients · log-probabilities` to the parameters' gradients.
    /// Adapters' dropout depends on `key`.
    fn learn(
        &mut self,
        documents: &Documents<'_>,
        coefficients: &[f32],
        key: u64,
        log_probabilities: &mut Vec<f32>,
    ) -> Result<(), Error>;
    /// Sets all gradients to zero.
    fn zero_gradients(&mut self);
    /// Hands, in the same order each time, each parameter's values and gradient to `f`, which may change the values.
    fn for_each(&mut self, f: &mut Visitor<'_>) -> Result<(), Error>;
}

/// The embedding of a model that learns.
enum Embedding<B: Gradients> {
    /// As it came.
    Fixed(B::Table),
    /// A matrix that is trained, or the output matrix where the two are tied.
    Trained(Option<B::Matrix>),
}

/// A Llama model that learns on the back-end `B`.
pub struct Training<B: Gradients> {
    backend: B,
    config: Config,
    embedding: Embedding<B>,
    weights: Weights<B>,
    gradients: ModelGradients<B>,
    dropout: f32,
    inverse_frequencies: Vec<f32>,
    cache: B::KvCache,
    state: State<B>,
    record: Record<B>,
    scratch: Scratch<B>,
    max_tokens: usize,
}

impl<B: Gradients> Training<B> {
    /// Hands a checkpoint's tensors to the back-end; `progress(bytes taken, bytes in all)`.
    ///
    /// # Errors
    /// A checkpoint that lacks a tensor, an adapter that does not fit, and what the back-end can't do.
    pub fn load(
        backend: B,
        checkpoint: &Checkpoint,
        trained: Trained,
        options: TrainingOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let config = checkpoint.config.clone();
        let whole = matches!(trained, Trained::Weights);
        let trainable = |tensor: &Tensor| {
            let values = tensor.to_f32();
            Ok(backend.trainable(&tensor.name.to_string(), tensor.rows, tensor.cols, values)?)
        };
        let matrix = |tensor: &Tensor| if whole { trainable(tensor) } else { Ok(backend.matrix(source(tensor))?) };
        let mut loader = Loader::new(checkpoint, progress);
        let mut weights = Weights::load(&backend, &mut loader, matrix)?;
        let embedding = match (whole, config.tied_embeddings) {
            (false, _) => Embedding::Fixed(backend.table(source(loader.take(Name::TokenEmbedding)?))?),
            (true, true) => Embedding::Trained(None),
            (true, false) => Embedding::Trained(Some(trainable(loader.take(Name::TokenEmbedding)?)?)),
        };
        loader.end();
        let mut dropout = 0.0;
        if let Trained::Adapter(adapter) = trained {
            dropout = adapter.settings.dropout;
            weights.adapt(&config, adapter, 1.0, None, |name, rows, cols, values| {
                backend.trainable(name, rows, cols, values)
            })?;
        }
        let n = options.max_tokens;
        Ok(Training {
            gradients: ModelGradients::new(&backend, checkpoint, &weights, whole)?,
            inverse_frequencies: inverse_frequencies(&config.rope, config.head_dim),
            // A document begins with a page of its own; pages that nobody writes to take no memory.
            cache: backend.kv_cache(KvShape { n_layers: 1, n_pages: n, ..kv_shape(&config, KvFormat::F32, n) })?,
            state: State::new(&backend, &config, n)?,
            record: Record::new(&backend, &config, n, options.recompute)?,
            scratch: Scratch::new(&backend, &config, n)?,
            max_tokens: n,
            dropout,
            embedding,
            backend,
            config,
            weights,
        })
    }

    /// Computes the hidden states of all tokens to `state.x`, and keeps what the way back needs if `keeps`.
    fn forward(&mut self, pass: &Pass<'_, B>, keeps: bool, adapters: Option<Dropout>) -> Result<(), Error> {
        let ids = pass.batch.ids;
        let table = match &self.embedding {
            Embedding::Fixed(table) => table,
            Embedding::Trained(matrix) => self.backend.table_of(matrix.as_ref().unwrap_or(&self.weights.output.weight)),
        };
        self.backend.embed(table, ids, &mut self.state.x);
        for (idx, layer) in self.weights.layers.iter().enumerate() {
            let kept = if keeps { self.record.of_layer(idx) } else { &mut [] };
            let mut watch = Watch { pass, config: &self.config, layer: idx, kept, adapters };
            pass.layer(layer, &mut self.cache, 0, &mut self.state, &mut watch)?;
        }
        Ok(())
    }

    /// The log-probabilities of the labels, and, if they count in a loss, the gradient of the residual stream behind the
    /// last layer, in `scratch.x`. Logits are computed for some rows at a time.
    fn head(
        &mut self,
        back: &Back<'_, B>,
        documents: &Documents<'_>,
        coefficients: Option<&[f32]>,
        adapts: bool,
        log_probabilities: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let (backend, eps) = (back.backend, self.config.norm_eps);
        let (s, d, weights) = (&mut self.state, &mut self.scratch, &self.weights);
        let head_rows = head_rows(&self.config, self.max_tokens);
        let n_rows = head_rows.min(documents.rows.len());
        let mut logits = backend.activations(n_rows, self.config.vocab_size)?;
        let uncounted = vec![0.0; n_rows];
        if coefficients.is_some() {
            backend.zero(documents.ids.len(), &mut d.x);
        }
        for (i, rows) in documents.rows.chunks(head_rows).enumerate() {
            let (n, first) = (rows.len(), i * head_rows);
            backend.gather(&s.x, rows, &mut s.block);
            backend.rms_norm(&s.block, &weights.output_norm, eps, &mut s.normed);
            backend.matmul(&s.normed, &weights.output.weight, &mut logits);
            if adapts {
                weights.output.add_adapters(backend, &s.normed, n, &[], &mut logits)?;
            }
            let labels = &documents.labels[first..first + n];
            let counted = coefficients.map_or(&uncounted[..n], |coefficients| &coefficients[first..first + n]);
            backend.log_softmax_backward(&mut logits, labels, counted, log_probabilities);
            if coefficients.is_none() {
                continue;
            }
            backend.zero(n, &mut d.normed);
            let output = (&weights.output, &mut self.gradients.output);
            back.linear(output, None, n, &s.normed, &logits, &mut d.normed)?;
            // The gradient of these rows, where their outputs were.
            backend.zero(n, &mut s.normed);
            let norm = self.gradients.output_norm.as_mut().map(|norm| &mut norm.gradient);
            backend.rms_norm_backward(&s.block, &weights.output_norm, eps, &d.normed, &mut s.normed, norm);
            let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
            backend.embed_backward(&rows, &s.normed, &mut d.x);
        }
        Ok(())
    }

    /// Forward, and backward if coefficients are given; adapters take part with this dropout, or not at all.
    fn pass(
        &mut self,
        documents: &Documents<'_>,
        coefficients: Option<&[f32]>,
        adapters: Option<Dropout>,
        log_probabilities: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let (ids, n) = (documents.ids, documents.ids.len());
        assert!(n <= self.max_tokens, "{n} tokens in a pass of {}", self.max_tokens);
        assert_eq!(documents.lens.iter().sum::<usize>(), n, "the documents' tokens are the pass's");
        assert_eq!(documents.rows.len(), documents.labels.len(), "a label for each row");
        if let Some(&id) = ids.iter().chain(documents.labels).find(|id| **id as usize >= self.config.vocab_size) {
            return Err(Error::Token { id, vocab_size: self.config.vocab_size });
        }
        let pages: Vec<u32> = (0..n as u32).collect();
        let mut end = 0;
        let spans: Vec<Span<'_>> = documents
            .lens
            .iter()
            .map(|&len| {
                let first = end;
                end += len.div_ceil(PAGE_LEN);
                Span { start: 0, len, pages: &pages[first..end] }
            })
            .collect();
        let batch = Batch { ids, spans: &spans, outputs: &[] };
        // Clones share what is behind them.
        let (backend, config) = (self.backend.clone(), self.config.clone());
        let pass = Pass::new(&backend, &config, &self.inverse_frequencies, &batch, &[]);
        self.forward(&pass, coefficients.is_some(), adapters)?;
        let back = Back {
            backend: &backend,
            config: &config,
            documents: documents.lens,
            rotation: pass.rotation.inverse(),
            dropout: adapters,
        };
        self.head(&back, documents, coefficients, adapters.is_some(), log_probabilities)?;
        if coefficients.is_none() {
            return Ok(());
        }
        for (idx, layer) in self.weights.layers.iter().enumerate().rev() {
            let (s, d, gradients) = (&mut self.state, &mut self.scratch, &mut self.gradients.layers[idx]);
            let values = match &mut self.record {
                Record::Everything(layers) => &layers[idx],
                Record::Inputs { inputs, values } => {
                    backend.copy(&inputs[idx], &mut s.x);
                    let mut watch = Watch { pass: &pass, config: &config, layer: idx, kept: &mut values[..], adapters };
                    pass.layer(layer, &mut self.cache, 0, s, &mut watch)?;
                    values
                }
            };
            back.layer(idx, layer, values, gradients, s, d)?;
        }
        let d_embedding = match (&self.embedding, &mut self.gradients.embedding) {
            (Embedding::Fixed(_), _) => None,
            (Embedding::Trained(_), Some(own)) => Some(own),
            (Embedding::Trained(_), None) => self.gradients.output.weight.as_mut(),
        };
        if let Some(d_embedding) = d_embedding {
            backend.embed_backward(ids, &self.scratch.x, d_embedding);
        }
        Ok(())
    }
}

impl<B: Gradients> Learner for Training<B> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn score(&mut self, documents: &Documents<'_>, adapts: bool, out: &mut Vec<f32>) -> Result<(), Error> {
        self.pass(documents, None, adapts.then_some(Dropout { rate: 0.0, key: 0 }), out)
    }

    fn learn(
        &mut self,
        documents: &Documents<'_>,
        coefficients: &[f32],
        key: u64,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        assert_eq!(coefficients.len(), documents.rows.len(), "a coefficient for each row");
        self.pass(documents, Some(coefficients), Some(Dropout { rate: self.dropout, key }), out)
    }

    fn zero_gradients(&mut self) {
        self.gradients.zero(&self.backend, &self.config, &self.weights);
    }

    fn for_each(&mut self, f: &mut Visitor<'_>) -> Result<(), Error> {
        let Training { backend, config, weights, gradients, .. } = self;
        let mut visit = Visit { backend, config, f };
        if let (Embedding::Trained(Some(matrix)), Some(gradient)) = (&mut self.embedding, &gradients.embedding) {
            visit.matrix(Name::TokenEmbedding, Part::Whole, matrix, gradient);
        }
        for (idx, (layer, gradients)) in weights.layers.iter_mut().zip(&mut gradients.layers).enumerate() {
            let name = |tensor| Name::Layer { layer: idx, tensor };
            visit.norm(name(LayerTensor::AttentionNorm), &mut layer.attention_norm, &mut gradients.attention_norm)?;
            visit.norm(name(LayerTensor::FfnNorm), &mut layer.ffn_norm, &mut gradients.ffn_norm)?;
            for ((tensor, linear), gradients) in LINEARS.iter().zip(layer.linears_mut()).zip(&gradients.linears) {
                visit.linear(name(*tensor), linear, gradients);
            }
        }
        visit.norm(Name::OutputNorm, &mut weights.output_norm, &mut gradients.output_norm)?;
        visit.linear(Name::Output, &mut weights.output, &gradients.output);
        Ok(())
    }
}

/// Hands parameters to a function.
struct Visit<'a, B: Gradients> {
    backend: &'a B,
    config: &'a Config,
    f: &'a mut Visitor<'a>,
}

impl<B: Gradients> Visit<'_, B> {
    fn matrix(&mut self, name: Name, part: Part, matrix: &mut B::Matrix, gradient: &B::Activations) {
        let (backend, f) = (self.backend, &mut self.f);
        let gradient = backend.view(gradient);
        let (rows, cols) = self.config.shape(name);
        backend.update(matrix, &mut |values| {
            let (rows, cols) = match part {
                Part::Whole => (rows, cols),
                Part::A => (values.len() / cols, cols),
                Part::B => (rows, values.len() / rows),
            };
            f(&Parameter { name, part, rows, cols }, values, &gradient);
        });
    }

    fn linear(&mut self, name: Name, linear: &mut Linear<B>, gradients: &LinearGradients<B>) {
        if let Some(gradient) = &gradients.weight {
            self.matrix(name, Part::Whole, &mut linear.weight, gradient);
        }
        for (adapter, [d_a, d_b]) in linear.adapters.iter_mut().zip(&gradients.adapters) {
            self.matrix(name, Part::A, &mut adapter.a, d_a);
            self.matrix(name, Part::B, &mut adapter.b, d_b);
        }
    }

    fn norm(&mut self, name: Name, vector: &mut B::Vector, norm: &mut Option<TrainedNorm<B>>) -> Result<(), Error> {
        if let Some(norm) = norm {
            let (rows, cols) = (1, norm.values.len());
            let gradient = self.backend.view(&norm.gradient);
            (self.f)(&Parameter { name, part: Part::Whole, rows, cols }, &mut norm.values, &gradient);
            *vector = self.backend.vector(&norm.values)?;
        }
        Ok(())
    }
}
