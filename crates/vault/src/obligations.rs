//! Whether a model that is to be passed on fulfils its licence, row by row, and what can be done about it.
//!
//! What is looked at lies in the model's folder itself: its card, `LICENSE`, `NOTICE`, `USE_POLICY`, and the record of its
//! terms, if there is one. Rows are data (see [`licence`](crate::licence)); here are the few kinds of checks they name.

use crate::licence::{self, Check, Declared, Fix, Licence, Obligation, Occasion, Severity};
use crate::normalise::unwrap_lines;
use crate::record::{self, DocumentKind, Folder, Record, RecordError, Role, State};
use puna_checkpoint::write_file;
use puna_text::Date;
use std::path::{Path, PathBuf};

/// The most files that a folder is searched for documents.
const MAX_FILES: usize = 20_000;

/// A text that has the title of a licence and fewer characters is not the licence.
const MIN_AGREEMENT: usize = 500;

/// A model that is to be passed on.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// Where it lies.
    pub dir: &'a Path,
    /// What it is to be called; the name of the folder, if nothing else was said.
    pub name: Option<&'a str>,
    /// Its licence; what the folder tells, if nothing else was said.
    pub licence: Option<&'static Licence>,
    /// Whether it was made from another model, or with what one said. What is not known to be unchanged is taken for
    /// derived.
    pub is_derived: Option<bool>,
    /// Folder of the model that it was made from: the texts of licences are there, too.
    pub base: Option<&'a Path>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the model is called.
    pub name: String,
    /// Its licences, and what tells each.
    pub licences: Vec<(&'static Licence, String)>,
    /// All rows of all of them.
    pub rows: Vec<Row>,
}

/// What was found of one row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of which licence it is.
    pub licence: &'static Licence,
    /// Which one it is.
    pub obligation: &'static Obligation,
    /// Whether it is fulfilled.
    pub state: State,
    /// What shows it.
    pub evidence: String,
    /// What to do, if it is not fulfilled.
    pub remedy: Option<String>,
}

/// Why a model can't be checked, or a fix not be applied.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The record, or a file.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The folder can't be read.
    #[error("{path}: {error}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Nothing tells the licence.
    #[error(
        "{0}: nothing in it tells its licence; expected a file LICENSE, or a model card README.md that declares one; or say \
         which it is with --licence"
    )]
    NoLicence(PathBuf),
    /// More files than a model has.
    #[error("{0}: expected at most {MAX_FILES} files, found more: this is no model's folder")]
    TooMany(PathBuf),
}

impl Report {
    /// Whether puna refuses to pass the model on like this.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.rows.iter().any(|row| row.state == State::Unmet && row.obligation.severity == Severity::Refuse)
    }

    /// What a record of the model keeps of it.
    #[must_use]
    pub fn states(&self, now: i64) -> Vec<record::Obligation> {
        let state = |row: &Row| record::Obligation {
            id: row.obligation.id.clone(),
            state: row.state,
            evidence: row.evidence.clone(),
            checked_at: Date::timestamp(now),
        };
        self.rows.iter().map(state).collect()
    }
}

/// A document in a model's folder.
struct Document {
    file: String,
    bytes: Vec<u8>,
}

/// What lies in a model's folder.
struct Contents {
    licences: Vec<Document>,
    notices: Vec<Document>,
    policies: Vec<Document>,
    /// The model card.
    card: Option<Document>,
    is_adapter: bool,
    record: Option<Record>,
}

impl Contents {
    fn read(dir: &Path) -> Result<Contents, CheckError> {
        let failed = |error| CheckError::Read { path: dir.to_owned(), error };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            if files.len() == MAX_FILES {
                return Err(CheckError::TooMany(dir.to_owned()));
            }
            // A name that is not UTF-8 is not that of a document.
            files.extend(entry.map_err(failed)?.file_name().into_string());
        }
        files.sort();
        let is_adapter = files.iter().any(|file| file == "adapter_config.json");
        let record = Folder::of(dir).read()?;
        let mut contents =
            Contents { licences: vec![], notices: vec![], policies: vec![], card: None, is_adapter, record };
        for file in files {
            let path = dir.join(&file);
            let Some(kind) = DocumentKind::of_file(&file).filter(|_| path.is_file()) else { continue };
            let Some(bytes) = record::read_document(&path)? else { continue };
            let document = Document { file, bytes };
            match kind {
                DocumentKind::Licence => contents.licences.push(document),
                DocumentKind::Notice => contents.notices.push(document),
                DocumentKind::UsePolicy => contents.policies.push(document),
                // That of the folder, before one of a single file in it.
                DocumentKind::Card => {
                    contents.card = contents.card.filter(|card| is_plain(&card.file)).or(Some(document))
                }
            }
        }
        Ok(contents)
    }

    fn card_text(&self) -> String {
        self.card.as_ref().map(|card| String::from_utf8_lossy(&card.bytes).into_owned()).unwrap_or_default()
    }
}

fn is_plain(file: &str) -> bool {
    file.eq_ignore_ascii_case("README.md") || file.eq_ignore_ascii_case("README")
}

/// The licences that a folder tells of, each with what tells it. A card that declares an open licence for a model that was
/// made from a Llama does not hide Llama's.
fn licences(contents: &Contents, name: &str) -> Vec<(&'static Licence, String)> {
    let declared = Declared::of_card(&contents.card_text());
    let mut found: Vec<(&'static Licence, String)> = Vec::new();
    let mut add = |licence: Option<&'static Licence>, why: String| {
        if let Some(licence) = licence
            && !found.iter().any(|(known, _)| known.id == licence.id)
        {
            found.push((licence, why));
        }
    };
    add(contents.record.as_ref().and_then(Record::known_licence), "the record of its terms".into());
    for text in &contents.licences {
        add(Licence::of_document(&text.bytes), format!("the file {}", text.file));
    }
    for id in &declared.ids {
        add(Licence::of_id(id), format!("its card, which declares `{id}`"));
    }
    for base in &declared.bases {
        add(Licence::of_name(base), format!("its card, which says that it was made from `{base}`"));
    }
    if found.is_empty() {
        let by_name = Licence::of_name(name).map(|licence| (licence, format!("the name `{name}`")));
        found.extend(by_name);
    }
    found
}

/// Checks all rows of the licences of a model for this occasion.
///
/// # Errors
/// When the folder can't be read, or nothing in it tells a licence.
pub fn check(publication: &Publication, occasion: Occasion) -> Result<Report, CheckError> {
    let contents = Contents::read(publication.dir)?;
    let name = publication.name.map(str::to_owned).unwrap_or_else(|| folder_name(publication.dir));
    let licences = match publication.licence {
        Some(licence) => vec![(licence, "--licence".to_owned())],
        None => licences(&contents, &name),
    };
    if licences.is_empty() {
        return Err(CheckError::NoLicence(publication.dir.to_owned()));
    }
    let declared = Declared::of_card(&contents.card_text());
    let is_derived =
        publication.is_derived.or_else(|| (contents.is_adapter || !declared.bases.is_empty()).then_some(true));
    let mut rows = Vec::new();
    for (licence, _) in &licences {
        let subject = Subject { contents: &contents, name: &name, is_derived, licence };
        for obligation in &licence.obligations {
            let (state, evidence, remedy) = match obligation.when.contains(&occasion) {
                true => subject.check(obligation.check),
                false if obligation.when.is_empty() => (State::NotApplicable, "to be known".to_owned(), None),
                false => (State::NotApplicable, "not on this occasion".to_owned(), None),
            };
            rows.push(Row { licence, obligation, state, evidence, remedy });
        }
    }
    Ok(Report { name, licences, rows })
}

fn folder_name(dir: &Path) -> String {
    let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    canonical.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

type Finding = (State, String, Option<String>);

fn met(evidence: String) -> Finding {
    (State::Met, evidence, None)
}

fn unmet(evidence: impl Into<String>, remedy: String) -> Finding {
    (State::Unmet, evidence.into(), Some(remedy))
}

/// What rows are checked on.
struct Subject<'a> {
    contents: &'a Contents,
    name: &'a str,
    is_derived: Option<bool>,
    licence: &'static Licence,
}

impl Subject<'_> {
    fn check(&self, check: Check) -> Finding {
        match check {
            Check::Nothing => (State::NotApplicable, "to be known".into(), None),
            Check::Person => (State::NotChecked, "no program can tell".into(), None),
            Check::Agreement => self.agreement(),
            Check::Policy => self.policy(),
            Check::Notice => self.notice(),
            Check::BuiltWith => self.built_with(),
            Check::Name => self.name(),
        }
    }

    /// Whether the record of the model has this text in this role.
    fn is_recorded(&self, role: Role, bytes: &[u8]) -> bool {
        let hash = crate::digest::sha256(bytes);
        let terms = self.contents.record.as_ref().map_or(&[][..], |record| &record.terms);
        terms.iter().any(|text| text.role == role && text.sha256_raw == hash)
    }

    fn agreement(&self) -> Finding {
        let (licence, texts) = (self.licence, &self.contents.licences);
        let known = texts
            .iter()
            .find(|text| licence.agreement.has(&text.bytes) || self.is_recorded(Role::Agreement, &text.bytes));
        if let Some(text) = known {
            return met(format!("{} is the text of the {}", text.file, licence.name));
        }
        let remedy =
            format!("copy the text of the {} to LICENSE; it is to be had from {}", licence.name, licence.text_at);
        let titled = texts.iter().find(|text| {
            Licence::of_text(&String::from_utf8_lossy(&text.bytes)).is_some_and(|found| found.id == licence.id)
        });
        let Some(text) = titled else {
            let names: Vec<&str> = texts.iter().map(|text| text.file.as_str()).collect();
            return match names[..] {
                [] => unmet("there is no file LICENSE", remedy),
                _ => unmet(format!("{} is not the text of the {}", names.join(", "), licence.name), remedy),
            };
        };
        if text.bytes.len() < MIN_AGREEMENT {
            return unmet(format!("{} has the title of the {}, and not its text", text.file, licence.name), remedy);
        }
        // Open licences have a line of copyright that is everybody's own, so no copy is like another.
        if licence.community.is_none() {
            return met(format!("{} has the words of the {}", text.file, licence.name));
        }
        let evidence = format!(
            "{} has the title of the {}, but is none of the copies that puna knows: compare it with {}",
            text.file, licence.name, licence.text_at
        );
        (State::NotChecked, evidence, None)
    }

    fn policy(&self) -> Finding {
        let Some(url) = &self.licence.policy_url else {
            return (State::NotApplicable, "the licence has no use policy".into(), None);
        };
        let known = self
            .contents
            .policies
            .iter()
            .find(|text| self.licence.policy.has(&text.bytes) || self.is_recorded(Role::UsePolicy, &text.bytes));
        if let Some(text) = known {
            return met(format!("{} is the use policy", text.file));
        }
        // With or without `www`, and over whatever protocol.
        let place = url.trim_start_matches("https://").trim_start_matches("www.");
        if self.contents.card_text().contains(place) {
            return met(format!("the card has the address {url}"));
        }
        let remedy = format!("copy the use policy to USE_POLICY.md, or give its address on the card: {url}");
        match self.contents.policies.first() {
            Some(text) => {
                let evidence = format!("{} is none of the copies of the use policy that puna knows", text.file);
                (State::NotChecked, evidence, Some(remedy))
            }
            None => unmet("neither is the use policy there nor its address on the card", remedy),
        }
    }

    fn notice(&self) -> Finding {
        let Some(meta) = &self.licence.community else {
            return (State::NotApplicable, "the licence has no notice".into(), None);
        };
        let remedy = format!("write to the file NOTICE: {}", meta.notice);
        let has = |text: &&Document| {
            std::str::from_utf8(&text.bytes).is_ok_and(|text| unwrap_lines(text).contains(&meta.notice))
        };
        match (self.contents.notices.iter().find(has), self.contents.notices.first()) {
            (Some(text), _) => met(format!("{} has the notice", text.file)),
            (None, Some(text)) => unmet(format!("{} does not have the notice, word for word", text.file), remedy),
            (None, None) => unmet("there is no file NOTICE", remedy),
        }
    }

    fn built_with(&self) -> Finding {
        let Some(meta) = &self.licence.community else {
            return (State::NotApplicable, "the licence asks for no words of credit".into(), None);
        };
        let remedy = format!("write “{}” on the model card, where it is seen", meta.built_with);
        let card = self.contents.card_text();
        let (_, shown) = front_matter(&card);
        match &self.contents.card {
            Some(card) if has_words(shown, &meta.built_with) => {
                met(format!("{} says “{}”", card.file, meta.built_with))
            }
            Some(card) => unmet(format!("{} does not say “{}”", card.file, meta.built_with), remedy),
            None => unmet("there is no model card README.md", remedy),
        }
    }

    fn name(&self) -> Finding {
        let Some(meta) = &self.licence.community else {
            return (State::NotApplicable, "the licence has no rule for names".into(), None);
        };
        let name = self.name;
        if licence::begins(name, &meta.begins) {
            return met(format!("`{name}` begins with “{}”", meta.begins));
        }
        if self.is_derived == Some(false) {
            return (State::NotApplicable, "the model is passed on as it was received".into(), None);
        }
        let last = name.rsplit('/').next().unwrap_or(name);
        let mut remedy = format!(
            "call it `{}-{last}`, or otherwise so that “{}” comes first",
            meta.begins.replace(' ', "-"),
            meta.begins
        );
        if self.is_derived.is_none() {
            remedy += "; if it is passed on as it was received, say so";
        }
        unmet(format!("`{name}` does not begin with “{}”", meta.begins), remedy)
    }
}

/// Whether a text has these words, and not as the beginning of others: `Built with Llama` is not in `Built with Llamas`.
fn has_words(text: &str, words: &str) -> bool {
    let text = unwrap_lines(text);
    text.match_indices(words).any(|(at, _)| !text[at + words.len()..].starts_with(|c: char| c.is_alphanumeric()))
}

/// A card's front matter, with its last line, and what follows it.
fn front_matter(card: &str) -> (&str, &str) {
    let mut end = 0;
    for (idx, line) in card.split_inclusive('\n').enumerate() {
        end += line.len();
        match (idx, line.trim()) {
            (0, "---") => {}
            (0, _) => break,
            (_, "---") => return card.split_at(end),
            _ => {}
        }
    }
    ("", card)
}

/// What was done about a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A file was written.
    Wrote {
        /// About which row.
        id: String,
        /// Which file.
        file: String,
    },
    /// Nothing could be done.
    Missing {
        /// About which row.
        id: String,
        /// Why.
        why: String,
    },
}

/// Does what a program can do about the rows that are unmet; check again afterwards. Nothing that is there is taken away:
/// files are added, or added to.
///
/// # Errors
/// When a file can't be read or written.
pub fn apply(publication: &Publication, report: &Report) -> Result<Vec<Applied>, CheckError> {
    let mut applied = Vec::new();
    let unmet = report.rows.iter().filter(|row| row.state == State::Unmet);
    for (row, fix) in unmet.filter_map(|row| Some((row, row.obligation.fix?))) {
        let id = row.obligation.id.clone();
        // Each fix sees what the ones before it wrote.
        let contents = Contents::read(publication.dir)?;
        applied.push(match fix_row(publication, &contents, row.licence, fix)? {
            Ok(file) => Applied::Wrote { id, file },
            Err(why) => Applied::Missing { id, why },
        });
    }
    Ok(applied)
}

/// The name of the file that was written, or why none was.
fn fix_row(
    publication: &Publication,
    contents: &Contents,
    licence: &Licence,
    fix: Fix,
) -> Result<Result<String, String>, CheckError> {
    let write = |file: &str, bytes: &[u8]| -> Result<Result<String, String>, CheckError> {
        write_file(&publication.dir.join(file), bytes).map_err(RecordError::from)?;
        Ok(Ok(file.to_owned()))
    };
    let nothing = || Ok(Err(format!("the {} asks for nothing like this", licence.name)));
    match fix {
        Fix::CopyLicence => match recorded(publication, licence, Role::Agreement)? {
            Some(bytes) if !contents.licences.iter().any(|text| text.file.eq_ignore_ascii_case("LICENSE")) => {
                write("LICENSE", &bytes)
            }
            // Another licence has that name; both stay.
            Some(bytes) => write(&format!("{}.LICENSE", licence.id), &bytes),
            None => Ok(Err(format!(
                "no record has the text of the {}; it is to be had from {}",
                licence.name, licence.text_at
            ))),
        },
        Fix::CopyPolicy => match (recorded(publication, licence, Role::UsePolicy)?, &licence.policy_url) {
            (Some(bytes), _) if contents.policies.is_empty() => write("USE_POLICY.md", &bytes),
            (_, Some(url)) => {
                let line = format!("\nThe use policy of the {} applies: <{url}>.\n", licence.name);
                write(card_file(contents), (new_card(publication, contents) + &line).as_bytes())
            }
            (_, None) => nothing(),
        },
        Fix::WriteNotice => {
            let Some(meta) = &licence.community else { return nothing() };
            let (file, mut text) = match contents.notices.first() {
                Some(notice) => match String::from_utf8(notice.bytes.clone()) {
                    Ok(text) => (notice.file.as_str(), text),
                    Err(_) => return Ok(Err(format!("{} is not UTF-8; nothing is added to it", notice.file))),
                },
                None => ("NOTICE", String::new()),
            };
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text += &format!("{}\n", meta.notice);
            write(file, text.as_bytes())
        }
        Fix::AddWords => {
            let Some(meta) = &licence.community else { return nothing() };
            let card = new_card(publication, contents);
            // Below the title, if there is one, so that it is seen.
            let (front, shown) = front_matter(&card);
            let title = shown.trim_start().starts_with("# ");
            let blank = shown.len() - shown.trim_start().len();
            let at = match title {
                true => shown[blank..].find('\n').map_or(shown.len(), |end| blank + end + 1),
                false => 0,
            };
            let (before, after) = shown.split_at(at);
            let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            let card = format!("{front}{before}{end}\n**{}**\n\n{}", meta.built_with, after.trim_start_matches('\n'));
            write(card_file(contents), card.as_bytes())
        }
    }
}

fn card_file(contents: &Contents) -> &str {
    contents.card.as_ref().map_or("README.md", |card| card.file.as_str())
}

/// The model card, or the beginning of one.
fn new_card(publication: &Publication, contents: &Contents) -> String {
    let name = publication.name.map(str::to_owned).unwrap_or_else(|| folder_name(publication.dir));
    let mut card = contents.card.as_ref().map_or_else(|| format!("# {name}\n"), |_| contents.card_text());
    if !card.ends_with('\n') {
        card.push('\n');
    }
    card
}

/// The bytes of a text of this licence, from the record of the model or of its base.
fn recorded(publication: &Publication, licence: &Licence, role: Role) -> Result<Option<Vec<u8>>, CheckError> {
    for dir in [Some(publication.dir), publication.base].into_iter().flatten() {
        let folder = Folder::of(dir);
        let Some(record) = folder.read()? else { continue };
        if record.known_licence().is_some_and(|known| known.id != licence.id) {
            continue;
        }
        let Some(text) = record.current(role) else { continue };
        if let Some(bytes) = folder.document(text.sha256_raw)? {
            return Ok(Some(bytes));
        }
    }
    // A base that nobody keeps a record of may have the text among its files.
    let Some(base) = publication.base else { return Ok(None) };
    let contents = Contents::read(base)?;
    let text = match role {
        Role::Agreement => contents.licences.into_iter().find(|text| {
            text.bytes.len() >= MIN_AGREEMENT
                && Licence::of_document(&text.bytes).is_some_and(|found| found.id == licence.id)
        }),
        Role::UsePolicy => contents.policies.into_iter().next(),
        _ => None,
    };
    Ok(text.map(|text| text.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_in_parts() {
        assert_eq!(front_matter("---\na: b\n---\n# T\n"), ("---\na: b\n---\n", "# T\n"));
        assert_eq!(front_matter("# T\n---\nx\n---\n"), ("", "# T\n---\nx\n---\n"));
        assert_eq!(front_matter("---\nnever ends"), ("", "---\nnever ends"));
        assert!(has_words("x **Built with\nLlama**", "Built with Llama"));
        assert!(!has_words("Built with Llamas", "Built with Llama"));
    }
}
