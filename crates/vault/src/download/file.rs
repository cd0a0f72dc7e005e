//! One file: its missing groups fetched by several connections, synced and claimed behind them, hashed in order.
//!
//! ```text
//!  connections  --groups-->  part  --written-->  syncing, then a line of the journal for each
//!                                  --written, without a gap from the beginning-->  SHA-256, what was published
//! ```

use super::part::{self, Claims, Found, Part, Subject};
use super::remote::{Put, Remote, Sink, Stop};
use super::{Done, DownloadError, Event, Item, Shared, check_space};
use crate::digest::{Hasher, Hex};
use crate::tree::{GROUP, Tree, extent, n_groups, node};
use blake3::hazmat::ChainingValue;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

/// How often a file is begun anew, because the server gives no ranges and breaks off.
const MAX_RESTARTS: usize = 5;
/// Blocking writes of one round at a time, at most: more than connections ever have.
const MAX_BUSY: u32 = 1 << 16;
/// Bytes read at a time for hashing.
const READ: usize = 1 << 20;
/// Groups that are hashed before somebody looks whether the download was dropped.
const HASH_GROUPS: u64 = 8;

/// What is kept of a file that is complete, so that it is not read again.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    subject: Subject,
    sha256: Hex<32>,
    root: Hex<32>,
    /// [`Tree::to_bytes`], in hexadecimal digits.
    nodes: String,
    /// When the file was last written, in nanoseconds since 1970.
    modified: u128,
}

/// Downloads a file into the staging folder, if it is not there.
pub(super) async fn download(shared: Arc<Shared>, item: Item) -> Result<Done, DownloadError> {
    let path = item.path.below(&shared.staging);
    shared.progress.event(Event::Looks { path: &item.path });
    let remote = match item.size {
        // Nothing has to be asked for.
        Some(0) => None,
        _ => Some(Remote::locate(Arc::clone(&shared), item.path.clone(), item.size).await?),
    };
    let (size, version) = remote.as_ref().map_or((0, None), |remote| (remote.size, remote.version()));
    let remote = remote.filter(|_| size > 0);
    if item.size.is_none() {
        check_space(&*shared.disk, &shared.staging, &[Item { size: Some(size), ..item.clone() }])?;
    }
    if item.tree.as_ref().is_some_and(|tree| tree.len() != size) {
        let expected = item.tree.as_ref().map_or(0, |tree| tree.len());
        return Err(DownloadError::Size { path: item.path, expected, found: size });
    }
    let subject = Subject::new(&item.path, size, item.published, version);
    shared.begins(&item.path, size);
    if let Some(done) = blocking({
        let (shared, item, subject, path) = (Arc::clone(&shared), item.clone(), subject.clone(), path.clone());
        move || finished(&shared, &item, &subject, &path)
    })
    .await?
    {
        shared.kept(&item.path, size);
        shared.progress.event(Event::Done { done: &done });
        return Ok(done);
    }
    let (part, claims, found) = blocking({
        let (shared, subject) = (Arc::clone(&shared), subject.clone());
        move || Part::open(&part::folder(&shared.staging), &subject, Arc::clone(&shared.disk))
    })
    .await?;
    if matches!(found, Found::Changed) {
        shared.progress.event(Event::Dropped {
            path: &item.path,
            bytes: 0,
            why: "the file has changed since the last time: it is begun anew",
        });
    }
    let file = File { shared: Arc::clone(&shared), part: Arc::new(part), subject, item, path };
    file.run(remote, claims).await
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, DownloadError> + Send + 'static,
) -> Result<T, DownloadError> {
    match spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// A file that an earlier run completed, if it is there.
fn finished(shared: &Shared, item: &Item, subject: &Subject, path: &Path) -> Result<Option<Done>, DownloadError> {
    let Ok(file) = std::fs::File::open(path) else {
        return Ok(None);
    };
    let (len, modified) = file
        .metadata()
        .and_then(|metadata| Ok((metadata.len(), part::modified(&file)?)))
        .map_err(DownloadError::io(path))?;
    let record = std::fs::read(record_path(shared, item)).ok();
    let record = record.and_then(|json| serde_json::from_slice::<Record>(&json).ok());
    if let Some(record) = record.filter(|record| record.subject == *subject) {
        let nodes =
            record.nodes.as_bytes().chunks(64).map(|hex| std::str::from_utf8(hex).ok()?.parse::<Hex<32>>().ok());
        let nodes: Option<Vec<u8>> = nodes.map(|node| Some(node?.0)).collect::<Option<Vec<_>>>().map(|n| n.concat());
        let tree = nodes.and_then(|nodes| Tree::from_bytes(subject.size, record.root, &nodes));
        if let Some(tree) = tree.filter(|_| (len, modified) == (subject.size, record.modified)) {
            return Ok(Some(Done { path: item.path.clone(), size: len, sha256: record.sha256, tree }));
        }
    }
    // It has its name, so it was complete once; but nothing says that it still is, unless its publisher does.
    if item.published.is_none() || len != subject.size {
        std::fs::remove_file(path).map_err(DownloadError::io(path))?;
        return Ok(None);
    }
    shared.progress.event(Event::Checks { path: &item.path });
    let mut hasher = Hasher::new(len, item.published);
    let mut nodes = Vec::new();
    for group_idx in 0..n_groups(len) {
        let (start, group_len) = extent(len, group_idx);
        let mut bytes = vec![0; group_len as usize];
        shared.disk.read(&file, &mut bytes, start).map_err(DownloadError::io(path))?;
        hasher.update(&bytes);
        nodes.push(node(len, group_idx, &bytes));
    }
    match (hasher.finish(), Tree::new(len, nodes)) {
        (Ok(sha256), Some(tree)) => Ok(Some(Done { path: item.path.clone(), size: len, sha256, tree })),
        _ => {
            std::fs::remove_file(path).map_err(DownloadError::io(path))?;
            Ok(None)
        }
    }
}

fn record_path(shared: &Shared, item: &Item) -> PathBuf {
    part::folder(&shared.staging).join(format!("{}.done", part::key(&item.path)))
}

/// A file that is being downloaded.
struct File {
    shared: Arc<Shared>,
    item: Item,
    subject: Subject,
    part: Arc<Part>,
    /// Where it lies when it is complete.
    path: PathBuf,
}

impl File {
    async fn run(self, remote: Option<Remote>, claims: Claims) -> Result<Done, DownloadError> {
        let (claims, hasher, n_hashed) = self.check_claims(claims).await?;
        let (nodes, hasher) = match remote {
            None => (vec![node(0, 0, &[])], hasher),
            Some(remote) => self.fetch(Arc::new(remote), claims, hasher, n_hashed).await?,
        };
        self.shared.progress.event(Event::Checks { path: &self.item.path });
        let file = self;
        blocking(move || file.finish(nodes, hasher)).await
    }

    /// Compares what the journal claims with what is on the disk, and hashes the beginning as far as it is there. Gives
    /// the number of groups that were hashed.
    async fn check_claims(&self, mut claims: Claims) -> Result<(Claims, Hasher, u64), DownloadError> {
        let size = self.subject.size;
        let mut hasher = Hasher::new(size, self.item.published);
        let mut n_hashed = 0;
        if claims.iter().flatten().next().is_none() {
            return Ok((claims, hasher, n_hashed));
        }
        self.shared.progress.event(Event::Checks { path: &self.item.path });
        for first in (0..n_groups(size)).step_by(HASH_GROUPS as usize) {
            let (part, shared, path) = (Arc::clone(&self.part), Arc::clone(&self.shared), self.item.path.clone());
            (claims, hasher, n_hashed) = blocking(move || {
                let mut bytes = Vec::new();
                for group_idx in first..n_groups(size).min(first + HASH_GROUPS) {
                    let claim = &mut claims[group_idx as usize];
                    let Some(claimed) = claim else { continue };
                    let (start, len) = extent(size, group_idx);
                    bytes.resize(len as usize, 0);
                    part.read(&mut bytes, start)?;
                    if node(size, group_idx, &bytes) != *claimed {
                        *claim = None;
                        continue;
                    }
                    shared.kept(&path, len);
                    if n_hashed == group_idx {
                        hasher.update(&bytes);
                        n_hashed += 1;
                    }
                }
                Ok((claims, hasher, n_hashed))
            })
            .await?;
        }
        Ok((claims, hasher, n_hashed))
    }

    async fn fetch(
        &self,
        remote: Arc<Remote>,
        claims: Claims,
        hasher: Hasher,
        n_hashed: u64,
    ) -> Result<(Vec<ChainingValue>, Hasher), DownloadError> {
        let mut why = match self.round(&remote, claims, hasher, n_hashed, false).await {
            Ok(complete) => return Ok(complete),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Restart(why)) => why,
        };
        for _ in 0..MAX_RESTARTS {
            self.shared.restarted(&self.item.path, &format!("{why}: it is begun anew, in one piece"));
            let (part, subject) = (Arc::clone(&self.part), self.subject.clone());
            blocking(move || part.restart(&subject)).await?;
            let claims = vec![None; n_groups(self.subject.size) as usize];
            let hasher = Hasher::new(self.subject.size, self.item.published);
            why = match self.round(&remote, claims, hasher, 0, true).await {
                Ok(complete) => return Ok(complete),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Restart(why)) => why,
            };
        }
        Err(DownloadError::NoRanges { path: self.item.path.clone(), why })
    }

    /// Fetches what is missing. When it ends nothing is written any more.
    async fn round(
        &self,
        remote: &Arc<Remote>,
        claims: Claims,
        hasher: Hasher,
        n_hashed: u64,
        whole: bool,
    ) -> Result<(Vec<ChainingValue>, Hasher), Stop> {
        let shared = &self.shared;
        let queue = if whole {
            std::iter::once(0..claims.len() as u64).collect()
        } else {
            ranges(&claims, shared.range_groups)
        };
        let n_workers = queue.len().min(shared.n_connections);
        let missing = claims.iter().filter(|node| node.is_none()).count();
        let busy = Arc::new(Semaphore::new(MAX_BUSY as usize));
        let round = Arc::new(Round {
            shared: Arc::clone(shared),
            part: Arc::clone(&self.part),
            size: self.subject.size,
            tree: self.item.tree.clone(),
            changed: watch::Sender::new(()),
            busy: Arc::clone(&busy),
            state: Mutex::new(State { front: front(&claims, 0), nodes: claims, missing, queue, written: Vec::new() }),
        });
        let mut tasks: JoinSet<Result<Option<Hasher>, Stop>> = JoinSet::new();
        for _ in 0..n_workers {
            let (round, remote) = (Arc::clone(&round), Arc::clone(remote));
            tasks.spawn(async move { round.work(&remote, whole).await.map(|()| None) });
        }
        let syncing = Arc::clone(&round);
        tasks.spawn(async move { Ok(syncing.claim().await.map(|()| None)?) });
        let hashing = Arc::clone(&round);
        tasks.spawn(async move { Ok(hashing.hash(hasher, n_hashed).await.map(Some)?) });
        let mut hashed = None;
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(hasher)) => hashed = hashed.or(hasher),
                Ok(Err(stop)) => {
                    result = Err(stop);
                    break;
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => std::future::pending().await,
                },
            }
        }
        tasks.shutdown().await;
        let _all = busy.acquire_many(MAX_BUSY).await;
        result?;
        let nodes = std::mem::take(&mut round.lock().nodes).into_iter().collect::<Option<Vec<_>>>();
        Ok((nodes.expect("no worker ended before all was there"), hashed.expect("the hashing ended")))
    }

    fn finish(self, nodes: Vec<ChainingValue>, hasher: Hasher) -> Result<Done, DownloadError> {
        let File { shared, item, subject, part, path } = self;
        let size = subject.size;
        let tree = Tree::new(size, nodes).expect("a node for each group");
        let sha256 = match hasher.finish() {
            Ok(sha256) => sha256,
            Err(found) => {
                part.discard();
                let expected = item.published.expect("only a published hash is missed");
                return Err(DownloadError::Mismatch { path: item.path, expected, found });
            }
        };
        let record = Record {
            subject,
            sha256,
            root: tree.root(),
            nodes: tree.to_bytes().as_chunks::<32>().0.iter().map(|node| Hex(*node).to_string()).collect(),
            modified: part.modified()?,
        };
        let json = serde_json::to_vec(&record).expect("texts and numbers");
        part.write_record(&record_path(&shared, &item), &json)?;
        part.finish(&path)?;
        let done = Done { path: item.path, size, sha256, tree };
        shared.progress.event(Event::Done { done: &done });
        Ok(done)
    }
}

/// Runs of missing groups, none longer than `max`.
fn ranges(claims: &Claims, max: u64) -> VecDeque<Range<u64>> {
    let mut ranges: VecDeque<Range<u64>> = VecDeque::new();
    for group_idx in (0..claims.len() as u64).filter(|idx| claims[*idx as usize].is_none()) {
        match ranges.back_mut() {
            Some(range) if range.end == group_idx && range.end - range.start < max => range.end += 1,
            _ => ranges.push_back(group_idx..group_idx + 1),
        }
    }
    ranges
}

/// The first group from `from` on that is missing.
fn front(claims: &Claims, from: u64) -> u64 {
    let rest = claims.iter().skip(from as usize);
    from + rest.take_while(|node| node.is_some()).count() as u64
}

/// What the tasks of one file share.
struct Round {
    shared: Arc<Shared>,
    part: Arc<Part>,
    size: u64,
    /// What the groups must be, if that is known.
    tree: Option<Arc<Tree>>,
    state: Mutex<State>,
    /// Told of each group that was written.
    changed: watch::Sender<()>,
    /// A permit is held by each write, which goes on when its task is dropped.
    busy: Arc<Semaphore>,
}

struct State {
    /// Of the groups that were written.
    nodes: Claims,
    missing: usize,
    /// All groups before this one are written.
    front: u64,
    queue: VecDeque<Range<u64>>,
    /// What was written and is not claimed yet, with the room that it takes up among such.
    written: Vec<(u64, ChainingValue, OwnedSemaphorePermit)>,
}

impl Round {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with it")
    }

    async fn work(self: Arc<Self>, remote: &Remote, whole: bool) -> Result<(), Stop> {
        loop {
            let connection = Arc::clone(&self.shared.connections).acquire_owned().await.expect("it is never closed");
            let Some(groups) = self.lock().queue.pop_front() else {
                return Ok(());
            };
            remote.fetch(groups, whole, &self).await?;
            drop(connection);
        }
    }

    /// Syncs what was written, and claims it, until all is claimed.
    async fn claim(self: Arc<Self>) -> Result<(), DownloadError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (written, missing) = {
                let mut state = self.lock();
                (std::mem::take(&mut state.written), state.missing)
            };
            if !written.is_empty() {
                let part = Arc::clone(&self.part);
                let busy = Arc::clone(&self.busy).acquire_owned().await.expect("it is never closed");
                blocking(move || {
                    let groups: Vec<(u64, ChainingValue)> =
                        written.iter().map(|(idx, node, _)| (*idx, *node)).collect();
                    let _busy = busy;
                    part.claim(&groups)
                })
                .await?;
            } else if missing == 0 {
                return Ok(());
            } else {
                changed.changed().await.expect("the sender is its own");
            }
        }
    }

    /// Hashes what was written from its beginning, as far as there is no gap, until the end.
    async fn hash(self: Arc<Self>, mut hasher: Hasher, mut group_idx: u64) -> Result<Hasher, DownloadError> {
        let mut changed = self.changed.subscribe();
        let n_groups = n_groups(self.size);
        while group_idx < n_groups {
            changed.borrow_and_update();
            let front = self.lock().front;
            if front == group_idx {
                changed.changed().await.expect("the sender is its own");
                continue;
            }
            let end = front.min(group_idx + HASH_GROUPS);
            let (part, size) = (Arc::clone(&self.part), self.size);
            hasher = blocking(move || {
                let (mut at, end) = (group_idx * GROUP, size.min(end * GROUP));
                let mut bytes = vec![0; READ.min((end - at) as usize)];
                while at < end {
                    let n = bytes.len().min((end - at) as usize);
                    part.read(&mut bytes[..n], at)?;
                    hasher.update(&bytes[..n]);
                    at += n as u64;
                }
                Ok(hasher)
            })
            .await?;
            group_idx = end;
        }
        Ok(hasher)
    }

    fn write(&self, group_idx: u64, bytes: &[u8], permit: OwnedSemaphorePermit) -> Result<bool, DownloadError> {
        let node = node(self.size, group_idx, bytes);
        if self.tree.as_ref().is_some_and(|tree| !tree.has(group_idx, &node)) {
            return Ok(false);
        }
        self.part.write(bytes, group_idx * GROUP)?;
        let mut state = self.lock();
        let claim = &mut state.nodes[group_idx as usize];
        let is_new = claim.replace(node).is_none();
        state.missing -= usize::from(is_new);
        state.front = front(&state.nodes, state.front);
        state.written.push((group_idx, node, permit));
        drop(state);
        self.changed.send_replace(());
        Ok(true)
    }
}

impl Sink for Arc<Round> {
    async fn put(&self, group_idx: u64, bytes: Vec<u8>) -> Result<Put, DownloadError> {
        // Whoever writes faster than the disk syncs waits here.
        let permit = Arc::clone(&self.shared.unclaimed).acquire_owned().await.expect("it is never closed");
        let busy = Arc::clone(&self.busy).acquire_owned().await.expect("it is never closed");
        let round = Arc::clone(self);
        blocking(move || {
            let kept = round.write(group_idx, &bytes, permit)?;
            drop(busy);
            Ok(if kept { Put::Kept(bytes) } else { Put::Damaged })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_missing_groups() {
        let claims = |text: &str| text.chars().map(|c| (c == 'x').then_some([0; 32])).collect::<Claims>();
        let runs = |text| Vec::from(ranges(&claims(text), 3));
        assert_eq!(runs("...."), [0..3, 3..4]);
        assert_eq!(runs("x..x.x"), [1..3, 4..5]);
        assert_eq!(runs("xx"), []);
        assert_eq!(front(&claims("xx.x"), 1), 2);
        assert_eq!(front(&claims("xx"), 0), 2);
    }
}
