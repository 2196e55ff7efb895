//! Tests of training that stops and resumes from a checkpoint.

use super::*;
use crate::training::CheckpointError;

/// An observer that stops at the end of every epoch.
struct AtEnds {
    kept: Option<Vec<u8>>,
}

impl Observer for AtEnds {
    fn look(&mut self, event: &Event) -> Next {
        if event.epoch_ended { Next::SaveAndStop } else { Next::GoOn }
    }

    fn save(&mut self, checkpoint: &[u8]) -> Result<(), String> {
        self.kept = Some(checkpoint.to_vec());
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn patience_survives_a_resume_at_the_end_of_an_epoch() {
    let mut asked = spec(&[6, 4, 2]);
    (asked.epochs, asked.patience_epochs, asked.batch_rows) = (Some(400), Some(3), Some(50));
    asked.optimizer.learning_rate = Some(0.05);
    let checked = asked.check().expect("valid");
    let values = plane(50, 6, 2);
    let whole = go(&checked, &values, &[], Start::Fresh, 1, &mut |_: &Event| Next::GoOn).expect("trains");
    // An epoch has a single step: every checkpoint is at the end of an epoch.
    let mut start = Start::Fresh;
    for _ in 0..2000 {
        let mut once = AtEnds { kept: None };
        match go(&checked, &values, &[], start, 1, &mut once) {
            Err(TrainError::Stopped) => start = Start::Checkpoint(once.kept.expect("saved"), None),
            Err(error) => panic!("{error}"),
            Ok(trained) => {
                assert_eq!(trained.report, whole.report);
                assert_eq!(bits(&trained.model), bits(&whole.model));
                return;
            }
        }
    }
    panic!("it never ended");
}

#[test]
fn interruptions_do_not_change_the_bits() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.gain) = (Some(4), Some(16), true);
    asked.validation_fraction = Some(0.05);
    asked.hidden_activation = Some(Activation::Tanh);
    let checked = asked.clone().check().expect("valid");
    let values = plane(100, 8, 2);
    let whole = run(asked, &values, 1).expect("trains");
    for every in 1..=24 {
        let (mut start, mut interruptions) = (Start::Fresh, 0);
        let trained = loop {
            // At least one step is done before the next stop, however often it stops.
            let mut observer = Interrupted { every, kept: None };
            match go(&checked, &values, &[], start, 1, &mut observer) {
                Ok(trained) => break trained,
                Err(TrainError::Stopped) => {
                    start = Start::Checkpoint(observer.kept.expect("saved"), None);
                    interruptions += 1;
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert!(interruptions >= 24 / every, "{interruptions} interruptions every {every} steps");
        assert_eq!(bits(&trained.model), bits(&whole.model), "stopped every {every} steps");
        assert_eq!(trained.report, whole.report, "stopped every {every} steps");
    }
}

/// A job must resume after an upgrade, so names in the file stay.
#[test]
fn checkpoints_keep_the_spelling_of_their_first_version() {
    let mut observer = Interrupted { every: 2, kept: None };
    let checked = spec(&[8, 6, 2]).check().expect("valid");
    go(&checked, &plane(100, 8, 2), &[], Start::Fresh, 1, &mut observer).expect_err("stopped");
    let bytes = observer.kept.expect("saved");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains(r#"\"optimiser\":"#) && text.contains(r#""optimiser."#), "{}", &text[..2000]);
}

#[test]
fn mismatched_and_damaged_checkpoints_are_refused() {
    let values = plane(100, 8, 2);
    let checked = spec(&[8, 6, 2]).check().expect("valid");
    let mut observer = Interrupted { every: 2, kept: None };
    let stopped = go(&checked, &values, &[], Start::Fresh, 1, &mut observer);
    assert_eq!(stopped.expect_err("stopped"), TrainError::Stopped);
    let bytes = observer.kept.expect("saved");
    let resume = |spec: &CheckedTrainSpec, values: &[f32], bytes: &[u8]| {
        let go_on = &mut |_: &Event| Next::GoOn;
        go(spec, values, &[], Start::Checkpoint(bytes.to_vec(), None), 1, go_on).map(|_| ())
    };
    assert_eq!(resume(&checked, &values, &bytes), Ok(()));
    let other = TrainSpec { seed: 5, ..spec(&[8, 6, 2]) }.check().expect("valid");
    assert_eq!(resume(&other, &values, &bytes), Err(CheckpointError::Specification.into()));
    let fewer = resume(&checked, &values[..80], &bytes);
    assert_eq!(fewer, Err(CheckpointError::Rows { got: 100, expected: 10 }.into()));
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = resume(&checked, &values, &bytes[..cut]).expect_err("refused");
        assert!(matches!(error, TrainError::Checkpoint(CheckpointError::Unreadable(_))), "{error}");
    }
}

#[test]
fn regularized_training_resumes_with_the_same_bits() {
    let mut asked = spec(&[8, 12, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (Some(3), Some(16), Some(0.05));
    (asked.optimizer.retraction_steps, asked.regularization.orthogonality) = (4, 0.5);
    asked.regularization.nested_dropout = 0.7;
    let checked = asked.clone().check().expect("valid");
    let values = plane(100, 8, 2);
    let whole = run(asked, &values, 2).expect("trains");
    // Between retractions, at retractions, and at the ends of epochs of six steps.
    for every in [1, 3, 4, 6] {
        let mut start = Start::Fresh;
        let trained = loop {
            let mut observer = Interrupted { every, kept: None };
            match go(&checked, &values, &[], start, 1, &mut observer) {
                Ok(trained) => break trained,
                Err(error) => assert_eq!(error, TrainError::Stopped),
            }
            start = Start::Checkpoint(observer.kept.expect("saved"), None);
        };
        assert_eq!(bits(&trained.model), bits(&whole.model), "stopped every {every} steps");
        assert_eq!(trained.report, whole.report, "stopped every {every} steps");
    }
}
