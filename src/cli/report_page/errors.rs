//! The distribution of the errors of the rows.

use maud::{Markup, html};

use super::chart::{Bar, Chart, Level, Scale};
use super::figures::number;
use super::measured::Measured;
use crate::cli::CliError;

const BARS_MAX: usize = 48;
/// The axis ends at this multiple of the 99 % quantile at most. Otherwise a single outlier would press all other rows
/// into one bar.
const END_BY_QUANTILE: f64 = 1.5;

/// The histogram of the errors, with the 95 % and 99 % quantiles.
pub(super) fn distribution(measured: &Measured) -> Result<Markup, CliError> {
    let mut sorted: Vec<f64> = measured.errors.iter().map(|error| f64::from(*error)).collect();
    sorted.sort_by(f64::total_cmp);
    let (median, q95, q99) = (quantile(&sorted, 0.5), quantile(&sorted, 0.95), quantile(&sorted, 0.99));
    let end = axis_end(&sorted);
    let chart = Chart {
        title: "Distribution of the squared reconstruction errors".to_owned(),
        x: "squared error",
        y: "rows",
        scale: Scale::FromZero,
        bars: histogram(&sorted, end),
        uprights: vec![
            Level { name: format!("95 % of the rows have at most {}", number(q95)), at: q95 },
            Level { name: format!("99 % at most {}", number(q99)), at: q99 },
        ],
        ..Chart::default()
    };
    chart.figure(&html! {
        "Squared errors of " (measured.described()) ", in the normalized space; the median is " (number(median))
        ", the maximum is " (number(quantile(&sorted, 1.0))) "."
        (beyond_the_axis(&sorted, end))
    })
}

/// The end of the horizontal axis of a histogram.
pub(super) fn axis_end(sorted: &[f64]) -> f64 {
    quantile(sorted, 1.0).min(END_BY_QUANTILE * quantile(sorted, 0.99))
}

/// The sentence of a caption about values beyond the axis; empty if there are none.
pub(super) fn beyond_the_axis(sorted: &[f64], end: f64) -> Markup {
    let beyond = sorted.iter().filter(|value| **value > end).count();
    let rows = if beyond == 1 { "row" } else { "rows" };
    html! { @if beyond > 0 { " The last bar also holds the " (beyond) " " (rows) " beyond the end of the axis." } }
}

/// The nearest-rank quantile of sorted values; 0 if there are none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// Bars of equal width from the smallest value to `end`. The last bar also counts larger values.
pub(super) fn histogram(sorted: &[f64], end: f64) -> Vec<Bar> {
    let Some(&start) = sorted.first() else { return Vec::new() };
    let count = ((2.0 * (sorted.len() as f64).sqrt()).ceil() as usize).min(BARS_MAX);
    let width = (end - start) / count as f64;
    if width <= 0.0 {
        // All values are equal: one bar, wide enough to be visible.
        let half = if start == 0.0 { 0.5 } else { 0.05 * start.abs() };
        return vec![Bar { from: start - half, to: start + half, height: sorted.len() as f64 }];
    }
    let mut heights = vec![0.0; count];
    for value in sorted {
        heights[(((value - start) / width) as usize).min(count - 1)] += 1.0;
    }
    let from = |i: usize| start + i as f64 * width;
    heights.iter().enumerate().map(|(i, height)| Bar { from: from(i), to: from(i + 1), height: *height }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_observed_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 0.99, 1.0].map(|share| quantile(&values, share)), [1.0, 50.0, 95.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert_eq!(quantile(&[], 0.95), 0.0);
    }

    #[test]
    fn every_row_is_in_one_bar() {
        let values: Vec<f64> = (0..1000).map(f64::from).collect();
        for end in [999.0, 500.0] {
            let bars = histogram(&values, end);
            assert_eq!(bars.iter().map(|bar| bar.height).sum::<f64>(), 1000.0);
            assert_eq!((bars.len(), bars[0].from, bars[bars.len() - 1].to), (BARS_MAX, 0.0, end));
        }
        let few = histogram(&[1.0, 1.0, 2.0, 5.0], 5.0);
        assert_eq!(few.iter().map(|bar| bar.height).collect::<Vec<_>>(), [2.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn equal_errors_form_one_bar() {
        for value in [0.0, 3.0] {
            let bars = histogram(&[value; 5], value);
            assert!(bars.len() == 1 && bars[0].from < value && value < bars[0].to, "{bars:?}");
        }
        assert_eq!(histogram(&[], 1.0), []);
    }

    #[test]
    fn outliers_are_counted_at_the_end() {
        let errors = [vec![1.0; 500], vec![2.0; 498], vec![1000.0, 2000.0]].concat();
        let measured = Measured { source: "<x>".to_owned(), errors, ..Measured::default() };
        let text = distribution(&measured).expect("draws").into_string();
        assert!(text.contains("the 2 rows beyond the end") && text.contains("the maximum is 2000"), "{text}");
        assert!(text.contains("1000 rows of &lt;x&gt;"), "{text}");
    }
}
