//! How open a model is: what of it is published, under which terms, and what that is called.
//!
//! A card keeps three things apart. *Facts* are read from bytes. *Claims* are what the vendor says. *Assessments* are
//! computed from the components and their licences by the rules of each framework (`openness/frameworks.toml`); no verdict is
//! written down anywhere. Of a model without an entry of its own nothing is known but its facts and its licence, and the
//! card says so: not known is not no.

mod cyclonedx;
mod html;
mod spdx;
mod text;

mod assess;

use crate::digest::Hex;
use crate::licence::Licence;
use crate::manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

pub use assess::{Answer, Assessment, Counts, Criterion};

/// The form of these cards.
pub const FORMAT: &str = "puna.openness/1";

/// What a model is called of which it is not known what it is called.
const NOT_KNOWN: &str = "not known";

/// A model's card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The model's name.
    pub model: String,
    /// The day of which this is true.
    pub as_of: String,
    /// What the model may be called, by the assessments.
    pub called: String,
    /// Its licence, as SPDX or else the hub names it.
    pub licence: Option<String>,
    /// What is read from bytes.
    pub facts: Facts,
    /// What the vendor says.
    pub claims: Vec<Claim>,
    /// The seventeen components that a model may have.
    pub components: Vec<Component>,
    /// What frameworks make of them.
    pub assessments: Vec<Assessment>,
    /// What somebody who has it may do.
    pub user_rights: UserRights,
    /// What else is known of it.
    #[serde(flatten)]
    pub about: About,
}

/// What is read from bytes. None is: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The form of the files: `safetensors`, `GGUF`.
    pub format: Option<String>,
    /// Number of files.
    pub files: Option<u64>,
    /// Their size.
    pub bytes: Option<u64>,
    /// Number of parameters.
    pub params: Option<u64>,
    /// One hash over all files: see [`Manifest::root`].
    pub hash_root: Option<Hex<32>>,
    /// Whether its vendor has signed it.
    pub signature_by_vendor: Option<bool>,
    /// Whether it runs without code that comes with it.
    pub loads_without_remote_code: Option<bool>,
    /// Whether one has to ask before one gets it.
    pub needs_gate: Option<bool>,
    /// Which version of it: a commit.
    pub revision: Option<String>,
}

impl Facts {
    /// What a manifest tells.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Facts {
        Facts {
            files: Some(manifest.files.len() as u64),
            bytes: Some(manifest.size()),
            hash_root: Some(manifest.root()),
            revision: Some(manifest.revision.clone()),
            ..Facts::default()
        }
    }
}

/// Something that the vendor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Of what.
    pub name: String,
    /// What.
    pub value: String,
    /// Where.
    pub source: String,
    /// Parts of names of the models that it is said of; of all, if there are none.
    #[serde(default, skip_serializing)]
    only: Vec<String>,
}

/// A component of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Which one.
    pub name: Part,
    /// Whether it is published.
    pub present: Presence,
    /// Under which licences, of which one may choose, by their ids. Empty if that is not known.
    pub licence: Vec<String>,
    /// Whether one of them is open; none if that is not known.
    pub open: Option<bool>,
    /// What shows it.
    pub evidence: String,
    /// Where that is.
    pub source: Option<String>,
}

/// Whether a component is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It is.
    Yes,
    /// Some of it is.
    Partly,
    /// It is not.
    No,
    /// Nobody has looked.
    NotKnown,
}

/// The components that the Model Openness Framework tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Code of the model itself.
    Architecture,
    /// The weights.
    FinalParameters,
    /// A report on the model.
    TechnicalReport,
    /// Results of its evaluation.
    EvaluationResults,
    /// A card of the model.
    ModelCard,
    /// A card of its data.
    DataCard,
    /// What it says, by examples.
    SampleOutputs,
    /// Code of its training.
    TrainingCode,
    /// Code that runs it.
    InferenceCode,
    /// Code that evaluates it.
    EvaluationCode,
    /// Data that it is evaluated on.
    EvaluationData,
    /// Libraries and tools.
    SupportingLibraries,
    /// A paper.
    ResearchPaper,
    /// The data that it is trained on.
    Datasets,
    /// Code that prepares these data.
    DataPreprocessingCode,
    /// Weights from the middle of the training.
    IntermediateParameters,
    /// Settings, states of the optimizer and the like.
    ModelMetadata,
}

impl Part {
    /// All seventeen.
    pub const ALL: [Part; 17] = [
        Part::Architecture,
        Part::FinalParameters,
        Part::TechnicalReport,
        Part::EvaluationResults,
        Part::ModelCard,
        Part::DataCard,
        Part::SampleOutputs,
        Part::TrainingCode,
        Part::InferenceCode,
        Part::EvaluationCode,
        Part::EvaluationData,
        Part::SupportingLibraries,
        Part::ResearchPaper,
        Part::Datasets,
        Part::DataPreprocessingCode,
        Part::IntermediateParameters,
        Part::ModelMetadata,
    ];

    /// For people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Part::Architecture => "model architecture",
            Part::FinalParameters => "weights",
            Part::TechnicalReport => "technical report",
            Part::EvaluationResults => "evaluation results",
            Part::ModelCard => "model card",
            Part::DataCard => "data card",
            Part::SampleOutputs => "sample outputs",
            Part::TrainingCode => "training code",
            Part::InferenceCode => "inference code",
            Part::EvaluationCode => "evaluation code",
            Part::EvaluationData => "evaluation data",
            Part::SupportingLibraries => "supporting libraries",
            Part::ResearchPaper => "research paper",
            Part::Datasets => "training data",
            Part::DataPreprocessingCode => "data preprocessing code",
            Part::IntermediateParameters => "intermediate weights",
            Part::ModelMetadata => "model metadata",
        }
    }

    /// Whether it is code: of that OSI wants licences that it has approved.
    fn is_code(self) -> bool {
        matches!(
            self,
            Part::Architecture
                | Part::TrainingCode
                | Part::InferenceCode
                | Part::EvaluationCode
                | Part::DataPreprocessingCode
                | Part::SupportingLibraries
        )
    }
}

/// What somebody who has a model may do with it. None is: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserRights {
    /// Run it without any connection.
    pub run_offline: Option<bool>,
    /// Keep it when its vendor offers it no more.
    pub keep_if_withdrawn: Option<bool>,
    /// Whether the right can be taken away without a breach.
    pub revocable_at_will: Option<bool>,
    /// Pass it on.
    pub redistribute: Option<String>,
    /// Train other models with what it says.
    pub train_on_outputs: Option<String>,
    /// Earn money with it.
    pub commercial: Option<String>,
}

impl UserRights {
    fn of(licence: Option<&Licence>) -> UserRights {
        let Some(licence) = licence else { return UserRights::default() };
        let rights = &licence.rights;
        UserRights {
            run_offline: Some(true),
            keep_if_withdrawn: Some(!rights.is_revocable_at_will),
            revocable_at_will: Some(rights.is_revocable_at_will),
            redistribute: Some(rights.redistribute.clone()),
            train_on_outputs: Some(rights.train_on_outputs.clone()),
            commercial: Some(rights.commercial.clone()),
        }
    }
}

/// What else is known of a model: what lists of software want.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// Who published it.
    pub vendor: Option<String>,
    /// On which day.
    pub released: Option<String>,
    /// Where it is.
    pub home: Option<String>,
    /// What kind of model it is.
    pub kind: Option<String>,
    /// The family of its architecture.
    pub architecture_family: Option<String>,
    /// What it does.
    pub task: Option<String>,
    /// What was done with its data before the training.
    pub preprocessing: Option<String>,
    /// What it can't do.
    pub limitations: Option<String>,
    /// Whether its training used sensitive data of persons.
    pub uses_personal_data: Option<bool>,
}

/// What is written down of some models: `openness/*.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    models: Vec<String>,
    as_of: String,
    vendor: Option<String>,
    released: Option<String>,
    home: Option<String>,
    kind: Option<String>,
    architecture_family: Option<String>,
    task: Option<String>,
    preprocessing: Option<String>,
    limitations: Option<String>,
    uses_personal_data: Option<bool>,
    #[serde(default)]
    claim: Vec<Claim>,
    #[serde(default)]
    component: Vec<ComponentData>,
    european_index: Option<assess::IndexEntry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ComponentData {
    name: Part,
    present: Presence,
    #[serde(default)]
    licence: Vec<String>,
    evidence: String,
    source: Option<String>,
}

fn entries() -> &'static [Entry] {
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        [include_str!("openness/llama-3.1.toml"), include_str!("openness/cria.toml")]
            .iter()
            .map(|text| toml::from_str(text).expect("the data are tested"))
            .collect()
    });
    &ENTRIES
}

impl Entry {
    fn of(model: &str) -> Option<&'static Entry> {
        // As the hub called them until September 2024.
        let model = model.replacen("/Meta-Llama-", "/Llama-", 1);
        entries().iter().find(|entry| entry.models.iter().any(|known| known.eq_ignore_ascii_case(&model)))
    }
}

impl Card {
    /// The card of a model: `meta-llama/Llama-3.1-8B`, `cria`. A model that puna has no entry of has what `facts` and its
    /// `licence` say, as of the day `today`.
    #[must_use]
    pub fn new(model: &str, facts: Facts, licence: Option<&'static Licence>, today: &str) -> Card {
        match Entry::of(model) {
            Some(entry) => Card::build(model, facts, licence, entry),
            None => Card::unknown(model, facts, licence, today),
        }
    }

    fn build(model: &str, facts: Facts, licence: Option<&'static Licence>, entry: &Entry) -> Card {
        let components = Part::ALL.map(|part| {
            let data = entry.component.iter().find(|data| data.name == part);
            data.map_or_else(|| not_known(part), |data| component(data.clone()))
        });
        let claims = entry
            .claim
            .iter()
            .filter(|claim| claim.only.is_empty() || claim.only.iter().all(|part| model.contains(part.as_str())));
        let about = About {
            vendor: entry.vendor.clone(),
            released: entry.released.clone(),
            home: entry.home.as_ref().map(|home| home.replace("{model}", model)),
            kind: entry.kind.clone(),
            architecture_family: entry.architecture_family.clone(),
            task: entry.task.clone(),
            preprocessing: entry.preprocessing.clone(),
            limitations: entry.limitations.clone(),
            uses_personal_data: entry.uses_personal_data,
        };
        let index = entry.european_index.as_ref().filter(|index| index.model == model);
        let mut card = Card::assessed(model, &entry.as_of, facts, components.to_vec(), index);
        // What lies beside the files may say more than the entry, and never less.
        if card.licence.is_none() {
            card.name_licence(licence);
        }
        card.claims = claims.cloned().collect();
        card.about = about;
        card
    }

    fn unknown(model: &str, facts: Facts, licence: Option<&'static Licence>, today: &str) -> Card {
        let weights = Component {
            name: Part::FinalParameters,
            present: Presence::Yes,
            licence: licence.map(|licence| licence.id.clone()).into_iter().collect(),
            open: licence.map(|licence| licence.rights.is_open),
            evidence: "the files are here".into(),
            source: None,
        };
        // Without files there is nothing that shows weights.
        let has_files = facts.bytes.is_some();
        let components = Part::ALL.map(|part| match part {
            Part::FinalParameters if has_files => weights.clone(),
            part => not_known(part),
        });
        Card::assessed(model, today, facts, components.to_vec(), None)
    }

    fn assessed(
        model: &str,
        as_of: &str,
        facts: Facts,
        components: Vec<Component>,
        index: Option<&assess::IndexEntry>,
    ) -> Card {
        let licence = components.iter().find(|component| component.name == Part::FinalParameters);
        let licence = licence.and_then(|weights| weights.licence.first()).and_then(|id| Licence::of_id(id));
        let mut card = Card {
            format: FORMAT,
            model: model.to_owned(),
            as_of: as_of.to_owned(),
            called: assess::called(&components),
            licence: None,
            facts,
            claims: Vec::new(),
            assessments: assess::assess(&components, index),
            components,
            user_rights: UserRights::default(),
            about: About::default(),
        };
        card.name_licence(licence);
        card
    }

    fn name_licence(&mut self, licence: Option<&'static Licence>) {
        self.licence = licence.map(|licence| licence.ids.spdx.clone().unwrap_or_else(|| licence.id.clone()));
        self.user_rights = UserRights::of(licence);
    }

    /// The card as JSON.
    ///
    /// # Panics
    /// Never: all that is in a card can be written.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts, numbers and lists of them") + "\n"
    }

    fn licence_known(&self) -> Option<&'static Licence> {
        self.licence.as_deref().and_then(Licence::of_id)
    }
}

fn component(data: ComponentData) -> Component {
    let ComponentData { name, present, licence, evidence, source } = data;
    let open = assess::is_open(&licence);
    Component { name, present, licence, open, evidence, source }
}

fn not_known(part: Part) -> Component {
    Component {
        name: part,
        present: Presence::NotKnown,
        licence: Vec::new(),
        open: None,
        evidence: "nobody has looked".into(),
        source: None,
    }
}

/// A number for people: `8,030,261,248`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn yes_no(answer: Option<bool>) -> String {
    match answer {
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
        None => NOT_KNOWN.into(),
    }
}

fn or_not_known(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| NOT_KNOWN.into())
}

impl Facts {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let number = |n: Option<u64>| n.map_or_else(|| NOT_KNOWN.into(), grouped);
        vec![
            ("format", or_not_known(self.format.as_ref())),
            ("files", number(self.files)),
            ("bytes", number(self.bytes)),
            ("parameters", number(self.params)),
            ("revision", or_not_known(self.revision.as_ref())),
            ("hash of all files", self.hash_root.map_or_else(|| NOT_KNOWN.into(), |hash| hash.to_string())),
            ("signed by its vendor", yes_no(self.signature_by_vendor)),
            ("runs without code that comes with it", yes_no(self.loads_without_remote_code)),
            ("has to be asked for", yes_no(self.needs_gate)),
        ]
    }
}

impl UserRights {
    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("run it offline", yes_no(self.run_offline)),
            ("keep it if it is withdrawn", yes_no(self.keep_if_withdrawn)),
            ("can be taken away at will", yes_no(self.revocable_at_will)),
            ("pass it on", or_not_known(self.redistribute.as_ref())),
            ("train models with what it says", or_not_known(self.train_on_outputs.as_ref())),
            ("earn money with it", or_not_known(self.commercial.as_ref())),
        ]
    }
}

impl Component {
    /// Its terms, for people.
    fn terms(&self) -> String {
        let open = match (self.present, self.open) {
            (Presence::No | Presence::NotKnown, _) => return String::new(),
            (_, Some(true)) => "open",
            (_, Some(false)) => "restricted",
            (_, None) => return "terms not known".into(),
        };
        let names = self.licence.iter().map(|id| {
            Licence::of_id(id).map_or(id.as_str(), |licence| match licence.ids.spdx.as_deref() {
                Some(spdx) if !spdx.starts_with("LicenseRef-") => spdx,
                _ => &licence.name,
            })
        });
        format!("{} ({open})", names.collect::<Vec<_>>().join(" or "))
    }
}

impl std::fmt::Display for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Presence::Yes => "yes",
            Presence::Partly => "partly",
            Presence::No => "no",
            Presence::NotKnown => NOT_KNOWN,
        })
    }
}

#[cfg(test)]
mod tests;
