//! The split of the rows into training and held-out rows, and of their blocks into windows.

use crate::numeric::rng::{Stream, Use};

/// Bytes of a block: large enough for the full speed of a disk.
const BLOCK_BYTES: u64 = 256 << 10;
/// Up to this size, all rows are kept in memory.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a window of rows that do not fit in memory; the next window is read in the background.
const WINDOW_BYTES: u64 = 64 << 20;
/// Largest number of rows of a window: each row also takes two numbers in `order`.
const WINDOW_ROWS_MAX: u64 = 1 << 20;

/// The split of the rows: a function of their number, their width and the seed.
#[derive(Clone, Debug)]
pub(in crate::training) struct Split {
    rows: u64,
    pub(super) features: usize,
    pub(super) held_back: u64,
    pub(super) seed: u64,
    pub(super) block_rows: u64,
    pub(super) window_blocks: u64,
}

impl Split {
    /// Splits `rows` rows, of which `held_back` are held out. At least one row is left for training.
    pub(in crate::training) fn new(rows: u64, features: usize, held_back: u64, seed: u64) -> Self {
        Self::sized(rows, features, held_back, seed, RESIDENT_BYTES_MAX, WINDOW_BYTES)
    }

    pub(super) fn sized(rows: u64, features: usize, held_back: u64, seed: u64, resident_max: u64, window: u64) -> Self {
        let row_bytes = 4 * features as u64;
        let block_rows = (BLOCK_BYTES.min(window) / row_bytes).max(1);
        let blocks = rows.div_ceil(block_rows).max(1);
        let resident = rows.saturating_mul(row_bytes) <= resident_max;
        let window_rows = (window / row_bytes).min(WINDOW_ROWS_MAX);
        let window_blocks = if resident { blocks } else { (window_rows / block_rows).max(1) };
        let held_back = held_back.min(rows.saturating_sub(1));
        Self { rows, features, held_back, seed, block_rows, window_blocks }
    }

    /// Number of training rows.
    pub(in crate::training) fn training_rows(&self) -> u64 {
        self.rows - self.held_back
    }

    pub(super) fn blocks(&self) -> u64 {
        self.rows.div_ceil(self.block_rows)
    }

    fn resident(&self) -> bool {
        self.window_blocks >= self.blocks()
    }

    /// First row of a block and its number of rows.
    pub(in crate::training) fn block(&self, block: u64) -> (u64, u64) {
        let first = block * self.block_rows;
        (first, self.block_rows.min(self.rows - first))
    }

    /// Number of held-out rows before `row` (the end of a block): the share is the same everywhere.
    fn held_back_before(&self, row: u64) -> u64 {
        (u128::from(row) * u128::from(self.held_back) / u128::from(self.rows.max(1))) as u64
    }

    pub(super) fn training_of_block(&self, block: u64) -> u64 {
        let (first, rows) = self.block(block);
        rows - (self.held_back_before(first + rows) - self.held_back_before(first))
    }

    /// Positions within a block of its training rows and of its held-out rows, both ascending.
    pub(in crate::training) fn partition(&self, block: u64) -> (Vec<u32>, Vec<u32>) {
        let rows = self.block(block).1;
        let mut places: Vec<u32> = (0..rows as u32).collect();
        if self.held_back == 0 {
            return (places, Vec::new());
        }
        Stream::new(self.seed, 0, block, Use::Split).shuffle(&mut places);
        let mut held_back = places.split_off(self.training_of_block(block) as usize);
        places.sort_unstable();
        held_back.sort_unstable();
        (places, held_back)
    }

    /// The blocks in the order of an epoch (from 1). Ascending if all rows are in memory: then the rows are shuffled as
    /// a whole.
    pub(super) fn order(&self, epoch: u32) -> Vec<u32> {
        let mut blocks: Vec<u32> = (0..self.blocks() as u32).collect();
        if !self.resident() {
            Stream::new(self.seed, u64::from(epoch), u64::MAX, Use::Shuffle).shuffle(&mut blocks);
        }
        blocks
    }
}
