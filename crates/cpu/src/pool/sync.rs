//! What the pool is built of: the standard library's threads and atomics, or loom's in the tests of `.ci/model-check`,
//! which try their interleavings and memory orders.

#[cfg(all(loom, test))]
pub use modelled::*;
#[cfg(not(all(loom, test)))]
pub use native::*;

#[cfg(not(all(loom, test)))]
mod native {
    pub use std::sync::{Arc, Mutex, MutexGuard, atomic};
    pub use std::thread;

    /// Waits before a thread offers its core to others, some 10 µs, and waits before a worker sleeps, some 100 µs: longer
    /// than the serial stretches between the stages of one token.
    const SPINS: usize = 1_000;
    pub const WAITS: usize = SPINS + 300;

    /// Waits in a loop: `wait_a_little(n)` for n = 0, 1, …
    pub fn wait_a_little(n: usize) {
        if n < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
    }

    /// The standard library's, with loom's way in: an access has a beginning and an end.
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(all(loom, test))]
mod modelled {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::{Arc, Mutex, MutexGuard, atomic};
    pub use loom::thread;

    /// Once awake, so that both ways of waiting are tried.
    pub const WAITS: usize = 1;

    pub fn wait_a_little(_: usize) {
        thread::yield_now();
    }
}
