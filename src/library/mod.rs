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

use ndarray::{Array1, Array2, ArrayView2};

use self::blocks::Blocks;
use crate::files::FileError;
use crate::files::output::Output;
use crate::model::computed::Computed;
use crate::model::score::FIGURES;
use crate::model::{Artifact, Autoencoder, Decoder, Missing, ModelSpec, Scorer, Space, TrainingReport};
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
        self.check_rows(rows)?;
        let (model, space) = (self.autoencoder(), self.space());
        let load = |rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix| self.load_rows(rows, batch);
        let compute =
            |batch: &PanelMatrix, buffers: &mut BufferPool| Computed::from(model.encode_in(space, batch, buffers));
        let blocks = Blocks { rows, columns: model.spec().code_length(), normalizer: None, keeps_given: false };
        Ok(blocks.compute(&load, &compute)?.values)
    }

    /// Decodes codes (n, k) to rows (n, d) in the units of the input. If the codes of the model are ordered, they may be
    /// shorter than k; the missing numbers are then 0.
    ///
    /// # Errors
    /// [`ModelError::Columns`] and [`ModelError::Values`] if the codes do not match the model;
    /// [`ModelError::ResultNotFinite`] and [`ModelError::DoesNotFit`] if a number is too large for the model.
    pub fn decode(&self, codes: ArrayView2<'_, f32>) -> Result<Array2<f32>, ModelError> {
        let (model, space) = (self.autoencoder(), self.space());
        let code_length = model.spec().code_length();
        let is_short = self.artifact.has_ordered_codes() && (1..code_length).contains(&codes.ncols());
        if !is_short {
            check_columns("the code", codes.ncols(), code_length)?;
        }
        panels::check_values(codes, Missing::Refused)?;
        let load = |codes: ArrayView2<'_, f32>, batch: &mut PanelMatrix| panels::load(codes, code_length, batch);
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(model.decode_in(space, batch, Decoder::Transpose, buffers))
        };
        Ok(self.blocks_of_rows(codes).compute(&load, &compute)?.values)
    }

    /// Encodes rows (n, d) and decodes them, with the error of each row.
    ///
    /// # Errors
    /// As [`Model::encode`], and [`ModelError::DoesNotFit`] as [`Model::decode`].
    pub fn reconstruct(&self, rows: ArrayView2<'_, f32>) -> Result<Reconstruction, ModelError> {
        self.check_rows(rows)?;
        let (model, space) = (self.autoencoder(), self.space());
        let load = |rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix| self.load_rows(rows, batch);
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(model.reconstruct_in(space, batch, Decoder::Transpose, buffers))
        };
        let found = self.blocks_of_rows(rows).compute(&load, &compute)?;
        Ok(Reconstruction {
            rows: found.values,
            squared_errors: found.squared_errors.into(),
            squared_errors_input_units: found.squared_errors_input_units.into(),
        })
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
        self.check_rows(rows)?;
        let load = |rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix| self.load_rows(rows, batch);
        let compute =
            |batch: &PanelMatrix, buffers: &mut BufferPool| Computed::from(model.impute_in(space, batch, buffers));
        Ok(Blocks { keeps_given: true, ..self.blocks_of_rows(rows) }.compute(&load, &compute)?.values)
    }

    /// Scores how unusual rows (n, d) are.
    ///
    /// # Errors
    /// [`ModelError::NoStatistics`] if the model was trained without validation rows, or elsewhere; else as
    /// [`Model::encode`].
    pub fn score(&self, rows: ArrayView2<'_, f32>) -> Result<Scores, ModelError> {
        let (Some(scorer), Some(statistics)) = (&self.scorer, &self.artifact.statistics) else {
            return Err(ModelError::NoStatistics);
        };
        self.check_rows(rows)?;
        let (model, space) = (self.autoencoder(), self.space());
        let load = |rows: ArrayView2<'_, f32>, batch: &mut PanelMatrix| self.load_rows(rows, batch);
        let compute = |batch: &PanelMatrix, buffers: &mut BufferPool| {
            Computed::from(match space {
                Space::Input => scorer.score(model, batch, buffers),
                Space::Normalized => scorer.score_normalized(model, batch, buffers),
            })
        };
        let blocks = Blocks { rows, columns: FIGURES, normalizer: None, keeps_given: false };
        let figures = blocks.compute(&load, &compute)?.values;
        let scores: Array1<f32> =
            figures.rows().into_iter().map(|row| scorer.combined([row[0], row[1], row[2]])).collect();
        Ok(Scores {
            p_values: scores.mapv(|score| statistics.p_value(score)),
            squared_errors: figures.column(0).to_owned(),
            code_distances: figures.column(1).mapv(f32::sqrt),
            changes: figures.column(2).to_owned(),
            scores,
        })
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
        Blocks { rows, columns: self.spec().features(), normalizer, keeps_given: false }
    }
}

/// A model from the content of a file. For a long code, making the scorer takes a core for a second.
impl From<Artifact> for Model {
    fn from(artifact: Artifact) -> Self {
        let scorer = artifact.statistics.as_ref().and_then(Scorer::new);
        Self { artifact, scorer }
    }
}

fn check_columns(what: &'static str, got: usize, expected: usize) -> Result<(), ModelError> {
    if got == expected { Ok(()) } else { Err(ModelError::Columns { what, got, expected }) }
}

#[cfg(test)]
mod tests;
