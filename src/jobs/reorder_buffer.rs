//! Reorder buffer: keeps chunks that arrive ahead of a missing one in memory, within limits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::JobError;
use super::spool::Chunk;

/// Maximum buffered chunks of one upload.
pub(super) const CHUNKS_MAX: usize = 64;
/// Maximum buffered bytes of one upload.
const BYTES_MAX: u64 = 64 << 20;
/// Maximum buffered bytes of all uploads together.
const ALL_BYTES_MAX: u64 = 256 << 20;

/// Buffered bytes of all uploads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct ReorderBuffers(Arc<AtomicU64>);

/// The buffered chunks of one upload.
#[derive(Debug)]
pub(super) struct ReorderBuffer {
    chunks: BTreeMap<u64, Chunk>,
    bytes: u64,
    all: ReorderBuffers,
}

impl ReorderBuffer {
    pub(super) fn new(all: ReorderBuffers) -> Self {
        Self { chunks: BTreeMap::new(), bytes: 0, all }
    }

    /// Buffers a chunk. `next` is the number of the missing chunk, for error texts. A chunk that is already buffered is
    /// not stored twice.
    pub(super) fn keep(&mut self, chunk: Chunk, next: u64) -> Result<(), JobError> {
        let (count, bytes) = (self.chunks.len(), chunk.bytes());
        match self.chunks.entry(chunk.number()) {
            Entry::Occupied(kept) if kept.get().is_same_as(&chunk) => Ok(()),
            Entry::Occupied(_) => Err(JobError::ChunkDiffers { number: chunk.number() }),
            Entry::Vacant(free) => {
                if count >= CHUNKS_MAX || self.bytes + bytes > BYTES_MAX {
                    return Err(JobError::TooFarAhead { next, chunks_max: CHUNKS_MAX, bytes_max: BYTES_MAX });
                }
                if self.all.0.fetch_add(bytes, Ordering::Relaxed) + bytes > ALL_BYTES_MAX {
                    self.all.0.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(JobError::AheadFull { next, bytes_max: ALL_BYTES_MAX });
                }
                self.bytes += bytes;
                free.insert(chunk);
                Ok(())
            }
        }
    }

    /// Whether no chunk is buffered.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Removes and returns the chunk with this number, if it is buffered.
    pub(super) fn take(&mut self, number: u64) -> Option<Chunk> {
        let chunk = self.chunks.remove(&number)?;
        self.bytes -= chunk.bytes();
        self.all.0.fetch_sub(chunk.bytes(), Ordering::Relaxed);
        Some(chunk)
    }
}

impl Drop for ReorderBuffer {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::RowRole;
    use crate::model::{Matrix, Values};

    fn chunk(number: u64, rows: usize, value: f32) -> Chunk {
        let rows = Matrix::new(rows as u32, 1, Values::Floats(vec![value; rows])).expect("whole rows");
        Chunk::new(number, RowRole::Training, &rows)
    }

    #[test]
    fn chunks_are_returned_by_number() {
        let all = ReorderBuffers::default();
        let mut ahead = ReorderBuffer::new(all.clone());
        for number in [5, 3, 5] {
            ahead.keep(chunk(number, 2, 1.0), 2).expect("room");
        }
        assert!(matches!(ahead.keep(chunk(5, 2, 2.0), 2), Err(JobError::ChunkDiffers { number: 5 })));
        assert!(ahead.take(2).is_none());
        assert_eq!(ahead.take(3).map(|chunk| chunk.number()), Some(3));
        assert!(ahead.take(3).is_none());
        assert_eq!(all.0.load(Ordering::Relaxed), 28, "one of two rows is kept");
        drop(ahead);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_chunk_count_and_the_bytes_are_limited() {
        let mut ahead = ReorderBuffer::new(ReorderBuffers::default());
        for number in 0..CHUNKS_MAX as u64 {
            ahead.keep(chunk(10 + number, 1, 1.0), 2).expect("room");
        }
        let refused = ahead.keep(chunk(9, 1, 1.0), 2);
        assert!(matches!(refused, Err(JobError::TooFarAhead { next: 2, .. })), "{refused:?}");
        ahead.keep(chunk(10, 1, 1.0), 2).expect("is there already");
        let mut ahead = ReorderBuffer::new(ReorderBuffers::default());
        for number in 0..4 {
            ahead.keep(chunk(10 + number, (16 << 18) - 5, 1.0), 2).expect("room");
        }
        let refused = ahead.keep(chunk(9, 1 << 10, 1.0), 2);
        assert!(matches!(refused, Err(JobError::TooFarAhead { .. })), "{refused:?}");
    }

    #[test]
    fn all_uploads_share_one_limit() {
        let all = ReorderBuffers::default();
        all.0.store(ALL_BYTES_MAX - 30, Ordering::Relaxed);
        let mut ahead = ReorderBuffer::new(all.clone());
        ahead.keep(chunk(3, 1, 1.0), 2).expect("room");
        let refused = ahead.keep(chunk(4, 1, 1.0), 2);
        assert!(matches!(refused, Err(JobError::AheadFull { next: 2, .. })), "{refused:?}");
        assert_eq!(all.0.load(Ordering::Relaxed), ALL_BYTES_MAX - 6, "what is refused takes nothing");
    }
}
