//! What the pool is built of: the standard library's threads and atomics, or loom's in the tests of `.ci/model-check`,
//! which try their interleavings and memory orders.

#[cfg(all(loom, test))]
pub(super) use loom::{cell::UnsafeCell, sync::*, thread};

#[cfg(not(all(loom, test)))]
pub(super) use self::{cell::UnsafeCell, std_sync::*};

#[cfg(not(all(loom, test)))]
mod std_sync {
    pub use std::sync::*;
    pub use std::thread;
}

#[cfg(not(all(loom, test)))]
mod cell {
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
