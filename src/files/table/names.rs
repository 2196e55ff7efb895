//! Repairs column names so that a model accepts them: printable, short, and unique.

use std::collections::{HashMap, HashSet};

use crate::model::spec::FEATURE_NAME_BYTES_MAX;
use crate::model::text::listed;

/// Maximum number of names that a note lists.
const LISTED_MAX: usize = 5;

/// Repairs the names `written` in a header. `index`: the first column counts the rows. Returns the names and a note for
/// each kind of repair.
pub(in crate::files) fn repair(written: &[String], index: bool) -> (Vec<String>, Vec<String>) {
    let cleaned: Vec<String> = written.iter().map(|name| clean(name)).collect();
    // The next suffix to try for a name, so that many equal names do not each start at 2.
    let mut numbers: HashMap<String, u64> = HashMap::new();
    // Reserve valid names, so that no repaired name takes one.
    let mut taken: HashSet<String> =
        cleaned.iter().filter(|name| !name.is_empty() && name.len() <= FEATURE_NAME_BYTES_MAX).cloned().collect();
    let mut seen: HashSet<&str> = HashSet::new();
    let (mut empty, mut long, mut twice, mut unprintable) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut names = Vec::with_capacity(written.len());
    for (column, name) in cleaned.iter().enumerate() {
        let first = seen.insert(name.as_str());
        let good = !name.is_empty() && name.len() <= FEATURE_NAME_BYTES_MAX;
        if good && first {
            if written[column].trim() != name {
                unprintable.push(name.clone());
            }
            names.push(name.clone());
            continue;
        }
        let base = match name.as_str() {
            "" if index && column == 0 => "index".to_owned(),
            "" => format!("column_{}", column + 1),
            name if name.len() > FEATURE_NAME_BYTES_MAX => shortened(name),
            name => name.to_owned(),
        };
        let mut unique = base.clone();
        let number = numbers.entry(base.clone()).or_insert(2);
        while !taken.insert(unique.clone()) {
            let ending = format!("_{number}");
            unique = format!("{}{ending}", cut(&base, FEATURE_NAME_BYTES_MAX - ending.len()));
            *number += 1;
        }
        if name.is_empty() {
            empty.push(unique.clone());
        } else if name.len() > FEATURE_NAME_BYTES_MAX {
            long.push(format!("{}...", cut(&unique, 40)));
        } else {
            twice.push(unique.clone());
        }
        names.push(unique);
    }
    let mut notes = Vec::new();
    if index && written.first().is_some_and(|name| clean(name).is_empty()) {
        let name = empty.remove(0);
        notes.push(format!(
            "the first column has no name and numbers the rows: it is named {name} (--drop-columns {name} leaves it out)"
        ));
    }
    for (changed, what) in [
        (empty, "columns without a name are named"),
        (twice, "repeated column names are numbered"),
        (long, "long names are cut to 200 bytes and end with a checksum"),
        (unprintable, "line breaks and control characters in names become spaces"),
    ] {
        if !changed.is_empty() {
            notes.push(format!("{what}: {}", listed(changed.iter(), LISTED_MAX)));
        }
    }
    (names, notes)
}

/// Removes control characters and surrounding white space.
fn clean(name: &str) -> String {
    if !name.chars().any(char::is_control) {
        return name.trim().to_owned();
    }
    name.split(|character: char| character.is_control() || character == ' ')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The beginning of a long name, plus a checksum of the whole name. Names with the same beginning stay different, in
/// any order of the columns.
fn shortened(name: &str) -> String {
    let ending = format!("_{:08x}", crc32fast::hash(name.as_bytes()));
    format!("{}{ending}", cut(name, FEATURE_NAME_BYTES_MAX - ending.len()))
}

/// The longest prefix of complete characters within `bytes_max` bytes, without trailing white space.
fn cut(text: &str, bytes_max: usize) -> &str {
    text[..text.floor_char_boundary(bytes_max)].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &[&str], index: bool, expected: &[&str], told: &[&str]) {
        let (names, notes) = repair(&written.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), index);
        assert_eq!(names, expected);
        assert_eq!(notes.len(), told.len(), "{notes:?}");
        for (note, text) in notes.iter().zip(told) {
            assert!(note.contains(text), "{note:?} does not say {text:?}");
        }
    }

    #[test]
    fn repaired_names_are_noted() {
        check(&["a", " b "], false, &["a", "b"], &[]);
        check(&["id", "id", "a", "id"], false, &["id", "id_2", "a", "id_3"], &["id_2, id_3"]);
        check(&["id", "id", "id_2"], false, &["id", "id_3", "id_2"], &["id_3"]);
        check(&["", "", "a"], false, &["column_1", "column_2", "a"], &["without a name"]);
        check(&["", "0", "1"], true, &["index", "0", "1"], &["--drop-columns index"]);
        check(&["", "index", ""], true, &["index_2", "index", "column_3"], &["index_2", "column_3"]);
        check(&["Temp\r\n(°C)", "a\tb"], false, &["Temp (°C)", "a b"], &["Temp (°C), a b"]);
        check(&["\n", "x"], false, &["column_1", "x"], &["without a name"]);
    }

    #[test]
    fn long_names_are_cut_between_characters_and_stay_different() {
        let (price, speed) = ("ü".repeat(150) + "price", "ü".repeat(150) + "speed");
        let (names, notes) = repair(&[price.clone(), speed.clone(), price.clone(), "a".repeat(200)], false);
        assert!(names.iter().take(3).all(|name| name.starts_with(&"ü".repeat(95))), "{names:?}");
        assert!(names[2].ends_with("_2") && names[3].len() == 200, "{names:?}");
        let (turned, _) = repair(&[speed, price], false);
        assert_eq!(turned, [names[1].clone(), names[0].clone()]);
        assert!(names.iter().all(|name| name.len() <= FEATURE_NAME_BYTES_MAX));
        assert_eq!(notes.len(), 1);
    }
}
