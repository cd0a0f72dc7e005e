//! Writing to one buffer from several threads, each to elements of its own.

use std::marker::PhantomData;

/// A `&mut [T]` that the tasks of one parallel stage may write to, each task to elements that no other touches.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    pointer: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: handing the elements out is unsafe and asks the caller for disjointness; then this is a set of `&mut T`.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { pointer: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No other task holds any of these elements while the result lives.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the contract")]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the assertion, exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}
