//! The thread pool of the token loop.
//!
//! A forward pass is some hundred short parallel stages with a barrier after each; at 30 tokens a second that is one
//! stage every 100 µs, so waking a sleeping thread for each would cost more than the work. Workers therefore spin for a
//! while after a stage, and sleep only when the next one does not come.
//!
//! The tasks of a stage are dealt in contiguous parts, one a thread, because memory is read fastest in one long run. Who
//! has done his own part takes from the far ends of the others': a thread that the system has not let run yet, or runs
//! slowly, is helped, not waited for. Where other programs hold the cores, the caller does all of the work alone.
//!
//! What keeps this sound: **who has taken a task keeps the stage open until he has reported it**. Nobody touches the
//! closure otherwise, so it does not matter how late a thread comes or in which stage it believes to be: there are
//! tasks to take, and then they are the present stage's, or there are none. `pool/model.rs` lets loom try to break it.

#[cfg(all(loom, test))]
mod model;
mod sync;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use sync::thread::{self, JoinHandle};
use sync::{Arc, Mutex, MutexGuard, UnsafeCell, wait_a_little};

/// A fixed set of threads that runs one job at a time; the caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

struct Shared {
    stage: Line<Stage>,
    /// What is left of each thread's part; the caller's is the first.
    parts: Box<[Line<Part>]>,
    /// Workers that sleep, or are about to.
    asleep: Line<AtomicUsize>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Alone in what processors hand over at a time: two lines on x86, which fetches them in pairs, one of Apple's.
#[repr(align(128))]
struct Line<T>(T);

/// The job, and what of it is still to be reported. Written by the caller while no task is taken and none can be.
struct Stage {
    /// Borrowed from the caller of `run`, who returns only when nobody uses it any more.
    task: UnsafeCell<*const (dyn Fn(usize) + Sync)>,
    /// Tasks not yet reported.
    open: AtomicUsize,
    /// A task has panicked: what has not begun need not.
    panicked: AtomicBool,
}

// SAFETY: `task` is written by `Pool::run` alone, under `turn`, when all tasks of the last stage were reported and before
// those of this one can be taken, and read only between taking a task and reporting it. Taking acquires what dealing
// released, and the caller's wait what reporting released. The pointer in it is to a `Sync` closure.
unsafe impl Sync for Stage {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Stage {}

/// Tasks that nobody has taken yet, `first..end`: the two in one word, so that a task is taken by one exchange.
struct Part(AtomicU64);

impl Part {
    /// No tasks, and none will come: the pool ends.
    const END: u64 = u64::MAX;

    fn pack(tasks: Range<u32>) -> u64 {
        u64::from(tasks.end) << 32 | u64::from(tasks.start)
    }

    fn unpack(word: u64) -> Range<u32> {
        word as u32..(word >> 32) as u32
    }

    /// Gives a part whose tasks are all taken new ones.
    fn deal(&self, tasks: Range<u32>) {
        self.0.store(Part::pack(tasks), Ordering::Release);
    }

    fn end(&self) {
        self.0.store(Part::END, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Part::END
    }

    /// Takes a task from what `cut` gives: the task, and what it leaves.
    fn take(&self, cut: impl Fn(Range<u32>) -> (u32, Range<u32>)) -> Option<usize> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let tasks = Part::unpack(word);
            if tasks.is_empty() {
                return None;
            }
            let (task, left) = cut(tasks);
            match self.0.compare_exchange_weak(word, Part::pack(left), Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(task as usize),
                Err(now) => word = now,
            }
        }
    }

    fn take_first(&self) -> Option<usize> {
        self.take(|tasks| (tasks.start, tasks.start + 1..tasks.end))
    }

    fn take_last(&self) -> Option<usize> {
        self.take(|tasks| (tasks.end - 1, tasks.start..tasks.end - 1))
    }

    /// Whether its thread has something to look at: tasks, or the end.
    fn calls(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word == Part::END || !Part::unpack(word).is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data under these locks is valid at every step, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `n_threads` in all, the caller's included; at least one, and fewer where the system gives no more.
    pub fn new(n_threads: usize) -> Pool {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| {};
        let shared = Arc::new(Shared {
            stage: Line(Stage {
                task: UnsafeCell::new(nothing),
                open: AtomicUsize::new(0),
                panicked: AtomicBool::new(false),
            }),
            parts: (0..n_threads.max(1)).map(|_| Line(Part(AtomicU64::new(0)))).collect(),
            asleep: Line(AtomicUsize::new(0)),
            panic: Mutex::new(None),
        });
        let spawn = |i| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("puna-cpu-{i}")).spawn(move || shared.serve(i)).ok()
        };
        let workers = (1..n_threads).map_while(spawn).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads, the caller's included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0..n_tasks)`, each once, on all threads, and returns when all are done. Each thread begins with a
    /// contiguous part, in order. A task must not call `run` of its own pool.
    ///
    /// # Panics
    /// With the panic of a task, after the running ones have ended; those that had not begun may be left out. With
    /// 2^32 tasks or more.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if n_tasks <= 1 || self.workers.is_empty() {
            (0..n_tasks).for_each(task);
            return;
        }
        let n = u32::try_from(n_tasks).unwrap_or_else(|_| panic!("{n_tasks} tasks: expected less than 2^32"));
        let turn = lock(&self.turn);
        let Shared { stage: Line(stage), parts, .. } = &*self.shared;
        // SAFETY: only the lifetime is erased. This function does not return before every task is reported.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        // SAFETY: the last `run` returned when all its tasks were reported, so none is left to take and nobody reads.
        stage.task.with_mut(|shared| unsafe { *shared = task });
        stage.open.store(n_tasks, Ordering::Relaxed);
        let n_threads = self.n_threads() as u64;
        let start = |i: usize| (u64::from(n) * i as u64).div_ceil(n_threads) as u32;
        let part = |i| start(i)..start(i + 1);
        for i in (0..self.n_threads()).rev() {
            parts[i].0.deal(part(i));
        }
        // A worker says that it sleeps and then looks at its part once more; we dealt and now look who sleeps. With a
        // fence between on both sides, one of us sees the other.
        fence(Ordering::SeqCst);
        if self.shared.asleep.0.load(Ordering::Relaxed) > 0 {
            let called = (1..).zip(&self.workers).filter(|(i, _)| !part(*i).is_empty());
            called.for_each(|(_, worker)| worker.thread().unpark());
        }
        self.shared.work(0);
        let mut waits = 0;
        while stage.open.load(Ordering::Acquire) > 0 {
            wait_a_little(waits);
            waits += 1;
        }
        if stage.panicked.load(Ordering::Relaxed) {
            stage.panicked.store(false, Ordering::Relaxed);
            let panic = lock(&self.shared.panic).take().expect("set before `panicked`");
            drop(turn);
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// The life of a worker.
    fn serve(&self, me: usize) {
        loop {
            self.wait(me);
            if self.parts[me].0.has_ended() {
                return;
            }
            self.work(me);
        }
    }

    /// Waits until there is something to look at in one's own part: who finds nothing there would find little elsewhere.
    fn wait(&self, me: usize) {
        let part = &self.parts[me].0;
        for waits in 0..sync::WAITS {
            if part.calls() {
                return;
            }
            wait_a_little(waits);
        }
        self.asleep.0.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !part.calls() {
            thread::park();
        }
        self.asleep.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes tasks and runs them until none is left to take, and then reports them.
    fn work(&self, me: usize) {
        let mut done = 0;
        while let Some(index) = self.take(me) {
            self.perform(index);
            done += 1;
        }
        if done > 0 {
            self.stage.0.open.fetch_sub(done, Ordering::Release);
        }
    }

    /// One's own tasks from the front, then the others' from the back: they are the last that their thread comes to.
    fn take(&self, me: usize) -> Option<usize> {
        let (before, after) = (&self.parts[..me], &self.parts[me + 1..]);
        self.parts[me].0.take_first().or_else(|| after.iter().chain(before).find_map(|part| part.0.take_last()))
    }

    /// Runs a task that was taken.
    fn perform(&self, index: usize) {
        let stage = &self.stage.0;
        if stage.panicked.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: a task was taken and is not reported: nobody writes the pointer, and the closure lives.
        let task = unsafe { &*stage.task.with(|task| *task) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(index))) {
            lock(&self.panic).get_or_insert(panic);
            stage.panicked.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (worker, part) in self.workers.iter().zip(&self.shared.parts[1..]) {
            part.0.end();
            worker.thread().unpark();
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
