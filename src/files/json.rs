//! JSON Lines: each value is a row, either an array of numbers or an object whose keys name the columns. One array of
//! such values is read too. `null` is a missing value.

mod values;

use std::cell::Cell;
use std::io::BufRead;

use super::binary::{check_shape, may_be_rounded, rounded_note};
use super::input::Input;
use super::{COLUMNS_MAX, FileError, Location, ReadOptions, RowReader};
use crate::model::Missing;
use crate::model::text::first_chars;
use values::{EXPECTED, Node, SHOWN_CHARACTERS_MAX, Values};

/// Whether bytes begin like JSON: an array or an object, and a valid first token in it.
pub(super) fn is_start(first: &[u8]) -> bool {
    let first = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first).trim_ascii_start();
    match first.split_first() {
        Some((b'{', rest)) => matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}')),
        Some((b'[', rest)) => {
            let rest = rest.trim_ascii_start();
            matches!(rest.first(), Some(b'[' | b'{' | b'"' | b']' | b'-' | b'0'..=b'9'))
                || ["null", "true", "false", "NaN"].iter().any(|word| rest.starts_with(word.as_bytes()))
        }
        _ => false,
    }
}

/// A column of the table.
struct Column {
    key: String,
    /// Length of its lists; `None` for plain numbers.
    width: Option<usize>,
}

struct JsonLinesReader {
    values: Values,
    /// For objects: the columns to read, in order. Empty for arrays.
    columns: Vec<Column>,
    /// Keys of the first object that are not read.
    left_out: Vec<String>,
    /// Whether the caller chooses columns; then keys that the first object lacks are ignored.
    chosen: bool,
    names: Vec<String>,
    width: usize,
    first: Option<(u64, Node)>,
    missing: Missing,
    rounded: Cell<bool>,
}

pub(super) fn open(mut input: Input, options: &ReadOptions) -> Result<Box<dyn RowReader>, FileError> {
    let (path, missing) = (input.path.clone(), input.missing);
    if input.stream.fill_buf().map_err(FileError::io(&path))?.starts_with(b"\xef\xbb\xbf") {
        input.stream.consume(3);
    }
    let mut values = Values::new(input);
    let first = values.next()?.ok_or_else(|| FileError::content(&path, "it has no rows", "at least one"))?;
    let mut rows = JsonLinesReader {
        values,
        columns: Vec::new(),
        left_out: Vec::new(),
        chosen: !options.columns.is_empty(),
        names: Vec::new(),
        width: 0,
        first: None,
        rounded: Cell::new(false),
        missing,
    };
    match &first.1 {
        Node::Object(entries) => {
            rows.check_is_a_row(&first)?;
            rows.choose(entries, options)?;
        }
        other => {
            if options.names_columns() {
                let got = "columns are chosen, but its rows are arrays without names";
                return Err(FileError::content(&path, got, "rows that are objects"));
            }
            let nested = matches!(other, Node::List(list) if list.iter().any(|node| matches!(node, Node::List(_))));
            rows.width = count(other);
            if nested {
                let note = format!("the lists in each row are flattened to {} numbers", rows.width);
                rows.values.input.notes.push(note);
            }
        }
    }
    check_shape(&path, 1, rows.width as u64)?;
    rows.first = Some(first);
    Ok(Box::new(rows))
}

/// Number of values in a node, including nested lists.
fn count(node: &Node) -> usize {
    match node {
        Node::List(list) => list.iter().map(count).sum(),
        _ => 1,
    }
}

impl JsonLinesReader {
    /// Rejects a whole table in one object, stored by columns instead of rows.
    fn check_is_a_row(&mut self, first: &(u64, Node)) -> Result<(), FileError> {
        let Node::Object(entries) = &first.1 else { return Ok(()) };
        let is_scalar = |node: &Node| !matches!(node, Node::List(_) | Node::Object(_));
        if entries.is_empty() || entries.iter().any(|(_, node)| is_scalar(node)) || entries.len() == 1 {
            return Ok(());
        }
        // A second object follows, so the first one is a row.
        if self.values.peek_value()?.is_some_and(|byte| byte == b'{' || byte == b',') {
            return Ok(());
        }
        let has = |key: &str| entries.iter().any(|(name, _)| name == key);
        let is_list = |node: &Node| matches!(node, Node::List(_));
        // The names that pandas uses.
        let (orient, python) = if has("columns") && has("data") {
            ("orient='split'", "pandas.read_json('FILE', orient='split')")
        } else if has("schema") && has("data") {
            ("orient='table'", "pandas.read_json('FILE', orient='table')")
        } else if entries.iter().all(|(_, node)| is_list(node)) {
            ("a list for each column", "pandas.DataFrame(json.load(open('FILE')))")
        } else {
            (
                "orient='columns', or 'index' where the outer names are those of rows",
                "pandas.read_json('FILE', orient='columns')",
            )
        };
        Err(FileError::content(
            &self.values.input.path,
            format!("it is one object whose values are lists or objects: a whole table ({orient})"),
            format!(
                "{EXPECTED}. To convert it: python3 -c \"import json, pandas; {python}.to_csv('rows.csv', index=False)\""
            ),
        ))
    }

    fn choose(&mut self, entries: &[(String, Node)], options: &ReadOptions) -> Result<(), FileError> {
        let path = self.values.input.path.clone();
        let keys: Vec<String> = entries.iter().map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return Err(FileError::content(&path, "its first object is empty", EXPECTED));
        }
        if keys.len() > COLUMNS_MAX {
            let got = format!("its rows have {} keys", keys.len());
            return Err(FileError::content(&path, got, format!("at most {COLUMNS_MAX}")));
        }
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        if let Some([twice, _]) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let got = format!("its first object has the key {twice:?} twice");
            return Err(FileError::content(&path, got, "each key once"));
        }
        let kept = options.kept(&path, &keys, keys.len())?;
        for index in &kept {
            let (key, node) = &entries[*index];
            let width = match node {
                Node::List(_) => Some(count(node)),
                _ => None,
            };
            self.width += width.unwrap_or(1);
            check_shape(&path, 1, self.width as u64)?;
            match width {
                None => self.names.push(key.clone()),
                Some(width) => self.names.extend((0..width).map(|place| format!("{key}[{place}]"))),
            }
            self.columns.push(Column { key: key.clone(), width });
        }
        let left_out = |index: &usize| !kept.contains(index);
        self.left_out = (0..keys.len()).filter(left_out).map(|index| keys[index].clone()).collect();
        Ok(())
    }

    /// Appends the numbers of a row.
    fn add(&self, line: u64, node: &Node, values: &mut Vec<f64>) -> Result<(), FileError> {
        let path = &self.values.input.path;
        let wrong = |got: String, expected: String| FileError::at(path, Location::Line(line), got, expected);
        let before = values.len();
        if self.columns.is_empty() {
            if matches!(node, Node::Object(_)) {
                return Err(wrong("it is an object".to_owned(), "an array as in the first row".to_owned()));
            }
            self.numbers(node, &|place| (place + 1).to_string(), values)
                .map_err(|(got, expected)| wrong(got, expected))?;
            let found = values.len() - before;
            if found != self.width {
                return Err(wrong(format!("it has {found} numbers"), format!("{} as before", self.width)));
            }
            return Ok(());
        }
        let Node::Object(entries) = node else {
            return Err(wrong(format!("it is {}", node.shown()), "an object as in the first row".to_owned()));
        };
        let mut found = 0;
        for (place, column) in self.columns.iter().enumerate() {
            // Objects usually have their keys in the same order.
            let entry = entries.get(place).filter(|entry| entry.0 == column.key);
            let entry = entry.or_else(|| entries.iter().find(|entry| entry.0 == column.key));
            found += usize::from(entry.is_some());
            let before = values.len();
            let node = entry.map_or(&Node::Null, |entry| &entry.1);
            let is_list = matches!(node, Node::List(_));
            match (column.width, node) {
                (Some(width), Node::Null) if self.missing == Missing::Allowed => {
                    values.extend(std::iter::repeat_n(f64::NAN, width));
                }
                _ if is_list == column.width.is_some() => {
                    let name = |place: usize| match column.width {
                        None => column.key.clone(),
                        Some(_) => format!("{}[{place}]", column.key),
                    };
                    self.numbers(node, &name, values).map_err(|(got, expected)| match entry {
                        Some(_) => wrong(got, expected),
                        None => wrong(format!("the key {:?} is not there", column.key), expected),
                    })?;
                }
                _ => {
                    let expected = match column.width {
                        Some(width) => format!("a list of {width} numbers as in the first row"),
                        None => "a number as in the first row".to_owned(),
                    };
                    return Err(wrong(format!("column {:?} is {}", column.key, node.shown()), expected));
                }
            }
            let width = column.width.unwrap_or(1);
            if values.len() - before != width {
                let got = format!("column {:?} has {} numbers", column.key, values.len() - before);
                return Err(wrong(got, format!("{width} as in the first row")));
            }
        }
        if !self.chosen && found + self.left_out.len() < entries.len() {
            let is_known =
                |key: &String| self.columns.iter().any(|column| column.key == *key) || self.left_out.contains(key);
            if let Some((key, _)) = entries.iter().find(|(key, _)| !is_known(key)) {
                let shown = first_chars(key, SHOWN_CHARACTERS_MAX);
                let expected = "only the keys of the first row (or choose keys with --columns)";
                return Err(wrong(format!("it has the key {shown:?}"), expected.to_owned()));
            }
        }
        Ok(())
    }

    /// Appends the numbers of a value. On failure returns what was found and what was expected.
    fn numbers(
        &self,
        node: &Node,
        name: &dyn Fn(usize) -> String,
        values: &mut Vec<f64>,
    ) -> Result<(), (String, String)> {
        // An explicit stack: lists can be nested as deep as the JSON parser allows.
        let (start, mut open) = (values.len(), vec![std::slice::from_ref(node).iter()]);
        while let Some(nodes) = open.last_mut() {
            let Some(node) = nodes.next() else {
                open.pop();
                continue;
            };
            let place = values.len() - start;
            match node {
                Node::List(list) => open.push(list.iter()),
                Node::Number(value) if self.missing.allows_wide(*value) => values.push(*value),
                Node::Whole(value) => {
                    self.rounded.set(self.rounded.get() || may_be_rounded(*value));
                    values.push(*value);
                }
                Node::Null if self.missing == Missing::Allowed => values.push(f64::NAN),
                Node::Null | Node::Number(_) => {
                    let value = if *node == Node::Null { f64::NAN } else { f64::INFINITY };
                    return Err((
                        format!("column {} is {}", name(place), node.shown()),
                        FileError::finite(value).to_owned(),
                    ));
                }
                Node::Text(_) | Node::Object(_) => {
                    let expected =
                        "a number: leave the column out with --drop-columns, or choose columns with --columns";
                    return Err((format!("column {} is {}", name(place), node.shown()), expected.to_owned()));
                }
            }
        }
        Ok(())
    }
}

impl RowReader for JsonLinesReader {
    fn columns(&self) -> usize {
        self.width
    }
    fn names(&self) -> &[String] {
        &self.names
    }
    fn notes_at_end(&self) -> Vec<String> {
        rounded_note(self.rounded.get())
    }
    fn notes(&self) -> &[String] {
        &self.values.input.notes
    }
    fn next_rows(&mut self, values: &mut Vec<f64>, rows_max: usize) -> Result<usize, FileError> {
        for row in 0..rows_max {
            let next = match self.first.take() {
                Some(first) => Some(first),
                None => self.values.next()?,
            };
            let Some((line, node)) = next else { return Ok(row) };
            self.add(line, &node, values)?;
        }
        Ok(rows_max)
    }
}
