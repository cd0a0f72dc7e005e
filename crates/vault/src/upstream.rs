//! What has become of the place that a kept model came from: asked and told, and nothing of the model is changed by it.

use crate::digest::Hex;
use crate::download::{Item, ProbeError, probe};
use crate::http::{HttpError, shown};
use crate::hub::{Denial, Entry, HubError};
use crate::manifest::ModelName;
use crate::model::Model;
use crate::pull::{self, Access, PullError, Text};
use crate::record::{Change, Folder, Record, RecordError, Upstream};
use crate::source::Source;

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// In a word.
    pub state: Upstream,
    /// The status of the answer that says so, where it is not 200.
    pub status: Option<u16>,
    /// The hub's own word for it.
    pub code: Option<String>,
    /// What was said in more words.
    pub said: Option<String>,
    /// What the repository is called now, if that is another name.
    pub renamed: Option<ModelName>,
    /// The commit that is there now.
    pub commit: Option<String>,
    /// The hash over the weights that are kept, and over those that are there now, if they are not the same.
    pub other_weights: Option<(Hex<32>, Hex<32>)>,
    /// The terms that are there now.
    pub texts: Vec<Text>,
}

impl Seen {
    fn new(state: Upstream) -> Seen {
        Seen {
            state,
            status: None,
            code: None,
            said: None,
            renamed: None,
            commit: None,
            other_weights: None,
            texts: Vec::new(),
        }
    }

    /// Adds it to the record of the model: the state, and each text that says something else than those that are kept.
    ///
    /// # Errors
    /// When the record can't be written.
    pub fn note(&self, folder: &Folder, record: &mut Record, now: i64) -> Result<Vec<Change>, RecordError> {
        for text in &self.texts {
            folder.keep(&text.bytes)?;
        }
        let found: Vec<_> = self.texts.iter().map(Text::found).collect();
        let changes = record.refresh(&found, now)?;
        let changed = changes.iter().any(|change| matches!(change, Change::New { .. }));
        record.observe(self.state, self.status, self.code.clone(), changed, now)?;
        folder.write(record)?;
        Ok(changes)
    }
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// It came from this machine.
    #[error("{model} came by {found:?}: there is nobody to ask; --source hf:owner/name says where it is published")]
    NoSource {
        /// The model.
        model: String,
        /// What its manifest says.
        found: String,
    },
    /// It came by a link that is not kept.
    #[error("{0} came by a signed link, which is not kept: nobody can be asked without a new one")]
    Link(String),
    /// An answer that makes no sense, or terms that can't be had.
    #[error(transparent)]
    Pull(#[from] PullError),
}

/// Asks the place that a model came from, or `source` instead of it.
///
/// # Errors
/// When there is nobody to ask, or the answer makes no sense. That nobody answers, or says no, is none: it is seen.
pub async fn look(access: &Access, model: &Model, source: Option<&Source>) -> Result<Seen, UpstreamError> {
    let manifest = &model.manifest;
    let parsed = match source {
        Some(source) => source.clone(),
        None => Source::parse(&manifest.source, |_| false)
            .map_err(|_| UpstreamError::NoSource { model: model.full_name(), found: manifest.source.clone() })?,
    };
    match parsed {
        Source::Catalogue(known) => at_hub(access, model, &known.repository).await,
        Source::Hub { id, .. } => at_hub(access, model, &id).await,
        Source::Url(url) => match probe(&access.http, &url, None).await {
            Ok(location) => {
                let was: u64 = manifest
                    .files
                    .iter()
                    .find(|file| url.path().ends_with(file.path.file_name()))
                    .map_or(0, |file| file.size);
                let mut seen = Seen::new(Upstream::Available);
                seen.said = location
                    .size
                    .filter(|size| *size != was)
                    .map(|size| format!("{} has {size} bytes now, and had {was}", shown(&url)));
                Ok(seen)
            }
            Err(ProbeError::Http(error)) => Ok(unreachable(&error)),
            Err(ProbeError::Denied(answer)) => {
                let state = match answer.status() {
                    404 | 410 => Upstream::Gone,
                    _ => Upstream::AccessBlocked,
                };
                Ok(Seen { status: Some(answer.status()), said: Some(answer.to_string()), ..Seen::new(state) })
            }
        },
        Source::Meta { .. } => Err(UpstreamError::Link(model.full_name())),
        Source::Local(_) => Err(UpstreamError::NoSource { model: model.full_name(), found: manifest.source.clone() }),
    }
}

async fn at_hub(access: &Access, model: &Model, id: &ModelName) -> Result<Seen, UpstreamError> {
    match ask(access, model, id).await {
        Ok(seen) => Ok(seen),
        Err(PullError::Hub(error)) => match *error {
            HubError::Denied { denial, status, code, said, .. } => {
                let said = Some(said).filter(|said| !said.is_empty());
                Ok(Seen { status: Some(status), code, said, ..Seen::new(state_of(denial)) })
            }
            HubError::Http(error) => Ok(unreachable(&error)),
            error => Err(PullError::from(error).into()),
        },
        Err(error) => Err(error.into()),
    }
}

async fn ask(access: &Access, model: &Model, id: &ModelName) -> Result<Seen, PullError> {
    let hub = access.hub()?;
    let listing = hub.list(id, None).await?;
    let mut seen = Seen::new(Upstream::Available);
    seen.renamed = (listing.id != *id).then(|| listing.id.clone());
    if seen.renamed.is_some() {
        seen.state = Upstream::Renamed;
    }
    seen.commit = Some(listing.commit.clone());
    let is_kept = |path: &str| model.manifest.files.iter().any(|file| file.path.as_str() == path);
    // Of a repository of many GGUF files those that are kept.
    let items: Vec<Item> = match listing.select() {
        Ok(entries) => entries.iter().map(Entry::item).collect(),
        Err(_) => listing.files.iter().filter(|file| is_kept(file.path.as_str())).map(Entry::item).collect(),
    };
    if let (Some(kept), Some(there)) = (pull::weights_kept(model), pull::weights_at_source(&items)) {
        seen.other_weights = (kept != there).then_some((kept, there));
    }
    // The listing may be open to all where the files are not.
    if listing.gated.is_some() {
        hub.check_access(&listing.id).await?;
    }
    seen.texts = pull::texts_of(&hub, &listing).await?;
    Ok(seen)
}

fn unreachable(error: &HttpError) -> Seen {
    Seen { said: Some(error.to_string()), ..Seen::new(Upstream::Unreachable) }
}

fn state_of(denial: Denial) -> Upstream {
    match denial {
        Denial::NoToken | Denial::NotAsked | Denial::Waiting => Upstream::Gated,
        Denial::BadToken | Denial::NarrowToken | Denial::Refused => Upstream::AccessBlocked,
        Denial::Disabled => Upstream::Disabled,
        Denial::Missing | Denial::NoRevision | Denial::NoEntry => Upstream::Gone,
        Denial::Unclear | Denial::Other(_) => Upstream::Unclear,
    }
}
