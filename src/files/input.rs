//! Opens files and decompresses them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;

use super::FileError;
use super::region::Region;
use crate::model::Missing;

/// Buffer size; the format is detected from the bytes in the first buffer.
const BUFFER_BYTES: usize = 1 << 16;
/// Maximum size of a stream (compressed file, standard input) that is kept in memory where a format needs random
/// access.
pub(super) const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Memory limit of xz decompression; `xz -9` needs 64 MiB.
const UNPACKING_KIB_MAX: u32 = 256 << 10;
/// Maximum number of nested compression layers.
const LAYERS_MAX: usize = 4;

/// An open file.
pub(super) struct Input {
    /// The name in error messages.
    pub(super) path: String,
    /// The name whose ending can decide the format: that of the file, or of the file in an archive.
    pub(super) name: String,
    /// The decompressed bytes, from the first.
    pub(super) stream: Box<dyn BufRead + Send>,
    /// The same bytes with random access, if the file is not compressed and not a stream.
    pub(super) region: Option<Region>,
    /// Whether values may be missing.
    pub(super) missing: Missing,
    /// Whether the stream may pause for long; opening then waits only for its first lines.
    pub(super) live: bool,
    /// Notes for the user so far.
    pub(super) notes: Vec<String>,
}

/// A compression format.
#[derive(Clone, Copy)]
enum Packing {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Packing {
    fn of(first: &[u8]) -> Option<Self> {
        if first.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            // A skippable frame, which parallel compressors write first.
            || first.get(1..4) == Some(&[0x2a, 0x4d, 0x18]) && first[0] >> 4 == 5
        {
            Some(Self::Zstd)
        } else if first.starts_with(b"BZh") && first.get(4..10) == Some(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59]) {
            Some(Self::Bzip2)
        } else if first.starts_with(b"\xfd7zXZ\0") {
            Some(Self::Xz)
        } else {
            None
        }
    }

    fn unpack(self, path: &str, packed: Box<dyn BufRead + Send>) -> Result<Box<dyn BufRead + Send>, FileError> {
        let unpacked: Box<dyn Read + Send> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(packed).map_err(FileError::io(path))?),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, UNPACKING_KIB_MAX)),
        };
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)))
    }
}

impl Input {
    /// Opens a file; errors call it `name`.
    pub(super) fn open(name: &str, path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::io(name))?;
        if file.metadata().is_ok_and(|data| data.is_dir()) {
            return Err(FileError::content(name, "it is a folder", "a file"));
        }
        Self::of_file(name, file)
    }

    /// Uses a file that is already open.
    pub(super) fn of_file(name: &str, file: File) -> Result<Self, FileError> {
        // Only regular files support random access; a pipe does not.
        let again = file.metadata().is_ok_and(|data| data.is_file()).then(|| file.try_clone()).transpose();
        let region = again.and_then(|file| file.map(Region::of_file).transpose()).map_err(FileError::io(name))?;
        Self::new(name, Box::new(file), region)
    }

    /// Reads from a stream, with `region` for random access if it has that.
    pub(super) fn new(path: &str, raw: Box<dyn Read + Send>, region: Option<Region>) -> Result<Self, FileError> {
        let mut stream: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(BUFFER_BYTES, raw));
        let mut region = region;
        for _ in 0..LAYERS_MAX {
            let first = stream.fill_buf().map_err(FileError::io(path))?;
            let Some(packing) = Packing::of(first) else { break };
            stream = packing.unpack(path, stream)?;
            region = None;
        }
        let (path, name) = (path.to_owned(), path.to_owned());
        Ok(Self { path, name, stream, region, missing: Missing::Refused, live: false, notes: Vec::new() })
    }

    /// Random access to the bytes; a stream is read into memory.
    pub(super) fn positions(&mut self, what: &str) -> Result<Region, FileError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let mut bytes = Vec::new();
        let mut taken = (&mut self.stream).take(KEPT_BYTES_MAX + 1);
        taken.read_to_end(&mut bytes).map_err(FileError::io(&self.path))?;
        if bytes.len() as u64 > KEPT_BYTES_MAX {
            let got = format!("it is {what}, compressed or from a stream, of more than {KEPT_BYTES_MAX} bytes");
            return Err(FileError::content(&self.path, got, "a plain file: decompress it first"));
        }
        let region = Region::of_bytes(bytes);
        self.region = Some(region.clone());
        Ok(region)
    }
}
