//! Matches the columns of rows with the features of a model: by name, if both have names.
//!
//! | the columns are | then |
//! |---|---|
//! | the features, in order | nothing changes |
//! | the features, in another order | they are put in order |
//! | the features and others | the others are ignored, with a note |
//! | numbers that count from 0 or 1, or the features are such numbers | matched by position, with a note |
//! | without some of the features | rejected |
//! | two with the same name | rejected |
//!
//! Blanks at both ends of a name are ignored; everything else is compared.

use std::collections::HashMap;
use std::sync::Arc;

use crate::text::{shown, shown_list};

/// Why columns cannot be matched with the features of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// There are names, but not one per column.
    #[error("got {got} column names, expected none or {columns}, one per column")]
    Count {
        /// Number of names.
        got: usize,
        /// Columns of the rows.
        columns: usize,
    },
    /// Two columns have the same name.
    #[error("columns {first} and {second} are both named {name:?}, expected different names")]
    Twice {
        /// The name.
        name: String,
        /// The first column, from 1.
        first: usize,
        /// The second column, from 1.
        second: usize,
    },
    /// Some features have no column.
    #[error(
        "the rows have no column {missing}, expected a column for each of the model's {features} features; their columns are {columns}{alike}: \
         rename them, or send the rows without names and in the order of the features"
    )]
    Missing {
        /// Names of the missing features, in quotes.
        missing: String,
        /// Features of the model.
        features: usize,
        /// Names of the columns, in quotes.
        columns: String,
        /// A column whose name differs from a missing feature only in case, as a parenthesis; or empty.
        alike: String,
    },
}

/// How the columns were matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matching {
    /// Column i is feature i.
    InOrder,
    /// Column i is feature i, because the names on one side are only counting numbers.
    ByPosition,
    /// Matched by name.
    ByName(Arc<ColumnMap>),
}

/// The column of each feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMap {
    /// Number of columns of the rows.
    width: usize,
    /// For each feature its column, from 0.
    column_of: Vec<usize>,
    /// For each column that is kept, in the order of the rows, its feature.
    feature_of: Vec<usize>,
    /// The note about ignored columns, if any.
    left_out: Option<String>,
}

impl ColumnMap {
    /// Number of columns of the rows.
    pub fn width(&self) -> usize {
        self.width
    }

    /// For each feature its column, from 0.
    pub fn column_of(&self) -> &[usize] {
        &self.column_of
    }

    /// For each column that is a feature, in the order of the rows: the feature, from 0.
    pub fn feature_of(&self) -> &[usize] {
        &self.feature_of
    }

    /// Whether some columns are not features and are ignored.
    pub fn leaves_out(&self) -> bool {
        self.left_out.is_some()
    }
}

impl Matching {
    /// A note for the caller, if any.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::InOrder => None,
            Self::ByPosition => Some(
                "columns are matched by position: the column names, or the feature names, are only counting numbers"
                    .to_owned(),
            ),
            Self::ByName(map) => map.left_out.clone(),
        }
    }

    /// The map, if columns must be moved.
    pub fn map(&self) -> Option<&Arc<ColumnMap>> {
        match self {
            Self::InOrder | Self::ByPosition => None,
            Self::ByName(map) => Some(map),
        }
    }
}

/// Matches `columns` with `features`. [`Matching::InOrder`] if either has no names, or if the names are the same.
///
/// # Errors
/// If two columns have the same name, or a feature has no column.
pub fn match_columns<S: AsRef<str>>(features: &[String], columns: &[S]) -> Result<Matching, ColumnError> {
    if features.is_empty() || columns.is_empty() || are_same(features, columns) {
        return Ok(Matching::InOrder);
    }
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        let name = column.as_ref().trim();
        if let Some(first) = places.insert(name, place) {
            return Err(ColumnError::Twice { name: shown(name), first: first + 1, second: place + 1 });
        }
    }
    let found: Vec<Option<usize>> = features.iter().map(|feature| places.get(feature.trim()).copied()).collect();
    let Some(column_of) = found.iter().copied().collect::<Option<Vec<usize>>>() else {
        if is_counting(columns) != is_counting(features) {
            return Ok(Matching::ByPosition);
        }
        return Err(missing(features, columns, &found));
    };
    let mut feature_at = vec![None; columns.len()];
    for (feature, column) in column_of.iter().enumerate() {
        // Two features whose names differ only in blanks at the ends.
        if let Some(first) = feature_at[*column].replace(feature) {
            let name = shown(features[feature].trim());
            return Err(ColumnError::Twice { name, first: first + 1, second: feature + 1 });
        }
    }
    let others: Vec<&str> = columns
        .iter()
        .zip(&feature_at)
        .filter(|(_, feature)| feature.is_none())
        .map(|(name, _)| name.as_ref())
        .collect();
    let left_out = (!others.is_empty()).then(|| match others.len() {
        1 => format!("1 column is left out, the model has no such feature: {}", shown_list(others.iter().copied())),
        count => {
            format!(
                "{count} columns are left out, the model has no such features: {}",
                shown_list(others.iter().copied())
            )
        }
    });
    let feature_of = feature_at.into_iter().flatten().collect();
    Ok(Matching::ByName(Arc::new(ColumnMap { width: columns.len(), column_of, feature_of, left_out })))
}

/// Whether both have the same names in the same order.
fn are_same<S: AsRef<str>>(features: &[String], columns: &[S]) -> bool {
    features.len() == columns.len()
        && features.iter().zip(columns).all(|(feature, column)| feature.trim() == column.as_ref().trim())
}

/// Whether the names are 0, 1, 2, ... or 1, 2, 3, ...: then they only repeat the position.
fn is_counting<S: AsRef<str>>(names: &[S]) -> bool {
    let counts_from = |first: usize| {
        names.iter().enumerate().all(|(place, name)| {
            let name = name.as_ref().trim();
            // A number with leading zeros is a name.
            (name == "0" || !name.starts_with(['0', '+'])) && name.parse() == Ok(place + first)
        })
    };
    counts_from(0) || counts_from(1)
}

fn missing<S: AsRef<str>>(features: &[String], columns: &[S], found: &[Option<usize>]) -> ColumnError {
    let missing: Vec<&str> =
        features.iter().zip(found).filter(|(_, column)| column.is_none()).map(|(name, _)| name.trim()).collect();
    let by_lowercase: HashMap<String, &str> =
        columns.iter().map(|column| column.as_ref().trim()).map(|name| (name.to_lowercase(), name)).collect();
    let alike = missing.iter().find_map(|name| Some((name, by_lowercase.get(&name.to_lowercase())?)));
    let alike = alike.map_or(String::new(), |(feature, column)| {
        format!(" ({:?} differs from {:?} only in upper and lower case)", shown(column), shown(feature))
    });
    ColumnError::Missing {
        missing: shown_list(missing.iter().copied()),
        features: features.len(),
        columns: shown_list(columns.iter().map(AsRef::as_ref)),
        alike,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn matched(features: &str, columns: &str) -> Result<Matching, ColumnError> {
        match_columns(&names(features), &names(columns))
    }

    #[track_caller]
    fn check_map(features: &str, columns: &str, column_of: &[usize], note: Option<&str>) {
        let matching = matched(features, columns).expect("matched");
        let map = matching.map().expect("by name");
        assert_eq!((map.column_of(), matching.note().as_deref()), (column_of, note));
        let kept: Vec<usize> = map.feature_of().iter().map(|feature| column_of[*feature]).collect();
        assert!(kept.is_sorted() && kept.len() == column_of.len(), "the order of the rows");
    }

    #[test]
    fn the_same_names_in_order_change_nothing() {
        assert_eq!(matched("a,b,c", "a,b,c"), Ok(Matching::InOrder));
        assert_eq!(matched("a,b,c", " a,b ,\tc"), Ok(Matching::InOrder));
        assert_eq!(match_columns::<String>(&[], &names("a,b")), Ok(Matching::InOrder));
        assert_eq!(match_columns::<String>(&names("a,b"), &[]), Ok(Matching::InOrder));
    }

    #[test]
    fn reordered_columns_are_matched_without_a_note() {
        check_map("a,b,c", "c,a,b", &[1, 2, 0], None);
        check_map("a,b,c", " c , a,b", &[1, 2, 0], None);
        // Numbers may be names, too.
        check_map("0,1,2", "2,0,1", &[1, 2, 0], None);
    }

    #[test]
    fn extra_columns_are_left_out_with_a_note() {
        let note = r#"1 column is left out, the model has no such feature: "id""#;
        check_map("a,b", "id,a,b", &[1, 2], Some(note));
        let note = r#"2 columns are left out, the model has no such features: "id" and "x""#;
        check_map("a,b", "id,b,x,a", &[3, 1], Some(note));
        check_map("0,1", "index,0,1", &[1, 2], Some(r#"1 column is left out, the model has no such feature: "index""#));
    }

    #[track_caller]
    fn check_refused(features: &str, columns: &str, texts: &[&str]) {
        let error = matched(features, columns).expect_err("refused").to_string();
        for text in texts {
            assert!(error.contains(text), "{error:?} does not say {text:?}");
        }
    }

    #[test]
    fn features_without_a_column_are_named() {
        check_refused(
            "a,b,c",
            "c,x,y",
            &[r#"no column "a" and "b","#, "3 features", r#"columns are "c", "x" and "y""#],
        );
        check_refused("temp,flow", "Temp,flow", &[r#""Temp" differs from "temp" only in upper and lower case"#]);
        check_refused("a,b,c", "a,b", &[r#"no column "c""#]);
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        check_refused("a,b", "a,b,a", &["columns 1 and 3", r#"named "a""#]);
        check_refused("a,b", "b,a,x, x", &["columns 3 and 4", r#"named "x""#]);
    }

    #[test]
    fn numbered_names_are_matched_by_position() {
        for (features, columns) in [("a,b,c", "0,1,2"), ("a,b,c", "1,2,3"), ("0,1,2", "a,b,c"), ("1,2,3", "x,y,z")] {
            let matching = matched(features, columns).expect("matched");
            assert_eq!(matching, Matching::ByPosition);
            assert!(matching.note().expect("a note").contains("by position"));
        }
        // Not 0, 1, 2: a selection of columns, so the numbers have a meaning.
        check_refused("a,b,c", "2,1,0", &[r#"no column "a""#]);
        check_refused("a,b,c", "5,6,7", &[r#"no column "a""#]);
        check_refused("a,b,c", "00,01,02", &[r#"no column "a""#]);
        // Both count, but they differ.
        check_refused("0,1,2", "1,2,3", &[r#"no column "0""#]);
    }

    #[test]
    fn a_message_of_many_long_names_is_short() {
        let features: Vec<String> = (0..5000).map(|i| format!("{i:0>200}")).collect();
        let columns: Vec<String> = (0..5000).map(|i| format!("{i:x>200}")).collect();
        let error = match_columns(&features, &columns).expect_err("refused").to_string();
        assert!(error.len() < 2000 && error.contains("and 4995 more"), "{error}");
    }

    proptest! {
        /// Each feature finds its column, for any order and any extra columns.
        #[test]
        fn each_feature_finds_its_column(
            order in Just((0..12).collect::<Vec<usize>>()).prop_shuffle(),
            features in 1_usize..12,
        ) {
            let columns: Vec<String> = order.iter().map(|i| format!("name {i}")).collect();
            let wanted: Vec<String> = (0..features).map(|i| format!("name {i}")).collect();
            match match_columns(&wanted, &columns).expect("all are there") {
                Matching::ByName(map) => {
                    for (feature, column) in map.column_of().iter().enumerate() {
                        prop_assert_eq!(order[*column], feature);
                    }
                    prop_assert_eq!(map.leaves_out(), features < 12);
                }
                other => {
                    prop_assert_eq!(other, Matching::InOrder);
                    prop_assert!(order.is_sorted() && features == 12);
                }
            }
        }
    }
}
