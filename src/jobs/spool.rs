//! Spool file of received rows: append-only, in checksummed chunks. A chunk is durable before it is acknowledged.
//!
//! The file starts with an 8-byte magic number and the number of columns (u32). Each chunk consists of its number
//! (u64), its role (u32, plus 256 if the values are binary64), its row count (u32), a CRC-32 of these fields and the
//! values (u32), and the values. Values are row-major, binary64 if they were sent so, else binary32. All numbers are
//! little-endian.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use super::index::Index;
use super::store::{JobStore, RowLog, RowsFile};
use super::{JobError, JobId, RowRole};
use crate::model::{Form, Matrix, Values};
use crate::store::disk::failed;
use crate::store::role::role;

const MARK: &[u8; 8] = b"hhspool1";
pub(super) const HEAD_BYTES: u64 = 12;
pub(super) const CHUNK_HEAD_BYTES: usize = 20;
/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Counts of what is on disk; `bytes` is the length of the spool file.
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

/// Header of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChunkHead {
    number: u64,
    role: RowRole,
    /// Whether the values are binary64; else they are binary32.
    is_wide: bool,
    rows: u32,
    crc32: u32,
}

/// Added to the role of a chunk whose values are binary64.
const WIDE: u32 = 256;

impl ChunkHead {
    /// Bytes of the values.
    fn value_bytes(&self, columns: usize) -> u64 {
        u64::from(self.rows) * columns as u64 * number_bytes(self.is_wide)
    }

    fn read(bytes: &[u8; CHUNK_HEAD_BYTES]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (role, rest) = rest.split_first_chunk::<4>()?;
        let (rows, rest) = rest.split_first_chunk::<4>()?;
        let (crc32, _) = rest.split_first_chunk::<4>()?;
        let role = u32::from_le_bytes(*role);
        let is_wide = role & WIDE != 0;
        let role = match role & !WIDE {
            1 => RowRole::Training,
            2 => RowRole::Test,
            _ => return None,
        };
        Some(Self {
            number: u64::from_le_bytes(*number),
            role,
            is_wide,
            rows: u32::from_le_bytes(*rows),
            crc32: u32::from_le_bytes(*crc32),
        })
    }
}

/// An encoded chunk: the bytes to write, with the parsed header.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    head: ChunkHead,
    bytes: Vec<u8>,
}

impl Chunk {
    /// Encodes `rows` as chunk `number`.
    pub(super) fn new(number: u64, role: RowRole, rows: &Matrix) -> Self {
        let mut bytes = Vec::with_capacity(CHUNK_HEAD_BYTES + rows.bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        let is_wide = rows.form().is_wide();
        bytes.extend_from_slice(&(role_number(role) + if is_wide { WIDE } else { 0 }).to_le_bytes());
        bytes.extend_from_slice(&(rows.rows() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        match rows.values() {
            Values::Float32Le(values) | Values::Float64Le(values) => bytes.extend_from_slice(values),
            Values::Floats(values) => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
            // Binary32 represents these values exactly.
            Values::Float16Le(_) | Values::Bfloat16Le(_) | Values::Uint8(_) | Values::Int8(_) => {
                rows.values().to_f32().iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            }
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..16]);
        hasher.update(&bytes[CHUNK_HEAD_BYTES..]);
        let crc32 = hasher.finalize();
        bytes[16..CHUNK_HEAD_BYTES].copy_from_slice(&crc32.to_le_bytes());
        Self { head: ChunkHead { number, role, is_wide, rows: rows.rows() as u32, crc32 }, bytes }
    }

    /// Number of the chunk, from 1.
    pub(super) fn number(&self) -> u64 {
        self.head.number
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.head.rows.into()
    }

    /// Bytes on disk, including the header.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether `other` has the same number, role and rows, judged by the checksums.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.head == other.head
    }
}

/// A spool that is open for appending.
#[derive(Debug)]
pub(super) struct Spool {
    rows: Box<dyn RowLog>,
    columns: usize,
    counts: Counts,
    index: Index,
}

impl Spool {
    /// Creates the spool of a job. It survives a crash only once the record of the job is written.
    pub(super) fn create(store: &dyn JobStore, id: &JobId, columns: usize) -> Result<Self, JobError> {
        let mut head = MARK.to_vec();
        head.extend_from_slice(&(columns as u32).to_le_bytes());
        let rows = store.create_rows(id, &head)?;
        let counts = Counts { bytes: HEAD_BYTES, ..Counts::default() };
        Ok(Self { rows, columns, counts, index: Index::default() })
    }

    /// Opens a spool after a possible crash: truncates a torn last chunk, which was never acknowledged. Damage before
    /// that is an error.
    pub(super) fn recover(store: &dyn JobStore, id: &JobId, columns: usize) -> Result<Self, JobError> {
        let RowsFile { mut file, path } = store.read_rows(id)?;
        let mut index = Index::default();
        let counts = scan(&mut file, &path, columns, Tail::MayBeTorn, &mut |seen| {
            seen.add_to(&mut index, columns);
            ControlFlow::Continue(())
        })?;
        let rows = store.append_rows(id, counts.bytes)?;
        Ok(Self { rows, columns, counts, index })
    }

    /// Counts of what was written so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Columns of each row.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// When the spool last changed, if known.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.rows.modified()
    }

    /// Appends the next chunk and syncs the file: when this returns, the chunk survives a crash.
    ///
    /// # Panics
    /// If `chunk` does not have the next number.
    pub(super) fn append(&mut self, chunk: &Chunk) -> Result<Counts, JobError> {
        self.check_number(chunk);
        self.rows.append(&chunk.bytes)?;
        Ok(self.count(chunk))
    }

    /// Appends the next chunk without syncing: it survives a crash only after [`Spool::sync`].
    ///
    /// # Panics
    /// If `chunk` does not have the next number.
    pub(super) fn put(&mut self, chunk: &Chunk) -> Result<Counts, JobError> {
        self.check_number(chunk);
        self.rows.put(&chunk.bytes)?;
        Ok(self.count(chunk))
    }

    /// Syncs all written chunks to the disk.
    pub(super) fn sync(&mut self) -> Result<(), JobError> {
        self.rows.sync()
    }

    fn check_number(&self, chunk: &Chunk) {
        assert_eq!(chunk.number(), self.counts.chunks + 1, "chunks are appended in their order");
    }

    /// Counts a chunk that was appended.
    fn count(&mut self, chunk: &Chunk) -> Counts {
        self.index.push(chunk.head.role, chunk.rows(), self.counts.bytes, chunk.bytes(), chunk.head.is_wide);
        self.counts.add(&chunk.head, chunk.bytes());
        self.counts
    }

    /// Whether the chunk on disk with the number of `chunk` has the same header, and so the same checksum. The number
    /// must be on disk.
    pub(super) fn holds(&self, chunk: &Chunk) -> Result<bool, JobError> {
        let mut head = [0; CHUNK_HEAD_BYTES];
        let offset = self.index.chunk(chunk.number()).unwrap_or(self.counts.bytes);
        self.rows.read_at(&mut head, offset)?;
        Ok(ChunkHead::read(&head) == Some(chunk.head))
    }

    /// Appends to other rows from now on.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn set_rows(&mut self, rows: Box<dyn RowLog>) {
        self.rows = rows;
    }
}

/// Reads `bytes` at `offset`, without using the file's shared position (on Unix).
pub(super) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
    }
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Tail {
    MayBeTorn,
    IsWhole,
}

/// What [`scan`] reports.
pub(super) enum Seen<'a> {
    /// A block of values of the current chunk; their checksum is not verified yet.
    Values(RowRole, &'a [u8]),
    /// A verified chunk: its role, its row count, its offset in the file, and whether its values are binary64.
    Chunk(RowRole, u64, u64, bool),
}

impl Seen<'_> {
    /// Adds a verified chunk to the index; does nothing for [`Seen::Values`].
    pub(super) fn add_to(&self, index: &mut Index, columns: usize) {
        if let Self::Chunk(role, rows, offset, is_wide) = *self {
            let bytes = CHUNK_HEAD_BYTES as u64 + rows * columns as u64 * number_bytes(is_wide);
            index.push(role, rows, offset, bytes, is_wide);
        }
    }
}

/// Bytes of one value.
pub(super) fn number_bytes(is_wide: bool) -> u64 {
    if is_wide { Form::Float64Le } else { Form::Float32Le }.number_bytes() as u64
}

/// The error for a damaged spool at `path`, with what to do.
pub(super) fn damaged(path: &Path, reason: &str) -> JobError {
    JobError::Damaged { role: role(path), reason: format!("{reason}; send its rows again, as a new job") }
}

/// Reads and verifies all chunks, with one block in memory at a time. If `see` breaks, it returns the counts so far.
pub(super) fn scan(
    file: &mut File,
    path: &Path,
    columns: usize,
    tail: Tail,
    see: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<Counts, JobError> {
    let io_failed = |error: io::Error| JobError::from(failed("cannot read", path)(error));
    let length = file.metadata().map_err(io_failed)?.len();
    file.seek(SeekFrom::Start(0)).map_err(io_failed)?;
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, file);
    let mut head = [0; HEAD_BYTES as usize];
    if length < HEAD_BYTES {
        return Err(damaged(path, &format!("{length} bytes, expected at least {HEAD_BYTES}")));
    }
    reader.read_exact(&mut head).map_err(io_failed)?;
    let (mark, width) = head.split_at(8);
    if mark != MARK {
        return Err(damaged(path, "its magic number is wrong"));
    }
    if width != (columns as u32).to_le_bytes() {
        return Err(damaged(path, &format!("its rows do not have {columns} columns")));
    }
    let mut counts = Counts { bytes: HEAD_BYTES, ..Counts::default() };
    let mut block = Vec::new();
    while counts.bytes < length {
        let left = length - counts.bytes;
        let number = counts.chunks + 1;
        let torn = |reason: &str| {
            if tail == Tail::MayBeTorn { Ok(counts) } else { Err(damaged(path, &format!("chunk {number} {reason}"))) }
        };
        if left < CHUNK_HEAD_BYTES as u64 {
            return torn("is truncated");
        }
        let mut bytes = [0; CHUNK_HEAD_BYTES];
        reader.read_exact(&mut bytes).map_err(io_failed)?;
        let head = ChunkHead::read(&bytes);
        let size = head.as_ref().map_or(u64::MAX, |head| head.value_bytes(columns));
        let (Some(head), true) = (head, size <= left - CHUNK_HEAD_BYTES as u64) else {
            // Only the last chunk can be unacknowledged: if another one follows, this one was damaged later.
            if tail == Tail::MayBeTorn && has_chunk(reader.get_ref(), number + 1, counts.bytes, length, columns)? {
                return Err(damaged(path, &format!("the header of chunk {number} is damaged")));
            }
            return torn("is truncated, or its header is damaged");
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..16]);
        let mut unread = size;
        while unread > 0 {
            block.resize(unread.min(BLOCK_BYTES as u64) as usize, 0);
            reader.read_exact(&mut block).map_err(io_failed)?;
            hasher.update(&block);
            unread -= block.len() as u64;
            if see(Seen::Values(head.role, &block)).is_break() {
                return Ok(counts);
            }
        }
        if head.number != number || head.crc32 != hasher.finalize() {
            // The last chunk may be torn. A chunk that others follow was acknowledged, so it was damaged later.
            let is_last = size + CHUNK_HEAD_BYTES as u64 == left;
            let may_be_torn = tail == Tail::MayBeTorn && is_last;
            if may_be_torn && !has_chunk(reader.get_ref(), number + 1, counts.bytes, length, columns)? {
                return torn("does not match its checksum");
            }
            return Err(damaged(path, &format!("chunk {number} does not match its checksum")));
        }
        let _ = see(Seen::Chunk(head.role, head.rows.into(), counts.bytes, head.is_wide));
        counts.add(&head, CHUNK_HEAD_BYTES as u64 + size);
    }
    Ok(counts)
}

/// Whether an intact chunk `number` lies anywhere between `offset` and `length`.
fn has_chunk(file: &File, number: u64, offset: u64, length: u64, columns: usize) -> Result<bool, JobError> {
    let failed = |error| JobError::from(failed("cannot read", Path::new("rows.spool"))(error));
    let mark = number.to_le_bytes();
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = offset;
    while at + (CHUNK_HEAD_BYTES as u64) <= length {
        block.resize((length - at).min(BLOCK_BYTES as u64) as usize, 0);
        read_exact_at(file, &mut block, at).map_err(failed)?;
        for (place, bytes) in (at..).zip(block.array_windows::<CHUNK_HEAD_BYTES>()) {
            let Some(head) = ChunkHead::read(bytes).filter(|_| bytes[..8] == mark) else { continue };
            let size = head.value_bytes(columns);
            if size > length - place - CHUNK_HEAD_BYTES as u64 {
                continue;
            }
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[..16]);
            let (mut values, mut read) = (vec![0; BLOCK_BYTES], 0);
            while read < size {
                values.resize((size - read).min(BLOCK_BYTES as u64) as usize, 0);
                read_exact_at(file, &mut values, place + CHUNK_HEAD_BYTES as u64 + read).map_err(failed)?;
                hasher.update(&values);
                read += values.len() as u64;
            }
            if hasher.finalize() == head.crc32 {
                return Ok(true);
            }
        }
        at += (block.len() - (CHUNK_HEAD_BYTES - 1)) as u64;
    }
    Ok(false)
}

fn role_number(role: RowRole) -> u32 {
    match role {
        RowRole::Training => 1,
        RowRole::Test => 2,
    }
}

#[cfg(test)]
mod tests;
