//! The distribution of the scores of the rows, through `Score`, and the alarms among them.

use maud::{Markup, html};
use tonic::Code;

use super::chart::{Chart, Level, Scale};
use super::errors::{axis_end, beyond_the_axis, histogram, quantile};
use super::figures::number;
use super::measured::{Measured, check_count};
use crate::cli::CliError;
use crate::cli::client::{Context, matrix};
use crate::client::request_rows;
use crate::rpc::pb;

/// False-alarm rates to show, if there are enough held-out rows for them.
const FALSE_ALARM_RATES: [f64; 3] = [0.05, 0.01, 0.001];
/// Thresholds beyond this multiple of the axis are only in the table: in the chart they would press all bars to one
/// side.
const DRAWN_BY_END_MAX: f64 = 3.0;

/// Scores and the thresholds for alarms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scores {
    /// One score per row.
    by_row: Vec<f32>,
    /// False-alarm rate and the score above which a row is an alarm, highest rate first.
    thresholds: Vec<(f64, f32)>,
    /// Number of held-out rows that the thresholds come from.
    calibration_rows: u32,
}

/// Scores all rows in several requests. The inner error says why this version cannot score them.
///
/// [`CliError`] for any other failed call, or for a response with the wrong length.
pub(super) async fn measure(
    context: &Context,
    model: &pb::ModelRef,
    measured: &Measured,
) -> Result<Result<Scores, String>, CliError> {
    let mut client = context.autoencoder().await?;
    let columns = measured.columns;
    let question = |rows: &[f64], false_alarm_rate| pb::ScoreRequest {
        model: Some(model.clone()),
        rows: Some(matrix(columns, rows)),
        reasons: 0,
        false_alarm_rate,
    };
    let mut found = Scores::default();
    for block in measured.rows.chunks(request_rows(columns) * columns) {
        let answer = match client.score(question(block, None)).await {
            Ok(answer) => answer.into_inner(),
            // The page can show everything else: the version has no statistics, or a score is not finite.
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::OutOfRange) => {
                return Ok(Err(status.message().to_owned()));
            }
            Err(status) => return Err(status.into()),
        };
        check_count(answer.scores.len(), block.len() / columns)?;
        found.by_row.extend(answer.scores);
        found.calibration_rows = answer.calibration_rows;
    }
    let one = &measured.rows[..columns];
    for rate in FALSE_ALARM_RATES.into_iter().filter(|rate| *rate >= least_rate(found.calibration_rows)) {
        let answer = client.score(question(one, Some(rate))).await?.into_inner();
        found.thresholds.extend(answer.threshold.map(|threshold| (rate, threshold)));
    }
    Ok(Ok(found))
}

/// The smallest false-alarm rate that this number of held-out rows supports.
fn least_rate(calibration_rows: u32) -> f64 {
    1.0 / (f64::from(calibration_rows) + 1.0)
}

/// The histogram with its thresholds, and the table of alarms.
pub(super) fn distribution(found: &Scores, measured: &Measured) -> Result<Markup, CliError> {
    let mut sorted: Vec<f64> = found.by_row.iter().map(|score| f64::from(*score)).collect();
    sorted.sort_by(f64::total_cmp);
    let end = axis_end(&sorted);
    let upright = |(rate, threshold): &(f64, f32)| Level {
        name: format!("false-alarm rate {rate}: above {}", number(f64::from(*threshold))),
        at: f64::from(*threshold),
    };
    let uprights = found.thresholds.iter().map(upright).filter(|level| level.at <= DRAWN_BY_END_MAX * end);
    let chart = Chart {
        title: "Distribution of the scores".to_owned(),
        x: "score",
        y: "rows",
        scale: Scale::FromZero,
        bars: histogram(&sorted, end),
        uprights: uprights.collect(),
        ..Chart::default()
    };
    let figure = chart.figure(&html! {
        "Scores of " (measured.described()) "; higher is more unusual. A score is the squared Mahalanobis distance "
        "of the code plus the squared error by residual variance. The median is " (number(quantile(&sorted, 0.5)))
        ", the maximum is "
        (number(quantile(&sorted, 1.0))) "."
        (beyond_the_axis(&sorted, end))
    })?;
    Ok(html! { (figure) (alarms(found)) })
}

fn alarms(found: &Scores) -> Markup {
    let rows = found.by_row.len();
    let least = least_rate(found.calibration_rows);
    html! {
        @if !found.thresholds.is_empty() {
            div.scroll {
                table {
                    thead {
                        tr {
                            @for name in ["false-alarm rate", "threshold", "alarms among these rows", "share of them"] {
                                th scope="col" { (name) }
                            }
                        }
                    }
                    tbody {
                        @for (rate, threshold) in &found.thresholds {
                            @let count = found.by_row.iter().filter(|score| *score > threshold).count();
                            tr {
                                th scope="row" { (rate) }
                                td { (number(f64::from(*threshold))) }
                                td { (count) }
                                td { (format!("{:.2} %", 100.0 * count as f64 / rows as f64)) }
                            }
                        }
                    }
                }
            }
        }
        p.note {
            "Thresholds come from the scores of " (found.calibration_rows) " held-out rows: of similar rows, at most "
            "the given rate are alarms."
            @if FALSE_ALARM_RATES.iter().any(|rate| *rate < least) {
                " So few rows support no rate below " (number(least)) "."
            }
        }
    }
}

/// The text for a version without scores.
pub(super) fn none(reason: &str) -> Markup {
    html! { p.missing { "The server did not score these rows: " (reason) "." } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(found: &Scores) -> String {
        let measured =
            Measured { source: "<x>".to_owned(), errors: vec![0.0; found.by_row.len()], ..Measured::default() };
        distribution(found, &measured).expect("draws").into_string()
    }

    #[test]
    fn alarms_are_scores_above_the_threshold() {
        let scores = (1..=200u8).map(f32::from).collect();
        let found = Scores { by_row: scores, thresholds: vec![(0.05, 190.0), (0.01, 198.5)], calibration_rows: 150 };
        let text = text(&found);
        for cell in ["<td>190.0</td><td>10</td><td>5.00 %</td>", "<td>198.5</td><td>2</td><td>1.00 %</td>"] {
            assert!(text.contains(cell), "{cell} in {text}");
        }
        assert!(
            text.contains("false-alarm rate 0.05: above 190.0") && text.contains("false-alarm rate 0.01: above 198.5")
        );
        assert!(text.contains("support no rate below 0.006623") && text.contains("200 rows of &lt;x&gt;"), "{text}");
    }

    #[test]
    fn few_held_out_rows_give_no_rate() {
        assert!(least_rate(18) > 0.05 && least_rate(19) <= 0.05 && least_rate(99) <= 0.01 && least_rate(999) <= 0.001);
        let text = text(&Scores { by_row: vec![1.0, 2.0], thresholds: Vec::new(), calibration_rows: 3 });
        assert!(!text.contains("<table") && text.contains("no rate below 0.2500"), "{text}");
    }

    #[test]
    fn a_distant_threshold_appears_only_in_the_table() {
        let found = Scores { by_row: vec![1.0; 50], thresholds: vec![(0.05, 2.0), (0.01, 1e6)], calibration_rows: 99 };
        let text = text(&found);
        assert!(text.contains("rate 0.05: above") && !text.contains("rate 0.01: above"), "{text}");
        assert!(text.contains("<td>1.000e6</td><td>0</td>"), "{text}");
    }
}
