//! The name, shape and training of the model.

use maud::{Markup, html};

use crate::cli::{models, report};
use crate::rpc::pb;
use crate::text::listed;

/// Maximum feature names listed; the rest is a count.
const FEATURE_NAMES_MAX: usize = 24;

/// The header of the page.
pub(super) fn header(version: &pb::ModelVersion) -> Markup {
    let spec = version.spec.clone().unwrap_or_default();
    html! {
        header {
            p.kicker { "Tied-weight autoencoder" }
            h1 { (version.name) " " span.version { "version " (version.version) } }
            p.lead {
                (models::widths(Some(&spec)))
                @for alias in &version.aliases { " " span.tag { (alias) } }
            }
        }
    }
}

/// The shape of the model.
pub(super) fn shape(version: &pb::ModelVersion) -> Markup {
    let spec = version.spec.clone().unwrap_or_default();
    html! {
        dl {
            (entry("widths", &html! { (models::widths(Some(&spec))) " (the last is the code length)" }))
            (entry("encoder", &html! { (activations(&spec.encoder_activations)) }))
            (entry("decoder, in encoder order", &html! { (activations(&spec.decoder_activations)) @if spec.gain { ", with gain" } }))
            (entry("loss", &html! { (report::short(spec.loss().as_str_name(), "LOSS_")) }))
            (entry("normalization", &html! { (report::short(spec.normalization().as_str_name(), "NORMALIZATION_")) }))
            @if let Some(time) = &version.create_time {
                (entry("published", &html! { (to_the_second(&time.to_string())) }))
            }
            @if !spec.feature_names.is_empty() {
                (entry("features", &feature_names(&spec.feature_names)))
            }
            (entry("SHA-256", &html! { code { (version.sha256) } }))
        }
    }
}

/// How the model was trained.
pub(super) fn training(report: &pb::TrainingReport) -> Markup {
    html! {
        dl {
            (entry("rows", &html! { (report.training_rows) " for training" }))
            (entry("epochs", &html! {
                (report.epochs.len()) " in " (format!("{:.1} s", report.duration_seconds))
                ", the best after epoch " (report.best_epoch)
            }))
            (entry("batch", &html! { (report.batch_rows) " rows" }))
            (entry("learning rate", &html! { (report.learning_rate) " at its peak" }))
            (entry("seed", &html! { (report.seed) }))
            @if report.base_version > 0 {
                (entry("started from", &html! { (report.base_model_name) "@" (report.base_version) }))
            }
            (entry("software", &html! { (report.software) }))
            (entry("rows, SHA-256", &html! { code { (report.data_sha256) } }))
        }
        @if !report.notes.is_empty() {
            h3 { "Notes" }
            ul { @for note in &report.notes { li { (note) } } }
        }
    }
}

/// Formats `2026-01-31T12:00:00.5Z` as `2026-01-31 12:00:00 UTC`.
fn to_the_second(time: &str) -> String {
    let whole = time.trim_end_matches('Z');
    whole.split('.').next().unwrap_or(whole).replace('T', " ") + " UTC"
}

fn entry(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn activations(numbers: &[i32]) -> String {
    let name = |number: &i32| pb::Activation::try_from(*number).map_or("?", |one| one.as_str_name());
    let names: Vec<String> = numbers.iter().map(|number| report::short(name(number), "ACTIVATION_")).collect();
    names.join(", ")
}

fn feature_names(names: &[String]) -> Markup {
    html! { (listed(names.iter(), FEATURE_NAMES_MAX)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_text_is_escaped() {
        let bad = "<script>\"&'".to_owned();
        let spec = pb::ModelSpec { feature_names: vec![bad.clone()], ..Default::default() };
        let version =
            pb::ModelVersion { name: bad.clone(), aliases: vec![bad.clone()], spec: Some(spec), ..Default::default() };
        let report =
            pb::TrainingReport { notes: vec![bad.clone()], software: bad, base_version: 1, ..Default::default() };
        let page = [header(&version), shape(&version), training(&report)].map(Markup::into_string).concat();
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;&quot;&amp;").count(), 5, "{page}");
    }

    #[test]
    fn times_are_shown_to_the_second() {
        for time in ["2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00Z"] {
            assert_eq!(to_the_second(time), "2026-01-31 12:00:00 UTC");
        }
    }

    #[test]
    fn long_feature_lists_are_shortened() {
        let names: Vec<String> = (0..1000).map(|i| format!("f{i}")).collect();
        let text = feature_names(&names).into_string();
        assert!(text.ends_with("f23 and 976 more") && text.starts_with("f0, "), "{text}");
    }
}
