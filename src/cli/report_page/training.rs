//! Charts of the training by epoch.

use maud::{Markup, html};

use super::chart::{Chart, Level, Scale, Series};
use crate::cli::CliError;
use crate::rpc::pb;

/// From this ratio of the largest to the smallest value, the axis is logarithmic.
const LOGARITHMIC_FROM_RATIO: f64 = 30.0;

/// The chart of the loss by epoch.
pub(super) fn losses(report: &pb::TrainingReport) -> Result<Markup, CliError> {
    if report.epochs.is_empty() {
        return Ok(html! { p.missing { "The training report has no epochs: the model was not trained in steps." } });
    }
    let series = vec![
        Series { name: "training".to_owned(), points: by_epoch(report, |epoch| Some(epoch.training_loss)) },
        Series { name: "validation".to_owned(), points: by_epoch(report, |epoch| epoch.validation_loss) },
    ];
    let has_validation = !series[1].points.is_empty();
    let scale = fitting_scale(&series);
    let title = "Loss by epoch".to_owned();
    let chart = Chart { title, x: "epoch", y: "loss per row", scale, series, ..Chart::default() };
    chart.figure(&html! {
        "Loss per row by epoch, in the normalized space. The version has the weights of epoch " (report.best_epoch) "."
        @if !has_validation {
            " There were no validation rows; " code { "halfhitch train --validation-fraction 0.05" } " holds some out."
        }
    })
}

/// The chart of the squared error by epoch, with that of PCA.
pub(super) fn squared_errors(report: &pb::TrainingReport, code_length: usize) -> Result<Markup, CliError> {
    let points = by_epoch(report, |epoch| epoch.squared_error);
    if points.is_empty() {
        return Ok(html! {
            p.missing {
                "The training report has no squared error by epoch. It needs validation rows, which "
                code { "halfhitch train" } " holds out if there are enough rows."
            }
        });
    }
    let pca = report.validation.as_ref().map(|validation| validation.pca_squared_error);
    let level = pca.map(|at| Level { name: format!("PCA with {code_length} components"), at });
    let series = vec![Series { name: "this model".to_owned(), points }];
    let title = "Squared error on the validation rows by epoch, beside PCA".to_owned();
    let scale = fitting_scale(&series);
    let levels = level.into_iter().collect();
    let chart = Chart { title, x: "epoch", y: "squared error per row", scale, series, levels, ..Chart::default() };
    chart.figure(&html! {
        "Squared error on the validation rows: sum over features, mean over rows, in the normalized space."
        @if pca.is_some() { " Below the line, the model is better than PCA with the same code length." }
    })
}

/// The chart of the orthonormality defect of each matrix by epoch.
pub(super) fn defects(report: &pb::TrainingReport) -> Result<Markup, CliError> {
    let matrices = report.epochs.iter().map(|epoch| epoch.defects.len()).max().unwrap_or_default();
    if matrices == 0 {
        return Ok(html! {
            p.missing {
                "The training report has no defects by epoch. " code { "halfhitch train" }
                " measures them unless a matrix has more than 2048 rows and more than 2048 columns."
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
        "Distance of W Wᵀ from the identity for each matrix (Wᵀ W if it has more rows than columns): Frobenius norm "
        "divided by the square root of its rows. At 0 the transpose is the pseudo-inverse."
    })
}

fn by_epoch(report: &pb::TrainingReport, value: impl Fn(&pb::EpochLosses) -> Option<f64>) -> Vec<(f64, f64)> {
    report.epochs.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), value(epoch)?))).collect()
}

/// Logarithmic if all values are positive and far apart, else linear.
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
    fn epochs_without_a_value_have_no_point() {
        let report = report(&[(3.0, None), (2.0, Some(1.5)), (1.0, None), (0.5, Some(0.7))]);
        assert_eq!(by_epoch(&report, |epoch| epoch.squared_error), [(2.0, 1.5), (4.0, 0.7)]);
    }

    #[test]
    fn a_wide_positive_range_has_a_logarithmic_axis() {
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
    fn empty_sections_show_a_note_instead_of_a_chart() {
        let empty = pb::TrainingReport::default();
        for section in [losses(&empty), squared_errors(&empty, 2), defects(&empty)] {
            let text = section.expect("text").into_string();
            assert!(text.contains("class=\"missing\"") && !text.contains("<svg"), "{text}");
        }
    }

    #[test]
    fn the_pca_level_is_drawn_if_the_report_has_it() {
        let mut report = report(&[(3.0, Some(2.0)), (2.0, Some(1.0))]);
        let without = squared_errors(&report, 8).expect("draws").into_string();
        assert!(!without.contains("PCA with"), "{without}");
        report.validation = Some(pb::Evaluation { pca_squared_error: 1.5, ..Default::default() });
        let with = squared_errors(&report, 8).expect("draws").into_string();
        assert!(with.contains("PCA with 8 components"), "{with}");
    }
}
