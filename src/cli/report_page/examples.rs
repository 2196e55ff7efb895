//! Rows beside their reconstructions, as images or as a table of features.

use maud::{Markup, html};

use super::figures::number;
use super::image::{self, ImageChoice, ImageSize};
use super::measured::Measured;
use crate::cli::CliError;
use crate::files::narrow;

/// Maximum rows of each kind: best, median, worst.
const EXAMPLES_MAX: usize = 6;
/// Maximum pixels of all images together; bounds the size of the page.
const PIXELS_MAX: usize = 800_000;
/// Maximum features in the table.
const FEATURES_MAX: usize = 20;

/// Images if the rows are images, else the table of features.
pub(super) fn examples(
    measured: &Measured,
    choice: Option<ImageChoice>,
    feature_names: &[String],
) -> Result<Markup, CliError> {
    match image::size(choice, measured.columns) {
        Some(size) => images(measured, size),
        None => Ok(features(measured, feature_names)),
    }
}

/// The rows with the lowest, median and highest errors, as images.
fn images(measured: &Measured, size: ImageSize) -> Result<Markup, CliError> {
    let order = measured.by_error();
    let count = examples_of_each(order.len(), measured.columns);
    let middle = (order.len() - count) / 2;
    let kinds = [
        ("Best", &order[..count]),
        ("Median", &order[middle..middle + count]),
        ("Worst", &order[order.len() - count..]),
    ];
    let mut shown = Vec::new();
    let (darkest, brightest) = ends(&measured.rows);
    for (kind, numbers) in kinds {
        let mut pairs = Vec::new();
        for &i in numbers {
            let uri = |values: &[f64]| image::uri(&narrow(values), size, darkest, brightest);
            pairs.push((i, uri(measured.row(i))?, uri(measured.reconstruction(i))?));
        }
        shown.push((kind, pairs));
    }
    Ok(html! {
        p.note {
            "Rows of " (measured.source) " as images of " (size.width) " × " (size.height)
            " pixels, each above its reconstruction; black is " (number(f64::from(darkest))) ", white "
            (number(f64::from(brightest))) "."
        }
        @for (kind, pairs) in shown {
            h3 { (kind) }
            div.images {
                @for (i, row, back) in pairs {
                    figure {
                        img src=(row) width=(size.width) height=(size.height) alt=(format!("row {}", i + 1));
                        img src=(back) width=(size.width) height=(size.height)
                            alt=(format!("row {} reconstructed", i + 1));
                        figcaption { "row " (i + 1) br; (number(f64::from(measured.errors[i]))) }
                    }
                }
            }
        }
    })
}

/// At most a third of the rows, so that no row appears in two kinds unless there are fewer than three rows.
fn examples_of_each(rows: usize, pixels: usize) -> usize {
    // Six images per example: three kinds, row and reconstruction.
    (PIXELS_MAX / (6 * pixels)).min(rows / 3).clamp(1, EXAMPLES_MAX)
}

fn ends(values: &[f64]) -> (f32, f32) {
    let (least, most) = (f64::INFINITY, f64::NEG_INFINITY);
    let (least, most) = values.iter().fold((least, most), |(least, most), value| (least.min(*value), most.max(*value)));
    (least as f32, most as f32)
}

/// The table of the features with the largest errors.
fn features(measured: &Measured, names: &[String]) -> Markup {
    let mut errors: Vec<FeatureError> = (0..measured.columns).map(|feature| feature_error(measured, feature)).collect();
    errors.sort_by(|a, b| b.squared_error.total_cmp(&a.squared_error));
    errors.truncate(FEATURES_MAX);
    html! {
        p.note {
            "The features with the largest mean squared error in " (measured.described()) ", of " (measured.columns)
            ", in input units. To show rows as images, add " code { "--image WIDTHxHEIGHT" } "."
        }
        div.scroll {
            table {
                thead {
                    tr {
                        @for name in ["feature", "mean squared error", "variance", "variance explained"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for error in &errors {
                        tr {
                            th scope="row" { (name(names, error.feature)) }
                            td { (number(error.squared_error)) }
                            td { (number(error.variance)) }
                            td { (explained(error)) }
                        }
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FeatureError {
    /// Index of the feature, from 0.
    feature: usize,
    /// Mean over rows of (x - x_hat)^2, without rows in which the value is missing.
    squared_error: f64,
    /// Mean over the same rows of (x - mean)^2.
    variance: f64,
}

fn feature_error(measured: &Measured, feature: usize) -> FeatureError {
    let of =
        |values: &'_ [f64]| -> Vec<f64> { values.iter().skip(feature).step_by(measured.columns).copied().collect() };
    let pairs = of(&measured.rows).into_iter().zip(of(&measured.reconstructions));
    // Missing values have no error.
    let (rows, back): (Vec<f64>, Vec<f64>) = pairs.filter(|(x, _)| !x.is_nan()).unzip();
    let count = rows.len().max(1) as f64;
    let mean = rows.iter().sum::<f64>() / count;
    let squared_error = rows.iter().zip(&back).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / count;
    let variance = rows.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    FeatureError { feature, squared_error, variance }
}

fn name(names: &[String], feature: usize) -> String {
    names.get(feature).cloned().unwrap_or_else(|| format!("number {}", feature + 1))
}

fn explained(error: &FeatureError) -> String {
    if error.variance > 0.0 {
        format!("{:.2} %", 100.0 * (1.0 - error.squared_error / error.variance))
    } else {
        "constant".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of zeros; `off` gives each value of their reconstructions.
    fn measured(columns: usize, rows: usize, off: impl Fn(usize, usize) -> f32) -> Measured {
        let reconstructions: Vec<f64> =
            (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))).map(|(i, j)| f64::from(off(i, j))).collect();
        let error = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() as f32;
        let errors = reconstructions.chunks(columns).map(error).collect();
        Measured {
            source: "x".to_owned(),
            is_all: true,
            columns,
            rows: vec![0.0; rows * columns],
            reconstructions,
            errors,
        }
    }

    #[test]
    fn best_median_and_worst_rows_are_shown_as_images() {
        let measured = measured(64, 9, |i, _| [5.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0][i]);
        let text = examples(&measured, None, &[]).expect("draws").into_string();
        let rows: Vec<&str> = text.split("<figcaption>row ").skip(1).map(|rest| &rest[..1]).collect();
        assert_eq!(rows, ["2", "4", "6", "8", "1", "9", "7", "5", "3"], "by rising error, from 1");
        assert_eq!(text.matches("data:image/png;base64,").count(), 18);
    }

    #[test]
    fn fewer_rows_or_larger_images_give_fewer_examples() {
        assert_eq!(examples_of_each(1, 64), 1);
        assert_eq!(examples_of_each(8, 64), 2);
        assert_eq!(examples_of_each(1000, 64), 6);
        assert_eq!(examples_of_each(1000, 65_536), 2);
        for rows in 1..4 {
            let few = measured(64, rows, |i, _| i as f32);
            assert!(examples(&few, None, &[]).is_ok(), "{rows}");
        }
    }

    #[test]
    fn rows_that_are_not_images_are_shown_as_a_feature_table() {
        let measured = measured(3, 2, |_, j| [1.0, 3.0, 2.0][j]);
        let names = ["a", "<b>"].map(str::to_owned);
        let text = examples(&measured, None, &names).expect("text").into_string();
        let order: Vec<usize> =
            ["&lt;b&gt;", "number 3", ">a<"].iter().map(|name| text.find(name).expect(name)).collect();
        assert!(order.is_sorted(), "{text}");
        assert!(text.contains("9.000") && text.contains("constant"), "{text}");
    }

    #[test]
    fn errors_by_feature_are_means_over_rows() {
        let measured = Measured {
            columns: 2,
            rows: vec![1.0, 10.0, 3.0, 10.0],
            reconstructions: vec![2.0, 10.0, 3.0, 14.0],
            errors: vec![1.0, 16.0],
            ..Measured::default()
        };
        let of = |feature| feature_error(&measured, feature);
        assert_eq!(of(0), FeatureError { feature: 0, squared_error: 0.5, variance: 1.0 });
        assert_eq!(of(1), FeatureError { feature: 1, squared_error: 8.0, variance: 0.0 });
    }
}
