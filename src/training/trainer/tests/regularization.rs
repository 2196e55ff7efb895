//! Tests of the options against overfitting, and of orthonormal matrices.

use super::*;
use crate::model::Decoder;
use crate::numeric::linalg::orthonormalize_rows;
use crate::numeric::{BufferPool, PanelMatrix};
use crate::training::Initialization;

#[test]
fn regularization_changes_the_model_and_is_deterministic() {
    let mut asked = spec(&[120, 150, 20]);
    (asked.epochs, asked.batch_rows) = (Some(2), Some(128));
    let values = plane(300, 120, 9);
    let plain = bits(&run(asked.clone(), &values, 1).expect("trains").model);
    let changes: [fn(&mut TrainSpec); 9] = [
        |spec| spec.regularization.nested_dropout = 0.5,
        |spec| spec.optimizer.retraction_steps = 2,
        |spec| spec.regularization.orthogonality = 0.1,
        |spec| spec.regularization.l2 = 0.01,
        |spec| spec.regularization.activity_l2 = 0.1,
        |spec| spec.regularization.masking = 0.2,
        |spec| spec.regularization.gaussian = 0.2,
        |spec| spec.regularization.input_dropout = 0.2,
        |spec| spec.regularization.trim = 0.2,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = asked.clone();
        change(&mut changed);
        let one = bits(&run(changed.clone(), &values, 1).expect("trains").model);
        assert!(one != plain, "change {i}");
        assert!(one == bits(&run(changed, &values, 3).expect("trains").model), "change {i}");
    }
}

/// With one layer that expands, and others that do not.
#[test]
fn the_orthogonality_penalty_reduces_defects() {
    let mut asked = spec(&[8, 12, 6, 3]);
    (asked.epochs, asked.batch_rows, asked.initialization) = (Some(60), Some(32), Some(Initialization::He));
    let values = plane(300, 8, 3);
    let largest =
        |asked: &TrainSpec| defects::of(&run_with(asked.clone(), &values).model).into_iter().fold(0.0, f64::max);
    let plain = largest(&asked);
    asked.regularization.orthogonality = 10.0;
    let drawn = largest(&asked);
    assert!(drawn < 0.05 * plain && drawn < 0.05, "{drawn}, without {plain}");
    // Also with a limit of the gradient norm, which needs the whole gradient first.
    asked.optimizer.gradient_norm_max = Some(1e30);
    let looked_at = largest(&asked);
    assert!(looked_at.to_bits() == drawn.to_bits(), "{looked_at}");
}

#[test]
fn retracted_matrices_are_orthonormal_after_every_epoch() {
    let mut asked = spec(&[8, 12, 6, 3]);
    (asked.epochs, asked.batch_rows, asked.initialization) = (Some(8), Some(32), Some(Initialization::He));
    // A retraction at the end of an epoch must not repeat one that the last step has just done.
    for every in [1, 3, 1000] {
        asked.optimizer.retraction_steps = every;
        let trained = run_with(asked.clone(), &plane(300, 8, 3));
        let largest = |defects: &[f64]| defects.iter().copied().fold(0.0, f64::max);
        assert!(largest(&defects::of(&trained.model)) < 1e-4, "every {every} steps");
        let losses = &trained.report.epochs;
        assert!(losses.iter().all(|epoch| largest(&epoch.defects) < 1e-4), "{losses:?}");
        assert!(losses[7].training_loss < 0.7 * losses[0].training_loss, "{losses:?}");
    }
}

#[test]
fn nested_dropout_orders_codes_by_importance() {
    // Directions of very different variance, rotated so that none is a feature.
    let mut stream = Stream::new(13, 0, 0, Use::Sample);
    let mut axes: Vec<f64> = (0..64).map(|_| stream.normal()).collect();
    orthonormalize_rows(&mut axes, 8);
    let deviations = [8.0, 4.0, 2.0, 1.0, 0.1, 0.1, 0.1, 0.1];
    let mut values = Vec::new();
    for _ in 0..400 {
        let z = deviations.map(|deviation| deviation * stream.normal());
        values.extend((0..8).map(|j| (0..8).map(|i| z[i] * axes[i * 8 + j]).sum::<f64>() as f32));
    }
    // The error with the first m numbers of the codes, and the others 0.
    let error = |model: &Autoencoder, m: usize| {
        let (mut rows, buffers) = (PanelMatrix::zeros(400, 8), &mut BufferPool::default());
        rows.load(0, &values);
        let mut codes = model.encode(&rows, buffers);
        codes.each_column_mut(|unit, part| part.iter_mut().for_each(|x| *x = if unit < m { *x } else { 0.0 }));
        let rebuilt = model.decode(&codes, Decoder::Transpose, buffers);
        let squares = rows.values().iter().zip(rebuilt.values()).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>() / 400.0
    };
    for (widths, hidden) in [(&[8, 4][..], Activation::Linear), (&[8, 12, 4], Activation::Elu { alpha: 1.0 })] {
        let mut asked = spec(widths);
        (asked.epochs, asked.batch_rows, asked.hidden_activation) = (Some(150), Some(32), Some(hidden));
        asked.normalization = Some(NormalizationKind::None);
        let plain = run_with(asked.clone(), &values).model;
        asked.regularization.nested_dropout = 0.8;
        let nested = run_with(asked, &values).model;
        assert!(nested.spec().raw().ordered_code && !plain.spec().raw().ordered_code);
        let [of_plain, of_nested] = [&plain, &nested].map(|model| [1, 2, 3, 4].map(|m| error(model, m)));
        for m in 0..3 {
            assert!(of_nested[m] < 0.6 * of_plain[m], "{widths:?}: {of_nested:?}, without {of_plain:?}");
            // PCA leaves the variances of the remaining directions.
            let pca: f64 = deviations[m + 1..].iter().map(|deviation| deviation * deviation).sum();
            assert!(of_nested[m] < 1.5 * pca, "{widths:?}: {of_nested:?}, PCA {pca}");
        }
    }
}

#[test]
fn trimming_reduces_the_effect_of_bad_rows() {
    let mut asked = spec(&[6, 2]);
    (asked.epochs, asked.batch_rows) = (Some(200), Some(100));
    asked.normalization = Some(NormalizationKind::None);
    asked.hidden_activation = Some(Activation::Linear);
    // One row of ten is noise many times as large.
    let (clean, mut stream) = (plane(400, 6, 3), Stream::new(8, 0, 0, Use::Sample));
    let mut values = clean.clone();
    for row in values.chunks_exact_mut(6).step_by(10) {
        row.iter_mut().for_each(|x| *x = (20.0 * stream.normal()) as f32);
    }
    let error = |asked: TrainSpec| {
        let trained = run_with(asked, &values);
        let mut rows = PanelMatrix::zeros(400, 6);
        rows.load(0, &clean);
        let errors = trained.model.reconstruct(&rows, Decoder::Transpose, &mut BufferPool::default()).squared_errors;
        (errors.iter().map(|error| f64::from(*error)).sum::<f64>() / 400.0, trained.statistics.expect("held out"))
    };
    let (plain, of_plain) = error(asked.clone());
    asked.regularization.trim = 0.15;
    let (robust, of_robust) = error(asked);
    assert!(robust < 0.1 * plain, "{robust} of {plain}");
    // The bad rows do not affect the usual error either.
    assert!(of_robust.residual_variance < 0.1 * of_plain.residual_variance);
    assert!(
        of_robust.code_covariance[0] + of_robust.code_covariance[3]
            < 0.5 * (of_plain.code_covariance[0] + of_plain.code_covariance[3])
    );
}

/// Theory: the share 1 - l2 / variance of each principal direction is kept.
#[test]
fn l2_shrinks_a_linear_model_as_predicted() {
    let mut asked = spec(&[4, 2]);
    (asked.epochs, asked.batch_rows, asked.validation_fraction) = (Some(400), Some(200), Some(0.0));
    (asked.normalization, asked.regularization.l2) = (Some(NormalizationKind::None), 0.5);
    asked.optimizer.learning_rate = Some(0.02);
    // Independent, with variances 4, 2, 0.01 and 0.01.
    let mut stream = Stream::new(5, 0, 0, Use::Sample);
    let deviations = [2.0, 2.0f64.sqrt(), 0.1, 0.1];
    let values: Vec<f32> = (0..200 * 4).map(|i| (deviations[i % 4] * stream.normal()) as f32).collect();
    let trained = run_with(asked, &values);
    let variance = |j: usize| {
        let column: Vec<f64> = values.iter().skip(j).step_by(4).map(|x| f64::from(*x)).collect();
        let mean = column.iter().sum::<f64>() / 200.0;
        column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 200.0
    };
    // The directions are nearly the axes, and the trace of WᵀW is that of WWᵀ.
    let w = trained.model.layers()[0].weight.to_row_major();
    let trace: f64 = w.iter().map(|w| f64::from(*w).powi(2)).sum();
    let expected = (1.0 - 0.5 / variance(0)) + (1.0 - 0.5 / variance(1));
    assert!((trace - expected).abs() < 0.01 * expected, "{trace}, expected {expected}");
}
