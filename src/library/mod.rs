//! Models in this process, with rows as [`ndarray`] arrays.
//!
//! Every operation uses the arithmetic of the server: the same rows give the same bits.

#![expect(clippy::needless_pass_by_value, reason = "a view is small, and ndarray passes views by value")]

mod blocks;
mod error;
mod panels;
mod training;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;

use ndarray::{Array1, Array2, ArrayView2, Axis, Slice};

use self::blocks::{Blocks, Results};
use crate::files::FileError;
use crate::files::output::Output;
use crate::model::computed::Computed;
use crate::model::score::FIGURES;
use crate::model::{
    Artifact, Autoencoder, Decoder, InverseError, Missing, ModelSpec, PseudoInverse, Scorer, Space, Statistics,
    TrainingReport,
};
use crate::numeric::{BufferPool, PanelMatrix};

pub use error::ModelError;

/// A trained model in memory.
///
/// Rows are `(n, d)`: one row per sample, one column per feature, in the units of the input. Codes are `(n, k)`. Views
/// may have any strides: transposed, reversed and sliced arrays give the same result as their copies. An array without
/// rows gives a result without rows.
///
/// The rows are shared among the threads of the current [`rayon`] pool. A row has the same bits alone, in any array, on
/// any number of threads, and from a server.
#[derive(Debug)]
pub struct Model {
    artifact: Artifact,
    inverse: OnceLock<Result<PseudoInverse, InverseError>>,
    scorer: Option<Scorer>,
}

/// Reconstructed rows and their errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// The decoded codes of the rows, `(n, d)`, in the units of the input.
    pub rows: Array2<f32>,
    /// Per row, `(n,)`: the sum over features of the squared errors in the normalized space. Missing values have no
    /// error.
    pub squared_errors: Array1<f32>,
    /// The same sums in the units of the input; infinite if they exceed 32 bits.
    pub squared_errors_input_units: Array1<f32>,
}

/// Anomaly scores, one number per row. See [`crate::model::score`] for the formulas.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Combined scores, `(n,)`: squared Mahalanobis distance of the code, plus the squared error divided by the residual
    /// variance, plus changes.
    pub scores: Array1<f32>,
    /// The probability that a row like the held-out rows scores at least as high, `(n,)`, above 0 to 1 (split conformal
    /// prediction: Vovk, Gammerman and Shafer 2005).
    pub p_values: Array1<f64>,
    /// Squared reconstruction errors, `(n,)`: sums over features, normalized space.
    pub squared_errors: Array1<f32>,
    /// Mahalanobis distances of the codes, `(n,)`.
    pub code_distances: Array1<f32>,
    /// Part of the score for changes in columns and relations that never changed in training, `(n,)`.
    pub changes: Array1<f32>,
}

/// Anomaly scores and their reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The scores of the rows.
    pub scores: Scores,
    /// The contribution of each feature, (n, d): the decrease of the score if this feature alone took its most usual
    /// value. Positive if that value is smaller than the value of the row, negative if it is greater; 0 for a missing
    /// value. Exact for a linear model.
    pub contributions: Array2<f32>,
}

impl Scores {
    /// Scores from the first figures, (n, 3 or more), of a scorer.
    fn of(figures: &Array2<f32>, scorer: &Scorer, statistics: &Statistics) -> Self {
        let scores: Array1<f32> =
            figures.rows().into_iter().map(|row| scorer.combined([row[0], row[1], row[2]])).collect();
        Self {
            p_values: scores.mapv(|score| statistics.p_value(score)),
            squared_errors: figures.column(0).to_owned(),
            code_distances: figures.column(1).mapv(f32::sqrt),
            changes: figures.column(2).to_owned(),
            scores,
        }
    }
}

impl Model {
    /// Reads a model file: one that [`Model::save`] has written, or `model.safetensors` of a server's store.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be read, [`ModelError::Artifact`] if its content is invalid.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let name = || path.as_ref().display().to_string();
        let bytes = std::fs::read(&path).map_err(|source| FileError::Io { path: name(), source })?;
        let read = Artifact::from_bytes(&bytes);
        read.map(Self::from).map_err(|source| ModelError::Artifact { path: name(), source })
    }

    /// Writes the model file, which `halfhitch models import` accepts, too. The file appears when it is complete; until
    /// then, a file of that name stays as it is.
    ///
    /// # Errors
    /// [`ModelError::File`] if the file cannot be written, or if its path is not UTF-8.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        let path = path.as_ref();
        let failed = |source| FileError::Io { path: path.display().to_string(), source };
        let invalid = || failed(io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"));
        // `-` is a file here, not standard output.
        let name = if path == Path::new("-") { "./-" } else { path.to_str().ok_or_else(invalid)? };
        let mut output = Output::create(name)?;
        output.write_all(&self.artifact.to_bytes()).map_err(failed)?;
        Ok(output.finish()?)
    }

    /// Encodes rows (n, d) to codes (n, k).
    ///
    /// # Errors
    /// [`ModelError::Columns`] and [`ModelError::Values`] if the rows do not match the model;
    /// [`ModelError::ResultNotFinite`] if a value is too large for the model.
    pub fn encode(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        let (model, space) = (self.autoencoder(), self.space());
        let compute =
            |batch: &PanelMatrix, buffers: &mut BufferPool| Computed::from(model.encode_in(space, batch, buffers));
        Ok(self.compute_rows(Blocks::of_numbers(rows, model.spec().code_length()), &compute)?.values)
    }

    /// Encodes rows (n, d) to the first `code_length` numbers of each code, (n, `code_length`). [`Model::decode`] and
    /// [`Model::decode_pseudo_inverse`] accept such codes.
    ///
    /// # Errors
    /// [`ModelError::CodeLength`] if the length is not 1 to k; [`ModelError::NotOrdered`] if the codes of the model are
    /// neither canonical nor trained with `nested_dropout`; else as [`Model::encode`].
    pub fn encode_truncated(&self, rows: ArrayView2<'_, f32>, code_length: usize) -> Result<Array2<f32>, ModelError> {
        let code_length_max = self.spec().code_length();
        if !(1..=code_length_max).contains(&code_length) {
            return Err(ModelError::CodeLength { got: code_length, code_length_max });
        }
        if !self.artifact.has_ordered_codes() {
            return Err(ModelError::NotOrdered);
        }
        Ok(self.encode(rows)?.slice_axis(Axis(1), Slice::from(..code_length)).to_owned())
    }

    /// Decodes codes (n, k) to rows (n, d) in the units of the input. If the codes of the model are ordered, they may be
    /// shorter than k; the missing numbers are then 0.
    ///
    /// # Errors
    /// [`ModelError::Columns`] and [`ModelError::Values`] if the codes do not match the model;
    /// [`ModelError::ResultNotFinite`] and [`ModelError::DoesNotFit`] if a number is too large for the model.
    pub fn decode(&self, codes: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        self.decode_by(Decoder::Transpose, codes)
    }

    /// As [`Model::decode`], with the pseudo-inverse of each matrix instead of its transpose; see
    /// [`crate::model::inverse`].
    ///
    /// # Errors
    /// As [`Model::pseudo_inverse`] and [`Model::decode`].
    pub fn decode_pseudo_inverse(&self, codes: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        self.decode_by(Decoder::PseudoInverse(self.pseudo_inverse()?), codes)
    }

    /// Encodes rows (n, d) and decodes them, with the error of each row.
    ///
    /// # Errors
    /// As [`Model::encode`], and [`ModelError::DoesNotFit`] as [`Model::decode`].
    pub fn reconstruct(&self, rows: ArrayView2<'_, f32>) -> Result<Reconstruction, ModelError> {
        self.reconstruct_by(Decoder::Transpose, rows)
    }

    /// As [`Model::reconstruct`], with the pseudo-inverse of each matrix instead of its transpose.
    ///
    /// # Errors
    /// As [`Model::pseudo_inverse`] and [`Model::reconstruct`].
    pub fn reconstruct_pseudo_inverse(&self, rows: ArrayView2<'_, f32>) -> Result<Reconstruction, ModelError> {
        self.reconstruct_by(Decoder::PseudoInverse(self.pseudo_inverse()?), rows)
    }

    /// Rows (n, d) with missing values, which are NaN, replaced by their reconstruction. All other values keep their
    /// bits.
    ///
    /// # Errors
    /// [`ModelError::NoMissingValues`] if the model was not trained with `missing_values`; else as
    /// [`Model::reconstruct`].
    pub fn impute(&self, rows: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        let (model, space) = (self.autoencoder(), self.space());
        if !model.normalizer().takes_missing() {
            return Err(ModelError::NoMissingValues);
        }
        let compute =
            |batch: &PanelMatrix, buffers: &mut BufferPool| Computed::from(model.impute_in(space, batch, buffers));
        let blocks = Blocks { keeps_given: true, ..self.blocks_of_rows(rows) };
        Ok(self.compute_rows(blocks, &compute)?.values)
    }

    /// Scores how unusual rows (n, d) are.
    ///
    /// # Errors
    /// [`ModelError::NoStatistics`] if the model was trained without validation rows, or elsewhere; else as
    /// [`Model::encode`].
    pub fn score(&self, rows: ArrayView2<'_, f32>) -> Result<Scores, ModelError> {
        let (scorer, statistics) = self.scorer()?;
        let (model, space) = (self.autoencoder(), self.space());
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(match space {
                Space::Input => scorer.score(model, batch, buffers),
                Space::Normalized => scorer.score_normalized(model, batch, buffers),
            })
        };
        let figures = self.compute_rows(Blocks::of_numbers(rows, FIGURES), &compute)?.values;
        Ok(Scores::of(&figures, scorer, statistics))
    }

    /// Scores how unusual rows (n, d) are, and how much each feature contributes. The scores have the bits of
    /// [`Model::score`].
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn explain(&self, rows: ArrayView2<'_, f32>) -> Result<Explanation, ModelError> {
        let (scorer, statistics) = self.scorer()?;
        let (model, space) = (self.autoencoder(), self.space());
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(match space {
                Space::Input => scorer.explain(model, batch, buffers),
                Space::Normalized => scorer.explain_normalized(model, batch, buffers),
            })
        };
        let blocks = Blocks::of_numbers(rows, FIGURES + model.spec().features());
        let figures = self.compute_rows(blocks, &compute)?.values;
        let contributions = figures.slice_axis(Axis(1), Slice::from(FIGURES..)).to_owned();
        Ok(Explanation { scores: Scores::of(&figures, scorer, statistics), contributions })
    }

    /// The pseudo-inverses of the matrices, which the first call computes: this takes a core for up to seconds. Their
    /// [`PseudoInverse::condition`] shows how accurate decoding with them is.
    ///
    /// # Errors
    /// [`ModelError::NoInverse`] if a matrix is singular or too large.
    pub fn pseudo_inverse(&self) -> Result<&PseudoInverse, ModelError> {
        let inverse = self.inverse.get_or_init(|| PseudoInverse::of(self.autoencoder()));
        inverse.as_ref().map_err(|error| ModelError::NoInverse(error.clone()))
    }

    /// Shape, activations, loss and feature names.
    pub fn spec(&self) -> &ModelSpec {
        self.autoencoder().spec()
    }

    /// How the model was trained; `None` if it was trained elsewhere.
    pub fn report(&self) -> Option<&TrainingReport> {
        self.artifact.report.as_deref()
    }

    /// The model with its report and statistics.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    fn autoencoder(&self) -> &Autoencoder {
        &self.artifact.model
    }

    /// The space of 32-bit rows in a batch: normalized if the model was trained on 64-bit rows.
    fn space(&self) -> Space {
        if self.autoencoder().normalizer().is_wide() { Space::Normalized } else { Space::Input }
    }

    fn check_rows(&self, rows: ArrayView2<'_, f32>) -> Result<(), ModelError> {
        check_columns("the input", rows.ncols(), self.spec().features())?;
        Ok(panels::check_values(rows, Missing::from(self.spec().raw().missing_values))?)
    }

    /// The scorer, and the statistics for p-values.
    fn scorer(&self) -> Result<(&Scorer, &Statistics), ModelError> {
        self.scorer.as_ref().zip(self.artifact.statistics.as_ref()).ok_or(ModelError::NoStatistics)
    }

    fn decode_by(&self, decoder: Decoder<'_>, codes: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        let (model, space) = (self.autoencoder(), self.space());
        let code_length = model.spec().code_length();
        let is_short = self.artifact.has_ordered_codes() && (1..code_length).contains(&codes.ncols());
        if !is_short {
            check_columns("the code", codes.ncols(), code_length)?;
        }
        panels::check_values(codes, Missing::Refused)?;
        let load = |codes: ArrayView2<'_, f32>, batch: &mut PanelMatrix| panels::load(codes, code_length, batch);
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(model.decode_in(space, batch, decoder, buffers))
        };
        Ok(self.blocks_of_rows(codes).compute(&load, &compute)?.values)
    }

    fn reconstruct_by(&self, decoder: Decoder<'_>, rows: ArrayView2<'_, f32>) -> Result<Reconstruction, ModelError> {
        let (model, space) = (self.autoencoder(), self.space());
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(model.reconstruct_in(space, batch, decoder, buffers))
        };
        let found = self.compute_rows(self.blocks_of_rows(rows), &compute)?;
        Ok(Reconstruction {
            rows: found.values,
            squared_errors: found.squared_errors.into(),
            squared_errors_input_units: found.squared_errors_input_units.into(),
        })
    }

    /// Checks rows (n, d), and computes their blocks in the space of the model.
    fn compute_rows(
        &self,
        blocks: Blocks<'_>,
        compute: &(impl Fn(&PanelMatrix, &mut BufferPool) -> Computed + Sync),
    ) -> Result<Results, ModelError> {
        self.check_rows(blocks.rows)?;
        blocks.compute(&|rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix| self.load_rows(rows, batch), compute)
    }

    /// Copies rows (n, d) into a batch in the space of the model.
    fn load_rows(&self, rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix) {
        match self.space() {
            Space::Input => panels::load(rows, rows.ncols(), batch),
            Space::Normalized => panels::load_normalized(rows, self.autoencoder().normalizer(), batch),
        }
    }

    /// Blocks whose results are rows in the units of the input.
    fn blocks_of_rows<'a>(&'a self, rows: ArrayView2<'a, f32>) -> Blocks<'a> {
        let normalizer = (self.space() == Space::Normalized).then(|| self.autoencoder().normalizer());
        Blocks { normalizer, ..Blocks::of_numbers(rows, self.spec().features()) }
    }
}

/// A model from the content of a file. For a long code, making the scorer takes a core for a second.
impl From<Artifact> for Model {
    fn from(artifact: Artifact) -> Self {
        let scorer = artifact.statistics.as_ref().and_then(Scorer::new);
        Self { artifact, inverse: OnceLock::new(), scorer }
    }
}

fn check_columns(what: &'static str, got: usize, expected: usize) -> Result<(), ModelError> {
    if got == expected { Ok(()) } else { Err(ModelError::Columns { what, got, expected }) }
}

#[cfg(test)]
mod tests;
