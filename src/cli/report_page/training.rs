//! How training went, epoch by epoch.

use maud::{Markup, html};

use super::chart::{Chart, Level, Scale, Series};
use crate::cli::CliError;
use crate::rpc::pb;

/// From here on a curve that falls is seen better on a logarithmic axis.
const LOGARITHMIC_FROM_RATIO: f64 = 30.0;

/// Loss by epoch.
pub(super) fn losses(report: &pb::TrainingReport) -> Result<Markup, CliError> {
    if report.epochs.is_empty() {
        return Ok(html! { p.missing { "No epoch is in the training report: nothing was trained step by step." } });
    }
    let series = vec![
        Series { name: "training".to_owned(), points: by_epoch(report, |epoch| Some(epoch.training_loss)) },
        Series { name: "validation".to_owned(), points: by_epoch(report, |epoch| epoch.validation_loss) },
    ];
    let has_validation = !series[1].points.is_empty();
    let scale = fitting_scale(&series);
    let title = "Loss by epoch".to_owned();
    let chart = Chart { title, x: "epoch", y: "loss a row", scale, series, ..Chart::default() };
    chart.figure(&html! {
        "Loss by epoch, a row, in the normalized space. The weights after epoch " (report.best_epoch) " were kept."
        @if !has_validation {
            " There were no validation rows: with " code { "halfhitch train --validation-fraction 0.05" } " there are."
        }
    })
}

/// Squared error by epoch, with PCA's.
pub(super) fn squared_errors(report: &pb::TrainingReport, code_length: usize) -> Result<Markup, CliError> {
    let points = by_epoch(report, |epoch| epoch.squared_error);
    if points.is_empty() {
        return Ok(html! {
            p.missing {
                "No squared error by epoch is in the training report: it needs validation rows, which "
                code { "halfhitch train" } " splits off where there are enough rows."
            }
        });
    }
    let pca = report.validation.as_ref().map(|validation| validation.pca_squared_error);
    let level = pca.map(|at| Level { name: format!("PCA with {code_length} components"), at });
    let series = vec![Series { name: "this model".to_owned(), points }];
    let title = "Squared error on the validation rows by epoch, beside PCA".to_owned();
    let scale = fitting_scale(&series);
    let levels = level.into_iter().collect();
    let chart = Chart { title, x: "epoch", y: "squared error a row", scale, series, levels, ..Chart::default() };
    chart.figure(&html! {
        "Squared error on the validation rows: the sum over features, the mean over rows, in the normalized space."
        @if pca.is_some() { " Below the line the model is better than PCA with a code of the same length." }
    })
}

/// How far each matrix is from orthonormal, by epoch.
pub(super) fn defects(report: &pb::TrainingReport) -> Result<Markup, CliError> {
    let matrices = report.epochs.iter().map(|epoch| epoch.defects.len()).max().unwrap_or_default();
    if matrices == 0 {
        return Ok(html! {
            p.missing {
                "No defects by epoch are in the training report: they are measured by " code { "halfhitch train" }
                ", where no matrix has more than 2048 of both rows and columns."
            }
        });
    }
    let of = |l: usize| Series {
        name: format!("matrix {}", l + 1),
        points: by_epoch(report, |epoch| epoch.defects.get(l).copied()),
    };
    let series = (0..matrices).map(of).collect();
    let title = "Orthonormality defect of each matrix by epoch".to_owned();
    let scale = Scale::Decades;
    let chart = Chart { title, x: "epoch", y: "defect per row", scale, series, ..Chart::default() };
    chart.figure(&html! {
        "How far W Wᵀ of each matrix (Wᵀ W, if it has more rows than columns) is from the identity, as a Frobenius norm "
        "divided by the square root of its rows. At 0 the transpose is the pseudo-inverse."
    })
}

fn by_epoch(report: &pb::TrainingReport, value: impl Fn(&pb::EpochLosses) -> Option<f64>) -> Vec<(f64, f64)> {
    report.epochs.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), value(epoch)?))).collect()
}

/// Decades, where values are positive and far apart.
pub(super) fn fitting_scale(series: &[Series]) -> Scale {
    let values = || series.iter().flat_map(|series| &series.points).map(|(_, y)| *y);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if least > 0.0 && most / least >= LOGARITHMIC_FROM_RATIO { Scale::Decades } else { Scale::Linear }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(values: &[(f64, Option<f64>)]) -> pb::TrainingReport {
        let epochs = values.iter().zip(1..).map(|((training_loss, squared_error), epoch)| pb::EpochLosses {
            epoch,
            training_loss: *training_loss,
            squared_error: *squared_error,
            ..Default::default()
        });
        pb::TrainingReport { epochs: epochs.collect(), ..Default::default() }
    }

    #[test]
    fn epochs_without_a_value_are_no_points() {
        let report = report(&[(3.0, None), (2.0, Some(1.5)), (1.0, None), (0.5, Some(0.7))]);
        assert_eq!(by_epoch(&report, |epoch| epoch.squared_error), [(2.0, 1.5), (4.0, 0.7)]);
    }

    #[test]
    fn an_axis_is_logarithmic_where_values_are_far_apart_and_positive() {
        let scale = |ys: &[f64]| {
            let points = ys.iter().map(|y| (0.0, *y)).collect();
            fitting_scale(&[Series { name: String::new(), points }])
        };
        assert_eq!(scale(&[30.0, 1.0]), Scale::Decades);
        assert_eq!(scale(&[29.0, 1.0]), Scale::Linear);
        assert_eq!(scale(&[30.0, 0.0]), Scale::Linear);
        assert_eq!(scale(&[]), Scale::Linear);
    }

    #[test]
    fn what_is_missing_says_what_would_fill_it() {
        let empty = pb::TrainingReport::default();
        for section in [losses(&empty), squared_errors(&empty, 2), defects(&empty)] {
            let text = section.expect("text").into_string();
            assert!(text.contains("class=\"missing\"") && !text.contains("<svg"), "{text}");
        }
    }

    #[test]
    fn pca_is_a_line_where_the_report_has_it() {
        let mut report = report(&[(3.0, Some(2.0)), (2.0, Some(1.0))]);
        let without = squared_errors(&report, 8).expect("draws").into_string();
        assert!(!without.contains("PCA with"), "{without}");
        report.validation = Some(pb::Evaluation { pca_squared_error: 1.5, ..Default::default() });
        let with = squared_errors(&report, 8).expect("draws").into_string();
        assert!(with.contains("PCA with 8 components"), "{with}");
    }
}
