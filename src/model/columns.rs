//! Which column of some rows is which feature of a model: by name where both have names.
//!
//! | the columns are | then |
//! |---|---|
//! | the features, in order | nothing changes |
//! | the features, in another order | they are put in order |
//! | the features and others | the others are left out, with a note |
//! | numbers that count from 0 or 1, or the features are | they are matched by position, with a note |
//! | without some of the features | refused |
//! | two of one name | refused |
//!
//! Blanks at both ends of a name do not count, everything else does.

use std::collections::HashMap;
use std::sync::Arc;

use super::text::{shown, shown_list};

/// Why the columns of some rows cannot be matched with the features of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnError {
    /// Some names, but not one per column.
    #[error("{got} names came, expected none or {columns}, one per column")]
    Count {
        /// Names that came.
        got: usize,
        /// Columns of the rows.
        columns: usize,
    },
    /// Two columns of one name.
    #[error("columns {first} and {second} are both named {name:?}, expected different names")]
    Twice {
        /// Their name.
        name: String,
        /// The earlier one, from 1.
        first: usize,
        /// The later one, from 1.
        second: usize,
    },
    /// Features without a column.
    #[error(
        "the rows have no column {missing}, expected a column for each of the model's {features} features; their columns are {columns}{alike}: \
         rename them, or send the rows without names and in the order of the features"
    )]
    Missing {
        /// The features, in quotes.
        missing: String,
        /// Features of the model.
        features: usize,
        /// The columns, in quotes.
        columns: String,
        /// Columns whose names differ from missing features by case alone.
        alike: String,
    },
}

/// How columns were matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matching {
    /// Column i is feature i.
    InOrder,
    /// The same, although the names differ: they only count the columns.
    ByPosition,
    /// By name.
    ByName(Arc<ColumnMap>),
}

/// The column of each feature, where that is not the one at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMap {
    /// Of the rows.
    width: usize,
    /// For each feature its column, from 0.
    column_of: Vec<usize>,
    /// For each column that is kept, in the order of the rows, its feature.
    feature_of: Vec<usize>,
    /// What is to be told of columns that are left out.
    left_out: Option<String>,
}

impl ColumnMap {
    /// Columns of the rows.
    pub fn width(&self) -> usize {
        self.width
    }

    /// For each feature its column, from 0.
    pub fn column_of(&self) -> &[usize] {
        &self.column_of
    }

    /// For each column that is a feature, in the order of the rows, which one, from 0.
    pub fn feature_of(&self) -> &[usize] {
        &self.feature_of
    }

    /// Whether some columns are no features.
    pub fn leaves_out(&self) -> bool {
        self.left_out.is_some()
    }
}

impl Matching {
    /// What a caller should know of it.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::InOrder => None,
            Self::ByPosition => Some(
                "columns are matched by position: the names of the columns, or those of the features, only count them"
                    .to_owned(),
            ),
            Self::ByName(map) => map.left_out.clone(),
        }
    }

    /// Its map, if there is something to move.
    pub fn map(&self) -> Option<&Arc<ColumnMap>> {
        match self {
            Self::InOrder | Self::ByPosition => None,
            Self::ByName(map) => Some(map),
        }
    }
}

/// Matches `columns` with `features`; where either has no names, or they are the same, [`Matching::InOrder`].
///
/// # Errors
/// If two columns have one name, or a feature has no column.
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
        // Features whose names differ by blanks alone.
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

/// Whether they have the same names in the same order.
fn are_same<S: AsRef<str>>(features: &[String], columns: &[S]) -> bool {
    features.len() == columns.len()
        && features.iter().zip(columns).all(|(feature, column)| feature.trim() == column.as_ref().trim())
}

/// Whether names are 0, 1, 2, ... or 1, 2, 3, ...: they say no more than the place does.
fn is_counting<S: AsRef<str>>(names: &[S]) -> bool {
    let counts_from = |first: usize| {
        names.iter().enumerate().all(|(place, name)| {
            let name = name.as_ref().trim();
            // 007 is a name.
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
        format!(" ({:?} differs from {:?} by upper and lower case)", shown(column), shown(feature))
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
    fn another_order_is_put_in_order_without_a_note() {
        check_map("a,b,c", "c,a,b", &[1, 2, 0], None);
        check_map("a,b,c", " c , a,b", &[1, 2, 0], None);
        // Numbers may be names as well.
        check_map("0,1,2", "2,0,1", &[1, 2, 0], None);
    }

    #[test]
    fn other_columns_are_left_out_with_a_note() {
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
        check_refused("temp,flow", "Temp,flow", &[r#""Temp" differs from "temp" by upper and lower case"#]);
        check_refused("a,b,c", "a,b", &[r#"no column "c""#]);
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        check_refused("a,b", "a,b,a", &["columns 1 and 3", r#"named "a""#]);
        check_refused("a,b", "b,a,x, x", &["columns 3 and 4", r#"named "x""#]);
    }

    #[test]
    fn names_that_only_count_are_matched_by_position() {
        for (features, columns) in [("a,b,c", "0,1,2"), ("a,b,c", "1,2,3"), ("0,1,2", "a,b,c"), ("1,2,3", "x,y,z")] {
            let matching = matched(features, columns).expect("matched");
            assert_eq!(matching, Matching::ByPosition);
            assert!(matching.note().expect("a note").contains("by position"));
        }
        // Not 0, 1, 2: a choice of columns, which means something.
        check_refused("a,b,c", "2,1,0", &[r#"no column "a""#]);
        check_refused("a,b,c", "5,6,7", &[r#"no column "a""#]);
        check_refused("a,b,c", "00,01,02", &[r#"no column "a""#]);
        // Both count, and differ.
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
        /// Whatever the order and whatever else there is, each feature finds its own column.
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
