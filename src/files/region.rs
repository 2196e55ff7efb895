//! Random access to bytes: of a file, of a part of it, or in memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

#[derive(Clone, Debug)]
enum Source {
    File(Arc<File>),
    Memory(Bytes),
}

/// A range of bytes of a file or of memory.
#[derive(Clone, Debug)]
pub(super) struct Region {
    source: Source,
    start: u64,
    length: u64,
}

impl Region {
    /// A whole file.
    pub(super) fn of_file(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { source: Source::File(Arc::new(file)), start: 0, length })
    }

    /// Bytes in memory.
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self { source: Source::Memory(bytes.into()), start: 0, length }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// A part of this region; `None` if it extends beyond the end.
    pub(super) fn part(&self, start: u64, length: u64) -> Option<Self> {
        let end = start.checked_add(length)?;
        (end <= self.length).then(|| Self { source: self.source.clone(), start: self.start + start, length })
    }

    /// Reads at most `buffer.len()` bytes from an offset; 0 at the end.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.length.saturating_sub(at);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if count == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..count];
        match &self.source {
            Source::File(file) => file.read_at(buffer, self.start + at),
            Source::Memory(bytes) => {
                // Offsets in memory fit into `usize`.
                let first = (self.start + at) as usize;
                buffer.copy_from_slice(&bytes[first..first + count]);
                Ok(count)
            }
        }
    }

    /// Fills `buffer` from an offset.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.reader(at).read_exact(buffer)
    }

    /// An independent reader that starts at an offset.
    pub(super) fn reader(&self, position: u64) -> Cursor {
        Cursor { region: self.clone(), position }
    }
}

/// A reader over a region.
pub(super) struct Cursor {
    region: Region,
    position: u64,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.region.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let to = match position {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::End(by) => self.region.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
