//! Bytes of a file: unpacked if they are gzip, and what they look like.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::{FileError, Format};
use crate::model::Missing;

const BUFFER_BYTES: usize = 1 << 16;

/// A file that is open.
pub(super) struct Input {
    /// What it is called in errors.
    pub(super) path: String,
    /// Its bytes, unpacked, from the first on.
    pub(super) stream: Box<dyn BufRead + Send>,
    /// The file itself where its bytes are those of the stream: for formats that are not read from front to back.
    pub(super) file: Option<File>,
    /// Whether values may be missing.
    pub(super) missing: Missing,
    /// Whether the stream may pause for long: no more of it than its first lines is waited for.
    pub(super) live: bool,
}

impl Input {
    /// Opens a file; `name` is what it is called in errors.
    pub(super) fn open(name: &str, path: &Path) -> Result<Self, FileError> {
        Self::of_file(name, File::open(path).map_err(FileError::io(name))?)
    }

    /// Takes a file that is open.
    pub(super) fn of_file(name: &str, file: File) -> Result<Self, FileError> {
        // Reading at a position is for files alone: a pipe has none.
        let again = file.metadata().is_ok_and(|data| data.is_file()).then(|| file.try_clone()).transpose();
        let again = again.map_err(FileError::io(name))?;
        Self::new(name, Box::new(file), again)
    }

    /// Takes what comes from a reader.
    pub(super) fn new(path: &str, raw: Box<dyn Read + Send>, file: Option<File>) -> Result<Self, FileError> {
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, raw);
        let is_gzip = raw.fill_buf().map_err(FileError::io(path))?.starts_with(&[0x1f, 0x8b]);
        let stream: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };
        Ok(Self {
            path: path.to_owned(),
            stream,
            file: file.filter(|_| !is_gzip),
            missing: Missing::Refused,
            live: false,
        })
    }

    /// The format: by the first bytes, else by the name, else CSV.
    pub(super) fn format(&mut self) -> Result<Format, FileError> {
        let first = self.stream.fill_buf().map_err(FileError::io(&self.path))?;
        if first.is_empty() {
            return Err(FileError::content(&self.path, "it is empty", "rows"));
        }
        Ok(by_bytes(first).or_else(|| by_name(&self.path)).unwrap_or(Format::Csv))
    }
}

fn by_bytes(first: &[u8]) -> Option<Format> {
    if first.starts_with(b"\x93NUMPY") {
        Some(Format::Npy)
    } else if first.starts_with(b"PAR1") || first.starts_with(b"PARE") {
        Some(Format::Parquet)
    } else if first.starts_with(b"ARROW1") || first.starts_with(b"FEA1") || first.starts_with(&[0xff; 4]) {
        Some(Format::Arrow)
    } else if first.starts_with(&[0, 0]) || first == [0] {
        Some(Format::Idx)
    } else {
        None
    }
}

/// By what the name ends with, but for `.gz`.
fn by_name(path: &str) -> Option<Format> {
    let path = path.to_ascii_lowercase();
    let (_, ending) = path.strip_suffix(".gz").unwrap_or(&path).rsplit_once('.')?;
    match ending {
        "npy" => Some(Format::Npy),
        "parquet" => Some(Format::Parquet),
        "arrow" | "arrows" | "feather" | "ipc" => Some(Format::Arrow),
        _ => None,
    }
}
