//! Locks and atomics of the queue: the standard library's. Tests can replace them by those of a checker of
//! interleavings.

use std::sync::PoisonError;

#[cfg(not(test))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(test)]
pub(super) use super::tests::either::{Condvar, Mutex, MutexGuard, atomic};

/// Locks a mutex, even if it is poisoned: no panic leaves inconsistent data behind these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
