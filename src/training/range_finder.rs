//! The learning rate range test of Smith (2017, "Cyclical learning rates for training neural networks"): a short sweep
//! over increasing learning rates, whose losses determine the rate for training.
//!
//! # The sweep
//! Rates grow from [`RATE_FIRST`] to [`RATE_LAST`] by a constant factor per step, one mini-batch each. The sweep ends
//! early if [`Sweep::add`] returns false: the loss has exploded, and further steps give no information.
//!
//! # The rule
//! Losses are smoothed by an exponential mean with weight 0.1 for the newest, with bias correction at the start (as
//! Adam's moments), because single mini-batches differ. Beyond the lowest smoothed loss, larger rates begin to undo
//! what was learned. The mean lags about ten steps, and a rate that works for a few steps from the start is too large
//! for thousands of steps. So the chosen rate is the one at the lowest loss, divided by [`MARGIN`]. (Others use the
//! steepest descent, which is a difference of neighbors. With small batches it is found in the noise of rates that have
//! no effect.)

/// First rate of a sweep.
pub(super) const RATE_FIRST: f64 = 1e-6;
/// Last rate of a sweep: the largest rate that a request may set.
const RATE_LAST: f64 = 1.0;
/// The rate at the lowest loss is divided by this.
const MARGIN: f64 = 10.0;
/// Steps of a sweep: a factor of 1.15 each, fine enough for a result of one significant digit.
const STEPS: u32 = 100;

/// Weight of the previous mean.
const KEPT: f64 = 0.9;
/// A smoothed loss of this many times the lowest counts as an explosion (as in fast.ai's finder).
const EXPLODED: f64 = 4.0;
/// The loss must fall below this share of the first loss.
const FALLEN: f64 = 0.95;
/// Fewer losses give no result.
const LOSSES_MIN: usize = 10;

/// The losses of a sweep so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sweep {
    losses: Vec<f64>,
    mean: f64,
    kept: f64,
    lowest: Option<f64>,
}

impl Sweep {
    /// The rate of the next step; `None` at the end of the sweep.
    pub(super) fn rate(&self) -> Option<f64> {
        let step = self.losses.len() as u32;
        (step < STEPS).then(|| rate(step))
    }

    /// Adds the loss (per row) that was measured before the step with [`Sweep::rate`]. Returns false if the sweep is
    /// over.
    pub(super) fn add(&mut self, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.kept = if self.losses.is_empty() { KEPT } else { self.kept * KEPT };
        self.mean = KEPT * self.mean + (1.0 - KEPT) * loss;
        let smooth = self.mean / (1.0 - self.kept);
        self.losses.push(smooth);
        let lowest = self.lowest.map_or(smooth, |lowest| lowest.min(smooth));
        self.lowest = Some(lowest);
        smooth <= EXPLODED * lowest && self.rate().is_some()
    }

    /// The rate for training, rounded to two digits. `None` if the loss never fell, or if the sweep was too short.
    pub(super) fn chosen(&self) -> Option<f64> {
        let rates: Vec<f64> = (0..self.losses.len() as u32).map(rate).collect();
        Some(two_digits(lowest(&rates, &self.losses)? / MARGIN))
    }
}

/// The rate of step `step`, from 0.
fn rate(step: u32) -> f64 {
    RATE_FIRST * libm::pow(RATE_LAST / RATE_FIRST, f64::from(step) / f64::from(STEPS - 1))
}

/// The rate at the lowest of the smoothed `losses`. `None` if there are fewer than ten, or if they never fall by more
/// than a twentieth.
fn lowest(rates: &[f64], losses: &[f64]) -> Option<f64> {
    if losses.len() < LOSSES_MIN {
        return None;
    }
    let lowest = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b]))?;
    (losses[lowest] < FALLEN * losses[0]).then(|| rates[lowest])
}

fn two_digits(rate: f64) -> f64 {
    let unit = libm::pow(10.0, libm::floor(libm::log10(rate)) - 1.0);
    // Divided by the inverse of the unit: 31 / 1000 is the number nearest to 0.031, 31 * 0.001 is not.
    (rate / unit).round() / (1.0 / unit).round()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::rng::{Stream, Use};

    /// Flat, then falling around `middle`, then rising beyond `edge`, with some noise.
    fn loss(rate: f64, middle: f64, edge: f64, noise: f64) -> f64 {
        let x = (rate / middle).ln();
        10.0 - 8.0 / (1.0 + (-2.0 * x).exp()) + (rate / edge).powi(3) + noise
    }

    fn swept(middle: f64, edge: f64, noise: f64, seed: u64) -> Sweep {
        let mut stream = Stream::new(seed, 0, 0, Use::Sample);
        let mut sweep = Sweep::default();
        while let Some(rate) = sweep.rate() {
            if !sweep.add(loss(rate, middle, edge, noise * stream.normal())) {
                break;
            }
        }
        sweep
    }

    #[test]
    fn rates_grow_by_a_constant_factor() {
        assert!((rate(0) / RATE_FIRST - 1.0).abs() < 1e-12 && (rate(STEPS - 1) / RATE_LAST - 1.0).abs() < 1e-12);
        let factor = rate(1) / rate(0);
        assert!((1..STEPS).all(|step| (rate(step) / rate(step - 1) / factor - 1.0).abs() < 1e-9));
    }

    #[test]
    fn a_rate_is_found_through_noise() {
        for middle in [1e-4, 1e-3, 1e-2] {
            for (seed, noise) in [(1, 0.0), (2, 0.1), (3, 0.3)] {
                let chosen = swept(middle, middle * 30.0, noise, seed).chosen().expect("it falls");
                assert!((0.3..6.0).contains(&(chosen / middle)), "{chosen} for {middle}, noise {noise}");
            }
        }
    }

    #[test]
    fn an_explosion_ends_the_sweep() {
        let sweep = swept(1e-4, 1e-3, 0.0, 1);
        assert!(sweep.losses.len() < STEPS as usize, "{} losses", sweep.losses.len());
        assert!(sweep.chosen().is_some_and(|rate| rate < 1e-3));
        let mut sweep = swept(1e-3, 1e9, 0.0, 1);
        assert!(!sweep.add(f64::NAN));
    }

    #[test]
    fn a_loss_that_never_falls_chooses_nothing() {
        let mut sweep = Sweep::default();
        while sweep.rate().is_some_and(|_| sweep.add(1.0 + sweep.losses.len() as f64 * 0.01)) {}
        assert_eq!(sweep.chosen(), None);
        let mut short = Sweep::default();
        (0..5).for_each(|i| assert!(short.add(5.0 - f64::from(i))));
        assert_eq!(short.chosen(), None);
    }

    #[test]
    fn rates_are_rounded_to_two_digits() {
        for (rate, rounded) in [(0.003_149, 0.0031), (0.098_7, 0.099), (1.0 / 3.0, 0.33), (9.99e-5, 1e-4)] {
            assert_eq!(two_digits(rate), rounded);
        }
    }
}
