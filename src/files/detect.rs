//! Detects the format of a file from its first bytes and its name.

use super::foreign::{self, Foreign};
use super::input::Input;
use super::{FileError, Format, idx, json, safetensors, words};

/// The kind of file, detected from its first bytes or its name.
pub(super) enum Seen {
    Format(Format),
    /// A zip archive: `.npz`, or one with a single file.
    Zip,
    Foreign(&'static Foreign),
    /// Binary data of an unknown format.
    Unknown,
}

impl Input {
    /// Detects the format: by the first bytes, then by the name; otherwise CSV if the bytes are text.
    pub(super) fn seen(&mut self) -> Result<Seen, FileError> {
        let (path, name) = (&self.path, &self.name);
        let first = self.stream.fill_buf().map_err(FileError::io(path))?;
        if first.is_empty() {
            return Err(FileError::content(path, "it is empty", "rows"));
        }
        if let Some(seen) = by_bytes(first) {
            return Ok(seen);
        }
        if let Some(foreign) = foreign::by_magic(first, name) {
            return Ok(Seen::Foreign(foreign));
        }
        if let Some(format) = by_name(name) {
            return Ok(Seen::Format(format));
        }
        if let Some(foreign) = foreign::of(first, name) {
            return Ok(Seen::Foreign(foreign));
        }
        if let Some(format) = words::seen(first) {
            return Ok(Seen::Format(format));
        }
        Ok(if foreign::is_binary(first) { Seen::Unknown } else { Seen::Format(Format::Csv) })
    }
}

fn by_bytes(first: &[u8]) -> Option<Seen> {
    if first.starts_with(b"\x93NUMPY") {
        Some(Seen::Format(Format::Npy))
    } else if first.starts_with(b"PAR1") || first.starts_with(b"PARE") {
        Some(Seen::Format(Format::Parquet))
    } else if first.starts_with(b"ARROW1") || first.starts_with(&[0xff; 4]) {
        Some(Seen::Format(Format::Arrow))
    } else if first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06") {
        Some(Seen::Zip)
    } else if idx::is_magic(first) {
        Some(Seen::Format(Format::Idx))
    } else if safetensors::is_start(first) {
        Some(Seen::Format(Format::Safetensors))
    } else if json::is_start(first) {
        Some(Seen::Format(Format::JsonLines))
    } else {
        None
    }
}

/// The format by the file name's ending, after removing a compression ending.
fn by_name(name: &str) -> Option<Format> {
    let name = name.to_ascii_lowercase();
    let plain = [".gz", ".zst", ".zstd", ".bz2", ".xz"].iter().find_map(|ending| name.strip_suffix(ending));
    let (_, ending) = plain.unwrap_or(&name).rsplit_once('.')?;
    match ending {
        "npy" => Some(Format::Npy),
        "npz" => Some(Format::Npz),
        "parquet" => Some(Format::Parquet),
        "arrow" | "arrows" | "feather" | "ipc" => Some(Format::Arrow),
        "safetensors" => Some(Format::Safetensors),
        "json" | "jsonl" | "ndjson" => Some(Format::JsonLines),
        "fvecs" => Some(Format::Fvecs),
        "bvecs" => Some(Format::Bvecs),
        "ivecs" => Some(Format::Ivecs),
        "fbin" => Some(Format::Fbin),
        "u8bin" => Some(Format::U8bin),
        "i8bin" => Some(Format::I8bin),
        _ => None,
    }
}
