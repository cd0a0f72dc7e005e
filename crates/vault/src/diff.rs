//! Are two models the same tensors? Compared value by value, whatever the files: shards are put together, rows of q and
//! k that one form orders otherwise than another are found in their places, and number formats are compared by what
//! they stand for.

use puna_checkpoint::{Checkpoint, Config, Name, RopePairing, Tensor};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How two models differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Tensors that both have, with the same values.
    pub equal: Vec<Name>,
    /// Tensors that both have, with others.
    pub different: Vec<Different>,
    /// Tensors of the first alone.
    pub only_a: Vec<Name>,
    /// Tensors of the second alone.
    pub only_b: Vec<Name>,
    /// What the configurations say otherwise, and computing depends on: `norm_eps: 0.00001 and 0.000001`.
    pub settings: Vec<String>,
}

/// A tensor that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Different {
    /// Which.
    pub name: Name,
    /// How.
    pub how: How,
}

/// How a tensor differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// Rows and columns of both.
    Shape {
        /// Of the first.
        a: (usize, usize),
        /// Of the second.
        b: (usize, usize),
    },
    /// Some values are others.
    Values {
        /// How many.
        n: u64,
        /// Of how many.
        of: u64,
        /// The largest |a − b|; infinite if one is not a finite number.
        max: f32,
        /// The first: its row and column, as the first model has them.
        first: (usize, usize),
    },
}

impl Diff {
    /// Whether both have the same tensors, with the same values. Settings may differ.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.different.is_empty() && self.only_a.is_empty() && self.only_b.is_empty()
    }
}

impl fmt::Display for Different {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Different { name, how } = self;
        match how {
            How::Shape { a, b } => write!(f, "{name}: [{}, {}] and [{}, {}]", a.0, a.1, b.0, b.1),
            How::Values { n, of, max, first: (row, col) } => {
                write!(f, "{name}: {n} of {of} values differ, by at most {max}; the first in row {row}, column {col}")
            }
        }
    }
}

/// Values decoded at once by a thread, of each model: some megabytes.
const CHUNK: usize = 1 << 22;

/// Rows of a tensor to compare.
struct Task<'c> {
    name: Name,
    a: &'c Tensor,
    b: &'c Tensor,
    rows: std::ops::Range<usize>,
}

/// Compares two models on so many threads; `progress` hears of values done, and values in all. Weights are read where
/// they lie, and memory holds a few rows of each.
///
/// A model whose output matrix is its token embedding is taken to have both.
#[must_use]
pub fn diff(a: &Checkpoint, b: &Checkpoint, n_threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Diff {
    let mut diff = Diff { settings: settings(&a.config, &b.config), ..Diff::default() };
    let names = |model: &Checkpoint| -> BTreeSet<Name> {
        let tied = model.config.tied_embeddings.then_some(Name::Output);
        model.tensors().map(|tensor| tensor.name).chain(tied).collect()
    };
    let (names_a, names_b) = (names(a), names(b));
    let mut tasks = Vec::new();
    for &name in names_a.union(&names_b) {
        match (tensor(a, name), tensor(b, name)) {
            (Some(a), Some(b)) if (a.rows, a.cols) != (b.rows, b.cols) => {
                let how = How::Shape { a: (a.rows, a.cols), b: (b.rows, b.cols) };
                diff.different.push(Different { name, how });
            }
            (Some(a), Some(b)) => {
                let step = (CHUNK / a.cols.max(1)).max(1);
                let tasks_of = (0..a.rows).step_by(step).map(|row| row..a.rows.min(row + step));
                tasks.extend(tasks_of.map(|rows| Task { name, a, b, rows }));
            }
            (Some(_), None) => diff.only_a.push(name),
            (None, _) => diff.only_b.push(name),
        }
    }

    let total = tasks.iter().map(Task::n_values).sum();
    let next = AtomicUsize::new(0);
    let found = Mutex::new((0, vec![None; tasks.len()]));
    let (config_a, config_b) = (&a.config, &b.config);
    std::thread::scope(|scope| {
        let work = || {
            let (mut row_a, mut row_b) = (Vec::new(), Vec::new());
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(i) else { return };
                let how = task.compare(config_a, config_b, &mut row_a, &mut row_b);
                let mut found = found.lock().expect("no thread panicked");
                found.0 += task.n_values();
                found.1[i] = how;
                progress(found.0, total);
            }
        };
        for _ in 1..n_threads.max(1) {
            scope.spawn(work);
        }
        work();
    });
    let (_, found) = found.into_inner().expect("no thread panicked");
    for (tasks, found) in tasks.chunk_by(|a, b| a.name == b.name).scan(0, |done, tasks| {
        let found = &found[*done..*done + tasks.len()];
        *done += tasks.len();
        Some((tasks, found))
    }) {
        let name = tasks[0].name;
        let of = tasks.iter().map(Task::n_values).sum();
        match found.iter().flatten().copied().reduce(Values::and) {
            None => diff.equal.push(name),
            Some(Values { n, max, first }) => {
                diff.different.push(Different { name, how: How::Values { n, of, max, first } });
            }
        }
    }
    diff.different.sort_by_key(|different| different.name);
    diff
}

/// A tensor of a model, which may stand for another.
fn tensor(model: &Checkpoint, name: Name) -> Option<&Tensor> {
    let tied = || model.tensor(Name::TokenEmbedding).filter(|_| name == Name::Output && model.config.tied_embeddings);
    model.tensor(name).or_else(tied)
}

/// Values that differ.
#[derive(Clone, Copy)]
struct Values {
    n: u64,
    max: f32,
    first: (usize, usize),
}

impl Values {
    fn and(self, next: Values) -> Values {
        Values { n: self.n + next.n, max: self.max.max(next.max), first: self.first }
    }
}

impl Task<'_> {
    fn n_values(&self) -> u64 {
        self.rows.len() as u64 * self.a.cols as u64
    }

    fn compare(
        &self,
        config_a: &Config,
        config_b: &Config,
        row_a: &mut Vec<f32>,
        row_b: &mut Vec<f32>,
    ) -> Option<Values> {
        row_a.resize(self.a.cols, 0.0);
        row_b.resize(self.b.cols, 0.0);
        let mut found: Option<Values> = None;
        for row in self.rows.clone() {
            let other = place(self.name, config_a, config_b, row);
            if let (Some(bytes_a), Some(bytes_b)) = (row_bytes(self.a, row), row_bytes(self.b, other))
                && self.a.format == self.b.format
                && bytes_a == bytes_b
            {
                continue;
            }
            self.a.decode_row(row, row_a);
            self.b.decode_row(other, row_b);
            for (col, (a, b)) in row_a.iter().zip(&*row_b).enumerate() {
                // Equal bits are equal, of what is no number, too.
                if a == b || a.to_bits() == b.to_bits() {
                    continue;
                }
                let apart = (a - b).abs();
                let max = if apart.is_nan() { f32::INFINITY } else { apart };
                let here = Values { n: 1, max, first: (row, col) };
                found = Some(found.map_or(here, |found| found.and(here)));
            }
        }
        // Whole tensors would stay in memory otherwise, as far as there is any.
        for part in self.a.parts.iter().chain(&self.b.parts).filter(|_| self.rows.end == self.a.rows) {
            part.bytes.forget();
        }
        found
    }
}

/// The bytes of a row, where they lie together and say all.
fn row_bytes(tensor: &Tensor, row: usize) -> Option<&[u8]> {
    let part = tensor.parts.iter().find(|part| (part.row0..part.row0 + part.rows).contains(&row))?;
    if part.cols != tensor.cols || part.row_scales.is_some() {
        return None;
    }
    let n = part.bytes.len() / part.rows;
    part.bytes.get((row - part.row0) * n..(row - part.row0 + 1) * n)
}

/// Where the second model has a row of the first. Of a head's c rows of q or k, Meta and GGUF have the two of a rotary
/// pair at 2i and 2i + 1, Hugging Face at i and i + c/2.
fn place(name: Name, a: &Config, b: &Config, row: usize) -> usize {
    if !name.is_rotated() || a.rope.pairing == b.rope.pairing {
        return row;
    }
    let (half, i) = (a.head_dim / 2, row % a.head_dim);
    let place = match a.rope.pairing {
        RopePairing::Interleaved => i % 2 * half + i / 2,
        RopePairing::Halves => i % half * 2 + i / half,
    };
    row - i + place
}

/// What the configurations say otherwise.
fn settings(a: &Config, b: &Config) -> Vec<String> {
    let numbers = |config: &Config| {
        [
            ("heads", config.n_heads.to_string()),
            ("key and value heads", config.n_kv_heads.to_string()),
            ("values a head", config.head_dim.to_string()),
            ("norm_eps", config.norm_eps.to_string()),
            ("rope_theta", config.rope.theta.to_string()),
        ]
    };
    let pairs = numbers(a).into_iter().zip(numbers(b)).filter(|(a, b)| a != b);
    let mut found: Vec<String> = pairs.map(|((what, a), (_, b))| format!("{what}: {a} and {b}")).collect();
    // Files that spell the same scaling in numbers have rounded them.
    let near = |(a, b): (f32, f32)| (a - b).abs() <= 1e-5 * a.abs().max(b.abs());
    let (divisors_a, divisors_b) = (a.rope.divisors(a.head_dim), b.rope.divisors(b.head_dim));
    if divisors_a.len() == divisors_b.len() && !divisors_a.into_iter().zip(divisors_b).all(near) {
        found.push("the scaling of rotary frequencies".into());
    }
    found
}
