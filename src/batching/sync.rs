//! Locks and atomics of the queue: the standard library's. Tests can replace them by those of a checker of
//! interleavings.

#[cfg(not(test))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

#[cfg(test)]
pub(super) use super::tests::either::{Condvar, Mutex, MutexGuard, atomic};
