//! Models in this process, with rows as [`ndarray`] arrays.
//!
//! Every operation uses the arithmetic of the server: the same rows give the same bits.

#![expect(clippy::needless_pass_by_value, reason = "a view is small, and ndarray passes views by value")]

mod error;
mod panels;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::files::FileError;
use crate::files::output::Output;
use crate::model::computed::Computed;
use crate::model::score::FIGURES;
use crate::model::{Artifact, Autoencoder, Decoder, Missing, ModelSpec, Normalizer, Scorer, Space, TrainingReport};
use crate::numeric::{BufferPool, PanelMatrix};
use crate::training::{self, Event, MemoryRows, Next, Observer, RowSource, Start, TrainSpec};

pub use error::ModelError;

/// Rows that a thread computes at once: a batch of the server.
const BLOCK_ROWS: usize = 256;

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
    /// Trains a model on `rows` (n, d), NaN where a value is missing, on all threads of the machine. The result has the
    /// same tensors for any number of threads. The rows are copied once.
    ///
    /// # Errors
    /// [`ModelError::Spec`] if the specification is wrong, and [`ModelError::NeedsServer`] if it has a base or a
    /// validation sample. [`ModelError::Columns`] and [`ModelError::Values`] if the rows do not match it.
    /// [`ModelError::Train`] if there are no rows, or if training fails.
    pub fn train(rows: ArrayView2<'_, f32>, spec: &TrainSpec) -> Result<Self, ModelError> {
        if spec.base.is_some() {
            return Err(ModelError::NeedsServer { field: "base" });
        }
        if spec.validation_sample_rows > 0 {
            return Err(ModelError::NeedsServer { field: "validation_sample_rows" });
        }
        let spec = spec.clone().check()?;
        check_columns("the input", rows.ncols(), spec.features())?;
        panels::check_values(rows, Missing::from(spec.spec().missing_values))?;
        let mut clock = Clock(Instant::now());
        let values: Vec<f32> = rows.iter().copied().collect();
        let data_sha256 = data_sha256(&values);
        let source: Arc<dyn RowSource> = Arc::new(MemoryRows::new(values, spec.features()));
        let no_test = MemoryRows::new(Vec::new(), spec.features());
        let pool = rayon::ThreadPoolBuilder::new().build()?;
        let mut trained = training::train(&spec, &source, &[], &no_test, Start::Fresh, &pool, &mut clock)?;
        trained.report.data_sha256 = data_sha256;
        trained.report.duration_seconds = clock.elapsed().as_secs_f64();
        let (report, statistics) = (Some(Arc::new(trained.report)), trained.statistics);
        Ok(Self::from(Artifact { model: trained.model, report, statistics, sha256: String::new() }))
    }

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

/// Rows or codes that are computed in blocks, on all threads.
struct Blocks<'a> {
    /// (n, c).
    rows: ArrayView2<'a, f32>,
    /// Columns of the result.
    columns: usize,
    /// Converts normalized results to the units of the input in 64 bits.
    normalizer: Option<&'a Normalizer>,
    /// With a normalizer: whether the values of `rows` stay unchanged except where they are missing.
    keeps_given: bool,
}

/// The results of all blocks.
struct Results {
    /// (n, columns).
    values: Array2<f32>,
    /// (n,), or empty.
    squared_errors: Vec<f32>,
    /// (n,), or empty.
    squared_errors_input_units: Vec<f32>,
}

impl Blocks<'_> {
    /// Copies each block into a batch with `load`, and computes its result with `compute`. The error is that of the
    /// first block.
    fn compute(
        &self,
        load: &(impl Fn(ArrayView2<'_, f32>, &mut PanelMatrix) + Sync),
        compute: &(impl Fn(&PanelMatrix, &mut BufferPool) -> Computed + Sync),
    ) -> Result<Results, ModelError> {
        let mut values = Array2::zeros((self.rows.nrows(), self.columns));
        let blocks: Vec<ArrayView2<'_, f32>> = self.rows.axis_chunks_iter(Axis(0), BLOCK_ROWS).collect();
        // A new array is in standard layout.
        let targets = values.as_slice_mut().unwrap_or_default().par_chunks_mut(BLOCK_ROWS * self.columns.max(1));
        let computed: Vec<Result<_, ModelError>> = blocks
            .par_iter()
            .zip(targets)
            .enumerate()
            .map_init(BufferPool::default, |buffers, (block, (rows, target))| {
                let mut batch = buffers.take();
                load(*rows, &mut batch);
                let computed = compute(&batch, buffers);
                buffers.put(batch);
                self.write(&computed, block * BLOCK_ROWS, target)?;
                buffers.put(computed.values);
                Ok((computed.squared_errors, computed.squared_errors_input_units))
            })
            .collect();
        let mut results = Results { values, squared_errors: Vec::new(), squared_errors_input_units: Vec::new() };
        for block in computed {
            let (squared_errors, squared_errors_input_units) = block?;
            results.squared_errors.extend(squared_errors);
            results.squared_errors_input_units.extend(squared_errors_input_units);
        }
        Ok(results)
    }

    /// Writes the values of a block, whose first row is `first`, row-major to `target`.
    fn write(&self, computed: &Computed, first: usize, target: &mut [f32]) -> Result<(), ModelError> {
        let rows = computed.values.rows();
        if !computed.is_finite()
            && let Some(row) = computed.first_not_finite(0..rows)
        {
            return Err(ModelError::ResultNotFinite { row: first + row });
        }
        computed.values.store(0..rows, target);
        let Some(normalizer) = self.normalizer else { return Ok(()) };
        for (row, values) in target.chunks_exact_mut(self.columns).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                if self.keeps_given && !self.rows[[first + row, column]].is_nan() {
                    *value = self.rows[[first + row, column]];
                    continue;
                }
                let wide = normalizer.denormalized(column, *value);
                *value = wide as f32;
                if !value.is_finite() {
                    return Err(ModelError::DoesNotFit { row: first + row, value: wide });
                }
            }
        }
        Ok(())
    }
}

/// SHA-256 of training rows (row-major), hexadecimal: the digest of the same rows in a job of a server. It covers the
/// number of training values, the values, and the number of test values, which is 0.
fn data_sha256(values: &[f32]) -> String {
    let mut digest = Sha256::new();
    digest.update((values.len() as u64).to_le_bytes());
    for values in values.chunks(BLOCK_ROWS) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        digest.update(bytes);
    }
    digest.update(0u64.to_le_bytes());
    digest.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Measures the training time. It stores no checkpoints.
struct Clock(Instant);

impl Observer for Clock {
    fn look(&mut self, _: &Event) -> Next {
        Next::GoOn
    }

    fn save(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn elapsed(&mut self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests;
