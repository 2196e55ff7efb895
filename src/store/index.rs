//! `index.json`: the aliases of a model, and the highest version ever used, which outlives deletion.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::{self, Bounded};
use super::{ALIASES_MAX, IndexDamage};
use crate::model::{Alias, Version};

/// Its name in the folder of the model.
pub(super) const INDEX_FILE: &str = "index.json";
/// The highest number a version may have: clients of other protocols read it as a signed 64-bit number.
pub(super) const VERSION_MAX: u64 = i64::MAX as u64;
/// The form written here, and the only one read.
const FORMAT: u32 = 1;
/// An index that is larger was not written here: `ALIASES_MAX` aliases take a hundredth of it.
const INDEX_BYTES_MAX: u64 = 1 << 20;

/// What the index holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    format: u32,
    /// The highest version ever used; none before the first.
    pub(super) version_highest: Option<Version>,
    /// Where each alias points.
    pub(super) aliases: BTreeMap<Alias, Version>,
}

/// Enough to recognise an index of another form before its fields are judged.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Index {
    pub(super) fn new(version_highest: Option<Version>, aliases: BTreeMap<Alias, Version>) -> Self {
        Self { format: FORMAT, version_highest, aliases }
    }

    /// Canonical: the same index gives the same bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("text keys and whole numbers always become JSON");
        bytes.push(b'\n');
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let head: Head = serde_json::from_slice(bytes).map_err(|error| format!("expected an index, got: {error}"))?;
        if head.format != FORMAT {
            return Err(format!("index of format {}, expected {FORMAT}", head.format));
        }
        let index: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match index.version_highest {
            Some(highest) if highest.number() > VERSION_MAX => {
                return Err(format!("highest version {highest}, expected at most {VERSION_MAX}"));
            }
            _ => {}
        }
        if index.aliases.len() > ALIASES_MAX {
            return Err(format!("{} aliases, expected at most {ALIASES_MAX}", index.aliases.len()));
        }
        Ok(index)
    }

    /// The index in the folder of a model; none if there is none.
    pub(super) fn read(model_folder: &Path) -> Result<Option<Self>, IndexDamage> {
        let path = model_folder.join(INDEX_FILE);
        let damage = |reason| IndexDamage { path: path.display().to_string(), reason };
        match disk::read_bounded(&path, INDEX_BYTES_MAX) {
            Ok(Bounded::Bytes(bytes)) => Self::from_bytes(&bytes).map(Some).map_err(damage),
            Ok(Bounded::TooLarge(bytes)) => Err(damage(format!("{bytes} bytes, expected at most {INDEX_BYTES_MAX}"))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damage(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number).expect("not zero")
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let reason = Index::from_bytes(text.as_bytes()).expect_err("must be refused");
        assert!(reason.contains(expected), "{reason:?} should contain {expected:?}");
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let aliases = BTreeMap::from([("prod".parse().expect("an alias"), version(3))]);
        for index in [Index::new(Some(version(7)), aliases), Index::new(None, BTreeMap::new())] {
            assert_eq!(Index::from_bytes(&index.to_bytes()), Ok(index));
        }
    }

    #[test]
    fn damage_is_named() {
        check_refused("", "EOF");
        check_refused("{}", "missing field `format`");
        check_refused(r#"{"format":2,"new":1}"#, "format 2, expected 1");
        check_refused(r#"{"format":1,"version_highest":0,"aliases":{}}"#, "nonzero");
        check_refused(r#"{"format":1,"version_highest":1,"aliases":{"../x":1}}"#, "alias");
        check_refused(r#"{"format":1,"version_highest":1,"aliases":{},"extra":1}"#, "unknown field");
        check_refused(r#"{"format":1,"version_highest":18446744073709551615,"aliases":{}}"#, "expected at most");
        check_refused(r#"{"format":1,"version_highest":1,"aliases":{}"#, "EOF");
    }

    #[test]
    fn too_many_aliases_are_damage() {
        let aliases = (0..=ALIASES_MAX).map(|i| (format!("a{i}").parse().expect("an alias"), version(1))).collect();
        let bytes = Index::new(Some(version(1)), aliases).to_bytes();
        assert!((bytes.len() as u64) < INDEX_BYTES_MAX, "the limit on bytes is the looser one");
        assert_eq!(Index::from_bytes(&bytes), Err(format!("101 aliases, expected at most {ALIASES_MAX}")));
    }

    #[test]
    fn no_index_is_not_damage_and_a_huge_one_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Index::read(folder.path()), Ok(None));
        let file = std::fs::File::create(folder.path().join(INDEX_FILE)).expect("a file");
        file.set_len(INDEX_BYTES_MAX + 1).expect("a sparse file");
        assert!(Index::read(folder.path()).is_err_and(|damage| damage.reason.contains("1048577 bytes")));
    }
}
