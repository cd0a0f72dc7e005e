//! Verdicts of frameworks, computed from components and licences.

use super::{Component, NOT_KNOWN, Part, Presence};
use crate::licence::{Freedom, Licence};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

/// What a framework makes of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// Which framework, with its version.
    pub framework: String,
    /// What it calls the model.
    pub verdict: String,
    /// Whether it calls the model open; none if that is not known, or not its question.
    pub is_open: Option<bool>,
    /// What that follows from.
    pub criteria: Vec<Criterion>,
    /// Numbers, of a framework that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Who judged.
    pub assessor: &'static str,
    /// Where the rules are, or the judgement.
    pub source: String,
}

/// A question of a framework, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Criterion {
    /// What is asked.
    pub name: String,
    /// What is answered.
    pub answer: Answer,
    /// What it follows from.
    pub why: String,
}

/// How far something is so, from the worst on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is not.
    No,
    /// In part, or under conditions.
    Partly,
    /// Nobody has looked.
    NotKnown,
    /// It is.
    Yes,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Answer::No => "no",
            Answer::Partly => "partly",
            Answer::NotKnown => NOT_KNOWN,
            Answer::Yes => "yes",
        })
    }
}

/// How many parameters of the European index are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Open.
    pub open: u32,
    /// Open in part.
    pub partial: u32,
    /// Closed.
    pub closed: u32,
    /// The share that is open, in percent, where what is partial counts half.
    pub percent: f64,
}

/// An entry of the European index.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexEntry {
    pub model: String,
    source: String,
    pub parameters: BTreeMap<String, Openness>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Openness {
    Open,
    Partial,
    Closed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Frameworks {
    osaid: Osaid,
    mof: Mof,
    european_index: Index,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Osaid {
    name: String,
    version: String,
    date: String,
    source: String,
    data_information: Vec<Part>,
    code: Vec<Part>,
    parameters: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mof {
    name: String,
    version: String,
    date: String,
    source: String,
    accepted: Vec<String>,
    class: Vec<Class>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    /// Of each list, one is enough.
    required: Vec<Vec<Part>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    name: String,
    source: String,
    n_parameters: usize,
}

fn frameworks() -> &'static Frameworks {
    static FRAMEWORKS: LazyLock<Frameworks> =
        LazyLock::new(|| toml::from_str(include_str!("frameworks.toml")).expect("the data are tested"));
    &FRAMEWORKS
}

/// Whether one of these licences is open. None if none of them is known, or none is named.
pub(super) fn is_open(licences: &[String]) -> Option<bool> {
    any(licences, |licence| licence.rights.is_open)
}

fn any(licences: &[String], is: impl Fn(&Licence) -> bool) -> Option<bool> {
    let answers: Vec<Option<bool>> = licences.iter().map(|id| Licence::of_id(id).map(&is)).collect();
    match answers {
        answers if answers.contains(&Some(true)) => Some(true),
        answers if answers.is_empty() || answers.contains(&None) => None,
        _ => Some(false),
    }
}

fn of(components: &[Component], part: Part) -> Option<&Component> {
    components.iter().find(|component| component.name == part)
}

/// Whether a component is published under terms that `is_accepted` says of its licences.
fn published(components: &[Component], part: Part, is_accepted: impl Fn(&[String]) -> Option<bool>) -> Answer {
    let Some(component) = of(components, part) else { return Answer::NotKnown };
    match component.present {
        Presence::No => Answer::No,
        Presence::NotKnown => Answer::NotKnown,
        Presence::Partly | Presence::Yes => match is_accepted(&component.licence) {
            Some(false) => Answer::No,
            _ if component.present == Presence::Partly => Answer::Partly,
            Some(true) => Answer::Yes,
            None => Answer::NotKnown,
        },
    }
}

/// What the model may be called. `open source` is what OSI's definition calls so, and nothing else.
pub(super) fn called(components: &[Component]) -> String {
    let verdict = osaid(components).is_open;
    let weights = of(components, Part::FinalParameters);
    let present = weights.map_or(Presence::NotKnown, |weights| weights.present);
    match (verdict, present, weights.and_then(|weights| weights.open)) {
        (Some(true), _, _) => "open source AI",
        (_, Presence::No, _) => "closed",
        (_, Presence::NotKnown, _) => NOT_KNOWN,
        (_, _, Some(false)) => "open weights, restricted licence",
        (Some(false), _, Some(true)) => "open weights, open licence; not open source AI",
        (None, _, Some(true)) => "open weights, open licence; whether it is open source AI is not known",
        (_, _, None) => "weights whose terms are not known",
    }
    .to_owned()
}

/// What all frameworks make of a model.
pub(super) fn assess(components: &[Component], index: Option<&IndexEntry>) -> Vec<Assessment> {
    vec![osaid(components), mof(components), european_index(index)]
}

const BY_RULE: &str = "puna, by rule";

fn osaid(components: &[Component]) -> Assessment {
    let rules = &frameworks().osaid;
    // Of code OSI wants licences that it has approved, of the rest terms that are as free.
    let answer = |part: Part| {
        published(components, part, |licences| match part.is_code() {
            true => any(licences, |licence| licence.rights.is_osi_approved),
            false => is_open(licences),
        })
    };
    let group = |name: &str, parts: &[Part]| {
        let answers: Vec<(Part, Answer)> = parts.iter().map(|part| (*part, answer(*part))).collect();
        let worst = answers.iter().map(|(_, answer)| *answer).min().unwrap_or(Answer::NotKnown);
        let lacking: Vec<String> = answers
            .iter()
            .filter(|(_, answer)| *answer != Answer::Yes)
            .map(|(part, answer)| format!("{}: {}", part.label(), lack(components, *part, *answer)))
            .collect();
        let why =
            if lacking.is_empty() { "all of it is published, under open terms".into() } else { lacking.join("; ") };
        Criterion { name: name.into(), answer: worst, why }
    };
    let data = group("data information", &rules.data_information);
    let code = group("code", &rules.code);
    let parameters = group("parameters", &rules.parameters);

    let needed: Vec<Part> =
        [&rules.parameters, &rules.code, &rules.data_information].into_iter().flatten().copied().collect();
    let freedom = |name: &str, of_licence: fn(&Licence) -> Freedom| {
        let freedoms = needed.iter().filter_map(|part| of(components, *part)).filter_map(|component| {
            match component.present {
                // What is not there has no terms; it fails elsewhere.
                Presence::No | Presence::NotKnown => None,
                Presence::Yes | Presence::Partly => Some((component.name, best(&component.licence, of_licence))),
            }
        });
        let mut freedoms: Vec<(Part, Answer)> = freedoms.collect();
        if of(components, Part::FinalParameters).is_none_or(|weights| weights.present == Presence::NotKnown) {
            freedoms.push((Part::FinalParameters, Answer::NotKnown));
        }
        let worst = freedoms.iter().map(|(_, answer)| *answer).min().unwrap_or(Answer::No);
        let why = match freedoms.iter().find(|(_, answer)| *answer == worst) {
            None => "nothing is published".into(),
            Some((part, Answer::No)) => {
                format!("the licence of the {} leaves out some purposes or people", part.label())
            }
            Some((part, Answer::Partly)) => format!("the licence of the {} has conditions of its own", part.label()),
            Some((part, Answer::NotKnown)) => format!("the terms of the {} are not known", part.label()),
            Some((_, Answer::Yes)) => "all licences let everybody, for any purpose".into(),
        };
        Criterion { name: name.into(), answer: worst, why }
    };
    let study = match data.answer.min(code.answer) {
        Answer::Yes => (Answer::Yes, "data are described and the code is there"),
        Answer::NotKnown => (Answer::NotKnown, "whether data are described and the code is there is not known"),
        _ if of(components, Part::FinalParameters).is_some_and(|weights| weights.present == Presence::Yes) => {
            (Answer::Partly, "the weights can be looked at; data or code are missing")
        }
        _ => (Answer::No, "data or code are missing"),
    };
    let study = Criterion { name: "study".into(), answer: study.0, why: study.1.into() };
    let criteria = vec![
        freedom("use", |licence| licence.rights.use_it),
        study,
        freedom("modify", |licence| licence.rights.modify),
        freedom("share", |licence| licence.rights.share),
        data,
        code,
        parameters,
    ];
    let is_open = match criteria.iter().map(|criterion| criterion.answer).min() {
        Some(Answer::Yes) => Some(true),
        Some(Answer::NotKnown) | None => None,
        Some(Answer::No | Answer::Partly) => Some(false),
    };
    let verdict = match is_open {
        Some(true) => "open source AI",
        Some(false) => "not open source AI",
        None => NOT_KNOWN,
    };
    Assessment {
        framework: format!("OSI's {} {} ({})", rules.name, rules.version, rules.date),
        verdict: verdict.into(),
        is_open,
        criteria,
        counts: None,
        assessor: BY_RULE,
        source: rules.source.clone(),
    }
}

/// The freedom that the freest of these licences gives.
fn best(licences: &[String], of_licence: fn(&Licence) -> Freedom) -> Answer {
    let known = licences.iter().filter_map(|id| Licence::of_id(id)).map(of_licence).max();
    match known {
        Some(Freedom::Free) => Answer::Yes,
        // An unknown one of several may be freer.
        Some(_) if licences.iter().any(|id| Licence::of_id(id).is_none()) => Answer::NotKnown,
        Some(Freedom::Conditions) => Answer::Partly,
        Some(Freedom::Restricted) => Answer::No,
        None => Answer::NotKnown,
    }
}

/// Why a component does not count.
fn lack(components: &[Component], part: Part, answer: Answer) -> &'static str {
    let present = of(components, part).map_or(Presence::NotKnown, |component| component.present);
    match (present, answer) {
        (Presence::No, _) => "not published",
        (Presence::NotKnown, _) => "not known whether published",
        (_, Answer::No) => "its licence is not open",
        (Presence::Partly, _) => "published in part",
        (Presence::Yes, _) => "its terms are not known",
    }
}

fn mof(components: &[Component]) -> Assessment {
    let rules = &frameworks().mof;
    let accepted = |licences: &[String]| match licences {
        [] => None,
        _ => Some(licences.iter().any(|id| {
            let spdx = Licence::of_id(id).and_then(|licence| licence.ids.spdx.as_deref()).unwrap_or(id);
            rules.accepted.iter().any(|accepted| accepted == spdx)
        })),
    };
    let answer = |part: &Part| published(components, *part, accepted);
    let mut reached = None;
    let mut worst_so_far = Answer::Yes;
    let mut criteria = Vec::new();
    for class in &rules.class {
        let answers = class.required.iter().map(|parts| {
            let best = parts.iter().map(|part| (*part, answer(part))).max_by_key(|(_, answer)| *answer);
            best.expect("a list in the data has one part or more")
        });
        let answers: Vec<(Part, Answer)> = answers.collect();
        let worst = answers.iter().map(|(_, answer)| *answer).min().unwrap_or(Answer::Yes);
        let lacking: Vec<String> = answers
            .iter()
            .filter(|(_, answer)| *answer != Answer::Yes)
            .map(|(part, answer)| format!("{}: {}", part.label(), lack(components, *part, *answer)))
            .collect();
        worst_so_far = worst_so_far.min(worst);
        if worst_so_far == Answer::Yes {
            reached = Some(class);
        }
        let why = if lacking.is_empty() { "all that it asks for".into() } else { lacking.join("; ") };
        // Some of what a class asks for is not some of the class.
        let answer = if worst == Answer::Partly { Answer::No } else { worst };
        criteria.push(Criterion { name: class.name.clone(), answer, why });
    }
    let first = criteria.first().map(|criterion| criterion.answer);
    let (verdict, is_open) = match (reached, first) {
        (Some(class), _) => (class.name.clone(), Some(true)),
        (None, Some(Answer::NotKnown)) => (NOT_KNOWN.into(), None),
        (None, _) => ("no class".into(), Some(false)),
    };
    Assessment {
        framework: format!("{} {} ({})", rules.name, rules.version, rules.date),
        verdict,
        is_open,
        criteria,
        counts: None,
        assessor: BY_RULE,
        source: rules.source.clone(),
    }
}

fn european_index(entry: Option<&IndexEntry>) -> Assessment {
    let rules = &frameworks().european_index;
    let Some(entry) = entry else {
        return Assessment {
            framework: rules.name.clone(),
            verdict: "not assessed".into(),
            is_open: None,
            criteria: Vec::new(),
            counts: None,
            assessor: "nobody: puna knows no entry of this model",
            source: rules.source.clone(),
        };
    };
    let n = |openness| entry.parameters.values().filter(|found| **found == openness).count() as u32;
    let (open, partial, closed) = (n(Openness::Open), n(Openness::Partial), n(Openness::Closed));
    let percent = (f64::from(open) + f64::from(partial) / 2.0) / entry.parameters.len().max(1) as f64 * 100.0;
    let criteria = entry.parameters.iter().map(|(name, openness)| {
        let (answer, why) = match openness {
            Openness::Open => (Answer::Yes, "open"),
            Openness::Partial => (Answer::Partly, "partial"),
            Openness::Closed => (Answer::No, "closed"),
        };
        Criterion { name: name.clone(), answer, why: why.into() }
    });
    Assessment {
        framework: rules.name.clone(),
        verdict: format!("{open} open, {partial} partial, {closed} closed of {} ({percent:.0} %)", rules.n_parameters),
        is_open: None,
        criteria: criteria.collect(),
        counts: Some(Counts { open, partial, closed, percent: (percent * 10.0).round() / 10.0 }),
        assessor: "the index; counted by puna",
        source: entry.source.clone(),
    }
}

/// Whether the rules ask for parts that exist, and an entry has as many parameters as the index.
#[cfg(test)]
pub(super) fn check(entry: &IndexEntry) {
    assert_eq!(entry.parameters.len(), frameworks().european_index.n_parameters);
    assert_eq!(frameworks().mof.accepted.len(), 29);
    assert!(frameworks().mof.class.iter().flat_map(|class| &class.required).all(|parts| !parts.is_empty()));
}
