//! The thread pool of the token loop.
//!
//! A forward pass is some hundred short parallel stages with a barrier after each; at 30 tokens a second that is one
//! stage every 100 µs, so waking a sleeping thread for each would cost more than the work. Workers therefore spin for a
//! while after a stage, and sleep only when the next one does not come.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Spins before a thread sleeps: about 100 µs, longer than the serial stretches between the stages of one token.
const SPINS: usize = 20_000;

/// A fixed set of threads that runs one job at a time; the caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

struct Shared {
    /// Counts the jobs; a worker runs the job when it sees a new count.
    generation: AtomicUsize,
    /// The job of this generation. Written only while no worker is running, before `generation` moves.
    job: UnsafeCell<Job>,
    /// The next task to hand out.
    next: AtomicUsize,
    /// Workers that have not finished this generation.
    running: AtomicUsize,
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

// SAFETY: `job` is written by `Pool::run` alone (it holds `turn`) while `running` is 0, and read by workers only after
// they saw the generation that was published (release/acquire) after the write. The pointer in it is to a `Sync` closure.
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
            generation: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { task: idle, n_tasks: 0 }),
            next: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers = (1..n_threads)
            .map(|i| {
                let shared = shared.clone();
                let name = format!("puna-cpu-{i}");
                std::thread::Builder::new().name(name).spawn(move || shared.work()).expect("the system gives threads")
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
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. This function does not return before `running` is 0 again, and no
        // worker touches the job after it has counted itself down.
        let task: *const (dyn Fn(usize) + Sync) =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: we hold `turn` and the last `run` waited for `running == 0`, so nobody reads the job now.
        unsafe { *shared.job.get() = Job { task, n_tasks } };
        shared.next.store(0, Ordering::Relaxed);
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        // A worker checks the generation again under this lock before it sleeps, so none can miss it.
        if *lock(&shared.asleep) > 0 {
            shared.wake.notify_all();
        }
        shared.run_tasks();
        let mut spins = 0;
        while shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            // On a machine with fewer free cores than threads the last worker may need ours.
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn run_tasks(&self) {
        // SAFETY: called by `run` after it wrote the job, or by a worker that saw the new generation (acquire); the
        // job is not written again before all workers have counted down.
        let Job { task, n_tasks } = unsafe { *self.job.get() };
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
            let mut spins = 0;
            while self.generation.load(Ordering::Acquire) == seen {
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop();
                    continue;
                }
                let mut asleep = lock(&self.asleep);
                *asleep += 1;
                while self.generation.load(Ordering::Acquire) == seen && !self.stop.load(Ordering::Relaxed) {
                    asleep = self.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
                }
                *asleep -= 1;
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            // `run` publishes one generation at a time and waits for it, so this is the next one.
            seen = seen.wrapping_add(1);
            self.run_tasks();
            self.running.fetch_sub(1, Ordering::Release);
        }
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

#[cfg(test)]
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
