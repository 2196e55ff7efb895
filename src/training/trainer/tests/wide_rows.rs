//! Tests with rows of 64 bits.

use super::*;
use crate::training::shift::WideRows;

/// 64-bit rows: times, ids and a wave.
fn wide_rows() -> Vec<f64> {
    (0..200).map(f64::from).flat_map(|i| [1.7e9 + 2.0 * i, 1e12 + 1.0 + i, (i / 9.0).sin(), 0.25 * i]).collect()
}

fn go_wide(
    spec: &CheckedTrainSpec,
    rows: &[f64],
    start: Start,
    threads: usize,
    observer: &mut dyn Observer,
) -> Result<Trained, TrainError> {
    let training: Arc<dyn RowSource> = Arc::new(WideRows { values: rows.to_vec(), features: 4 });
    let none = MemoryRows::new(Vec::new(), 4);
    train(spec, &training, &[], &none, start, &pool(threads), observer)
}

#[test]
fn float64_rows_train_like_their_shifted_rows() {
    let checked = spec(&[4, 3, 2]).check().expect("valid");
    let rows = wide_rows();
    let go_on = &mut |_: &Event| Next::GoOn;
    let wide = go_wide(&checked, &rows, Start::Fresh, 1, go_on).expect("trains");
    let by: Vec<f64> = (0..2).map(|j| wide.model.normalizer().exact_offset_of(j)).collect();
    assert!((by[0] - 1.7e9 - 199.0).abs() < 20.0 && (by[1] - 1e12 - 100.0).abs() < 10.0, "{by:?}");
    assert!(wide.model.normalizer().is_wide());
    // The rows minus the medians of the first two columns, in 32 bits: the model learns the same.
    let medians = [rows[4 * 100], rows[4 * 100 + 1], 0.0, 0.0];
    let shifted: Vec<f32> = rows.iter().enumerate().map(|(i, value)| (value - medians[i % 4]) as f32).collect();
    let narrow = go(&checked, &shifted, &[], Start::Fresh, 2, go_on).expect("trains");
    assert_eq!(bits(&wide.model), bits(&narrow.model));
    assert_eq!((&wide.report.epochs, &wide.report.validation), (&narrow.report.epochs, &narrow.report.validation));
    assert_eq!(wide.model.normalizer().scale, narrow.model.normalizer().scale);
    assert!(!narrow.model.normalizer().is_wide());
}

#[test]
fn float64_rows_resume_from_a_checkpoint_with_the_same_bits() {
    let checked = TrainSpec { batch_rows: Some(16), ..spec(&[4, 3, 2]) }.check().expect("valid");
    let rows = wide_rows();
    let go_on = &mut |_: &Event| Next::GoOn;
    let base = Arc::new(go_wide(&checked, &rows, Start::Fresh, 1, go_on).expect("trains").model);
    for base in [None, Some(base)] {
        let begin = || base.clone().map_or(Start::Fresh, Start::Model);
        let whole = go_wide(&checked, &rows, begin(), 1, go_on).expect("trains");
        let mut start = begin();
        let mut interrupted = 0;
        let resumed = loop {
            let mut once = Interrupted { every: 7, kept: None };
            match go_wide(&checked, &rows, start, 2, &mut once) {
                Err(TrainError::Stopped) => {
                    interrupted += 1;
                    assert!(interrupted < 1000, "it never ended");
                    start = Start::Checkpoint(once.kept.expect("saved"), base.clone());
                }
                Err(error) => panic!("{error}"),
                Ok(trained) => break trained,
            }
        };
        assert!(interrupted > 2);
        assert_eq!(bits(&resumed.model), bits(&whole.model));
        assert_eq!(resumed.model.normalizer(), whole.model.normalizer());
        assert_eq!(resumed.report, whole.report);
        if let Some(base) = &base {
            assert_eq!(resumed.model.normalizer(), base.normalizer(), "a base keeps its offsets");
        }
    }
}
