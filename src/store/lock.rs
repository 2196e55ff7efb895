//! The writer's lock: a file lock, so that one process writes to a store. The system releases it when the process ends,
//! also after a crash. The file names the holder's process and host.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::StoreError;
use super::disk::{Access, failed, open_regular};

const LOCK_FILE: &str = ".lock";
/// Most bytes that are read of the holder's note.
const NOTE_BYTES_MAX: u64 = 200;

/// The writer's lock, or the reason why this process does not hold it.
#[derive(Debug)]
pub(super) enum WriterLock {
    /// The lock is held while the file is open.
    Held { _file: File },
    /// The lock is not held.
    Missing {
        /// The reason, as a text for people.
        reason: String,
    },
}

impl WriterLock {
    /// Tries once, without waiting. A folder without write access is not an error: it can still be read.
    pub(super) fn acquire(folder: &Path) -> Self {
        let path = folder.join(LOCK_FILE);
        let missing = |reason| Self::Missing { reason };
        let mut file = match open_regular(&path, Access::ReadWrite) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                match open_regular(&path, Access::Write).and_then(|_| open_regular(&path, Access::ReadWrite)) {
                    Ok(file) => file,
                    Err(error) => return missing(failed("cannot make", &path)(error).to_string()),
                }
            }
            Ok(file) => file,
            Err(error) => return missing(failed("cannot open", &path)(error).to_string()),
        };
        match file.try_lock() {
            Ok(()) => {
                // A failure to write the note is harmless: other processes then cannot name the holder.
                let _ = file.set_len(0).and_then(|()| file.write_all(note().as_bytes()));
                Self::Held { _file: file }
            }
            Err(TryLockError::WouldBlock) => missing(format!(
                "another server writes to it{}; send this call to that server, or stop it first",
                holder(&mut file).map_or(String::new(), |holder| format!(" ({holder})"))
            )),
            Err(TryLockError::Error(error)) => missing(failed("cannot lock", &path)(error).to_string()),
        }
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held { .. })
    }

    /// Refuses a write without the lock.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Held { .. } => Ok(()),
            Self::Missing { reason } => Err(StoreError::ReadOnly { reason: reason.clone() }),
        }
    }
}

/// The note of this process.
fn note() -> String {
    format!("process {} on host {}\n", std::process::id(), host())
}

fn host() -> String {
    #[cfg(unix)]
    {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }
    #[cfg(not(unix))]
    {
        "unknown".to_owned()
    }
}

/// The holder of the lock, from its note. `None` for a note that this program would not write.
fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim();
    let is_note = line.starts_with("process ") && line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_note.then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_has_one_holder_and_the_next_takes_over() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = WriterLock::acquire(folder.path());
        assert!(first.is_held());
        let second = WriterLock::acquire(folder.path());
        let error = second.check().expect_err("the first holds it");
        let holder = format!("another server writes to it (process {} on host ", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(first);
        assert!(WriterLock::acquire(folder.path()).is_held());
    }

    #[test]
    fn a_lock_that_cannot_be_opened_says_why() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(LOCK_FILE)).expect("a folder in its place");
        let lock = WriterLock::acquire(folder.path());
        let error = lock.check().expect_err("a folder cannot be locked").to_string();
        assert!(error.contains("the lock file of the store is a folder"), "{error}");
    }

    #[test]
    fn foreign_lock_notes_are_not_shown() {
        for text in ["", "\n", "somebody", "process \u{1b}[2J on host x\n", "process 1\u{0} on host x"] {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("writes");
            assert_eq!(holder(&mut file), None, "{text:?}");
        }
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(note().as_bytes()).expect("writes");
        assert_eq!(holder(&mut file).as_deref(), Some(note().trim()));
    }
}
