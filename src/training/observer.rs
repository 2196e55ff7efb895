//! The observer of training: it gets progress events, decides whether training continues, and provides the clock and
//! the disk.

use std::time::Duration;

/// Rows between two calls of the observer during a pass over the rows.
pub(super) const LOOK_ROWS: u64 = 10_000;

/// Progress of training: at every mini-batch step, at every epoch, and between the parts of long preparations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Epoch, from 1; 0 during the preparation (normalization, PCA).
    pub epoch: u32,
    /// Number of epochs.
    pub epoch_count: u32,
    /// Mini-batch steps done, over all epochs.
    pub step: u64,
    /// Number of steps, over all epochs.
    pub step_count: u64,
    /// Training rows processed so far, over all epochs.
    pub rows_processed: u64,
    /// Rows of the step that this event reports; 0 for other events.
    pub step_rows: u64,
    /// Mean training loss of the mini-batches of this epoch so far.
    pub training_loss: f64,
    /// Validation loss after the last full epoch.
    pub validation_loss: Option<f64>,
    /// Lowest validation loss of all epochs so far.
    pub best_validation_loss: Option<f64>,
    /// Squared error on the validation rows after the last full epoch: sum over features, mean over rows, normalized
    /// space.
    pub squared_error: Option<f64>,
    /// Explained variance on the validation rows after the last full epoch.
    pub explained_variance: Option<f64>,
    /// Explained variance of PCA on the validation rows.
    pub pca_explained_variance: Option<f64>,
    /// Whether this event ends an epoch.
    pub epoch_ended: bool,
}

/// What training does after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Continues.
    GoOn,
    /// Saves its state and continues. During the preparation there is no state yet: same as `GoOn`.
    Save,
    /// Ends with [`TrainError::Stopped`](super::TrainError::Stopped).
    Stop,
    /// Saves its state, then ends with [`TrainError::Stopped`](super::TrainError::Stopped).
    SaveAndStop,
}

/// Receives the progress of training.
pub trait Observer: Send {
    /// Reports an event. Called often: it must be fast.
    fn look(&mut self, event: &Event) -> Next;

    /// Saves a checkpoint. [`Start::Checkpoint`](super::Start::Checkpoint) resumes from it with the same bits.
    ///
    /// # Errors
    /// The reason as text; training then fails with it.
    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String>;

    /// Time since training started; the time budget refers to it.
    fn elapsed(&mut self) -> Duration;
}

/// An observer of events alone, without storage or clock.
impl<F: FnMut(&Event) -> Next + Send> Observer for F {
    fn look(&mut self, event: &Event) -> Next {
        self(event)
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        Duration::ZERO
    }
}
