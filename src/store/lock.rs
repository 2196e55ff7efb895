//! One writer per folder: a file lock, which the system frees when its holder ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::StoreError;

const LOCK_FILE: &str = ".lock";

/// The right to write, or the reason why another process has it.
#[derive(Debug)]
pub(super) enum WriterLock {
    /// Held as long as the file is open.
    Held { _file: File },
    /// Not held.
    Missing {
        /// Why, for people.
        reason: String,
    },
}

impl WriterLock {
    /// Tries once, without waiting. A folder that cannot be written to is not an error: it can still be read.
    pub(super) fn acquire(folder: &Path) -> Self {
        let path = folder.join(LOCK_FILE);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => return Self::Missing { reason: format!("cannot open {}: {error}", path.display()) },
        };
        match file.try_lock() {
            Ok(()) => Self::Held { _file: file },
            Err(TryLockError::WouldBlock) => Self::Missing { reason: "another server writes to it".to_owned() },
            Err(TryLockError::Error(error)) => {
                Self::Missing { reason: format!("cannot lock {}: {error}", path.display()) }
            }
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    /// Refuses a write without the lock.
    pub(super) fn check(&self, folder: &Path) -> Result<(), StoreError> {
        match self {
            Self::Held { .. } => Ok(()),
            Self::Missing { reason } => {
                Err(StoreError::ReadOnly { folder: folder.display().to_string(), reason: reason.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_next_takes_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = WriterLock::acquire(folder.path());
        assert!(first.is_held());
        let second = WriterLock::acquire(folder.path());
        let error = second.check(folder.path()).expect_err("the first holds it");
        assert!(error.to_string().contains("another server writes to it"), "{error}");
        drop(first);
        assert!(WriterLock::acquire(folder.path()).is_held());
    }

    #[test]
    fn a_lock_that_cannot_be_opened_says_why() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(LOCK_FILE)).expect("a folder in its place");
        let lock = WriterLock::acquire(folder.path());
        let error = lock.check(folder.path()).expect_err("a folder cannot be locked");
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}
