//! Meta's own directory: `params.json` under a closed schema, model-parallel shards `consolidated.NN.pth`, and for the
//! FP8 form their scales.
//!
//! Shards are not merged in memory: each rank's piece becomes a [`Part`] of the tensor. How a tensor was split is decided
//! from the shapes.
//!
//! | tensors | split |
//! | --- | --- |
//! | wq, wk, wv, w1, w3, output; tok_embeddings of Llama 3 | by rows |
//! | wo, w2; tok_embeddings of Llama 2 | by columns |
//! | norms | copied to every rank |
//! | wk, wv with more ranks than heads | by rows, every head copied to several ranks |

mod params_json;

pub use params_json::Params;

use crate::{
    Checkpoint, Error, FileInfo, Generation, Layout, TokenizerSource,
    config::Config,
    error::shown,
    json,
    mapped::Bytes,
    name::{LayerTensor, Name},
    pth::{self, View},
    tensor::{Claims, Part, checked_scales, unknown},
};
use puna_format::Format;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

struct Source {
    path: PathBuf,
    bytes: Bytes,
}

impl Source {
    fn open(path: PathBuf) -> Result<Source, Error> {
        Ok(Source { bytes: Bytes::map(&path)?, path })
    }

    fn views(&self) -> Result<Vec<View<'_>>, Error> {
        pth::read(&self.bytes).map_err(|error| Error::Pth { path: self.path.clone(), error })
    }
}

/// One rank's piece of a tensor, and where it comes from.
struct Piece<'a> {
    source: &'a Source,
    view: &'a View<'a>,
    scales: Option<Arc<[f32]>>,
}

/// Opens the model in `dir`.
pub(crate) fn open(dir: &Path) -> Result<Checkpoint, Error> {
    let params_path = dir.join("params.json");
    let params_bytes = json::map(&params_path)?;
    let in_params = |error| Error::Config { path: params_path.clone(), error };
    let params = Params::parse(&params_bytes).map_err(in_params)?;

    let sources = shards(dir)?.into_iter().map(Source::open).collect::<Result<Vec<_>, Error>>()?;
    let ranks = sources.iter().map(Source::views).collect::<Result<Vec<_>, Error>>()?;
    let scale_sources = scale_files(dir, sources.len())?;
    let scales = scale_sources.iter().map(Source::views).collect::<Result<Vec<_>, Error>>()?;
    let (Some(first), Some(keys)) = (sources.first(), ranks.first()) else {
        return Err(Error::NotAModel { path: dir.to_owned(), why: "params.json without consolidated.00.pth".into() });
    };
    for (source, views) in sources.iter().zip(&ranks) {
        same_keys(first, keys, source, views)?;
    }

    let embedding = keys.iter().find(|view| view.key == Name::TokenEmbedding.meta()).map(|view| view.shape.as_slice());
    let tied = !keys.iter().any(|view| view.key == Name::Output.meta());
    let config = params.config(embedding, ranks.len() as u64, tied).map_err(in_params)?;

    let mut used_scales = 0;
    let mut claims = Claims::new(&config);
    for (i, view) in keys.iter().enumerate() {
        let Some(name) = Name::from_meta(view.key) else {
            if view.key == "rope.freqs" {
                // A buffer of the first releases; it repeats what rope_theta says.
                continue;
            }
            return Err(unknown(&first.path, view.key, "the Llama architecture has none of this name"));
        };
        let mut pieces = Vec::with_capacity(ranks.len());
        for (rank, (source, views)) in sources.iter().zip(&ranks).enumerate() {
            let view = views.get(i).expect("same_keys compared the lengths");
            let file = scale_sources.get(rank).zip(scales.get(rank));
            let scales = file.map(|(source, views)| scales_of(source, views, name, view, rank)).transpose()?.flatten();
            used_scales += usize::from(scales.is_some());
            pieces.push(Piece { source, view, scales });
        }
        claim(&config, name, &pieces, &mut claims)?;
    }
    if used_scales != scales.iter().map(Vec::len).sum::<usize>() {
        let path = scale_sources.first().map_or(dir, |source| &source.path);
        return Err(unknown(path, "some scale", "no FP8 weight belongs to it"));
    }

    let tokenizer = dir.join("tokenizer.model");
    Ok(Checkpoint {
        layout: Layout::Meta,
        generation: Generation::default(),
        tokenizer: if tokenizer.is_file() { TokenizerSource::Tiktoken(tokenizer) } else { TokenizerSource::None },
        chat_template: None,
        files: sources.iter().map(|s| FileInfo { path: s.path.clone(), bytes: s.bytes.len() as u64 }).collect(),
        tensors: claims.finish(dir)?,
        config,
    })
}

/// The shards in order; numbers must be complete.
fn shards(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    const MAX: usize = 256;
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("consolidated.")?.strip_suffix(".pth"));
        let digits = number.filter(|n| n.len() == 2 && n.bytes().all(|b| b.is_ascii_digit()));
        numbers.extend(digits.and_then(|n| n.parse::<usize>().ok()));
    }
    let promised = numbers.iter().max().map_or(1, |max| max + 1).min(MAX);
    let file = |number: usize| format!("consolidated.{number:02}.pth");
    let missing: Vec<String> = (0..promised).filter(|n| !numbers.contains(n)).map(file).collect();
    if !missing.is_empty() {
        return Err(Error::MissingFiles { dir: dir.to_owned(), missing, promised });
    }
    Ok((0..promised).map(|n| dir.join(file(n))).collect())
}

/// The FP8 scales of every rank, or none.
fn scale_files(dir: &Path, ranks: usize) -> Result<Vec<Source>, Error> {
    let names: Vec<String> = (0..ranks).map(|rank| format!("fp8_scales_{rank}.pt")).collect();
    let missing: Vec<String> = names.iter().filter(|name| !dir.join(name).is_file()).cloned().collect();
    if missing.len() == names.len() {
        return Ok(Vec::new());
    }
    if !missing.is_empty() {
        return Err(Error::MissingFiles { dir: dir.to_owned(), missing, promised: names.len() });
    }
    names.iter().map(|name| Source::open(dir.join(name))).collect()
}

fn same_keys(first: &Source, keys: &[View<'_>], source: &Source, views: &[View<'_>]) -> Result<(), Error> {
    let differing = keys.iter().zip(views).find(|(a, b)| a.key != b.key).map(|(a, b)| (shown(a.key), shown(b.key)));
    let counts = || (keys.len() != views.len()).then(|| (keys.len().to_string(), views.len().to_string()));
    match differing.or_else(counts) {
        None => Ok(()),
        Some((expected, found)) => Err(Error::Disagree {
            path: source.path.clone(),
            other: first.path.clone(),
            what: "a tensor, or their number,".into(),
            found,
            expected,
        }),
    }
}

/// The scales of one rank's piece, if it is FP8.
///
/// Keys: `LAYER_feed_forward.wN_RANK`, as Meta's loader reads them.
fn scales_of(
    source: &Source,
    scales: &[View<'_>],
    name: Name,
    weight: &View<'_>,
    rank: usize,
) -> Result<Option<Arc<[f32]>>, Error> {
    let matrix = match name {
        Name::Layer { layer, tensor: LayerTensor::Gate } => Some((layer, "w1")),
        Name::Layer { layer, tensor: LayerTensor::Down } => Some((layer, "w2")),
        Name::Layer { layer, tensor: LayerTensor::Up } => Some((layer, "w3")),
        _ => None,
    };
    let Some((layer, matrix)) = matrix.filter(|_| is_fp8(weight)) else { return Ok(None) };
    let key = format!("{layer}_feed_forward.{matrix}_{rank}");
    let Some(view) = scales.iter().find(|view| view.key == key) else { return Ok(None) };
    let rows = weight.shape.first().copied().unwrap_or(0);
    if view.dtype != "F32" || (view.shape != [rows] && view.shape != [rows, 1]) {
        return Err(Error::Tensor {
            path: source.path.clone(),
            tensor: key,
            what: "form",
            found: format!("{} {:?}", view.dtype, view.shape),
            expected: format!("F32 [{rows}], one scale a row"),
        });
    }
    let bytes = source.bytes.slice(view.start, view.len).expect("pth::read checked every tensor");
    checked_scales(&source.path, &key, &bytes).map(Some)
}

fn is_fp8(view: &View<'_>) -> bool {
    view.dtype == "F8_E4M3"
}

fn claim(config: &Config, name: Name, pieces: &[Piece<'_>], claims: &mut Claims<'_>) -> Result<(), Error> {
    let Some(first) = pieces.first() else { return Ok(()) };
    let called = first.view.key;
    let wrong = |piece: &Piece<'_>, what, found: String, expected: String| Error::Tensor {
        path: piece.source.path.clone(),
        tensor: shown(called),
        what,
        found,
        expected,
    };
    if let Some(piece) = pieces.iter().find(|piece| piece.view.dtype != first.view.dtype) {
        return Err(wrong(
            piece,
            "dtype",
            piece.view.dtype.into(),
            format!("{} as in the first shard", first.view.dtype),
        ));
    }
    let format = Format::from_safetensors_dtype(first.view.dtype)
        .ok_or_else(|| wrong(first, "dtype", first.view.dtype.into(), "a format that puna knows".into()))?;
    if let Some(piece) = pieces.iter().find(|piece| is_fp8(piece.view) && piece.scales.is_none()) {
        return Err(wrong(piece, "its scales", "missing".into(), "them in fp8_scales_N.pt, as the dtype needs".into()));
    }
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let shape = match *piece.view.shape {
            [n] => Some((1, n)),
            [rows, cols] => Some((rows, cols)),
            _ => None,
        };
        let shape = shape.and_then(|(rows, cols)| Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?)));
        let Some((rows, cols)) = shape else {
            return Err(wrong(piece, "shape", format!("{:?}", piece.view.shape), "one or two dimensions".into()));
        };
        let bytes = piece.source.bytes.slice(piece.view.start, piece.view.len).expect("pth::read checked every tensor");
        parts.push(Part { row0: 0, rows, col0: 0, cols, bytes, row_scales: piece.scales.clone() });
    }

    let (rows, cols) = config.shape(name);
    let n_rows = parts.iter().try_fold(0usize, |n, part| n.checked_add(part.rows));
    let all = |holds: fn(&Part, usize, usize) -> bool| parts.iter().all(|part| holds(part, rows, cols));
    let whole = all(|part, rows, cols| (part.rows, part.cols) == (rows, cols));
    let full_width = all(|part, _, cols| part.cols == cols);
    let full_height = all(|part, rows, _| part.rows == rows);
    let copies = n_rows.filter(|&n| full_width && n > rows && n.is_multiple_of(rows)).map_or(1, |n| n / rows);
    if name.is_norm() && whole {
        keep_one_of(parts.len(), &mut parts, pieces, called)?;
    } else if matches!(name, Name::Layer { tensor: LayerTensor::Key | LayerTensor::Value, .. }) && copies > 1 {
        // More ranks than heads: consecutive ranks hold the same head.
        keep_one_of(copies, &mut parts, pieces, called)?;
    }
    let by_columns = full_height && !full_width;
    let (mut row, mut col) = (0usize, 0usize);
    for part in &mut parts {
        (part.row0, part.col0) = if by_columns { (0, col) } else { (row, 0) };
        row = row.saturating_add(part.rows);
        col = col.saturating_add(part.cols);
    }
    claims.claim(&first.source.path, called, name, format, parts)
}

/// Of every `n` consecutive parts keeps the first, after checking that the others are equal byte for byte.
fn keep_one_of(n: usize, parts: &mut Vec<Part>, pieces: &[Piece<'_>], called: &str) -> Result<(), Error> {
    for (group, pieces) in parts.chunks(n).zip(pieces.chunks(n)) {
        let (Some(kept), Some(first)) = (group.first(), pieces.first()) else { continue };
        let same = |part: &Part| part.rows == kept.rows && *part.bytes == *kept.bytes;
        if let Some(other) = group.iter().position(|part| !same(part)).and_then(|i| pieces.get(i)) {
            return Err(Error::Disagree {
                path: other.source.path.clone(),
                other: first.source.path.clone(),
                what: format!("tensor `{}`", shown(called)),
                found: "different".into(),
                expected: "an equal copy".into(),
            });
        }
    }
    let mut i = 0;
    parts.retain(|_| {
        i += 1;
        (i - 1) % n == 0
    });
    Ok(())
}
