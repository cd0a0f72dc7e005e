//! `config.json` under a closed schema, `generation_config.json`, and the template in `tokenizer_config.json`.
//!
//! A key of `config.json` that is not known here may change what the model computes, or load code elsewhere: it is
//! refused by name. Keys that can't change the result of the forward pass are listed as harmless.

use crate::{
    Generation,
    config::{Config, ConfigError, Keys, Rope, RopePairing, RopeScaling},
    json::{self, Ids, Object, at, once, set, skip},
};
use puna_format::Format;
use serde::{
    Deserialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json};
use std::{borrow::Cow, fmt};

/// What `config.json` says, before sizes are checked.
#[derive(Debug, Default)]
pub struct HfConfig {
    architectures: Option<Architectures>,
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeJson>,
    tie_word_embeddings: Option<bool>,
    quantization: Option<Quantization>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
}

/// Keys with no influence on the forward pass: training, generation defaults, bookkeeping of tools.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Switches that must be off (or absent, or null), with what they would switch on.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("attention_bias", "biases in attention"),
    ("mlp_bias", "biases in the feed-forward network"),
    ("is_encoder_decoder", "an encoder-decoder model"),
    ("add_cross_attention", "cross attention"),
    ("tie_encoder_decoder", "an encoder-decoder model"),
    ("rope_interleaved", "another pairing of rotary dimensions"),
    ("use_sliding_window", "a sliding window"),
];

impl<'a> Object<'a> for &mut HfConfig {
    const WHAT: &'static str = "a model configuration";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        match &**key {
            "architectures" => set(&mut self.architectures, key, map),
            "model_type" => set(&mut self.model_type, key, map),
            "hidden_size" => set(&mut self.hidden_size, key, map),
            "intermediate_size" => set(&mut self.intermediate_size, key, map),
            "num_hidden_layers" => set(&mut self.num_hidden_layers, key, map),
            "num_attention_heads" => set(&mut self.num_attention_heads, key, map),
            "num_key_value_heads" => set(&mut self.num_key_value_heads, key, map),
            "head_dim" => set(&mut self.head_dim, key, map),
            "vocab_size" => set(&mut self.vocab_size, key, map),
            "max_position_embeddings" => set(&mut self.max_position_embeddings, key, map),
            "rms_norm_eps" => set(&mut self.rms_norm_eps, key, map),
            "rope_theta" => set(&mut self.rope_theta, key, map),
            "tie_word_embeddings" => set(&mut self.tie_word_embeddings, key, map),
            "rope_scaling" => once(&mut self.rope_scaling, key, map),
            "rope_parameters" => once(&mut self.rope_parameters, key, map),
            "quantization_config" => once(&mut self.quantization, key, map),
            "bos_token_id" => set(&mut self.bos, key, map),
            "eos_token_id" => {
                let mut ids: Option<Ids> = None;
                set(&mut ids, key, map)?;
                self.eos = ids.unwrap_or_default().0;
                Ok(())
            }
            "hidden_act" => {
                let mut name: Option<String> = None;
                set(&mut name, key, map)?;
                match name.as_deref() {
                    None | Some("silu" | "swish") => Ok(()),
                    Some(other) => Err(at(key, &format_args!("`{}`, expected `silu`", crate::error::shown(other)))),
                }
            }
            "partial_rotary_factor" => {
                let mut factor: Option<f64> = None;
                set(&mut factor, key, map)?;
                match factor {
                    None | Some(1.0) => Ok(()),
                    Some(other) => Err(at(key, &format_args!("{other}, expected 1"))),
                }
            }
            "sliding_window" => {
                let mut window: Option<u64> = None;
                set(&mut window, key, map)?;
                match window {
                    None => Ok(()),
                    Some(window) => Err(at(key, &format_args!("{window}, but sliding windows are not supported"))),
                }
            }
            "auto_map" => Err(at(key, &"asks to load code that comes with the model; puna never does that")),
            _ if HARMLESS.contains(&&**key) => skip(map),
            _ => match MUST_BE_OFF.iter().find(|(name, _)| name == key) {
                Some((_, what)) => {
                    let mut on: Option<bool> = None;
                    set(&mut on, key, map)?;
                    match on {
                        Some(true) => {
                            Err(at(key, &format_args!("true, but {what} is not part of the Llama architecture")))
                        }
                        _ => Ok(()),
                    }
                }
                None => Err(at(key, &"not known; it may change what the model computes, so it is not ignored")),
            },
        }
    }
}

const KEYS: Keys = Keys {
    dim: "hidden_size",
    n_layers: "num_hidden_layers",
    n_heads: "num_attention_heads",
    n_kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    ffn_dim: "intermediate_size",
    vocab_size: "vocab_size",
    context_length: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    theta: "rope_theta",
    scaling: "rope_scaling.factor",
};

impl HfConfig {
    /// Reads the JSON.
    ///
    /// # Errors
    /// Names the key that is unknown, repeated, of the wrong type, or asks for something outside of the architecture.
    pub fn parse(bytes: &[u8]) -> Result<HfConfig, ConfigError> {
        let mut config = HfConfig::default();
        json::read(bytes, &mut config)?;
        Ok(config)
    }

    /// Whether weights may be FP8 with row-wise scales.
    pub(crate) fn is_fp8(&self) -> bool {
        self.quantization.is_some()
    }

    /// The sizes, with the defaults of the `LlamaConfig` of transformers, every one inside its range.
    ///
    /// # Errors
    /// Names the key that is missing or out of range.
    pub fn config(&self) -> Result<Config, ConfigError> {
        match (&self.architectures, self.model_type.as_deref()) {
            (None, None) => return Err(ConfigError::Missing("architectures")),
            (_, Some(other)) if other != "llama" => {
                return Err(ConfigError::range("model_type", other, "`llama`: no other architecture is supported"));
            }
            _ => {}
        }
        let need = |value: Option<usize>, key| value.ok_or(ConfigError::Missing(key));
        let dim = need(self.hidden_size, KEYS.dim)?;
        let n_heads = need(self.num_attention_heads, KEYS.n_heads)?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None if n_heads > 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
            None => return Err(ConfigError::range(KEYS.n_heads, n_heads, format_args!("a divisor of {dim}"))),
        };
        let config = Config {
            dim,
            n_layers: need(self.num_hidden_layers, KEYS.n_layers)?,
            n_heads,
            n_kv_heads: self.num_key_value_heads.unwrap_or(n_heads),
            head_dim,
            ffn_dim: need(self.intermediate_size, KEYS.ffn_dim)?,
            vocab_size: need(self.vocab_size, KEYS.vocab_size)?,
            context_length: self.max_position_embeddings.unwrap_or(2048),
            norm_eps: self.rms_norm_eps.unwrap_or(1e-6),
            rope: self.rope()?,
            tied_embeddings: self.tie_word_embeddings.unwrap_or(false),
        };
        config.check(&KEYS)?;
        Ok(config)
    }

    /// Older files have `rope_theta` and `rope_scaling`, newer ones put both into `rope_parameters`.
    fn rope(&self) -> Result<Rope, ConfigError> {
        let inner = match (&self.rope_scaling, &self.rope_parameters) {
            (Some(old), Some(new)) if old.kind != new.kind || old.factor != new.factor => {
                return Err(ConfigError::range("rope_scaling", "present", "nothing beside another `rope_parameters`"));
            }
            (_, Some(new)) => Some(new),
            (old, None) => old.as_ref(),
        };
        let theta = match (self.rope_theta, inner.and_then(|rope| rope.theta)) {
            (Some(outer), Some(inner)) if outer != inner => {
                return Err(ConfigError::range("rope_theta", outer, format_args!("{inner} as in rope_parameters")));
            }
            (outer, inner) => inner.or(outer).unwrap_or(10_000.0),
        };
        let scaling = inner.map_or(Ok(RopeScaling::None), |rope| rope.scaling(self.max_position_embeddings))?;
        Ok(Rope { theta, scaling, pairing: RopePairing::Halves })
    }
}

/// A `config.json` for these sizes, with weights of this type; `fp8` says that some of the weights are FP8.
///
/// # Panics
/// When the frequencies are given one by one, which the file has no key for.
pub(crate) fn to_json(config: &Config, dtype: Format, fp8: bool, bos: Value, eos: Value) -> Value {
    let mut json = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": torch_dtype(dtype),
        "bos_token_id": bos,
        "eos_token_id": eos,
    });
    match &config.rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => json["rope_scaling"] = json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            json["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            });
        }
        RopeScaling::Factors(_) => panic!("config.json has no frequencies"),
    }
    if fp8 {
        json["quantization_config"] = json!({ "quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0 });
    }
    json
}

/// What PyTorch calls the type of weights.
pub(crate) fn torch_dtype(format: Format) -> &'static str {
    match format {
        Format::F32 => "float32",
        Format::F16 => "float16",
        _ => "bfloat16",
    }
}

/// `architectures`: only the list `["LlamaForCausalLM"]`.
#[derive(Debug)]
struct Architectures;

impl<'a> Deserialize<'a> for Architectures {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(Architectures)
    }
}

impl<'a> Visitor<'a> for Architectures {
    type Value = Architectures;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the list [\"LlamaForCausalLM\"]: no other architecture is supported")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self, A::Error> {
        let mut n = 0;
        while let Some(name) = seq.next_element::<String>()? {
            n += 1;
            // The second is how the first conversions of the first Llama wrote it.
            if n > 1 || !["LlamaForCausalLM", "LLaMAForCausalLM"].contains(&name.as_str()) {
                let name = crate::error::shown(&name);
                return Err(de::Error::invalid_value(de::Unexpected::Str(&name), &self));
            }
        }
        if n == 0 {
            return Err(de::Error::invalid_length(0, &self));
        }
        Ok(self)
    }
}

/// `rope_scaling` or `rope_parameters`.
#[derive(Debug, Default)]
struct RopeJson {
    kind: Option<String>,
    theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_context: Option<usize>,
}

impl<'a> Object<'a> for RopeJson {
    const WHAT: &'static str = "rope parameters";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        match &**key {
            "rope_type" | "type" => {
                let mut kind: Option<String> = None;
                set(&mut kind, key, map)?;
                match (&self.kind, kind) {
                    (Some(old), Some(new)) if *old != new => {
                        Err(at(key, &format_args!("`{}`, expected `{}` as the other spelling says", new, old)))
                    }
                    (_, Some(new)) => {
                        if !["default", "linear", "llama3"].contains(&new.as_str()) {
                            let new = crate::error::shown(&new);
                            return Err(at(key, &format_args!("`{new}`, expected `default`, `linear` or `llama3`")));
                        }
                        self.kind = Some(new);
                        Ok(())
                    }
                    (_, None) => Ok(()),
                }
            }
            "rope_theta" => set(&mut self.theta, key, map),
            "factor" => set(&mut self.factor, key, map),
            "low_freq_factor" => set(&mut self.low_freq_factor, key, map),
            "high_freq_factor" => set(&mut self.high_freq_factor, key, map),
            "original_max_position_embeddings" => set(&mut self.original_context, key, map),
            "partial_rotary_factor" | "attention_factor" => {
                let mut factor: Option<f64> = None;
                set(&mut factor, key, map)?;
                match factor {
                    None | Some(1.0) => Ok(()),
                    Some(other) => Err(at(key, &format_args!("{other}, expected 1"))),
                }
            }
            _ => Err(at(key, &"not a rope parameter that puna knows")),
        }
    }
}

impl RopeJson {
    fn scaling(&self, context: Option<usize>) -> Result<RopeScaling, ConfigError> {
        let need = |value: Option<f32>, key| value.ok_or(ConfigError::Missing(key));
        match self.kind.as_deref() {
            None if self.factor.is_some() => Err(ConfigError::Missing("rope_scaling.rope_type")),
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: need(self.factor, "rope_scaling.factor")? }),
            _ => Ok(RopeScaling::Llama3 {
                factor: need(self.factor, "rope_scaling.factor")?,
                low_freq_factor: need(self.low_freq_factor, "rope_scaling.low_freq_factor")?,
                high_freq_factor: need(self.high_freq_factor, "rope_scaling.high_freq_factor")?,
                original_context: self
                    .original_context
                    .or(context)
                    .ok_or(ConfigError::Missing("rope_scaling.original_max_position_embeddings"))?,
            }),
        }
    }
}

/// `quantization_config`: only Meta's FP8 form, whose weights say by their dtype which of them are meant.
#[derive(Debug, Default)]
struct Quantization;

impl<'a> Object<'a> for Quantization {
    const WHAT: &'static str = "a quantization configuration";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        if key != "quant_method" {
            return skip(map);
        }
        let mut method: Option<String> = None;
        set(&mut method, key, map)?;
        match method.as_deref() {
            Some("fbgemm_fp8") => Ok(()),
            other => {
                let other = crate::error::shown(other.unwrap_or("null"));
                Err(at(key, &format_args!("`{other}`, expected `fbgemm_fp8`: no other method is supported")))
            }
        }
    }
}

/// Reads `generation_config.json`. Unknown keys are options of other programs and are left alone.
pub(crate) fn generation(bytes: &[u8]) -> Result<Generation, ConfigError> {
    struct Reading(Generation, Option<Ids>);
    impl<'a> Object<'a> for Reading {
        const WHAT: &'static str = "a generation configuration";

        fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
            let Reading(g, eos) = self;
            match &**key {
                "bos_token_id" => set(&mut g.bos, key, map),
                "eos_token_id" => set(eos, key, map),
                "pad_token_id" => set(&mut g.pad, key, map),
                "do_sample" => set(&mut g.do_sample, key, map),
                "temperature" => set(&mut g.temperature, key, map),
                "top_p" => set(&mut g.top_p, key, map),
                "top_k" => set(&mut g.top_k, key, map),
                "min_p" => set(&mut g.min_p, key, map),
                "typical_p" => set(&mut g.typical_p, key, map),
                "repetition_penalty" => set(&mut g.repetition_penalty, key, map),
                _ => skip(map),
            }
        }
    }
    let Reading(mut generation, eos) = json::read(bytes, Reading(Generation::default(), None))?;
    generation.eos = eos.unwrap_or_default().0;
    Ok(generation)
}

/// Reads `chat_template` of `tokenizer_config.json`: one template, or several with names, of which `default` counts.
pub(crate) fn chat_template(bytes: &[u8]) -> Result<Option<String>, ConfigError> {
    struct Reading(Option<Template>);
    impl<'a> Object<'a> for Reading {
        const WHAT: &'static str = "a tokenizer configuration";

        fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
            if key == "chat_template" { set(&mut self.0, key, map) } else { skip(map) }
        }
    }
    Ok(json::read(bytes, Reading(None))?.0.and_then(|template| template.0))
}

struct Template(Option<String>);

impl<'a> Deserialize<'a> for Template {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
            template: String,
        }
        struct OneOrNamed;
        impl<'a> Visitor<'a> for OneOrNamed {
            type Value = Template;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a template or a list of named ones")
            }

            fn visit_str<E>(self, template: &str) -> Result<Template, E> {
                Ok(Template(Some(template.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Template, A::Error> {
                let mut found = None;
                while let Some(Named { name, template }) = seq.next_element()? {
                    if name == "default" {
                        found = Some(template);
                    }
                }
                Ok(Template(found))
            }
        }
        d.deserialize_any(OneOrNamed)
    }
}
