//! The header of a safetensors file, read with a limit on everything.
//!
//! The safetensors crate reads headers too, but allocates whatever they declare before a check is possible. This parser
//! accepts only what a model file can contain. The crate then reads a header of known size.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ArtifactError;
use super::metadata::KEY;
use super::tensors::MAY_BE_F64;
use crate::model::spec::LAYERS_MAX;
use crate::text::first_chars;

/// Largest header, in bytes: room for 4 MiB of feature names, escaped twice, and 100,000 epochs of losses.
pub const HEADER_BYTES_MAX: usize = 32 << 20;

/// Four tensors per layer, three of the normalization, nine of the statistics.
const TENSORS_MAX: usize = 4 * LAYERS_MAX + 12;
/// Largest number of keys in `__metadata__`, our own and others.
const METADATA_KEYS_MAX: usize = 64;
/// Largest number of dimensions of a tensor.
const DIMENSIONS_MAX: usize = 8;
/// Characters of a foreign name that an error quotes.
const SHOWN_CHARS_MAX: usize = 80;

/// Number of bytes, from the start of the file, that [`super::Artifact::peek`] needs. Reads it from the first 8 bytes.
pub fn header_bytes(prefix: &[u8]) -> Result<usize, ArtifactError> {
    let Some(length) = prefix.first_chunk::<8>() else {
        return Err(ArtifactError::Truncated { got: prefix.len() as u64, expected: 8 });
    };
    let length = u64::from_le_bytes(*length);
    match usize::try_from(length) {
        Ok(fits) if fits <= HEADER_BYTES_MAX => Ok(8 + fits),
        _ => Err(ArtifactError::HeaderLength { got: length, max: HEADER_BYTES_MAX }),
    }
}

/// An upper bound of the header length with this metadata, in bytes.
pub(super) fn length_with(metadata: &str) -> usize {
    let escapes = metadata.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    metadata.len() + escapes + (TENSORS_MAX + 1) * 128
}

/// The parsed header.
#[derive(Debug)]
pub(super) struct Header {
    /// Length of the header with the 8 bytes before it: the offset of the data.
    pub(super) length: usize,
    /// The value of the `halfhitch` key in `__metadata__`.
    pub(super) metadata: Option<String>,
    /// Whether `__metadata__` has other keys.
    foreign_keys: bool,
    /// Whether the padding is other than spaces after the JSON.
    odd_padding: bool,
    tensors: BTreeMap<String, Entry>,
}

/// The header entry of a tensor.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Header {
    /// Parses the header at the start of a file.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let length = header_bytes(bytes)?;
        let Some(json) = bytes.get(8..length) else {
            return Err(ArtifactError::Truncated { got: bytes.len() as u64, expected: length as u64 });
        };
        let invalid = |reason: String| ArtifactError::Header { reason };
        let text = std::str::from_utf8(json).map_err(|e| invalid(e.to_string()))?;
        let entries: Entries = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
        let odd_padding = !text.starts_with('{') || !text.trim_end_matches(' ').ends_with('}');
        let (metadata, foreign_keys) = entries.metadata.map_or((None, false), |m| (m.halfhitch, m.foreign_keys));
        Ok(Self { length, metadata, foreign_keys, odd_padding, tensors: entries.tensors })
    }

    /// Rejects forms that a file of the store never has.
    pub(super) fn check_canonical(&self) -> Result<(), ArtifactError> {
        let of = |is_wide| self.tensors.values().filter(move |entry| (entry.dtype == "F64") == is_wide);
        let begins = of(true).chain(of(false)).map(|entry| entry.data_offsets.0);
        let what = if self.odd_padding {
            "it is not padded with spaces"
        } else if self.foreign_keys {
            "the metadata has other keys"
        } else if !begins.is_sorted() {
            "the tensors are not in the order of their names"
        } else {
            return Ok(());
        };
        Err(ArtifactError::NotCanonical { what })
    }

    /// Checks that the tensors are exactly those of the specification, with the right types and shapes.
    pub(super) fn check_tensors(&self, expected: &BTreeMap<String, Vec<usize>>) -> Result<(), ArtifactError> {
        if let Some(name) = self.tensors.keys().find(|name| !expected.contains_key(*name)) {
            let names: Vec<&str> = expected.keys().map(String::as_str).collect();
            return Err(ArtifactError::UnexpectedTensor { name: cut(name), expected: names.join(", ") });
        }
        for (name, shape) in expected {
            let Some(entry) = self.tensors.get(name) else {
                return Err(ArtifactError::MissingTensor { name: name.clone(), expected: shape.clone() });
            };
            if entry.dtype != "F32" && !(name == MAY_BE_F64 && entry.dtype == "F64") {
                return Err(ArtifactError::TensorType { name: name.clone(), got: cut(&entry.dtype) });
            }
            if entry.shape.0 != *shape {
                let got = entry.shape.0.clone();
                return Err(ArtifactError::TensorShape { name: name.clone(), got, expected: shape.clone() });
            }
        }
        Ok(())
    }
}

impl Header {
    /// Whether [`MAY_BE_F64`] is F64.
    pub(super) fn is_wide(&self) -> bool {
        self.tensors.get(MAY_BE_F64).is_some_and(|entry| entry.dtype == "F64")
    }
}

fn cut(text: &str) -> String {
    first_chars(text, SHOWN_CHARS_MAX).to_owned()
}

/// The object in the header: tensors by name, and `__metadata__`.
struct Entries {
    metadata: Option<MetadataKeys>,
    tensors: BTreeMap<String, Entry>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { metadata: None, tensors: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            let again = if name == "__metadata__" {
                entries.metadata.replace(map.next_value()?).is_some()
            } else if entries.tensors.len() == TENSORS_MAX {
                return Err(A::Error::custom(format_args!("more than {TENSORS_MAX} tensors")));
            } else {
                entries.tensors.insert(name, map.next_value()?).is_some()
            };
            if again {
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(entries)
    }
}

/// `__metadata__`: the value of the `halfhitch` key, and whether there are other keys.
struct MetadataKeys {
    halfhitch: Option<String>,
    foreign_keys: bool,
}

impl<'de> Deserialize<'de> for MetadataKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = MetadataKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MetadataKeys, A::Error> {
        let mut keys = MetadataKeys { halfhitch: None, foreign_keys: false };
        for count in 0.. {
            let Some(name) = map.next_key::<String>()? else { break };
            if count == METADATA_KEYS_MAX {
                return Err(A::Error::custom(format_args!("more than {METADATA_KEYS_MAX} metadata keys")));
            }
            if name == KEY {
                if keys.halfhitch.replace(map.next_value()?).is_some() {
                    return Err(A::Error::custom("a metadata key occurs twice"));
                }
            } else {
                map.next_value::<IgnoredAny>()?;
                keys.foreign_keys = true;
            }
        }
        Ok(keys)
    }
}

/// The dimensions of a tensor, at most [`DIMENSIONS_MAX`].
#[derive(Debug)]
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of lengths")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(length) = list.next_element()? {
            if shape.len() == DIMENSIONS_MAX {
                return Err(A::Error::custom(format_args!("a tensor of more than {DIMENSIONS_MAX} dimensions")));
            }
            shape.push(length);
        }
        Ok(Shape(shape))
    }
}
