//! What the queue's threads meet at: the standard library's, or in one test that of a checker that tries interleavings.

#[cfg(not(all(test, feature = "interleavings")))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(all(test, feature = "interleavings"))]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};
