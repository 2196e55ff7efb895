//! Trials on a copy of the model before training starts: the learning rate sweep, and the timing for a time budget.

use std::time::Duration;

use super::TrainError;
use super::batches::{Batch, BatchLoader};
use super::observer::{Event, Next, Observer};
use super::optimizer::Optimizer;
use super::params::TrainSpec;
use super::plan::Plan;
use super::range_finder::Sweep;
use super::source::SourceError;
use super::steps::Steps;
use crate::model::Autoencoder;

/// Longest time for timing steps, and its largest share of the budget.
const TIMED: Duration = Duration::from_secs(2);
const TIMED_SHARE: u32 = 20;
/// Share of a budget that is used for training: the evaluation after training also takes time.
const PLANNED: f64 = 0.95;
/// Largest number of epochs for a time budget: a model overfits so few rows long before.
const EPOCHS_MAX: f64 = 1000.0;

/// The arguments of trials.
pub(super) struct Bench<'a> {
    pub(super) spec: &'a TrainSpec,
    pub(super) loader: &'a mut BatchLoader,
    /// The initial model; trials do not change it.
    pub(super) model: &'a Autoencoder,
    pub(super) steps: &'a mut Steps,
    pub(super) plan: &'a mut Plan,
    pub(super) observer: &'a mut dyn Observer,
}

impl Bench<'_> {
    /// Runs a range test (Smith 2017) and returns a note on its result. Without a result, the rate stays.
    pub(super) fn find_learning_rate(&mut self) -> Result<String, TrainError> {
        let mut sweep = Sweep::default();
        self.run(&mut |loss, _| if sweep.add(loss?) { sweep.rate() } else { None }, sweep_start())?;
        Ok(match sweep.chosen() {
            Some(rate) => {
                self.plan.learning_rate = rate;
                format!("learning rate: {rate}, found by a sweep (Smith 2017)")
            }
            None => format!("learning rate: {}, a sweep found no better one", self.plan.learning_rate),
        })
    }

    /// Sets the number of epochs that fits a time budget, and returns a note. `validate` is the evaluation at the end
    /// of an epoch.
    pub(super) fn fit_budget(
        &mut self,
        budget: Duration,
        validate: &mut dyn FnMut() -> Result<(), SourceError>,
    ) -> Result<String, TrainError> {
        let (mut steps, mut begun, mut seconds_per_step) = (0u32, Duration::ZERO, 0.0);
        let timed = TIMED.min(budget / TIMED_SHARE);
        let rate = self.plan.learning_rate;
        self.run(
            &mut |_, now| {
                // The first step allocates memory, which later steps reuse.
                if steps == 0 {
                    begun = now;
                }
                let taken = now.saturating_sub(begun);
                if steps > 0 {
                    seconds_per_step = taken.as_secs_f64() / f64::from(steps);
                }
                steps += 1;
                (taken < timed && steps <= STEPS_MAX).then_some(rate)
            },
            rate,
        )?;
        let before = self.observer.elapsed();
        if self.spec.optimizer.retraction_steps > 0 {
            self.steps.end_epoch(&mut self.model.clone(), self.plan.steps_per_epoch);
        }
        validate()?;
        let now = self.observer.elapsed();
        let validation = now.saturating_sub(before).as_secs_f64();
        let seconds_per_epoch = seconds_per_step * self.plan.steps_per_epoch as f64 + validation;
        let left = budget.saturating_sub(now).as_secs_f64() * PLANNED;
        if seconds_per_epoch > 0.0 {
            self.plan.epochs = (left / seconds_per_epoch).clamp(1.0, EPOCHS_MAX) as u32;
        }
        Ok(format!(
            "epochs: {}, which fit a time budget of {budget:?} here, {seconds_per_epoch:.3} s each; for the same \
             bits, request this number of epochs",
            self.plan.epochs
        ))
    }

    /// Steps on a copy, the first with `rate`, while `next(loss per row, time)` returns another rate. The loss is
    /// `None` if it is not finite.
    fn run(
        &mut self,
        next: &mut dyn FnMut(Option<f64>, Duration) -> Option<f64>,
        mut rate: f64,
    ) -> Result<(), TrainError> {
        let mut model = self.model.clone();
        let mut optimizer = Optimizer::new(&model, &self.spec.optimizer);
        let (mut batch, mut done) = (Batch::default(), 0);
        let event = Event { epoch_count: self.plan.epochs, step_count: self.plan.steps(), ..Event::default() };
        for epoch in 1.. {
            self.loader.begin(epoch, 0)?;
            loop {
                self.loader.next(self.plan.batch_rows, &mut batch)?;
                if batch.is_empty() {
                    break;
                }
                let loss = self.steps.measure(&model, self.loader, &batch, epoch) / batch.len() as f64;
                self.steps.apply(&mut model, &mut optimizer, rate, done);
                done += 1;
                if matches!(self.observer.look(&event), Next::Stop | Next::SaveAndStop) {
                    return Err(TrainError::Stopped);
                }
                let now = self.observer.elapsed();
                match next(loss.is_finite().then_some(loss), now) {
                    Some(another) => rate = another,
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }
}

/// Largest number of timed steps: ends the timing even if the clock stands still.
const STEPS_MAX: u32 = 2000;

fn sweep_start() -> f64 {
    super::range_finder::RATE_FIRST
}
