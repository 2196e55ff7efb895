//! Measures how orthonormal the matrices are, epoch by epoch, for the training report.

use super::plan::Plan;
use crate::model::{Autoencoder, ModelSpec};
use crate::numeric::linalg::Gram;

/// Largest smaller side of a matrix that is measured: its Gram matrix takes a second or two.
const SIZE_MAX: usize = 2048;
/// Largest number of measured epochs: keeps the report short.
const LOOKS_MAX: u32 = 200;
/// Largest share of the training time, approximately.
const SHARE_MAX: f64 = 0.02;
/// Cost of a Gram matrix relative to the kernels: it is summed in f64, by one thread, with a slower loop.
const FLOP_PRICE: f64 = 16.0;

/// Whether to measure after this epoch: after the last epoch of the plan, and after as many others as are cheap.
pub(super) fn is_due(plan: &Plan, spec: &ModelSpec, training_rows: u64, epoch: u32) -> bool {
    let sides = || spec.raw().widths.windows(2).map(|pair| (pair[0].min(pair[1]), pair[0].max(pair[1])));
    if sides().any(|(size, _)| size > SIZE_MAX) {
        return false;
    }
    let look: f64 = sides().map(|(size, length)| FLOP_PRICE * (size * size) as f64 * length as f64).sum();
    // Forward, backward and gradient, each with both uses of the matrix.
    let of_epoch = 6.0 * spec.flops_per_row() as f64 * training_rows as f64;
    let by_cost = (look / (SHARE_MAX * of_epoch)).ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
    let every = by_cost.max(plan.epochs.div_ceil(LOOKS_MAX));
    epoch == plan.epochs || epoch.is_multiple_of(every)
}

/// The defect per row of every matrix, in the order of encoding.
pub(super) fn of(model: &Autoencoder) -> Vec<f64> {
    model.layers().iter().map(|layer| Gram::of(&layer.weight).defect().per_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::tests::plain;
    use crate::numeric::Activation;

    fn due(widths: &[usize], epochs: u32, rows: u64) -> Vec<u32> {
        let spec = plain(widths, Activation::Linear);
        let plan = Plan { epochs, batch_rows: 1, learning_rate: 0.1, steps_per_epoch: rows };
        (1..=epochs).filter(|epoch| is_due(&plan, &spec, rows, *epoch)).collect()
    }

    #[test]
    fn few_long_epochs_are_all_measured() {
        assert_eq!(due(&[784, 1000, 500, 250, 30], 5, 60_000), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn many_or_short_epochs_are_sampled_with_the_last() {
        let many = due(&[64, 8], 1001, 1_000_000);
        assert!(many.len() <= 201 && many.last() == Some(&1001), "{many:?}");
        assert_eq!(due(&[2048, 2048], 7, 10), [7]);
        assert_eq!(due(&[4096, 3000], 7, 1_000_000), [0; 0], "too large");
    }
}
