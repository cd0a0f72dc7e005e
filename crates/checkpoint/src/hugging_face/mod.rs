//! A Hugging Face directory: `config.json` under a closed schema, safetensors in one file or many, and what lies
//! beside them.

mod config_json;
mod index_json;

pub use config_json::HfConfig;
pub(crate) use config_json::{
    chat_template as tokenizer_config_json, generation as generation_config_json, to_json as config_to_json,
    torch_dtype,
};
pub use index_json::Index;

use crate::{
    Checkpoint, Error, FileInfo, Generation, Layout, TokenizerSource,
    config::Config,
    error::shown,
    json,
    mapped::Bytes,
    name::Name,
    safetensors::{Entry, Header},
    tensor::{Claims, Part, Tensor, checked_scales, unknown},
};
use puna_format::Format;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Whether there are weights in the form that this module reads.
pub(crate) fn has_weights(dir: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| dir.join(name).is_file())
}

/// Opens the model in `dir`.
pub(crate) fn open(dir: &Path) -> Result<Checkpoint, Error> {
    let config_path = dir.join("config.json");
    let config_bytes = json::map(&config_path)?;
    let hf = HfConfig::parse(&config_bytes).map_err(|error| Error::Config { path: config_path.clone(), error })?;
    let config = hf.config().map_err(|error| Error::Config { path: config_path.clone(), error })?;

    let index_path = dir.join(INDEX);
    let index_bytes = if dir.join(SINGLE).exists() {
        None
    } else if index_path.exists() {
        Some(json::map(&index_path)?)
    } else {
        return Err(Error::NotAModel {
            path: dir.to_owned(),
            why: format!("config.json without {SINGLE} or {INDEX}; weights are read from safetensors only"),
        });
    };
    let index = match &index_bytes {
        None => None,
        Some(bytes) => Some(Index::parse(bytes).map_err(|error| Error::Config { path: index_path.clone(), error })?),
    };
    let names: Vec<String> = match &index {
        None => vec![SINGLE.into()],
        Some(index) => index.files().into_iter().map(str::to_owned).collect(),
    };
    let missing: Vec<String> = names.iter().filter(|name| !dir.join(name).is_file()).cloned().collect();
    if !missing.is_empty() {
        return Err(Error::MissingFiles { dir: dir.to_owned(), missing, promised: names.len() });
    }

    let mut claims = Claims::new(&config);
    let mut scales = BTreeMap::new();
    let mut files = Vec::new();
    for name in names {
        let path = dir.join(&name);
        let bytes = Bytes::map(&path)?;
        let header = Header::parse(&bytes).map_err(|error| Error::Safetensors { path: path.clone(), error })?;
        if let Some(index) = &index {
            index.agrees(&index_path, &path, &name, &header)?;
        }
        for entry in &header.entries {
            claim(&config, &path, &bytes, entry, &mut claims, &mut scales)?;
        }
        files.push(FileInfo { path, bytes: bytes.len() as u64 });
    }
    attach_scales(dir, hf.is_fp8(), &mut claims, scales)?;
    drop_tied_output(dir, &config, &mut claims)?;
    let tensors = claims.finish(dir)?;

    let mut generation = generation(dir)?;
    generation.bos = generation.bos.or(hf.bos);
    if generation.eos.is_empty() {
        generation.eos = hf.eos.clone();
    }
    let tokenizer = match (dir.join("tokenizer.json"), dir.join("tokenizer.model")) {
        (path, _) if path.is_file() => TokenizerSource::TokenizerJson(path),
        (_, path) if path.is_file() => TokenizerSource::Tiktoken(path),
        _ => TokenizerSource::None,
    };
    Ok(Checkpoint {
        layout: Layout::HuggingFace,
        config,
        generation,
        tokenizer,
        chat_template: chat_template(dir)?,
        files,
        tensors,
    })
}

/// Scales of one weight: the file, the name there, one factor a row.
type Scales = BTreeMap<Name, (PathBuf, String, Arc<[f32]>)>;

fn claim(
    config: &Config,
    path: &Path,
    bytes: &Bytes,
    entry: &Entry<'_>,
    claims: &mut Claims<'_>,
    scales: &mut Scales,
) -> Result<(), Error> {
    let called = entry.name.as_ref();
    let wrong = |what, found: String, expected: &str| Error::Tensor {
        path: path.to_owned(),
        tensor: shown(called),
        what,
        found,
        expected: expected.to_owned(),
    };
    let data = bytes.slice(entry.start, entry.len).expect("Header::parse checked every entry against the file");
    if let Some(name) = Name::from_hugging_face(called) {
        let format = Format::from_safetensors_dtype(entry.dtype)
            .ok_or_else(|| wrong("dtype", entry.dtype.into(), "a format that puna knows"))?;
        let (_, cols) = config.shape(name);
        let (rows, cols) = match *entry.shape {
            [n] if config.shape(name).0 == 1 => (1, n),
            [rows, cols] => (rows, cols),
            _ => return Err(wrong("shape", format!("{:?}", entry.shape), &format!("rows of {cols} values"))),
        };
        let (Ok(rows), Ok(cols)) = (usize::try_from(rows), usize::try_from(cols)) else {
            return Err(wrong("shape", format!("{:?}", entry.shape), "something addressable"));
        };
        let part = Part { row0: 0, rows, col0: 0, cols, bytes: data, row_scales: None };
        return claims.claim(path, called, name, format, vec![part]);
    }
    if let Some(name) = called.strip_suffix("_scale").and_then(Name::from_hugging_face) {
        let (rows, _) = config.shape(name);
        if entry.dtype != "F32" || *entry.shape != [rows as u64, 1] {
            let found = format!("{} {:?}", entry.dtype, entry.shape);
            return Err(wrong("form", found, &format!("F32 [{rows}, 1], one scale a row")));
        }
        let values = checked_scales(path, called, &data)?;
        if scales.insert(name, (path.to_owned(), called.to_owned(), values)).is_some() {
            return Err(Error::RepeatedTensor { path: path.to_owned(), tensor: shown(called) });
        }
        return Ok(());
    }
    if is_frequencies(called) {
        // A buffer that old conversions saved; it repeats what rope_theta says.
        return Ok(());
    }
    Err(unknown(path, called, "the Llama architecture has none of this name"))
}

fn is_frequencies(called: &str) -> bool {
    called == "model.rotary_emb.inv_freq"
        || (called.starts_with("model.layers.") && called.ends_with(".self_attn.rotary_emb.inv_freq"))
}

/// Joins FP8 weights and their scales; each needs the other.
fn attach_scales(dir: &Path, announced: bool, claims: &mut Claims<'_>, mut scales: Scales) -> Result<(), Error> {
    let fp8 = Format::from_safetensors_dtype("F8_E4M3");
    for tensor in claims.iter_mut().filter(|tensor| Some(tensor.format) == fp8) {
        let Some((_, _, values)) = scales.remove(&tensor.name) else {
            return Err(Error::Tensor {
                path: dir.to_owned(),
                tensor: tensor.name.hugging_face(),
                what: "its `weight_scale`",
                found: "missing".into(),
                expected: "one factor per row, as the dtype F8_E4M3 needs".into(),
            });
        };
        if !announced {
            return Err(Error::Tensor {
                path: dir.to_owned(),
                tensor: tensor.name.hugging_face(),
                what: "dtype",
                found: "F8_E4M3".into(),
                expected: "none of it: config.json has no quantization_config".into(),
            });
        }
        for part in &mut tensor.parts {
            part.row_scales = Some(values.clone());
        }
    }
    match scales.into_values().next() {
        Some((path, called, _)) => Err(unknown(&path, &called, "its weight is not F8_E4M3")),
        None => Ok(()),
    }
}

/// With tied embeddings a file may still bring the output matrix, if it is the same.
fn drop_tied_output(dir: &Path, config: &Config, claims: &mut Claims<'_>) -> Result<(), Error> {
    if !config.tied_embeddings {
        return Ok(());
    }
    let same = match (claims.get(Name::Output), claims.get(Name::TokenEmbedding)) {
        (Some(output), Some(embedding)) => {
            output.format == embedding.format
                && part_bytes(output).zip(part_bytes(embedding)).all(|(output, embedding)| output == embedding)
        }
        _ => true,
    };
    if !same {
        return Err(unknown(
            dir,
            &Name::Output.hugging_face(),
            "tie_word_embeddings is true, and it differs from the embedding",
        ));
    }
    claims.remove(Name::Output);
    Ok(())
}

fn part_bytes(tensor: &Tensor) -> impl Iterator<Item = &[u8]> {
    tensor.parts.iter().map(|part| &*part.bytes)
}

/// `generation_config.json`, as far as it is there.
fn generation(dir: &Path) -> Result<Generation, Error> {
    let path = dir.join("generation_config.json");
    if !path.is_file() {
        return Ok(Generation::default());
    }
    let bytes = json::map(&path)?;
    config_json::generation(&bytes).map_err(|error| Error::Config { path, error })
}

/// The template of `chat_template.jinja`, else that in `tokenizer_config.json`.
fn chat_template(dir: &Path) -> Result<Option<String>, Error> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        let bytes = json::map(&path)?;
        return match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(e) => Err(Error::Config { path, error: crate::ConfigError::Json(e.to_string()) }),
        };
    }
    let path = dir.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = json::map(&path)?;
    config_json::chat_template(&bytes).map_err(|error| Error::Config { path, error })
}
