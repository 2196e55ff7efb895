//! Reorders the columns of a file by name to match a model's features.

use std::sync::Arc;

use super::{FileError, RowReader};
use crate::model::{ColumnMap, match_columns};

/// Returns the rows of `reader` in the order of `features`, if both have names. Errors call the file `path`.
///
/// # Errors
/// If a feature has no column.
pub fn by_name(path: &str, reader: Box<dyn RowReader>, features: &[String]) -> Result<Box<dyn RowReader>, FileError> {
    let matching = match_columns(features, reader.names())
        .map_err(|error| FileError::content(path, error.to_string(), "the features by name"))?;
    let notes = reader.notes().iter().cloned().chain(matching.note()).collect();
    match matching.map() {
        None if matching.note().is_none() => Ok(reader),
        map => {
            let names = map.map_or(reader.names(), |_| features).to_vec();
            Ok(Box::new(ByName { reader, map: map.cloned(), names, notes, read: Vec::new() }))
        }
    }
}

/// A reader with reordered columns.
struct ByName {
    reader: Box<dyn RowReader>,
    map: Option<Arc<ColumnMap>>,
    names: Vec<String>,
    notes: Vec<String>,
    /// Buffer for rows in the file's order.
    read: Vec<f64>,
}

impl RowReader for ByName {
    fn columns(&self) -> usize {
        self.names.len()
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn rows_hint(&self) -> Option<u64> {
        self.reader.rows_hint()
    }

    fn is_bytes(&self) -> bool {
        self.reader.is_bytes()
    }

    fn is_single(&self) -> bool {
        self.reader.is_single()
    }

    fn notes_at_end(&self) -> Vec<String> {
        self.reader.notes_at_end()
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let Some(map) = &self.map else { return self.reader.next_rows(values, rows_max) };
        self.read.clear();
        let rows = self.reader.next_rows(&mut self.read, rows_max)?;
        for row in self.read.chunks_exact(map.width()) {
            values.extend(map.column_of().iter().map(|column| row[*column]));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ReadOptions, read};
    use super::*;

    fn rows(text: &'static str, features: &[&str]) -> Result<(Vec<f64>, Vec<String>), FileError> {
        let features: Vec<String> = features.iter().map(ToString::to_string).collect();
        let reader = read("rows.csv", text.as_bytes(), &ReadOptions::default())?;
        let mut reader = by_name("rows.csv", reader, &features)?;
        let mut values = Vec::new();
        while reader.next_rows(&mut values, 1)? > 0 {}
        assert_eq!(values.len() % reader.columns(), 0);
        Ok((values, reader.notes().to_vec()))
    }

    #[test]
    fn columns_come_in_the_order_of_the_features() {
        let table = "id,b,a\n1,2,3\n4,5,6\n";
        let (values, notes) = rows(table, &["a", "b"]).expect("read");
        assert_eq!(values, [3.0, 2.0, 6.0, 5.0]);
        assert!(notes.iter().any(|note| note.contains("\"id\"")), "{notes:?}");
        assert_eq!(rows(table, &[]).expect("read").0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(rows("1,2\n", &["a", "b"]).expect("read").0, [1.0, 2.0], "without names by position");
    }

    #[test]
    fn a_feature_without_a_column_is_named() {
        let error = rows("a,c\n1,2\n", &["a", "b"]).expect_err("refused").to_string();
        assert!(error.starts_with("rows.csv: ") && error.contains("no column \"b\""), "{error}");
    }
}
