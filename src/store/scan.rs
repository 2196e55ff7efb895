//! What a folder holds: complete versions and aliases. Whatever is not ours is named in a warning and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use super::disk::{TEMPORARY_PREFIX, check_folder, failed};
use super::index::{INDEX_FILE, Index, VERSION_MAX};
use super::{ModelEntry, StoreError, VersionEntry};
use crate::model::{ModelName, Version};

/// The file of a version.
pub(super) const MODEL_FILE: &str = "model.safetensors";
/// Empty; its time says when the version was used last.
pub(super) const USE_FILE: &str = "last_use";
/// Beside it, where its maker asked for that.
pub(super) const SAMPLE_FILE: &str = "validation_sample.safetensors";

/// All models of a folder.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// By name, models of which only the highest version ever used is known included.
    pub(super) models: BTreeMap<ModelName, ModelEntry>,
    /// Models that are there and could not be read now.
    pub(super) unreadable: BTreeSet<ModelName>,
    /// What was ignored and why.
    pub(super) warnings: BTreeSet<String>,
}

/// Reads the folder of all models. One that cannot be read does not stop the others.
pub(super) fn scan_store(models: &Path) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    let entries = match fs::read_dir(models) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(scan),
        Err(error) => return Err(failed("cannot list", models)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("cannot list", models))?;
        // The kind of the entry itself: a link is a link, whatever it points at.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = model_name(&entry.file_name()).filter(|_| is_folder) else {
            scan.warnings.insert(format!("{} is not the folder of a model: ignored", entry.path().display()));
            continue;
        };
        match scan_model(models, &name, &mut scan.warnings) {
            Ok(model) if model.is_blank() => {}
            Ok(model) => {
                scan.models.insert(name, model);
            }
            Err(error) => {
                scan.warnings.insert(format!("model {name} cannot be read now: {error}"));
                scan.unreadable.insert(name);
            }
        }
    }
    Ok(scan)
}

/// Looks at a model at most this often before what seems inconsistent is believed.
const LOOKS_MAX: usize = 5;

/// Reads the folder of one model; no folder is a model without versions. Another writer may be at work meanwhile:
/// what looks inconsistent is looked at again.
pub(super) fn scan_model(
    models: &Path,
    name: &ModelName,
    warnings: &mut BTreeSet<String>,
) -> Result<ModelEntry, StoreError> {
    let mut looked = 1;
    loop {
        let mut look = Look { model: ModelEntry::new(name.clone()), warnings: BTreeSet::new(), settled: true };
        look.fill(models)?;
        if look.settled || looked >= LOOKS_MAX {
            warnings.append(&mut look.warnings);
            return Ok(look.model);
        }
        looked += 1;
    }
}

/// One look at the folder of a model.
struct Look {
    model: ModelEntry,
    warnings: BTreeSet<String>,
    /// Whether it was free of traces of a change during the look.
    settled: bool,
}

impl Look {
    fn fill(&mut self, models: &Path) -> Result<(), StoreError> {
        let folder = models.join(self.model.name.as_str());
        match fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            _ => check_folder(&folder)?,
        }
        // The index comes first: a writer publishes before it points an alias, so each alias read here has its version.
        let index = Index::read(&folder);
        let entries = fs::read_dir(&folder).map_err(failed("cannot list", &folder))?;
        for entry in entries {
            let entry = entry.map_err(failed("cannot list", &folder))?;
            let file_name = entry.file_name();
            if file_name == INDEX_FILE || is_temporary(&file_name) {
                continue;
            }
            let path = entry.path();
            let Some(version) = version_number(&file_name) else {
                self.warnings.insert(format!("{} is not a version: ignored", path.display()));
                continue;
            };
            // Complete or not, the number is taken.
            self.model.version_highest = self.model.version_highest.max(Some(version));
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.warnings.insert(format!("{} is not a folder: ignored", path.display()));
                continue;
            }
            match stat_version(&path) {
                Ok(Some(found)) => {
                    self.model.versions.insert(version, found);
                }
                Ok(None) if path.exists() => {
                    self.warnings.insert(format!("{} has no file {MODEL_FILE}: ignored", path.display()));
                }
                // Removed since it was listed, and another may have been published: this look saw neither.
                Ok(None) => self.settled = false,
                Err(error) => {
                    self.warnings.insert(error.to_string());
                }
            }
        }
        match index {
            Ok(Some(index)) => self.add_index(index),
            Ok(None) if self.model.versions.is_empty() => {}
            Ok(None) => {
                // Damage by hand, or the first version came since the index was looked for.
                self.settled = false;
                self.warnings
                    .insert(format!("model {} has no {INDEX_FILE}: taken as one without aliases", self.model.name));
            }
            Err(damage) => {
                self.warnings.insert(format!("the index {} is damaged: {}", damage.path, damage.reason));
                self.model.index_damage = Some(damage);
            }
        }
        Ok(())
    }

    fn add_index(&mut self, index: Index) {
        let Self { model, warnings, settled } = self;
        model.version_highest = model.version_highest.max(index.version_highest);
        // All deleted, or those listed went and one that was not yet listed came.
        *settled &= index.version_highest.is_none() || !model.versions.is_empty();
        for (alias, version) in index.aliases {
            if model.versions.contains_key(&version) {
                model.aliases.insert(alias, version);
            } else {
                // Damage by hand, or the writer moved it and deleted its version since the index was read.
                *settled = false;
                warnings.insert(format!(
                    "alias {alias} of model {} points at version {version}, which does not exist: ignored",
                    model.name
                ));
            }
        }
    }
}

/// Size and time of a complete version; none if it is not complete.
pub(super) fn stat_version(folder: &Path) -> Result<Option<VersionEntry>, StoreError> {
    let path = folder.join(MODEL_FILE);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => Ok(Some(VersionEntry {
            file_bytes: found.len(),
            published: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot look at", &path)(error)),
    }
}

/// Whether a name is that of something being built or removed.
pub(super) fn is_temporary(file_name: &OsStr) -> bool {
    file_name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// The model that a folder of this name is for.
pub(super) fn model_name(file_name: &OsStr) -> Option<ModelName> {
    file_name.to_str()?.parse().ok()
}

/// The version that a folder of this name is; only the one way to write the number counts ("7", not "07" or "+7").
fn version_number(file_name: &OsStr) -> Option<Version> {
    let text = file_name.to_str()?;
    let number: u64 = text.parse().ok()?;
    let version = Version::new(number).ok()?;
    (number <= VERSION_MAX && version.to_string() == text).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number).expect("not zero")
    }

    fn put(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    #[track_caller]
    fn check_version(text: &str, expected: Option<u64>) {
        assert_eq!(version_number(OsStr::new(text)).map(Version::number), expected, "{text:?}");
    }

    #[test]
    fn a_version_has_one_spelling() {
        check_version("1", Some(1));
        check_version("9223372036854775807", Some(i64::MAX as u64));
        for text in ["0", "01", "+1", "-1", "1.0", "", " 1", "٣", "9223372036854775808", "18446744073709551616"] {
            check_version(text, None);
        }
    }

    #[test]
    fn foreign_files_are_named_and_ignored() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        put(root, "digits/2/model.safetensors", "two");
        put(root, "digits/index.json", r#"{"format":1,"version_highest":5,"aliases":{"prod":2,"gone":4}}"#);
        put(root, "digits/.DS_Store", "");
        put(root, "digits/3/other", "");
        put(root, "digits/7", "a file with a number for its name");
        put(root, "digits/.tmp-1/model.safetensors", "half");
        put(root, ".DS_Store", "");
        put(root, "lost+found/x", "");
        put(root, "Upper/1/model.safetensors", "");
        put(root, "notes.txt", "a file with the name of a model");
        let scan = scan_store(root).expect("a readable folder");
        assert_eq!(scan.models.len(), 1);
        let model = scan.models.values().next().expect("one model");
        assert_eq!(model.versions.keys().copied().collect::<Vec<_>>(), [version(2)]);
        assert_eq!(model.versions[&version(2)].file_bytes, 3);
        assert_eq!(model.aliases, BTreeMap::from([("prod".parse().expect("an alias"), version(2))]));
        assert_eq!(model.version_highest, Some(version(7)), "numbers of foreign files are not given out either");
        assert_eq!(scan.warnings.len(), 8, "{:#?}", scan.warnings);
    }

    #[test]
    fn a_damaged_index_leaves_the_versions_and_the_other_models() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        put(folder.path(), "bad/1/model.safetensors", "one");
        put(folder.path(), "bad/index.json", "{");
        put(folder.path(), "good/1/model.safetensors", "one");
        put(folder.path(), "good/index.json", r#"{"format":1,"version_highest":1,"aliases":{}}"#);
        let models = scan_store(folder.path()).expect("a readable folder").models;
        let damaged = |name: &str| {
            let model = &models[&name.parse::<ModelName>().expect("a name")];
            assert_eq!(model.versions.len(), 1, "{name}");
            model.index_damage.is_some()
        };
        assert!(damaged("bad"));
        assert!(!damaged("good"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().expect("a temporary folder");
        put(outside.path(), "1/model.safetensors", "secret");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        symlink(outside.path(), root.join("linked")).expect("a link");
        fs::create_dir_all(root.join("digits/2")).expect("folders");
        symlink(outside.path().join("1"), root.join("digits/1")).expect("a link");
        symlink(outside.path().join("1/model.safetensors"), root.join("digits/2/model.safetensors")).expect("a link");
        let scan = scan_store(root).expect("a readable folder");
        assert!(scan.models.values().all(|model| model.versions.is_empty()), "{:#?}", scan.models);
        assert_eq!(scan.warnings.len(), 3, "{:#?}", scan.warnings);
    }
}
