//! Output files: complete, or unchanged.
//!
//! A result is written to an unnamed file in the folder of its target. When it is complete and on disk, it replaces the
//! target in one step. An error, Ctrl-C or a crash before that leaves the target unchanged.

mod pending;
mod spool;

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::FileError;
#[cfg(feature = "server")]
pub use pending::remove_unfinished_at_interrupt;
use pending::{Before, Pending, folder_of};
pub(super) use spool::Spool;

/// Maximum number of symbolic links to follow; the same as Linux.
const LINKS_MAX: usize = 40;
/// Names of standard output, besides `-`.
const STANDARD: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// The destination of a result. If dropped before [`Output::finish`], it leaves no trace.
#[derive(Debug)]
pub struct Output {
    path: String,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Standard output.
    Standard,
    /// A pipe or a device. It cannot be replaced, so bytes are written immediately.
    Direct(File),
    /// A file, replaced by [`Output::finish`].
    Pending(Pending),
}

impl Output {
    /// Prepares an output file (`-` for standard output). Call it before any work, so that an unwritable path fails at
    /// once.
    ///
    /// # Errors
    /// If the folder does not exist or is not writable.
    pub fn create(path: &str) -> Result<Self, FileError> {
        let target = resolved(path)?;
        let Some(target) = target else { return Ok(Self { path: "-".to_owned(), sink: Sink::Standard }) };
        let failed = |source| FileError::Io { path: path.to_owned(), source };
        let before = match fs::metadata(&target) {
            Ok(data) => Some(data),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            Err(error) => return Err(failed(error)),
        };
        let kind = before.as_ref().map(Metadata::file_type);
        if kind.is_some_and(|kind| kind.is_dir()) {
            return Err(FileError::content(path, "it is a folder", "a file in a folder"));
        }
        let special = kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
        if special || target.starts_with("/dev/fd") || target.starts_with("/proc") {
            let file = File::options().write(true).open(&target).map_err(failed)?;
            return Ok(Self { path: path.to_owned(), sink: Sink::Direct(file) });
        }
        if kind.is_some_and(|kind| !kind.is_file()) {
            return Err(FileError::content(path, "it is a socket", "a file, a pipe or a device"));
        }
        if before.is_some() {
            // Replacing a file needs the right to write it.
            File::options().write(true).open(&target).map_err(failed)?;
        }
        let before = before.as_ref().map(Before::from);
        let pending = Pending::create(path, target, before, false)?;
        Ok(Self { path: path.to_owned(), sink: Sink::Pending(pending) })
    }

    /// The path as errors show it; `-` for standard output.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the output is a regular file, so that earlier bytes can be rewritten before [`Output::finish`].
    pub fn is_file(&self) -> bool {
        matches!(self.sink, Sink::Pending(_))
    }

    /// Replaces the target with the result.
    ///
    /// # Errors
    /// If the system reports an error; the target file is then unchanged.
    pub fn finish(self) -> Result<(), FileError> {
        let Self { path, sink } = self;
        let finished = match sink {
            Sink::Standard => io::stdout().flush(),
            Sink::Direct(mut file) => file.flush(),
            Sink::Pending(pending) => pending.finish(),
        };
        finished.map_err(|source| FileError::Io { path, source })
    }
}

/// Whether two output paths lead to the same file.
///
/// # Errors
/// If a path is empty or has too many symbolic links.
pub fn is_same(one: &str, other: &str) -> Result<bool, FileError> {
    let (one, other) = (resolved(one)?, resolved(other)?);
    let absolute = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => canonical(path).map(Some),
    };
    match (absolute(&one), absolute(&other)) {
        (Ok(one), Ok(other)) => Ok(one == other),
        // A missing folder is reported when the output is created.
        _ => Ok(one == other),
    }
}

/// The canonical path of the folder, joined with the file name.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    Ok(folder_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

/// The path after following symbolic links, whether or not it exists; `None` for standard output.
fn resolved(path: &str) -> Result<Option<PathBuf>, FileError> {
    if path.is_empty() {
        return Err(FileError::content("output", "the name is empty", "a file name, or - for standard output"));
    }
    if path == "-" || STANDARD.contains(&path) {
        return Ok(None);
    }
    let mut target = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        // /dev/fd/N is an open file; do not follow it.
        if target.starts_with("/dev/fd") || target.starts_with("/proc") {
            return Ok(Some(target));
        }
        let Ok(link) = fs::read_link(&target) else { return Ok(Some(target)) };
        target = folder_of(&target).join(link);
    }
    Err(FileError::content(path, format!("it leads through more than {LINKS_MAX} symbolic links"), "a file"))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Standard => io::stdout().write(bytes),
            Sink::Direct(file) => file.write(bytes),
            Sink::Pending(pending) => pending.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Standard => io::stdout().flush(),
            Sink::Direct(file) => file.flush(),
            Sink::Pending(pending) => pending.file.flush(),
        }
    }
}

/// Only regular files can seek.
impl Seek for Output {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match &mut self.sink {
            Sink::Pending(pending) => pending.file.seek(position),
            Sink::Standard | Sink::Direct(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }
}

#[cfg(test)]
mod tests;
