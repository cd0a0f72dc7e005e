//! Downloads files into a folder: several at once, each by several ranges, and goes on where another run was stopped.
//!
//! A file gets its name when it is complete, is on the disk, and is what its publisher says. Until then it lies in a folder
//! of parts, with a journal of the groups of [`tree`](crate::tree) that are there. Dropping the future of a download
//! stops it; whatever was claimed is kept.
//!
//! What a server says of a file is compared with what its publisher said. Where both say nothing, or different things,
//! the download ends and says so.

mod disk;
mod file;
mod pace;
mod part;
mod remote;

pub use disk::{Disk, FileSystem};

use crate::digest::{Hex, Published};
use crate::disk::DiskError;
use crate::http::{Answer, Credential, Hops, Http, HttpError, Request, Url};
use crate::manifest::{ManifestError, check_paths};
use crate::path::SafePath;
use crate::tree::{GROUP, Tree, n_groups, node};
use futures_util::future::BoxFuture;
use pace::Pace;
use std::collections::{BTreeMap, HashMap};
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The folder of parts, in the folder that is downloaded into. It has nothing that a finished model needs.
pub const FOLDER: &str = ".puna-parts";

/// No file of a model is larger, in bytes: the hub's limit is half of it.
pub const MAX_FILE: u64 = 1 << 40;

/// Groups that may be written and not be synced yet, for each connection: 16 MiB, which is what a killed download loses.
const UNCLAIMED: usize = 4;

/// A file to download.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is called, for whoever locates it and in the folder.
    pub path: SafePath,
    /// Its size in bytes as its publisher has it.
    pub size: Option<u64>,
    /// Its hash as its publisher has it.
    pub published: Option<Published>,
    /// The nodes that it must have, if they are known: then damage is noticed, and repaired, group by group.
    pub tree: Option<Arc<Tree>>,
}

/// Where a file's bytes are now.
#[derive(Clone, Debug)]
pub struct Location {
    /// The address; it may be signed, and good for some time only.
    pub url: Url,
    /// What the address needs.
    pub credential: Option<Credential>,
    /// The file's size in bytes, if that is said.
    pub size: Option<u64>,
    /// What differs between versions of the file, an `ETag` for instance.
    pub version: Option<String>,
    /// Whether `version` is the `ETag` that the address itself answers with.
    pub same_tag: bool,
}

/// Why a file can't be located. It says which file.
pub type LocateError = Box<dyn std::error::Error + Send + Sync>;

/// Knows where files are. It is asked again when an address is good for nothing any more.
pub trait Locate: Send + Sync {
    /// Where the file is now.
    ///
    /// # Errors
    /// When it is nowhere, or not for whoever asks.
    fn locate<'a>(&'a self, path: &'a SafePath) -> BoxFuture<'a, Result<Location, LocateError>>;
}

/// A file that was downloaded: it is in the folder, synced, and what its publisher says, if he said anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What it is called.
    pub path: SafePath,
    /// In bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Hex<32>,
    /// Its BLAKE3, and the nodes.
    pub tree: Tree,
}

/// What happens during a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another program downloads into the folder: it is waited for.
    Locked,
    /// A file is looked for, and what an earlier run left of it.
    Looks {
        /// Which.
        path: &'a SafePath,
    },
    /// What is on the disk of a file is read and hashed.
    Checks {
        /// Which.
        path: &'a SafePath,
    },
    /// A file begins.
    Begins {
        /// Which.
        path: &'a SafePath,
        /// Its size in bytes.
        size: u64,
    },
    /// Bytes are there from an earlier run, and are what they were.
    Kept {
        /// Of which file.
        path: &'a SafePath,
        /// How many.
        bytes: u64,
    },
    /// Bytes came.
    Received {
        /// Of which file.
        path: &'a SafePath,
        /// How many.
        bytes: u64,
    },
    /// Bytes that were received or kept are good for nothing.
    Dropped {
        /// Of which file.
        path: &'a SafePath,
        /// How many.
        bytes: u64,
        /// Why.
        why: &'a str,
    },
    /// Something went wrong, and is tried again in some time.
    Waits {
        /// With which file.
        path: Option<&'a SafePath>,
        /// What went wrong.
        why: &'a str,
        /// In how long.
        wait: Duration,
    },
    /// An address was good for nothing any more; the file is located again.
    Relocated {
        /// Which file.
        path: &'a SafePath,
    },
    /// A file is complete.
    Done {
        /// The file.
        done: &'a Done,
    },
}

/// Is told what happens. It must not take long.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

impl<F: Fn(Event<'_>) + Send + Sync> Progress for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}

/// How to download.
#[derive(Clone)]
pub struct Options {
    /// Connections at the same time, over all files. Each takes some 5 MiB of memory.
    pub n_connections: usize,
    /// Files at the same time.
    pub n_files: usize,
    /// Bytes of one request, a multiple of [`GROUP`]: 16 to 64 MiB.
    pub range: u64,
    /// Bytes a second, of all connections together.
    pub bytes_per_second: Option<u64>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options { n_connections: 8, n_files: 4, range: 32 << 20, bytes_per_second: None, disk: Arc::new(FileSystem) }
    }
}

/// Why a download ended. What it had claimed is kept, unless it is said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// Names that no folder can have together.
    #[error(transparent)]
    Names(#[from] ManifestError),
    /// A name that downloads need themselves.
    #[error("{0}: files in {FOLDER} are puna's own; the listing is refused")]
    Reserved(SafePath),
    /// No answer.
    #[error("{path}: {source}; what came is kept, run it again to go on")]
    Http {
        /// Which file.
        path: SafePath,
        /// Why not.
        source: HttpError,
    },
    /// The file is not where it should be.
    #[error(transparent)]
    Locate(LocateError),
    /// A size that is not the one that was said before.
    #[error(
        "{path}: expected {expected} bytes, the server has {found}: it is not the file that was listed; list it again"
    )]
    Size {
        /// Which file.
        path: SafePath,
        /// What was said before.
        expected: u64,
        /// What is said now.
        found: u64,
    },
    /// Nobody says how large a file is.
    #[error("{path}: {host} does not say how many bytes it has, so nobody could tell when it is complete: refused")]
    NoSize {
        /// Which file.
        path: SafePath,
        /// Who does not.
        host: String,
    },
    /// A size that can't be.
    #[error("{path}: expected at most {MAX_FILE} bytes, the server says {size}: refused")]
    TooLarge {
        /// Which file.
        path: SafePath,
        /// Its size, as is said.
        size: u64,
    },
    /// Another version than before.
    #[error(
        "{path}: the file changed on the server while it was downloaded (its tag was {was}, and is {is}): stopped, so that \
         two versions are not mixed; run it again to get the new one"
    )]
    Changed {
        /// Which file.
        path: SafePath,
        /// The earlier tag.
        was: String,
        /// The present one.
        is: String,
    },
    /// A page for people.
    #[error(
        "{path}: {url} sends a web page instead of the file: some networks want a log-in in the browser first, some \
         links are for browsers only"
    )]
    Page {
        /// Which file.
        path: SafePath,
        /// Where from.
        url: String,
    },
    /// A status that says no.
    #[error("{path}: {answer}")]
    Status {
        /// Which file.
        path: SafePath,
        /// Who answered what.
        answer: String,
    },
    /// An answer that is none.
    #[error("{path}: {host} does not speak HTTP as it should: {why}")]
    Protocol {
        /// Which file.
        path: SafePath,
        /// Who.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// A server without ranges that never comes to an end.
    #[error("{path}: gave up: {why}, again and again, and a file in one piece can't be gone on with")]
    NoRanges {
        /// Which file.
        path: SafePath,
        /// The last fault.
        why: String,
    },
    /// All is there, and it is not what its publisher says.
    #[error(
        "{path}: expected {expected}, found {found}: the bytes were damaged on their way, or are not what was published; \
         they were thrown away"
    )]
    Mismatch {
        /// Which file.
        path: SafePath,
        /// The published hash.
        expected: Published,
        /// The hash of what came.
        found: Published,
    },
    /// A range that is damaged each time.
    #[error("{path}: the bytes {from} to {to} come damaged each time: this server's copy is not the one that is known")]
    Damaged {
        /// Which file.
        path: SafePath,
        /// The first byte.
        from: u64,
        /// The one behind the last.
        to: u64,
    },
    /// Not enough room.
    #[error("{dir}: {need} bytes are to come, {free} are free: make room, or choose another folder", dir = .dir.display())]
    Space {
        /// Where.
        dir: PathBuf,
        /// Bytes.
        need: u64,
        /// Bytes.
        free: u64,
    },
    /// The disk filled up.
    #[error("{path}: the disk is full; what came is kept: make room, and run it again to go on", path = .0.display())]
    Full(PathBuf),
    /// The file system failed.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What was written or read.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

impl From<DiskError> for DownloadError {
    fn from(DiskError { path, error, .. }: DiskError) -> DownloadError {
        DownloadError::io(&path)(error)
    }
}

impl DownloadError {
    fn io(path: &Path) -> impl Fn(io::Error) -> DownloadError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DownloadError::Full(path.to_owned()),
            _ => DownloadError::Io { path: path.to_owned(), source },
        }
    }

    fn http(path: &SafePath, source: HttpError) -> DownloadError {
        DownloadError::Http { path: path.clone(), source }
    }
}

/// What all files of a download share.
struct Shared {
    http: Http,
    locate: Arc<dyn Locate>,
    progress: Arc<dyn Progress>,
    disk: Arc<dyn Disk>,
    staging: PathBuf,
    n_connections: usize,
    range_groups: u64,
    connections: Arc<Semaphore>,
    /// Room for groups that were written and are not claimed yet.
    unclaimed: Arc<Semaphore>,
    pace: Pace,
    /// Bytes that are there of each file, kept and received.
    there: Mutex<HashMap<SafePath, u64>>,
}

impl Shared {
    fn new(of: &Downloader, staging: &Path) -> Arc<Shared> {
        let n_connections = of.options.n_connections.clamp(1, 64);
        Arc::new(Shared {
            http: of.http.clone(),
            locate: Arc::clone(&of.locate),
            progress: Arc::clone(&of.progress),
            disk: Arc::clone(&of.options.disk),
            staging: staging.to_owned(),
            n_connections,
            range_groups: (of.options.range / GROUP).max(1),
            connections: Arc::new(Semaphore::new(n_connections)),
            unclaimed: Arc::new(Semaphore::new(n_connections * UNCLAIMED)),
            pace: Pace::new(of.options.bytes_per_second),
            there: Mutex::default(),
        })
    }

    async fn locate(&self, path: &SafePath) -> Result<Location, DownloadError> {
        self.locate.locate(path).await.map_err(DownloadError::Locate)
    }

    fn begins(&self, path: &SafePath, size: u64) {
        self.there.lock().expect("nothing panics with it").insert(path.clone(), 0);
        self.progress.event(Event::Begins { path, size });
    }

    fn kept(&self, path: &SafePath, bytes: u64) {
        self.add(path, bytes);
        self.progress.event(Event::Kept { path, bytes });
    }

    fn received(&self, path: &SafePath, bytes: u64) {
        self.add(path, bytes);
        self.progress.event(Event::Received { path, bytes });
    }

    fn add(&self, path: &SafePath, n: u64) {
        if let Some(bytes) = self.there.lock().expect("nothing panics with it").get_mut(path) {
            *bytes += n;
        }
    }

    /// All that is there of a file is good for nothing.
    fn restarted(&self, path: &SafePath, why: &str) {
        let bytes = self.there.lock().expect("nothing panics with it").insert(path.clone(), 0).unwrap_or_default();
        self.progress.event(Event::Dropped { path, bytes, why });
    }
}

/// Downloads files from one place.
#[derive(Clone)]
pub struct Downloader {
    /// The client.
    pub http: Http,
    /// Knows where the files are.
    pub locate: Arc<dyn Locate>,
    /// How to download.
    pub options: Options,
    /// Is told what happens.
    pub progress: Arc<dyn Progress>,
}

impl Downloader {
    /// Downloads `items` into the folder `staging`; what is there already is not downloaded again. Gives them in their order.
    ///
    /// # Errors
    /// At the first that goes wrong. What the others have is kept for another run, and so is what that one has, unless it is
    /// damaged.
    pub async fn download(&self, staging: &Path, items: &[Item]) -> Result<Vec<Done>, DownloadError> {
        check_paths(items.iter().map(|item| &item.path))?;
        if let Some(item) = items.iter().find(|item| item.path.folded().split('/').next() == Some(FOLDER)) {
            return Err(DownloadError::Reserved(item.path.clone()));
        }
        if let Some((item, size)) =
            items.iter().find_map(|item| Some((item, item.size.filter(|size| *size > MAX_FILE)?)))
        {
            return Err(DownloadError::TooLarge { path: item.path.clone(), size });
        }
        let folder = part::folder(staging);
        std::fs::create_dir_all(&folder).map_err(DownloadError::io(&folder))?;
        let _lock = lock(&folder.join("lock"), &*self.progress).await?;
        check_space(&*self.options.disk, staging, items)?;
        for dir in items.iter().filter_map(|item| item.path.below(staging).parent().map(Path::to_owned)) {
            std::fs::create_dir_all(&dir).map_err(DownloadError::io(&dir))?;
        }
        let shared = Shared::new(self, staging);
        let mut all: Vec<Option<Done>> = items.iter().map(|_| None).collect();
        let mut waiting = items.iter().cloned().enumerate();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < self.options.n_files.max(1) {
                let Some((idx, item)) = waiting.next() else { break };
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { file::download(shared, item).await.map(|done| (idx, done)) });
            }
            match tasks.join_next().await {
                None => break,
                Some(Ok(Ok((idx, done)))) => all[idx] = Some(done),
                Some(Ok(Err(error))) => {
                    tasks.shutdown().await;
                    return Err(error);
                }
                Some(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => std::future::pending().await,
                },
            }
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// Fetches some groups of a file again, from any copy of it, and gives each to `put` when it is what `tree` says.
    ///
    /// # Errors
    /// When a group comes damaged each time, or can't be got, or `put` fails.
    ///
    /// # Panics
    /// When the file has no such group.
    pub async fn repair(
        &self,
        path: &SafePath,
        tree: &Arc<Tree>,
        groups: &[u64],
        mut put: impl FnMut(u64, &[u8]) -> io::Result<()> + Send,
    ) -> Result<(), DownloadError> {
        struct Checked<'a> {
            tree: &'a Arc<Tree>,
            group: Mutex<Vec<u8>>,
        }

        impl remote::Sink for Checked<'_> {
            async fn put(&self, group_idx: u64, bytes: Vec<u8>) -> Result<remote::Put, DownloadError> {
                if !self.tree.has(group_idx, &node(self.tree.len(), group_idx, &bytes)) {
                    return Ok(remote::Put::Damaged);
                }
                *self.group.lock().expect("nothing panics with it") = bytes;
                Ok(remote::Put::Kept(Vec::new()))
            }
        }

        if tree.len() == 0 {
            return Ok(());
        }
        let shared = Shared::new(self, Path::new(""));
        let remote = remote::Remote::locate(shared, path.clone(), Some(tree.len())).await?;
        for group_idx in groups {
            assert!(*group_idx < n_groups(tree.len()), "a group of the file");
            let checked = Checked { tree, group: Mutex::default() };
            match remote.fetch(*group_idx..group_idx + 1, false, &checked).await {
                Ok(()) => {}
                Err(remote::Stop::Failed(error)) => return Err(error),
                Err(remote::Stop::Restart(why)) => return Err(DownloadError::NoRanges { path: path.clone(), why }),
            }
            let bytes = checked.group.into_inner().expect("nothing panics with it");
            put(*group_idx, &bytes).map_err(DownloadError::io(Path::new(path.as_str())))?;
        }
        Ok(())
    }
}

/// Waits until no other program holds the lock that is a file of this path. Where locks are not to be had, or are none, the owners of parts
/// are enough for a right result, but not for downloading everything only once.
pub(crate) async fn lock(path: &Path, progress: &dyn Progress) -> Result<Option<std::fs::File>, DownloadError> {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(DownloadError::io(path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    progress.event(Event::Locked);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// Refuses what has no room.
fn check_space(disk: &dyn Disk, staging: &Path, items: &[Item]) -> Result<(), DownloadError> {
    let folder = part::folder(staging);
    let need = items.iter().fold(0_u64, |need, item| {
        let is_there = item.path.below(staging).exists();
        let size = item.size.filter(|_| !is_there).unwrap_or_default();
        need.saturating_add(size.saturating_sub(part::allocated(&folder, &item.path)))
    });
    match disk.free(staging).map_err(DownloadError::io(staging))? {
        Some(free) if free < need => Err(DownloadError::Space { dir: staging.to_owned(), need, free }),
        _ => Ok(()),
    }
}

/// Asks an address for its first byte: how large the file is, and where it is in the end.
///
/// # Errors
/// Without an answer, or with one that says no: then the answer is given.
pub async fn probe(http: &Http, url: &Url, credential: Option<&Credential>) -> Result<Location, ProbeError> {
    let request = Request { head: false, url, credential, range: Some((0, 1)), hops: Hops::All };
    let answer = http.ask(&request).await?;
    let size = match answer.status() {
        206 => answer.header("content-range").and_then(remote::content_range).and_then(|(_, _, total)| total),
        200 => answer.header("content-length").and_then(|length| length.trim().parse().ok()),
        // An empty file has no first byte.
        416 if answer.header("content-range") == Some("bytes */0") => Some(0),
        _ => return Err(ProbeError::Denied(Box::new(answer))),
    };
    let version = answer.header("etag").or_else(|| answer.header("last-modified")).map(str::to_owned);
    Ok(Location {
        url: answer.url().clone(),
        credential: credential.cloned(),
        size,
        version,
        same_tag: answer.header("etag").is_some(),
    })
}

/// Why [`probe`] found nothing.
#[derive(thiserror::Error)]
pub enum ProbeError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that says no.
    #[error("{0}")]
    Denied(Box<Answer>),
}

impl std::fmt::Debug for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Files at addresses of their own.
pub struct AtUrls {
    /// The client.
    pub http: Http,
    /// The addresses.
    pub urls: BTreeMap<SafePath, Url>,
}

impl Locate for AtUrls {
    fn locate<'a>(&'a self, path: &'a SafePath) -> BoxFuture<'a, Result<Location, LocateError>> {
        Box::pin(async move {
            let url = self.urls.get(path).ok_or_else(|| format!("{path}: no address is known"))?;
            probe(&self.http, url, None).await.map_err(|error| match error {
                ProbeError::Http(error) => format!("{path}: {error}").into(),
                ProbeError::Denied(answer) => format!(
                    "{path}: {answer}: check the address; if the file is for members only, get it in a browser and use \
                     puna import"
                )
                .into(),
            })
        })
    }
}
