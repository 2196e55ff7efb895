//! Locks of jobs.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if it is poisoned.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only a bug panics while the lock is held, and the data behind it stays consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
