//! Chooses the array to read from a file with several.

use super::{FileError, ReadOptions};
use crate::model::text::first_items;

/// Common names for the rows of a data set, in order of preference.
const USUAL: [&str; 4] = ["X", "x", "data", "arr_0"];
/// Maximum number of names that a message lists.
const SHOWN_MAX: usize = 30;

/// An array in a file.
pub(super) struct Array {
    pub(super) name: String,
    /// Its type and shape, for messages.
    pub(super) shown: String,
    /// Whether it can be rows: numbers in two or more dimensions.
    pub(super) is_table: bool,
}

/// Chooses the array to read: the one that the caller names; else the only one that can be rows, or the one of them
/// with a common name. Adds a note if the file has several arrays.
pub(super) fn choose(
    path: &str,
    arrays: &[Array],
    options: &ReadOptions,
    notes: &mut Vec<String>,
) -> Result<usize, FileError> {
    if let Some(asked) = &options.array {
        let found = arrays.iter().position(|array| array.name == *asked);
        return found.ok_or_else(|| {
            FileError::content(path, format!("it has no array {asked:?}"), format!("one of {}", listed(arrays)))
        });
    }
    let tables: Vec<usize> = (0..arrays.len()).filter(|index| arrays[*index].is_table).collect();
    let usual = |name: &&str| tables.iter().find(|index| arrays[**index].name == **name);
    let chosen = match tables.as_slice() {
        [only] => Some(*only),
        _ => USUAL.iter().find_map(usual).copied(),
    };
    let Some(chosen) = chosen else {
        let is_there = |name: &str| arrays.iter().any(|array| array.name == name);
        if ["indices", "indptr", "data", "shape"].into_iter().all(is_there) {
            let expected = "a dense array: numpy.save('rows.npy', scipy.sparse.load_npz('FILE').toarray())";
            return Err(FileError::content(path, "it is a sparse matrix of SciPy", expected));
        }
        let got = if arrays.is_empty() {
            return Err(FileError::content(path, "it has no arrays", "at least one"));
        } else if tables.is_empty() {
            "none of its arrays has rows and columns of numbers"
        } else {
            "several of its arrays can be the rows"
        };
        let expected = format!("--array NAME to choose one of {}", listed(arrays));
        return Err(FileError::content(path, got, expected));
    };
    if arrays.len() > 1 {
        let Array { name, shown, .. } = &arrays[chosen];
        notes.push(format!("of its {} arrays, {name:?} ({shown}) is read; --array NAME chooses another", arrays.len()));
    }
    Ok(chosen)
}

fn listed(arrays: &[Array]) -> String {
    let names = arrays.iter().map(|array| format!("{:?} ({})", array.name, array.shown));
    first_items(names, SHOWN_MAX, ", ", |others| format!(", and {others} more"))
}
