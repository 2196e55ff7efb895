//! The page: its sections in order, with a text for each section without data.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::facts::Facts;
use super::measured::Measured;
use super::{about, chart, codes, errors, examples, figures, matrices, scores, training};
use crate::cli::CliError;

const STYLE: &str = include_str!("style.css");

/// The whole page as HTML.
///
/// # Errors
/// [`CliError::Failed`] if a chart cannot be drawn.
pub(super) fn page(facts: &Facts) -> Result<String, CliError> {
    let version = &facts.version;
    let title = format!("{} version {}", version.name, version.version);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                // Without this the browser would request an icon from the server of the page.
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(chart::style())) }
            }
            body {
                main {
                    (about::header(version))
                    (section("model", "Model", &about::shape(version)))
                    (section("training", "Training", &trained(facts)?))
                    (section("orthonormality", "Orthonormality during training", &orthonormality(facts)?))
                    (section("matrices", "Matrices", &matrices::matrices(&facts.inspection)?))
                    (section("figures", "Figures", &figures(facts)))
                    (section("errors", "Errors of the rows", &row_errors(facts)?))
                    (section("code-length", "Error by code length", &by_code_length(facts)?))
                    (section("scores", "How unusual the rows are", &row_scores(facts)?))
                    (section("examples", "Rows and their reconstructions", &row_examples(facts)?))
                }
            }
        }
    };
    Ok(page.into_string())
}

fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! { section id=(id) { h2 { (title) } (content) } }
}

fn trained(facts: &Facts) -> Result<Markup, CliError> {
    let Some(report) = &facts.version.training_report else { return Ok(no_report()) };
    Ok(html! {
        (about::training(report))
        (training::losses(report)?)
        (training::squared_errors(report, facts.code_length())?)
    })
}

fn orthonormality(facts: &Facts) -> Result<Markup, CliError> {
    facts.version.training_report.as_ref().map_or_else(|| Ok(no_report()), training::defects)
}

fn figures(facts: &Facts) -> Markup {
    let comparison = facts.inspection.as_ref().ok().and_then(|seen| seen.comparison.as_ref());
    html! {
        @match (comparison, &facts.measured) {
            (Some(found), Some(measured)) => (figures::decoders(found, &measured.described())),
            _ => {
                h3 { "Decoders" }
                @match &facts.inspection {
                    Err(reason) if facts.measured.is_some() => {
                        p.missing { "The server did not compare decoders: " (reason) "." }
                    }
                    _ => (no_rows(facts, "the error with the transpose, the pseudo-inverse and PCA"))
                }
            }
        }
        @match &facts.version.training_report {
            Some(report) => {
                (figures::evaluations(report, facts.code_length()))
                (figures::features(report, facts.version.spec.as_ref().map_or(&[][..], |spec| &spec.feature_names)))
            }
            None => { h3 { "Held-out rows" } (no_report()) }
        }
        (figures::sizes(&facts.version))
    }
}

fn row_errors(facts: &Facts) -> Result<Markup, CliError> {
    let missing = || Ok(no_rows(facts, "the distribution of their errors"));
    facts.measured.as_ref().map_or_else(missing, errors::distribution)
}

fn by_code_length(facts: &Facts) -> Result<Markup, CliError> {
    match (&facts.measured, &facts.by_length) {
        (Some(measured), Some(found)) => codes::by_length(found, measured),
        (Some(_), None) => Ok(codes::not_canonical(&facts.version)),
        (None, _) => Ok(no_rows(facts, "the error by code length")),
    }
}

fn row_scores(facts: &Facts) -> Result<Markup, CliError> {
    match (&facts.measured, &facts.scores) {
        (Some(measured), Some(Ok(found))) => scores::distribution(found, measured),
        (_, Some(Err(reason))) => Ok(scores::none(reason)),
        _ => Ok(no_rows(facts, "the distribution of their scores, and the alarms")),
    }
}

fn row_examples(facts: &Facts) -> Result<Markup, CliError> {
    let names = facts.version.spec.as_ref().map_or(&[][..], |spec| &spec.feature_names);
    let missing = || Ok(no_rows(facts, "the rows with the lowest and highest errors"));
    let shown = |measured: &Measured| examples::examples(measured, facts.image, names);
    facts.measured.as_ref().map_or_else(missing, shown)
}

fn no_report() -> Markup {
    html! {
        p.missing {
            "This version has no training report because it was imported. Versions from " code { "halfhitch train" }
            " have one."
        }
    }
}

/// The text of a section that needs rows.
fn no_rows(facts: &Facts, what: &str) -> Markup {
    let command = format!("halfhitch report {} rows.npy -o report.html", facts.version.name);
    html! {
        p.missing { "Name a file of rows to see " (what) ": " code { (command) } "." }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::pb;

    fn facts() -> Facts {
        let version = pb::ModelVersion { name: "x".to_owned(), version: 3, ..Default::default() };
        let inspection = Ok(pb::InspectModelResponse::default());
        Facts { version, inspection, measured: None, by_length: None, scores: None, image: None }
    }

    #[test]
    fn a_page_without_data_names_what_is_missing() {
        let page = page(&facts()).expect("a page");
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<title>x version 3</title>"), "{page}");
        for id in [
            "model",
            "training",
            "orthonormality",
            "matrices",
            "figures",
            "errors",
            "code-length",
            "scores",
            "examples",
        ] {
            assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
        }
        assert_eq!(page.matches("halfhitch report x rows.npy").count(), 5);
        assert_eq!(page.matches("has no training report").count(), 3);
    }

    #[test]
    fn row_errors_are_shown_without_matrix_inspection() {
        let measured = Measured {
            columns: 2,
            rows: vec![1.0; 2],
            reconstructions: vec![0.0; 2],
            errors: vec![2.0],
            ..Measured::default()
        };
        let scores = Some(Err("<none>".to_owned()));
        let facts = Facts { inspection: Err("too large".to_owned()), measured: Some(measured), scores, ..facts() };
        let page = page(&facts).expect("a page");
        assert!(page.contains("halfhitch models canonicalize x@3") && page.contains("score these rows: &lt;none&gt;."));
        assert!(!page.contains("Name a file of rows"), "{page}");
        assert!(page.contains("did not compare decoders: too large.") && page.contains("Distribution of the squared"));
    }

    #[test]
    fn the_style_loads_no_external_resources() {
        for word in ["http:", "https:", "url(", "@import", "<script"] {
            assert!(!STYLE.contains(word), "{word}");
        }
    }
}
