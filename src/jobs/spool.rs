//! Received rows on disk: an append-only file of checksummed chunks. A chunk is durable before it is acknowledged.
//!
//! After an 8-byte mark and the width of the rows (u32), each chunk is: its number (u64), role (u32), rows (u32), a CRC-32
//! of these and of the values (u32), and the values (row-major binary32). All little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{JobError, RowRole};
use crate::model::{Matrix, Values};
use crate::store::disk::failed;

const MARK: &[u8; 8] = b"hhspool1";
const HEAD_BYTES: u64 = 12;
const CHUNK_HEAD_BYTES: usize = 20;

/// What is safe on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) chunks: u64,
    pub(super) training_rows: u64,
    pub(super) test_rows: u64,
    pub(super) bytes: u64,
}

impl Counts {
    pub(super) fn rows(&self) -> u64 {
        self.training_rows + self.test_rows
    }

    fn add(&mut self, head: &ChunkHead, bytes: u64) {
        self.chunks = head.number;
        match head.role {
            RowRole::Training => self.training_rows += u64::from(head.rows),
            RowRole::Test => self.test_rows += u64::from(head.rows),
        }
        self.bytes += bytes;
    }
}

/// A spool that is being written.
#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    columns: usize,
    counts: Counts,
}

/// All rows of a spool, row-major.
#[derive(Debug, Default)]
pub(super) struct SpooledRows {
    pub(super) training: Vec<f32>,
    pub(super) test: Vec<f32>,
}

struct ChunkHead {
    number: u64,
    role: RowRole,
    rows: u32,
    crc32: u32,
}

/// Where the rows of the job in `folder` are.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("rows.spool")
}

/// Whether rows were received for the job in `folder`.
pub(super) fn holds_chunks(folder: &Path) -> bool {
    path(folder).metadata().is_ok_and(|data| data.len() > HEAD_BYTES)
}

impl Spool {
    /// A new spool in `folder`. Its name is durable once the caller has synced the folder.
    pub(super) fn create(folder: &Path, columns: usize) -> Result<Self, JobError> {
        let path = path(folder);
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed("cannot create", &path))?;
        let mut head = MARK.to_vec();
        head.extend_from_slice(&(columns as u32).to_le_bytes());
        file.write_all(&head).and_then(|()| file.sync_all()).map_err(failed("cannot write", &path))?;
        Ok(Self { path, file, columns, counts: Counts { bytes: HEAD_BYTES, ..Counts::default() } })
    }

    /// Opens a spool that a crash may have torn: what follows the last whole chunk is cut off, since it was never
    /// acknowledged. Damage before that is an error.
    pub(super) fn recover(folder: &Path, columns: usize) -> Result<Self, JobError> {
        let path = path(folder);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed("cannot open", &path))?;
        let counts = read(&mut file, &path, columns, Tail::MayBeTorn, &mut |_, _| ())?;
        file.set_len(counts.bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(failed("cannot repair", &path))?;
        Ok(Self { path, file, columns, counts })
    }

    /// What is safe on disk.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that a chunk of `rows` takes.
    pub(super) fn chunk_bytes(rows: &Matrix) -> u64 {
        (CHUNK_HEAD_BYTES + rows.bytes()) as u64
    }

    /// Appends the next chunk; when this returns, it survives any crash.
    pub(super) fn append(&mut self, role: RowRole, rows: &Matrix) -> Result<Counts, JobError> {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD_BYTES + rows.bytes());
        bytes.extend_from_slice(&(self.counts.chunks + 1).to_le_bytes());
        bytes.extend_from_slice(&role_number(role).to_le_bytes());
        bytes.extend_from_slice(&(rows.rows() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        match rows.values() {
            Values::Float32Le(values) => bytes.extend_from_slice(values),
            Values::Floats(values) => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
        }
        let crc32 = checksum(&bytes[..16], &bytes[CHUNK_HEAD_BYTES..]);
        bytes[16..CHUNK_HEAD_BYTES].copy_from_slice(&crc32.to_le_bytes());
        if let Err(error) = self.file.write_all(&bytes).and_then(|()| self.file.sync_data()) {
            // Back to the last whole chunk, so that the next append does not follow half a chunk.
            let _ = self.file.set_len(self.counts.bytes);
            let _ = self.file.seek(SeekFrom::Start(self.counts.bytes));
            return Err(failed("cannot write", &self.path)(error).into());
        }
        let head = ChunkHead { number: self.counts.chunks + 1, role, rows: rows.rows() as u32, crc32 };
        self.counts.add(&head, bytes.len() as u64);
        Ok(self.counts)
    }

    /// Width of the rows.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }
}

/// All rows of the finished spool in `folder`; `training_rows` of them are expected to be trained on.
pub(super) fn read_all(folder: &Path, columns: usize, training_rows: u64) -> Result<(SpooledRows, Counts), JobError> {
    let path = path(folder);
    let mut file = File::open(&path).map_err(failed("cannot open", &path))?;
    let length = file.metadata().map_err(failed("cannot read", &path))?.len();
    let mut rows = SpooledRows::default();
    // In one piece: growing would need room for the rows twice. Never more than the file can hold.
    let numbers = training_rows.saturating_mul(columns as u64).min(length / 4);
    rows.training.try_reserve_exact(usize::try_from(numbers).unwrap_or(usize::MAX)).map_err(|_| JobError::Damaged {
        path: path.display().to_string(),
        reason: format!("its {training_rows} rows do not fit this machine's memory"),
    })?;
    let counts = read(&mut file, &path, columns, Tail::IsWhole, &mut |head, bytes| {
        let target = match head.role {
            RowRole::Training => &mut rows.training,
            RowRole::Test => &mut rows.test,
        };
        target.extend(bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)));
    })?;
    Ok((rows, counts))
}

#[derive(Clone, Copy, PartialEq)]
enum Tail {
    MayBeTorn,
    IsWhole,
}

/// Reads chunk after chunk, one in memory at a time.
fn read(
    file: &mut File,
    path: &Path,
    columns: usize,
    tail: Tail,
    found: &mut dyn FnMut(&ChunkHead, &[u8]),
) -> Result<Counts, JobError> {
    let damaged = |reason: String| JobError::Damaged { path: path.display().to_string(), reason };
    let io_failed = |error: io::Error| JobError::from(failed("cannot read", path)(error));
    let length = file.metadata().map_err(io_failed)?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut head = [0; HEAD_BYTES as usize];
    if length < HEAD_BYTES {
        return Err(damaged(format!("{length} bytes, expected at least {HEAD_BYTES}")));
    }
    reader.read_exact(&mut head).map_err(io_failed)?;
    let (mark, width) = head.split_at(8);
    if mark != MARK {
        return Err(damaged("it does not begin like a spool".to_owned()));
    }
    if width != (columns as u32).to_le_bytes() {
        return Err(damaged(format!("its rows do not have {columns} columns")));
    }
    let mut counts = Counts { bytes: HEAD_BYTES, ..Counts::default() };
    let mut bytes = Vec::new();
    while counts.bytes < length {
        let left = length - counts.bytes;
        let number = counts.chunks + 1;
        let torn = |reason: &str| {
            if tail == Tail::MayBeTorn { Ok(counts) } else { Err(damaged(format!("chunk {number} {reason}"))) }
        };
        if left < CHUNK_HEAD_BYTES as u64 {
            return torn("is cut off");
        }
        let mut chunk = [0; CHUNK_HEAD_BYTES];
        reader.read_exact(&mut chunk).map_err(io_failed)?;
        let head = chunk_head(&chunk);
        let size = u64::from(head.as_ref().map_or(u32::MAX, |head| head.rows)) * columns as u64 * 4;
        if size > left - CHUNK_HEAD_BYTES as u64 {
            return torn("is cut off, or its head is broken");
        }
        bytes.resize(size as usize, 0);
        reader.read_exact(&mut bytes).map_err(io_failed)?;
        let whole = head.filter(|head| head.number == number && head.crc32 == checksum(&chunk[..16], &bytes));
        let Some(head) = whole else {
            // The last chunk may be torn; one that others follow was acknowledged and has rotted.
            return if size + CHUNK_HEAD_BYTES as u64 == left {
                torn("does not fit its checksum")
            } else {
                Err(damaged(format!("chunk {number} does not fit its checksum")))
            };
        };
        found(&head, &bytes);
        counts.add(&head, CHUNK_HEAD_BYTES as u64 + size);
    }
    Ok(counts)
}

fn chunk_head(bytes: &[u8; CHUNK_HEAD_BYTES]) -> Option<ChunkHead> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (role, rest) = rest.split_first_chunk::<4>()?;
    let (rows, rest) = rest.split_first_chunk::<4>()?;
    let (crc32, _) = rest.split_first_chunk::<4>()?;
    let role = match u32::from_le_bytes(*role) {
        1 => RowRole::Training,
        2 => RowRole::Test,
        _ => return None,
    };
    Some(ChunkHead {
        number: u64::from_le_bytes(*number),
        role,
        rows: u32::from_le_bytes(*rows),
        crc32: u32::from_le_bytes(*crc32),
    })
}

fn role_number(role: RowRole) -> u32 {
    match role {
        RowRole::Training => 1,
        RowRole::Test => 2,
    }
}

fn checksum(head: &[u8], values: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(values);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(values: &[f32]) -> Matrix {
        Matrix::new((values.len() / 2) as u32, 2, Values::Floats(values.to_vec())).expect("whole rows")
    }

    fn spool_of(folder: &Path, chunks: &[(RowRole, Vec<f32>)]) -> Vec<u64> {
        let mut spool = Spool::create(folder, 2).expect("creates");
        chunks.iter().map(|(role, values)| spool.append(*role, &rows(values)).expect("appends").bytes).collect()
    }

    fn three() -> Vec<(RowRole, Vec<f32>)> {
        vec![
            (RowRole::Training, vec![1.0, 2.0, 3.0, 4.0]),
            (RowRole::Test, vec![5.0, 6.0]),
            (RowRole::Training, vec![7.0, 8.0]),
        ]
    }

    #[test]
    fn rows_come_back_by_role_and_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        spool_of(folder.path(), &three());
        let (rows, counts) = read_all(folder.path(), 2, 3).expect("reads");
        assert_eq!(rows.training, [1.0, 2.0, 3.0, 4.0, 7.0, 8.0]);
        assert_eq!(rows.test, [5.0, 6.0]);
        assert_eq!((counts.chunks, counts.training_rows, counts.test_rows), (3, 3, 1));
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_off_and_the_upload_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let ends = spool_of(folder.path(), &three());
        let path = path(folder.path());
        let whole = std::fs::read(&path).expect("reads");
        for length in ends[1]..ends[2] {
            std::fs::write(&path, &whole[..length as usize]).expect("writes");
            let mut spool = Spool::recover(folder.path(), 2).expect("recovers");
            assert_eq!(spool.counts().chunks, 2, "cut to {length} bytes");
            spool.append(RowRole::Training, &rows(&[7.0, 8.0])).expect("appends");
            assert_eq!(std::fs::read(&path).expect("reads"), whole, "cut to {length} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_is_never_taken_for_rows() {
        let folder = tempfile::tempdir().expect("a folder");
        let ends = spool_of(folder.path(), &three());
        let path = path(folder.path());
        let whole = std::fs::read(&path).expect("reads");
        for index in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[index] ^= 1 << (index % 8);
            std::fs::write(&path, &flipped).expect("writes");
            assert!(read_all(folder.path(), 2, 3).is_err(), "byte {index}");
            // Recovery keeps whole chunks before the flip alone, or refuses.
            if let Ok(spool) = Spool::recover(folder.path(), 2) {
                let whole_before = ends.iter().filter(|end| **end <= index as u64).count() as u64;
                assert_eq!(spool.counts().chunks, whole_before, "byte {index}");
            }
        }
    }

    #[test]
    fn another_width_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        spool_of(folder.path(), &three());
        assert!(matches!(Spool::recover(folder.path(), 3), Err(JobError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), with_head in any::<bool>()) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut file = if with_head { [&MARK[..], &2u32.to_le_bytes()].concat() } else { Vec::new() };
            file.extend_from_slice(&bytes);
            std::fs::write(path(folder.path()), &file).expect("writes");
            let _ = read_all(folder.path(), 2, 3);
            let _ = Spool::recover(folder.path(), 2);
        }
    }
}
