//! Files that are reloaded when their contents change.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest file of credentials or certificates, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct Unreadable {
    /// Path of the file.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// Reads the contents of a file of at most [`FILE_BYTES_MAX`] bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let text = format!("the file is larger than {FILE_BYTES_MAX} bytes, the most allowed");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        Ok(bytes)
    };
    read().map_err(|source| Unreadable { path: path.to_owned(), source })
}

/// Watches files for changes of their contents.
///
/// It compares contents, not modification times: mounted secrets change by swapped links, and times are coarse.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    /// Contents that were last reported; `None` for a file that could not be read.
    seen: Vec<Option<Vec<u8>>>,
    /// Contents at the previous check.
    looked: Vec<Option<Vec<u8>>>,
}

impl Watched {
    /// Watches these files; the first check reports them as changed.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { seen: Vec::new(), looked: Vec::new(), paths }
    }

    /// Checks the files. Returns their contents in order, or the error, if they differ from the last report.
    pub fn changed(&mut self) -> Option<Result<Vec<Vec<u8>>, Unreadable>> {
        self.look(false)
    }

    /// Like [`Watched::changed`], but only once two checks in a row saw the same contents: a file that is being written
    /// is not taken for complete.
    pub fn settled(&mut self) -> Option<Result<Vec<Vec<u8>>, Unreadable>> {
        self.look(true)
    }

    fn look(&mut self, twice: bool) -> Option<Result<Vec<Vec<u8>>, Unreadable>> {
        let read: Vec<_> = self.paths.iter().map(|path| read(path)).collect();
        let now: Vec<_> = read.iter().map(|one| one.as_ref().ok().cloned()).collect();
        let before = std::mem::replace(&mut self.looked, now.clone());
        if now == self.seen || (twice && now != before) {
            return None;
        }
        self.seen = now;
        Some(read.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_missing_files_are_reported_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, "1").expect("writes");
        std::fs::write(&b, "2").expect("writes");
        let mut watched = Watched::new(vec![a.clone(), b.clone()]);
        assert_eq!(watched.changed().expect("new").expect("read"), [b"1", b"2"]);
        assert!(watched.changed().is_none());
        std::fs::write(&b, "3").expect("writes");
        assert_eq!(watched.changed().expect("changed").expect("read"), [b"1", b"3"]);
        std::fs::remove_file(&a).expect("removes");
        assert_eq!(watched.changed().expect("gone").expect_err("gone").path, a);
        assert!(watched.changed().is_none(), "once");
        std::fs::write(&a, "1").expect("writes");
        assert!(watched.changed().expect("back").is_ok());
    }

    #[test]
    fn a_file_is_read_only_after_it_has_settled() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        std::fs::write(&path, "whole").expect("writes");
        let mut watched = Watched::new(vec![path.clone()]);
        watched.changed().expect("new").expect("read");
        std::fs::write(&path, "ha").expect("writes");
        assert!(watched.settled().is_none());
        std::fs::write(&path, "half and half").expect("writes");
        assert!(watched.settled().is_none());
        assert_eq!(watched.settled().expect("settled").expect("read"), [b"half and half"]);
        assert!(watched.settled().is_none(), "once");
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("v1", "old"), ("v2", "new")] {
            std::fs::create_dir(at(version)).expect("makes");
            std::fs::write(at(version).join("secret"), text).expect("writes");
        }
        std::os::unix::fs::symlink("v1", at("..data")).expect("links");
        std::os::unix::fs::symlink("..data/secret", at("secret")).expect("links");
        let mut watched = Watched::new(vec![at("secret")]);
        assert_eq!(watched.changed().expect("first").expect("read"), [b"old"]);
        std::os::unix::fs::symlink("v2", at("..new")).expect("links");
        std::fs::rename(at("..new"), at("..data")).expect("swaps");
        assert_eq!(watched.changed().expect("swapped").expect("read"), [b"new"]);
    }

    #[test]
    fn endless_files_are_rejected() {
        let error = read(Path::new("/dev/zero")).expect_err("too large");
        assert!(error.to_string().contains("larger than 4194304 bytes"), "{error}");
    }
}
