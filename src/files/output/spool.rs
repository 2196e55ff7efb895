//! A temporary file for a result that must be complete before its first byte can be written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::Output;

/// A temporary file for a result that must be complete before its first byte can be written.
pub(in crate::files) struct Spool {
    file: File,
}

impl Spool {
    pub(in crate::files) fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()? })
    }

    /// Copies the whole content to `output`.
    pub(in crate::files) fn copy_to(mut self, output: &mut Output) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return output.flush();
            }
            output.write_all(&buffer[..read])?;
        }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
