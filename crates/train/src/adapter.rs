//! An adapter before and behind its training.

use crate::Settings;
use puna_checkpoint::adapter::{self, Adapter, LowRank};
use puna_checkpoint::{Config, LayerTensor, Name};
use puna_llama::{Error, Learner, Part};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::BTreeMap;

/// An adapter that changes nothing yet, as PEFT begins: `A` uniform within ±1/√in (He et al. 2015 with a = √5), `B` zero.
/// Equal seeds give equal values.
pub fn initial(settings: &Settings, config: &Config) -> Adapter {
    let random = &mut Pcg64::seed_from_u64(settings.seed);
    let mut matrices = BTreeMap::new();
    for name in targets(settings, config) {
        let (rows, cols) = config.shape(name);
        let rank = settings.rank;
        let bound = 1.0 / (cols as f64).sqrt();
        let mut value = || (bound * (2.0 * (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 - 1.0)) as f32;
        let a = (0..rank * cols).map(|_| value()).collect();
        matrices.insert(name, LowRank { rank, alpha: settings.alpha, a, b: vec![0.0; rows * rank] });
    }
    let settings = adapter::Settings {
        rank_stabilized: settings.rank_stabilized,
        dropout: settings.dropout,
        ..adapter::Settings::default()
    };
    Adapter { settings, pairing: config.rope.pairing, matrices }
}

/// Values of such an adapter.
pub fn n_parameters(settings: &Settings, config: &Config) -> u64 {
    targets(settings, config)
        .map(|name| config.shape(name))
        .map(|(rows, cols)| (settings.rank * (rows + cols)) as u64)
        .sum()
}

/// The matrices that get an adapter.
fn targets(settings: &Settings, config: &Config) -> impl Iterator<Item = Name> {
    let is_target = |name: &Name| settings.targets.iter().any(|target| is_called(*name, target));
    config.required().chain(config.tied_embeddings.then_some(Name::Output)).filter(is_target)
}

/// Whether PEFT calls a matrix so.
fn is_called(name: Name, target: &str) -> bool {
    let called = match name {
        Name::Output => "lm_head",
        Name::Layer { tensor: LayerTensor::Query, .. } => "q_proj",
        Name::Layer { tensor: LayerTensor::Key, .. } => "k_proj",
        Name::Layer { tensor: LayerTensor::Value, .. } => "v_proj",
        Name::Layer { tensor: LayerTensor::AttentionOutput, .. } => "o_proj",
        Name::Layer { tensor: LayerTensor::Gate, .. } => "gate_proj",
        Name::Layer { tensor: LayerTensor::Up, .. } => "up_proj",
        Name::Layer { tensor: LayerTensor::Down, .. } => "down_proj",
        Name::TokenEmbedding | Name::OutputNorm | Name::Layer { .. } => return false,
    };
    called == target
}

/// The adapter with the values that the learner has now. It is the one that the learner was made with.
pub fn trained(mut adapter: Adapter, learner: &mut dyn Learner) -> Result<Adapter, Error> {
    learner.for_each(&mut |parameter, values, _| {
        if let Some(matrix) = adapter.matrices.get_mut(&parameter.name) {
            match parameter.part {
                Part::A => matrix.a.copy_from_slice(values),
                Part::B => matrix.b.copy_from_slice(values),
                Part::Whole => {}
            }
        }
    })?;
    Ok(adapter)
}
