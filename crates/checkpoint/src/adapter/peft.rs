//! PEFT's directories: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A matrix's factors are called `base_model.model.` and the module's path, then `.lora_A.weight` `[rank, cols]` and
//! `.lora_B.weight` `[rows, rank]`. What puna adds, identity of the base and hash of the template, lies in the
//! `__metadata__` of the safetensors file: it stays with the values, and others read past it.

use super::{
    adapter_config::{AdapterConfig, module},
    identity,
    listing::{Factor, Form, Listing, Pairs, Side, read_identity, wrong},
    lora::{Adapter, Settings, commonest, declarations, f32_bytes, in_order},
};
use crate::{
    Config, ConfigError, Error, FileInfo, LayerTensor, Name, json,
    mapped::Bytes,
    safetensors::{self, Entry, Header},
    stream::{self, make_empty, write_file},
    tensor::unknown,
};
use puna_format::Format;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Opens the adapter in `dir`.
pub(super) fn list(dir: &Path) -> Result<Listing, Error> {
    let (config, weights) = (dir.join(CONFIG), dir.join(WEIGHTS));
    let why = match (config.is_file(), weights.is_file()) {
        (true, true) => return read((&config, &json::map(&config)?), (&weights, &Bytes::map(&weights)?)),
        (true, false) if dir.join("adapter_model.bin").is_file() => {
            format!("expected {WEIGHTS}, found adapter_model.bin, a pickle, which is not read: save it anew with PEFT")
        }
        (true, false) => format!("{CONFIG} without {WEIGHTS}"),
        (false, _) => format!("a directory without {CONFIG}; a GGUF adapter is opened by its file"),
    };
    Err(Error::NotAnAdapter { path: dir.to_owned(), why })
}

/// The adapter of a configuration and a file of values, each with its path.
pub(crate) fn read(config: (&Path, &[u8]), weights: (&Path, &Bytes)) -> Result<Listing, Error> {
    let (config_path, json) = config;
    let (path, bytes) = weights;
    let of_config = |error| Error::Config { path: config_path.to_owned(), error };
    let config = AdapterConfig::parse(json).map_err(of_config)?;
    let in_file = |error| Error::Safetensors { path: path.to_owned(), error };
    let header = Header::parse(bytes).map_err(in_file)?;

    let mut pairs = Pairs::default();
    let mut base_copies = BTreeMap::new();
    for entry in &header.entries {
        let (name, part) = place(path, &entry.name)?;
        let factor = factor(path, bytes, entry)?;
        match part {
            Part::Factor(side) => pairs.claim(path, name, side, factor)?,
            Part::Base => drop(base_copies.insert(name, factor)),
        }
    }
    let mut settings = Settings {
        rank_stabilized: config.rank_stabilized,
        dropout: config.dropout,
        base_name: config.base_name.clone(),
        base: None,
        chat_template: None,
    };
    read_identity(path, &safetensors::metadata(bytes, &identity::KEYS).map_err(in_file)?, &mut settings)?;
    let files = [(config_path, json.len()), (path, bytes.len())];
    let files = files.map(|(path, bytes)| FileInfo { path: path.to_owned(), bytes: bytes as u64 }).to_vec();
    let mut listing = Listing::new(Form::Peft, path, files, settings, pairs, &|name, _| config.alpha(name))?;

    for (&name, stored) in &listing.matrices {
        let called = &stored.a.called;
        if config.targets.have(name) == Some(false) {
            return Err(unknown(path, called, "adapter_config.json does not name its module as a target"));
        }
        let (rank, key) = config.rank(name);
        if stored.rank() != rank {
            let expected = format!("{rank} as `{key}` of {CONFIG} says");
            return Err(wrong(path, called, "rank", stored.rank().to_string(), expected));
        }
    }
    if let Some(target) = config.targets.unused(listing.matrices.keys().copied()) {
        let expected = format!("modules that {WEIGHTS} has tensors of");
        return Err(of_config(ConfigError::range("target_modules", target, expected)));
    }
    if let Some((_, copy)) = base_copies.iter().find(|(name, _)| !listing.matrices.contains_key(name)) {
        return Err(unknown(path, &copy.called, "a matrix of the base, whose adapter is not here"));
    }
    listing.base_copies = base_copies;
    listing.targets = Some(config.targets);
    Ok(listing)
}

/// What a tensor is to the matrix of the base that it belongs to.
enum Part {
    Factor(Side),
    /// A copy of the matrix itself.
    Base,
}

/// Which matrix a tensor belongs to, and as what.
fn place(path: &Path, called: &str) -> Result<(Name, Part), Error> {
    let Some(rest) = called.strip_prefix(PREFIX) else {
        return Err(unknown(path, called, "expected a name that begins with `base_model.model.`"));
    };
    let parts = [
        (".lora_A.weight", Part::Factor(Side::A)),
        (".lora_B.weight", Part::Factor(Side::B)),
        (".base_layer.weight", Part::Base),
    ];
    for (suffix, part) in parts {
        let Some(module) = rest.strip_suffix(suffix) else { continue };
        return match Name::from_hugging_face(&format!("{module}.weight")) {
            Some(name) => Ok((name, part)),
            None => Err(unknown(path, called, "the Llama architecture has no such module")),
        };
    }
    let why = if rest.ends_with(".lora_embedding_A") || rest.ends_with(".lora_embedding_B") {
        "adapters of the token embedding are not supported"
    } else {
        "expected a name that ends with `.lora_A.weight` or `.lora_B.weight`"
    };
    Err(unknown(path, called, why))
}

fn factor(path: &Path, bytes: &Bytes, entry: &Entry<'_>) -> Result<Factor, Error> {
    let called = entry.name.as_ref();
    let format = Format::from_safetensors_dtype(entry.dtype);
    let Some(format) = format.filter(|format| matches!(format, Format::F32 | Format::F16 | Format::BF16)) else {
        return Err(wrong(path, called, "dtype", entry.dtype.into(), "F32, F16 or BF16".into()));
    };
    let [rows, cols] = *entry.shape else {
        return Err(wrong(path, called, "shape", format!("{:?}", entry.shape), "two dimensions".into()));
    };
    let data = bytes.slice(entry.start, entry.len).expect("Header::parse checked every entry against the file");
    Factor::new(path, called, format, (rows, cols), data)
}

/// Writes an adapter into the directory `dir`, which is new or empty. Values are F32, rows of q and k in the order of
/// Hugging Face, whatever the adapter's; the configuration comes last, so that an unfinished directory is no adapter.
///
/// # Errors
/// When the adapter does not fit a base of these sizes, the directory is not empty, or the file system is at fault.
pub fn write(adapter: &Adapter, dir: &Path, config: &Config) -> Result<(), Error> {
    adapter.check(config).map_err(|what| stream::wrong(dir, what))?;
    make_empty(dir)?;
    put(adapter, dir, config)
}

/// The same into a directory that has other files, and may have an adapter, whose place this one takes.
///
/// # Errors
/// As [`write`].
pub fn replace(adapter: &Adapter, dir: &Path, config: &Config) -> Result<(), Error> {
    adapter.check(config).map_err(|what| stream::wrong(dir, what))?;
    // Values of one adapter never lie beside the configuration of another.
    let old = dir.join(CONFIG);
    match std::fs::remove_file(&old) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&old)(error)),
        _ => put(adapter, dir, config),
    }
}

fn put(adapter: &Adapter, dir: &Path, config: &Config) -> Result<(), Error> {
    let called = |name| ["A", "B"].map(|side| format!("{PREFIX}{}.lora_{side}.weight", module(name)));
    let declarations = declarations(adapter, config, called);
    let metadata = identity::to_metadata(adapter.settings.base.as_ref(), adapter.settings.chat_template);
    let mut writer = safetensors::Writer::create_with_metadata(&dir.join(WEIGHTS), &metadata, &declarations)?;
    for (&name, matrix) in &adapter.matrices {
        writer.append(&f32_bytes(&matrix.a))?;
        writer.append(&f32_bytes(&in_order(name, matrix, adapter.pairing, Form::Peft.pairing(), config)))?;
    }
    writer.finish()?;
    write_file(&dir.join(CONFIG), format!("{:#}\n", config_json(adapter, config)).as_bytes())
}

/// The configuration as PEFT reads it back: the keys that its releases share. All others have their defaults.
fn config_json(adapter: &Adapter, config: &Config) -> Value {
    let matrices = || adapter.matrices.iter();
    let rank = commonest(matrices().map(|(_, matrix)| matrix.rank).collect());
    let alpha = commonest(matrices().map(|(_, matrix)| matrix.alpha).collect());
    let ranks: Map<String, Value> = matrices()
        .filter(|(_, matrix)| Some(matrix.rank) != rank)
        .map(|(&name, matrix)| (module(name), matrix.rank.into()))
        .collect();
    let alphas: Map<String, Value> = matrices()
        .filter(|(_, matrix)| Some(matrix.alpha) != alpha)
        .map(|(&name, matrix)| (module(name), number(matrix.alpha)))
        .collect();
    json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": adapter.settings.base_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha.map(number),
        "lora_dropout": number(adapter.settings.dropout),
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": targets(adapter, config),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": adapter.settings.rank_stabilized,
    })
}

/// A module by its last name where every layer has it, else in full.
fn targets(adapter: &Adapter, config: &Config) -> BTreeSet<String> {
    let everywhere = |tensor: LayerTensor| {
        (0..config.n_layers).all(|layer| adapter.matrices.contains_key(&Name::Layer { layer, tensor }))
    };
    let target = |&name: &Name| {
        let module = module(name);
        match name {
            Name::Layer { tensor, .. } if everywhere(tensor) => {
                module.rsplit_once('.').map_or(module.clone(), |(_, last)| last.to_owned())
            }
            _ => module,
        }
    };
    adapter.matrices.keys().map(target).collect()
}

/// A number as people write it: 16 and not 16.0, 0.1 and not 0.10000000149.
fn number(value: f32) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        return (value as i64).into();
    }
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
