//! Tables: errors of the decoders and of PCA, R² by feature, and sizes.

use maud::{Markup, html};

use crate::cli::report;
use crate::rpc::pb;

/// One line of a table of reconstruction errors.
struct Line {
    name: String,
    squared_error: f64,
    pca_squared_error: f64,
    explained_variance: f64,
}

/// Errors with the transpose, the pseudo-inverse and PCA on the given rows.
pub(super) fn decoders(found: &pb::DecoderComparison, described: &str) -> Markup {
    let pca = found.pca_squared_error;
    let line = |name: &str, squared_error: f64| Line {
        name: name.to_owned(),
        squared_error,
        pca_squared_error: pca,
        explained_variance: 1.0 - squared_error / found.spread,
    };
    let mut lines = vec![line("transpose, as trained", found.transpose_squared_error)];
    lines.extend(found.pseudo_inverse_squared_error.map(|error| line("pseudo-inverse", error)));
    lines.push(line("PCA, fitted on these rows", pca));
    html! {
        h3 { "Decoders" }
        p.note { "Squared error of " (described) ": sum over features, mean over rows, in the normalized space." }
        (table("decoder", &lines))
        @if found.pseudo_inverse_squared_error.is_none() {
            p.note { "There is no pseudo-inverse: " (found.no_pseudo_inverse) "." }
        }
    }
}

/// Errors on the held-out rows.
pub(super) fn evaluations(report: &pb::TrainingReport, code_length: usize) -> Markup {
    let both = [("validation", &report.validation), ("test", &report.test)];
    let lines: Vec<Line> = both
        .into_iter()
        .filter_map(|(name, evaluation)| Some((name, evaluation.as_ref()?)))
        .flat_map(|(name, evaluation)| of_evaluation(name, evaluation, code_length))
        .collect();
    html! {
        h3 { "Held-out rows" }
        @if lines.is_empty() {
            p.missing { "No rows were held out: " code { "halfhitch train --test FILE" } " measures on test rows." }
        } @else {
            p.note { "Squared error, from the training report." }
            (table("rows", &lines))
        }
    }
}

/// Maximum features in the table.
const FEATURES_MAX: usize = 24;

/// R² of each feature on the validation rows, lowest first.
pub(super) fn features(report: &pb::TrainingReport, names: &[String]) -> Markup {
    let features = report::by_feature(report, names);
    let more = features.len().saturating_sub(FEATURES_MAX);
    html! {
        @if !features.is_empty() {
            h3 { "Features" }
            p.note {
                "R² of each feature on the validation rows, lowest first: 1 means exact reconstruction, 0 means no "
                "better than the mean of the feature."
                @if more > 0 { " The table leaves out the " (more) " best." }
            }
            div.scroll {
                table {
                    thead { tr { th scope="col" { "feature" } th scope="col" { "R²" } th.wide aria-hidden="true" {} } }
                    tbody {
                        @for (name, share) in features.iter().take(FEATURES_MAX) {
                            tr {
                                th scope="row" { (name) }
                                td { (format!("{share:.3}")) }
                                td.wide aria-hidden="true" { (bar(f64::from(share.clamp(0.0, 1.0)))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line for the model and one for PCA on the same rows.
fn of_evaluation(name: &str, evaluation: &pb::Evaluation, code_length: usize) -> [Line; 2] {
    let line = |name: String, squared_error: f64, explained_variance: f64| Line {
        name,
        squared_error,
        pca_squared_error: evaluation.pca_squared_error,
        explained_variance,
    };
    let rows = evaluation.rows;
    [
        line(format!("{name}, {rows} rows"), evaluation.squared_error, evaluation.explained_variance),
        line(
            format!("{name}, PCA with {code_length} components"),
            evaluation.pca_squared_error,
            evaluation.pca_explained_variance,
        ),
    ]
}

fn table(what: &str, lines: &[Line]) -> Markup {
    let most = lines.iter().map(|line| line.squared_error).fold(0.0, f64::max);
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { (what) }
                        th scope="col" { "squared error per row" }
                        th scope="col" { "of PCA's" }
                        th scope="col" { "variance explained" }
                        th.wide aria-hidden="true" {}
                    }
                }
                tbody {
                    @for line in lines {
                        tr {
                            th scope="row" { (line.name) }
                            td { (number(line.squared_error)) }
                            td { (ratio(line.squared_error / line.pca_squared_error)) }
                            td { (format!("{:.2} %", 100.0 * line.explained_variance)) }
                            td.wide aria-hidden="true" { (bar(line.squared_error / most)) }
                        }
                    }
                }
            }
        }
    }
}

/// Stored bytes, compared with a model whose decoder has its own matrices.
pub(super) fn sizes(version: &pb::ModelVersion) -> Markup {
    let (tied, untied) = (version.tensor_bytes, version.untied_tensor_bytes);
    let share = tied as f64 / untied.max(1) as f64;
    html! {
        h3 { "Size" }
        div.scroll {
            table {
                tbody {
                    tr {
                        th scope="row" { "tensors, each matrix once" }
                        td { (report::bytes(tied)) }
                        td { (format!("{:.0} %", 100.0 * share)) }
                        td.wide aria-hidden="true" { (bar(share)) }
                    }
                    tr {
                        th scope="row" { "the same untied" }
                        td { (report::bytes(untied)) }
                        td { "100 %" }
                        td.wide aria-hidden="true" { (bar(1.0)) }
                    }
                }
            }
        }
        p.note { "Size of the file with its training report: " (report::bytes(version.file_bytes)) "." }
    }
}

fn bar(share: f64) -> Markup {
    let percent = if share.is_finite() { 100.0 * share.clamp(0.0, 1.0) } else { 0.0 };
    html! { span.bar style=(format!("width:{percent:.1}%")) {} }
}

/// A ratio to PCA; not meaningful if PCA has only rounding errors.
fn ratio(value: f64) -> String {
    if value < 1e6 { format!("{value:.3}") } else { "PCA is exact".to_owned() }
}

/// A number with four significant digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size @ 1e-3..1e5 => {
            let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(pseudo_inverse_squared_error: Option<f64>) -> pb::DecoderComparison {
        pb::DecoderComparison {
            rows: 10,
            transpose_squared_error: 2.0,
            pseudo_inverse_squared_error,
            pca_squared_error: 4.0,
            spread: 8.0,
            no_pseudo_inverse: if pseudo_inverse_squared_error.is_some() { String::new() } else { "<rank>".to_owned() },
        }
    }

    #[test]
    fn decoders_stand_beside_pca() {
        let text = decoders(&comparison(Some(1.0)), "10 rows of x.csv").into_string();
        for cell in ["2.000", "0.500", "75.00 %", "1.000", "0.250", "87.50 %", "4.000", "1.000", "50.00 %"] {
            assert!(text.contains(&format!("<td>{cell}</td>")), "{cell} in {text}");
        }
    }

    #[test]
    fn a_missing_pseudo_inverse_is_explained() {
        let text = decoders(&comparison(None), "10 rows").into_string();
        assert!(text.contains("There is no pseudo-inverse: &lt;rank&gt;."), "{text}");
    }

    #[test]
    fn missing_held_out_rows_are_explained() {
        let text = evaluations(&pb::TrainingReport::default(), 2).into_string();
        assert!(text.contains("class=\"missing\"") && text.contains("--test FILE"), "{text}");
    }

    #[test]
    fn numbers_stay_short_at_any_size() {
        let values = [0.0, 0.123_456, -1.5, 12.3456, 99_999.4, 123_456.0, 0.000_123_456, f64::INFINITY];
        assert_eq!(values.map(number), ["0", "0.1235", "-1.500", "12.35", "99999", "1.235e5", "1.235e-4", "inf"]);
    }

    #[test]
    fn the_size_bar_is_proportional_to_the_bytes() {
        let version = pb::ModelVersion { tensor_bytes: 500, untied_tensor_bytes: 1000, ..Default::default() };
        let text = sizes(&version).into_string();
        assert!(text.contains("<td>50 %</td>") && text.contains("width:50.0%"), "{text}");
        assert!(bar(f64::NAN).into_string().contains("width:0.0%"));
    }
}
