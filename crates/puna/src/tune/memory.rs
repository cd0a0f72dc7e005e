//! The memory of a run, item by item, before it is taken.

use super::job::Job;
use crate::machine::Machine;
use puna_checkpoint::Config;
use puna_format::Format;
use puna_llama::{TrainingBytes, TrainingOptions, training_bytes};
use puna_train::{Method, MomentFormat, Recompute, Settings, n_adapter_parameters};

/// The program itself, threads' scratch space and what the system adds.
const PROGRAM: u64 = 48 << 20;

/// What a run needs.
pub struct Memory {
    /// What for, and bytes.
    pub items: Vec<(&'static str, u64)>,
    /// Values that are trained.
    pub n_parameters: u64,
    /// Bytes of the model's weights where they are not trained: in the file, and arranged for the processor.
    weights: [u64; 2],
}

impl Memory {
    /// Of a run with these settings, layers recomputed or not.
    pub fn new(job: &Job, settings: &Settings, recompute: bool) -> Memory {
        let config = &job.checkpoint.config;
        let whole = settings.method == Method::Full;
        let n_parameters = if whole { n_weights(config) } else { n_adapter_parameters(settings, config) };
        let options = TrainingOptions { max_tokens: settings.pass_tokens(), recompute };
        let TrainingBytes { parameters, gradients, record, activations, logits } =
            training_bytes(config, n_parameters, options);
        let mapped = job.checkpoint.tensor_bytes();
        let arranged = job.checkpoint.tensors().filter(|tensor| is_arranged(tensor.format)).map(|t| t.n_bytes()).sum();
        let mut items = Vec::new();
        // Weights that are trained are read once, and then are others.
        let weights = if whole { [0, 0] } else { [mapped, arranged] };
        items.push(("weights, mapped from the file", weights[0]));
        items.push(("weights, arranged for the processor", weights[1]));
        items.extend([
            (if whole { "weights in f32" } else { "adapter" }, parameters),
            ("gradients", gradients),
            ("moments of the optimizer", n_parameters * moment_bytes(settings.moments())),
            (if recompute { "inputs of layers" } else { "activations kept for the way back" }, record),
            ("activations of a layer", activations),
            ("logits", logits),
            ("tokens of the data", 5 * (job.data.n_tokens() + job.valid.n_tokens())),
            ("program", PROGRAM),
        ]);
        items.retain(|(_, bytes)| *bytes > 0);
        Memory { items, n_parameters, weights }
    }

    /// Bytes of all items.
    pub fn total(&self) -> u64 {
        self.items.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that have no other place than memory: weights in the file can be read again.
    pub fn unmapped(&self) -> u64 {
        self.total() - self.weights[0]
    }

    /// Bytes of everything but the model's weights.
    pub fn beside_weights(&self) -> u64 {
        self.total() - self.weights.iter().sum::<u64>()
    }
}

/// Whether layers are to be recomputed: as the settings say, or if memory would get scarce otherwise.
pub fn recompute(job: &Job, machine: &Machine) -> bool {
    match job.settings.recompute {
        Recompute::On => true,
        Recompute::Off => false,
        Recompute::Auto => {
            let needed = Memory::new(job, &job.settings, false).total();
            machine.available().is_some_and(|available| needed > available / 4 * 3)
        }
    }
}

/// Changes of settings that may take less memory, and what the run needs then.
pub fn savings(job: &Job, recompute: bool) -> Vec<(String, Memory)> {
    let settings = &job.settings;
    let mut changed = Vec::new();
    if !recompute {
        changed.push(("recompute=\"on\"".to_owned(), settings.clone(), true));
    }
    let length = settings.length() / 2;
    if length >= 128 {
        let shorter = Settings { length: Some(length), pass_tokens: None, ..settings.clone() };
        changed.push((format!("length={length}"), shorter, recompute));
    }
    if settings.moments() == MomentFormat::F32 {
        let optimizer = puna_train::Optimizer::Adamw8bit;
        changed.push(("optimizer=\"adamw8bit\"".to_owned(), Settings { optimizer, ..settings.clone() }, recompute));
    }
    if settings.method == Method::Full {
        changed.push(("method=\"lora\"".to_owned(), Settings { method: Method::Lora, ..settings.clone() }, recompute));
    }
    changed.into_iter().map(|(what, settings, recompute)| (what, Memory::new(job, &settings, recompute))).collect()
}

fn moment_bytes(format: MomentFormat) -> u64 {
    match format {
        MomentFormat::F32 => 8,
        MomentFormat::EightBits => 2,
    }
}

fn n_weights(config: &Config) -> u64 {
    config.required().map(|name| config.shape(name)).map(|(rows, cols)| rows as u64 * cols as u64).sum()
}

/// Whether the processor's back-end copies matrices of the format into another order.
fn is_arranged(format: Format) -> bool {
    format.info().block_elems > 1
}
