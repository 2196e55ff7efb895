//! Which rows are trained on, in which order, and the way of a mini-batch into column-major tapes.

use crate::model::Normaliser;
use crate::numeric::Lanes;
use crate::numeric::rng::{Stream, Use};

/// Row-major rows in the units of the input, all finite.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// rows x features.
    pub values: &'a [f32],
    /// Columns.
    pub features: usize,
}

impl<'a> Rows<'a> {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.values.len() / self.features
    }

    /// Row `index` (features,).
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.features..][..self.features]
    }

    /// Writes the rows `indices`, normalised, to `lanes`.
    pub fn gather(&self, indices: &[u32], normaliser: &Normaliser, lanes: &mut Lanes) {
        lanes.reset(indices.len(), self.features);
        for (i, index) in indices.iter().enumerate() {
            lanes.load(i, self.row(*index as usize));
        }
        normaliser.apply(lanes);
    }
}

/// Splits `rows` rows into those to train on and those held back for validation, both in growing order. The split is a
/// function of the seed. At least one row is left to train on.
pub fn split(rows: usize, validation: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    Stream::new(seed, 0, 0, Use::Split).shuffle(&mut order);
    let mut held_back = order.split_off(rows - validation.min(rows.saturating_sub(1)));
    order.sort_unstable();
    held_back.sort_unstable();
    (order, held_back)
}

/// The order of an epoch (from 1): a function of the seed and the epoch alone.
pub fn shuffled(rows: &[u32], seed: u64, epoch: u32, order: &mut Vec<u32>) {
    order.clear();
    order.extend_from_slice(rows);
    Stream::new(seed, u64::from(epoch), 0, Use::Shuffle).shuffle(order);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NormalisationKind;

    #[test]
    fn a_split_loses_no_row() {
        for (rows, validation) in [(1, 0), (1, 5), (10, 3), (1000, 100)] {
            let (training, held_back) = split(rows, validation, 7);
            assert_eq!(held_back.len(), validation.min(rows - 1));
            let mut all = [training, held_back].concat();
            all.sort_unstable();
            assert_eq!(all, (0..rows as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_epoch_has_an_order_of_its_own() {
        let rows: Vec<u32> = (0..50).collect();
        let order = |epoch| {
            let mut order = Vec::new();
            shuffled(&rows, 3, epoch, &mut order);
            order
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn rows_are_gathered_normalised() {
        let rows = Rows { values: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], features: 2 };
        let normaliser = Normaliser { kind: NormalisationKind::MinMax, offset: vec![1.0, 2.0], scale: vec![4.0, 2.0] };
        let mut lanes = Lanes::default();
        rows.gather(&[2, 0], &normaliser, &mut lanes);
        assert_eq!((lanes.column(0), lanes.column(1)), (vec![1.0, 0.0], vec![2.0, 0.0]));
    }
}
