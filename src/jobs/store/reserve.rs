//! Disk reserve for journals: on a full disk, jobs can still be paused, cancelled or failed, and their rows removed.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::jobs::JobError;
use crate::jobs::lock::lock;
use crate::numeric::rng::splitmix64;
use crate::store::StoreError;
use crate::store::disk::{Access, free_bytes, open_regular, remove};

/// Bytes of the reserve: two 4 KiB blocks for each of 64 jobs.
pub(in crate::jobs) const RESERVE_BYTES: u64 = 512 << 10;
/// Smallest reserve to keep, in bytes. Instead of shrinking below it, the file is deleted, which also frees its name.
const PIECE_BYTES_MIN: u64 = 8 << 10;

/// A file that occupies disk space until a journal needs it.
#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    /// Held while a journal is written from the reserve and while the reserve is filled.
    turn: Mutex<()>,
}

impl DiskReserve {
    /// The reserve of the store whose jobs folder is `jobs`. [`DiskReserve::fill`] fills it.
    pub(super) fn new(jobs: &Path) -> Self {
        Self { path: jobs.parent().unwrap_or(jobs).join(".reserve"), turn: Mutex::default() }
    }

    /// Refills the reserve if the disk has twice the missing bytes free. Otherwise a later call does.
    pub(super) fn fill(&self) {
        let _turn = lock(&self.turn);
        if let Err(error) = self.try_fill() {
            tracing::debug!(%error, "cannot fill the store's disk reserve now");
        }
    }

    fn try_fill(&self) -> std::io::Result<()> {
        let length = std::fs::symlink_metadata(&self.path).map_or(0, |data| data.len());
        let lacks = RESERVE_BYTES.saturating_sub(length);
        let folder = self.path.parent().unwrap_or(&self.path);
        if lacks == 0 || free_bytes(folder).is_some_and(|free| free < 2 * lacks) {
            return Ok(());
        }
        let mut file = open_regular(&self.path, Access::Write)?;
        file.seek(SeekFrom::Start(length))?;
        let filled = write_noise(&mut file, lacks).and_then(|()| file.sync_all());
        if filled.is_err() {
            // Part of the bytes may be written: give them back, since others need the space more.
            file.set_len(length)?;
        }
        filled
    }

    /// Writes a journal. While the disk is full, it releases half of the reserve and writes again.
    ///
    /// # Errors
    /// Those of `write`. A full disk is an error only once the reserve is used up.
    pub(super) fn spend<T>(&self, write: impl Fn() -> Result<T, JobError>) -> Result<T, JobError> {
        let mut outcome = write();
        if !is_full(&outcome) {
            return outcome;
        }
        let turn = lock(&self.turn);
        while is_full(&outcome) && self.give_back() {
            outcome = write();
        }
        // The old journal was replaced, so its space is free again.
        let filled = self.try_fill();
        drop(turn);
        if outcome.is_ok() {
            tracing::warn!(refilled = filled.is_ok(), "the disk is full: a journal was written from the disk reserve");
        }
        outcome
    }

    /// Releases half of the reserve; returns false if no reserve is left.
    fn give_back(&self) -> bool {
        let Ok(length) = std::fs::symlink_metadata(&self.path).map(|data| data.len()) else { return false };
        if length / 2 < PIECE_BYTES_MIN {
            return remove(&self.path).is_ok();
        }
        let shrunk = open_regular(&self.path, Access::Write).and_then(|file| {
            file.set_len(length / 2)?;
            file.sync_all()
        });
        shrunk.is_ok() || remove(&self.path).is_ok()
    }
}

fn is_full<T>(outcome: &Result<T, JobError>) -> bool {
    matches!(outcome, Err(JobError::DiskFull { .. } | JobError::Store(StoreError::DiskFull { .. })))
}

/// Writes `count` pseudorandom bytes, which a compressing file system cannot store in less space.
fn write_noise(file: &mut File, count: u64) -> std::io::Result<()> {
    let (mut state, mut block) = (0, Vec::with_capacity(count as usize + 8));
    while (block.len() as u64) < count {
        block.extend_from_slice(&splitmix64(&mut state).to_le_bytes());
    }
    block.truncate(count as usize);
    file.write_all(&block)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::ErrorKind;

    use super::*;
    use crate::store::disk::failed;

    fn full() -> JobError {
        failed("cannot write", Path::new("job.json"))(ErrorKind::StorageFull.into()).into()
    }

    #[test]
    fn writes_on_a_full_disk_use_the_reserve() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = DiskReserve::new(&folder.path().join("jobs"));
        let length = || std::fs::metadata(&reserve.path).map_or(0, |data| data.len());
        reserve.fill();
        assert_eq!(length(), RESERVE_BYTES);
        // A disk on which only the bytes that the reserve releases are free.
        for needed in [1, RESERVE_BYTES / 2, RESERVE_BYTES] {
            let tries = Cell::new(0);
            let written = reserve.spend(|| {
                tries.set(tries.get() + 1);
                if RESERVE_BYTES - length() >= needed { Ok(()) } else { Err(full()) }
            });
            written.expect("the reserve is large enough");
            assert!(tries.get() > 1, "the disk was full first");
            assert_eq!(length(), RESERVE_BYTES, "it is filled again, since this disk has room");
        }
        let refused = reserve.spend(|| Err::<(), _>(full()));
        assert!(matches!(refused, Err(JobError::Store(StoreError::DiskFull { .. }))), "{refused:?}");
        let other = reserve.spend(|| Err::<(), _>(JobError::ShuttingDown));
        assert!(matches!(other, Err(JobError::ShuttingDown)), "{other:?}");
    }

    #[test]
    fn a_folder_in_place_of_the_reserve_is_harmless() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = DiskReserve::new(&folder.path().join("jobs"));
        std::fs::create_dir(&reserve.path).expect("a folder in its place");
        reserve.fill();
        assert!(reserve.spend(|| Err::<(), _>(full())).is_err());
        reserve.spend(|| Ok(())).expect("a disk that is not full needs none");
    }
}
