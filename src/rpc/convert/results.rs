//! What the operations on rows need and return besides matrices.

use super::unknown_enum;
use crate::pb;
use crate::service::{Comparison, Decoder, Inspected, Inverted, LayerInspection, Scored, ServiceError};

/// Converts the decoder.
pub fn decoder(number: i32) -> Result<Decoder, ServiceError> {
    match pb::Decoder::try_from(number).map_err(|_| unknown_enum("decoder", number))? {
        pb::Decoder::Unspecified | pb::Decoder::Transpose => Ok(Decoder::Transpose),
        pb::Decoder::PseudoInverse => Ok(Decoder::PseudoInverse),
    }
}

/// Converts the accuracy of the pseudo-inverse.
pub fn inverted(inverted: Inverted) -> pb::PseudoInverse {
    let Inverted { condition, regularized, approximate } = inverted;
    pb::PseudoInverse { is_linear_approximation: approximate, condition, is_regularized: regularized }
}

/// Converts anomaly scores.
pub fn scored(scored: Scored) -> pb::ScoreResponse {
    let Scored { version, scores, threshold, calibration_rows, residual_variance, feature_names, .. } = scored;
    let name = |feature: u32| feature_names.get(feature as usize).cloned().unwrap_or_default();
    let reason = |(feature, contribution)| pb::Reason { feature, name: name(feature), contribution };
    let reasons = scores.reasons.into_iter();
    pb::ScoreResponse {
        version: version.number(),
        squared_errors: scores.squared_errors,
        code_distances: scores.code_distances,
        scores: scores.scores,
        p_values: scores.p_values,
        alarms: scores.alarms,
        threshold,
        reasons: reasons.map(|row| pb::Reasons { features: row.into_iter().map(reason).collect() }).collect(),
        calibration_rows: calibration_rows as u32,
        residual_variance,
        changes: scores.changes,
        ..pb::ScoreResponse::default()
    }
}

/// Converts the result of an inspection.
pub fn inspection(inspected: Inspected) -> pb::InspectModelResponse {
    let Inspected { key, seen, tensor_bytes, untied_tensor_bytes } = inspected;
    pb::InspectModelResponse {
        version: key.version.number(),
        layers: seen.layers.into_iter().map(layer_inspection).collect(),
        comparison: seen.comparison.map(comparison),
        tensor_bytes,
        untied_tensor_bytes,
        ..pb::InspectModelResponse::default()
    }
}

fn layer_inspection(layer: LayerInspection) -> pb::LayerInspection {
    pb::LayerInspection {
        outputs: layer.outputs as u32,
        inputs: layer.inputs as u32,
        defect: layer.defect.frobenius,
        defect_per_row: layer.defect.per_row,
        defect_largest: layer.defect.largest,
        singular_values: layer.singular_values,
        condition: layer.condition,
        rank: layer.rank as u32,
        row_norms: layer.row_norms,
        dead_units: layer.dead_units.into_iter().map(|unit| unit as u32).collect(),
    }
}

fn comparison(found: Comparison) -> pb::DecoderComparison {
    let no_pseudo_inverse = found.pseudo_inverse.as_ref().err().map(ToString::to_string);
    pb::DecoderComparison {
        rows: found.rows as u64,
        transpose_squared_error: found.transpose,
        pseudo_inverse_squared_error: found.pseudo_inverse.ok(),
        pca_squared_error: found.pca,
        spread: found.spread,
        no_pseudo_inverse: no_pseudo_inverse.unwrap_or_default(),
    }
}
