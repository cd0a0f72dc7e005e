//! Whole models written anew: a checkpoint, with other values for some of its tensors.
//!
//! That is what becomes of a model when an adapter is merged into it, or when it was trained. What nobody changes is
//! copied bit for bit, tokenizer and metadata too; what is changed is rounded to its format, and the result tells what
//! that did. In memory there are the values of one tensor and one chunk.
//!
//! A directory, Hugging Face's or Meta's, becomes a Hugging Face directory, or a GGUF file if its vocabulary is given in
//! that form; a GGUF file becomes a GGUF file.

mod merge;

pub use merge::write_merged;

use crate::{
    Checkpoint, ConfigError, Container, Error, GgufVocabulary, Layout, Name, RopePairing, RopeScaling, Tensor,
    WeightFormat,
    gguf::{self, MetadataValue},
    hugging_face::{config_to_json, torch_dtype},
    json,
    mapped::Bytes,
    safetensors::{self, Declaration},
    stream::{PendingDirectory, expect_free, write_file, wrong},
};
use puna_format::Format;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::{
    iter::Sum,
    path::{Path, PathBuf},
};

/// How a model is written.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The format of all weights; `None` leaves every tensor in its own.
    pub format: Option<WeightFormat>,
    /// More files, by name: into the directory, or beside a GGUF file, behind its own name without `.gguf` and a dot.
    pub beside: Vec<(String, Vec<u8>)>,
    /// Metadata of a GGUF file that takes the place of the checkpoint's, or is added.
    pub metadata: Vec<(String, MetadataValue)>,
    /// The vocabulary of a directory that becomes a GGUF file.
    pub vocabulary: Option<GgufVocabulary>,
}

/// What rounding to its format did to a tensor that was changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    /// The tensor.
    pub name: Name,
    /// Its format in the new files.
    pub format: Format,
    /// How far it is from what it was to be.
    pub deviation: Deviation,
}

/// Sums over values w that were to be written in place of w₀, of which the file has w + e.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Σ w².
    pub weights: f64,
    /// Σ (w − w₀)².
    pub change: f64,
    /// Σ e².
    pub error: f64,
    /// Σ e·(w − w₀).
    pub along: f64,
}

impl Deviation {
    /// The root mean square of e over that of w; `None` where all w are zero.
    pub fn of_weights(&self) -> Option<f64> {
        (self.weights > 0.0).then(|| (self.error / self.weights).sqrt())
    }

    /// The root mean square of e over that of the change w − w₀; `None` where nothing was changed.
    pub fn of_change(&self) -> Option<f64> {
        (self.change > 0.0).then(|| (self.error / self.change).sqrt())
    }

    /// The share of the change that the file has: its projection on what was asked for, 1 if nothing is lost. `None`
    /// where nothing was changed.
    pub fn kept(&self) -> Option<f64> {
        (self.change > 0.0).then(|| 1.0 + self.along / self.change)
    }
}

impl Sum for Deviation {
    fn sum<I: Iterator<Item = Deviation>>(deviations: I) -> Deviation {
        deviations.fold(Deviation::default(), |sum, next| Deviation {
            weights: sum.weights + next.weights,
            change: sum.change + next.change,
            error: sum.error + next.error,
            along: sum.along + next.along,
        })
    }
}

/// Bytes of values that are encoded at once.
const CHUNK: usize = 16 << 20;

/// Writes a model; `progress` hears of bytes done and bytes in all.
///
/// `out` is a GGUF file or a directory, as [`Container::of`] says; it appears under its name when it is complete, and
/// must not exist. `values` gives the new values `[rows, cols]` of a tensor, its rows in the order of the checkpoint, or
/// `None` for one that stays; it is asked for the tensors one by one, for those in FP8 twice. The result tells of the
/// tensors that it gave values for.
///
/// # Errors
/// When the checkpoint can't become a file of this form, a format has no place in it or does not fit a row, a new value
/// is no finite number, something of the name exists, or on a fault of the file system.
///
/// # Panics
/// When `values` gives another number of values than the tensor has.
pub fn write(
    checkpoint: &Checkpoint,
    out: &Path,
    options: &Options,
    values: &mut dyn FnMut(&Tensor) -> Option<Vec<f32>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Rounded>, Error> {
    let container = Container::of(out);
    check(checkpoint, container, out, options)?;
    let tensors = plan(checkpoint, container, options.format, out)?;
    let declarations: Vec<Declaration> = tensors.iter().map(|tensor| tensor.declaration.clone()).collect();
    let mut total = 0u64;
    for declaration in &declarations {
        total = total.saturating_add(declaration.checked_bytes(out)?);
    }
    let mut done = 0;
    let mut source = Source { checkpoint, container, out, values, rounded: Vec::new() };
    let mut written = |n: usize| {
        done += n as u64;
        progress(done, total);
    };
    match container {
        Container::Gguf => {
            let beside = |name: &str| {
                let mut file = out.file_stem().unwrap_or_default().to_owned();
                file.push(format!(".{name}"));
                out.with_file_name(file)
            };
            let files: Vec<(PathBuf, &[u8])> =
                options.beside.iter().map(|(name, bytes)| (beside(name), bytes.as_slice())).collect();
            expect_free(out)?;
            files.iter().try_for_each(|(path, _)| expect_free(path))?;
            let mut writer = gguf::Writer::create(out, &metadata(checkpoint, options)?, &declarations)?;
            for tensor in &tensors {
                source.write(tensor, &mut |bytes| {
                    writer.append(bytes)?;
                    written(bytes.len());
                    Ok(())
                })?;
            }
            // Before the file has its name: it is not to be found without them.
            files.iter().try_for_each(|(path, bytes)| write_file(path, bytes))?;
            writer.finish()?;
        }
        Container::Safetensors => {
            let pending = PendingDirectory::create(out)?;
            let dir = pending.directory();
            safetensors::write_files(dir, &declarations, &mut |i, writer| {
                source.write(&tensors[i], &mut |bytes| {
                    writer.append(bytes)?;
                    written(bytes.len());
                    Ok(())
                })
            })?;
            copy_beside(checkpoint, dir)?;
            options.beside.iter().try_for_each(|(name, bytes)| write_file(&dir.join(name), bytes))?;
            write_file(&dir.join("config.json"), &config(checkpoint, &tensors, options.format)?)?;
            pending.finish()?;
        }
    }
    Ok(source.rounded)
}

/// Holds what is asked for against what there is.
fn check(checkpoint: &Checkpoint, container: Container, out: &Path, options: &Options) -> Result<(), Error> {
    let n_tokens = options.vocabulary.as_ref().map(|vocabulary| vocabulary.tokens.len());
    let vocab_size = checkpoint.config.vocab_size;
    let what = match (container, checkpoint.layout, n_tokens, options.format) {
        (Container::Safetensors, Layout::Gguf, ..) => {
            "a GGUF file does not become a directory: its vocabulary is not converted; name a file that ends in .gguf"
                .to_owned()
        }
        (Container::Safetensors, _, Some(_), _) | (_, Layout::Gguf, Some(_), _) => {
            "a vocabulary for files that have their own".to_owned()
        }
        (Container::Gguf, Layout::HuggingFace | Layout::Meta, None, _) => "a GGUF file needs a vocabulary".to_owned(),
        (Container::Gguf, Layout::HuggingFace | Layout::Meta, Some(n), _) if n > vocab_size => {
            format!("a vocabulary of {n} tokens, expected at most the model's {vocab_size}")
        }
        (.., Some(format)) if !format.fits(container) => format!("{format} has no place in {}", container.name()),
        (.., Some(WeightFormat::Fp8)) => {
            "FP8 is kept where a model has it, and not made; choose another format".to_owned()
        }
        _ => return Ok(()),
    };
    Err(wrong(out, what))
}

/// A tensor of the new files.
struct Planned<'a> {
    declaration: Declaration,
    content: Content<'a>,
}

enum Content<'a> {
    /// A tensor of the checkpoint, in the declared format.
    Weights(&'a Tensor),
    /// FP8: the factors of its rows.
    RowScales(&'a Tensor),
    /// The divisors of the rotary frequencies.
    Divisors(Vec<f32>),
}

fn plan<'a>(
    checkpoint: &'a Checkpoint,
    container: Container,
    format: Option<WeightFormat>,
    out: &Path,
) -> Result<Vec<Planned<'a>>, Error> {
    let config = &checkpoint.config;
    let mut tensors = Vec::new();
    for tensor in checkpoint.tensors() {
        let name = match container {
            Container::Gguf => tensor.name.gguf(),
            Container::Safetensors => tensor.name.hugging_face(),
        };
        let own = match container {
            // As everyone's GGUF files have it: not all programs compute with others.
            Container::Gguf if checkpoint.layout != Layout::Gguf && tensor.name.is_norm() => Format::F32,
            _ => tensor.format,
        };
        let format = format.map_or(own, |format| format.tensor(config, container, tensor.name));
        if container == Container::Gguf && format.info().ggml_type.is_none() {
            return Err(wrong(out, format!("tensor `{name}`: {format} has no place in GGUF; choose another format")));
        }
        if format == Format::F8E4M3 {
            if tensor.row_scale(0).is_none() {
                let what =
                    "its FP8 has several factors a row, which has no place in safetensors; choose another format";
                return Err(wrong(out, format!("tensor `{name}`: {what}")));
            }
            let shape = vec![tensor.rows, 1];
            let declaration = Declaration { name: format!("{name}_scale"), format: Format::F32, shape };
            tensors.push(Planned { declaration, content: Content::RowScales(tensor) });
        }
        let shape = if config.shape(tensor.name).0 == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
        tensors.push(Planned { declaration: Declaration { name, format, shape }, content: Content::Weights(tensor) });
    }
    if container == Container::Gguf
        && matches!(config.rope.scaling, RopeScaling::Factors(_) | RopeScaling::Llama3 { .. })
    {
        let divisors = config.rope.divisors(config.head_dim);
        let shape = vec![divisors.len()];
        let declaration = Declaration { name: gguf::FREQUENCIES.into(), format: Format::F32, shape };
        tensors.push(Planned { declaration, content: Content::Divisors(divisors) });
    }
    Ok(tensors)
}

type Append<'f> = &'f mut dyn FnMut(&[u8]) -> Result<(), Error>;

/// Where the values come from.
struct Source<'a> {
    checkpoint: &'a Checkpoint,
    container: Container,
    out: &'a Path,
    values: &'a mut dyn FnMut(&Tensor) -> Option<Vec<f32>>,
    rounded: Vec<Rounded>,
}

impl Source<'_> {
    fn write(&mut self, planned: &Planned<'_>, append: Append<'_>) -> Result<(), Error> {
        let format = planned.declaration.format;
        match &planned.content {
            Content::Weights(tensor) => self.weights(tensor, format, append),
            Content::RowScales(tensor) => {
                let values = self.ask(tensor)?;
                let scale = |row| row_scale(tensor, values.as_deref(), row);
                append(&encoded(format, &(0..tensor.rows).map(scale).collect::<Vec<_>>()))
            }
            Content::Divisors(divisors) => append(&encoded(format, divisors)),
        }
    }

    /// The new values of a tensor, all finite.
    fn ask(&mut self, tensor: &Tensor) -> Result<Option<Vec<f32>>, Error> {
        let Some(values) = (self.values)(tensor) else { return Ok(None) };
        assert_eq!(values.len(), tensor.rows * tensor.cols, "{}: new values", tensor.name);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(Some(values)),
            Some(i) => {
                let (row, col) = (i / tensor.cols, i % tensor.cols);
                let found = format!("{} at row {row}, column {col}", values[i]);
                Err(wrong(self.out, format!("{}: a new value is {found}, expected a finite number", tensor.name)))
            }
        }
    }

    /// Writes a tensor chunk by chunk, rows in the order of the new files.
    fn weights(&mut self, tensor: &Tensor, format: Format, append: Append<'_>) -> Result<(), Error> {
        let values = self.ask(tensor)?;
        let config = &self.checkpoint.config;
        let pairing = match self.container {
            Container::Gguf => RopePairing::Interleaved,
            Container::Safetensors => RopePairing::Halves,
        };
        let row_bytes = format.row_bytes(tensor.cols).expect("`write` checked every row length");
        let rows_at_once = (CHUNK / (4 * tensor.cols)).clamp(1, tensor.rows);
        let mut bytes = Vec::new();
        let mut deviation = Deviation::default();
        for first in (0..tensor.rows).step_by(rows_at_once) {
            bytes.resize(rows_at_once.min(tensor.rows - first) * row_bytes, 0);
            let rows = bytes.par_chunks_exact_mut(row_bytes).enumerate();
            let deviations: Vec<Deviation> = rows
                .map_init(Row::default, |scratch, (i, out)| {
                    let row = config.stored_row(tensor.name, first + i, pairing);
                    scratch.write(tensor, format, values.as_deref(), row, out)
                })
                .collect();
            // In the order of the rows, whatever the threads did.
            deviation = [deviation].into_iter().chain(deviations).sum();
            append(&bytes)?;
        }
        if values.is_some() {
            self.rounded.push(Rounded { name: tensor.name, format, deviation });
        }
        Ok(())
    }
}

/// One row on its way; its memory is used again.
#[derive(Default)]
struct Row {
    base: Vec<f32>,
    /// As they are encoded: over the row's factor.
    scaled: Vec<f32>,
    written: Vec<f32>,
}

impl Row {
    /// Writes row `row`, and tells what rounding did to it if it has new values.
    fn write(
        &mut self,
        tensor: &Tensor,
        format: Format,
        values: Option<&[f32]>,
        row: usize,
        out: &mut [u8],
    ) -> Deviation {
        if values.is_none() && format == tensor.format {
            tensor.copy_row(row, out);
            return Deviation::default();
        }
        for scratch in [&mut self.base, &mut self.scaled, &mut self.written] {
            scratch.resize(tensor.cols, 0.0);
        }
        tensor.decode_row(row, &mut self.base);
        let Some(values) = values else {
            format.encode(&self.base, out);
            return Deviation::default();
        };
        let scale = if format == Format::F8E4M3 { row_scale(tensor, Some(values), row) } else { 1.0 };
        let values = &values[row * tensor.cols..][..tensor.cols];
        self.scaled.iter_mut().zip(values).for_each(|(scaled, value)| *scaled = value / scale);
        format.encode(&self.scaled, out);
        format.decode(out, &mut self.written);
        let mut deviation = Deviation::default();
        for ((value, base), written) in values.iter().zip(&self.base).zip(&self.written) {
            let (value, written) = (f64::from(*value), f64::from(*written * scale));
            let (change, error) = (value - f64::from(*base), written - value);
            deviation.weights += value * value;
            deviation.change += change * change;
            deviation.error += error * error;
            deviation.along += error * change;
        }
        deviation
    }
}

/// The largest number of E4M3.
const FP8_MAX: f32 = 448.0;

/// FP8: the factor of a row, the tensor's own or that of new values, of which the largest becomes [`FP8_MAX`].
fn row_scale(tensor: &Tensor, values: Option<&[f32]>, row: usize) -> f32 {
    let own = || tensor.row_scale(row).expect("`plan` wants one factor a row");
    let Some(values) = values else { return own() };
    let values = &values[row * tensor.cols..][..tensor.cols];
    let scale = values.iter().fold(0f32, |max, value| max.max(value.abs())) / FP8_MAX;
    // A row of zeros, or nearly, does with any.
    if scale > f32::MIN_POSITIVE { scale } else { own() }
}

fn encoded(format: Format, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.row_bytes(values.len()).expect("a format of single numbers")];
    format.encode(values, &mut bytes);
    bytes
}

/// The metadata of the checkpoint's first file, but what belongs to those files alone, or that of a directory; and what
/// takes its place.
fn metadata(checkpoint: &Checkpoint, options: &Options) -> Result<Vec<(String, MetadataValue)>, Error> {
    const QUANTIZATION: &str = "general.quantization_version";
    let replaced = |key: &str| options.metadata.iter().any(|(new, _)| new == key);
    let mut metadata = match &options.vocabulary {
        Some(vocabulary) if checkpoint.layout != Layout::Gguf => {
            let mut vocabulary = vocabulary.clone();
            // Rows of the embedding that no token has; GGUF wants a name for each, and type 5 says that it is unused.
            for id in vocabulary.tokens.len()..checkpoint.config.vocab_size {
                vocabulary.tokens.push(format!("[PAD{id}]"));
                vocabulary.token_types.push(5);
            }
            let template = checkpoint.chat_template.as_deref();
            let mut metadata = gguf::metadata("", &checkpoint.config, &vocabulary, template);
            metadata.retain(|(key, _)| !replaced(key));
            metadata
        }
        _ => kept_metadata(checkpoint, options.format.is_some(), &replaced)?,
    };
    metadata.extend(options.metadata.iter().cloned());
    if !metadata.iter().any(|(key, _)| key == QUANTIZATION) {
        metadata.push((QUANTIZATION.into(), MetadataValue::U32(2)));
    }
    Ok(metadata)
}

fn kept_metadata(
    checkpoint: &Checkpoint,
    in_new_format: bool,
    replaced: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, MetadataValue)>, Error> {
    let path = first_file(checkpoint)?;
    let bytes = Bytes::map(&path)?;
    let pairs = gguf::encoded_metadata(&bytes).map_err(|error| Error::Gguf { path, error })?;
    let of_files = |key: &str| key == "general.alignment" || key.starts_with("split.");
    let of_formats = |key: &str| key == "general.file_type" || key.starts_with("quantize.");
    let goes = |key: &str| of_files(key) || replaced(key) || (in_new_format && of_formats(key));
    let kept = pairs.iter().filter(|(key, _)| !goes(key));
    Ok(kept.map(|(key, value)| ((*key).to_owned(), MetadataValue::Encoded(value.to_vec()))).collect())
}

/// Files of a directory that are copied as they are, where they are.
const COPIED: [&str; 7] = [
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

fn copy_beside(checkpoint: &Checkpoint, dir: &Path) -> Result<(), Error> {
    let source = first_file(checkpoint)?;
    for name in COPIED {
        let path = source.with_file_name(name);
        if path.is_file() {
            write_file(&dir.join(name), &Bytes::map(&path)?)?;
        }
    }
    Ok(())
}

/// `config.json`: that of the checkpoint, with the new type of the weights if they have one, or one that says the same.
fn config(checkpoint: &Checkpoint, tensors: &[Planned<'_>], format: Option<WeightFormat>) -> Result<Vec<u8>, Error> {
    let output = if checkpoint.config.tied_embeddings { Name::TokenEmbedding } else { Name::Output };
    let is_output = |planned: &&Planned<'_>| matches!(planned.content, Content::Weights(t) if t.name == output);
    let dtype = tensors.iter().find(is_output).map_or(Format::BF16, |planned| planned.declaration.format);
    if checkpoint.layout == Layout::HuggingFace {
        let path = first_file(checkpoint)?.with_file_name("config.json");
        let bytes = json::map(&path)?;
        if format.is_none() {
            return Ok(bytes.to_vec());
        }
        let mut json: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Config { path, error: ConfigError::Json(error.to_string()) })?;
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        json.insert(key.into(), torch_dtype(dtype).into());
        // Only FP8 has it, which no format that can be asked for is.
        json.shift_remove("quantization_config");
        return Ok(format!("{:#}\n", Value::Object(json)).into_bytes());
    }
    let fp8 = tensors.iter().any(|planned| planned.declaration.format == Format::F8E4M3);
    let generation = &checkpoint.generation;
    let eos = if generation.eos.is_empty() { Value::Null } else { json!(generation.eos) };
    let json = config_to_json(&checkpoint.config, dtype, fp8, json!(generation.bos), eos);
    Ok(format!("{json:#}\n").into_bytes())
}

fn first_file(checkpoint: &Checkpoint) -> Result<PathBuf, Error> {
    let first = checkpoint.files.first().map(|file| file.path.clone());
    first.ok_or_else(|| Error::NotAModel { path: PathBuf::new(), why: "no files".into() })
}
