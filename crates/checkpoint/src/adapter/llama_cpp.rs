//! llama.cpp's adapters: GGUF files of `general.type` adapter.
//!
//! A matrix's factors have its name and then `.lora_a` `[rank, cols]` and `.lora_b` `[rows, rank]`, rows of q and k in
//! the interleaved order. There is one alpha for all; the scale of a matrix is alpha over its rank, or 1 where there is
//! no alpha or it is zero. llama.cpp knows no other scale, so one that can't be had from a common alpha is multiplied
//! into B.

use super::{
    identity,
    listing::{Factor, Form, Listing, Pairs, Side, read_identity, wrong},
    lora::{ALPHAS, Adapter, Settings, commonest, declarations, f32_bytes, in_order, is_alpha},
};
use crate::{
    Config, Error, FileInfo, Name,
    error::shown,
    gguf::{self, Header, HeaderError, MetadataValue, TensorInfo, Value},
    mapped::Bytes,
    stream,
    tensor::unknown,
};
use puna_format::Format;
use std::{collections::BTreeMap, path::Path};

const ARCHITECTURE: &str = "general.architecture";
const TYPE: &str = "general.type";
const BASE_COUNT: &str = "general.base_model.count";
const BASE_NAME: &str = "general.base_model.0.name";
const METHOD: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
/// What the adapter is good for, in words.
const TASK: &str = "adapter.lora.task_name";

/// The adapter in a GGUF file.
pub(crate) fn read(path: &Path, bytes: &Bytes) -> Result<Listing, Error> {
    let of_file = |error| Error::Gguf { path: path.to_owned(), error };
    let header = Header::parse(bytes).map_err(of_file)?;
    let alpha = checked(&header).map_err(of_file)?;

    let mut pairs = Pairs::default();
    for tensor in &header.tensors {
        let (name, side) = place(path, tensor.name)?;
        pairs.claim(path, name, side, factor(path, bytes, tensor)?)?;
    }
    let mut settings =
        Settings { base_name: header.string(BASE_NAME).map_err(of_file)?.map(str::to_owned), ..Settings::default() };
    let mut metadata = BTreeMap::new();
    for key in identity::KEYS {
        if let Some(text) = header.string(key).map_err(of_file)? {
            metadata.insert(key, text.to_owned());
        }
    }
    read_identity(path, &metadata, &mut settings)?;
    let files = vec![FileInfo { path: path.to_owned(), bytes: bytes.len() as u64 }];
    let alpha = |_, rank: usize| alpha.unwrap_or(rank as f32);
    Listing::new(Form::Gguf, path, files, settings, pairs, &alpha)
}

/// Holds the metadata against what is supported, and gives the common alpha.
fn checked(header: &Header<'_>) -> Result<Option<f32>, HeaderError> {
    let value = |key: &str, found: &str, expected: &str| HeaderError::Value {
        key: shown(key),
        found: shown(found),
        expected: expected.into(),
    };
    for (key, expected) in [(TYPE, "adapter"), (ARCHITECTURE, "llama"), (METHOD, "lora")] {
        match header.string(key)? {
            None => return Err(HeaderError::Missing(key)),
            Some(found) if found == expected => {}
            Some(found) => return Err(value(key, found, &format!("`{expected}`"))),
        }
    }
    for (key, found) in header.pairs.iter().filter(|(key, _)| key.starts_with("adapter.")) {
        let empty = matches!(found, Value::String("") | Value::Array { len: 0, .. });
        if ![METHOD, ALPHA, TASK].contains(key) && !empty {
            let expected = "no such key: it may change what the adapter does, so it is not ignored";
            return Err(value(key, "present", expected));
        }
    }
    match header.float(ALPHA)?.filter(|alpha| *alpha != 0.0) {
        Some(alpha) if !is_alpha(alpha) => Err(value(ALPHA, &alpha.to_string(), &format!("0 or {ALPHAS}"))),
        alpha => Ok(alpha),
    }
}

/// Which matrix a tensor belongs to, and as which factor.
fn place(path: &Path, called: &str) -> Result<(Name, Side), Error> {
    for (suffix, side) in [(".lora_a", Side::A), (".lora_b", Side::B)] {
        let Some(name) = called.strip_suffix(suffix) else { continue };
        return match Name::from_gguf(name) {
            Some(name) => Ok((name, side)),
            None => Err(unknown(path, called, "the Llama architecture has none of this name")),
        };
    }
    Err(unknown(path, called, "expected a name that ends with `.lora_a` or `.lora_b`"))
}

fn factor(path: &Path, bytes: &Bytes, tensor: &TensorInfo<'_>) -> Result<Factor, Error> {
    let format = Format::from_ggml_type(tensor.ggml_type).expect("Header::parse refuses types that have no format");
    let shape = match *tensor.dims {
        // ggml drops outer dimensions of 1.
        [cols] => (1, cols),
        [cols, rows] => (rows, cols),
        _ => return Err(wrong(path, tensor.name, "shape", format!("{:?}", tensor.dims), "two dimensions".into())),
    };
    let data = bytes.slice(tensor.start, tensor.len).expect("Header::parse checked every tensor");
    Factor::new(path, tensor.name, format, shape, data)
}

/// Writes an adapter as the file `path`. Values are F32, rows of q and k interleaved, whatever the adapter's order.
///
/// The result are the matrices whose scale had to be multiplied into B, which rounds: none where the adapter has one
/// alpha, and, if it is rank-stabilized, one rank.
///
/// # Errors
/// When the adapter does not fit a base of these sizes, llama.cpp has no place for it, or the file system is at fault.
pub fn write(adapter: &Adapter, path: &Path, config: &Config) -> Result<Vec<Name>, Error> {
    adapter.check(config).map_err(|what| stream::wrong(path, what))?;
    if config.tied_embeddings && adapter.matrices.contains_key(&Name::Output) {
        let what = "the base's output matrix is its token embedding, and llama.cpp can't change only one of them";
        return Err(stream::wrong(path, what.into()));
    }
    // The alpha that gives a matrix's scale when it is divided by the rank.
    let alphas: BTreeMap<Name, f32> = adapter
        .matrices
        .iter()
        .map(|(&name, matrix)| {
            let alpha = if adapter.settings.rank_stabilized {
                (f64::from(matrix.alpha) * (matrix.rank as f64).sqrt()) as f32
            } else {
                matrix.alpha
            };
            (name, alpha)
        })
        .collect();
    let alpha = commonest(alphas.values().copied().collect()).expect("`check` wants a matrix");
    let declarations =
        declarations(adapter, config, |name| ["a", "b"].map(|side| format!("{}.lora_{side}", name.gguf())));
    let mut writer = gguf::Writer::create(path, &metadata(&adapter.settings, alpha), &declarations)?;
    let mut folded = Vec::new();
    for (&name, matrix) in &adapter.matrices {
        writer.append(&f32_bytes(&matrix.a))?;
        let mut b = in_order(name, matrix, adapter.pairing, Form::Gguf.pairing(), config);
        if alphas[&name] != alpha {
            let ratio = alphas[&name] / alpha;
            b.to_mut().iter_mut().for_each(|value| *value *= ratio);
            folded.push(name);
        }
        writer.append(&f32_bytes(&b))?;
    }
    writer.finish()?;
    Ok(folded)
}

fn metadata(settings: &Settings, alpha: f32) -> Vec<(String, MetadataValue)> {
    use MetadataValue::{F32, String as Str, U32};
    let mut pairs = vec![
        (ARCHITECTURE, Str("llama".into())),
        (TYPE, Str("adapter".into())),
        (METHOD, Str("lora".into())),
        (ALPHA, F32(alpha)),
    ];
    if let Some(name) = &settings.base_name {
        pairs.push((BASE_COUNT, U32(1)));
        pairs.push((BASE_NAME, Str(name.clone())));
    }
    let ours = identity::to_metadata(settings.base.as_ref(), settings.chat_template);
    pairs.extend(ours.into_iter().map(|(key, text)| (key, Str(text))));
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
