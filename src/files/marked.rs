//! Replaces numbers that stand for missing values, in formats without text.

use super::{FileError, RowReader};

/// Reads rows and replaces marks of missing values with NaN.
pub(super) struct Marked {
    reader: Box<dyn RowReader>,
    marks: Vec<f64>,
}

impl Marked {
    /// Wraps `reader` to replace each number among `marks` with NaN. Marks that are not numbers are ignored.
    pub(super) fn wrap(reader: Box<dyn RowReader>, marks: &[String]) -> Box<dyn RowReader> {
        let mut numbers: Vec<f64> = marks.iter().filter_map(|mark| mark.trim().parse().ok()).collect();
        if numbers.is_empty() {
            return reader;
        }
        if reader.is_single() {
            // In a file of f32 values, a mark such as -999.1 is stored as its nearest f32.
            numbers.iter_mut().for_each(|number| *number = f64::from(*number as f32));
        }
        Box::new(Self { reader, marks: numbers })
    }
}

/// `is_bytes` stays false, because values can be NaN.
impl RowReader for Marked {
    fn columns(&self) -> usize {
        self.reader.columns()
    }
    fn names(&self) -> &[String] {
        self.reader.names()
    }
    fn rows_hint(&self) -> Option<u64> {
        self.reader.rows_hint()
    }
    fn is_single(&self) -> bool {
        self.reader.is_single()
    }
    fn notes_at_end(&self) -> Vec<String> {
        self.reader.notes_at_end()
    }
    fn notes(&self) -> &[String] {
        self.reader.notes()
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        let before = values.len();
        let rows = self.reader.next_rows(values, rows_max)?;
        for value in &mut values[before..] {
            if self.marks.contains(value) {
                *value = f64::NAN;
            }
        }
        Ok(rows)
    }
}
