//! Loads the training rows in mini-batches, in the order of an epoch.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::split::Split;
use crate::model::Normalizer;
use crate::numeric::rng::{Stream, Use};
use crate::numeric::{LANES, PanelMatrix};
use crate::training::source::{RowSource, SourceError};

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
pub(in crate::training) struct BatchLoader {
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

impl BatchLoader {
    /// The source of the rows, and their split.
    pub(in crate::training) fn parts(&self) -> (&dyn RowSource, &Split) {
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
pub(in crate::training) struct Batch {
    /// Row-major, in the units of the input. Filled only if the rows lie in more than one window.
    copied: Vec<f32>,
    places: Vec<ShuffledRow>,
}

impl BatchLoader {
    /// A loader that has read nothing yet.
    pub(in crate::training) fn new(source: Arc<dyn RowSource>, split: Arc<Split>) -> Self {
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
    pub(in crate::training) fn begin(&mut self, epoch: u32, given: u64) -> Result<(), SourceError> {
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
    pub(in crate::training) fn next(&mut self, rows: usize, batch: &mut Batch) -> Result<(), SourceError> {
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
    pub(in crate::training) fn gather(
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
    pub(in crate::training) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the epoch has ended.
    pub(in crate::training) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The index of row `i` among all rows; its random numbers depend on it.
    pub(in crate::training) fn row(&self, i: usize) -> u64 {
        self.places[i].row
    }
}
