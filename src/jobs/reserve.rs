//! Space on the disk that is kept for journals: where the disk is full, a job can still be paused, cancelled and failed, and its
//! rows can go.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::JobError;
use super::job::lock;
use crate::store::StoreError;
use crate::store::disk::{Access, free_bytes, open_regular, remove};

/// Bytes of the reserve: two blocks for each of 64 jobs.
pub(super) const RESERVE_BYTES: u64 = 512 << 10;
/// Less than this is no use: the file goes as a whole, and a name with it.
const PIECE_BYTES_MIN: u64 = 8 << 10;

/// A file that takes space until a journal needs it.
#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    /// Held while a journal is written from the reserve, and while the reserve is filled.
    turn: Mutex<()>,
}

impl DiskReserve {
    /// The reserve of the store that has its jobs in `jobs`. It is filled by [`DiskReserve::fill`].
    pub(super) fn new(jobs: &Path) -> Self {
        Self { path: jobs.parent().unwrap_or(jobs).join(".reserve"), turn: Mutex::default() }
    }

    /// Takes what the reserve lacks, where twice as much is free. What cannot be taken now is taken later.
    pub(super) fn fill(&self) {
        let _turn = lock(&self.turn);
        if let Err(error) = self.try_fill() {
            tracing::debug!(%error, "the disk reserve of the store cannot be filled now");
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
            // Half of it may be there: what the disk refused is not to be taken from others.
            file.set_len(length)?;
        }
        filled
    }

    /// Writes a journal. Each time the disk is full, a part of the reserve is given back and the journal is written again.
    ///
    /// # Errors
    /// Those of `write`; that of a full disk once the reserve is used up.
    pub(super) fn spend<T>(&self, write: impl Fn() -> Result<T, JobError>) -> Result<T, JobError> {
        let mut outcome = write();
        if !is_full(&outcome) {
            return outcome;
        }
        let turn = lock(&self.turn);
        while is_full(&outcome) && self.give_back() {
            outcome = write();
        }
        // The old journal is gone, and its space is free.
        let filled = self.try_fill();
        drop(turn);
        if outcome.is_ok() {
            tracing::warn!(refilled = filled.is_ok(), "the disk is full: a journal was written from the disk reserve");
        }
        outcome
    }

    /// Gives half of the reserve back to the disk; false if nothing is left of it.
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

/// Writes `count` bytes that no file system stores in less space.
fn write_noise(file: &mut File, count: u64) -> std::io::Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(count as usize + 8);
    while (block.len() as u64) < count {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
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
    fn a_journal_is_written_from_the_reserve_as_long_as_it_lasts() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = DiskReserve::new(&folder.path().join("jobs"));
        let length = || std::fs::metadata(&reserve.path).map_or(0, |data| data.len());
        reserve.fill();
        assert_eq!(length(), RESERVE_BYTES);
        // A disk on which nothing is free but what the reserve gives back.
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
    fn what_is_no_regular_file_is_no_reserve_and_does_no_harm() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = DiskReserve::new(&folder.path().join("jobs"));
        std::fs::create_dir(&reserve.path).expect("a folder in its place");
        reserve.fill();
        assert!(reserve.spend(|| Err::<(), _>(full())).is_err());
        reserve.spend(|| Ok(())).expect("a disk that is not full needs none");
    }
}
