//! Which columns of a file are wanted.

use super::{FileError, ReadOptions};
use crate::model::text;

impl ReadOptions {
    /// Whether the caller names columns.
    pub(super) fn names_columns(&self) -> bool {
        !self.columns.is_empty() || !self.drop_columns.is_empty()
    }

    /// The columns to keep, of `count`, in the order in which they are given. `names` is empty where there are none. A text that is
    /// the name of one column and the number of another is refused, and so is a name that several columns have; `#3` is always
    /// a number.
    pub(super) fn kept(&self, path: &str, names: &[String], count: usize) -> Result<Vec<usize>, FileError> {
        self.kept_of_table(path, names, names, count)
    }

    /// The same where names were repaired: a column is also known by its name as `written` in the file.
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
                let got = format!("column {:?} to {purpose} is not there", text::shown(column));
                FileError::content(path, got, format!("a number from 1 to {count} or a name ({known})"))
            })
        };
        let mut wanted = Vec::new();
        for column in &self.columns {
            let index = find(column, "take")?;
            if wanted.contains(&index) {
                return Err(FileError::content(
                    path,
                    format!("column {:?} is named twice", text::shown(column)),
                    "each once",
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
            return Err(FileError::content(path, "every column is dropped", "at least one to stay"));
        }
        Ok(wanted)
    }
}

impl ReadOptions {
    /// The places of the features, in the order of the file, if it names all of them and columns are not chosen otherwise.
    fn only_features(&self, path: &str, names: &[String], written: &[String]) -> Result<Option<Vec<usize>>, FileError> {
        if self.names_columns() || self.features.is_empty() {
            return Ok(None);
        }
        let place = |feature: &String| names.iter().position(|name| name == feature);
        let Some(mut places) = self.features.iter().map(place).collect::<Option<Vec<usize>>>() else { return Ok(None) };
        places.sort_unstable();
        // A name that was repeated is the feature's by accident, unless the model was trained on such a file.
        let again = |place: &usize| {
            let name = written[*place].trim();
            let later = |other: &usize| !name.is_empty() && written[*other].trim() == name && !places.contains(other);
            (place + 1..written.len()).find(later)
        };
        if let Some((place, again)) = places.iter().find_map(|place| Some((*place, again(place)?))) {
            let (name, place, again) = (text::shown(&names[place]), place + 1, again + 1);
            let got = format!("feature {name:?} is column {place} and column {again}");
            return Err(FileError::content(path, got, "one column of that name: --columns chooses, such as #1 or #2"));
        }
        Ok(Some(places))
    }
}

/// A list of names that stays readable.
fn shown(names: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    let more = if names.len() > SHOWN_MAX { format!(", and {} more", names.len() - SHOWN_MAX) } else { String::new() };
    names.iter().take(SHOWN_MAX).map(|name| text::shown(name)).collect::<Vec<_>>().join(", ") + &more
}
