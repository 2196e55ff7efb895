//! Selects columns of a file.

use super::{FileError, ReadOptions};
use crate::model::text;

impl ReadOptions {
    /// Whether the caller chooses columns.
    pub(super) fn names_columns(&self) -> bool {
        !self.columns.is_empty() || !self.drop_columns.is_empty()
    }

    /// Indices of the columns to keep, out of `count`, in the caller's order. `names` is empty if the columns have no
    /// names. A text that is the name of one column and the number of another is rejected, and so is a name of several
    /// columns. `#3` is always a number.
    pub(super) fn kept(&self, path: &str, names: &[String], count: usize) -> Result<Vec<usize>, FileError> {
        self.kept_of_table(path, names, names, count)
    }

    /// Like [`ReadOptions::kept`] for repaired names: a column can also be chosen by its name as `written` in the file.
    pub(super) fn kept_of_table(
        &self,
        path: &str,
        names: &[String],
        written: &[String],
        count: usize,
    ) -> Result<Vec<usize>, FileError> {
        if let Some(features) = self.only_features(path, names, written)? {
            return Ok(features);
        }
        let find = |column: &String, purpose: &str| {
            let column = column.trim();
            let mut same = (0..written.len()).filter(|index| written[*index].trim() == column);
            let by_name = same.next().or_else(|| names.iter().position(|name| name == column));
            if let (Some(first), Some(second)) = (by_name, same.next()) {
                let got = format!("column {column:?} to {purpose} is column {} and column {}", first + 1, second + 1);
                return Err(FileError::content(path, got, format!("#{} or #{}", first + 1, second + 1)));
            }
            let number_of =
                |text: &str| text.parse::<usize>().ok().filter(|number| (1..=count).contains(number)).map(|n| n - 1);
            let by_number = number_of(column).or_else(|| column.strip_prefix('#').and_then(number_of));
            if let (Some(named), Some(numbered)) = (by_name, by_number.filter(|_| !column.starts_with('#')))
                && named != numbered
            {
                let (named, numbered) = (named + 1, numbered + 1);
                let got = format!(
                    "column {column:?} to {purpose} is the name of column {named} and the number of column {numbered}"
                );
                return Err(FileError::content(path, got, format!("#{named} or #{numbered}")));
            }
            by_name.or(by_number).ok_or_else(|| {
                let known = if names.is_empty() { "it has no names".to_owned() } else { shown(names) };
                let got = format!("column {:?} to {purpose} does not exist", text::shown(column));
                FileError::content(path, got, format!("a number from 1 to {count} or a name ({known})"))
            })
        };
        let mut wanted = Vec::new();
        for column in &self.columns {
            let index = find(column, "take")?;
            if wanted.contains(&index) {
                return Err(FileError::content(
                    path,
                    format!("column {:?} is chosen twice", text::shown(column)),
                    "each column once",
                ));
            }
            wanted.push(index);
        }
        if self.columns.is_empty() {
            wanted.extend(0..count);
        }
        for column in &self.drop_columns {
            let index = find(column, "drop")?;
            wanted.retain(|kept| *kept != index);
        }
        if wanted.is_empty() {
            return Err(FileError::content(path, "every column is dropped", "at least one column to keep"));
        }
        Ok(wanted)
    }
}

impl ReadOptions {
    /// Indices of the model's features, in the file's order. `None` unless the file has all of them and the caller
    /// chooses no columns.
    fn only_features(&self, path: &str, names: &[String], written: &[String]) -> Result<Option<Vec<usize>>, FileError> {
        if self.names_columns() || self.features.is_empty() {
            return Ok(None);
        }
        let place = |feature: &String| names.iter().position(|name| name == feature);
        let Some(mut places) = self.features.iter().map(place).collect::<Option<Vec<usize>>>() else { return Ok(None) };
        places.sort_unstable();
        // A feature whose name is on two columns is ambiguous, unless the model has both as features.
        let again = |place: &usize| {
            let name = written[*place].trim();
            let later = |other: &usize| !name.is_empty() && written[*other].trim() == name && !places.contains(other);
            (place + 1..written.len()).find(later)
        };
        if let Some((place, again)) = places.iter().find_map(|place| Some((*place, again(place)?))) {
            let (name, place, again) = (text::shown(&names[place]), place + 1, again + 1);
            let got = format!("feature {name:?} is column {place} and column {again}");
            return Err(FileError::content(path, got, "one such column: choose it with --columns, such as #1 or #2"));
        }
        Ok(Some(places))
    }
}

/// A list of names, cut to 20.
fn shown(names: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let names = names.iter().map(|name| text::shown(name));
    text::first_items(names, SHOWN_MAX, ", ", |others| format!(", and {others} more"))
}
