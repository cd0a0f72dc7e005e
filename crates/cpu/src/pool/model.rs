//! The pool under every interleaving that matters: what each stage promises, checked by loom.
//!
//! Loom runs a model again and again, each time with another order of the threads' steps and other values that the memory
//! orders allow a load to see. Its cells notice two accesses that nothing orders, its scheduler a wait that nothing ends.
//! Models must be tiny: a third thread or a second stage multiplies what there is to try, so each bounds how often a
//! thread is interrupted where it need not be. `.ci/model-check` runs them.

use super::sync::UnsafeCell;
use super::*;

/// Values that tasks read and write without synchronization of their own, so that loom sees whether the pool's suffices.
struct Cells<const N: usize>([UnsafeCell<usize>; N]);

// SAFETY: loom ends the test at the first access that is not ordered with another.
unsafe impl<const N: usize> Sync for Cells<N> {}

impl<const N: usize> Cells<N> {
    fn new() -> Self {
        Cells(std::array::from_fn(|_| UnsafeCell::new(0)))
    }

    fn get(&self, i: usize) -> usize {
        // SAFETY: loom ends the test where this is not so.
        self.0[i].with(|value| unsafe { *value })
    }

    fn add(&self, i: usize, n: usize) {
        // SAFETY: loom ends the test where this is not so.
        self.0[i].with_mut(|value| unsafe { *value += n });
    }
}

/// A stage of `N` tasks: each runs once, before `run` returns, and what it wrote is seen. What the closure borrows is
/// written afterwards, as a caller may who drops it: a worker that still looked at it would be caught.
fn stage<const N: usize>(pool: &Pool) {
    let (runs, borrowed) = (Cells::<N>::new(), Cells::<1>::new());
    pool.run(N, &|i| runs.add(i, 1 + borrowed.get(0)));
    borrowed.add(0, 1);
    for i in 0..N {
        assert_eq!(runs.get(i), 1, "runs of task {i}");
    }
}

/// Two tasks that each wait for the other to begin: none ends if a worker sleeps through the stage.
fn meeting(pool: &Pool) {
    let begun = [AtomicBool::new(false), AtomicBool::new(false)];
    pool.run(2, &|i| {
        begun[i].store(true, Ordering::Release);
        while !begun[1 - i].load(Ordering::Acquire) {
            thread::yield_now();
        }
    });
}

/// Tries a model with at most so many preemptions, or any number; `LOOM_MAX_PREEMPTIONS` overrules it.
fn check(preemptions: impl Into<Option<usize>>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions.into());
    builder.check(model);
}

/// Models that could not fail would pass for ever.
#[test]
#[should_panic(expected = "Causality violation")]
fn a_race_is_noticed() {
    check(None, || {
        let cell = Cells::<1>::new();
        Pool::new(2).run(2, &|_| cell.add(0, 1));
    });
}

#[test]
fn a_task_is_taken_once() {
    check(3, || {
        let shared = Arc::new((Part(AtomicU64::new(Part::pack(0..3))), Cells::<3>::new()));
        let take = |take: fn(&Part) -> Option<usize>| {
            let shared = shared.clone();
            move || {
                while let Some(task) = take(&shared.0) {
                    shared.1.add(task, 1);
                }
            }
        };
        let thieves = [0; 2].map(|_| thread::spawn(take(Part::take_last)));
        take(Part::take_first)();
        thieves.into_iter().for_each(|thief| thief.join().unwrap());
        (0..3).for_each(|task| assert_eq!(shared.1.get(task), 1, "task {task}"));
    });
}

#[test]
fn an_idle_pool_ends() {
    check(None, || drop(Pool::new(3)));
}

#[test]
fn tasks_run_once_and_are_seen() {
    check(None, || stage::<3>(&Pool::new(2)));
}

#[test]
fn stages_do_not_mix() {
    check(3, || {
        let pool = Pool::new(2);
        stage::<2>(&pool);
        stage::<3>(&pool);
    });
}

#[test]
fn a_stage_sees_the_stage_before() {
    check(3, || {
        let pool = Pool::new(2);
        let (first, second) = (Cells::<2>::new(), Cells::<2>::new());
        pool.run(2, &|i| first.add(i, i + 1));
        pool.run(2, &|i| second.add(i, first.get(0) + first.get(1)));
        assert_eq!([second.get(0), second.get(1)], [3, 3]);
    });
}

#[test]
fn three_threads_share_a_stage() {
    check(1, || stage::<3>(&Pool::new(3)));
}

#[test]
fn no_worker_sleeps_through_a_stage() {
    check(3, || {
        let pool = Pool::new(2);
        meeting(&pool);
        meeting(&pool);
    });
}

#[test]
fn callers_take_turns() {
    check(2, || {
        let pool = Arc::new(Pool::new(2));
        let other = pool.clone();
        let other = thread::spawn(move || stage::<2>(&other));
        stage::<2>(&pool);
        other.join().unwrap();
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    check(3, || {
        let pool = Pool::new(2);
        let ended = Cells::<2>::new();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|i| {
                ended.add(i, 1);
                // As `panic!`, but says nothing: loom comes by here many times.
                resume_unwind(Box::new(i));
            });
        }));
        assert!(*panic.unwrap_err().downcast::<usize>().unwrap() < 2);
        assert!((1..=2).contains(&(ended.get(0) + ended.get(1))));
        stage::<2>(&pool);
    });
}
