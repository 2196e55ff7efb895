//! Rows whose columns have names: matched with the features of the model before anything is computed, and results put back into
//! the order of the request.
//!
//! Rows without names cost nothing here: no version is resolved and no model is loaded for them.

use std::sync::Arc;

use super::{COPIED_AT_ONCE_BYTES_MAX, Service, ServiceError};
use crate::model::{
    ColumnError, ColumnMap, Matching, Matrix, MatrixError, Missing, ModelKey, ModelName, Selector, match_columns,
};
use crate::registry::LoadedModel;
use crate::store::StoreError;
use crate::training::Base;

/// Names that are looked at where they arrive; more are on a thread for blocking work.
const NAMES_AT_ONCE_MAX: usize = 2048;

/// Rows as they were sent, with the names of their columns: none, or one per column.
#[derive(Clone, Debug)]
pub struct NamedRows {
    field: &'static str,
    matrix: Matrix,
    names: Vec<String>,
}

impl NamedRows {
    /// Rows of the request's field `field`.
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
    /// What was done to their columns.
    pub columns: AlignedColumns,
}

/// How the columns of a request were matched.
#[derive(Clone, Debug, Default)]
pub struct AlignedColumns {
    map: Option<Arc<ColumnMap>>,
    /// Of the columns that stay, in the order of the request; only if some were left out.
    kept_names: Vec<String>,
    /// What the caller should know of it.
    pub notes: Vec<String>,
}

impl AlignedColumns {
    /// How they were matched, if something had to be moved.
    pub fn map(&self) -> Option<&Arc<ColumnMap>> {
        self.map.as_ref()
    }

    /// A result with a column per feature, in the order of the request's columns, and their names if some were left out.
    pub async fn restore(self, results: Matrix) -> Result<(Matrix, Vec<String>), ServiceError> {
        let Self { map, kept_names, .. } = self;
        let Some(map) = map else { return Ok((results, kept_names)) };
        let results = moved(results, move |results| Ok(results.selected(map.feature_of()))).await?;
        Ok((results, kept_names))
    }
}

impl Service {
    /// Rows for a version that is served, in the order of its features, and the version, which a later call must name: another
    /// one may have other features.
    pub async fn align_served(
        &self,
        name: &ModelName,
        selector: Selector,
        rows: NamedRows,
    ) -> Result<(Selector, Aligned), ServiceError> {
        if !rows.is_named() {
            return Ok((selector, unnamed(rows)));
        }
        let key = self.resolve_served(name, &selector)?;
        Ok((Selector::Version(key.version), self.align(&key, rows).await?))
    }

    /// The same for any version, served or not.
    pub async fn align_any(
        &self,
        name: &ModelName,
        selector: Selector,
        rows: NamedRows,
    ) -> Result<(Selector, Aligned), ServiceError> {
        if !rows.is_named() {
            return Ok((selector, unnamed(rows)));
        }
        let key = self.resolve(name, &selector)?;
        Ok((Selector::Version(key.version), self.align(&key, rows).await?))
    }

    /// The names of the features of what is trained: those of the base as it is now, or `own` where there is none.
    pub async fn feature_names(&self, base: Option<&Base>, own: &[String]) -> Result<Vec<String>, ServiceError> {
        let Some(base) = base else { return Ok(own.to_vec()) };
        match self.describe(&base.name, &base.selector).await {
            Ok(description) => Ok(description.spec.raw().feature_names.clone()),
            Err(ServiceError::Store(StoreError::UnknownModel(_))) if base.or_fresh => Ok(own.to_vec()),
            Err(error) => Err(error),
        }
    }

    /// Rows in the order of a version's features.
    pub(super) async fn align(&self, key: &ModelKey, rows: NamedRows) -> Result<Aligned, ServiceError> {
        if !rows.is_named() {
            return Ok(unnamed(rows));
        }
        let model = self.loaded(key).await?;
        let NamedRows { field, matrix, names } = rows;
        if names.len() <= NAMES_AT_ONCE_MAX && matrix.bytes() <= COPIED_AT_ONCE_BYTES_MAX {
            return aligned(&model, field, matrix, names);
        }
        let work = tokio::task::spawn_blocking(move || aligned(&model, field, matrix, names));
        work.await.unwrap_or_else(lost)
    }

    /// Rows that are matched as earlier ones of the same columns were.
    pub(super) async fn align_again(
        &self,
        key: &ModelKey,
        map: Arc<ColumnMap>,
        rows: NamedRows,
    ) -> Result<Aligned, ServiceError> {
        let NamedRows { field, matrix, .. } = rows;
        let (got, columns) = (matrix.columns(), map.width());
        if got != columns {
            let message = format!("has {got} columns, expected {columns}: those that the first message named");
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

/// The columns that are features, in their order. Errors in values name the caller's own columns.
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

/// The work on a matrix, on a thread for blocking work if it is large.
async fn moved(
    matrix: Matrix,
    work: impl FnOnce(Matrix) -> Result<Matrix, ServiceError> + Send + 'static,
) -> Result<Matrix, ServiceError> {
    if matrix.bytes() <= COPIED_AT_ONCE_BYTES_MAX {
        return work(matrix);
    }
    tokio::task::spawn_blocking(move || work(matrix)).await.unwrap_or_else(lost)
}

#[expect(clippy::needless_pass_by_value, reason = "the last thing that happens to an error")]
fn lost<T>(error: tokio::task::JoinError) -> Result<T, ServiceError> {
    Err(ServiceError::Internal(format!("rows were lost: {error}")))
}

fn invalid(field: &str, error: &ColumnError) -> ServiceError {
    ServiceError::invalid(format!("{field}.column_names"), error)
}

/// How the chunks of an upload are matched: their columns mostly have the same names, which are matched once.
#[derive(Debug)]
pub struct ChunkColumns {
    features: Vec<String>,
    /// Of the newest chunk that had names.
    newest: Option<(Vec<String>, Matching)>,
}

impl ChunkColumns {
    /// For rows of these features; none: rows are taken as they are.
    pub fn new(features: Vec<String>) -> Self {
        Self { features, newest: None }
    }

    /// The rows in the order of the features, and what their sender should know that was not told before.
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
