//! The gradient of the whole model against differences of a forward pass in f64 that is written here, from the equations.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_checkpoint::adapter::{Adapter, LowRank, Settings};
use puna_checkpoint::synth::{self, Container, Shape, Weights};
use puna_checkpoint::{Checkpoint, Config, LayerTensor, Name, RopePairing};
use puna_cpu::Cpu;
use puna_llama::{Documents, Learner, Part, Trained, Training, TrainingOptions, inverse_frequencies};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::collections::{BTreeMap, HashMap};

/// Largest error of a gradient, relative to the largest of its tensor.
const TOLERANCE: f64 = 1e-4;

/// Elements of each tensor whose slopes are taken.
const SAMPLE: usize = 4;

/// Values of a tensor, or of a part of an adapter.
type Values = HashMap<(Name, Part), Vec<f64>>;

struct Reference<'a> {
    config: &'a Config,
    values: Values,
    /// Of `B A`.
    scale: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Reference<'_> {
    fn get(&self, name: Name) -> &[f64] {
        &self.values[&(name, Part::Whole)]
    }

    fn linear(&self, name: Name, x: &[f64]) -> Vec<f64> {
        let mut out: Vec<f64> = self.get(name).chunks_exact(x.len()).map(|w| dot(w, x)).collect();
        if let Some(a) = self.values.get(&(name, Part::A)) {
            let inner: Vec<f64> = a.chunks_exact(x.len()).map(|a| self.scale * dot(a, x)).collect();
            let b = self.values[&(name, Part::B)].chunks_exact(inner.len());
            out.iter_mut().zip(b).for_each(|(out, b)| *out += dot(b, &inner));
        }
        out
    }

    fn norm(&self, name: Name, x: &[f64]) -> Vec<f64> {
        let scale = (dot(x, x) / x.len() as f64 + f64::from(self.config.norm_eps)).sqrt();
        x.iter().zip(self.get(name)).map(|(x, w)| w * x / scale).collect()
    }

    fn rotate(&self, x: &mut [f64], position: usize) {
        let hd = self.config.head_dim;
        let frequencies = inverse_frequencies(&self.config.rope, hd);
        for head in x.chunks_exact_mut(hd) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
                let (a, b) = match self.config.rope.pairing {
                    RopePairing::Interleaved => (2 * i, 2 * i + 1),
                    RopePairing::Halves => (i, i + hd / 2),
                };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
    }

    /// Hidden states of a document's tokens.
    fn document(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        let Config { dim, n_heads, n_kv_heads, head_dim: hd, .. } = *self.config;
        let embedding = self.get(Name::TokenEmbedding);
        let mut rows: Vec<Vec<f64>> = ids.iter().map(|id| embedding[*id as usize * dim..][..dim].to_vec()).collect();
        for layer in 0..self.config.n_layers {
            let name = |tensor| Name::Layer { layer, tensor };
            let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
            for (position, x) in rows.iter().enumerate() {
                let x = self.norm(name(LayerTensor::AttentionNorm), x);
                q.push(self.linear(name(LayerTensor::Query), &x));
                k.push(self.linear(name(LayerTensor::Key), &x));
                v.push(self.linear(name(LayerTensor::Value), &x));
                self.rotate(q.last_mut().unwrap(), position);
                self.rotate(k.last_mut().unwrap(), position);
            }
            for (position, x) in rows.iter_mut().enumerate() {
                let mut attended = vec![0.0; n_heads * hd];
                for (head, out) in attended.chunks_exact_mut(hd).enumerate() {
                    let kv = head / (n_heads / n_kv_heads) * hd;
                    let q = &q[position][head * hd..][..hd];
                    let score = |key: usize| (dot(q, &k[key][kv..][..hd]) / (hd as f64).sqrt()).exp();
                    let scores: Vec<f64> = (0..=position).map(score).collect();
                    let total: f64 = scores.iter().sum();
                    for (score, v) in scores.iter().zip(&v) {
                        out.iter_mut().zip(&v[kv..]).for_each(|(out, v)| *out += score / total * v);
                    }
                }
                let block = self.linear(name(LayerTensor::AttentionOutput), &attended);
                x.iter_mut().zip(block).for_each(|(x, y)| *x += y);
                let normed = self.norm(name(LayerTensor::FfnNorm), x);
                let up = self.linear(name(LayerTensor::Up), &normed);
                let gate = self.linear(name(LayerTensor::Gate), &normed);
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let block = self.linear(name(LayerTensor::Down), &inner);
                x.iter_mut().zip(block).for_each(|(x, y)| *x += y);
            }
        }
        rows
    }

    /// Log-probabilities of the labels.
    fn log_probabilities(&self, documents: &Documents<'_>) -> Vec<f64> {
        let mut rows = Vec::new();
        let mut ids = documents.ids;
        for len in documents.lens {
            let (document, rest) = ids.split_at(*len);
            rows.extend(self.document(document));
            ids = rest;
        }
        let output = if self.config.tied_embeddings { Name::TokenEmbedding } else { Name::Output };
        let of_label = |(row, label): (&usize, &u32)| {
            let normed = self.norm(Name::OutputNorm, &rows[*row]);
            let logits: Vec<f64> = self.get(output).chunks_exact(normed.len()).map(|w| dot(w, &normed)).collect();
            logits[*label as usize] - logits.iter().map(|logit| logit.exp()).sum::<f64>().ln()
        };
        documents.rows.iter().zip(documents.labels).map(of_label).collect()
    }

    /// `∂ loss / ∂ values[key][i]`, by five points.
    fn slope(&mut self, key: (Name, Part), i: usize, loss: &impl Fn(&Self) -> f64) -> f64 {
        const STEP: f64 = 1e-3;
        let value = self.values[&key][i];
        let mut at = |steps: f64| {
            self.values.get_mut(&key).unwrap()[i] = value + steps * STEP;
            loss(self)
        };
        let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
        at(0.0);
        slope
    }
}

fn random() -> Pcg64Mcg {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = now.as_nanos() as u64;
    println!("seed {seed}");
    Pcg64Mcg::seed_from_u64(seed)
}

fn value(random: &mut Pcg64Mcg) -> f32 {
    random.next_u32() as f32 / 2f32.powi(31) - 1.0
}

/// A model of random weights in a directory of its own.
fn model(tied: bool, container: Container, seed: u64) -> (tempfile::TempDir, Checkpoint) {
    let shape = format!(
        r#"{{"dim": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 40, "vocab_size": 600,
          "context_length": 512, "rope_factor": 8, "tied_embeddings": {tied}}}"#
    );
    let shape = Shape::from_json("small", &shape).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(if container == Container::Gguf { "model.gguf" } else { "model" });
    synth::write(&shape, "BF16".parse().unwrap(), container, &path, Weights::Random { seed }, &mut |_, _| {}).unwrap();
    let checkpoint = puna_checkpoint::open(&path).unwrap();
    (directory, checkpoint)
}

fn reference(checkpoint: &Checkpoint) -> Reference<'_> {
    let values = checkpoint.config.required().map(|name| {
        let values = checkpoint.tensor(name).unwrap().to_f32().into_iter().map(f64::from).collect();
        ((name, Part::Whole), values)
    });
    Reference { config: &checkpoint.config, values: values.collect(), scale: 2.0 }
}

/// Three documents, one of them a single token; some of their tokens have labels.
struct Material {
    ids: Vec<u32>,
    rows: Vec<usize>,
    labels: Vec<u32>,
    coefficients: Vec<f32>,
}

const LENS: [usize; 3] = [9, 1, 5];

impl Material {
    fn new(random: &mut Pcg64Mcg) -> Material {
        let ids: Vec<u32> = (0..LENS.iter().sum()).map(|_| random.next_u32() % 600).collect();
        let rows = vec![0, 1, 3, 7, 10, 12];
        let labels = rows.iter().map(|row| ids[row + 1]).collect();
        let coefficients = rows.iter().map(|_| value(random)).collect();
        Material { ids, rows, labels, coefficients }
    }

    fn documents(&self) -> Documents<'_> {
        Documents { ids: &self.ids, lens: &LENS, rows: &self.rows, labels: &self.labels }
    }
}

/// Checks log-probabilities and gradients of all that is trained.
fn check(learner: &mut impl Learner, reference: &mut Reference<'_>, material: &Material, random: &mut Pcg64Mcg) {
    let documents = material.documents();
    let mut found = Vec::new();
    learner.learn(&documents, &material.coefficients, 0, &mut found).unwrap();
    for (found, expected) in found.iter().zip(reference.log_probabilities(&documents)) {
        assert!((f64::from(*found) - expected).abs() <= 1e-4 * expected.abs(), "{found}, expected {expected}");
    }
    let loss = |reference: &Reference<'_>| {
        let log_probabilities = reference.log_probabilities(&documents);
        log_probabilities.iter().zip(&material.coefficients).map(|(log, c)| log * f64::from(*c)).sum::<f64>()
    };
    let mut n = 0;
    let mut gradients = Vec::new();
    learner.for_each(&mut |parameter, _, gradient| gradients.push((*parameter, gradient.to_vec()))).unwrap();
    for (parameter, gradient) in gradients {
        let tied = reference.config.tied_embeddings && parameter.name == Name::Output;
        let name = if tied { Name::TokenEmbedding } else { parameter.name };
        assert_eq!(gradient.len(), parameter.rows * parameter.cols, "{parameter:?}");
        let scale = gradient.iter().fold(0f32, |max, g| max.max(g.abs()));
        // Where the gradient is largest, and anywhere.
        let largest = gradient.iter().position(|g| g.abs() == scale).unwrap();
        for i in (1..SAMPLE).map(|_| random.next_u32() as usize % gradient.len()).chain([largest]) {
            let expected = reference.slope((name, parameter.part), i, &loss);
            let error = (f64::from(gradient[i]) - expected).abs();
            let found = gradient[i];
            assert!(error <= TOLERANCE * f64::from(scale), "{parameter:?}, {i}: {found}, expected {expected}");
        }
        n += 1;
    }
    assert!(n >= 2 * 7, "{n} parameters");
    // Gradients add up until they are set to zero.
    let sums = |learner: &mut dyn Learner| {
        let mut sums = Vec::new();
        learner
            .for_each(&mut |_, _, gradient| sums.push(gradient.iter().map(|g| f64::from(*g).abs()).sum::<f64>()))
            .unwrap();
        sums
    };
    let once = sums(learner);
    learner.learn(&documents, &material.coefficients, 0, &mut Vec::new()).unwrap();
    for (once, twice) in once.iter().zip(sums(learner)) {
        assert!((twice - 2.0 * once).abs() <= 1e-5 * once, "{twice}, expected twice {once}");
    }
    learner.zero_gradients();
    assert!(sums(learner).iter().all(|sum| *sum == 0.0));
}

fn options(recompute: bool) -> TrainingOptions {
    TrainingOptions { max_tokens: 20, recompute }
}

#[test]
fn of_all_weights() {
    let random = &mut random();
    for (tied, container, recompute) in
        [(false, Container::Safetensors, false), (true, Container::Gguf, true), (true, Container::Safetensors, false)]
    {
        let (_directory, checkpoint) = model(tied, container, random.next_u64());
        let mut training =
            Training::load(Cpu::new(2), &checkpoint, Trained::Weights, options(recompute), &mut |_, _| {}).unwrap();
        check(&mut training, &mut reference(&checkpoint), &Material::new(random), random);
    }
}

/// On each matrix, with neither part zero.
fn adapter(config: &Config, dropout: f32, random: &mut Pcg64Mcg) -> Adapter {
    let settings = Settings { dropout, ..Settings::default() };
    let mut adapter = Adapter { settings, pairing: config.rope.pairing, matrices: BTreeMap::new() };
    for name in config.required() {
        let (rows, cols) = config.shape(name);
        if rows > 1 && !matches!(name, Name::TokenEmbedding | Name::Output) {
            let rank = 3;
            let mut values = |n: usize| (0..n).map(|_| 0.1 * value(random)).collect();
            let (a, b) = (values(rank * cols), values(rows * rank));
            // A scale of 2.
            adapter.matrices.insert(name, LowRank { rank, alpha: 6.0, a, b });
        }
    }
    adapter
}

#[test]
fn of_adapters() {
    let random = &mut random();
    for recompute in [false, true] {
        let (_directory, checkpoint) = model(false, Container::Safetensors, random.next_u64());
        let adapter = adapter(&checkpoint.config, 0.0, random);
        let mut reference = reference(&checkpoint);
        for (name, LowRank { a, b, .. }) in &adapter.matrices {
            for (part, values) in [(Part::A, a), (Part::B, b)] {
                reference.values.insert((*name, part), values.iter().copied().map(f64::from).collect());
            }
        }
        let trained = Trained::Adapter(adapter);
        let mut training =
            Training::load(Cpu::new(2), &checkpoint, trained, options(recompute), &mut |_, _| {}).unwrap();
        check(&mut training, &mut reference, &Material::new(random), random);
    }
}

/// Computing layers again gives the same bits, dropout too, and threads change nothing.
#[test]
fn recomputing_changes_no_bit() {
    let random = &mut random();
    let (_directory, checkpoint) = model(false, Container::Gguf, random.next_u64());
    let material = Material::new(random);
    let seed = random.next_u64();
    let run = |recompute: bool, n_threads: usize, key: u64| {
        let adapter = adapter(&checkpoint.config, 0.3, &mut Pcg64Mcg::seed_from_u64(seed));
        let trained = Trained::Adapter(adapter);
        let cpu = Cpu::new(n_threads);
        let mut training = Training::load(cpu, &checkpoint, trained, options(recompute), &mut |_, _| {}).unwrap();
        let mut bits = Vec::new();
        training.learn(&material.documents(), &material.coefficients, key, &mut bits).unwrap();
        training.for_each(&mut |_, _, gradient| bits.extend_from_slice(gradient)).unwrap();
        bits.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let expected = run(false, 1, 7);
    assert_eq!(run(true, 3, 7), expected);
    assert_ne!(run(false, 1, 8), expected, "another key drops others");
}
