//! File of a blob of a job, such as the checkpoint from which training resumes after a crash. It is checksummed and
//! replaced atomically.
//!
//! The file contains an 8-byte magic number, the length of the content (u64), a CRC-32 of the magic number, the length
//! and the content (u32), and the content. All numbers are little-endian.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use crate::jobs::JobError;
use crate::store::disk::{Access, failed, open_regular, remove_or_warn, sync_folder, temporary_in};
use crate::store::role::role;

const MARK: &[u8; 8] = b"hhpoint1";
const HEAD_BYTES: usize = 20;

/// Bytes on disk of a blob with content `bytes`.
pub(in crate::jobs) fn bytes_on_disk(bytes: &[u8]) -> u64 {
    (HEAD_BYTES + bytes.len()) as u64
}

/// Replaces the file at `path`, in `folder`. When this returns, the new one survives a crash; until then, the old one
/// does.
pub(super) fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let temporary = temporary_in(folder);
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MARK);
    head[8..16].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let crc32 = checksum(&head[..16], bytes);
    head[16..].copy_from_slice(&crc32.to_le_bytes());
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(&head)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        // Remove the incomplete file; the old one stays.
        remove_or_warn(&temporary);
        return Err(failed("cannot write", path)(error).into());
    }
    Ok(sync_folder(folder)?)
}

/// Reads the file at `path`, if it exists.
///
/// # Errors
/// [`JobError::Damaged`] if the file is not as it was written.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, JobError> {
    let damaged = |reason: String| JobError::Damaged {
        role: role(path),
        reason: format!("{reason}; its job cannot resume: train again as a new job, and send the rows again"),
    };
    let mut file = match open_regular(path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("cannot read", path)(error).into()),
    };
    let length = file.metadata().map_err(failed("cannot read", path))?.len();
    let mut head = [0; HEAD_BYTES];
    if length < HEAD_BYTES as u64 {
        return Err(damaged(format!("{length} bytes, expected at least {HEAD_BYTES}")));
    }
    file.read_exact(&mut head).map_err(failed("cannot read", path))?;
    let told = head[8..16].first_chunk().map_or(0, |told| u64::from_le_bytes(*told));
    if head[..8] != *MARK {
        return Err(damaged("its magic number is wrong".to_owned()));
    }
    // Check the length before allocating that much.
    if told != length - HEAD_BYTES as u64 {
        return Err(damaged(format!("it holds {} bytes, expected {told}", length - HEAD_BYTES as u64)));
    }
    let mut bytes = Vec::new();
    let room = usize::try_from(told).ok().and_then(|told| bytes.try_reserve_exact(told).ok());
    room.ok_or_else(|| damaged(format!("its {told} bytes do not fit in memory")))?;
    file.take(told).read_to_end(&mut bytes).map_err(failed("cannot read", path))?;
    if head[16..] != checksum(&head[..16], &bytes).to_le_bytes() {
        return Err(damaged("it does not match its checksum".to_owned()));
    }
    Ok(Some(bytes))
}

fn checksum(head: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_checkpoint_is_read_back_unchanged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint");
        assert_eq!(read(&path).expect("nothing is broken"), None);
        let long = vec![7; 100_000];
        for bytes in [&b"first"[..], b"", &long] {
            write(folder.path(), &path, bytes).expect("writes");
            assert_eq!(read(&path).expect("reads").as_deref(), Some(bytes));
            assert_eq!(path.metadata().expect("there").len(), bytes_on_disk(bytes));
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing temporary stays");
    }

    #[test]
    fn every_flipped_bit_and_wrong_length_is_detected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint");
        write(folder.path(), &path, b"weights, moments, position").expect("writes");
        let whole = std::fs::read(&path).expect("reads");
        for index in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[index] ^= 1 << bit;
                std::fs::write(&path, &flipped).expect("writes");
                let error = read(&path).expect_err("damaged").to_string();
                assert!(error.contains("damaged") && error.contains("train again"), "byte {index}: {error}");
            }
            std::fs::write(&path, &whole[..index]).expect("writes");
            assert!(matches!(read(&path), Err(JobError::Damaged { .. })), "cut to {index} bytes");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).expect("writes");
        assert!(matches!(read(&path), Err(JobError::Damaged { .. })), "a byte more");
    }

    #[test]
    fn a_failed_write_keeps_the_old_checkpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("checkpoint");
        write(folder.path(), &path, b"old").expect("writes");
        let gone = folder.path().join("gone");
        let error = write(&gone, &gone.join("checkpoint"), b"new").expect_err("no such folder");
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(read(&path).expect("reads").as_deref(), Some(&b"old"[..]));
    }
}
