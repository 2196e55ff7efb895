//! The publishing gate: a version must be better than its base on the same rows.

use crate::model::TrainingReport;

/// Why a version that was trained from a base is not published, as a text with both losses. `None` if it is better, or
/// if it has no base.
pub fn kept_back(report: &TrainingReport) -> Option<String> {
    let base = report.base.as_ref()?;
    match (&report.validation, &report.base_validation) {
        // A NaN loss is not better.
        (Some(new), Some(old)) if new.loss < old.loss => None,
        (Some(new), Some(old)) => Some(format!(
            "its validation loss is {:.6}, that of {base} is {:.6} on the same {} rows",
            new.loss, old.loss, new.rows
        )),
        _ => Some(format!("there are no validation rows to compare it with {base}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Evaluation, ModelKey, Version};

    fn figures(loss: f64) -> Evaluation {
        Evaluation {
            rows: 20,
            loss,
            squared_error: loss,
            squared_error_input_units: loss,
            pca_squared_error: 1.0,
            pca_squared_error_input_units: 1.0,
            explained_variance: 0.5,
            pca_explained_variance: 0.5,
            loss_floor: None,
        }
    }

    fn report(new: Option<f64>, old: Option<f64>) -> TrainingReport {
        let base = ModelKey { name: "digits".parse().expect("a name"), version: Version::FIRST };
        TrainingReport {
            base: Some(base),
            validation: new.map(figures),
            base_validation: old.map(figures),
            ..TrainingReport::default()
        }
    }

    #[test]
    fn a_model_better_than_its_base_is_published() {
        assert_eq!(kept_back(&report(Some(0.1), Some(0.2))), None);
    }

    #[test]
    fn a_model_no_better_than_its_base_is_kept_back() {
        for new in [0.2, 0.3, f64::NAN] {
            let reason = kept_back(&report(Some(new), Some(0.2))).expect("kept back");
            assert!(
                reason.contains("0.200000") && reason.contains("digits version 1") && reason.contains("20 rows"),
                "{reason}"
            );
        }
    }

    #[test]
    fn missing_validation_rows_keep_back_only_models_with_a_base() {
        assert!(kept_back(&report(None, None)).expect("kept back").contains("no validation rows"));
        assert_eq!(kept_back(&TrainingReport { base: None, ..report(Some(0.3), Some(0.2)) }), None);
    }
}
