//! `index.json`: the aliases of a model, its versions, and the highest version ever used, which survives deletions.
//!
//! One line of JSON with a CRC-32 of its content. The encoding is canonical: any byte that this module would not write
//! is damage, so every flipped bit is detected.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::{self, Bounded, failed};
use super::{ALIASES_MAX, IndexDamage};
use crate::model::{Alias, Version};

/// Name of the index file in the model's folder.
pub(super) const INDEX_FILE: &str = "index.json";
/// The highest version number: clients of other protocols read it as a signed 64-bit number.
pub(super) const VERSION_MAX: u64 = i64::MAX as u64;
/// The only format version that is written and read.
const FORMAT: u32 = 2;
/// Largest index, in bytes: 100,000 gaps between versions and `ALIASES_MAX` aliases need less.
const INDEX_BYTES_MAX: u64 = 8 << 20;
/// Most versions that an index may list.
const VERSIONS_MAX: u64 = 10_000_000;

/// Content of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// The highest version ever used; `None` before the first.
    pub(super) version_highest: Option<Version>,
    /// Versions that were published and not deleted. A version on disk that is not listed was being published during a
    /// crash: it is complete.
    pub(super) versions: BTreeSet<Version>,
    /// Where each alias points.
    pub(super) aliases: BTreeMap<Alias, Version>,
}

/// The JSON file. The order of the fields is part of the format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    /// CRC-32 of the canonical JSON of `content`.
    crc32: u32,
    content: Content,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version_highest: Option<Version>,
    /// Ranges of versions, first and last, in ascending order.
    versions: Vec<(Version, Version)>,
    aliases: BTreeMap<Alias, Version>,
}

/// The fields that identify the format, read before all others.
#[derive(Deserialize)]
struct Head {
    format: u32,
    crc32: Option<u32>,
}

impl Index {
    /// Canonical encoding: equal indexes give equal bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut versions: Vec<(Version, Version)> = Vec::new();
        for version in &self.versions {
            match versions.last_mut() {
                Some((_, last)) if last.number() + 1 == version.number() => *last = *version,
                _ => versions.push((*version, *version)),
            }
        }
        let content = Content { version_highest: self.version_highest, versions, aliases: self.aliases.clone() };
        let encode = "text keys and whole numbers always become JSON";
        let crc32 = crc32fast::hash(&serde_json::to_vec(&content).expect(encode));
        let mut bytes = serde_json::to_vec(&File { format: FORMAT, crc32, content }).expect(encode);
        bytes.push(b'\n');
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let head: Head = serde_json::from_slice(bytes).map_err(|error| format!("expected an index, got: {error}"))?;
        if head.crc32.is_none() {
            return Err("it has no checksum, expected a field \"crc32\"".to_owned());
        }
        if head.format != FORMAT {
            return Err(format!("index of format {}, expected {FORMAT}", head.format));
        }
        let File { crc32, content, .. } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let Content { version_highest, versions: ranges, aliases } = content;
        match version_highest {
            Some(highest) if highest.number() > VERSION_MAX => {
                return Err(format!("highest version {highest}, expected at most {VERSION_MAX}"));
            }
            _ => {}
        }
        if aliases.len() > ALIASES_MAX {
            return Err(format!("{} aliases, expected at most {ALIASES_MAX}", aliases.len()));
        }
        let highest = version_highest.map_or(0, Version::number);
        let (mut before, mut count) = (0, 0);
        for (first, last) in &ranges {
            let in_order = before < first.number() && first <= last && last.number() <= highest;
            count += last.number().saturating_sub(first.number()).saturating_add(1).min(VERSIONS_MAX + 1);
            // Listed versions take memory, so their number is limited.
            if !in_order || count > VERSIONS_MAX {
                return Err(format!("versions {first} to {last} are out of order, or above the highest, {highest}"));
            }
            before = last.number();
        }
        let numbers = ranges.iter().flat_map(|(first, last)| first.number()..=last.number());
        let versions = numbers.filter_map(|number| Version::new(number).ok()).collect();
        let index = Self { version_highest, versions, aliases };
        let expected = index.to_bytes();
        if expected != bytes {
            // The checksum is wrong, or the encoding is not canonical.
            return Err(format!("its checksum is {crc32:08x}, and its content does not fit it"));
        }
        Ok(index)
    }

    /// Reads the index of a model's folder; `None` if there is no index.
    pub(super) fn read(model_folder: &Path) -> Result<Option<Self>, IndexDamage> {
        let path = model_folder.join(INDEX_FILE);
        let damage = |reason| IndexDamage { reason };
        match disk::read_bounded(&path, INDEX_BYTES_MAX) {
            Ok(Bounded::Bytes(bytes)) => Self::from_bytes(&bytes).map(Some).map_err(damage),
            Ok(Bounded::TooLarge(bytes)) => Err(damage(format!("{bytes} bytes, expected at most {INDEX_BYTES_MAX}"))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damage(failed("cannot read", &path)(error).to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number).expect("not zero")
    }

    fn index() -> Index {
        let aliases = [("prod", 3), ("canary", 7), ("last-good", 2)];
        Index {
            version_highest: Some(version(12)),
            versions: [1, 2, 3, 5, 7, 8, 9, 12].map(version).into(),
            aliases: aliases.map(|(alias, number)| (alias.parse().expect("an alias"), version(number))).into(),
        }
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let reason = Index::from_bytes(text.as_bytes()).expect_err("must be refused");
        assert!(reason.contains(expected), "{reason:?} should contain {expected:?}");
    }

    #[test]
    fn an_index_is_read_back_unchanged() {
        let empty = Index { version_highest: None, versions: BTreeSet::new(), aliases: BTreeMap::new() };
        for index in [index(), empty] {
            assert_eq!(Index::from_bytes(&index.to_bytes()), Ok(index));
        }
    }

    #[test]
    fn a_damaged_index_is_rejected_with_a_reason() {
        check_refused("", "EOF");
        check_refused("{}", "missing field `format`");
        check_refused(r#"{"format":1,"version_highest":1,"aliases":{}}"#, "no checksum");
        check_refused(r#"{"format":3,"crc32":1,"new":1}"#, "format 3, expected 2");
        let with = |content: &str| {
            let crc32 = crc32fast::hash(content.as_bytes());
            format!("{{\"format\":2,\"crc32\":{crc32},\"content\":{content}}}\n")
        };
        let good = with(r#"{"version_highest":1,"versions":[[1,1]],"aliases":{}}"#);
        assert!(Index::from_bytes(good.as_bytes()).is_ok());
        check_refused(&good.replace("[[1,1]]", "[]"), "does not fit");
        check_refused(&with(r#"{"version_highest":0,"versions":[],"aliases":{}}"#), "nonzero");
        check_refused(&with(r#"{"version_highest":1,"versions":[],"aliases":{"../x":1}}"#), "alias");
        check_refused(&with(r#"{"version_highest":1,"versions":[],"aliases":{},"extra":1}"#), "unknown field");
        check_refused(
            &with(r#"{"version_highest":18446744073709551615,"versions":[],"aliases":{}}"#),
            "expected at most",
        );
        check_refused(&with(r#"{"version_highest":9,"versions":[[1,10]],"aliases":{}}"#), "above the highest");
        check_refused(&with(r#"{"version_highest":9,"versions":[[4,2]],"aliases":{}}"#), "out of order");
        check_refused(
            &with(r#"{"version_highest":9000000000000,"versions":[[1,9000000000000]],"aliases":{}}"#),
            "out of",
        );
        check_refused(&with(r#"{"version_highest":9,"versions":[[1,2],[3,4]],"aliases":{}}"#), "does not fit");
        check_refused(&with(r#"{"version_highest":1,"versions":[],"aliases":{}"#), "EOF");
    }

    #[test]
    fn no_flipped_bit_and_no_truncation_passes() {
        let bytes = index().to_bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Index::from_bytes(&flipped).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Index::from_bytes(&bytes[..at]).is_err(), "cut to {at} bytes");
        }
    }

    #[test]
    fn too_many_aliases_are_damage() {
        let aliases = (0..=ALIASES_MAX).map(|i| (format!("a{i}").parse().expect("an alias"), version(1))).collect();
        let bytes = Index { aliases, ..index() }.to_bytes();
        assert!((bytes.len() as u64) < INDEX_BYTES_MAX, "the limit on bytes is the looser one");
        assert_eq!(Index::from_bytes(&bytes), Err(format!("101 aliases, expected at most {ALIASES_MAX}")));
    }

    #[test]
    fn a_huge_index_is_damage_and_a_missing_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Index::read(folder.path()), Ok(None));
        let file = std::fs::File::create(folder.path().join(INDEX_FILE)).expect("a file");
        file.set_len(INDEX_BYTES_MAX + 1).expect("a sparse file");
        assert!(Index::read(folder.path()).is_err_and(|damage| damage.reason.contains("8388609 bytes")));
    }
}
