//! Adapter files that were opened, values still in place.

use super::{
    adapter_config::Targets,
    identity,
    lora::{Adapter, LowRank, MAX_RANK, Settings, is_adaptable},
};
use crate::{
    Config, Error, FileInfo, Name, RopePairing, config::MAX_LAYERS, error::shown, mapped::Bytes, tensor::unknown,
};
use puna_format::Format;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The form in which an adapter is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A directory with `adapter_config.json` and `adapter_model.safetensors`.
    Peft,
    /// A GGUF file with `general.type` adapter.
    Gguf,
}

impl Form {
    /// The order of rows of q and k in it.
    pub fn pairing(self) -> RopePairing {
        match self {
            Form::Peft => RopePairing::Halves,
            Form::Gguf => RopePairing::Interleaved,
        }
    }
}

/// What adapter files hold. Shapes are those in the file: they fit each other, and no base was asked yet.
#[derive(Debug)]
pub struct Listing {
    /// Which form the files have.
    pub form: Form,
    /// The files.
    pub files: Vec<FileInfo>,
    /// What is said of the adapter as a whole.
    pub settings: Settings,
    /// By the matrix of the base that each changes.
    pub matrices: BTreeMap<Name, Stored>,
    /// Which matrices PEFT's configuration says that it changes; each must be there.
    pub(super) targets: Option<Targets>,
    /// Frozen copies of matrices of the base, which PEFT writes beside adapters of the output matrix. They change
    /// nothing and are not read.
    pub base_copies: BTreeMap<Name, Factor>,
    /// The file with the values.
    path: PathBuf,
}

/// One low-rank matrix in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// See [`LowRank::alpha`].
    pub alpha: f32,
    /// A, `[rank, cols]`.
    pub a: Factor,
    /// B, `[rows, rank]`.
    pub b: Factor,
}

/// A matrix of numbers in a file.
#[derive(Clone, Debug)]
pub struct Factor {
    /// Its name in the file.
    pub called: String,
    /// How its values are stored.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Values per row.
    pub cols: usize,
    bytes: Bytes,
}

impl Stored {
    /// Rows of A and columns of B.
    pub fn rank(&self) -> usize {
        self.a.rows
    }
}

impl Factor {
    /// A matrix of this shape in `bytes`, which must be as many as it needs.
    pub(super) fn new(
        path: &Path,
        called: &str,
        format: Format,
        (rows, cols): (u64, u64),
        bytes: Bytes,
    ) -> Result<Factor, Error> {
        let size = |n: u64| usize::try_from(n).ok();
        let shape = size(rows)
            .zip(size(cols))
            .filter(|&(rows, cols)| format.row_bytes(cols).and_then(|row| row.checked_mul(rows)) == Some(bytes.len()));
        let Some((rows, cols)) = shape else {
            let expected = format!("one that {} bytes of {format} fill", bytes.len());
            return Err(wrong(path, called, "shape", shape_of(rows, cols), expected));
        };
        Ok(Factor { called: called.to_owned(), format, rows, cols, bytes })
    }

    fn expect(&self, path: &Path, rows: usize, cols: usize) -> Result<(), Error> {
        if (self.rows, self.cols) == (rows, cols) {
            return Ok(());
        }
        let (found, expected) = (shape_of(self.rows, self.cols), shape_of(rows, cols));
        Err(wrong(path, &self.called, "shape", found, format!("{expected} for this base")))
    }

    /// Its values, all finite.
    fn load(&self, path: &Path) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; self.rows * self.cols];
        self.format.decode(&self.bytes, &mut values);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(i) => {
                let found = format!("{} at row {}, column {}", values[i], i / self.cols, i % self.cols);
                Err(wrong(path, &self.called, "a value", found, "a finite number".into()))
            }
        }
    }
}

impl Listing {
    /// What a reader found. `alpha` gives that of each matrix.
    pub(super) fn new(
        form: Form,
        path: &Path,
        files: Vec<FileInfo>,
        settings: Settings,
        pairs: Pairs,
        alpha: &dyn Fn(Name, usize) -> f32,
    ) -> Result<Listing, Error> {
        let matrices = pairs
            .finish(path)?
            .into_iter()
            .map(|(name, (a, b))| (name, Stored { alpha: alpha(name, a.rows), a, b }))
            .collect();
        Ok(Listing {
            form,
            files,
            settings,
            matrices,
            targets: None,
            base_copies: BTreeMap::new(),
            path: path.to_owned(),
        })
    }

    /// Numbers in all matrices.
    pub fn n_parameters(&self) -> u64 {
        let n = |factor: &Factor| (factor.rows * factor.cols) as u64;
        self.matrices.values().map(|stored| n(&stored.a) + n(&stored.b)).sum()
    }

    /// The formats of all matrices.
    pub fn formats(&self) -> BTreeSet<Format> {
        self.matrices.values().flat_map(|stored| [stored.a.format, stored.b.format]).collect()
    }

    /// Reads the values, for a base of these sizes. Rows of q and k stay in the order of [`Form::pairing`].
    ///
    /// # Errors
    /// Names the first tensor that does not fit, is missing, or has a value that is no finite number.
    pub fn load(&self, config: &Config) -> Result<Adapter, Error> {
        if let Some(targets) = &self.targets {
            let missing: Vec<Name> = Name::all(config.n_layers)
                .filter(|&name| is_adaptable(name) && targets.have(name) == Some(true))
                .filter(|name| !self.matrices.contains_key(name))
                .collect();
            if !missing.is_empty() {
                return Err(Error::MissingTensors { path: self.path.clone(), missing });
            }
        }
        // All shapes first: what is allocated below is bounded by the base.
        for (&name, stored) in &self.matrices {
            if matches!(name, Name::Layer { layer, .. } if layer >= config.n_layers) {
                return Err(unknown(&self.path, &stored.a.called, "the base has fewer layers"));
            }
            let (rows, cols) = config.shape(name);
            stored.a.expect(&self.path, stored.rank(), cols)?;
            stored.b.expect(&self.path, rows, stored.rank())?;
        }
        for (&name, copy) in &self.base_copies {
            let (rows, cols) = config.shape(name);
            copy.expect(&self.path, rows, cols)?;
        }
        let load = |(&name, stored): (&Name, &Stored)| {
            let (a, b) = (stored.a.load(&self.path)?, stored.b.load(&self.path)?);
            Ok((name, LowRank { rank: stored.rank(), alpha: stored.alpha, a, b }))
        };
        let matrices = self.matrices.iter().map(load).collect::<Result<_, Error>>()?;
        Ok(Adapter { settings: self.settings.clone(), pairing: self.form.pairing(), matrices })
    }
}

/// Which of the two factors.
#[derive(Clone, Copy)]
pub(super) enum Side {
    A,
    B,
}

/// Factors as they are found, on the way to pairs.
#[derive(Default)]
pub(super) struct Pairs(BTreeMap<Name, [Option<Factor>; 2]>);

impl Pairs {
    /// Claims a factor for a matrix of the base.
    pub(super) fn claim(&mut self, path: &Path, name: Name, side: Side, factor: Factor) -> Result<(), Error> {
        if !is_adaptable(name) {
            let why = "only matrices that tokens are multiplied with can be changed, no norms and no token embedding";
            return Err(unknown(path, &factor.called, why));
        }
        if matches!(name, Name::Layer { layer, .. } if layer >= MAX_LAYERS) {
            return Err(unknown(path, &factor.called, "no Llama has so many layers"));
        }
        let place = &mut self.0.entry(name).or_default()[side as usize];
        if place.is_some() {
            return Err(Error::RepeatedTensor { path: path.to_owned(), tensor: shown(&factor.called) });
        }
        *place = Some(factor);
        Ok(())
    }

    /// Every A with its B, of one rank.
    fn finish(self, path: &Path) -> Result<BTreeMap<Name, (Factor, Factor)>, Error> {
        if self.0.is_empty() {
            let why = "expected low-rank matrices, found none".into();
            return Err(Error::NotAnAdapter { path: path.to_owned(), why });
        }
        let lonely = |factor: &Factor, other| wrong(path, &factor.called, other, "missing".into(), "a pair".into());
        let mut pairs = BTreeMap::new();
        for (name, pair) in self.0 {
            let (a, b) = match pair {
                [Some(a), Some(b)] => (a, b),
                [Some(a), None] => return Err(lonely(&a, "the other factor, B,")),
                [None, Some(b)] => return Err(lonely(&b, "the other factor, A,")),
                [None, None] => continue,
            };
            if !(1..=MAX_RANK).contains(&a.rows) {
                let (found, expected) = (a.rows.to_string(), format!("1 to {MAX_RANK}"));
                return Err(wrong(path, &a.called, "rank", found, expected));
            }
            if b.cols != a.rows {
                let (found, expected) = (shape_of(b.rows, b.cols), format!("rows of {}, the rank of A", a.rows));
                return Err(wrong(path, &b.called, "shape", found, expected));
            }
            pairs.insert(name, (a, b));
        }
        Ok(pairs)
    }
}

/// The base and the template that metadata of the file `path` tells of.
pub(super) fn read_identity(
    path: &Path,
    pairs: &BTreeMap<&'static str, String>,
    settings: &mut Settings,
) -> Result<(), Error> {
    let read = identity::from_metadata(pairs);
    let (base, template) = read.map_err(|error| Error::Config { path: path.to_owned(), error })?;
    settings.base = base;
    settings.chat_template = template;
    Ok(())
}

pub(super) fn wrong(path: &Path, called: &str, what: &'static str, found: String, expected: String) -> Error {
    Error::Tensor { path: path.to_owned(), tensor: shown(called), what, found, expected }
}

fn shape_of(rows: impl std::fmt::Display, cols: impl std::fmt::Display) -> String {
    format!("[{rows}, {cols}]")
}
