//! An adapter in memory.

use super::identity::{BaseIdentity, Digest};
use crate::{Config, Name, RopePairing, safetensors::Declaration};
use puna_format::Format;
use sha2::{Digest as _, Sha256};
use std::{borrow::Cow, collections::BTreeMap};

/// Low-rank changes to matrices of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What is said of all of it.
    pub settings: Settings,
    /// The order of the rows of `b` of q and k.
    pub pairing: RopePairing,
    /// By the matrix of the base that each changes.
    pub matrices: BTreeMap<Name, LowRank>,
}

/// What is said of an adapter as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Scales are alpha/√rank and not alpha/rank.
    pub rank_stabilized: bool,
    /// Share of inputs that were dropped in training; none are afterwards.
    pub dropout: f32,
    /// What the base was called: a name or a path.
    pub base_name: Option<String>,
    /// What the base was.
    pub base: Option<BaseIdentity>,
    /// Of the text of the chat template that the adapter was trained with.
    pub chat_template: Option<Digest>,
}

/// A change to one matrix W `[rows, cols]` of the base: W + scale·B·A.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The scale is this over the rank, or over its root; never zero.
    pub alpha: f32,
    /// A, `[rank, cols]`, row-major.
    pub a: Vec<f32>,
    /// B, `[rows, rank]`, row-major.
    pub b: Vec<f32>,
}

impl Settings {
    /// The scale of a matrix of this rank and alpha.
    pub fn scale(&self, rank: usize, alpha: f32) -> f32 {
        let rank = rank as f64;
        (f64::from(alpha) / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }
}

impl Adapter {
    /// What multiplies B·A.
    pub fn scale(&self, matrix: &LowRank) -> f32 {
        self.settings.scale(matrix.rank, matrix.alpha)
    }

    /// Numbers in all matrices.
    pub fn n_parameters(&self) -> u64 {
        self.matrices.values().map(|matrix| (matrix.a.len() + matrix.b.len()) as u64).sum()
    }

    /// Of all that it does to a model: scales and matrices.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}\n", self.pairing));
        for (name, matrix) in &self.matrices {
            hash.update(format!("{name} {} {}\n", matrix.rank, self.scale(matrix)));
            for values in [&matrix.a, &matrix.b] {
                values.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
        }
        hash.into()
    }

    /// The same adapter for a base whose rows of q and k are in this order.
    ///
    /// # Panics
    /// When a matrix does not fit `config`.
    pub fn with_pairing(mut self, pairing: RopePairing, config: &Config) -> Adapter {
        for (&name, matrix) in &mut self.matrices {
            matrix.b = match in_order(name, matrix, self.pairing, pairing, config) {
                Cow::Owned(rows) => rows,
                Cow::Borrowed(_) => continue,
            };
        }
        self.pairing = pairing;
        self
    }

    /// Holds everything against a base of these sizes; the error says in words what does not fit. What
    /// [`open`](super::open) has read for it fits.
    pub fn check(&self, config: &Config) -> Result<(), String> {
        if self.matrices.is_empty() {
            return Err("an adapter without a matrix".into());
        }
        for (&name, LowRank { rank, alpha, a, b }) in &self.matrices {
            if !is_adaptable(name) || matches!(name, Name::Layer { layer, .. } if layer >= config.n_layers) {
                return Err(format!("an adapter of {name}: expected one of the model's matrices"));
            }
            let (rows, cols) = config.shape(name);
            if !(1..=MAX_RANK).contains(rank) || a.len() != rank * cols || b.len() != rows * rank {
                let found = format!("{} and {} values", a.len(), b.len());
                return Err(format!("{name}: {found}, expected [{rank}, {cols}] and [{rows}, {rank}]"));
            }
            if !is_alpha(*alpha) {
                return Err(format!("{name}: alpha is {alpha}, expected {ALPHAS}"));
            }
            if let Some(value) = a.iter().chain(b).find(|value| !value.is_finite()) {
                return Err(format!("{name}: a value is {value}, expected a finite number"));
            }
        }
        Ok(())
    }
}

/// More than any adapter has.
pub(super) const MAX_RANK: usize = 1 << 16;

/// Which alphas there are.
pub(super) const ALPHAS: &str = "a number from 1e-9 to 1e9, or the negative of one";

/// Whether it is one of [`ALPHAS`]. A zero would switch the adapter off in one form and be a scale of 1 in the other.
pub(super) fn is_alpha(alpha: f32) -> bool {
    (1e-9..=1e9).contains(&alpha.abs())
}

/// Whether adapters of this matrix are supported: of all that are multiplied with. The token embedding is looked up.
pub(super) fn is_adaptable(name: Name) -> bool {
    !name.is_norm() && name != Name::TokenEmbedding
}

/// Both factors of every matrix as tensors to write: A, then B. `called` gives the two names.
pub(super) fn declarations(
    adapter: &Adapter,
    config: &Config,
    called: impl Fn(Name) -> [String; 2],
) -> Vec<Declaration> {
    let declare = |(&name, matrix): (&Name, &LowRank)| {
        let (rows, cols) = config.shape(name);
        let [a, b] = called(name);
        let declare = |name, shape: [usize; 2]| Declaration { name, format: Format::F32, shape: shape.to_vec() };
        [declare(a, [matrix.rank, cols]), declare(b, [rows, matrix.rank])]
    };
    adapter.matrices.iter().flat_map(declare).collect()
}

/// B with its rows in the order of `to`.
///
/// # Panics
/// When it does not fit `config`.
pub(super) fn in_order<'m>(
    name: Name,
    matrix: &'m LowRank,
    from: RopePairing,
    to: RopePairing,
    config: &Config,
) -> Cow<'m, [f32]> {
    if !name.is_rotated() || from == to {
        return Cow::Borrowed(&matrix.b);
    }
    let (rows, _) = config.shape(name);
    assert_eq!(matrix.b.len(), rows * matrix.rank, "{name}: values of B");
    let row = |row| {
        let stored = to.row_in(from, row, config.head_dim);
        &matrix.b[stored * matrix.rank..][..matrix.rank]
    };
    Cow::Owned((0..rows).flat_map(row).copied().collect())
}

/// Values as the writers append them.
pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    Format::F32.encode(values, &mut bytes);
    bytes
}

/// What most of the matrices have, the smallest of those that are equally common.
pub(super) fn commonest<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    // The last of equal maxima wins, so the smallest comes last.
    values.chunk_by(|a, b| a == b).rev().max_by_key(|run| run.len()).and_then(|run| run.first().copied())
}
