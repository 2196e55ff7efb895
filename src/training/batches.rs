//! Splits rows into training and held-out rows, orders them, and reads them from their source.
//!
//! Rows are cut into blocks, and each block is read in one piece. Blocks are combined to windows, which are held in
//! memory. If the rows are few, one window has all blocks; otherwise a window has a bounded size. Each epoch takes the
//! blocks in its own order and shuffles the rows within each window. So memory does not grow with the number of rows,
//! and the disk is read in large pieces. All of it is a function of the seed, the epoch and the shape of the data.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::source::{RowSource, SourceError};
use crate::model::Normalizer;
use crate::numeric::rng::{Stream, Use};
use crate::numeric::{LANES, PanelMatrix};

/// Bytes of a block: large enough for the full speed of a disk.
const BLOCK_BYTES: u64 = 256 << 10;
/// Up to this size, all rows are kept in memory.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a window of rows that do not fit in memory; the next window is read in the background.
const WINDOW_BYTES: u64 = 64 << 20;
/// Largest number of rows of a window: each row also takes two numbers in `order`.
const WINDOW_ROWS_MAX: u64 = 1 << 20;
/// Up to this size, held-out rows are kept in memory; larger sets are read again for each pass.
pub(super) const HELD_BACK_BYTES_MAX: u64 = 64 << 20;

/// The split of the rows: a function of their number, their width and the seed.
#[derive(Clone, Debug)]
pub struct Split {
    rows: u64,
    features: usize,
    held_back: u64,
    seed: u64,
    block_rows: u64,
    window_blocks: u64,
}

impl Split {
    /// Splits `rows` rows, of which `held_back` are held out. At least one row is left for training.
    pub fn new(rows: u64, features: usize, held_back: u64, seed: u64) -> Self {
        Self::sized(rows, features, held_back, seed, RESIDENT_BYTES_MAX, WINDOW_BYTES)
    }

    fn sized(rows: u64, features: usize, held_back: u64, seed: u64, resident_max: u64, window: u64) -> Self {
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
    pub fn training_rows(&self) -> u64 {
        self.rows - self.held_back
    }

    fn blocks(&self) -> u64 {
        self.rows.div_ceil(self.block_rows)
    }

    fn resident(&self) -> bool {
        self.window_blocks >= self.blocks()
    }

    /// First row of a block and its number of rows.
    pub(super) fn block(&self, block: u64) -> (u64, u64) {
        let first = block * self.block_rows;
        (first, self.block_rows.min(self.rows - first))
    }

    /// Number of held-out rows before `row` (the end of a block): the share is the same everywhere.
    fn held_back_before(&self, row: u64) -> u64 {
        (u128::from(row) * u128::from(self.held_back) / u128::from(self.rows.max(1))) as u64
    }

    fn training_of_block(&self, block: u64) -> u64 {
        let (first, rows) = self.block(block);
        rows - (self.held_back_before(first + rows) - self.held_back_before(first))
    }

    /// Positions within a block of its training rows and of its held-out rows, both ascending.
    pub(super) fn partition(&self, block: u64) -> (Vec<u32>, Vec<u32>) {
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
    fn order(&self, epoch: u32) -> Vec<u32> {
        let mut blocks: Vec<u32> = (0..self.blocks() as u32).collect();
        if !self.resident() {
            Stream::new(self.seed, u64::from(epoch), u64::MAX, Use::Shuffle).shuffle(&mut blocks);
        }
        blocks
    }
}

/// Some blocks in memory, one after another.
#[derive(Debug, Default)]
struct Window {
    values: Vec<f32>,
    blocks: Vec<u32>,
}

impl Window {
    fn read(mut self, source: &dyn RowSource, split: &Split, blocks: &[u32]) -> Result<Self, SourceError> {
        self.blocks.clear();
        self.blocks.extend_from_slice(blocks);
        let rows: u64 = blocks.iter().map(|block| split.block(u64::from(*block)).1).sum();
        let length = rows as usize * split.features;
        // Allocated once: a growing vector copies its content, and needs the memory twice meanwhile.
        if self.values.capacity() < length {
            self.values = Vec::with_capacity(length);
        }
        self.values.resize(length, 0.0);
        let mut rest = &mut self.values[..];
        for block in blocks {
            let (first, rows) = split.block(u64::from(*block));
            let (part, others) = rest.split_at_mut(rows as usize * split.features);
            source.read(first, part)?;
            rest = others;
        }
        Ok(self)
    }
}

/// A row of a window: its index there, and its index among all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShuffledRow {
    local: u32,
    row: u64,
}

/// Loads the training rows, epoch by epoch, batch by batch.
#[derive(Debug)]
pub struct BatchLoader {
    source: Arc<dyn RowSource>,
    split: Arc<Split>,
    window: Window,
    /// The next window, being read by a background thread.
    coming: Option<JoinHandle<Result<Window, SourceError>>>,
    epoch: u32,
    /// The blocks of this epoch, and the number of windows that have begun.
    blocks: Vec<u32>,
    windows_begun: usize,
    /// The shuffled rows of the window, and the number of rows already given out.
    order: Vec<ShuffledRow>,
    given: usize,
}

impl std::fmt::Debug for dyn RowSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows of {} numbers", self.count(), self.features())
    }
}

impl BatchLoader {
    /// The source of the rows, and their split.
    pub(super) fn parts(&self) -> (&dyn RowSource, &Split) {
        (self.source.as_ref(), &self.split)
    }
}

impl Drop for BatchLoader {
    /// Joins the background thread, which has the source open.
    fn drop(&mut self) {
        if let Some(coming) = self.coming.take() {
            let _ = coming.join();
        }
    }
}

/// The rows of a mini-batch. Valid until the next batch is loaded.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Row-major, in the units of the input. Filled only if the rows lie in more than one window.
    copied: Vec<f32>,
    places: Vec<ShuffledRow>,
}

impl BatchLoader {
    /// A loader that has read nothing yet.
    pub fn new(source: Arc<dyn RowSource>, split: Arc<Split>) -> Self {
        Self {
            source,
            split,
            window: Window::default(),
            coming: None,
            epoch: 0,
            blocks: Vec::new(),
            windows_begun: 0,
            order: Vec::new(),
            given: 0,
        }
    }

    /// Starts an epoch (from 1) after its first `given` rows.
    pub fn begin(&mut self, epoch: u32, given: u64) -> Result<(), SourceError> {
        self.epoch = epoch;
        self.blocks = self.split.order(epoch);
        self.windows_begun = 0;
        self.order.clear();
        self.given = 0;
        // The window that was read ahead belongs to another epoch.
        if let Some(coming) = self.coming.take() {
            let _ = coming.join();
        }
        let mut left = given;
        while left > 0 {
            let rows: u64 =
                self.next_blocks().iter().map(|block| self.split.training_of_block(u64::from(*block))).sum();
            if rows > left {
                self.next_window()?;
                self.given = left as usize;
                return Ok(());
            }
            left -= rows;
            self.windows_begun += 1;
        }
        Ok(())
    }

    fn next_blocks(&self) -> &[u32] {
        let size = self.split.window_blocks as usize;
        let from = (self.windows_begun * size).min(self.blocks.len());
        &self.blocks[from..(from + size).min(self.blocks.len())]
    }

    /// Loads the next window of this epoch, and shuffles it.
    fn next_window(&mut self) -> Result<(), SourceError> {
        let blocks = self.next_blocks().to_vec();
        // If all rows are in memory, they stay from epoch to epoch.
        if self.window.blocks != blocks {
            self.window = match self.coming.take() {
                Some(coming) => {
                    coming.join().map_err(|_| SourceError("the thread that reads rows panicked".into()))??
                }
                None => std::mem::take(&mut self.window).read(self.source.as_ref(), &self.split, &blocks)?,
            };
        }
        self.order.clear();
        let mut first_local = 0;
        for block in &blocks {
            let (first, rows) = self.split.block(u64::from(*block));
            let (training, _) = self.split.partition(u64::from(*block));
            self.order.extend(
                training.iter().map(|place| ShuffledRow { local: first_local + place, row: first + u64::from(*place) }),
            );
            first_local += rows as u32;
        }
        let window = self.windows_begun as u64;
        Stream::new(self.split.seed, u64::from(self.epoch), window, Use::Shuffle).shuffle(&mut self.order);
        (self.given, self.windows_begun) = (0, self.windows_begun + 1);
        let ahead = self.next_blocks().to_vec();
        if !ahead.is_empty() {
            let (source, split) = (Arc::clone(&self.source), Arc::clone(&self.split));
            let read = move || Window::default().read(source.as_ref(), &split, &ahead);
            self.coming = std::thread::Builder::new().name("read-rows".to_owned()).spawn(read).ok();
        }
        Ok(())
    }

    /// Loads the next `rows` rows of the epoch; fewer at its end, none after it.
    pub fn next(&mut self, rows: usize, batch: &mut Batch) -> Result<(), SourceError> {
        batch.copied.clear();
        batch.places.clear();
        while batch.places.len() < rows {
            if self.given == self.order.len() {
                if self.next_blocks().is_empty() {
                    return Ok(());
                }
                if !batch.places.is_empty() {
                    // The window is replaced next: copy the batch's rows out of it.
                    self.copy(batch);
                }
                self.next_window()?;
                continue;
            }
            let count = (rows - batch.places.len()).min(self.order.len() - self.given);
            batch.places.extend_from_slice(&self.order[self.given..self.given + count]);
            self.given += count;
        }
        if !batch.copied.is_empty() {
            self.copy(batch);
        }
        Ok(())
    }

    /// Copies the rows of the batch that have not been copied yet.
    fn copy(&self, batch: &mut Batch) {
        let features = self.split.features;
        for place in &batch.places[batch.copied.len() / features..] {
            batch.copied.extend_from_slice(&self.window.values[place.local as usize * features..][..features]);
        }
    }

    /// Writes rows `first..first + count` of the batch, normalized, to `lanes`. `scratch` is a reusable buffer.
    pub fn gather(
        &self,
        batch: &Batch,
        first: usize,
        count: usize,
        normalizer: &Normalizer,
        scratch: &mut Vec<f32>,
        lanes: &mut PanelMatrix,
    ) {
        let features = self.split.features;
        lanes.reset(count, features);
        let row = |i: usize| match batch.copied.get(i * features..(i + 1) * features) {
            Some(row) => row,
            None => &self.window.values[batch.places[i].local as usize * features..][..features],
        };
        for start in (0..count).step_by(LANES) {
            scratch.clear();
            let rows = LANES.min(count - start);
            (0..rows).for_each(|i| scratch.extend_from_slice(row(first + start + i)));
            lanes.load(start, scratch);
        }
        normalizer.apply(lanes);
    }
}

impl Batch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the epoch has ended.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The index of row `i` among all rows; its random numbers depend on it.
    pub fn row(&self, i: usize) -> u64 {
        self.places[i].row
    }
}

/// The held-out rows.
#[derive(Debug)]
pub struct ValidationRows {
    source: Arc<dyn RowSource>,
    split: Arc<Split>,
    /// All held-out rows, if they are few.
    values: Option<Vec<f32>>,
    /// Earlier held-out rows that are evaluated with them.
    more: Vec<f32>,
}

impl ValidationRows {
    /// Reads the rows if they are few. `more` (row-major) are held-out rows from earlier training. The first of them
    /// are used, at most as many as are held out here.
    pub fn new(source: Arc<dyn RowSource>, split: Arc<Split>, more: &[f32]) -> Result<Self, SourceError> {
        let bytes = (split.held_back * 4).saturating_mul(split.features as u64);
        let mut held_back = Self { source, split, values: None, more: Vec::new() };
        if bytes <= HELD_BACK_BYTES_MAX {
            let mut values = Vec::with_capacity(bytes as usize / 4);
            held_back.each(&mut |rows| {
                values.extend_from_slice(rows);
                Ok(())
            })?;
            held_back.values = Some(values);
        }
        let taken = (held_back.split.held_back as usize).saturating_mul(held_back.split.features).min(more.len());
        held_back.more = more[..taken].to_vec();
        Ok(held_back)
    }

    /// Number of rows.
    pub fn count(&self) -> u64 {
        self.split.held_back + (self.more.len() / self.split.features) as u64
    }

    /// Calls `found` with all rows in order, several at a time (row-major). An error of `found` ends the pass.
    pub fn each<E: From<SourceError>>(&self, found: &mut dyn FnMut(&[f32]) -> Result<(), E>) -> Result<(), E> {
        if let Some(values) = &self.values {
            for values in [values, &self.more] {
                if !values.is_empty() {
                    found(values)?;
                }
            }
            return Ok(());
        }
        if self.split.held_back == 0 {
            return Ok(());
        }
        let features = self.split.features;
        let (mut block_values, mut values) = (Vec::new(), Vec::new());
        for block in 0..self.split.blocks() {
            let (_, held_back) = self.split.partition(block);
            if held_back.is_empty() {
                continue;
            }
            let (first, rows) = self.split.block(block);
            block_values.resize(rows as usize * features, 0.0);
            self.source.read(first, &mut block_values)?;
            values.clear();
            for place in held_back {
                values.extend_from_slice(&block_values[place as usize * features..][..features]);
            }
            found(&values)?;
        }
        if self.more.is_empty() { Ok(()) } else { found(&self.more) }
    }
}

/// The rows of a source that training with this seed would hold out, row-major and not rounded. They are the rows of
/// [`ValidationRows`], block by block from the last block on, at most `rows_max`. Reads no more blocks than needed.
pub fn held_back_rows(
    source: &dyn RowSource,
    held_back: u64,
    seed: u64,
    rows_max: usize,
) -> Result<Vec<f64>, SourceError> {
    let split = Split::new(source.count(), source.features(), held_back, seed);
    let (mut block_values, mut values) = (Vec::new(), Vec::new());
    for block in (0..split.blocks()).rev() {
        if values.len() >= rows_max * split.features {
            break;
        }
        let (first, rows) = split.block(block);
        block_values.resize(rows as usize * split.features, 0.0);
        source.read_wide(first, &mut block_values)?;
        for place in split.partition(block).1 {
            values.extend_from_slice(&block_values[place as usize * split.features..][..split.features]);
        }
    }
    values.truncate(rows_max * split.features);
    Ok(values)
}

/// Called with the index of the first row, and the rows.
type Found<'a, E> = &'a mut dyn FnMut(u64, &[f32]) -> Result<(), E>;

/// Calls `found(index of the first row, rows)` with all rows of a source in order, several at a time (row-major). An
/// error of `found` ends the pass.
pub fn each_block<E: From<SourceError>>(source: &dyn RowSource, found: Found<'_, E>) -> Result<(), E> {
    let features = source.features();
    let split = Split::new(source.count(), features, 0, 0);
    let mut values = Vec::new();
    for block in 0..split.blocks() {
        let (first, rows) = split.block(block);
        values.resize(rows as usize * features, 0.0);
        source.read(first, &mut values)?;
        found(first, &values)?;
    }
    Ok(())
}

/// Calls `found(index of the row, row)` with the training rows, in order. An error of `found` ends the pass.
pub fn each_training_row<E: From<SourceError>>(
    source: &dyn RowSource,
    split: &Split,
    found: Found<'_, E>,
) -> Result<(), E> {
    let features = split.features;
    let mut values = Vec::new();
    for block in 0..split.blocks() {
        let (first, rows) = split.block(block);
        values.resize(rows as usize * features, 0.0);
        source.read(first, &mut values)?;
        for place in split.partition(block).0 {
            found(first + u64::from(place), &values[place as usize * features..][..features])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NormalizationKind;
    use crate::training::source::MemoryRows;

    /// Row i is (i, i + 0.5).
    fn numbered(rows: u64) -> Arc<dyn RowSource> {
        Arc::new(MemoryRows::new((0..rows).flat_map(|i| [i as f32, i as f32 + 0.5]).collect(), 2))
    }

    /// Windows of four rows in blocks of two, unless `resident`.
    fn split(rows: u64, held_back: u64, resident: bool) -> Arc<Split> {
        let mut split = Split::sized(rows, 2, held_back, 7, if resident { u64::MAX } else { 0 }, 32);
        if !resident {
            (split.block_rows, split.window_blocks) = (2, 2);
        }
        Arc::new(split)
    }

    fn epoch(loader: &mut BatchLoader, epoch: u32, given: u64, rows: usize) -> Vec<u64> {
        loader.begin(epoch, given).expect("begins");
        let plain = Normalizer::none();
        let (mut batch, mut scratch, mut lanes) = (Batch::default(), Vec::new(), PanelMatrix::default());
        let mut seen = Vec::new();
        loop {
            loader.next(rows, &mut batch).expect("reads");
            if batch.is_empty() {
                return seen;
            }
            loader.gather(&batch, 0, batch.len(), &plain, &mut scratch, &mut lanes);
            for i in 0..batch.len() {
                assert_eq!((lanes.at(i, 0), lanes.at(i, 1)), (batch.row(i) as f32, batch.row(i) as f32 + 0.5));
                seen.push(batch.row(i));
            }
        }
    }

    #[test]
    fn every_row_is_either_loaded_once_per_epoch_or_held_out() {
        for (rows, held_back) in [(1, 0), (1, 1), (2, 1), (9, 0), (23, 5), (40, 39)] {
            for resident in [false, true] {
                let split = split(rows, held_back, resident);
                let mut loader = BatchLoader::new(numbered(rows), Arc::clone(&split));
                let mut held = Vec::new();
                let keep = ValidationRows::new(numbered(rows), Arc::clone(&split), &[]).expect("reads");
                let mut found = |values: &[f32]| -> Result<(), SourceError> {
                    held.extend(values.as_chunks::<2>().0.iter().map(|row| row[0] as u64));
                    Ok(())
                };
                keep.each(&mut found).expect("reads");
                ValidationRows { values: None, ..keep }.each(&mut found).expect("reads them anew");
                let half = held.len() / 2;
                assert_eq!(held[..half], held[half..]);
                held.truncate(half);
                assert_eq!(held.len() as u64, held_back.min(rows - 1));
                for number in 1..4 {
                    let mut all = [epoch(&mut loader, number, 0, 3), held.clone()].concat();
                    all.sort_unstable();
                    assert_eq!(all, (0..rows).collect::<Vec<_>>(), "{rows} rows, {held_back} held back, {resident}");
                }
            }
        }
    }

    #[test]
    fn an_epoch_resumes_at_any_row() {
        for resident in [false, true] {
            let split = split(23, 4, resident);
            let mut loader = BatchLoader::new(numbered(23), Arc::clone(&split));
            let whole = epoch(&mut loader, 2, 0, 3);
            for given in 0..=whole.len() {
                let mut fresh = BatchLoader::new(numbered(23), Arc::clone(&split));
                assert_eq!(epoch(&mut fresh, 2, given as u64, 3), whole[given..], "after {given}");
            }
        }
    }

    #[test]
    fn every_epoch_has_an_order_of_its_own() {
        for resident in [false, true] {
            let mut loader = BatchLoader::new(numbered(50), split(50, 0, resident));
            let first = epoch(&mut loader, 1, 0, 7);
            assert_ne!(epoch(&mut loader, 2, 0, 7), first);
            assert_eq!(epoch(&mut loader, 1, 0, 7), first);
        }
    }

    #[test]
    fn gathered_rows_are_normalized() {
        let normalizer = Normalizer {
            kind: NormalizationKind::MinMax,
            offset: vec![1.0, 2.0],
            scale: vec![4.0, 2.0],
            fill: vec![],
            exact_offset: vec![],
        };
        let mut loader = BatchLoader::new(numbered(1), split(1, 0, true));
        loader.begin(1, 0).expect("begins");
        let (mut batch, mut lanes) = (Batch::default(), PanelMatrix::default());
        loader.next(1, &mut batch).expect("reads");
        loader.gather(&batch, 0, 1, &normalizer, &mut Vec::new(), &mut lanes);
        assert_eq!((lanes.column(0), lanes.column(1)), (vec![-0.25], vec![-0.75]));
    }
}
