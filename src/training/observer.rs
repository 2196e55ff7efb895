//! Who is told how training goes, and says whether it goes on: the one door to the clock and the disk.

use std::time::Duration;

/// What the observer is told, at every mini-batch step, every epoch, and between the parts of long preparations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// From 1; 0 while preparing (normalization, PCA).
    pub epoch: u32,
    /// In all.
    pub epoch_count: u32,
    /// Mini-batch steps done, of all epochs.
    pub step: u64,
    /// In all.
    pub step_count: u64,
    /// Training rows processed so far, of all epochs.
    pub rows_processed: u64,
    /// Those of the step that this tells of; 0 where it tells of something else.
    pub step_rows: u64,
    /// Mean of this epoch's mini-batches so far.
    pub training_loss: f64,
    /// After the last full epoch.
    pub validation_loss: Option<f64>,
    /// The lowest of all epochs so far.
    pub best_validation_loss: Option<f64>,
    /// After the last full epoch, on validation rows: sum over features, mean over rows, normalized space.
    pub squared_error: Option<f64>,
    /// After the last full epoch, on validation rows.
    pub explained_variance: Option<f64>,
    /// PCA on the validation rows.
    pub pca_explained_variance: Option<f64>,
    /// Whether this event closes an epoch.
    pub epoch_ended: bool,
}

/// What training does after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    GoOn,
    /// It has its state saved and goes on. While it prepares there is no state yet: then as `GoOn`.
    Save,
    /// It ends with [`TrainError::Stopped`](super::TrainError::Stopped).
    Stop,
    /// The same, after its state was saved.
    SaveAndStop,
}

/// Who is told how training goes.
pub trait Observer: Send {
    /// Something was done. Often called: it must be quick.
    fn look(&mut self, event: &Event) -> Next;

    /// Keeps a checkpoint, from which [`Start::Checkpoint`](super::Start::Checkpoint) goes on with the same bits.
    ///
    /// # Errors
    /// In words, why it could not; training then fails with them.
    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String>;

    /// Time since training began: what a time budget is measured by.
    fn elapsed(&mut self) -> Duration;
}

/// Looks on; keeps nothing and has no clock.
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
