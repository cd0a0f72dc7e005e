//! The Llama in a GGUF file, or in a set of split ones.

use super::header::{Header, HeaderError, TensorInfo, Value, ValueType};
use crate::{
    Checkpoint, Error, FileInfo, Generation, GgufVocabulary, Layout, TokenizerSource,
    config::{Config, ConfigError, Keys, MAX_VOCAB, Rope, RopePairing, RopeScaling},
    error::shown,
    mapped::Bytes,
    name::Name,
    tensor::{Claims, Part, unknown},
};
use puna_format::Format;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Most files of a split set.
const MAX_SPLIT: u64 = 1024;
/// Merges per token, at most. Vocabularies converted from tiktoken have two or three ways to many of their tokens.
const MERGES_PER_TOKEN: usize = 8;

const KEYS: Keys = Keys {
    dim: "llama.embedding_length",
    n_layers: "llama.block_count",
    n_heads: "llama.attention.head_count",
    n_kv_heads: "llama.attention.head_count_kv",
    head_dim: "llama.attention.key_length",
    ffn_dim: "llama.feed_forward_length",
    vocab_size: "llama.vocab_size",
    context_length: "llama.context_length",
    norm_eps: "llama.attention.layer_norm_rms_epsilon",
    theta: "llama.rope.freq_base",
    scaling: "llama.rope.scaling.factor",
};

/// Keys of `llama.*` with no influence on the forward pass.
const HARMLESS: &[&str] = &[
    "llama.expert_used_count",
    "llama.rope.scaling.finetuned",
    "llama.rope.scaling.original_context_length",
    "llama.tensor_data_layout",
];

/// Keys of `llama.*` that are read below.
const READ: &[&str] = &[
    KEYS.dim,
    KEYS.n_layers,
    KEYS.n_heads,
    KEYS.n_kv_heads,
    KEYS.head_dim,
    KEYS.ffn_dim,
    KEYS.vocab_size,
    KEYS.context_length,
    KEYS.norm_eps,
    KEYS.theta,
    KEYS.scaling,
    "llama.attention.value_length",
    "llama.expert_count",
    "llama.rope.dimension_count",
    "llama.rope.scale_linear",
    "llama.rope.scaling.attn_factor",
    "llama.rope.scaling.type",
];

/// The tensor of [`RopeScaling::Factors`].
pub(crate) const FREQUENCIES: &str = "rope_freqs.weight";

struct Source {
    path: PathBuf,
    bytes: Bytes,
}

impl Source {
    fn header(&self) -> Result<Header<'_>, Error> {
        Header::parse(&self.bytes).map_err(|error| self.wrong(error))
    }

    fn wrong(&self, error: HeaderError) -> Error {
        Error::Gguf { path: self.path.clone(), error }
    }
}

/// Opens a GGUF file, and the others of its set when it is one of several.
pub(crate) fn open(path: &Path) -> Result<Checkpoint, Error> {
    let source = Source { path: path.to_owned(), bytes: Bytes::map(path)? };
    let sources = match split(&source, &source.header()?)? {
        None => vec![source],
        Some(paths) => {
            drop(source);
            paths
                .into_iter()
                .map(|path| Ok(Source { bytes: Bytes::map(&path)?, path }))
                .collect::<Result<Vec<_>, Error>>()?
        }
    };
    assemble(path, &sources)
}

/// Opens a GGUF file, no part of a set, whose bytes are at hand, as those of a model in the program itself are: `path`
/// is what messages call it. Nothing is copied.
///
/// # Errors
/// What is wrong in it, as for a file on disk.
pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Checkpoint, Error> {
    assemble(path, &[Source { path: path.to_owned(), bytes }])
}

/// The model in a complete set of files.
fn assemble(path: &Path, sources: &[Source]) -> Result<Checkpoint, Error> {
    let headers = sources.iter().map(Source::header).collect::<Result<Vec<_>, Error>>()?;
    check_split(sources, &headers)?;

    let (Some(first), Some(header)) = (sources.first(), headers.first()) else {
        return Err(Error::NotAModel { path: path.to_owned(), why: "an empty set of files".into() });
    };
    let find = |name: &str| {
        let mut all = sources.iter().zip(&headers).flat_map(|(s, header)| header.tensors.iter().map(move |t| (s, t)));
        all.find(|(_, tensor)| tensor.name == name)
    };
    let factors = find(FREQUENCIES).map(|(source, tensor)| factors(source, tensor)).transpose()?;
    let rows = find("token_embd.weight").and_then(|(_, tensor)| tensor.dims.get(1).copied());
    let tied = find("output.weight").is_none();
    let config = config(header, rows, factors, tied).map_err(|error| match error {
        Wrong::Header(error) => first.wrong(error),
        Wrong::Config(error) => Error::Config { path: first.path.clone(), error },
    })?;

    let mut claims = Claims::new(&config);
    for (source, header) in sources.iter().zip(&headers) {
        for tensor in &header.tensors {
            claim(&config, source, tensor, &mut claims)?;
        }
    }
    let tensors = claims.finish(path)?;

    // Last, when everything else holds: these strings are the only copies that are made.
    let vocabulary = vocabulary(header, &config).map_err(|error| first.wrong(error))?;
    let generation = generation(header).map_err(|error| first.wrong(error))?;
    let chat_template = header.string("tokenizer.chat_template").map_err(|error| first.wrong(error))?;
    let chat_template = chat_template.map(str::to_owned);
    let files = sources.iter().map(|s| FileInfo { path: s.path.clone(), bytes: s.bytes.len() as u64 }).collect();
    Ok(Checkpoint {
        layout: Layout::Gguf,
        generation,
        tokenizer: vocabulary.map_or(TokenizerSource::None, TokenizerSource::Gguf),
        chat_template,
        files,
        tensors,
        config,
    })
}

/// The files of the set that `source` belongs to, when it says that it is one of several.
fn split(source: &Source, header: &Header<'_>) -> Result<Option<Vec<PathBuf>>, Error> {
    let count = header.unsigned("split.count").map_err(|error| source.wrong(error))?.unwrap_or(0);
    if count <= 1 {
        return Ok(None);
    }
    let wrong = |found: String, expected: String| {
        source.wrong(HeaderError::Value { key: "split.count".into(), found, expected })
    };
    if count > MAX_SPLIT {
        return Err(wrong(count.to_string(), format!("at most {MAX_SPLIT}")));
    }
    let pattern = format!("-of-{count:05}.gguf");
    let name = source.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let prefix = name.strip_suffix(&pattern).and_then(|rest| rest.rsplit_once('-'));
    let Some((prefix, _)) = prefix.filter(|(_, n)| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit())) else {
        return Err(wrong(count.to_string(), format!("a file named NAME-00001{pattern}, to find the others by")));
    };
    let dir = source.path.parent().unwrap_or(Path::new(""));
    let names: Vec<String> = (1..=count).map(|n| format!("{prefix}-{n:05}{pattern}")).collect();
    let missing: Vec<String> = names.iter().filter(|name| !dir.join(name).is_file()).cloned().collect();
    if !missing.is_empty() {
        return Err(Error::MissingFiles { dir: dir.to_owned(), missing, promised: names.len() });
    }
    Ok(Some(names.into_iter().map(|name| dir.join(name)).collect()))
}

/// Every file must say its own number and the same count; the first also says the number of tensors.
fn check_split(sources: &[Source], headers: &[Header<'_>]) -> Result<(), Error> {
    if sources.len() < 2 {
        return Ok(());
    }
    let tensors: usize = headers.iter().map(|header| header.tensors.len()).sum();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        for (i, (source, header)) in sources.iter().zip(headers).enumerate() {
            let expected = match key {
                "split.no" => i,
                "split.count" => sources.len(),
                _ => tensors,
            };
            let found = header.unsigned(key).map_err(|error| source.wrong(error))?;
            if found.is_some_and(|found| found != expected as u64) || (found.is_none() && key == "split.no") {
                let found = found.map_or("missing".into(), |n| n.to_string());
                let expected = format!("{expected} by the set of {} files", sources.len());
                return Err(source.wrong(HeaderError::Value { key: key.into(), found, expected }));
            }
        }
    }
    Ok(())
}

enum Wrong {
    Header(HeaderError),
    Config(ConfigError),
}

impl From<HeaderError> for Wrong {
    fn from(error: HeaderError) -> Wrong {
        Wrong::Header(error)
    }
}

impl From<ConfigError> for Wrong {
    fn from(error: ConfigError) -> Wrong {
        Wrong::Config(error)
    }
}

/// The sizes, from the metadata of the first file and from three tensors: the rows of the token embedding, the rope
/// factors, and whether there is no output matrix.
fn config(
    header: &Header<'_>,
    rows: Option<u64>,
    factors: Option<Arc<[f32]>>,
    tied_embeddings: bool,
) -> Result<Config, Wrong> {
    let value = |key: &str, found: &dyn std::fmt::Display, expected: &str| HeaderError::Value {
        key: key.into(),
        found: shown(&found.to_string()),
        expected: expected.into(),
    };
    match header.string("general.architecture")? {
        None => return Err(HeaderError::Missing("general.architecture").into()),
        Some("llama") => {}
        Some(other) => {
            let expected = "`llama`: no other architecture is supported";
            return Err(value("general.architecture", &other, expected).into());
        }
    }
    for (key, _) in header.pairs.iter().filter(|(key, _)| key.starts_with("llama.")) {
        if !READ.contains(key) && !HARMLESS.contains(key) {
            let expected = "no such key: it may change what the model computes, so it is not ignored";
            return Err(value(key, &"present", expected).into());
        }
    }
    let size = |key: &'static str| -> Result<usize, Wrong> {
        let n = header.unsigned(key)?.ok_or(HeaderError::Missing(key))?;
        // What does not fit is far out of range, and the range check says so.
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    };
    let optional = |key: &'static str| -> Result<Option<usize>, Wrong> {
        Ok(header.unsigned(key)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    };
    let dim = size(KEYS.dim)?;
    let n_heads = size(KEYS.n_heads)?;
    let head_dim = match optional(KEYS.head_dim)? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
        None => return Err(ConfigError::range(KEYS.n_heads, n_heads, format_args!("a divisor of {dim}")).into()),
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(n) = header.unsigned(key)?
            && n != head_dim as u64
        {
            return Err(value(key, &n, &format!("{head_dim}, the size of a head")).into());
        }
    }
    if let Some(n) = header.unsigned("llama.expert_count")?
        && n > 0
    {
        return Err(value("llama.expert_count", &n, "0: mixtures of experts are not supported").into());
    }
    if let Some(factor) = header.float("llama.rope.scaling.attn_factor")?
        && factor != 1.0
    {
        return Err(value("llama.rope.scaling.attn_factor", &factor, "1").into());
    }

    let rows = rows.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let vocab_size = match (optional(KEYS.vocab_size)?, rows) {
        (Some(stated), Some(rows)) if stated != rows => {
            return Err(value(KEYS.vocab_size, &stated, &format!("{rows}, the rows of token_embd.weight")).into());
        }
        (stated, rows) => rows.or(stated).ok_or(HeaderError::Missing(KEYS.vocab_size))?,
    };
    let config = Config {
        dim,
        n_layers: size(KEYS.n_layers)?,
        n_heads,
        n_kv_heads: optional(KEYS.n_kv_heads)?.unwrap_or(n_heads),
        head_dim,
        ffn_dim: size(KEYS.ffn_dim)?,
        vocab_size,
        context_length: size(KEYS.context_length)?,
        norm_eps: header.float(KEYS.norm_eps)?.ok_or(HeaderError::Missing(KEYS.norm_eps))?,
        rope: Rope {
            theta: header.float(KEYS.theta)?.unwrap_or(10_000.0),
            scaling: scaling(header, factors)?,
            pairing: RopePairing::Interleaved,
        },
        tied_embeddings,
    };
    config.check(&KEYS)?;
    Ok(config)
}

fn scaling(header: &Header<'_>, factors: Option<Arc<[f32]>>) -> Result<RopeScaling, HeaderError> {
    const KIND: &str = "llama.rope.scaling.type";
    let factor = match header.float(KEYS.scaling)? {
        Some(factor) => Some(factor),
        None => header.float("llama.rope.scale_linear")?,
    };
    let linear = match header.string(KIND)? {
        Some("none") => None,
        // Files from before there was a type had the factor alone.
        Some("linear") | None => factor.filter(|&factor| factor != 1.0 && factor != 0.0),
        Some(other) => {
            let expected = "`none` or `linear`: no other is supported".into();
            return Err(HeaderError::Value { key: KIND.into(), found: shown(other), expected });
        }
    };
    match (linear, factors) {
        (None, None) => Ok(RopeScaling::None),
        (None, Some(factors)) => Ok(RopeScaling::Factors(factors)),
        (Some(factor), None) => Ok(RopeScaling::Linear { factor }),
        (Some(factor), Some(_)) => Err(HeaderError::Value {
            key: KEYS.scaling.into(),
            found: factor.to_string(),
            expected: format!("nothing beside the tensor {FREQUENCIES}"),
        }),
    }
}

fn factors(source: &Source, tensor: &TensorInfo<'_>) -> Result<Arc<[f32]>, Error> {
    if Format::from_ggml_type(tensor.ggml_type) != Some(Format::F32) || tensor.dims.len() != 1 || tensor.len > 4096 {
        return Err(Error::Tensor {
            path: source.path.clone(),
            tensor: tensor.name.into(),
            what: "form",
            found: format!("ggml_type {} {:?}", tensor.ggml_type, tensor.dims),
            expected: "F32, one factor per pair of a head".into(),
        });
    }
    let bytes = source.bytes.slice(tensor.start, tensor.len).expect("Header::parse checked every tensor");
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn claim(config: &Config, source: &Source, tensor: &TensorInfo<'_>, claims: &mut Claims<'_>) -> Result<(), Error> {
    let path = &source.path;
    if tensor.name == FREQUENCIES {
        return Ok(());
    }
    let Some(name) = Name::from_gguf(tensor.name) else {
        return Err(unknown(path, tensor.name, "the Llama architecture has none of this name"));
    };
    let format = Format::from_ggml_type(tensor.ggml_type).expect("Header::parse refuses types that have no format");
    let vector = config.shape(name).0 == 1;
    let shape = match *tensor.dims {
        [cols] if vector => Some((1, cols)),
        [cols, rows] if !vector => Some((rows, cols)),
        _ => None,
    };
    let shape = shape.and_then(|(rows, cols)| Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?)));
    let Some((rows, cols)) = shape else {
        return Err(Error::Tensor {
            path: path.clone(),
            tensor: shown(tensor.name),
            what: "shape",
            found: format!("{:?}", tensor.dims),
            expected: if vector { "one dimension" } else { "two dimensions" }.into(),
        });
    };
    let bytes = source.bytes.slice(tensor.start, tensor.len).expect("Header::parse checked every tensor");
    let part = Part { row0: 0, rows, col0: 0, cols, bytes, row_scales: None };
    claims.claim(path, tensor.name, name, format, vec![part])
}

fn vocabulary(header: &Header<'_>, config: &Config) -> Result<Option<GgufVocabulary>, HeaderError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const MERGES: &str = "tokenizer.ggml.merges";
    let Some(model) = header.string("tokenizer.ggml.model")? else { return Ok(None) };
    let tokens = header.array(TOKENS, ValueType::String)?;
    let tokens = tokens.as_ref().and_then(Value::strings).ok_or(HeaderError::Missing(TOKENS))?;
    let counted = |key: &str, found: usize, expected: String| -> Result<(), HeaderError> {
        Err(HeaderError::Value { key: key.into(), found: format!("{found} elements"), expected })
    };
    let n = tokens.len();
    if n != config.vocab_size || n > MAX_VOCAB {
        counted(TOKENS, n, format!("{}, the rows of token_embd.weight", config.vocab_size))?;
    }
    let merges = header.array(MERGES, ValueType::String)?;
    let merges = merges.as_ref().and_then(Value::strings);
    if let Some(merges) = &merges
        && merges.len() > n.saturating_mul(MERGES_PER_TOKEN)
    {
        counted(MERGES, merges.len(), format!("at most {MERGES_PER_TOKEN} per token"))?;
    }
    let numbers = |key: &'static str, of| -> Result<&[[u8; 4]], HeaderError> {
        match header.array(key, of)? {
            None => Ok(&[]),
            Some(Value::Array { bytes, len, .. }) => {
                if len != n as u64 {
                    counted(key, len as usize, format!("{n}, as many as tokens"))?;
                }
                Ok(bytes.as_chunks::<4>().0)
            }
            Some(_) => Ok(&[]),
        }
    };
    let token = |key: &'static str| -> Result<Option<u32>, HeaderError> { token_id(header, key, n) };
    Ok(Some(GgufVocabulary {
        model: model.to_owned(),
        pre: header.string("tokenizer.ggml.pre")?.map(str::to_owned),
        token_types: numbers("tokenizer.ggml.token_type", ValueType::I32)?
            .iter()
            .map(|b| i32::from_le_bytes(*b))
            .collect(),
        scores: numbers("tokenizer.ggml.scores", ValueType::F32)?.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        merges: merges.map(|merges| merges.map(str::to_owned).collect()).unwrap_or_default(),
        bos: token("tokenizer.ggml.bos_token_id")?,
        eos: token("tokenizer.ggml.eos_token_id")?,
        add_bos: header.bool("tokenizer.ggml.add_bos_token")?,
        add_space_prefix: header.bool("tokenizer.ggml.add_space_prefix")?,
        tokens: tokens.map(str::to_owned).collect(),
    }))
}

fn token_id(header: &Header<'_>, key: &'static str, n: usize) -> Result<Option<u32>, HeaderError> {
    match header.unsigned(key)? {
        None => Ok(None),
        // How converters write "none".
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        Some(id) if id < n as u64 => Ok(u32::try_from(id).ok()),
        Some(id) => {
            let expected = format!("less than {n}, the number of tokens");
            Err(HeaderError::Value { key: key.into(), found: id.to_string(), expected })
        }
    }
}

fn generation(header: &Header<'_>) -> Result<Generation, HeaderError> {
    let float = |key: &str| header.float(key);
    let id = |key: &'static str| token_id(header, key, MAX_VOCAB);
    let mut eos = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        eos.extend(id(key)?.filter(|id| !eos.contains(id)));
    }
    Ok(Generation {
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos,
        pad: id("tokenizer.ggml.padding_token_id")?,
        do_sample: None,
        temperature: float("general.sampling.temp")?,
        top_p: float("general.sampling.top_p")?,
        top_k: header.unsigned("general.sampling.top_k")?.and_then(|k| u32::try_from(k).ok()),
        min_p: float("general.sampling.min_p")?,
        typical_p: None,
        repetition_penalty: float("general.sampling.penalty_repeat")?,
    })
}
