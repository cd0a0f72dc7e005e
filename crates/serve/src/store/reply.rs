//! An answer that comes later: awaited by a task, of whatever executor, or waited for by a thread.

use crate::database::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a call gives, once it is done. Dropping it changes nothing: the call is made.
#[must_use = "whether a call failed is known when it is awaited"]
pub struct Reply<T>(Arc<Slot<T>>);

/// The other end. Dropped without a result, it leaves [`Error::Stopped`].
pub struct Promise<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    done: Condvar,
}

struct State<T> {
    result: Option<Result<T, Error>>,
    waker: Option<Waker>,
}

/// Two ends.
pub fn channel<T>() -> (Promise<T>, Reply<T>) {
    let slot = Arc::new(Slot { state: Mutex::new(State { result: None, waker: None }), done: Condvar::new() });
    (Promise(Arc::clone(&slot)), Reply(slot))
}

impl<T> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, result: Result<T, Error>) {
        let mut state = self.state();
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        self.done.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Promise<T> {
    pub fn keep(self, result: Result<T, Error>) {
        self.0.set(result);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        // The result that was set stays, or was taken: nobody waits then.
        let is_kept = self.0.state().result.is_some();
        if !is_kept {
            self.0.set(Err(Error::Stopped));
        }
    }
}

impl<T> Reply<T> {
    /// Waits, and lets the thread do nothing else.
    ///
    /// # Errors
    /// Those of the call; that it was refused or did not come to an end.
    pub fn wait(self) -> Result<T, Error> {
        let mut state = self.0.state();
        loop {
            if let Some(result) = state.result.take() {
                return result;
            }
            state = self.0.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Error>> {
        let mut state = self.0.state();
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("is_done", &self.0.state().result.is_some()).finish()
    }
}
