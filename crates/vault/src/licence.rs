//! Known licences, and what they ask for, as data.
//!
//! Known are Meta's community licences of Llama 3 and some open ones (`licence/*.toml`). A licence is recognised by what
//! a card declares, by its text, or by the name of a model. Texts of licences are their licensors', and are not here.

use crate::digest::{Hex, sha256};
use crate::normalise::{normalise, sha256_norm};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// A licence.
#[derive(Debug)]
pub struct Licence {
    /// As model cards on the hub and GGUF files declare it: `llama3.1`.
    pub id: String,
    /// As its text calls it.
    pub name: String,
    /// Which rules of ours, and which version of them: `llama-3.1-community@1`.
    pub rules: String,
    /// The date that its text has: `2024-07-23`.
    pub version_date: Option<String>,
    /// What lists of licences call it.
    pub ids: Ids,
    /// Where its text is to be had.
    pub text_at: String,
    /// Copies of its text that are known.
    pub agreement: Known,
    /// Copies of the use policy that belongs to it.
    pub policy: Known,
    /// Where that policy is.
    pub policy_url: Option<String>,
    /// What Meta's licences have and others do not.
    pub community: Option<Community>,
    /// What it allows, in short.
    pub rights: Rights,
    /// What it asks for, row by row.
    pub obligations: Vec<Obligation>,
    licensor: Option<Licensor>,
    title: Vec<String>,
}

/// What lists of licences call a licence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// The Hugging Face hub's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf: Option<String>,
    /// The key in ScanCode's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scancode: Option<String>,
    /// The id in SPDX's list, or a `LicenseRef-` where that list has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spdx: Option<String>,
}

/// Hashes of known copies of a text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// SHA-256 of the bytes.
    #[serde(default)]
    pub raw: Vec<Hex<32>>,
    /// SHA-256 of the [normal form](crate::normalise).
    #[serde(default)]
    pub norm: Vec<Hex<32>>,
}

impl Known {
    /// Whether the bytes are those of a known copy, or say the same.
    #[must_use]
    pub fn has(&self, bytes: &[u8]) -> bool {
        self.raw.contains(&sha256(bytes)) || sha256_norm(bytes).is_some_and(|norm| self.norm.contains(&norm))
    }
}

/// What is particular to Meta's community licences.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Community {
    /// The version of Llama, as names of models have it.
    pub version: String,
    /// What every copy says.
    pub notice: String,
    /// What is shown to people.
    pub built_with: String,
    /// How the names of derived models begin.
    pub begins: String,
}

/// How free something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freedom {
    /// Some purposes or some people are left out.
    Restricted,
    /// Everybody may, under conditions that open licences do not have.
    Conditions,
    /// Everybody may, for any purpose.
    Free,
}

/// What a licence allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Using it.
    pub use_it: Freedom,
    /// Changing it.
    pub modify: Freedom,
    /// Passing it on.
    pub share: Freedom,
    /// Whether it is open in the sense of the Open Definition: all of the above is free.
    pub is_open: bool,
    /// Whether the Open Source Initiative has approved it for software.
    pub is_osi_approved: bool,
    /// Whether the licensor can end it without a breach.
    pub is_revocable_at_will: bool,
    /// Passing it on, in words.
    pub redistribute: String,
    /// Training other models with what it says, in words.
    pub train_on_outputs: String,
    /// Earning money with it, in words.
    pub commercial: String,
}

/// A row: one thing that a licence asks for or says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obligation {
    /// `L31-NOTICE`.
    pub id: String,
    /// Where it stands in the licence.
    pub clause: String,
    /// On which occasions it is to be fulfilled. Empty for what is only to be known.
    pub when: Vec<Occasion>,
    /// How a program finds out whether it is fulfilled.
    pub check: Check,
    /// What a program can do to fulfil it.
    pub fix: Option<Fix>,
    /// What follows if it is not fulfilled.
    pub severity: Severity,
    /// What it means, in plain words.
    pub words: String,
}

/// What somebody does with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// Accepting the terms.
    Accept,
    /// Letting others use it.
    Serve,
    /// Looking whether the terms have changed.
    Refresh,
    /// Writing it in another form.
    Export,
    /// Publishing it.
    Push,
    /// Keeping it with its terms for another machine.
    Bundle,
    /// Making an image of a machine that has it inside.
    Image,
}

/// How it is found out whether a row is fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// There is nothing to fulfil.
    Nothing,
    /// The licence's text lies beside the model.
    Agreement,
    /// A file `NOTICE` has the notice.
    Notice,
    /// The card has the words of credit.
    BuiltWith,
    /// A derived model's name begins as it must.
    Name,
    /// The use policy lies beside the model, or the card has its address.
    Policy,
    /// Only a person can tell.
    Person,
}

/// What a program can do about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fix {
    /// Copy the licence's text from a record.
    CopyLicence,
    /// Copy the use policy from a record, or else give its address on the card.
    CopyPolicy,
    /// Write the notice.
    WriteNotice,
    /// Write the words of credit on the card.
    AddWords,
}

/// What follows if a row is not fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// puna refuses.
    Refuse,
    /// puna warns.
    Warn,
    /// It is good to know.
    Inform,
}

/// All known licences.
#[must_use]
pub fn all() -> &'static [Licence] {
    static ALL: LazyLock<Vec<Licence>> = LazyLock::new(|| {
        [include_str!("licence/llama.toml"), include_str!("licence/open.toml")]
            .iter()
            .flat_map(|text| parse(text).expect("the data are tested"))
            .collect()
    });
    &ALL
}

impl Licence {
    /// The one of this id: of the hub, ScanCode, SPDX or our rules, or its name; the case of letters does not matter.
    #[must_use]
    pub fn of_id(id: &str) -> Option<&'static Licence> {
        let id = id.trim();
        let is = |known: &str| known.eq_ignore_ascii_case(id);
        all().iter().find(|licence| {
            let Ids { hf, scancode, spdx } = &licence.ids;
            let rules = licence.rules.split('@').next().unwrap_or_default();
            is(&licence.id)
                || is(&licence.name)
                || is(rules)
                || [hf, scancode, spdx].into_iter().flatten().any(|id| is(id))
        })
    }

    /// The one whose title a text has.
    #[must_use]
    pub fn of_text(text: &str) -> Option<&'static Licence> {
        let text = normalise(text).to_lowercase();
        all().iter().find(|licence| licence.title.iter().all(|words| text.contains(words.as_str())))
    }

    /// The one that a document is a copy of, or has the title of.
    #[must_use]
    pub fn of_document(bytes: &[u8]) -> Option<&'static Licence> {
        let known = all().iter().find(|licence| licence.agreement.has(bytes));
        known.or_else(|| Licence::of_text(&String::from_utf8_lossy(bytes)))
    }

    /// The one of the Llama that a name begins with or has in it: `Llama-3.1-8B`, `Meta-Llama-3-8B`, `llama3_2`.
    #[must_use]
    pub fn of_name(name: &str) -> Option<&'static Licence> {
        let name = name.to_lowercase();
        name.match_indices("llama").find_map(|(at, word)| {
            let rest = name[at + word.len()..].trim_start_matches(['-', '_', ' ', '.']).strip_prefix('3')?;
            let minor = rest.strip_prefix(['.', '_']).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let (version, rest) = match minor {
                Some(minor) => (format!("3.{}", &minor[..1]), &minor[1..]),
                None => ("3".to_owned(), rest),
            };
            // `llama-3b` and `llama-30b` are sizes.
            let ends = !rest.starts_with(|c: char| c.is_alphanumeric());
            let is = |licence: &&Licence| licence.community.as_ref().is_some_and(|meta| meta.version == version);
            all().iter().filter(|_| ends).find(is)
        })
    }

    /// Who gives the licence to somebody in this region. `None` if that is not known, or depends on a region that is not.
    #[must_use]
    pub fn licensor(&self, region: Option<&Region>) -> Option<&str> {
        let licensor = self.licensor.as_ref()?;
        let is_european = region?.is_eea_or_switzerland();
        Some(if is_european { &licensor.eea_or_switzerland } else { &licensor.elsewhere })
    }
}

/// Whether a name begins so, behind the name of an organisation; a hyphen is as good as a space.
#[must_use]
pub fn begins(name: &str, with: &str) -> bool {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.replace(['-', '_'], " ").starts_with(with)
}

/// A country or territory, by its two letters in ISO 3166-1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

/// A text that is no [`Region`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the two capital letters of a country, such as DE or US, found {0:?}")]
pub struct RegionError(String);

/// The European Union with the territories that belong to it and have letters of their own, the other countries of the
/// European Economic Area, and Switzerland.
const EEA_OR_SWITZERLAND: [&str; 38] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV",
    "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK", "AX", "GF", "GP", "MF", "MQ", "RE", "YT", "IS", "LI", "NO", "CH",
];

impl Region {
    /// Whether it is in the European Economic Area, or Switzerland.
    #[must_use]
    pub fn is_eea_or_switzerland(&self) -> bool {
        EEA_OR_SWITZERLAND.contains(&self.0.as_str())
    }
}

impl TryFrom<String> for Region {
    type Error = RegionError;

    fn try_from(text: String) -> Result<Region, RegionError> {
        if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Ok(Region(text));
        }
        Err(RegionError(text.chars().take(20).collect()))
    }
}

impl From<Region> for String {
    fn from(region: Region) -> String {
        region.0
    }
}

/// What a model card says about licence and descent, in its front matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Licences.
    pub ids: Vec<String>,
    /// Names of the models that it was made from.
    pub bases: Vec<String>,
}

impl Declared {
    /// Reads the front matter of a card.
    #[must_use]
    pub fn of_card(card: &str) -> Declared {
        let mut declared = Declared::default();
        let mut lines = card.lines();
        if lines.next().map(str::trim) != Some("---") {
            return declared;
        }
        let mut key = "";
        for line in lines.take_while(|line| line.trim() != "---") {
            // A list has its items on lines of their own.
            let item = line.trim_start().strip_prefix("- ");
            let value = match (item, line.split_once(':')) {
                (Some(item), _) => item,
                (None, Some((of, value))) if !line.starts_with(char::is_whitespace) => {
                    key = of.trim();
                    value
                }
                _ => continue,
            };
            let value = value.trim().trim_matches(['"', '\'']);
            let list = match key {
                "license" | "license_name" => &mut declared.ids,
                "base_model" => &mut declared.bases,
                _ => continue,
            };
            if !value.is_empty() {
                list.push(value.to_owned());
            }
        }
        declared
    }
}

// The files of data.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    licence: Vec<LicenceData>,
    family: FamilyData,
    obligation: Vec<ObligationData>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceData {
    id: String,
    name: String,
    rules: String,
    prefix: String,
    version_date: Option<String>,
    ids: Ids,
    title: Vec<String>,
    text_at: String,
    policy_url: Option<String>,
    community: Option<Community>,
    #[serde(default)]
    agreement: Known,
    #[serde(default)]
    policy: Known,
    osi_approved: Option<bool>,
    redistribute: Option<String>,
}

/// What all licences of a file have, unless they say otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyData {
    r#use: Freedom,
    modify: Freedom,
    share: Freedom,
    is_open: bool,
    #[serde(default)]
    osi_approved: bool,
    revocable_at_will: bool,
    #[serde(default)]
    redistribute: String,
    train_on_outputs: String,
    commercial: String,
    licensor: Option<Licensor>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Licensor {
    elsewhere: String,
    eea_or_switzerland: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObligationData {
    id: String,
    clause: String,
    /// Ids of the licences that have this row; all, if there are none.
    #[serde(default)]
    only: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
    #[serde(default)]
    when: Vec<Occasion>,
    check: Check,
    fix: Option<Fix>,
    severity: Severity,
    words: String,
}

fn parse(text: &str) -> Result<Vec<Licence>, toml::de::Error> {
    let File { licence, family, obligation } = toml::from_str(text)?;
    Ok(licence.into_iter().map(|data| build(data, &family, &obligation)).collect())
}

fn build(data: LicenceData, family: &FamilyData, rows: &[ObligationData]) -> Licence {
    let fill = |words: &str| {
        let mut words = words.to_owned();
        if let Some(community) = &data.community {
            words = words.replace("{begins}", &community.begins).replace("{built_with}", &community.built_with);
        }
        words.replace("{version_date}", data.version_date.as_deref().unwrap_or_default())
    };
    let is_its =
        |row: &&ObligationData| (row.only.is_empty() || row.only.contains(&data.id)) && !row.except.contains(&data.id);
    let obligations = rows.iter().filter(is_its).map(|row| Obligation {
        id: format!("{}-{}", data.prefix, row.id),
        clause: row.clause.clone(),
        when: row.when.clone(),
        check: row.check,
        fix: row.fix,
        severity: row.severity,
        words: fill(&row.words),
    });
    let obligations = obligations.collect();
    let rights = Rights {
        use_it: family.r#use,
        modify: family.modify,
        share: family.share,
        is_open: family.is_open,
        is_osi_approved: data.osi_approved.unwrap_or(family.osi_approved),
        is_revocable_at_will: family.revocable_at_will,
        redistribute: data.redistribute.clone().unwrap_or_else(|| family.redistribute.clone()),
        train_on_outputs: fill(&family.train_on_outputs),
        commercial: family.commercial.clone(),
    };
    Licence {
        id: data.id,
        name: data.name,
        rules: data.rules,
        version_date: data.version_date,
        ids: data.ids,
        text_at: data.text_at,
        agreement: data.agreement,
        policy: data.policy,
        policy_url: data.policy_url,
        community: data.community,
        rights,
        obligations,
        licensor: family.licensor.clone(),
        title: data.title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn of_id(id: &str) -> &'static Licence {
        Licence::of_id(id).unwrap_or_else(|| panic!("{id}"))
    }

    #[test]
    fn the_data_are_whole() {
        let rows: Vec<&Obligation> = all().iter().flat_map(|licence| &licence.obligations).collect();
        assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>().len(), rows.len());
        for row in rows {
            assert!(!row.words.contains('{') && !row.words.is_empty(), "{}", row.id);
            assert_eq!(row.when.is_empty(), row.check == Check::Nothing, "{}", row.id);
        }
        for licence in all() {
            assert!(licence.title.iter().all(|words| *words == normalise(words).to_lowercase()), "{}", licence.id);
            assert!(licence.version_date.as_ref().is_none_or(|date| puna_text::Date::parse(date).is_some()));
            assert!(!licence.rights.redistribute.is_empty());
            // Open licences, and no others, leave everything free.
            let Rights { use_it, modify, share, is_open, is_osi_approved, .. } = licence.rights;
            assert_eq!([use_it, modify, share] == [Freedom::Free; 3], is_open);
            assert!(is_open || !is_osi_approved);
            assert_eq!(licence.community.is_some(), licence.licensor.is_some());
        }
        let ids: Vec<&str> = all().iter().map(|licence| licence.id.as_str()).collect();
        let expected =
            ["llama3", "llama3.1", "llama3.2", "llama3.3", "apache-2.0", "mit", "cc-by-4.0", "openmdw-1.0", "cc0-1.0"];
        assert_eq!(ids, expected);
    }

    #[test]
    fn what_versions_differ_in() {
        let has = |id: &str, row: &str| of_id(id).obligations.iter().any(|found| found.id == row);
        assert!(has("llama3", "L3-OTHERS") && !has("llama3.1", "L31-OTHERS"));
        assert!(has("llama3.2", "L32-AUP-EU") && !has("llama3.1", "L31-AUP-EU"));
        let name = |id: &str| &of_id(id).obligations.iter().find(|row| row.check == Check::Name).unwrap().words;
        assert!(name("llama3").contains("“Llama 3”") && !name("llama3").contains("trained with"));
        assert!(name("llama3.1").contains("“Llama”") && name("llama3.1").contains("trained with what it said"));
    }

    #[test]
    fn names_of_llamas() {
        let id = |name: &str| Licence::of_name(name).map(|licence| licence.id.as_str());
        for name in ["Llama-3.1-8B-Instruct-Q8_0.gguf", "meta-llama/Meta-Llama-3.1-70B", "llama3_1", "Llama 3.1"] {
            assert_eq!(id(name), Some("llama3.1"), "{name}");
        }
        assert_eq!(id("Meta-Llama-3-8B-Instruct"), Some("llama3"));
        assert_eq!(id("Llama-3"), Some("llama3"));
        assert_eq!(id("my-Llama-3.2-1B"), Some("llama3.2"));
        assert_eq!(id("Llama-3.3-70B-Instruct"), Some("llama3.3"));
        for name in ["open_llama_3b", "llama-30b", "CodeLlama-34b", "Llama-2-7b", "Llama-3.7-1B", "Llama-3.11", "bard"]
        {
            assert_eq!(id(name), None, "{name}");
        }
    }

    #[test]
    fn names_of_derived_models() {
        assert!(begins("Llama-3.1-8B-Bard", "Llama") && begins("me/Llama-Bard", "Llama"));
        assert!(begins("Llama-3-8B-Bard", "Llama 3") && !begins("Llama-Bard", "Llama 3"));
        assert!(!begins("Bard-Llama", "Llama") && !begins("Llama/Bard", "Llama"));
    }

    #[test]
    fn ids_and_texts() {
        for id in
            ["llama3.1", " LLAMA3.1 ", "llama-3.1-license-2024", "llama-3.1-community", "Llama 3.1 Community License"]
        {
            assert_eq!(of_id(id).id, "llama3.1");
        }
        assert_eq!(of_id("Apache-2.0").id, "apache-2.0");
        assert!(Licence::of_id("other").is_none());
        let id = |text: &str| Licence::of_text(text).map(|licence| licence.id.as_str());
        assert_eq!(id("LLAMA 3.1 COMMUNITY\n LICENSE AGREEMENT"), Some("llama3.1"));
        assert_eq!(id("META LLAMA 3 COMMUNITY LICENSE AGREEMENT"), Some("llama3"));
        assert_eq!(id("No licence."), None);
        let of_file = |path: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
            Licence::of_document(&std::fs::read(path).unwrap()).map(|licence| licence.id.as_str())
        };
        assert_eq!(of_file("LICENSE-APACHE"), Some("apache-2.0"));
        assert_eq!(of_file("LICENSE-MIT"), Some("mit"));
        assert_eq!(of_file("cria/LICENSE-CC0"), Some("cc0-1.0"));
    }

    #[test]
    fn licensors() {
        let region = |text: &str| Region::try_from(text.to_owned());
        let licensor = |text: &str| of_id("llama3.1").licensor(Some(&region(text).unwrap()));
        assert_eq!(licensor("DE"), Some("Meta Platforms Ireland Limited"));
        assert_eq!(licensor("CH"), Some("Meta Platforms Ireland Limited"));
        assert_eq!(licensor("GB"), Some("Meta Platforms, Inc."));
        assert_eq!(of_id("llama3.1").licensor(None), None);
        assert_eq!(of_id("mit").licensor(Some(&region("DE").unwrap())), None);
        for text in ["", "de", "DEU", "D1", "É"] {
            assert!(region(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cards_declare() {
        let declared = Declared::of_card(
            "---\nlicense: llama3.1\nbase_model: \"a/b\"\ntags:\n- x\nbase_model:\n  - c/d\n- e/f\n---\nlicense: mit\n",
        );
        assert_eq!(declared.ids, ["llama3.1"]);
        assert_eq!(declared.bases, ["a/b", "c/d", "e/f"]);
        assert_eq!(Declared::of_card("# Title\nlicense: llama3.1\n"), Declared::default());
    }
}
