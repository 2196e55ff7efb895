//! The tensors of a model file: names, shapes, values, checksum.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use sha2::{Digest, Sha256};

use super::error::ArtifactError;
use super::metadata::{Figures, Metadata};
use crate::model::{Autoencoder, Invariants, ModelSpec, NormalizationKind, Normalizer, Statistics, TiedLayer};
use crate::numeric::matmul::Weights;

const OFFSET: &str = "normalisation.offset";
const SCALE: &str = "normalisation.scale";
const FILL: &str = "normalisation.fill";
const CALIBRATION: &str = "statistics.calibration";
const CODE_COVARIANCE: &str = "statistics.code_covariance";
const CODE_MEAN: &str = "statistics.code_mean";
const CURVATURE: &str = "statistics.curvature";
const CONSTANT_COLUMNS: &str = "statistics.constant_columns";
const CONSTANT_VALUES: &str = "statistics.constant_values";
const RELATIONS: &str = "statistics.relations";
const RELATION_CENTERS: &str = "statistics.relation_centers";
const RELATION_DEVIATIONS: &str = "statistics.relation_deviations";

fn name(side: &str, layer: usize, part: &str) -> String {
    format!("{side}.{layer}.{part}")
}

/// Name and shape of every tensor that the metadata requires.
pub(super) fn shapes(metadata: &Metadata) -> BTreeMap<String, Vec<usize>> {
    let spec = &metadata.spec;
    let widths = &spec.raw().widths;
    let mut shapes = BTreeMap::new();
    for l in 0..spec.layers() {
        let (inputs, outputs) = (widths[l], widths[l + 1]);
        shapes.insert(name("encoder", l, "weight"), vec![outputs, inputs]);
        shapes.insert(name("encoder", l, "bias"), vec![outputs]);
        shapes.insert(name("decoder", l, "bias"), vec![inputs]);
        if spec.has_gain(l) {
            shapes.insert(name("decoder", l, "gain"), vec![outputs]);
        }
    }
    if spec.raw().normalization != NormalizationKind::None {
        shapes.insert(OFFSET.to_owned(), vec![spec.features()]);
        shapes.insert(SCALE.to_owned(), vec![spec.features()]);
    }
    if spec.raw().missing_values {
        shapes.insert(FILL.to_owned(), vec![spec.features()]);
    }
    if let Some(figures) = &metadata.statistics {
        shapes.insert(CALIBRATION.to_owned(), vec![figures.calibration_rows]);
        shapes.insert(CODE_COVARIANCE.to_owned(), vec![spec.code_length(); 2]);
        shapes.insert(CODE_MEAN.to_owned(), vec![spec.code_length()]);
        shapes.insert(CURVATURE.to_owned(), vec![spec.features()]);
        if figures.constant_columns > 0 {
            shapes.insert(CONSTANT_COLUMNS.to_owned(), vec![figures.constant_columns]);
            shapes.insert(CONSTANT_VALUES.to_owned(), vec![figures.constant_columns]);
        }
        if figures.relations > 0 {
            shapes.insert(RELATIONS.to_owned(), vec![figures.relations, spec.features()]);
            shapes.insert(RELATION_CENTERS.to_owned(), vec![figures.relations]);
            shapes.insert(RELATION_DEVIATIONS.to_owned(), vec![figures.relations]);
        }
    }
    shapes
}

/// The only tensor that may be F64: it is, if the model was trained on 64-bit rows.
pub(super) const MAY_BE_F64: &str = OFFSET;

/// Bytes of all tensors. `is_wide`: whether [`MAY_BE_F64`] is F64.
pub(super) fn bytes(metadata: &Metadata, is_wide: bool) -> u64 {
    let numbers = |shape: &[usize]| shape.iter().map(|length| *length as u64).product::<u64>();
    let size = |name: &str| if is_wide && name == MAY_BE_F64 { 8 } else { 4 };
    shapes(metadata).iter().map(|(name, shape)| size(name) * numbers(shape)).sum()
}

/// A tensor of a model in memory. It is converted to bytes only while the file is written.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    shape: Vec<usize>,
    values: Numbers<'a>,
}

#[derive(Debug)]
enum Numbers<'a> {
    F32(Cow<'a, [f32]>),
    F64(&'a [f64]),
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Numbers::F32(_) => Dtype::F32,
            Numbers::F64(_) => Dtype::F64,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let mut bytes = vec![0; self.data_len()];
        match &self.values {
            Numbers::F32(values) => {
                for (number, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&**values) {
                    *number = value.to_le_bytes();
                }
            }
            Numbers::F64(values) => {
                for (number, value) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(*values) {
                    *number = value.to_le_bytes();
                }
            }
        }
        bytes.into()
    }
    fn data_len(&self) -> usize {
        match &self.values {
            Numbers::F32(values) => values.len() * 4,
            Numbers::F64(values) => values.len() * 8,
        }
    }
}

/// The tensors of a model by name.
pub(super) fn of<'a>(model: &'a Autoencoder, statistics: Option<&'a Statistics>) -> BTreeMap<String, Tensor<'a>> {
    let vector = |values| Tensor { shape: vec![<[f32]>::len(values)], values: Numbers::F32(Cow::Borrowed(values)) };
    let mut tensors = BTreeMap::new();
    for (l, layer) in model.layers().iter().enumerate() {
        let weight = &layer.weight;
        let values = Numbers::F32(Cow::Owned(weight.to_row_major()));
        let matrix = Tensor { shape: vec![weight.outputs(), weight.inputs()], values };
        tensors.insert(name("encoder", l, "weight"), matrix);
        tensors.insert(name("encoder", l, "bias"), vector(&layer.encoder_bias));
        tensors.insert(name("decoder", l, "bias"), vector(&layer.decoder_bias));
        if let Some(gain) = &layer.gain {
            tensors.insert(name("decoder", l, "gain"), vector(gain));
        }
    }
    let normalizer = model.normalizer();
    if normalizer.kind != NormalizationKind::None {
        let exact = &normalizer.exact_offset[..];
        let offset = if exact.is_empty() {
            vector(&normalizer.offset)
        } else {
            Tensor { shape: vec![exact.len()], values: Numbers::F64(exact) }
        };
        tensors.insert(OFFSET.to_owned(), offset);
        tensors.insert(SCALE.to_owned(), vector(&normalizer.scale));
    }
    if normalizer.takes_missing() {
        tensors.insert(FILL.to_owned(), vector(&normalizer.fill));
    }
    if let Some(statistics) = statistics {
        let covariance = &statistics.code_covariance[..];
        let matrix =
            Tensor { shape: vec![statistics.code_mean.len(); 2], values: Numbers::F32(Cow::Borrowed(covariance)) };
        tensors.insert(CALIBRATION.to_owned(), vector(&statistics.calibration));
        tensors.insert(CODE_COVARIANCE.to_owned(), matrix);
        tensors.insert(CODE_MEAN.to_owned(), vector(&statistics.code_mean));
        tensors.insert(CURVATURE.to_owned(), vector(&statistics.curvature));
        insert_invariants(&mut tensors, &statistics.invariants, model.spec().features());
    }
    tensors
}

fn insert_invariants<'a>(tensors: &mut BTreeMap<String, Tensor<'a>>, invariants: &'a Invariants, features: usize) {
    let Invariants { constants, relations, centers, deviations } = invariants;
    let owned = |values: Vec<f32>| Tensor { shape: vec![values.len()], values: Numbers::F32(Cow::Owned(values)) };
    let borrowed = |shape: Vec<usize>, values: &'a [f32]| Tensor { shape, values: Numbers::F32(Cow::Borrowed(values)) };
    if !constants.is_empty() {
        // Integers below 65,536: exact in f32.
        tensors
            .insert(CONSTANT_COLUMNS.to_owned(), owned(constants.iter().map(|(column, _)| *column as f32).collect()));
        tensors.insert(CONSTANT_VALUES.to_owned(), owned(constants.iter().map(|(_, value)| *value).collect()));
    }
    if !centers.is_empty() {
        tensors.insert(RELATIONS.to_owned(), borrowed(vec![centers.len(), features], relations));
        tensors.insert(RELATION_CENTERS.to_owned(), borrowed(vec![centers.len()], centers));
        tensors.insert(RELATION_DEVIATIONS.to_owned(), borrowed(vec![centers.len()], deviations));
    }
}

/// SHA-256 of the bytes of the tensors in the order of the file, then of the metadata, in hexadecimal.
pub(super) fn checksum(tensors: &BTreeMap<String, Tensor<'_>>, metadata: &str) -> String {
    let mut hash = Sha256::new();
    let of = |dtype| tensors.values().filter(move |tensor| tensor.dtype() == dtype);
    // The order in which the crate writes them: 64-bit numbers first, for alignment.
    for tensor in of(Dtype::F64).chain(of(Dtype::F32)) {
        hash.update(tensor.data());
    }
    hash.update(metadata);
    hexadecimal(&hash.finalize())
}

/// The checksum of a file, from its data and metadata.
pub(super) fn checksum_of_bytes(data: &[u8], metadata: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(data);
    hash.update(metadata);
    hexadecimal(&hash.finalize())
}

pub(in crate::model) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Builds the model from a file whose names, types and shapes match [`shapes`].
pub(super) fn load(spec: ModelSpec, file: &SafeTensors<'_>) -> Result<Autoencoder, ArtifactError> {
    let widths = spec.raw().widths.clone();
    let mut layers = Vec::with_capacity(spec.layers());
    for l in 0..spec.layers() {
        let (inputs, outputs) = (widths[l], widths[l + 1]);
        layers.push(TiedLayer {
            weight: Weights::from_row_major(outputs, inputs, &finite(file, &name("encoder", l, "weight"))?),
            encoder_bias: finite(file, &name("encoder", l, "bias"))?,
            decoder_bias: finite(file, &name("decoder", l, "bias"))?,
            gain: if spec.has_gain(l) { Some(finite(file, &name("decoder", l, "gain"))?) } else { None },
        });
    }
    let kind = spec.raw().normalization;
    let (offset, exact_offset, scale) = match kind {
        NormalizationKind::None => (Vec::new(), Vec::new(), Vec::new()),
        _ if view(file, OFFSET)?.dtype() == Dtype::F64 => {
            let exact = finite_f64(file, OFFSET)?;
            (exact.iter().map(|offset| *offset as f32).collect(), exact, finite(file, SCALE)?)
        }
        _ => (finite(file, OFFSET)?, Vec::new(), finite(file, SCALE)?),
    };
    if let Some((feature, &got)) = scale.iter().enumerate().find(|(_, scale)| **scale <= 0.0) {
        return Err(ArtifactError::Scale { feature, got });
    }
    let fill = if spec.raw().missing_values { finite(file, FILL)? } else { Vec::new() };
    Ok(Autoencoder::new(spec, Normalizer { kind, offset, scale, fill, exact_offset }, layers))
}

/// Builds the statistics from a file whose names, types and shapes match [`shapes`].
pub(super) fn load_statistics(figures: Figures, file: &SafeTensors<'_>) -> Result<Statistics, ArtifactError> {
    let refused = |reason: &str| Err(ArtifactError::Statistics { reason: reason.to_owned() });
    let Figures { code_rows, residual_variance, .. } = figures;
    let (code_mean, code_covariance) = (finite(file, CODE_MEAN)?, finite(file, CODE_COVARIANCE)?);
    let (curvature, calibration) = (finite(file, CURVATURE)?, finite(file, CALIBRATION)?);
    let k = code_mean.len();
    if (0..k).any(|i| (0..i).any(|j| code_covariance[i * k + j].to_bits() != code_covariance[j * k + i].to_bits())) {
        return refused("`statistics.code_covariance` is not symmetric");
    }
    if !calibration.is_sorted() {
        return refused("`statistics.calibration` is not ascending");
    }
    if curvature.iter().any(|value| *value < 0.0) {
        return refused("`statistics.curvature` has a negative number");
    }
    let invariants = load_invariants(figures, curvature.len(), file)?;
    Ok(Statistics { code_rows, residual_variance, code_mean, code_covariance, curvature, calibration, invariants })
}

fn load_invariants(figures: Figures, features: usize, file: &SafeTensors<'_>) -> Result<Invariants, ArtifactError> {
    let refused = |reason: String| Err(ArtifactError::Statistics { reason });
    let mut found = Invariants::default();
    if figures.constant_columns > 0 {
        let (columns, values) = (finite(file, CONSTANT_COLUMNS)?, finite(file, CONSTANT_VALUES)?);
        let is_column = |column: &f32| column.fract() == 0.0 && (0.0..features as f32).contains(column);
        if !columns.iter().all(is_column) || !columns.is_sorted_by(|a, b| a < b) {
            return refused(format!("`{CONSTANT_COLUMNS}` expects ascending whole numbers from 0 to {}", features - 1));
        }
        found.constants = columns.into_iter().map(|column| column as usize).zip(values).collect();
    }
    if figures.relations > 0 {
        (found.relations, found.centers) = (finite(file, RELATIONS)?, finite(file, RELATION_CENTERS)?);
        found.deviations = finite(file, RELATION_DEVIATIONS)?;
        if found.deviations.iter().any(|value| *value <= 0.0) {
            return refused(format!("`{RELATION_DEVIATIONS}` expects numbers above 0"));
        }
    }
    Ok(found)
}

/// The values of an F32 tensor, all finite.
fn finite(file: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, ArtifactError> {
    let (numbers, _) = view(file, name)?.data().as_chunks::<4>();
    let values: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, got)) => Err(ArtifactError::NotFinite { name: name.to_owned(), index, got: got.to_string() }),
        None => Ok(values),
    }
}

/// The values of an F64 tensor, all finite.
fn finite_f64(file: &SafeTensors<'_>, name: &str) -> Result<Vec<f64>, ArtifactError> {
    let (numbers, _) = view(file, name)?.data().as_chunks::<8>();
    let values: Vec<f64> = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((index, got)) => Err(ArtifactError::NotFinite { name: name.to_owned(), index, got: got.to_string() }),
        None => Ok(values),
    }
}

fn view<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, ArtifactError> {
    file.tensor(name).map_err(|e| ArtifactError::Layout { reason: e.to_string() })
}
