//! Locks and atomics that are the standard library's, or the checker's where [`with_checker`] runs.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

thread_local! {
    static IS_CHECKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `check`, whose locks and atomics are the checker's. The checker runs all its threads on this one.
pub(super) fn with_checker(check: impl FnOnce()) {
    IS_CHECKED.set(true);
    check();
    IS_CHECKED.set(false);
}

/// Makes one of the checker's or of the standard library's.
fn choose<T>(checked: impl FnOnce() -> T, plain: impl FnOnce() -> T) -> T {
    if IS_CHECKED.get() { checked() } else { plain() }
}

#[derive(Debug)]
pub(in crate::batching) enum Mutex<T> {
    Plain(std::sync::Mutex<T>),
    Checked(shuttle::sync::Mutex<T>),
}

#[derive(Debug)]
pub(in crate::batching) enum MutexGuard<'a, T> {
    Plain(std::sync::MutexGuard<'a, T>),
    Checked(shuttle::sync::MutexGuard<'a, T>),
}

impl<T> Mutex<T> {
    pub(in crate::batching) fn new(value: T) -> Self {
        // Not `choose`: the value moves into one of the two.
        if IS_CHECKED.get() {
            Self::Checked(shuttle::sync::Mutex::new(value))
        } else {
            Self::Plain(std::sync::Mutex::new(value))
        }
    }

    pub(in crate::batching) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self {
            Self::Plain(mutex) => map(mutex.lock(), MutexGuard::Plain),
            Self::Checked(mutex) => map(mutex.lock(), MutexGuard::Checked),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Plain(guard) => guard,
            Self::Checked(guard) => guard,
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Plain(guard) => guard,
            Self::Checked(guard) => guard,
        }
    }
}

#[derive(Debug)]
pub(in crate::batching) enum Condvar {
    Plain(std::sync::Condvar),
    Checked(shuttle::sync::Condvar),
}

/// Whether a wait ended for want of time.
pub(in crate::batching) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(in crate::batching) fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(in crate::batching) fn new() -> Self {
        choose(|| Self::Checked(shuttle::sync::Condvar::new()), || Self::Plain(std::sync::Condvar::new()))
    }

    pub(in crate::batching) fn notify_one(&self) {
        match self {
            Self::Plain(condvar) => condvar.notify_one(),
            Self::Checked(condvar) => condvar.notify_one(),
        }
    }

    pub(in crate::batching) fn notify_all(&self) {
        match self {
            Self::Plain(condvar) => condvar.notify_all(),
            Self::Checked(condvar) => condvar.notify_all(),
        }
    }

    pub(in crate::batching) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        at_most: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        match (self, guard) {
            (Self::Plain(condvar), MutexGuard::Plain(guard)) => {
                map(condvar.wait_timeout(guard, at_most), |(guard, timeout)| {
                    (MutexGuard::Plain(guard), WaitTimeoutResult(timeout.timed_out()))
                })
            }
            (Self::Checked(condvar), MutexGuard::Checked(guard)) => {
                map(condvar.wait_timeout(guard, at_most), |(guard, timeout)| {
                    (MutexGuard::Checked(guard), WaitTimeoutResult(timeout.timed_out()))
                })
            }
            _ => unreachable!("a lock and its condition variable are made together"),
        }
    }
}

fn map<T, U>(locked: LockResult<T>, guard: impl Fn(T) -> U) -> LockResult<U> {
    match locked {
        Ok(locked) => Ok(guard(locked)),
        Err(poisoned) => Err(PoisonError::new(guard(poisoned.into_inner()))),
    }
}

pub(in crate::batching) mod atomic {
    pub(in crate::batching) use std::sync::atomic::Ordering;

    macro_rules! methods {
        ($name:ident, $($method:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            #[allow(dead_code, reason = "not every number needs every method")]
            impl $name {
                $(pub(in crate::batching) fn $method(&self, $($argument: $type),*) -> $result {
                    match self {
                        Self::Plain(atomic) => atomic.$method($($argument),*),
                        Self::Checked(atomic) => atomic.$method($($argument),*),
                    }
                })*
            }
        };
    }

    macro_rules! atomic {
        ($name:ident, $number:ty) => {
            #[derive(Debug)]
            pub(in crate::batching) enum $name {
                Plain(std::sync::atomic::$name),
                Checked(shuttle::sync::atomic::$name),
            }

            impl $name {
                pub(in crate::batching) fn new(value: $number) -> Self {
                    super::choose(
                        || Self::Checked(shuttle::sync::atomic::$name::new(value)),
                        || Self::Plain(std::sync::atomic::$name::new(value)),
                    )
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    Self::new(0)
                }
            }

            methods! {
                $name,
                load(order: Ordering) -> $number;
                swap(value: $number, order: Ordering) -> $number;
                fetch_add(value: $number, order: Ordering) -> $number;
                fetch_sub(value: $number, order: Ordering) -> $number;
                fetch_update(
                    set: Ordering,
                    fetch: Ordering,
                    update: impl FnMut($number) -> Option<$number>
                ) -> Result<$number, $number>;
            }
        };
    }

    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);
}
