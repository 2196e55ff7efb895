//! Splits rows into training and held-out rows, orders them, and reads them from their source.
//!
//! Rows are cut into blocks, and each block is read in one piece. Blocks are combined to windows, which are held in
//! memory. If the rows are few, one window has all blocks; otherwise a window has a bounded size. Each epoch takes the
//! blocks in its own order and shuffles the rows within each window. So memory does not grow with the number of rows,
//! and the disk is read in large pieces. All of it is a function of the seed, the epoch and the shape of the data.

mod loader;
mod passes;
mod split;
mod validation;

pub(super) use loader::{Batch, BatchLoader};
pub(super) use passes::{each_block, each_training_row};
pub(super) use split::Split;
pub(super) use validation::HELD_BACK_BYTES_MAX;
pub(super) use validation::{ValidationRows, held_back_rows};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{NormalizationKind, Normalizer};
    use crate::numeric::PanelMatrix;
    use crate::training::source::{MemoryRows, RowSource, SourceError};

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
