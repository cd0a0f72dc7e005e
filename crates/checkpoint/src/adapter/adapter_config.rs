//! `adapter_config.json` under a closed schema.
//!
//! PEFT adds keys with every release, each of which switches something on. One that is not known here is accepted when
//! it is off (null, false or empty), and refused by name when it is not.

use super::lora::{ALPHAS, MAX_RANK, is_alpha};
use crate::{
    config::{ConfigError, MAX_LAYERS},
    error::shown,
    json::{self, Object, at, once, set, skip},
    name::Name,
};
use serde::{
    Deserialize,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{borrow::Cow, fmt};

/// What PEFT's configuration says.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f32,
    rank_pattern: Vec<(Pattern, usize)>,
    alpha_pattern: Vec<(Pattern, f32)>,
    pub(super) rank_stabilized: bool,
    pub(super) dropout: f32,
    pub(super) base_name: Option<String>,
    pub(super) targets: Targets,
}

/// Which modules of the base have low-rank matrices.
#[derive(Debug)]
pub(super) struct Targets {
    names: Names,
    exclude: Option<Names>,
    layers: Option<Layers>,
}

/// Most names in a list: a fully named target for every matrix of the largest Llama is a quarter of it.
const MAX_NAMES: usize = 4096;

/// Keys that say how the adapter was begun, written or to be loaded.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "eva_config",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Switches that people do use, with what they would switch on.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("alora_invocation_tokens", "an adapter that begins to work behind certain tokens"),
    ("fan_in_fan_out", "weights that are transposed"),
    ("layer_replication", "a base whose layers are repeated"),
    ("lora_bias", "biases beside low-rank matrices"),
    ("modules_to_save", "whole matrices that were trained beside low-rank ones"),
    ("target_parameters", "low-rank changes to mixtures of experts"),
    ("trainable_token_indices", "single rows of the token embedding that were trained"),
    ("use_bdlora", "block-diagonal matrices"),
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
];

#[derive(Default)]
struct Reading {
    peft_type: Option<String>,
    rank: Option<usize>,
    alpha: Option<f64>,
    rank_pattern: Option<Patterns<usize>>,
    alpha_pattern: Option<Patterns<f64>>,
    rank_stabilized: Option<bool>,
    dropout: Option<f32>,
    base_name: Option<String>,
    names: Option<Names>,
    exclude: Option<Names>,
    layers: Option<Layers>,
}

impl<'a> Object<'a> for &mut Reading {
    const WHAT: &'static str = "the configuration of an adapter";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        match &**key {
            "peft_type" => set(&mut self.peft_type, key, map),
            "r" => set(&mut self.rank, key, map),
            "lora_alpha" => set(&mut self.alpha, key, map),
            "rank_pattern" => once(&mut self.rank_pattern, key, map),
            "alpha_pattern" => once(&mut self.alpha_pattern, key, map),
            "use_rslora" => set(&mut self.rank_stabilized, key, map),
            "lora_dropout" => set(&mut self.dropout, key, map),
            "base_model_name_or_path" => set(&mut self.base_name, key, map),
            "target_modules" => set(&mut self.names, key, map),
            "exclude_modules" => set(&mut self.exclude, key, map),
            "layers_to_transform" => set(&mut self.layers, key, map),
            "bias" => one_of(&["none"], key, map),
            "task_type" => one_of(&["CAUSAL_LM"], key, map),
            // Others change the base's weights first, and PEFT changes them again on loading.
            "init_lora_weights" => one_of(&["true", "gaussian", "eva", "orthogonal"], key, map),
            "layers_pattern" => one_of(&["layers"], key, map),
            _ if HARMLESS.contains(&&**key) => skip(map),
            _ => match MUST_BE_OFF.iter().find(|(name, _)| name == key) {
                Some((_, what)) => off(key, map, &format_args!("{what} is not supported")),
                None => off(key, map, &"it is not known, and may change what the adapter does"),
            },
        }
    }
}

/// A switch that must be off.
fn off<'a, A: MapAccess<'a>>(key: &str, map: &mut A, why: &dyn fmt::Display) -> Result<(), A::Error> {
    let Setting(found) = map.next_value().map_err(|e| at(key, &e))?;
    match found {
        None => Ok(()),
        Some(found) => Err(at(key, &format_args!("{}, expected null, false or empty: {why}", shown(&found)))),
    }
}

/// A setting that is off or one of these.
fn one_of<'a, A: MapAccess<'a>>(allowed: &[&str], key: &str, map: &mut A) -> Result<(), A::Error> {
    let Setting(found) = map.next_value().map_err(|e| at(key, &e))?;
    match found.filter(|found| !allowed.contains(&found.as_str())) {
        None => Ok(()),
        Some(found) => {
            let allowed = allowed.join(", ");
            Err(at(key, &format_args!("{}, expected null or one of: {allowed}", shown(&found))))
        }
    }
}

impl AdapterConfig {
    /// Reads the JSON.
    ///
    /// # Errors
    /// Names the key that is missing, repeated, out of range, or switches on what is not supported.
    pub(super) fn parse(bytes: &[u8]) -> Result<AdapterConfig, ConfigError> {
        let mut reading = Reading::default();
        json::read(bytes, &mut reading)?;
        match reading.peft_type.as_deref() {
            None => return Err(ConfigError::Missing("peft_type")),
            Some("LORA") => {}
            Some(other) => return Err(ConfigError::range("peft_type", other, "`LORA`: no other method is supported")),
        }
        let rank = |key, rank: usize| {
            let known = (1..=MAX_RANK).contains(&rank);
            known.then_some(rank).ok_or_else(|| ConfigError::range(key, rank, format_args!("1 to {MAX_RANK}")))
        };
        let alpha = |key, found: f64| {
            let alpha = found as f32;
            is_alpha(alpha).then_some(alpha).ok_or_else(|| ConfigError::range(key, found, ALPHAS))
        };
        let dropout = reading.dropout.unwrap_or(0.0);
        if !(0.0..1.0).contains(&dropout) {
            return Err(ConfigError::range("lora_dropout", dropout, "a share from 0 to below 1"));
        }
        Ok(AdapterConfig {
            rank: rank("r", reading.rank.ok_or(ConfigError::Missing("r"))?)?,
            alpha: alpha("lora_alpha", reading.alpha.ok_or(ConfigError::Missing("lora_alpha"))?)?,
            rank_pattern: compiled("rank_pattern", reading.rank_pattern, rank)?,
            alpha_pattern: compiled("alpha_pattern", reading.alpha_pattern, alpha)?,
            rank_stabilized: reading.rank_stabilized.unwrap_or(false),
            dropout,
            base_name: reading.base_name.filter(|name| !name.is_empty()),
            targets: Targets {
                names: reading.names.ok_or(ConfigError::Missing("target_modules"))?,
                exclude: reading.exclude,
                // An empty list restricts nothing.
                layers: reading.layers.filter(|Layers(layers)| !layers.is_empty()),
            },
        })
    }

    /// The rank that a matrix should have, and the key that says so.
    pub(super) fn rank(&self, name: Name) -> (usize, &'static str) {
        match of_pattern(&self.rank_pattern, name) {
            Some(rank) => (rank, "rank_pattern"),
            None => (self.rank, "r"),
        }
    }

    /// The alpha of a matrix.
    pub(super) fn alpha(&self, name: Name) -> f32 {
        of_pattern(&self.alpha_pattern, name).unwrap_or(self.alpha)
    }
}

/// What Hugging Face calls the module that has a matrix.
pub(super) fn module(name: Name) -> String {
    let mut module = name.hugging_face();
    module.truncate(module.len() - ".weight".len());
    module
}

impl Targets {
    /// Whether a matrix is a target; `None` where that takes a regular expression, and none is interpreted here.
    pub(super) fn have(&self, name: Name) -> Option<bool> {
        let module = module(name);
        if let Some(exclude) = &self.exclude
            && exclude.have(&module)?
        {
            return Some(false);
        }
        let in_layers = match (&self.layers, name) {
            (None, _) => true,
            (Some(Layers(layers)), Name::Layer { layer, .. }) => layers.contains(&layer),
            (Some(_), _) => false,
        };
        match &self.names {
            Names::Text(text) if text == "all-linear" => Some(in_layers && name != Name::Output),
            // A module that is named in full is meant, whatever its layer.
            Names::List(list) if list.contains(&module) => Some(true),
            names => Some(names.have(&module)? && in_layers),
        }
    }

    /// A listed name that none of these matrices has.
    pub(super) fn unused(&self, matrices: impl Iterator<Item = Name>) -> Option<&str> {
        let Names::List(list) = &self.names else { return None };
        let modules: Vec<String> = matrices.map(module).collect();
        list.iter().find(|target| !modules.iter().any(|module| ends_with(module, target))).map(String::as_str)
    }
}

/// Whether a dotted path is this one or ends with it.
fn ends_with(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A list of modules, or one string.
#[derive(Debug)]
enum Names {
    List(Vec<String>),
    Text(String),
}

impl Names {
    /// Whether a module is in the list; `None` of a string, which is a regular expression.
    fn have(&self, module: &str) -> Option<bool> {
        match self {
            Names::List(list) => Some(list.iter().any(|name| ends_with(module, name))),
            Names::Text(_) => None,
        }
    }
}

impl<'a> Deserialize<'a> for Names {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'a> Visitor<'a> for OneOrMany {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string or a list of at most {MAX_NAMES}")
            }

            fn visit_str<E>(self, text: &str) -> Result<Names, E> {
                Ok(Names::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = seq.next_element()? {
                    if list.len() == MAX_NAMES {
                        return Err(de::Error::invalid_length(MAX_NAMES + 1, &self));
                    }
                    list.push(name);
                }
                Ok(Names::List(list))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

/// One layer or several.
#[derive(Debug)]
struct Layers(Vec<usize>);

impl<'a> Deserialize<'a> for Layers {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'a> Visitor<'a> for OneOrMany {
            type Value = Layers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a layer or a list of at most {MAX_LAYERS}")
            }

            fn visit_u64<E>(self, layer: u64) -> Result<Layers, E> {
                // What does not fit is no layer of any model.
                Ok(Layers(vec![usize::try_from(layer).unwrap_or(usize::MAX)]))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Layers, A::Error> {
                let mut layers = Vec::new();
                while let Some(layer) = seq.next_element()? {
                    if layers.len() == MAX_LAYERS {
                        return Err(de::Error::invalid_length(MAX_LAYERS + 1, &self));
                    }
                    layers.push(layer);
                }
                Ok(Layers(layers))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

/// A key of `rank_pattern` or `alpha_pattern`: to PEFT a regular expression for the end of a module's path, here a
/// name, which is what tools write.
#[derive(Debug)]
struct Pattern {
    name: String,
    /// Begins with `^`: the whole path.
    whole: bool,
}

impl Pattern {
    fn new(text: &str) -> Option<Pattern> {
        let (whole, name) = match text.strip_prefix('^') {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = name.replace("\\.", ".");
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        (plain && !name.is_empty()).then_some(Pattern { name, whole })
    }

    fn matches(&self, module: &str) -> bool {
        if self.whole { module == self.name } else { ends_with(module, &self.name) }
    }
}

/// An object from patterns to numbers, in the order of the file.
struct Patterns<T>(Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Patterns(Vec::new())
    }
}

impl<'a, T: Deserialize<'a>> Object<'a> for Patterns<T> {
    const WHAT: &'static str = "an object from modules to numbers";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        if self.0.len() == MAX_NAMES {
            return Err(at(key, &format_args!("more than {MAX_NAMES} patterns")));
        }
        self.0.push((key.clone().into_owned(), map.next_value().map_err(|e| at(key, &e))?));
        Ok(())
    }
}

fn compiled<T, U>(
    key: &'static str,
    patterns: Option<Patterns<T>>,
    check: impl Fn(&'static str, T) -> Result<U, ConfigError>,
) -> Result<Vec<(Pattern, U)>, ConfigError> {
    let patterns = patterns.unwrap_or_default().0;
    let compiled = |(text, value): (String, T)| {
        let pattern = Pattern::new(&text)
            .ok_or_else(|| ConfigError::range(key, &text, "names of modules: no other regular expression is read"))?;
        Ok((pattern, check(key, value)?))
    };
    patterns.into_iter().map(compiled).collect()
}

/// What the first pattern says that matches.
fn of_pattern<T: Copy>(patterns: &[(Pattern, T)], name: Name) -> Option<T> {
    if patterns.is_empty() {
        return None;
    }
    let module = module(name);
    patterns.iter().find(|(pattern, _)| pattern.matches(&module)).map(|(_, value)| *value)
}

/// Any JSON value, in a word: `None` when it is off, that is null, false or empty. A list of one string is that string.
struct Setting(Option<String>);

impl<'a> Deserialize<'a> for Setting {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'a> Visitor<'a> for Any {
            type Value = Setting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Setting, E> {
                Ok(Setting(None))
            }

            fn visit_bool<E>(self, on: bool) -> Result<Setting, E> {
                Ok(Setting(on.then(|| "true".to_owned())))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Setting, E> {
                Ok(Setting(Some(n.to_string())))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Setting, E> {
                Ok(Setting(Some(n.to_string())))
            }

            fn visit_f64<E>(self, n: f64) -> Result<Setting, E> {
                Ok(Setting(Some(n.to_string())))
            }

            fn visit_str<E>(self, text: &str) -> Result<Setting, E> {
                Ok(Setting((!text.is_empty()).then(|| text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Setting, A::Error> {
                let Some(Setting(first)) = seq.next_element()? else { return Ok(Setting(None)) };
                let mut n = 1usize;
                while let Some(IgnoredAny) = seq.next_element()? {
                    n += 1;
                }
                Ok(Setting(Some(first.filter(|_| n == 1).unwrap_or_else(|| "a list".to_owned()))))
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Setting, A::Error> {
                let Some((IgnoredAny, IgnoredAny)) = map.next_entry()? else { return Ok(Setting(None)) };
                while let Some((IgnoredAny, IgnoredAny)) = map.next_entry()? {}
                Ok(Setting(Some("an object".to_owned())))
            }
        }
        d.deserialize_any(Any)
    }
}
