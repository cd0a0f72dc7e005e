//! The thread pool of the token loop.
//!
//! A forward pass is some hundred short parallel stages with a barrier after each; at 30 tokens a second that is one
//! stage every 100 µs, so waking a sleeping thread for each would cost more than the work. Workers therefore spin for a
//! while after a stage, and sleep only when the next one does not come.
//!
//! A stage waits for the workers that take part in it, never for one that the system has not let run yet: where other
//! programs hold the cores, the caller does the work alone instead of waiting at every barrier.

#[cfg(all(loom, test))]
mod model;
mod sync;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use sync::thread::{self, JoinHandle};
use sync::{Arc, Condvar, Mutex, MutexGuard, UnsafeCell};

/// Spins before a thread offers its core to others, some 10 µs, and offers before it sleeps, some 100 µs: longer than the
/// serial stretches between the stages of one token.
const SPINS: usize = if cfg!(loom) { 0 } else { 1_000 };
const YIELDS: usize = if cfg!(loom) { 1 } else { 300 };

/// Waits in a loop: `wait_a_little(n)` for n = 0, 1, …
fn wait_a_little(n: usize) {
    if n < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
}

/// What [`Shared::stage`] counts: the stages begun, whether the last one may still be entered, and who is in it.
mod stage {
    /// Workers in the stage: the lowest bits.
    pub const WORKERS: u64 = OPEN - 1;
    /// The stage may be entered.
    pub const OPEN: u64 = 1 << 15;
    /// One stage more.
    pub const NEXT: u64 = 1 << 16;

    /// The number of a stage.
    pub fn number(stage: u64) -> u64 {
        stage / NEXT
    }
}

/// A fixed set of threads that runs one job at a time; the caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

struct Shared {
    /// See [`stage`].
    stage: AtomicU64,
    /// The job of this stage. Written only while the stage is closed and nobody is in it.
    job: UnsafeCell<Job>,
    /// The next task to hand out.
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    asleep: Mutex<usize>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    /// Borrowed from the caller of `run`, who waits until no worker uses it any more.
    task: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}

// SAFETY: `job` is written by `Pool::run` alone (it holds `turn`) while the stage is closed and empty, and read by workers
// only after they entered an open stage, which was opened (release/acquire) after the write. The pointer in it is to a
// `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data under these locks is valid at every step, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `n_threads` in all, the caller's included; at least one.
    pub fn new(n_threads: usize) -> Pool {
        let idle: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            stage: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: idle, n_tasks: 0 }),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..n_threads)
            .map(|i| {
                let shared = shared.clone();
                let name = format!("puna-cpu-{i}");
                thread::Builder::new().name(name).spawn(move || shared.work()).expect("the system gives threads")
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0..n_tasks)`, each once, on all threads, and returns when all are done. Tasks start in order.
    ///
    /// # Panics
    /// With the panic of a task, after the others have ended.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() {
            (0..n_tasks).for_each(task);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. This function does not return before the stage is closed and empty, and
        // a worker touches the job only between entering and leaving.
        let task: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: we hold `turn` and the last `run` left the stage closed and empty, so nobody reads the job now.
        shared.job.with_mut(|job| unsafe { *job = Job { task, n_tasks } });
        shared.next.store(0, Ordering::Relaxed);
        shared.stage.fetch_add(stage::NEXT | stage::OPEN, Ordering::Release);
        // A worker looks at the stage again under this lock before it sleeps, so none can miss it.
        if *lock(&shared.asleep) > 0 {
            shared.wake.notify_all();
        }
        shared.run_tasks();
        // All tasks are handed out: who is not in the stage by now has nothing to do in it.
        shared.stage.fetch_and(!stage::OPEN, Ordering::Relaxed);
        let mut waits = 0;
        while shared.stage.load(Ordering::Acquire) & stage::WORKERS != 0 {
            wait_a_little(waits);
            waits += 1;
        }
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn run_tasks(&self) {
        // SAFETY: called by `run` after it wrote the job, or by a worker that entered the stage (acquire); the job is not
        // written again before the stage is closed and empty.
        let Job { task, n_tasks } = self.job.with(|job| unsafe { *job });
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= n_tasks {
                    break;
                }
                // SAFETY: the closure outlives the job, see `run`.
                unsafe { (*task)(index) };
            }
        }));
        if let Err(panic) = result {
            // No further tasks; what is running ends by itself.
            self.next.store(n_tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = match self.next_stage(seen) {
                Some(number) => number,
                None => return,
            };
            if self.enter(seen) {
                self.run_tasks();
                self.stage.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Waits for a stage other than `seen`; none when the pool ends.
    fn next_stage(&self, seen: u64) -> Option<u64> {
        let number = || stage::number(self.stage.load(Ordering::Relaxed));
        for waits in 0..SPINS + YIELDS {
            if number() != seen {
                return Some(number());
            }
            wait_a_little(waits);
        }
        let mut asleep = lock(&self.asleep);
        *asleep += 1;
        while number() == seen && !self.stop.load(Ordering::Relaxed) {
            asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
        (!self.stop.load(Ordering::Relaxed)).then(number)
    }

    /// Enters a stage, unless it is closed or over.
    fn enter(&self, number: u64) -> bool {
        let open = |stage: u64| stage::number(stage) == number && stage & stage::OPEN != 0;
        let enter = |stage| open(stage).then_some(stage + 1);
        self.stage.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _asleep = lock(&self.shared.asleep);
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has none of its own.
            let _ = worker.join();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads);
            for n_tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(n_tasks, &|i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let count = AtomicUsize::new(0);
            pool.run(10, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 10);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert_ne!(i, 3))));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.run(8, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
    }
}
