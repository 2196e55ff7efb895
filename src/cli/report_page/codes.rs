//! Squared error by code length: rows are encoded, their codes truncated and decoded.

use maud::{Markup, html};
use tonic::Code;

use super::chart::{Chart, Level, Series};
use super::figures::number;
use super::measured::{Measured, check_count};
use super::training::fitting_scale;
use crate::cli::CliError;
use crate::cli::client::{Context, float_matrix, float_numbers, matrix, numbers};
use crate::client::request_rows;
use crate::rpc::pb;

/// Every length up to this one is measured; further lengths grow by a third each.
const EACH_LENGTH_MAX: usize = 16;

/// Errors by code length, for versions whose codes can be truncated.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ByLength {
    /// Code length and mean squared error per row, in input units because `Decode` returns them. Shortest first; the
    /// last is the full length.
    points: Vec<(usize, f64)>,
}

/// Measures the errors; `None` if the codes are not canonical.
///
/// [`CliError`] if a call fails or a response has the wrong length.
pub(super) async fn measure(
    context: &Context,
    model: &pb::ModelRef,
    measured: &Measured,
    code_length: usize,
) -> Result<Option<ByLength>, CliError> {
    let mut client = context.autoencoder().await?;
    let columns = measured.columns;
    // Codes may be longer than rows, so the longer of the two sets the block size.
    let blocks: Vec<&[f64]> = measured.rows.chunks(request_rows(columns.max(code_length)) * columns).collect();
    let mut codes = Vec::new();
    for block in &blocks {
        // Requests the full length explicitly, because the server rejects that if codes cannot be truncated. Shorter
        // codes are prefixes, so one request per block is enough.
        let request = pb::EncodeRequest {
            model: Some(model.clone()),
            rows: Some(matrix(columns, block)),
            code_length: code_length as u32,
            answer_format: pb::AnswerFormat::Float32Le.into(),
        };
        let answer = match client.encode(request).await {
            Err(status) if status.code() == Code::FailedPrecondition => return Ok(None),
            answer => answer?.into_inner(),
        };
        let (block_codes, _) = float_numbers(answer.codes)?;
        check_count(block_codes.len(), block.len() / columns * code_length)?;
        codes.push(block_codes);
    }
    let mut points = Vec::new();
    for length in lengths(code_length) {
        let mut sum = 0.0;
        for (block, codes) in blocks.iter().zip(&codes) {
            let short: Vec<f32> = codes.chunks(code_length).flat_map(|code| &code[..length]).copied().collect();
            let request = pb::DecodeRequest {
                model: Some(model.clone()),
                codes: Some(float_matrix(length, &short)),
                answer_format: pb::AnswerFormat::AsTrained.into(),
                ..pb::DecodeRequest::default()
            };
            let (back, _) = numbers(client.decode(request).await?.into_inner().rows)?;
            check_count(back.len(), block.len())?;
            sum += squared_error(block, &back);
        }
        points.push((length, sum / measured.row_count() as f64));
    }
    Ok(Some(ByLength { points }))
}

/// The lengths to measure: all of a short code, fewer of a long one, always the first and the last.
fn lengths(code_length: usize) -> Vec<usize> {
    let longer = |length: &usize| Some(if *length < EACH_LENGTH_MAX { length + 1 } else { length + length / 3 });
    let shorter = std::iter::successors(Some(1), longer).take_while(|length| *length < code_length);
    shorter.chain([code_length]).collect()
}

/// The sum of squared errors over all values that are not missing.
fn squared_error(rows: &[f64], back: &[f64]) -> f64 {
    let pairs = rows.iter().zip(back).filter(|(x, _)| !x.is_nan());
    pairs.map(|(x, y)| (x - y).powi(2)).sum()
}

/// The chart of the error by code length, with the error of the full code as a line.
pub(super) fn by_length(found: &ByLength, measured: &Measured) -> Result<Markup, CliError> {
    let Some(&(code_length, whole)) = found.points.last() else { return Ok(html! {}) };
    let points = found.points.iter().map(|(length, error)| (*length as f64, *error)).collect();
    let series = vec![Series { name: "the first numbers of each code".to_owned(), points }];
    let half = found.points.iter().find(|(length, _)| 2 * length >= code_length).filter(|_| code_length > 1);
    let chart = Chart {
        title: "Squared error by code length".to_owned(),
        x: "numbers of the code kept",
        y: "squared error per row",
        scale: fitting_scale(&series),
        series,
        levels: vec![Level { name: format!("the full code, {code_length} numbers"), at: whole }],
        ..Chart::default()
    };
    chart.figure(&html! {
        "Squared error of " (measured.described()) " when only the first numbers of each code are kept and the others "
        "are set to their mean: sum over features, mean over rows, in input units. "
        @if let Some((length, error)) = half { "With " (length) " of " (code_length) " it is " (number(*error)) ", with" }
        @else { "With" }
        " all of them " (number(whole)) "."
    })
}

/// The text for versions whose codes cannot be truncated.
pub(super) fn not_canonical(version: &pb::ModelVersion) -> Markup {
    let command = format!("halfhitch models canonicalize {}@{}", version.name, version.version);
    html! {
        p.missing {
            "The codes of this version are not canonical: their first numbers do not carry the most information. "
            "If the code is linear, " code { (command) } " publishes a version whose codes can be truncated."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lengths_are_thinned_above_16_and_keep_both_ends() {
        assert_eq!(lengths(1), [1]);
        assert_eq!(lengths(4), [1, 2, 3, 4]);
        assert_eq!(lengths(16), (1..=16).collect::<Vec<_>>());
        assert_eq!(lengths(32)[15..], [16, 21, 28, 32]);
        let longest = lengths(1024);
        assert!(longest.len() <= 32 && longest.is_sorted_by(|a, b| a < b) && longest.ends_with(&[1024]), "{longest:?}");
    }

    #[test]
    fn missing_values_have_no_error() {
        assert_eq!(squared_error(&[1.0, f64::NAN, 3.0], &[2.0, 5.0, 5.0]), 5.0);
    }

    #[test]
    fn the_curve_has_one_point_per_length_and_names_its_units() {
        let found = ByLength { points: vec![(1, 8.0), (2, 4.0), (3, 2.5)] };
        let measured = Measured { source: "<x>".to_owned(), errors: vec![1.0], ..Measured::default() };
        let text = by_length(&found, &measured).expect("draws").into_string();
        for part in ["With 2 of 3 it is 4.000, with all of them 2.500.", "in input units", "&lt;x&gt;", "3 numbers"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.matches("<circle").count(), 3, "{text}");
        let single = by_length(&ByLength { points: vec![(1, 2.0)] }, &measured).expect("draws").into_string();
        assert!(single.contains("With all of them 2.000."), "{single}");
    }
}
