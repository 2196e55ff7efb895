//! Rows with column names: columns are matched with the features of the model before computing, and results are put
//! back into the order of the request.
//!
//! Rows without names cost nothing here: no version is resolved and no model is loaded for them.

use std::sync::Arc;

use super::blocking::blocking;
use super::{AllowedModel, COPIED_AT_ONCE_BYTES_MAX, Features, Service, ServiceError};
use crate::model::{ColumnError, ColumnMap, Matching, Matrix, MatrixError, Missing, ModelKey, Selector, match_columns};
use crate::registry::LoadedModel;
use crate::store::StoreError;

/// More column names than this are matched on a blocking thread.
const NAMES_AT_ONCE_MAX: usize = 2048;
/// Name of the blocking work in errors.
const REORDERING: &str = "a task that reorders columns";

/// Rows of a request, with the names of their columns: none, or one per column.
#[derive(Clone, Debug)]
pub struct NamedRows {
    field: &'static str,
    matrix: Matrix,
    names: Vec<String>,
}

impl NamedRows {
    /// Creates rows of the request's field `field`.
    ///
    /// # Errors
    /// If there are names, but not one per column.
    pub fn new(field: &'static str, matrix: Matrix, names: Vec<String>) -> Result<Self, ServiceError> {
        let (got, columns) = (names.len(), matrix.columns());
        if got != 0 && got != columns {
            return Err(invalid(field, &ColumnError::Count { got, columns }));
        }
        Ok(Self { field, matrix, names })
    }

    /// The rows.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// The rows without their names.
    pub fn into_matrix(self) -> Matrix {
        self.matrix
    }

    /// Whether their columns have names.
    pub fn is_named(&self) -> bool {
        !self.names.is_empty()
    }
}

/// Rows in the order of a model's features.
#[derive(Clone, Debug)]
pub struct Aligned {
    /// The rows.
    pub rows: Matrix,
    /// How their columns were matched.
    pub columns: AlignedColumns,
}

/// How the columns of a request were matched.
#[derive(Clone, Debug, Default)]
pub struct AlignedColumns {
    map: Option<Arc<ColumnMap>>,
    /// Names of the columns that were kept, in the order of the request; empty if no column was left out.
    kept_names: Vec<String>,
    /// Notes for the caller, one sentence each.
    pub notes: Vec<String>,
}

impl AlignedColumns {
    /// The column map; `None` if the columns need no reordering.
    pub fn map(&self) -> Option<&Arc<ColumnMap>> {
        self.map.as_ref()
    }

    /// Puts a result with one column per feature into the order of the request's columns. Returns the names of the
    /// columns that were kept, if some were left out.
    pub async fn restore(self, results: Matrix) -> Result<(Matrix, Vec<String>), ServiceError> {
        let Self { map, kept_names, .. } = self;
        let Some(map) = map else { return Ok((results, kept_names)) };
        let results = moved(results, move |results| Ok(results.selected(map.feature_of()))).await?;
        Ok((results, kept_names))
    }
}

impl Service {
    /// Reorders rows into the features of a served version. Returns a selector of that version, which later calls
    /// must use: another version may have other features.
    pub async fn align_served(
        &self,
        model: &AllowedModel,
        selector: Selector,
        rows: NamedRows,
    ) -> Result<(Selector, Aligned), ServiceError> {
        if !rows.is_named() {
            return Ok((selector, unnamed(rows)));
        }
        let key = self.resolve_served(model, &selector)?;
        Ok((Selector::Version(key.version), self.align(&key, rows).await?))
    }

    /// As [`Service::align_served`], for any version, served or not.
    pub async fn align_any(
        &self,
        model: &AllowedModel,
        selector: Selector,
        rows: NamedRows,
    ) -> Result<(Selector, Aligned), ServiceError> {
        if !rows.is_named() {
            return Ok((selector, unnamed(rows)));
        }
        let key = self.resolve(model, &selector)?;
        Ok((Selector::Version(key.version), self.align(&key, rows).await?))
    }

    /// The feature names for training: those of the current base version, or of the specification without a base.
    pub async fn feature_names(&self, features: &Features) -> Result<Vec<String>, ServiceError> {
        let Features { base, names } = features;
        let Some(base) = base else { return Ok(names.clone()) };
        match self.described(&base.name, &base.selector).await {
            Ok(description) => Ok(description.spec.raw().feature_names.clone()),
            Err(ServiceError::Store(StoreError::UnknownModel(_))) if base.or_fresh => Ok(names.clone()),
            Err(error) => Err(error),
        }
    }

    /// Reorders rows into the features of a version.
    pub(super) async fn align(&self, key: &ModelKey, rows: NamedRows) -> Result<Aligned, ServiceError> {
        if !rows.is_named() {
            return Ok(unnamed(rows));
        }
        let model = self.loaded(key).await?;
        let NamedRows { field, matrix, names } = rows;
        if names.len() <= NAMES_AT_ONCE_MAX && matrix.bytes() <= COPIED_AT_ONCE_BYTES_MAX {
            return aligned(&model, field, matrix, names);
        }
        blocking(REORDERING, move || aligned(&model, field, matrix, names)).await
    }

    /// Reorders rows with the column map of an earlier message.
    pub(super) async fn align_again(
        &self,
        key: &ModelKey,
        map: Arc<ColumnMap>,
        rows: NamedRows,
    ) -> Result<Aligned, ServiceError> {
        let NamedRows { field, matrix, .. } = rows;
        let (got, columns) = (matrix.columns(), map.width());
        if got != columns {
            let message = format!("has {got} columns, expected {columns}, as the last message with column names");
            return Err(ServiceError::invalid(field, message));
        }
        let model = self.loaded(key).await?;
        let by = Arc::clone(&map);
        let rows = moved(matrix, move |matrix| taken(&model, field, &matrix, &by)).await?;
        Ok(Aligned { rows, columns: AlignedColumns { map: Some(map), ..AlignedColumns::default() } })
    }
}

fn unnamed(rows: NamedRows) -> Aligned {
    Aligned { rows: rows.matrix, columns: AlignedColumns::default() }
}

fn aligned(
    model: &LoadedModel,
    field: &'static str,
    matrix: Matrix,
    names: Vec<String>,
) -> Result<Aligned, ServiceError> {
    let features = &model.artifact.model.spec().raw().feature_names;
    let matching = match_columns(features, &names).map_err(|error| invalid(field, &error))?;
    let notes = matching.note().into_iter().collect();
    let Some(map) = matching.map() else {
        return Ok(Aligned { rows: matrix, columns: AlignedColumns { notes, ..AlignedColumns::default() } });
    };
    let rows = taken(model, field, &matrix, map)?;
    let mut kept_names = Vec::new();
    if map.leaves_out() {
        let features = map.feature_of().iter();
        let mut names: Vec<Option<String>> = names.into_iter().map(Some).collect();
        kept_names.extend(features.filter_map(|feature| names[map.column_of()[*feature]].take()));
    }
    Ok(Aligned { rows, columns: AlignedColumns { map: Some(Arc::clone(map)), kept_names, notes } })
}

/// Selects the columns that are features, in the order of the features. Errors report the column number of the
/// request.
fn taken(model: &LoadedModel, field: &'static str, matrix: &Matrix, map: &ColumnMap) -> Result<Matrix, ServiceError> {
    let rows = matrix.selected(map.column_of());
    let missing = Missing::from(model.artifact.model.normalizer().takes_missing());
    rows.check_values(missing).map_err(|mut error| {
        if let MatrixError::NotFinite { column, .. } = &mut error {
            *column = map.column_of()[*column];
        }
        ServiceError::invalid(field, error)
    })?;
    Ok(rows)
}

/// Runs work on a matrix; on a blocking thread if the matrix is large.
async fn moved(
    matrix: Matrix,
    work: impl FnOnce(Matrix) -> Result<Matrix, ServiceError> + Send + 'static,
) -> Result<Matrix, ServiceError> {
    if matrix.bytes() <= COPIED_AT_ONCE_BYTES_MAX {
        return work(matrix);
    }
    blocking(REORDERING, move || work(matrix)).await
}

fn invalid(field: &str, error: &ColumnError) -> ServiceError {
    ServiceError::invalid(format!("{field}.column_names"), error)
}

/// Matches the columns of an upload's chunks. Chunks usually have equal column names, so the newest match is kept.
#[derive(Debug)]
pub struct ChunkColumns {
    features: Vec<String>,
    /// Names and match of the newest chunk with names.
    newest: Option<(Vec<String>, Matching)>,
}

impl ChunkColumns {
    /// For rows with these feature names. If there are none, rows are used as they are.
    pub fn new(features: Vec<String>) -> Self {
        Self { features, newest: None }
    }

    /// Reorders the rows into the features. If the column names are new and columns are left out, returns a note for
    /// the sender.
    pub async fn align(&mut self, rows: NamedRows) -> Result<(Matrix, Option<String>), ServiceError> {
        if !rows.is_named() || self.features.is_empty() {
            return Ok((rows.matrix, None));
        }
        let NamedRows { field, matrix, names } = rows;
        let mut note = None;
        let matching = match &self.newest {
            Some((known, matching)) if *known == names => matching.clone(),
            _ => {
                let matching = match_columns(&self.features, &names).map_err(|error| invalid(field, &error))?;
                note = matching.note();
                self.newest = Some((names, matching.clone()));
                matching
            }
        };
        let Some(map) = matching.map().cloned() else { return Ok((matrix, note)) };
        Ok((moved(matrix, move |matrix| Ok(matrix.selected(map.column_of()))).await?, note))
    }
}
