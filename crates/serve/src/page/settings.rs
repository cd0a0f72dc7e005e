//! What people may set, and what it means in plain words.

use puna_engine::Sampling;

/// A number that people may set. Its name is that of the field of `/v1/chat/completions`.
pub struct Setting {
    /// The field.
    pub name: &'static str,
    /// What people call it.
    pub label: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The least that makes sense.
    pub min: &'static str,
    /// The most, if there is one.
    pub max: Option<&'static str>,
    /// Between two values.
    pub step: &'static str,
    /// What it is where nothing is set.
    pub default: fn(&Sampling) -> String,
}

/// All numbers.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "temperature",
        label: "Temperature",
        about: "How much chance there is in the choice of words. 0 always takes the most probable one; from 1 on it \
                gets adventurous.",
        min: "0",
        max: Some("2"),
        step: "0.01",
        default: |sampling| sampling.temperature.to_string(),
    },
    Setting {
        name: "top_p",
        label: "Top p",
        about: "Leaves out improbable words: of the most probable ones only as many are considered as together reach \
                this share.",
        min: "0.01",
        max: Some("1"),
        step: "0.01",
        default: |sampling| sampling.top_p.to_string(),
    },
    Setting {
        name: "top_k",
        label: "Top k",
        about: "Considers only so many of the most probable words; 0 considers all.",
        min: "0",
        max: None,
        step: "1",
        default: |sampling| sampling.top_k.to_string(),
    },
    Setting {
        name: "min_p",
        label: "Min p",
        about: "Leaves out words that are less probable than this share of the most probable one.",
        min: "0",
        max: Some("1"),
        step: "0.01",
        default: |sampling| sampling.min_p.to_string(),
    },
    Setting {
        name: "repetition_penalty",
        label: "Repetition penalty",
        about: "Above 1, words that came already get less probable; 1 changes nothing.",
        min: "0.5",
        max: Some("2"),
        step: "0.01",
        default: |sampling| sampling.repetition_penalty.to_string(),
    },
    Setting {
        name: "max_completion_tokens",
        label: "Longest answer",
        about: "In tokens, which are words or pieces of words. The answer is broken off there.",
        min: "1",
        max: None,
        step: "1",
        default: |_| "no limit".to_owned(),
    },
    Setting {
        name: "seed",
        label: "Seed",
        about: "Where chance begins: the same seed gives the same answer to the same conversation.",
        min: "0",
        max: None,
        step: "1",
        default: |_| "by chance".to_owned(),
    },
];

/// The field that holds an answer to a form.
pub const RESPONSE_FORMAT: &str = "response_format";

/// Which fields of `/v1/chat/completions` the page may set.
pub fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.name).chain(["model", RESPONSE_FORMAT])
}
