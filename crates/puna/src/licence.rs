//! What the licence of a model asks of whoever passes on a model that was made from it.
//!
//! Known are Meta's community licences of Llama 3, by the data of [`puna_vault::licence`]. Which one a base has is taken,
//! in this order, from the licence files beside it, from what its files declare, and from the names in them; the command
//! line overrules all of that. The texts of the licences are Meta's: they are copied where they lie beside the base, and
//! never written here.

use anyhow::{Context, Result, bail};
use clap::Args;
use puna_checkpoint::gguf::{Header, MetadataValue, Value};
use puna_checkpoint::{Bytes, Checkpoint, Container, Layout};
use puna_vault::licence::{self, Licence};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

/// A licence of Meta's, and what it asks for.
#[derive(Clone, Copy)]
struct Community {
    licence: &'static Licence,
    /// What other licences do not ask for.
    asks: &'static licence::Community,
}

impl Community {
    fn of(licence: Option<&'static Licence>) -> Option<Community> {
        let licence = licence?;
        Some(Community { licence, asks: licence.community.as_ref()? })
    }

    fn of_id(id: &str) -> Option<Community> {
        Community::of(Licence::of_id(id))
    }

    /// The one whose title a text has.
    fn of_text(text: &[u8]) -> Option<Community> {
        Community::of(Licence::of_document(text))
    }

    /// The one of the Llama that a name begins with or has in it: `Llama-3.1-8B`, `Meta-Llama-3-8B`, `llama3_2`.
    fn of_name(name: &str) -> Option<Community> {
        Community::of(Licence::of_name(name))
    }
}

/// What the command line says of a new model's name and licence.
#[derive(Args)]
pub struct LicenceArgs {
    /// Name of the new model [default: that of the output]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The base's licence, llama3, llama3.1, llama3.2, llama3.3 or none [default: what the base's files tell]
    #[arg(long, value_name = "LICENCE", value_parser = parse)]
    licence: Option<Said>,
}

/// A licence on the command line.
#[derive(Clone, Copy)]
enum Said {
    No,
    Community(Community),
}

fn parse(text: &str) -> Result<Said, String> {
    match Community::of_id(text) {
        Some(licence) => Ok(Said::Community(licence)),
        None if text == "none" => Ok(Said::No),
        None => {
            let known = licence::all().iter().filter(|licence| licence.community.is_some());
            let known: Vec<&str> = known.map(|licence| licence.id.as_str()).collect();
            Err(format!("expected {} or none", known.join(", ")))
        }
    }
}

/// The name of a new model, and what goes along with it.
pub struct Terms {
    /// The model's name.
    pub name: String,
    licence: Option<Community>,
    /// Licence, notice and use policy of the base, by name.
    documents: Vec<(String, Vec<u8>)>,
    /// What the base is called.
    base: String,
}

impl LicenceArgs {
    /// The terms of a model `out` that is made from `base`; `names` are further names of the base.
    pub fn terms(&self, base: &Path, checkpoint: &Checkpoint, names: &[&str], out: &Path) -> Result<Terms> {
        let documents = documents(base)?;
        let (licence, why) = match self.licence {
            Some(Said::No) => (None, String::new()),
            Some(Said::Community(licence)) => (Some(licence), "--licence".to_owned()),
            None => match found(base, checkpoint, names, &documents)? {
                Some((licence, why)) => (Some(licence), why),
                None => {
                    eprintln!("note: {}: its files do not tell its licence; --licence does", base.display());
                    (None, String::new())
                }
            },
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None if Container::of(out) == Container::Gguf => {
                out.file_stem().unwrap_or_default().to_string_lossy().into_owned()
            }
            None => file_name(out),
        };
        if let Some(licence) = licence
            && !licence::begins(&name, &licence.asks.begins)
        {
            bail!(
                "--name: expected a name that begins with `{}`, found `{name}`: the {} of {} (by {why}) asks it of models \
                 made from it; --licence none if it has another licence",
                licence.asks.begins,
                licence.licence.name,
                base.display()
            );
        }
        Ok(Terms { name, licence, documents, base: file_name(base) })
    }
}

/// The licence of a base, and what tells it.
fn found(
    base: &Path,
    checkpoint: &Checkpoint,
    names: &[&str],
    documents: &[(String, Vec<u8>)],
) -> Result<Option<(Community, String)>> {
    for (name, text) in documents {
        if let Some(licence) = Community::of_text(text) {
            return Ok(Some((licence, format!("the file {name} beside it"))));
        }
    }
    let mut declared = declared(base, checkpoint)?;
    let canonical = base.canonicalize().unwrap_or_else(|_| base.to_owned());
    declared.names.push(file_name(&canonical));
    declared.names.extend(names.iter().map(|name| (*name).to_owned()));
    let of_id = declared.ids.iter().find_map(|id| Some((Community::of_id(id)?, format!("its licence `{id}`"))));
    let of_name = || {
        let of_name = |name: &String| Some((Community::of_name(name)?, format!("the name `{name}`")));
        declared.names.iter().find_map(of_name)
    };
    Ok(of_id.or_else(of_name))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What whoever uses a model is shown: words of credit, and the notice of its licence. None if no licence asks for it.
pub fn shown(base: &Path, checkpoint: &Checkpoint) -> Result<Option<(&'static str, &'static str)>> {
    let found = found(base, checkpoint, &[], &documents(base)?)?;
    Ok(found.map(|(licence, _)| (licence.asks.built_with.as_str(), licence.asks.notice.as_str())))
}

impl Terms {
    /// What the base is called.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The licence, as model cards declare it.
    pub fn licence(&self) -> Option<&'static str> {
        self.licence.map(|licence| licence.licence.id.as_str())
    }

    /// Files to pass on with the model, by name: the base's documents, `NOTICE`, and a model card that says what the
    /// model is, `about`.
    pub fn files(&self, about: &str) -> Vec<(String, Vec<u8>)> {
        let mut files = self.documents.clone();
        if let Some(licence) = self.licence {
            let notice = files.iter_mut().find(|(name, _)| stem(name) == "NOTICE");
            let mut text =
                notice.as_ref().map_or_else(String::new, |(_, text)| String::from_utf8_lossy(text).into_owned());
            if !text.contains(&licence.asks.notice) {
                text += &format!("{}\n", licence.asks.notice);
            }
            if !self.has_text() {
                text += &format!("\n{}\n", self.missing_text(licence));
            }
            match notice {
                Some((_, bytes)) => *bytes = text.into_bytes(),
                None => files.push(("NOTICE".into(), text.into_bytes())),
            }
        }
        files.push(("README.md".into(), self.card(about).into_bytes()));
        files
    }

    /// Metadata of a GGUF file.
    pub fn metadata(&self) -> Vec<(String, MetadataValue)> {
        let mut pairs = vec![("general.name", self.name.clone())];
        if let Some(licence) = self.licence {
            pairs.push(("general.license", licence.licence.id.clone()));
            pairs.push(("general.license.name", licence.licence.name.clone()));
            pairs.push(("general.description", format!("{}. {}", licence.asks.built_with, licence.asks.notice)));
        }
        pairs.into_iter().map(|(key, text)| (key.to_owned(), MetadataValue::String(text))).collect()
    }

    /// What whoever passes the model on still has to do himself, if anything.
    pub fn reminder(&self) -> Option<String> {
        self.licence.filter(|_| !self.has_text()).map(|licence| self.missing_text(licence))
    }

    /// Whether the text of the licence lies beside the base.
    fn has_text(&self) -> bool {
        let is_text = |(name, text): &(String, Vec<u8>)| {
            ["LICENSE", "LICENCE"].contains(&stem(name).as_str())
                && Community::of_text(text).map(|licence| &licence.licence.id)
                    == self.licence.map(|licence| &licence.licence.id)
        };
        self.documents.iter().any(is_text)
    }

    fn missing_text(&self, licence: Community) -> String {
        format!(
            "The text of the {} did not lie beside the base and must go along with every copy of this model. It is to \
             be had from Meta: {}.",
            licence.licence.name, licence.licence.text_at
        )
    }

    fn card(&self, about: &str) -> String {
        // A string of JSON is one of YAML.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut card = String::from("---\n");
        if let Some(licence) = self.licence {
            card += &format!("license: {}\n", licence.licence.id);
        }
        card += &format!("base_model: {}\n---\n\n# {}\n\n", quoted(&self.base), self.name);
        if let Some(licence) = self.licence {
            card += &format!("**{}**\n\n", licence.asks.built_with);
        }
        card += &format!("{about}\n");
        if let Some(licence) = self.licence {
            card += &format!("\n{}\n", licence.asks.notice);
        }
        card
    }
}

/// A longer text is no licence.
const MAX_DOCUMENT: u64 = 1 << 20;

/// A file name up to its first dot, in capitals.
fn stem(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_uppercase()
}

/// Licence, notice and use policy of a model: those in its directory, and those that belong to a GGUF file by its name
/// or, beside other files, by speaking of Llama.
fn documents(base: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let (dir, prefix) = if base.is_dir() {
        (base, None)
    } else {
        let dir = base.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stem = base.file_stem().unwrap_or_default().to_string_lossy();
        (dir, Some(format!("{stem}.")))
    };
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        let Some(found) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let own = prefix.as_ref().and_then(|prefix| found.strip_prefix(prefix.as_str()));
        let name = own.unwrap_or(found);
        if !["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].contains(&stem(name).as_str()) || !path.is_file() {
            continue;
        }
        let text = read_start(&path)?;
        if text.len() as u64 > MAX_DOCUMENT {
            bail!("{}: expected a text of at most {MAX_DOCUMENT} bytes", path.display());
        }
        let speaks_of_llama = || String::from_utf8_lossy(&text).to_lowercase().contains("llama");
        if prefix.is_none() || own.is_some() || speaks_of_llama() {
            documents.push((name.to_owned(), text));
        }
    }
    documents.sort();
    // Of two of one name the one that belongs to the file by its name too is as good as the other.
    documents.dedup_by(|a, b| a.0 == b.0);
    Ok(documents)
}

/// A file's beginning: one byte more than a document may have.
fn read_start(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut text).with_context(|| path.display().to_string())?;
    Ok(text)
}

/// What a model's files say about licence and descent.
#[derive(Default)]
struct Declared {
    /// Licences, as model cards declare them.
    ids: Vec<String>,
    /// Names of the model, and of those it was made from.
    names: Vec<String>,
}

fn declared(base: &Path, checkpoint: &Checkpoint) -> Result<Declared> {
    let mut declared = Declared::default();
    match checkpoint.layout {
        Layout::Gguf => {
            let Some(first) = checkpoint.files.first() else { return Ok(declared) };
            let bytes = Bytes::map(&first.path)?;
            let header = Header::parse(&bytes).with_context(|| first.path.display().to_string())?;
            for (key, value) in &header.pairs {
                let Value::String(text) = value else { continue };
                match *key {
                    "general.license" | "general.license.name" => declared.ids.push((*text).to_owned()),
                    "general.name" | "general.basename" => declared.names.push((*text).to_owned()),
                    key if key.starts_with("general.base_model.") => declared.names.push((*text).to_owned()),
                    _ => {}
                }
            }
        }
        Layout::HuggingFace => {
            #[derive(Deserialize)]
            struct Config {
                #[serde(rename = "_name_or_path")]
                name: Option<String>,
            }
            let path = base.join("config.json");
            let bytes = Bytes::map(&path)?;
            let config: Config = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
            declared.names.extend(config.name);
            let card = base.join("README.md");
            if card.is_file() {
                let card = licence::Declared::of_card(&String::from_utf8_lossy(&read_start(&card)?));
                declared.ids.extend(card.ids);
                declared.names.extend(card.bases);
            }
        }
        Layout::Meta => {}
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(licence: Option<Community>, documents: &[(&str, &str)]) -> Terms {
        let documents = documents.iter().map(|(name, text)| ((*name).into(), text.as_bytes().to_vec())).collect();
        Terms { name: "Llama-x".into(), licence, documents, base: "base".into() }
    }

    #[test]
    fn what_goes_along() {
        let licence = Community::of_id("llama3.1");
        let text = |terms: &Terms, name: &str| {
            let files = terms.files("A model.");
            let file = files.iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("{name}: {files:?}"));
            String::from_utf8(file.1.clone()).unwrap()
        };
        let notice = "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All \
                      Rights Reserved.";
        let alone = terms(licence, &[]);
        assert!(text(&alone, "NOTICE").starts_with(&format!("{notice}\n\nThe text of the Llama 3.1 Community")));
        assert!(alone.reminder().unwrap().contains("models/llama3_1/LICENSE"));
        let card = text(&alone, "README.md");
        let expected =
            "---\nlicense: llama3.1\nbase_model: \"base\"\n---\n\n# Llama-x\n\n**Built with Llama**\n\nA model.\n";
        assert_eq!(card, format!("{expected}\n{notice}\n"));

        let agreement = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT";
        let whole = terms(licence, &[("LICENSE", agreement), ("NOTICE.txt", "Others.\n"), ("USE_POLICY.md", "policy")]);
        assert_eq!(whole.files("").len(), 4);
        assert_eq!(text(&whole, "LICENSE"), agreement);
        assert_eq!(text(&whole, "NOTICE.txt"), format!("Others.\n{notice}\n"));
        assert_eq!(whole.reminder(), None);

        let free = terms(None, &[("LICENSE", "MIT")]);
        assert_eq!(text(&free, "LICENSE"), "MIT");
        assert!(!text(&free, "README.md").contains("Llama is") && free.files("").len() == 2);
        assert_eq!((free.metadata().len(), free.reminder()), (1, None));
    }
}
