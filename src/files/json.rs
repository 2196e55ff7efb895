//! JSON Lines: each value is a row, either an array of numbers or an object whose keys name the columns. One array of
//! such values is read too. `null` is a missing value.

use std::cell::Cell;
use std::fmt;
use std::io::BufRead;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::binary::{check_shape, may_be_rounded, rounded_note};
use super::input::Input;
use super::{COLUMNS_MAX, FileError, Location, ReadOptions, RowReader};
use crate::model::Missing;
use crate::model::text::first_chars;

/// Maximum size of a row, with 200 characters for each number. It limits the memory for a value that never ends.
const RECORD_BYTES_MAX: usize = COLUMNS_MAX * 200;
/// Maximum number of characters of a text in a message.
const SHOWN_CHARACTERS_MAX: usize = 40;
/// The accepted form, for messages.
const EXPECTED: &str =
    "one array of numbers or one object per row, as pandas writes with to_json(orient=\"records\", lines=True)";

/// A JSON value; objects keep the order of their keys.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Number(f64),
    /// A number written without a decimal point or exponent.
    Whole(f64),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nodes;
        impl<'de> Visitor<'de> for Nodes {
            type Value = Node;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Number(f64::from(u8::from(value))))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Whole(value as f64))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Whole(value as f64))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = values.next_element()? {
                    list.push(value);
                }
                Ok(Node::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Node, A::Error> {
                let mut object = Vec::new();
                while let Some(entry) = values.next_entry()? {
                    object.push(entry);
                }
                Ok(Node::Object(object))
            }
        }
        deserializer.deserialize_any(Nodes)
    }
}

impl Node {
    /// The value, as error messages show it.
    fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Number(value) | Self::Whole(value) => value.to_string(),
            Self::Text(text) => format!("{:?}", first_chars(text, SHOWN_CHARACTERS_MAX)),
            Self::List(list) => format!("a list of {}", list.len()),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

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

/// The reader's position between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReaderState {
    Start,
    /// Values separated by white space.
    Lines,
    /// In one array of rows, before a value.
    ArrayStart,
    /// In one array of rows, after a value.
    Array,
    End,
}

/// Reads one value after the other.
struct Values {
    input: Input,
    state: ReaderState,
    /// The line of the next byte, from 1.
    line: u64,
    text: Vec<u8>,
}

impl Values {
    fn peek(&mut self) -> Result<Option<u8>, FileError> {
        let bytes = self.input.stream.fill_buf().map_err(FileError::io(&self.input.path))?;
        Ok(bytes.first().copied())
    }

    fn consume(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.input.stream.consume(1);
    }

    /// The next byte that is not white space; it is not consumed.
    fn peek_value(&mut self) -> Result<Option<u8>, FileError> {
        while let Some(byte) = self.peek()? {
            // 0x1e: the record separator of RFC 7464.
            if !byte.is_ascii_whitespace() && byte != 0x1e {
                return Ok(Some(byte));
            }
            self.consume(byte);
        }
        Ok(None)
    }

    fn wrong(&self, got: impl Into<String>, expected: impl Into<String>) -> FileError {
        FileError::at(&self.input.path, Location::Line(self.line), got, expected)
    }

    /// Moves to the next value; false at the end.
    fn advance(&mut self) -> Result<bool, FileError> {
        let next = self.peek_value()?;
        match (self.state, next) {
            (ReaderState::End, Some(_)) => Err(self.wrong("data follows the end of its array", "the end of the file")),
            (ReaderState::Start, Some(b'[')) => {
                self.consume(b'[');
                self.text.push(b'[');
                // The array is a list of rows, or the first row.
                if matches!(self.peek_value()?, Some(b'[' | b'{')) {
                    self.state = ReaderState::Array;
                    self.text.clear();
                } else {
                    self.state = ReaderState::Lines;
                }
                Ok(true)
            }
            (ReaderState::Start, Some(_)) => {
                self.state = ReaderState::Lines;
                Ok(true)
            }
            (ReaderState::Start | ReaderState::Lines | ReaderState::End, None) => Ok(false),
            (ReaderState::ArrayStart | ReaderState::Array, Some(b']')) => {
                self.consume(b']');
                self.state = ReaderState::End;
                self.advance()
            }
            (ReaderState::Array, Some(b',')) => {
                self.consume(b',');
                self.state = ReaderState::ArrayStart;
                self.peek_value()?;
                Ok(true)
            }
            (ReaderState::Lines | ReaderState::ArrayStart | ReaderState::Array, Some(_)) => Ok(true),
            (ReaderState::ArrayStart | ReaderState::Array, None) => {
                Err(self.wrong("its array has no end", "a complete file"))
            }
        }
    }

    /// The next value and the line where it begins; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Node)>, FileError> {
        self.text.clear();
        if !self.advance()? {
            return Ok(None);
        }
        let line = self.line;
        let (mut depth, mut in_text, mut escaped) = (usize::from(!self.text.is_empty()), false, false);
        loop {
            let Some(byte) = self.peek()? else {
                // A number at the end of the file needs no delimiter.
                if depth == 0 && !in_text {
                    break;
                }
                return Err(self.wrong("it ends within a value", "a complete file"));
            };
            if depth == 0 && !in_text && (byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | 0x1e)) {
                break;
            }
            if self.text.len() >= RECORD_BYTES_MAX {
                return Err(self.wrong(format!("a value has more than {RECORD_BYTES_MAX} bytes"), EXPECTED));
            }
            self.consume(byte);
            self.text.push(byte);
            if in_text {
                in_text = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => in_text = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => continue,
                }
            }
            if depth == 0 && !in_text {
                break;
            }
        }
        if self.state == ReaderState::ArrayStart {
            self.state = ReaderState::Array;
        }
        let node = match serde_json::from_slice::<Node>(&self.text) {
            Ok(node) => node,
            // Python writes NaN, which is not valid JSON.
            Err(error) => match serde_json::from_slice::<Node>(&with_null_for_nan(&self.text)) {
                Ok(node) => node,
                Err(_) => {
                    let is_infinite = self.text.windows(8).any(|word| word == b"Infinity");
                    let got =
                        if is_infinite { "a value is Infinity".to_owned() } else { format!("it is not JSON: {error}") };
                    return Err(FileError::at(&self.input.path, Location::Line(line), got, EXPECTED));
                }
            },
        };
        Ok(Some((line, node)))
    }
}

/// Replaces each `NaN` outside of strings with `null`.
fn with_null_for_nan(text: &[u8]) -> Vec<u8> {
    let (mut out, mut in_text, mut escaped, mut i) = (Vec::with_capacity(text.len()), false, false, 0);
    while i < text.len() {
        if !in_text && text[i..].starts_with(b"NaN") {
            out.extend_from_slice(b"null");
            i += 3;
            continue;
        }
        let byte = text[i];
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            in_text = byte == b'"';
        }
        out.push(byte);
        i += 1;
    }
    out
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
    let mut values = Values { input, state: ReaderState::Start, line: 1, text: Vec::new() };
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
