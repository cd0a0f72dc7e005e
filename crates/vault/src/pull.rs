//! From a source to a model that is kept: first all that is known without weights, and the terms; then the bytes.
//!
//! The record of the terms is written before the first byte of weights is asked for, and without accepted terms none is.
//! What came of a pull that ended lies in a folder of the store that has its name from what is pulled, so that another
//! one goes on with it, whatever link or token it has.

use crate::catalogue::{Model as Known, Native};
use crate::digest::{Hex, Published, sha256};
use crate::disk::{self, DiskError};
use crate::download::{self, AtUrls, DownloadError, Downloader, Item, Locate};
use crate::http::{Http, HttpError, ServerDate, Token, Url, shown};
use crate::hub::{self, Entry, Hub, HubError, Listing};
use crate::licence::{Declared, Licence};
use crate::manifest::{self, ManifestError, ModelName, checksums};
use crate::meta::{Link, Meta, MetaError};
use crate::model::{Model, split_set};
use crate::path::{PathError, SafePath};
use crate::record::{self, Change, Channel, Evidence, Folder, Found, MAX_DOCUMENT, Record, RecordError, Role};
use crate::source::Source;
use crate::store::{Adopted, Origin, Repair, Staged, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest card of a model that is read, in bytes.
const MAX_CARD: u64 = 4 << 20;

/// How sources are reached.
#[derive(Clone)]
pub struct Access {
    /// The client.
    pub http: Http,
    /// The hub, or a mirror of it: [`hub::ENDPOINT`].
    pub endpoint: String,
    /// What opens the hub's gates.
    pub token: Option<Token>,
}

impl Access {
    pub(crate) fn hub(&self) -> Result<Hub, HubError> {
        Hub::new(self.http.clone(), &self.endpoint, self.token.clone())
    }
}

/// A text that binds whoever has the model, as it was found.
#[derive(Clone, Debug)]
pub struct Text {
    /// What it is.
    pub role: Role,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Where it was found.
    pub source_url: Option<String>,
    /// By which way it came.
    pub channel: Channel,
    /// The commit of the hub that it belongs to.
    pub commit: Option<String>,
}

impl Text {
    pub(crate) fn found(&self) -> Found<'_> {
        let http = self
            .commit
            .as_ref()
            .map(|commit| record::Http { x_repo_commit: Some(commit.clone()), ..record::Http::default() });
        Found {
            role: self.role,
            bytes: &self.bytes,
            source_url: self.source_url.as_deref(),
            channel: self.channel,
            http,
            incorporated_by_url: false,
        }
    }
}

/// What a pull brings, found out without a byte of weights.
pub struct Plan {
    /// What it will be called.
    pub name: ModelName,
    /// Which version of it: the commit, or of what has none a hash over names, sizes and published hashes.
    pub revision: String,
    /// Where it comes from, as [`Source::parse`] reads it; nothing secret.
    pub source: String,
    /// The files.
    pub items: Vec<Item>,
    /// The terms that were found.
    pub texts: Vec<Text>,
    /// What the source wants its users to know.
    pub warnings: Vec<String>,
    /// Which licence the card declares, where no text tells.
    declared: Option<&'static Licence>,
    /// What shows that the source let the user in.
    evidence: Evidence,
    http: Http,
    locate: Arc<dyn Locate>,
}

/// Weights under one name that are not the same.
#[derive(Clone, Debug)]
pub struct Other {
    /// The model that is kept.
    pub model: Model,
    /// One hash over the weights that are kept: the SHA-256 of the lines that `sha256sum` writes of them.
    pub kept: Hex<32>,
    /// The same over those at the source.
    pub offered: Hex<32>,
}

/// What can't be pulled. What was claimed of a download is kept.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The hub.
    #[error(transparent)]
    Hub(Box<HubError>),
    /// Meta's server.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Some other server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The download.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The terms.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Meta's link alone, which is the same for all models.
    #[error(
        "a link alone does not say which model: write `puna pull meta:MODEL`, with a model such as Llama3.1-8B-Instruct"
    )]
    WhichModel,
    /// No link.
    #[error(
        "{0} comes by a signed link: fill in Meta's form at llama.com, and give the link of its e-mail as PUNA_META_LINK, or \
         where it is asked for"
    )]
    NoLink(String),
    /// A folder or file of this machine.
    #[error("{}: lies on this machine already: take it in with `puna import`", .0.display())]
    Local(PathBuf),
    /// The listing has no such file.
    #[error("{id}: it has no file {path} at {commit}")]
    NoFile {
        /// The repository.
        id: ModelName,
        /// The file.
        path: String,
        /// The commit.
        commit: String,
    },
    /// One file that can't be run alone.
    #[error("{0}: expected a file whose name ends with .gguf: of other forms one file is not a model")]
    NotGguf(SafePath),
    /// Another hash than the catalogue has.
    #[error(
        "{file}: known is the {expected}, and the hub has the {found}: these are not the files that were published, and \
         nothing was fetched"
    )]
    NotAsKnown {
        /// Repository, file and commit.
        file: String,
        /// The known hash.
        expected: Published,
        /// What the hub says.
        found: Published,
    },
    /// A file's name that can't be kept.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It came by another way.
    #[error("{model} came by {found:?}, from where nothing can be fetched again; --repair-from takes a copy")]
    NoSource {
        /// The model.
        model: String,
        /// What its manifest says.
        found: String,
    },
    /// A name that no model can have.
    #[error(transparent)]
    Name(#[from] ManifestError),
    /// It can't be opened as a model.
    #[error("{error}; what came is in {}, and is removed by `puna gc`", dir.display())]
    Model {
        /// What is wrong.
        error: Box<puna_checkpoint::Error>,
        /// Where it lies.
        dir: PathBuf,
    },
}

impl From<HubError> for PullError {
    fn from(error: HubError) -> PullError {
        PullError::Hub(Box::new(error))
    }
}

impl Plan {
    /// Finds out what a source has. `link` is Meta's, where it is needed and not a part of the source.
    ///
    /// # Errors
    /// When it has no model that puna could run, or does not give it to this user.
    pub async fn of(access: &Access, source: &Source, link: Option<Link>) -> Result<Plan, PullError> {
        match source {
            Source::Catalogue(known) => {
                // Where its files are known beforehand, it is those.
                Plan::of_hub(access, &known.repository, known.commit.as_deref(), None, Some(known)).await
            }
            Source::Hub { id, revision, file } => {
                Plan::of_hub(access, id, revision.as_deref(), file.as_ref(), None).await
            }
            Source::Meta { model: Some((known, native)), link: given } => {
                let link = link_of(native, given.as_ref(), link)?;
                Plan::of_meta(access, known, native, link).await
            }
            Source::Meta { model: None, .. } => Err(PullError::WhichModel),
            Source::Url(url) => Plan::of_url(access, url).await,
            Source::Local(path) => Err(PullError::Local(path.clone())),
        }
    }

    async fn of_hub(
        access: &Access,
        id: &ModelName,
        revision: Option<&str>,
        file: Option<&SafePath>,
        known: Option<&Known>,
    ) -> Result<Plan, PullError> {
        let hub = access.hub()?;
        let listing = hub.list(id, revision).await?;
        if let Some(known) = known {
            check_known(&listing, known)?;
        }
        let entries = match file {
            Some(file) => one_of(&listing, file)?,
            None => listing.select()?,
        };
        if listing.gated.is_some() {
            hub.check_access(&listing.id).await?;
        }
        if file.is_none() {
            let config = read(&hub, &listing, "config.json", hub::MAX_CONFIG).await?;
            hub::check_config(&listing.id, &config)?;
        }
        let card = match listing.find("README.md") {
            Some(_) => read(&hub, &listing, "README.md", MAX_CARD).await?,
            None => Vec::new(),
        };
        let declared = Declared::of_card(&String::from_utf8_lossy(&card));
        let name = match file {
            Some(file) => model_of_file(&listing.id.owner, file)?,
            None => listing.id.clone(),
        };
        let source = match file {
            Some(file) => format!("{}/{}/resolve/{}/{file}", hub::ENDPOINT, listing.id, listing.commit),
            None => format!("hf:{}@{}", listing.id, listing.commit),
        };
        Ok(Plan {
            name,
            revision: listing.commit.clone(),
            source,
            items: entries.iter().map(|entry| item_of(entry, &listing, known)).collect(),
            texts: texts_of(&hub, &listing).await?,
            warnings: listing.warnings.clone(),
            declared: declared.ids.iter().find_map(|id| Licence::of_id(id)),
            evidence: Evidence {
                gate: listing.gated.clone(),
                auth_check: listing.gated.is_some().then_some(true),
                ..Evidence::default()
            },
            http: access.http.clone(),
            locate: Arc::new(hub::Files::new(&hub, &listing)),
        })
    }

    async fn of_meta(access: &Access, known: &Known, native: &Native, link: Link) -> Result<Plan, PullError> {
        let evidence = Evidence { meta_link_sha256_prefix: Some(link.fingerprint()), ..Evidence::default() };
        let meta = Meta::new(access.http.clone(), link);
        let files = meta.list(known, native).await?;
        let mut texts = Vec::new();
        for (file, bytes) in meta.terms().await? {
            if let (Some(role), Some(bytes)) = (Role::of_file(file), bytes) {
                let source_url = Some(meta.address(file));
                texts.push(Text { role, bytes, source_url, channel: Channel::Meta, commit: None });
            }
        }
        let items = files.items.clone();
        Ok(Plan {
            name: format!("meta/{}", native.folder).parse()?,
            revision: digest_of(&items),
            source: format!("meta:{}", native.id),
            items,
            texts,
            warnings: Vec::new(),
            declared: Licence::of_id(&known.licence),
            evidence,
            http: access.http.clone(),
            locate: Arc::new(files),
        })
    }

    async fn of_url(access: &Access, url: &Url) -> Result<Plan, PullError> {
        let locate = AtUrls { http: access.http.clone(), urls: addresses(url)? };
        let mut items = Vec::new();
        let mut seen = String::new();
        for path in locate.urls.keys() {
            let location = locate.locate(path).await.map_err(DownloadError::Locate)?;
            seen += &format!("{path} {:?} {:?}\n", location.size, location.version);
            items.push(Item { path: path.clone(), size: location.size, published: None, tree: None });
        }
        let mut texts = Vec::new();
        for file in ["LICENSE", "USE_POLICY.md"] {
            let beside = beside(url, file);
            let bytes = access.http.text(&beside, MAX_DOCUMENT).await?;
            if let (Some(role), Some(bytes)) = (Role::of_file(file), bytes) {
                let source_url = Some(shown(&beside));
                texts.push(Text { role, bytes, source_url, channel: Channel::Web, commit: None });
            }
        }
        let first = items.first().map(|item| item.path.clone()).expect("a file is of a set with itself");
        Ok(Plan {
            name: model_of_file(url.host_str().unwrap_or("web"), &first)?,
            revision: short(sha256(format!("{}\n{seen}", shown(url)).as_bytes())),
            source: shown(url),
            items,
            texts,
            warnings: Vec::new(),
            declared: None,
            evidence: Evidence::default(),
            http: access.http.clone(),
            locate: Arc::new(locate),
        })
    }

    /// Bytes of all files, as far as sizes are known.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().fold(0, |sum: u64, item| sum.saturating_add(item.size.unwrap_or_default()))
    }

    /// Bytes of the weights alone.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let weights = self.items.iter().filter(|item| is_weights(item.path.as_str()));
        weights.fold(0, |sum: u64, item| sum.saturating_add(item.size.unwrap_or_default()))
    }

    /// Which licence it has, by the texts, by what the card declares, or by the model's name.
    #[must_use]
    pub fn licence(&self) -> Option<&'static Licence> {
        let agreements = self.texts.iter().filter(|text| text.role == Role::Agreement);
        let of_text = agreements.filter_map(|text| Licence::of_document(&text.bytes)).next();
        of_text.or(self.declared).or_else(|| Licence::of_name(&self.name.to_string()))
    }

    /// The text of an agreement that the source does not have, from the user's own file.
    pub fn add_agreement(&mut self, bytes: Vec<u8>) {
        let text = Text { role: Role::Agreement, bytes, source_url: None, channel: Channel::Local, commit: None };
        self.texts.push(text);
    }

    /// What shows that the source let the user in.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The clock of the server that was asked, if it tells it.
    #[must_use]
    pub fn server_date(&self) -> Option<ServerDate> {
        self.http.server_date()
    }

    /// The model, if this very revision with these files is kept already.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub fn kept(&self, store: &Store) -> Result<Option<Model>, StoreError> {
        let has_all = |model: &Model| {
            let paths: BTreeSet<&SafePath> = model.manifest.files.iter().map(|file| &file.path).collect();
            self.items.iter().all(|item| paths.contains(&item.path))
        };
        let models = store.list()?.models.into_iter();
        let mut same =
            models.filter(|model| model.manifest.name == self.name && model.manifest.revision == self.revision);
        Ok(same.find(has_all))
    }

    /// A model of this name that is kept, and whose weights are not those at the source.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub fn other_weights(&self, store: &Store) -> Result<Option<Other>, StoreError> {
        let Some(offered) = weights_at_source(&self.items) else { return Ok(None) };
        Ok(store.list()?.models.into_iter().filter(|model| model.manifest.name == self.name).find_map(|model| {
            let kept = weights_kept(&model)?;
            (kept != offered).then_some(Other { model, kept, offered })
        }))
    }

    /// The record of the terms: the one that there is, with what was found now, or a new one. It is written.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn record(&self, store: &Store, now: i64) -> Result<(Folder, Record, Vec<Change>), PullError> {
        store.prepare()?;
        let folder = self.folder(store)?;
        let found: Vec<Found> = self.texts.iter().map(Text::found).collect();
        for text in &self.texts {
            folder.keep(&text.bytes)?;
        }
        let mut changes = Vec::new();
        let record = match folder.read()? {
            Some(mut record) => {
                changes = record.refresh(&found, now)?;
                record
            }
            None => {
                let about = record::Model {
                    vendor: self.name.owner.clone(),
                    id: self.name.to_string(),
                    revision: self.revision.clone(),
                    manifest_sha256: None,
                };
                Record::start(about, self.licence(), None, &found, now)?
            }
        };
        folder.write(&record)?;
        Ok((folder, record, changes))
    }

    /// Fetches what is missing, and keeps the model. What the store has of another model is not fetched again.
    ///
    /// # Errors
    /// When the terms are not in the record of [`Plan::record`] or not accepted, and as [`Downloader::download`] and
    /// [`Store::adopt`]: what came is kept, and the same call goes on.
    pub async fn fetch(
        &self,
        store: &Store,
        options: download::Options,
        progress: Arc<dyn download::Progress>,
        now: i64,
    ) -> Result<Adopted, PullError> {
        let folder = self.folder(store)?;
        folder.read()?.ok_or_else(|| RecordError::NoAgreement(self.name.to_string()))?.check_fetch()?;
        store.prepare()?;
        let staging = self.staging(store);
        // Held until the model is kept: whoever waited for it finds that it is.
        let _lock = download::lock(&staging.with_extension("lock"), &*progress).await?;
        if let Some(model) = self.kept(store)? {
            return Ok(Adopted { model, shared: self.bytes(), copied: 0 });
        }
        disk::make_dir(&staging)?;
        self.link_known(store, &staging)?;
        let downloader = Downloader { http: self.http.clone(), locate: Arc::clone(&self.locate), options, progress };
        let done = downloader.download(&staging, &self.items).await?;
        let opened = match self.items.iter().find(|item| item.path.folded().ends_with(".gguf")) {
            Some(gguf) => gguf.path.below(&staging),
            None => staging.clone(),
        };
        puna_checkpoint::open(&opened)
            .map_err(|error| PullError::Model { error: Box::new(error), dir: staging.clone() })?;
        let staged: Vec<Staged> = done
            .into_iter()
            .map(|done| Staged { at: done.path.below(&staging), path: done.path, sha256: done.sha256, tree: done.tree })
            .collect();
        let origin =
            Origin { name: self.name.clone(), revision: Some(self.revision.clone()), source: self.source.clone() };
        let adopted = store.adopt(&origin, &staged, now)?;
        if let Some(mut record) = folder.read()? {
            record.model.manifest_sha256 = Some(adopted.model.manifest.root());
            folder.write(&record)?;
        }
        // All that it had was moved; what can't be removed `puna gc` will.
        let _ = store.disk().remove_all(&staging);
        Ok(adopted)
    }

    /// Where the record of the terms lies.
    fn folder(&self, store: &Store) -> Result<Folder, StoreError> {
        Ok(Folder::of(&store.model_dir(&self.name, &self.revision)?))
    }

    /// Where files lie until all have come.
    fn staging(&self, store: &Store) -> PathBuf {
        let key = sha256(format!("{}@{}", self.name, self.revision).as_bytes());
        store.partial().join(format!("pull-{}", short(key)))
    }

    /// Gives files that the store has already a name among those that came: they are hashed like all others.
    fn link_known(&self, store: &Store, staging: &Path) -> Result<(), PullError> {
        let mut blobs = BTreeMap::new();
        for model in store.list()?.models {
            blobs.extend(model.manifest.files.iter().map(|file| (file.sha256.0, file.blake3)));
        }
        for item in &self.items {
            let Some(Published::Sha256(hash)) = item.published else { continue };
            let (Some(blob), to) = (blobs.get(&hash.0), item.path.below(staging)) else { continue };
            if to.exists() {
                continue;
            }
            disk::make_dir(to.parent().unwrap_or(staging))?;
            // Where there are no links it is fetched.
            let _ = store.disk().link(&store.blob(*blob), &to);
        }
        Ok(())
    }
}

/// Where a kept model came from.
///
/// # Errors
/// When that is nowhere on the network.
pub fn source_of(model: &Model) -> Result<Source, PullError> {
    Source::parse(&model.manifest.source, |_| false)
        .map_err(|_| PullError::NoSource { model: model.full_name(), found: model.manifest.source.clone() })
}

/// Meta's link to a model: the one of the source, else the one that was asked for.
fn link_of(native: &Native, given: Option<&Link>, asked: Option<Link>) -> Result<Link, PullError> {
    given.cloned().or(asked).ok_or_else(|| PullError::NoLink(native.id.clone()))
}

async fn of_hub(access: &Access, id: &ModelName, revision: Option<&str>) -> Result<Arc<dyn Locate>, PullError> {
    let hub = access.hub()?;
    let listing = hub.list(id, revision).await?;
    Ok(Arc::new(hub::Files::new(&hub, &listing)))
}

/// The source of a kept model, to be asked for parts of its files.
pub struct Again(Downloader);

impl Again {
    /// Looks for it, at [`source_of`] the model. `link` is Meta's, where it is needed.
    ///
    /// # Errors
    /// When the source can't be asked, or does not answer.
    pub async fn of(
        access: &Access,
        source: &Source,
        link: Option<Link>,
        progress: Arc<dyn download::Progress>,
    ) -> Result<Again, PullError> {
        let locate: Arc<dyn Locate> = match source {
            Source::Catalogue(known) => of_hub(access, &known.repository, known.commit.as_deref()).await?,
            Source::Hub { id, revision, .. } => of_hub(access, id, revision.as_deref()).await?,
            Source::Meta { model: Some((known, native)), link: given } => {
                let link = link_of(native, given.as_ref(), link)?;
                Arc::new(Meta::new(access.http.clone(), link).list(known, native).await?)
            }
            Source::Meta { model: None, .. } => return Err(PullError::WhichModel),
            Source::Url(url) => Arc::new(AtUrls { http: access.http.clone(), urls: addresses(url)? }),
            Source::Local(path) => return Err(PullError::Local(path.clone())),
        };
        Ok(Again(Downloader { http: access.http.clone(), locate, options: download::Options::default(), progress }))
    }

    /// Fetches what a repair misses: just those groups, each checked before it is written.
    ///
    /// # Errors
    /// When they can't be had, or are other bytes now.
    pub async fn fetch(&self, repair: &mut Repair<'_>) -> Result<(), PullError> {
        let (path, tree) = (repair.path().clone(), Arc::new(repair.tree().clone()));
        let groups: Vec<u64> = repair.missing().iter().copied().collect();
        let put = |group: u64, bytes: &[u8]| repair.write(group, bytes).map_err(std::io::Error::other);
        Ok(self.0.repair(&path, &tree, &groups, put).await?)
    }
}

/// Where the files of the set are that the GGUF file at an address belongs to.
fn addresses(url: &Url) -> Result<BTreeMap<SafePath, Url>, PullError> {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    let files = set_of(last).into_iter().map(|file| Ok((file.parse()?, beside(url, &file))));
    files.collect()
}

/// The address of a file beside another one.
fn beside(url: &Url, file: &str) -> Url {
    let mut url = url.clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop().push(file);
    }
    url
}

/// Reads a short file of a repository.
async fn read(hub: &Hub, listing: &Listing, path: &str, limit: u64) -> Result<Vec<u8>, PullError> {
    Ok(hub.read(&listing.id, &listing.commit, entry(listing, path)?, limit).await?)
}

/// A file that a listing must have.
fn entry<'l>(listing: &'l Listing, path: &str) -> Result<&'l Entry, PullError> {
    listing.find(path).ok_or_else(|| PullError::NoFile {
        id: listing.id.clone(),
        path: path.to_owned(),
        commit: listing.commit.clone(),
    })
}

/// The terms at the top of a repository.
fn terms_in(listing: &Listing) -> impl Iterator<Item = (&Entry, Role)> {
    let top = listing.files.iter().filter(|file| !file.path.as_str().contains('/'));
    top.filter_map(|file| Some((file, Role::of_file(file.path.as_str())?)))
}

/// The texts of the terms at the top of a repository.
pub(crate) async fn texts_of(hub: &Hub, listing: &Listing) -> Result<Vec<Text>, PullError> {
    let mut texts = Vec::new();
    for (file, role) in terms_in(listing) {
        texts.push(Text {
            role,
            bytes: hub.read(&listing.id, &listing.commit, file, MAX_DOCUMENT).await?,
            source_url: Some(format!("{}/blob/{}/{}", hub.page(&listing.id), listing.commit, file.path)),
            channel: Channel::Hf,
            commit: Some(listing.commit.clone()),
        });
    }
    Ok(texts)
}

/// A GGUF file of a repository, with the others of its set and the terms.
fn one_of(listing: &Listing, file: &SafePath) -> Result<Vec<Entry>, PullError> {
    if !file.folded().ends_with(".gguf") {
        return Err(PullError::NotGguf(file.clone()));
    }
    let set = set_of(file.as_str()).into_iter().map(|path| entry(listing, &path).cloned());
    let mut entries = set.collect::<Result<Vec<Entry>, PullError>>()?;
    entries.extend(terms_in(listing).map(|(file, _)| file.clone()));
    Ok(entries)
}

/// The paths of all files of the set that a GGUF file belongs to: itself, if it is of none.
fn set_of(path: &str) -> Vec<String> {
    match split_set(path) {
        Some((prefix, number, n)) if (1..=n).contains(&number) => (1..=n.min(manifest::MAX_FILES as u64))
            .map(|number| format!("{prefix}-{number:05}-of-{n:05}.gguf"))
            .collect(),
        _ => vec![path.to_owned()],
    }
}

/// What a model that is one GGUF file is called.
fn model_of_file(owner: &str, file: &SafePath) -> Result<ModelName, ManifestError> {
    let name = file.file_name();
    let stem = split_set(name).map_or_else(|| &name[..name.len() - ".gguf".len()], |(prefix, ..)| prefix);
    format!("{owner}/{stem}").parse()
}

/// A file of a listing. The hash that is known beforehand counts: of small files the hub itself has only git's.
fn item_of(entry: &Entry, listing: &Listing, known: Option<&Known>) -> Item {
    let pinned = known.and_then(|known| known.pinned(&listing.commit, &entry.path));
    let published = pinned.map_or(entry.published, |pinned| Published::Sha256(pinned.sha256));
    Item { published: Some(published), ..entry.item() }
}

/// Refuses a listing that differs from what is known of its commit.
fn check_known(listing: &Listing, known: &Known) -> Result<(), PullError> {
    for file in &listing.files {
        let Some(pinned) = known.pinned(&listing.commit, &file.path) else { continue };
        let expected = Published::Sha256(pinned.sha256);
        let differs = match file.published {
            Published::Sha256(_) => file.published != expected,
            // Git's own hash of a small file can't be compared; the file is, when it has come.
            _ => file.size != pinned.size,
        };
        if differs {
            return Err(PullError::NotAsKnown {
                file: format!("{}/{} at {}", listing.id, file.path, listing.commit),
                expected,
                found: file.published,
            });
        }
    }
    Ok(())
}

fn is_weights(path: &str) -> bool {
    [".safetensors", ".gguf", ".pth"].iter().any(|end| path.ends_with(end))
}

/// One hash over the weights of a listing, where all of them have a SHA-256: that of the lines of `sha256sum`.
pub(crate) fn weights_at_source(items: &[Item]) -> Option<Hex<32>> {
    let weights = items.iter().filter(|item| is_weights(item.path.as_str()));
    let hashes = weights.map(|item| match item.published {
        Some(Published::Sha256(hash)) => Some((&item.path, hash)),
        _ => None,
    });
    root_of(hashes.collect::<Option<_>>()?)
}

/// The same over those of a model.
pub(crate) fn weights_kept(model: &Model) -> Option<Hex<32>> {
    let weights = model.manifest.files.iter().filter(|file| is_weights(file.path.as_str()));
    root_of(weights.map(|file| (&file.path, file.sha256)).collect())
}

fn root_of(weights: Vec<(&SafePath, Hex<32>)>) -> Option<Hex<32>> {
    (!weights.is_empty()).then(|| sha256(checksums(weights.into_iter()).as_bytes()))
}

/// What tells one set of files from another.
fn digest_of(items: &[Item]) -> String {
    let mut lines: Vec<String> = items
        .iter()
        .map(|item| {
            let hash = item.published.map(|hash| hash.to_string()).unwrap_or_default();
            format!("{} {:?} {hash}\n", item.path, item.size)
        })
        .collect();
    lines.sort();
    short(sha256(lines.concat().as_bytes()))
}

fn short(hash: Hex<32>) -> String {
    hash.to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SafePath {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_files() {
        let name = |file| model_of_file("a", &path(file)).unwrap().to_string();
        assert_eq!(name("x/Llama-Q4_0.gguf"), "a/Llama-Q4_0");
        assert_eq!(name("Llama-00002-of-00003.gguf"), "a/Llama");
        assert_eq!(set_of("b/x-00002-of-00003.gguf").len(), 3);
        assert_eq!(set_of("b/x-00002-of-00003.gguf")[0], "b/x-00001-of-00003.gguf");
        assert_eq!(set_of("x.gguf"), ["x.gguf"]);
        // A name that lies about itself is one of no set.
        assert_eq!(set_of("x-00004-of-00003.gguf").len(), 1);
        assert_eq!(set_of("x-00001-of-99999.gguf").len(), manifest::MAX_FILES);
    }

    #[test]
    fn weights_are_compared_where_they_can_be() {
        let item = |name: &str, published| Item { path: path(name), size: Some(1), published, tree: None };
        let hash = |byte| Some(Published::Sha256(Hex([byte; 32])));
        let one = [item("a.safetensors", hash(1)), item("config.json", None)];
        let same = [item("b.json", None), item("a.safetensors", hash(1))];
        let other = [item("a.safetensors", hash(2))];
        assert_eq!(weights_at_source(&one), weights_at_source(&same));
        assert_ne!(weights_at_source(&one), weights_at_source(&other));
        assert_eq!(weights_at_source(&[item("a.safetensors", None)]), None);
        assert_eq!(weights_at_source(&[item("config.json", hash(1))]), None);
        assert_eq!(digest_of(&one), digest_of(&[one[1].clone(), one[0].clone()]));
        assert_ne!(digest_of(&one), digest_of(&other));
    }
}
