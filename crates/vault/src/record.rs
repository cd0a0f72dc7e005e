//! The record of a model's terms: which texts were found, and when, who accepted which of them and how, and what has become
//! of the place that the model came from. It lies beside the model, and stays when the model goes.
//!
//! Nothing in it is ever written anew: texts that change are added, and ask for acceptance. It is for this machine alone;
//! tokens and signed links are never in it.

use crate::digest::{Hex, sha256};
use crate::disk::{self, DiskError};
use crate::licence::{Ids, Licence, Region};
use crate::model::{self as kept, RECORDS};
use crate::normalise::{NORM, sha256_norm};
use puna_checkpoint::write_file;
use puna_text::Date;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The form of these records.
pub const FORMAT: &str = "puna.licence/1";

/// The record, among those of a model.
pub(crate) const RECORD: &str = "licence.json";
/// The folder of its texts.
pub(crate) const TERMS: &str = "terms";

/// A longer file is no record, in bytes.
pub const MAX_RECORD: u64 = 4 << 20;

/// A longer text is no licence, in bytes.
pub const MAX_DOCUMENT: u64 = 1 << 20;

/// The most that each list of a record holds.
pub const MAX_ENTRIES: usize = 1000;

/// The terms of one model, and what happened to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// Whose terms these are.
    pub model: Model,
    /// Which licence it is.
    pub licence: Named,
    /// All texts that were ever found, in the order in which they were.
    pub terms: Vec<Document>,
    /// Who accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licensee: Option<Licensee>,
    /// Who accepted what, oldest first.
    #[serde(default)]
    pub acceptances: Vec<Acceptance>,
    /// What was found of each row of the licence's rules when it was last checked.
    #[serde(default)]
    pub obligations: Vec<Obligation>,
    /// Whether the licence holds.
    pub status: Status,
    /// What was seen of the place that the model came from, oldest first.
    #[serde(default)]
    pub upstream: Vec<Observation>,
}

/// A model, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Who published it.
    pub vendor: String,
    /// What it is called there.
    pub id: String,
    /// Which version of it.
    pub revision: String,
    /// The SHA-256 of its manifest, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<Hex<32>>,
}

/// A licence, as a record names it. Nothing of it is known for a licence that puna does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// As its text calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The date that its text has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_date: Option<String>,
    /// What lists of licences call it.
    #[serde(default)]
    pub ids: Ids,
    /// Who gives it, where the licensee's region tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licensor: Option<String>,
    /// Which rules of puna's say what it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// A text that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// What it is.
    pub role: Role,
    /// SHA-256 of its bytes, by which it lies in [`Folder`].
    pub sha256_raw: Hex<32>,
    /// SHA-256 of its normal form; none if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256_norm: Option<Hex<32>>,
    /// Which normal form.
    pub norm: String,
    /// Its length.
    pub bytes: u64,
    /// Where it was found, without signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// By which way it came.
    pub channel: Channel,
    /// When it was found first.
    pub retrieved_at: String,
    /// When it was last seen there, in these or other bytes that say the same.
    pub seen_at: String,
    /// What the server said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Whether it is part of the agreement by its address, so that it may change.
    #[serde(default)]
    pub incorporated_by_url: bool,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The licence itself.
    Agreement,
    /// What the model may be used for.
    UsePolicy,
    /// What is done with the data of whoever asks for the model.
    Privacy,
    /// How names and signs may be used.
    Brand,
    /// What a form said that had to be filled in.
    FormText,
}

/// What is written for people and goes along with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    Licence,
    Notice,
    UsePolicy,
    /// The model card.
    Card,
}

impl DocumentKind {
    /// By the name of its file: `LICENSE`, `notice.txt`, `Llama-3.1-8B-Q8_0.LICENSE`.
    pub(crate) fn of_file(name: &str) -> Option<DocumentKind> {
        let stem = name.to_uppercase();
        let stem = stem.strip_suffix(".TXT").or_else(|| stem.strip_suffix(".MD")).unwrap_or(&stem);
        match stem.rsplit('.').next().unwrap_or(stem) {
            "LICENSE" | "LICENCE" => Some(DocumentKind::Licence),
            // `LICENSE-MIT`, where there are several.
            stem if stem.starts_with("LICENSE-") || stem.starts_with("LICENCE-") => Some(DocumentKind::Licence),
            "NOTICE" => Some(DocumentKind::Notice),
            "USE_POLICY" => Some(DocumentKind::UsePolicy),
            "README" => Some(DocumentKind::Card),
            _ => None,
        }
    }
}

impl Role {
    /// What the file of this name has among those of a model: `LICENSE.txt`, `USE_POLICY.md`.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Role> {
        match DocumentKind::of_file(name)? {
            DocumentKind::Licence => Some(Role::Agreement),
            DocumentKind::UsePolicy => Some(Role::UsePolicy),
            DocumentKind::Notice | DocumentKind::Card => None,
        }
    }

    /// Whether a text of this role binds whoever accepts it.
    #[must_use]
    pub fn is_binding(self) -> bool {
        matches!(self, Role::Agreement | Role::UsePolicy)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Role::Agreement => "agreement",
            Role::UsePolicy => "use policy",
            Role::Privacy => "privacy policy",
            Role::Brand => "brand guidelines",
            Role::FormText => "text of the form",
        })
    }
}

/// By which way a text came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The Hugging Face hub.
    Hf,
    /// Meta's own server.
    Meta,
    /// Any other server.
    Web,
    /// It lay beside the model.
    Local,
    /// It came with puna.
    Bundled,
}

/// What a server said of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The header `ETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The header `X-Repo-Commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_repo_commit: Option<String>,
    /// The header `Date`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// Who accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licensee {
    /// A person or an organisation.
    pub kind: LicenseeKind,
    /// What they are called, if they want it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where a person lives, or an organisation has its main office.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// For whom is accepted.
    pub authority: Authority,
}

/// A person or an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LicenseeKind {
    /// A person.
    Person,
    /// An organisation.
    Organisation,
}

/// For whom somebody accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// For themselves.
    #[serde(rename = "self")]
    Oneself,
    /// For others.
    OnBehalf,
}

/// An acceptance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// `a1`, `a2` and so on.
    pub id: String,
    /// How.
    pub kind: AcceptanceKind,
    /// When, by this machine's clock.
    pub at: String,
    /// What is known of that clock.
    pub clock: Clock,
    /// Which texts, by their SHA-256.
    pub terms: Vec<Hex<32>>,
    /// What shows it.
    #[serde(default)]
    pub evidence: Evidence,
    /// What was said along with it.
    #[serde(default)]
    pub attest: Attestation,
    /// SHA-256 of what was shown on the screen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_sha256: Option<Hex<32>>,
    /// A signature over the acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// How somebody accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptanceKind {
    /// On the hub, which then opened its gate.
    HubGate,
    /// On the form of the vendor, who then sent a link.
    VendorForm,
    /// When puna asked.
    LocalPrompt,
    /// By using the model or passing it on, which these licences take for acceptance.
    ByUse,
    /// It came with a bundle.
    Imported,
}

/// A clock, and another one to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// This machine's.
    pub wall: String,
    /// A server's header `Date`, if one was asked at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_date: Option<String>,
    /// How much this machine's clock was ahead of the server's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew_s: Option<i64>,
}

/// What shows that somebody accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The user on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub_user: Option<String>,
    /// The kind of the hub's gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Whether the hub let the user in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_check: Option<bool>,
    /// SHA-256 of the headers of the hub's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_sha256: Option<Hex<32>>,
    /// The beginning of the SHA-256 of Meta's link: it shows that there was one, and opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_link_sha256_prefix: Option<Hex<4>>,
}

/// What somebody says of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Whether they and their affiliates had more than 700 million monthly users in the month before the date of the
    /// licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mau_gt_700m: Option<bool>,
    /// Whether they may enter into contracts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legal_capacity: Option<bool>,
    /// Whether they have read the use policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aup_read: Option<bool>,
}

/// What was found of a row of the licence's rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obligation {
    /// The row: `L31-NOTICE`.
    pub id: String,
    /// Whether it is fulfilled.
    pub state: State,
    /// What shows it.
    pub evidence: String,
    /// When it was checked.
    pub checked_at: String,
}

/// Whether a row of a licence's rules is fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Met,
    /// It is not.
    Unmet,
    /// It does not apply.
    #[serde(rename = "n/a")]
    NotApplicable,
    /// A person has to see to it.
    NotChecked,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Met => "met",
            State::Unmet => "unmet",
            State::NotApplicable => "n/a",
            State::NotChecked => "not checked",
        })
    }
}

/// Whether a licence holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Whether it does.
    pub state: StatusState,
    /// Since when.
    pub since: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a licence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusState {
    /// It holds.
    Active,
    /// Another one took its place.
    Superseded,
    /// It was ended.
    Terminated,
    /// Nobody knows.
    Unknown,
}

/// What was seen of the place that a model came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// When it was first seen like this.
    pub at: String,
    /// When it was last seen like this.
    pub last_at: String,
    /// What was seen.
    pub state: Upstream,
    /// The status of the server's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<u16>,
    /// The header `X-Error-Code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_error_code: Option<String>,
    /// Whether the terms there say something else than those that are kept.
    #[serde(default)]
    pub terms_changed: bool,
}

/// The state of the place that a model came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upstream {
    /// It is there.
    Available,
    /// It is there, under another name.
    Renamed,
    /// It is there, for those who ask.
    Gated,
    /// It is there, but not for this user.
    AccessBlocked,
    /// It was taken down.
    Disabled,
    /// It is not there.
    Gone,
    /// It is hidden from this user, or not there: the answer does not say which.
    Unclear,
    /// Nobody answers.
    Unreachable,
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Upstream::Available => "available",
            Upstream::Renamed => "renamed",
            Upstream::Gated => "gated",
            Upstream::AccessBlocked => "access blocked",
            Upstream::Disabled => "disabled",
            Upstream::Gone => "gone",
            Upstream::Unclear => "unclear",
            Upstream::Unreachable => "unreachable",
        })
    }
}

/// A text that has just been found.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// What it is.
    pub role: Role,
    /// All of it.
    pub bytes: &'a [u8],
    /// Where. A signature in it is left out of the record.
    pub source_url: Option<&'a str>,
    /// By which way it came.
    pub channel: Channel,
    /// What the server said of it.
    pub http: Option<Http>,
    /// Whether it is part of the agreement by its address.
    pub incorporated_by_url: bool,
}

/// What a text that was seen again is, compared with those that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same bytes.
    None,
    /// Other bytes that say the same.
    SameWords,
    /// Another text. It was added.
    New {
        /// What it is.
        role: Role,
        /// By which it lies in the [`Folder`].
        sha256: Hex<32>,
        /// The text of this role that was current before, if there was one.
        before: Option<Hex<32>>,
    },
}

/// What can be wrong with a record, or forbids what is about to be done.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system.
    #[error(transparent)]
    Write(Box<puna_checkpoint::Error>),
    /// The disk refused, or a file is too long.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// JSON that is not a record.
    #[error("not a record of a licence: {0}")]
    Json(String),
    /// A record of another form.
    #[error("expected a record of the form {FORMAT}, found {0:?}: it is of another version of puna")]
    Format(String),
    /// A list that is too long.
    #[error("a record's {list}: expected at most {MAX_ENTRIES}, found {n}")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How many it would have.
        n: usize,
    },
    /// A text that is too long.
    #[error("the {role} of the model: expected a text of at most {MAX_DOCUMENT} bytes, found {n}")]
    LongDocument {
        /// What it is.
        role: Role,
        /// Its length.
        n: usize,
    },
    /// A text that is not what its name says.
    #[error("{path}: expected the SHA-256 {expected}, found {found}: the file was damaged; fetch the terms again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What its name says.
        expected: Hex<32>,
        /// What it is.
        found: Hex<32>,
    },
    /// Something secret was about to be written.
    #[error("a record must not have secrets, and this one has {0}")]
    Secret(&'static str),
    /// A text was to be accepted that the record does not have.
    #[error("the text {0} is not among the terms of {1}: fetch the terms again, and read them")]
    UnknownTerms(Hex<32>, String),
    /// Nothing was to be accepted, or not the licence.
    #[error("an acceptance of {0} needs the agreement among its texts")]
    NoAgreementAccepted(String),
    /// The licensee is one that the licence leaves out.
    #[error(
        "{0}: whoever had more than 700 million monthly users in the month before its date needs a licence of their own \
         from Meta; ask Meta for one"
    )]
    TooManyUsers(String),
    /// There is no text that could have been accepted.
    #[error("{0}: its licence was not found, so nothing is fetched; give its text, or fetch it again")]
    NoAgreement(String),
    /// Something is still to be accepted.
    #[error("{model}: its {role} ({sha256}) was not accepted; read it with `puna terms show`, and `puna terms accept`")]
    NotAccepted {
        /// Whose.
        model: String,
        /// What it is.
        role: Role,
        /// Which text.
        sha256: Hex<32>,
    },
    /// The licence was ended.
    #[error("{model}: its licence was ended on {since}{}; `puna rm` deletes the model", reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Terminated {
        /// Whose.
        model: String,
        /// When.
        since: String,
        /// Why.
        reason: Option<String>,
    },
}

impl From<puna_checkpoint::Error> for RecordError {
    fn from(error: puna_checkpoint::Error) -> RecordError {
        RecordError::Write(Box::new(error))
    }
}

impl Record {
    /// Begins the record of a model, of whose terms these texts were found; `now` is in milliseconds after 1970.
    ///
    /// # Errors
    /// When there are too many texts, or too long ones.
    pub fn start(
        model: Model,
        licence: Option<&Licence>,
        licensee: Option<Licensee>,
        found: &[Found],
        now: i64,
    ) -> Result<Record, RecordError> {
        let region = licensee.as_ref().and_then(|licensee| licensee.region.as_ref());
        let named = licence.map(|licence| Named {
            name: Some(licence.name.clone()),
            version_date: licence.version_date.clone(),
            ids: licence.ids.clone(),
            licensor: licence.licensor(region).map(str::to_owned),
            rules: Some(licence.rules.clone()),
        });
        let state = if licence.is_some() { StatusState::Active } else { StatusState::Unknown };
        let mut record = Record {
            format: FORMAT.to_owned(),
            model,
            licence: named.unwrap_or_default(),
            terms: Vec::new(),
            licensee,
            acceptances: Vec::new(),
            obligations: Vec::new(),
            status: Status { state, since: Date::timestamp(now), reason: None },
            upstream: Vec::new(),
        };
        record.refresh(found, now)?;
        Ok(record)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it is none, or one of another version, or too long.
    pub fn parse(json: &[u8]) -> Result<Record, RecordError> {
        if json.len() as u64 > MAX_RECORD {
            return Err(RecordError::Json(format!("expected at most {MAX_RECORD} bytes, found {}", json.len())));
        }
        let record: Record = serde_json::from_slice(json).map_err(|error| RecordError::Json(error.to_string()))?;
        if record.format != FORMAT {
            return Err(RecordError::Format(record.format.chars().take(80).collect()));
        }
        record.check_lengths()?;
        Ok(record)
    }

    fn check_lengths(&self) -> Result<(), RecordError> {
        let accepted = self.acceptances.iter().map(|acceptance| acceptance.terms.len()).max();
        for (list, n) in [
            ("terms", self.terms.len()),
            ("acceptances", self.acceptances.len()),
            ("accepted texts", accepted.unwrap_or_default()),
            ("obligations", self.obligations.len()),
            ("observations", self.upstream.len()),
        ] {
            if n > MAX_ENTRIES {
                return Err(RecordError::TooMany { list, n });
            }
        }
        Ok(())
    }

    /// The licence, if it is one that puna knows.
    #[must_use]
    pub fn known_licence(&self) -> Option<&'static Licence> {
        let rules = self.licence.rules.as_deref().and_then(|rules| rules.split('@').next());
        rules.and_then(Licence::of_id).or_else(|| self.licence.name.as_deref().and_then(Licence::of_id))
    }

    /// Takes note of texts that were seen. One that says something else than all that were seen before is added; nothing is
    /// ever taken away.
    ///
    /// # Errors
    /// When there are too many texts, or too long ones; then nothing was changed.
    pub fn refresh(&mut self, found: &[Found], now: i64) -> Result<Vec<Change>, RecordError> {
        if let Some(long) = found.iter().find(|found| found.bytes.len() as u64 > MAX_DOCUMENT) {
            return Err(RecordError::LongDocument { role: long.role, n: long.bytes.len() });
        }
        let mut terms = self.terms.clone();
        let changes = found.iter().map(|found| see(&mut terms, found, now)).collect();
        if terms.len() > MAX_ENTRIES {
            return Err(RecordError::TooMany { list: "terms", n: terms.len() });
        }
        self.terms = terms;
        Ok(changes)
    }

    /// The text of this role that was seen last.
    #[must_use]
    pub fn current(&self, role: Role) -> Option<&Document> {
        current(&self.terms, role)
    }

    /// The current texts that bind, and that nobody has accepted, neither in these nor in other bytes.
    #[must_use]
    pub fn unaccepted(&self) -> Vec<&Document> {
        let says_same = |a: &Document, b: &Document| {
            a.role == b.role
                && (a.sha256_raw == b.sha256_raw || (a.sha256_norm.is_some() && a.sha256_norm == b.sha256_norm))
        };
        let accepted: Vec<&Document> = self
            .terms
            .iter()
            .filter(|text| self.acceptances.iter().any(|acceptance| acceptance.terms.contains(&text.sha256_raw)))
            .collect();
        let binding = [Role::Agreement, Role::UsePolicy].into_iter().filter_map(|role| self.current(role));
        binding.filter(|text| !accepted.iter().any(|accepted| says_same(accepted, text))).collect()
    }

    /// Adds an acceptance of the texts `terms`.
    ///
    /// # Errors
    /// When the record does not have one of them, none is the agreement, or the licensee is one that the licence leaves
    /// out, or it was ended.
    pub fn accept(&mut self, new: NewAcceptance, now: i64) -> Result<&Acceptance, RecordError> {
        self.check_active()?;
        let of = |hash: &Hex<32>| self.terms.iter().find(|text| text.sha256_raw == *hash);
        if let Some(unknown) = new.terms.iter().find(|hash| of(hash).is_none()) {
            return Err(RecordError::UnknownTerms(*unknown, self.model.id.clone()));
        }
        // A policy that changed is accepted alone, by whoever accepted the agreement before.
        let accepts_agreement =
            |hashes: &[Hex<32>]| hashes.iter().any(|hash| of(hash).is_some_and(|text| text.role == Role::Agreement));
        let before = self.acceptances.iter().any(|acceptance| accepts_agreement(&acceptance.terms));
        if new.terms.is_empty() || !before && !accepts_agreement(&new.terms) {
            return Err(RecordError::NoAgreementAccepted(self.model.id.clone()));
        }
        let leaves_out = self.known_licence().is_some_and(|licence| licence.community.is_some());
        if leaves_out && new.attest.mau_gt_700m == Some(true) {
            return Err(RecordError::TooManyUsers(self.model.id.clone()));
        }
        let n = self.acceptances.len() + 1;
        if n > MAX_ENTRIES {
            return Err(RecordError::TooMany { list: "acceptances", n });
        }
        let NewAcceptance { kind, server_date, skew_s, terms, evidence, attest, shown_sha256 } = new;
        let wall = Date::timestamp(now);
        self.acceptances.push(Acceptance {
            id: format!("a{n}"),
            kind,
            at: wall.clone(),
            clock: Clock { wall, server_date, skew_s },
            terms,
            evidence,
            attest,
            shown_sha256,
            signature: None,
        });
        Ok(self.acceptances.last().expect("one was added"))
    }

    /// Whether weights may be fetched now: the terms are here, and were accepted where the licence asks for it.
    ///
    /// # Errors
    /// When they may not.
    pub fn check_fetch(&self) -> Result<(), RecordError> {
        self.check_active()?;
        let asks = self.known_licence().is_none_or(|licence| licence.community.is_some());
        if !asks {
            return Ok(());
        }
        if self.current(Role::Agreement).is_none() {
            return Err(RecordError::NoAgreement(self.model.id.clone()));
        }
        match self.unaccepted().first() {
            None => Ok(()),
            Some(text) => {
                Err(RecordError::NotAccepted { model: self.model.id.clone(), role: text.role, sha256: text.sha256_raw })
            }
        }
    }

    /// Whether the licence was not ended: else the model may not be run, served or passed on.
    ///
    /// # Errors
    /// When it was.
    pub fn check_active(&self) -> Result<(), RecordError> {
        if self.status.state != StatusState::Terminated {
            return Ok(());
        }
        Err(RecordError::Terminated {
            model: self.model.id.clone(),
            since: self.status.since.clone(),
            reason: self.status.reason.clone(),
        })
    }

    /// Changes whether the licence holds.
    pub fn set_status(&mut self, state: StatusState, reason: Option<String>, now: i64) {
        self.status = Status { state, since: Date::timestamp(now), reason };
    }

    /// Adds what was seen of the place that the model came from; what is like the last observation only renews its time.
    ///
    /// # Errors
    /// When there are too many.
    pub fn observe(
        &mut self,
        state: Upstream,
        http: Option<u16>,
        x_error_code: Option<String>,
        terms_changed: bool,
        now: i64,
    ) -> Result<(), RecordError> {
        let at = Date::timestamp(now);
        let new = Observation { at: at.clone(), last_at: at.clone(), state, http, x_error_code, terms_changed };
        if let Some(last) = self.upstream.last_mut() {
            let like_last = Observation { at: last.at.clone(), last_at: last.last_at.clone(), ..new.clone() };
            if *last == like_last {
                last.last_at = at;
                return Ok(());
            }
        }
        if self.upstream.len() == MAX_ENTRIES {
            return Err(RecordError::TooMany { list: "observations", n: MAX_ENTRIES + 1 });
        }
        self.upstream.push(new);
        Ok(())
    }

    /// The record without the person: what is given to others.
    #[must_use]
    pub fn redacted(&self) -> Record {
        let mut record = self.clone();
        if let Some(licensee) = &mut record.licensee {
            licensee.name = None;
        }
        for acceptance in &mut record.acceptances {
            let Evidence { hub_user, headers_sha256, meta_link_sha256_prefix, .. } = &mut acceptance.evidence;
            (*hub_user, *headers_sha256, *meta_link_sha256_prefix) = (None, None, None);
            // Who signed is told by the signature.
            acceptance.signature = None;
        }
        record
    }

    /// The record as another machine takes it in: what was accepted elsewhere, by whomever.
    #[must_use]
    pub fn imported(&self) -> Record {
        let mut record = self.redacted();
        record.acceptances.iter_mut().for_each(|acceptance| acceptance.kind = AcceptanceKind::Imported);
        record
    }

    /// The record as it is written.
    ///
    /// # Errors
    /// When something in it looks like a token or a signed link.
    pub fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        let json = serde_json::to_string_pretty(self).map_err(|error| RecordError::Json(error.to_string()))? + "\n";
        if let Some(secret) = secret(&json) {
            return Err(RecordError::Secret(secret));
        }
        Ok(json.into_bytes())
    }
}

/// An acceptance that is about to be added to a record.
#[derive(Clone, Debug)]
pub struct NewAcceptance {
    /// How.
    pub kind: AcceptanceKind,
    /// A server's header `Date`, if one was asked.
    pub server_date: Option<String>,
    /// How much this machine's clock was ahead of the server's, in seconds.
    pub skew_s: Option<i64>,
    /// Which texts, by their SHA-256.
    pub terms: Vec<Hex<32>>,
    /// What shows it.
    pub evidence: Evidence,
    /// What was said along with it.
    pub attest: Attestation,
    /// SHA-256 of what was shown on the screen.
    pub shown_sha256: Option<Hex<32>>,
}

fn current(terms: &[Document], role: Role) -> Option<&Document> {
    // Timestamps of one form sort by time; of equal ones the later entry counts.
    terms.iter().filter(|text| text.role == role).max_by(|a, b| a.seen_at.cmp(&b.seen_at))
}

fn see(terms: &mut Vec<Document>, found: &Found, now: i64) -> Change {
    let (raw, norm) = (sha256(found.bytes), sha256_norm(found.bytes));
    let at = Date::timestamp(now);
    let same_bytes = terms.iter().position(|text| text.role == found.role && text.sha256_raw == raw);
    let same_words = || {
        norm.and_then(|norm| terms.iter().position(|text| text.role == found.role && text.sha256_norm == Some(norm)))
    };
    if let Some(idx) = same_bytes.or_else(same_words) {
        terms[idx].seen_at = at;
        return if same_bytes.is_some() { Change::None } else { Change::SameWords };
    }
    let before = current(terms, found.role).map(|text| text.sha256_raw);
    terms.push(Document {
        role: found.role,
        sha256_raw: raw,
        sha256_norm: norm,
        norm: NORM.to_owned(),
        bytes: found.bytes.len() as u64,
        source_url: found.source_url.map(without_signature),
        channel: found.channel,
        retrieved_at: at.clone(),
        seen_at: at,
        http: found.http.clone(),
        incorporated_by_url: found.incorporated_by_url,
    });
    Change::New { role: found.role, sha256: raw, before }
}

/// An address without what follows its path, and without a user's name: signatures and tokens are there.
#[must_use]
pub fn without_signature(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = host.rsplit('@').next().unwrap_or(host);
    format!("{scheme}://{host}{path}")
}

/// What of a text looks like a secret.
fn secret(text: &str) -> Option<&'static str> {
    let is_token = |rest: &str| rest.len() >= 20 && rest.bytes().take(20).all(|byte| byte.is_ascii_alphanumeric());
    if text.match_indices("hf_").any(|(at, found)| is_token(&text[at + found.len()..])) {
        return Some("a token of the hub");
    }
    let lower = text.to_lowercase();
    let signs = ["signature=", "policy=", "key-pair-id=", "x-amz-credential=", "x-amz-security-token="];
    if signs.iter().any(|sign| lower.contains(sign)) {
        return Some("a signed link");
    }
    lower.contains("authorization:").then_some("a header of authorization")
}

/// The record of a model that is kept: the one beside it, or, of a model that came without one, one that begins with the
/// texts among its files, and is written. `now` is in milliseconds after 1970.
///
/// # Errors
/// When it can't be read or written.
pub fn of_model(model: &kept::Model, now: i64) -> Result<(Folder, Record), RecordError> {
    let folder = Folder::of(&model.dir);
    if let Some(record) = folder.read()? {
        return Ok((folder, record));
    }
    let manifest = &model.manifest;
    let mut texts = Vec::new();
    for file in &manifest.files {
        if let Some(role) = Role::of_file(file.path.as_str())
            && let Some(bytes) = read_document(&file.path.below(&model.dir))?
        {
            texts.push((role, bytes));
        }
    }
    let found: Vec<Found> = texts
        .iter()
        .map(|(role, bytes)| Found {
            role: *role,
            bytes,
            source_url: None,
            channel: Channel::Local,
            http: None,
            incorporated_by_url: false,
        })
        .collect();
    let of_text = found.iter().find_map(|found| Licence::of_document(found.bytes));
    let id = manifest.name.to_string();
    let licence = of_text.or_else(|| Licence::of_name(&id));
    let about = Model {
        vendor: manifest.name.owner.clone(),
        id,
        revision: manifest.revision.clone(),
        manifest_sha256: Some(manifest.root()),
    };
    let record = Record::start(about, licence, None, &found, now)?;
    texts.iter().try_for_each(|(_, bytes)| folder.keep(bytes).map(drop))?;
    folder.write(&record)?;
    Ok((folder, record))
}

/// Where the record of a model lies, with the exact bytes of its texts: the folder `.puna` in the model's.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// That of the model in `dir`.
    #[must_use]
    pub fn of(dir: &Path) -> Folder {
        Folder(dir.join(RECORDS))
    }

    /// A folder of any name.
    #[must_use]
    pub fn at(dir: &Path) -> Folder {
        Folder(dir.to_owned())
    }

    /// Where the record is.
    #[must_use]
    pub fn record_path(&self) -> PathBuf {
        self.0.join(RECORD)
    }

    /// Where a text is.
    #[must_use]
    pub fn document_path(&self, hash: Hex<32>) -> PathBuf {
        self.0.join(TERMS).join(hash.to_string())
    }

    /// The record. `None` if there is none.
    ///
    /// # Errors
    /// When it can't be read, or is none.
    pub fn read(&self) -> Result<Option<Record>, RecordError> {
        let Some(json) = disk::read_bounded(&self.record_path(), MAX_RECORD)? else { return Ok(None) };
        Record::parse(&json).map(Some)
    }

    /// Writes the record in place of an older one: whoever reads finds one of the two.
    ///
    /// # Errors
    /// When it can't be written, or something in it looks like a secret.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let json = record.to_json()?;
        disk::make_dir(&self.0)?;
        Ok(write_file(&self.record_path(), &json)?)
    }

    /// Keeps the bytes of a text.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn keep(&self, bytes: &[u8]) -> Result<Hex<32>, RecordError> {
        let hash = sha256(bytes);
        let path = self.document_path(hash);
        // A damaged one gives way to the right one.
        if !matches!(self.document(hash), Ok(Some(_))) {
            disk::make_dir(&self.0.join(TERMS))?;
            write_file(&path, bytes)?;
        }
        Ok(hash)
    }

    /// The bytes of a text. `None` if they are not here.
    ///
    /// # Errors
    /// When they can't be read, or are not what they were.
    pub fn document(&self, hash: Hex<32>) -> Result<Option<Vec<u8>>, RecordError> {
        let path = self.document_path(hash);
        let Some(bytes) = read_document(&path)? else { return Ok(None) };
        let found = sha256(&bytes);
        if found != hash {
            return Err(RecordError::Damaged { path, expected: hash, found });
        }
        Ok(Some(bytes))
    }
}

/// A text of at most [`MAX_DOCUMENT`] bytes, if there is a file of this name.
///
/// # Errors
/// When it can't be read, or is longer.
pub fn read_document(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    Ok(disk::read_bounded(path, MAX_DOCUMENT)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 28 November 2026.
    const NOW: i64 = 1_795_896_960_000;
    const AGREEMENT: &[u8] = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nUse “it” well.".as_bytes();
    const POLICY: &[u8] = b"Llama 3.1 Acceptable Use Policy";

    fn found(role: Role, bytes: &[u8]) -> Found<'_> {
        Found {
            role,
            bytes,
            source_url: Some("https://user:pw@example.com/LICENSE?Policy=x&Signature=y#z"),
            channel: Channel::Hf,
            http: None,
            incorporated_by_url: role == Role::UsePolicy,
        }
    }

    fn record() -> Record {
        let model = Model {
            vendor: "meta-llama".into(),
            id: "Llama-3.1-8B".into(),
            revision: "0e9e39f2".into(),
            manifest_sha256: None,
        };
        let licensee = Licensee {
            kind: LicenseeKind::Person,
            name: Some("Ada".into()),
            region: Some(Region::try_from("DE".to_owned()).unwrap()),
            authority: Authority::Oneself,
        };
        let found = [found(Role::Agreement, AGREEMENT), found(Role::UsePolicy, POLICY)];
        Record::start(model, Licence::of_id("llama3.1"), Some(licensee), &found, NOW).unwrap()
    }

    fn acceptance(texts: &[&[u8]]) -> NewAcceptance {
        NewAcceptance {
            kind: AcceptanceKind::LocalPrompt,
            server_date: None,
            skew_s: None,
            terms: texts.iter().map(|bytes| sha256(bytes)).collect(),
            evidence: Evidence { hub_user: Some("ada".into()), ..Evidence::default() },
            attest: Attestation { mau_gt_700m: Some(false), ..Attestation::default() },
            shown_sha256: None,
        }
    }

    #[test]
    fn from_the_first_text_to_the_first_weight() {
        let mut record = record();
        assert_eq!(record.licence.licensor.as_deref(), Some("Meta Platforms Ireland Limited"));
        assert_eq!(record.licence.rules.as_deref(), Some("llama-3.1-community@1"));
        assert_eq!(record.terms[0].source_url.as_deref(), Some("https://example.com/LICENSE"));
        assert_eq!(record.known_licence().unwrap().id, "llama3.1");
        assert_eq!(record.unaccepted().len(), 2);
        let refused = record.check_fetch().unwrap_err().to_string();
        assert!(refused.contains("its agreement") && refused.contains("puna terms accept"), "{refused}");
        let accepted = record.accept(acceptance(&[AGREEMENT, POLICY]), NOW).unwrap();
        assert_eq!((accepted.id.as_str(), accepted.at.as_str()), ("a1", "2026-11-28T20:16:00.000Z"));
        record.check_fetch().unwrap();

        let none = Record::start(record.model.clone(), Licence::of_id("llama3.1"), None, &[], NOW).unwrap();
        assert!(matches!(none.check_fetch(), Err(RecordError::NoAgreement(_))));
        assert_eq!(none.licence.licensor, None);
        let unknown = Record::start(record.model.clone(), None, None, &[], NOW).unwrap();
        assert_eq!(unknown.status.state, StatusState::Unknown);
        assert!(matches!(unknown.check_fetch(), Err(RecordError::NoAgreement(_))));
        Record::start(record.model.clone(), Licence::of_id("apache-2.0"), None, &[], NOW)
            .unwrap()
            .check_fetch()
            .unwrap();
    }

    #[test]
    fn what_can_not_be_accepted() {
        let mut record = record();
        let refused = |record: &mut Record, new| record.accept(new, NOW).unwrap_err();
        assert!(matches!(refused(&mut record, acceptance(&[b"other"])), RecordError::UnknownTerms(..)));
        assert!(matches!(refused(&mut record, acceptance(&[POLICY])), RecordError::NoAgreementAccepted(_)));
        assert!(matches!(refused(&mut record, acceptance(&[])), RecordError::NoAgreementAccepted(_)));
        let mut many = acceptance(&[AGREEMENT]);
        many.attest.mau_gt_700m = Some(true);
        assert!(matches!(refused(&mut record, many), RecordError::TooManyUsers(_)));
        record.set_status(StatusState::Terminated, Some("breach, said Meta".into()), NOW);
        let ended = refused(&mut record, acceptance(&[AGREEMENT])).to_string();
        assert!(ended.contains("ended on 2026-11-28T20:16:00.000Z (breach, said Meta)"), "{ended}");
        assert!(record.check_active().is_err() && record.check_fetch().is_err());
        assert!(record.acceptances.is_empty());
    }

    #[test]
    fn terms_that_change_are_added_and_ask() {
        let mut record = record();
        record.accept(acceptance(&[AGREEMENT, POLICY]), NOW).unwrap();
        let other_bytes = "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT \r\nUse \"it\" well.\n".as_bytes();
        let changes = record.refresh(&[found(Role::Agreement, other_bytes)], NOW + 1000).unwrap();
        assert_eq!(changes, [Change::SameWords]);
        assert_eq!(record.terms.len(), 2);
        assert!(record.unaccepted().is_empty());
        assert_eq!(record.terms[0].seen_at, "2026-11-28T20:16:01.000Z");

        let new = b"Llama 3.1 Acceptable Use Policy, second version";
        let before = record.clone();
        let changes = record.refresh(&[found(Role::UsePolicy, new)], NOW + 2000).unwrap();
        let expected = Change::New { role: Role::UsePolicy, sha256: sha256(new), before: Some(sha256(POLICY)) };
        assert_eq!(changes, [expected]);
        assert_eq!(record.terms[..2], before.terms);
        assert_eq!(record.acceptances, before.acceptances);
        assert_eq!(record.unaccepted()[0].sha256_raw, sha256(new));
        record.accept(acceptance(&[new]), NOW + 3000).unwrap();
        assert_eq!(record.acceptances[1].id, "a2");
        record.check_fetch().unwrap();
        // The old one is back.
        assert_eq!(record.refresh(&[found(Role::UsePolicy, POLICY)], NOW + 4000).unwrap(), [Change::None]);
        assert_eq!(record.current(Role::UsePolicy).unwrap().sha256_raw, sha256(POLICY));
        assert!(record.unaccepted().is_empty());
    }

    #[test]
    fn observations_are_kept_while_they_differ() {
        let mut record = record();
        let mut see = |state, http, now| record.observe(state, http, None, false, now).unwrap();
        see(Upstream::Available, Some(200), NOW);
        see(Upstream::Available, Some(200), NOW + 1000);
        see(Upstream::Gone, Some(404), NOW + 2000);
        see(Upstream::Available, Some(200), NOW + 3000);
        let seen: Vec<_> =
            record.upstream.iter().map(|seen| (seen.state, &seen.at[17..22], &seen.last_at[17..22])).collect();
        let expected = [
            (Upstream::Available, "00.00", "01.00"),
            (Upstream::Gone, "02.00", "02.00"),
            (Upstream::Available, "03.00", "03.00"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn exports_have_no_person_in_them() {
        let mut record = record();
        record.accept(acceptance(&[AGREEMENT]), NOW).unwrap();
        let json = String::from_utf8(record.to_json().unwrap()).unwrap();
        assert!(json.contains("Ada") && json.contains("\"ada\""));
        let redacted = String::from_utf8(record.redacted().to_json().unwrap()).unwrap();
        assert!(!redacted.to_lowercase().contains("ada\""), "{redacted}");
        assert!(redacted.contains("local_prompt") && redacted.contains(&sha256(AGREEMENT).to_string()));
    }

    #[test]
    fn secrets_are_not_written() {
        for (reason, what) in [
            ("hf_abcdefghijklmnopqrstuvwx", "a token of the hub"),
            ("https://llama3-1.llamameta.net/*?Policy=abc", "a signed link"),
            ("authorization: Bearer x", "a header of authorization"),
        ] {
            let mut record = record();
            record.set_status(StatusState::Unknown, Some(reason.into()), NOW);
            assert!(matches!(record.to_json(), Err(RecordError::Secret(found)) if found == what));
        }
        assert_eq!(secret("hf_hub, use_policy.md"), None);
    }

    #[test]
    fn records_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::of(dir.path());
        assert_eq!(folder.read().unwrap(), None);
        let mut record = record();
        record.accept(acceptance(&[AGREEMENT, POLICY]), NOW).unwrap();
        folder.write(&record).unwrap();
        folder.write(&record).unwrap();
        assert_eq!(folder.read().unwrap(), Some(record));
        let hash = folder.keep(AGREEMENT).unwrap();
        assert_eq!(folder.document(hash).unwrap().as_deref(), Some(AGREEMENT));
        assert_eq!(folder.document(sha256(b"other")).unwrap(), None);
        std::fs::write(folder.document_path(hash), "damaged").unwrap();
        assert!(matches!(folder.document(hash), Err(RecordError::Damaged { .. })));
        folder.keep(AGREEMENT).unwrap();
        assert_eq!(folder.document(hash).unwrap().as_deref(), Some(AGREEMENT));
        std::fs::write(folder.record_path(), vec![b' '; MAX_RECORD as usize + 1]).unwrap();
        assert!(folder.read().unwrap_err().to_string().contains("found more"));
    }

    #[test]
    fn documents_by_their_names() {
        for (file, expected) in [
            ("LICENSE", Some(DocumentKind::Licence)),
            ("licence.txt", Some(DocumentKind::Licence)),
            ("Notice", Some(DocumentKind::Notice)),
            ("NOTICE.md", Some(DocumentKind::Notice)),
            ("Llama-3.1-8B-Q8_0.LICENSE", Some(DocumentKind::Licence)),
            ("llama3.1.LICENSE", Some(DocumentKind::Licence)),
            ("USE_POLICY.md", Some(DocumentKind::UsePolicy)),
            ("README.md", Some(DocumentKind::Card)),
            ("notices", None),
            ("NOTICE.pdf", None),
            ("LICENSE-MIT", Some(DocumentKind::Licence)),
            ("LICENSES", None),
        ] {
            assert_eq!(DocumentKind::of_file(file), expected, "{file}");
        }
    }

    #[test]
    fn records_that_are_none() {
        let json = String::from_utf8(record().to_json().unwrap()).unwrap();
        for (from, to, part) in [
            (FORMAT, "puna.licence/2", "another version of puna"),
            ("\"model\"", "\"mode1\"", "unknown field `mode1`"),
            ("\"DE\"", "\"Germany\"", "capital letters of a country"),
            ("\"channel\": \"hf\"", "\"channel\": \"ftp\"", "unknown variant `ftp`"),
        ] {
            let error = Record::parse(json.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let mut long = record();
        long.terms = vec![long.terms[0].clone(); MAX_ENTRIES + 1];
        let error = Record::parse(&serde_json::to_vec(&long).unwrap()).unwrap_err();
        assert!(matches!(error, RecordError::TooMany { list: "terms", .. }));
        let deep = "[".repeat(100_000);
        assert!(matches!(Record::parse(deep.as_bytes()), Err(RecordError::Json(_))));
    }

    proptest! {
        #[test]
        fn no_record_makes_it_panic(at in 0usize..2000, byte: u8, cut: bool) {
            let mut record = record();
            record.accept(acceptance(&[AGREEMENT]), NOW).unwrap();
            let mut json = record.to_json().unwrap();
            let at = at % json.len();
            if cut { json.truncate(at) } else { json[at] = byte }
            if let Ok(read) = Record::parse(&json) {
                // Whatever is accepted can be used, and written.
                let _ = (read.unaccepted().len(), read.check_fetch().is_ok(), read.redacted());
                let again = serde_json::to_vec(&read).unwrap();
                prop_assert_eq!(Record::parse(&again).unwrap(), read);
            }
        }

        #[test]
        fn addresses_keep_no_signature(path in "[a-z/*]{0,9}", query in "[a-zA-Z=&?#@:/]{0,20}") {
            let url = without_signature(&format!("https://u:p@example.com/{path}?{query}"));
            prop_assert_eq!(url, format!("https://example.com/{path}"));
        }
    }
}
