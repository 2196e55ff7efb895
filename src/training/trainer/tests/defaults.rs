//! Tests of what training chooses if the request does not: from the rows, from trials, or from the time budget.

use super::*;

#[test]
fn every_default_is_noted() {
    let mut asked = spec(&[6, 2]);
    asked.epochs = None;
    let trained = run(asked, &plane(40, 6, 2), 1).expect("trains");
    for word in ["normalization", "batch size", "epochs", "learning rate", "validation"] {
        assert!(trained.report.notes.iter().any(|note| note.starts_with(word)), "{word}: {:?}", trained.report.notes);
    }
    assert_eq!(trained.report.epochs.len(), 500);
}

#[test]
fn saturating_units_without_a_gain_get_a_note() {
    let mut asked = spec(&[6, 4, 2]);
    asked.hidden_activation = Some(Activation::Tanh);
    let warned = |spec: TrainSpec| {
        let trained = run(spec, &plane(50, 6, 2), 1).expect("trains");
        trained.report.notes.iter().any(|note| note.contains("gain"))
    };
    assert!(warned(asked.clone()));
    asked.gain = true;
    assert!(!warned(asked));
}

/// A clock that advances by the same time at each reading.
struct Ticking {
    tick: Duration,
    now: Duration,
    saved: u32,
}

impl Observer for Ticking {
    fn look(&mut self, _: &Event) -> Next {
        Next::GoOn
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        self.saved += 1;
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        self.now += self.tick;
        self.now
    }
}

#[test]
fn a_time_budget_becomes_a_number_of_epochs_once() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (None, Some(10), Some(0.2));
    asked.time_budget = Some(Duration::from_secs(100));
    let values = plane(50, 8, 2);
    let run = |tick: f64| {
        let mut clock = Ticking { tick: Duration::from_secs_f64(tick), now: Duration::ZERO, saved: 0 };
        let checked = asked.clone().check().expect("valid");
        let trained = go(&checked, &values, &[], Start::Fresh, 1, &mut clock).expect("trains");
        assert_eq!(clock.saved, 1, "what was measured is kept");
        trained
    };
    // Four steps per epoch and a validation, one second each.
    let by_budget = run(1.0);
    let epochs = by_budget.report.epochs.len();
    assert!((17..=19).contains(&epochs), "{epochs}: {:?}", by_budget.report.notes);
    assert!(by_budget.report.notes.iter().any(|note| note.starts_with("epochs: ") && note.contains("100s")));
    assert_eq!(run(30.0).report.epochs.len(), 1);
    // The same number of epochs gives the same bits.
    let by_number = TrainSpec { time_budget: None, epochs: Some(epochs as u32), ..asked.clone() };
    assert_eq!(bits(&run_with(by_number, &values).model), bits(&by_budget.model));
}

#[test]
fn a_learning_rate_is_found_and_trains() {
    let mut asked = spec(&[8, 6, 2]);
    (asked.epochs, asked.batch_rows, asked.optimizer.find_learning_rate) = (Some(20), Some(10), true);
    let trained = run_with(asked, &plane(200, 8, 2));
    let note = trained.report.notes.iter().find(|note| note.starts_with("learning rate: ")).expect("told");
    assert!(note.contains("sweep"), "{note}");
    assert!(trained.report.learning_rate > 1e-4 && trained.report.learning_rate < 1.0, "{note}");
    let losses = &trained.report.epochs;
    assert!(losses[19].training_loss < 0.5 * losses[0].training_loss, "{note}: {losses:?}");
}

#[test]
fn linear_and_nonlinear_data_are_distinguished() {
    // On a plane with noise, PCA is optimal.
    let mut asked = spec(&[10, 8, 3]);
    asked.epochs = Some(30);
    let trained = run_with(asked.clone(), &plane(400, 10, 3));
    let figures = trained.report.validation.expect("validation rows");
    assert!(figures.squared_error < 1.0001 * figures.pca_squared_error, "{figures:?}");
    assert!(trained.model.spec().raw().encoder_activations.iter().all(|f| *f == Activation::Linear));
    assert!(
        trained.report.notes.iter().any(|note| note.starts_with("activations: linear")),
        "{:?}",
        trained.report.notes
    );
    let of_what_was_left = |note: &&String| note.starts_with("hidden activation");
    assert_eq!(trained.report.notes.iter().find(of_what_was_left), None);
    assert_eq!(trained.report.notes.iter().filter(|note| note.starts_with("loss: squared error")).count(), 1);
    // A request for a nonlinear activation is honored.
    let bent = TrainSpec { hidden_activation: Some(Activation::Tanh), ..asked };
    assert_eq!(run_with(bent, &plane(400, 10, 3)).model.spec().raw().encoder_activations[0], Activation::Tanh);
    // A parabola has one dimension, but is not a line.
    let parabola: Vec<f32> = (0..2000).map(|i| i as f32 * 0.001 - 1.0).flat_map(|t| [t, t * t]).collect();
    let mut asked = spec(&[2, 32, 16, 1]);
    asked.epochs = Some(60);
    let figures = run_with(asked, &parabola).report.validation.expect("validation rows");
    assert!(figures.squared_error < 0.5 * figures.pca_squared_error, "{figures:?}");
}
