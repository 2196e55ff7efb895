//! Text and JSON output of reports, versions and jobs.

use serde_json::{Value, json};

use super::draw;
use crate::rpc::pb;
use crate::text;

/// Maximum features in one line.
const FEATURES_MAX: usize = 10;
/// A feature with a lower R² counts as poorly explained; the line of the total lists at most `POOR_FEATURES_MAX` of
/// them.
const POOR: f32 = 0.5;
const POOR_FEATURES_MAX: usize = 3;

/// R² of each feature on held-out rows, lowest first, with its name or its number from 1. Features without variance
/// there are left out.
pub(super) fn by_feature(report: &pb::TrainingReport, names: &[String]) -> Vec<(String, f32)> {
    let shares = report.feature_explained_variance.iter().copied().enumerate();
    let mut known: Vec<(usize, f32)> = shares.filter(|(_, share)| !share.is_nan()).collect();
    known.sort_by(|a, b| a.1.total_cmp(&b.1));
    let name = |j: usize| match names.get(j).filter(|name| !name.is_empty()) {
        Some(name) => text::first_chars(name, 40).to_owned(),
        None => format!("column {}", j + 1),
    };
    known.into_iter().map(|(j, share)| (name(j), share)).collect()
}

/// The first `most` features, and the count of the others.
fn listed(features: &[(String, f32)], most: usize) -> String {
    text::listed(features.iter().map(|(name, share)| format!("{name} {share:.2}")), most)
}

/// The lines of one evaluation.
pub(super) fn evaluation_lines(name: &str, evaluation: &pb::Evaluation, code_length: usize) -> Vec<String> {
    let ratio = evaluation.squared_error / evaluation.pca_squared_error;
    // With as many code numbers as dimensions, PCA has only rounding errors.
    let ratio = if ratio < 1e6 { format!("ratio {ratio:.3}") } else { "which is exact".to_owned() };
    let mut lines = vec![
        format!(
            "{name}: reconstruction error {:.4} per row, PCA with {code_length} components {:.4} ({ratio}), {} rows",
            evaluation.squared_error, evaluation.pca_squared_error, evaluation.rows
        ),
        format!(
            "{:width$}  in input units {}, PCA {}; variance explained {:.2} %, PCA {:.2} %",
            "",
            number(evaluation.squared_error_input_units),
            number(evaluation.pca_squared_error_input_units),
            100.0 * evaluation.explained_variance,
            100.0 * evaluation.pca_explained_variance,
            width = name.len()
        ),
    ];
    if let Some(floor) = evaluation.loss_floor {
        lines.push(format!(
            "{:width$}  cross-entropy {:.4} nats per row, {:.4} above the minimum for these rows",
            "",
            evaluation.loss,
            evaluation.loss - floor,
            width = name.len()
        ));
    }
    lines
}

/// A number of any magnitude.
fn number(value: f64) -> String {
    if value == 0.0 || (1e-4..1e9).contains(&value.abs()) { format!("{value:.4}") } else { format!("{value:.4e}") }
}

/// The lines of a training report.
pub(super) fn report_lines(report: &pb::TrainingReport, code_length: usize, names: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(validation) = &report.validation {
        lines.extend(evaluation_lines("validation", validation, code_length));
        let features = by_feature(report, names);
        let poor = features.partition_point(|(_, share)| *share < POOR);
        if let Some(total) = lines.get_mut(1).filter(|_| poor > 0) {
            total.push_str(&format!("; but R² of {}", listed(&features[..poor], POOR_FEATURES_MAX)));
        }
        if !features.is_empty() {
            lines.push(format!("R² by feature, lowest first: {}", listed(&features, FEATURES_MAX)));
        }
    }
    if let Some(test) = &report.test {
        lines.extend(evaluation_lines("test", test, code_length));
    }
    if report.base_version > 0 {
        let figures = report.base_validation.as_ref().map_or(String::new(), |base| {
            let new = report.validation.as_ref().map_or(f64::NAN, |validation| validation.loss);
            format!(", validation loss {:.4}; the new version has {new:.4}", base.loss)
        });
        lines.push(format!("started from {}@{}{figures}", report.base_model_name, report.base_version));
    }
    lines.push(format!(
        "training: {} rows, {} epochs in {:.1} s, best after epoch {}, batch {} rows, peak learning rate {}, seed {}",
        report.training_rows,
        report.epochs.len(),
        report.duration_seconds,
        report.best_epoch,
        report.batch_rows,
        report.learning_rate,
        report.seed
    ));
    let losses: Vec<f64> =
        report.epochs.iter().map(|epoch| epoch.validation_loss.unwrap_or(epoch.training_loss)).collect();
    if losses.len() > 1 {
        let what = if report.validation.is_some() { "validation loss" } else { "training loss" };
        lines.push(format!(
            "{what} by epoch: {} {:.4} to {:.4}",
            draw::sparkline(&losses, 60),
            losses[0],
            losses[losses.len() - 1]
        ));
    }
    lines.extend(defect_lines(report));
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// For each matrix, its orthonormality defect by epoch.
fn defect_lines(report: &pb::TrainingReport) -> Vec<String> {
    let looks: Vec<&[f64]> =
        report.epochs.iter().map(|epoch| &epoch.defects[..]).filter(|defects| !defects.is_empty()).collect();
    let matrices = looks.first().map_or(0, |first| first.len());
    let line = |l: usize| {
        let of_one: Vec<f64> = looks.iter().filter_map(|look| look.get(l).copied()).collect();
        let (first, last) = (of_one.first()?, of_one.last()?);
        let picture = if of_one.len() > 1 { draw::sparkline(&of_one, 60) + " " } else { String::new() };
        Some(format!("orthonormality defect of matrix {} by epoch: {picture}{first:.3e} to {last:.3e}", l + 1))
    };
    (0..matrices).filter_map(line).collect()
}

pub(super) fn evaluation_json(evaluation: &pb::Evaluation) -> Value {
    json!({
        "rows": evaluation.rows,
        "loss": evaluation.loss,
        "squared_error": evaluation.squared_error,
        "squared_error_input_units": evaluation.squared_error_input_units,
        "pca_squared_error": evaluation.pca_squared_error,
        "pca_squared_error_input_units": evaluation.pca_squared_error_input_units,
        "explained_variance": evaluation.explained_variance,
        "pca_explained_variance": evaluation.pca_explained_variance,
        "loss_floor": evaluation.loss_floor,
    })
}

pub(super) fn report_json(report: &pb::TrainingReport) -> Value {
    json!({
        "epochs": report.epochs.iter().map(|epoch| json!({
            "epoch": epoch.epoch,
            "training_loss": epoch.training_loss,
            "validation_loss": epoch.validation_loss,
            "squared_error": epoch.squared_error,
            "defects": epoch.defects,
        })).collect::<Vec<_>>(),
        "best_epoch": report.best_epoch,
        "validation": report.validation.as_ref().map(evaluation_json),
        "test": report.test.as_ref().map(evaluation_json),
        "training_rows": report.training_rows,
        "pca_rows": report.pca_rows,
        "data_sha256": report.data_sha256,
        "seed": report.seed,
        "duration_seconds": report.duration_seconds,
        "software": report.software,
        "job_id": report.job_id,
        "batch_rows": report.batch_rows,
        "learning_rate": report.learning_rate,
        "notes": report.notes,
        "base_model_name": report.base_model_name,
        "base_version": report.base_version,
        "base_validation": report.base_validation.as_ref().map(evaluation_json),
        // NaN (a feature without variance on the validation rows) becomes null.
        "feature_explained_variance": report.feature_explained_variance,
    })
}

pub(super) fn version_json(version: &pb::ModelVersion) -> Value {
    let spec = version.spec.as_ref();
    let activations = |numbers: &[i32]| -> Vec<&'static str> {
        numbers.iter().map(|number| enum_word(pb::Activation::try_from(*number).map(|a| a.as_str_name()))).collect()
    };
    json!({
        "name": version.name,
        "version": version.version,
        "aliases": version.aliases,
        "created": version.create_time.as_ref().map(ToString::to_string),
        "widths": spec.map(|spec| &spec.widths),
        "encoder_activations": spec.map(|spec| activations(&spec.encoder_activations)),
        "decoder_activations": spec.map(|spec| activations(&spec.decoder_activations)),
        "loss": spec.map(|spec| spec.loss().as_str_name()),
        "normalization": spec.map(|spec| spec.normalization().as_str_name()),
        "gain": spec.map(|spec| spec.gain),
        "ordered_code": spec.map(|spec| spec.ordered_code),
        "feature_names": spec.map(|spec| &spec.feature_names),
        "file_bytes": version.file_bytes,
        "tensor_bytes": version.tensor_bytes,
        "untied_tensor_bytes": version.untied_tensor_bytes,
        "sha256": version.sha256,
        "training_report": version.training_report.as_ref().map(report_json),
    })
}

fn enum_word<E>(name: Result<&'static str, E>) -> &'static str {
    name.unwrap_or("UNKNOWN")
}

/// The name of an enum value without its prefix, in lower case with hyphens.
pub(super) fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

pub(super) fn job_json(job: &pb::Job) -> Value {
    json!({
        "id": job.id,
        "model_name": job.model_name,
        "state": job.state().as_str_name(),
        "created": job.create_time.as_ref().map(ToString::to_string),
        "updated": job.update_time.as_ref().map(ToString::to_string),
        "upload_expires": job.upload_expire_time.as_ref().map(ToString::to_string),
        "chunk_count": job.chunk_count,
        "priority": job.priority,
        "row_count": job.row_count,
        "test_row_count": job.test_row_count,
        "progress": job.progress.as_ref().map(|progress| json!({
            "epoch": progress.epoch,
            "epoch_count": progress.epoch_count,
            "step": progress.step,
            "step_count": progress.step_count,
            "training_loss": progress.training_loss,
            "validation_loss": progress.validation_loss,
            "rows_per_second": progress.rows_per_second,
            "time_left_seconds": progress.time_left.as_ref().map(|left| left.seconds),
            "explained_variance": progress.explained_variance,
            "pca_explained_variance": progress.pca_explained_variance,
        })),
        "version": job.version,
        "failure": job.failure,
        "kept_back": job.kept_back,
        "idempotency_key": job.idempotency_key,
        "training_report": job.training_report.as_ref().map(report_json),
    })
}

/// A byte count in readable units.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} bytes"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.2} MB", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(shares: &[f32]) -> pb::TrainingReport {
        let validation = pb::Evaluation { explained_variance: 0.997, ..Default::default() };
        pb::TrainingReport {
            validation: Some(validation),
            feature_explained_variance: shares.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn a_total_does_not_hide_lost_features() {
        let names = ["age", "smoker", "visits"].map(str::to_owned);
        let lines = report_lines(&report(&[0.999, 0.004, f32::NAN, -0.25]), 2, &names);
        assert!(lines[1].ends_with("PCA 0.00 %; but R² of column 4 -0.25, smoker 0.00"), "{}", lines[1]);
        assert_eq!(lines[2], "R² by feature, lowest first: column 4 -0.25, smoker 0.00, age 1.00");
    }

    #[test]
    fn good_models_have_no_warning_and_long_lists_are_shortened() {
        let lines = report_lines(&report(&vec![0.9; 5000]), 2, &[]);
        assert!(lines[1].ends_with("PCA 0.00 %"), "{}", lines[1]);
        assert!(lines[2].ends_with("column 10 0.90 and 4990 more"), "{}", lines[2]);
    }
}
