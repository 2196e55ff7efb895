//! JSON values, read one after another from a stream.

use std::fmt;
use std::io::BufRead;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::files::input::Input;
use crate::files::{COLUMNS_MAX, FileError, Location};
use crate::model::text::first_chars;

/// Maximum size of a row, with 200 characters for each number. It limits the memory for a value that never ends.
const RECORD_BYTES_MAX: usize = COLUMNS_MAX * 200;
/// Maximum number of characters of a text in a message.
pub(super) const SHOWN_CHARACTERS_MAX: usize = 40;
/// The accepted form, for messages.
pub(super) const EXPECTED: &str =
    "one array of numbers or one object per row, as pandas writes with to_json(orient=\"records\", lines=True)";

/// A JSON value; objects keep the order of their keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
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
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Number(value) | Self::Whole(value) => value.to_string(),
            Self::Text(text) => format!("{:?}", first_chars(text, SHOWN_CHARACTERS_MAX)),
            Self::List(list) => format!("a list of {}", list.len()),
            Self::Object(_) => "an object".to_owned(),
        }
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
pub(super) struct Values {
    pub(super) input: Input,
    state: ReaderState,
    /// The line of the next byte, from 1.
    line: u64,
    text: Vec<u8>,
}

impl Values {
    pub(super) fn new(input: Input) -> Self {
        Self { input, state: ReaderState::Start, line: 1, text: Vec::new() }
    }

    fn peek(&mut self) -> Result<Option<u8>, FileError> {
        let bytes = self.input.stream.fill_buf().map_err(FileError::io(&self.input.path))?;
        Ok(bytes.first().copied())
    }

    fn consume(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.input.stream.consume(1);
    }

    /// The next byte that is not white space; it is not consumed.
    pub(super) fn peek_value(&mut self) -> Result<Option<u8>, FileError> {
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
    pub(super) fn next(&mut self) -> Result<Option<(u64, Node)>, FileError> {
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
