//! A file that is read from a position on, whatever others read of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The bytes from a position on.
pub(super) struct FromPosition {
    pub(super) file: Arc<File>,
    pub(super) position: u64,
}

impl Read for FromPosition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}
