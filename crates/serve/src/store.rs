//! The store of a server: a handle that any number of tasks may have, and one thread that has the database.
//!
//! Nothing that a request waits for on its way waits for the disk: keys are checked in memory, and usage is handed over
//! and written in batches. Everything else is a call that the thread works off in turn, and a [`Reply`] to await. Keys
//! that are made or revoked by another process are noticed within [`KEYS_DELAY`]: SQLite's `data_version` says whether
//! another connection has written, at the price of a look into shared memory, and of a file with a log beside it the
//! time of its last change would say nothing.

mod reply;

pub use reply::Reply;

use crate::database::{Database, Error};
use crate::keys::{Refusal, Ring, Verified};
use crate::time::Time;
use crate::usage::{self, Record};
use reply::Promise;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the thread looks whether another process has made or revoked keys.
pub const KEYS_DELAY: Duration = Duration::from_secs(1);

/// Usage is written when its oldest record has waited so long …
pub const BATCH_DELAY: Duration = Duration::from_secs(1);

/// … or so many records are waiting.
const BATCH: usize = 512;

/// So many records wait at most while they can't be written. Those beyond are counted as lost.
pub const MAX_RECORDS: usize = 1 << 16;

/// So many calls wait at most. Those beyond are refused.
pub const MAX_CALLS: usize = 1024;

/// A handle of the store. With the last one dropped, all calls are answered, all usage is written, and the thread ends.
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Calls that have not begun.
    pub waiting_calls: usize,
    /// Usage records that are not written yet.
    pub waiting_records: usize,
    /// Usage records that never will be.
    pub lost_records: u64,
    /// Why the last attempt to write usage failed, if it did.
    pub usage_fault: Option<String>,
    /// Why the last attempt to read the keys failed, if it did: those that were revoked since then still work.
    pub keys_fault: Option<String>,
}

/// A call. What it gives is handed over after all else that it causes is done.
type Call = Box<dyn FnOnce(&mut Database) -> Box<dyn FnOnce() + Send> + Send>;

struct Shared {
    queue: Mutex<Queue>,
    /// Something is in the queue.
    wake: Condvar,
    ring: RwLock<Arc<Ring>>,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    records: Vec<Record>,
    /// When the records are to be written at the latest.
    due: Option<Instant>,
    /// Whoever waits for all records that are there.
    flushes: Vec<Promise<()>>,
    lost_records: u64,
    usage_fault: Option<String>,
    keys_fault: Option<String>,
    closing: bool,
}

/// What the thread does next.
struct Turn {
    call: Option<Call>,
    records: Vec<Record>,
    flushes: Vec<Promise<()>>,
    is_last: bool,
}

impl Store {
    /// Opens the database, or makes it, and starts the thread.
    ///
    /// # Errors
    /// When the database can't be opened (see [`Database::open`]) or its keys can't be read.
    pub fn open(path: &Path) -> Result<Store, Error> {
        let mut database = Database::open(path)?;
        let seen = database.version_of_others()?;
        let ring = RwLock::new(Arc::new(Ring::load(&mut database)?));
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), ring });
        let worker = Worker { shared: Arc::clone(&shared), database, seen, is_stale: false };
        let started = thread::Builder::new().name("store".to_owned()).spawn(move || worker.work());
        let thread = started.map_err(|error| Error::Io { path: path.to_owned(), error })?;
        Ok(Store(Arc::new(Handle { shared, thread: Some(thread) })))
    }

    /// Which key this is, if it works now. Takes microseconds.
    ///
    /// # Errors
    /// When no key is like this, or it was revoked, or has expired.
    pub fn verify(&self, presented: &str, now: Time) -> Result<Verified, Refusal> {
        self.keys().verify(presented, now)
    }

    /// All keys, as they were last seen.
    #[must_use]
    pub fn keys(&self) -> Arc<Ring> {
        Arc::clone(&self.0.shared.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands over a record of usage. Takes microseconds; it is written a little later, or counted as lost if it can't
    /// be and [`MAX_RECORDS`] are waiting.
    pub fn record(&self, record: Record) {
        let mut queue = self.0.shared.queue();
        if queue.records.len() >= MAX_RECORDS {
            queue.lost_records += 1;
            return;
        }
        queue.records.push(record);
        if queue.due.is_none() {
            queue.due = Some(Instant::now() + BATCH_DELAY);
        }
        if queue.records.len() == 1 || queue.records.len() == BATCH {
            self.0.shared.wake.notify_one();
        }
    }

    /// Waits until all usage that was handed over before is written. Then it survives whatever happens.
    pub fn flush(&self) -> Reply<()> {
        let (promise, reply) = reply::channel();
        self.0.shared.queue().flushes.push(promise);
        self.0.shared.wake.notify_one();
        reply
    }

    /// Lets the thread do something with the database: a function of [`crate::history`], [`crate::responses`],
    /// [`crate::keys`] or [`crate::usage`].
    ///
    /// The reply fails with [`Error::Busy`] where [`MAX_CALLS`] are waiting.
    pub fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, Error> + Send + 'static,
    ) -> Reply<T> {
        let (promise, reply) = reply::channel();
        let mut queue = self.0.shared.queue();
        let waiting = queue.calls.len();
        if waiting >= MAX_CALLS {
            promise.keep(Err(Error::Busy { waiting }));
            return reply;
        }
        queue.calls.push_back(Box::new(move |database| {
            let result = work(database);
            Box::new(move || promise.keep(result))
        }));
        self.0.shared.wake.notify_one();
        reply
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> Health {
        let queue = self.0.shared.queue();
        Health {
            waiting_calls: queue.calls.len(),
            waiting_records: queue.records.len(),
            lost_records: queue.lost_records,
            usage_fault: queue.usage_fault.clone(),
            keys_fault: queue.keys_fault.clone(),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.health()).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.wake.notify_one();
        // A call may have the last handle: the thread can't wait for itself.
        let thread = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id());
        if let Some(thread) = thread {
            // It does not panic: calls that do are caught.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do, but not longer than until `deadline`.
    fn next(&self, deadline: Instant) -> Turn {
        let mut queue = self.queue();
        loop {
            let now = Instant::now();
            let call = queue.calls.pop_front();
            let is_last = queue.closing && queue.calls.is_empty();
            let flushes = std::mem::take(&mut queue.flushes);
            let is_due = queue.records.len() >= BATCH || queue.due.is_some_and(|due| due <= now);
            let mut records = Vec::new();
            if is_due || is_last || !flushes.is_empty() {
                records = std::mem::take(&mut queue.records);
                queue.due = None;
            }
            if call.is_some() || is_last || !flushes.is_empty() || !records.is_empty() || now >= deadline {
                return Turn { call, records, flushes, is_last };
            }
            let until = queue.due.map_or(deadline, |due| due.min(deadline));
            let waited = self.wake.wait_timeout(queue, until.saturating_duration_since(now));
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The thread.
struct Worker {
    shared: Arc<Shared>,
    database: Database,
    /// What `data_version` was when the keys were last read.
    seen: i64,
    /// The keys could not be read when they should have been.
    is_stale: bool,
}

impl Worker {
    fn work(mut self) {
        let mut deadline = Instant::now() + KEYS_DELAY;
        loop {
            let Turn { call, records, flushes, is_last } = self.shared.next(deadline);
            if let Some(call) = call {
                self.call(call);
            }
            self.write(records, flushes, is_last);
            if is_last {
                return;
            }
            if Instant::now() >= deadline {
                self.look_for_keys();
                deadline = Instant::now() + KEYS_DELAY;
            }
        }
    }

    fn call(&mut self, call: Call) {
        // A call that panics is answered by its promise, which is dropped; its transaction is undone.
        let done = catch_unwind(AssertUnwindSafe(|| call(&mut self.database)));
        if self.database.take_changed_keys() {
            self.load_keys();
        }
        if let Ok(answer) = done {
            // It wakes a task, by code of that task's executor.
            let _ = catch_unwind(AssertUnwindSafe(answer));
        }
    }

    /// Writes records. Those that can't be written wait for the next time, if there is one.
    fn write(&mut self, mut records: Vec<Record>, flushes: Vec<Promise<()>>, is_last: bool) {
        let written = if records.is_empty() { Ok(()) } else { usage::add(&mut self.database, &records) };
        let fault = written.err().map(|error| error.to_string());
        if !records.is_empty() {
            let mut queue = self.shared.queue();
            queue.usage_fault.clone_from(&fault);
            if fault.is_some() && is_last {
                queue.lost_records += records.len() as u64;
            } else if fault.is_some() {
                records.append(&mut queue.records);
                queue.records = records;
                queue.due = Some(Instant::now() + BATCH_DELAY);
            }
        }
        for flush in flushes {
            flush.keep(fault.clone().map_or(Ok(()), |fault| Err(Error::Unwritten(fault))));
        }
    }

    /// Reads the keys again if another connection has written.
    fn look_for_keys(&mut self) {
        match self.database.version_of_others() {
            Ok(version) if version == self.seen && !self.is_stale => {}
            Ok(version) => {
                self.seen = version;
                self.load_keys();
            }
            Err(error) => self.no_keys(&error),
        }
    }

    fn load_keys(&mut self) {
        match Ring::load(&mut self.database) {
            Ok(ring) => {
                *self.shared.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
                self.is_stale = false;
                self.shared.queue().keys_fault = None;
            }
            Err(error) => self.no_keys(&error),
        }
    }

    fn no_keys(&mut self, error: &Error) {
        self.is_stale = true;
        self.shared.queue().keys_fault = Some(error.to_string());
    }
}
