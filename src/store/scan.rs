//! Scans a store's folder for complete versions and aliases. Foreign files cause a warning and are left untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use super::disk::{self, check_folder, failed};
use super::index::{INDEX_FILE, Index, VERSION_MAX};
use super::role::TEMPORARY_PREFIX;
use super::role::role;
use super::{ModelEntry, StoreError, VersionEntry};
use crate::model::{ModelName, Version};

/// Name of the model file in a version's folder.
pub(super) const MODEL_FILE: &str = "model.safetensors";
/// An empty file whose modification time is the last use of the version.
pub(super) const USE_FILE: &str = "last_use";
/// The validation sample of a version; optional.
pub(super) const SAMPLE_FILE: &str = "validation_sample.safetensors";

/// Result of a scan of all models.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Models by name, including those of which only the highest version ever used is known.
    pub(super) models: BTreeMap<ModelName, ModelEntry>,
    /// Models that exist but could not be read.
    pub(super) unreadable: BTreeSet<ModelName>,
    /// What was ignored or damaged, and why.
    pub(super) warnings: BTreeSet<String>,
}

/// Scans all models. A model that cannot be read does not affect the others.
pub(super) fn scan_store(models: &Path) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    let entries = match fs::read_dir(models) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(scan),
        Err(error) => return Err(failed("cannot list", models)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("cannot list", models))?;
        // The kind of the entry itself: links are not followed.
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

/// Most scans of one model before an inconsistent result is accepted.
const LOOKS_MAX: usize = 5;

/// Scans the folder of one model; a missing folder gives a model without versions. Another writer may change the folder
/// meanwhile, so an inconsistent result is scanned again.
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

/// One scan of a model's folder.
struct Look {
    model: ModelEntry,
    warnings: BTreeSet<String>,
    /// Whether the scan found no trace of a concurrent change.
    settled: bool,
}

impl Look {
    fn fill(&mut self, models: &Path) -> Result<(), StoreError> {
        let folder = models.join(self.model.name.as_str());
        match fs::symlink_metadata(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            _ => check_folder(&folder)?,
        }
        // Read the index first: a writer publishes a version before it sets an alias, so each alias read here has its
        // version.
        let index = Index::read(&folder);
        let mut others = BTreeMap::new();
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
            // The number is used, even if the version is not complete.
            self.model.version_highest = self.model.version_highest.max(Some(version));
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.warnings.insert(format!("{} is not a folder: ignored", path.display()));
                continue;
            }
            match stat_version(&path) {
                Ok(Found::Complete(found)) => {
                    self.model.versions.insert(version, found);
                }
                Ok(Found::Nothing) if !is_there(&path) => {
                    // The version was removed since it was listed, and another one may have been published unseen.
                    self.settled = false;
                }
                Ok(found) => {
                    self.warnings.insert(format!("{} has no file {MODEL_FILE}: ignored", path.display()));
                    if let Found::Other(what) = found {
                        others.insert(version, what);
                    }
                }
                Err(error) => {
                    self.warnings.insert(error.to_string());
                    others.insert(version, "cannot be examined");
                }
            }
        }
        match index {
            Ok(Some(index)) => self.add_index(index, &others),
            Ok(None) if self.model.versions.is_empty() => {}
            Ok(None) => {
                // The index was removed by hand, or the first version was published after the index was read.
                self.settled = false;
                self.warnings
                    .insert(format!("model {} has no {INDEX_FILE}: treated as having no aliases", self.model.name));
            }
            Err(damage) => {
                self.warnings.insert(format!("{} is damaged: {}", role(&folder.join(INDEX_FILE)), damage.reason));
                self.model.index_damage = Some(damage);
            }
        }
        Ok(())
    }

    /// Adds the content of the index. `others`: what was found in place of the model files of some versions.
    fn add_index(&mut self, index: Index, others: &BTreeMap<Version, &'static str>) {
        let Self { model, warnings, settled } = self;
        model.version_highest = model.version_highest.max(index.version_highest);
        let mut listed = index.versions;
        // An alias of a missing version is not dropped: it is damage to report.
        listed.extend(index.aliases.values());
        for version in listed.into_iter().filter(|version| !model.versions.contains_key(version)) {
            // Lost, or deleted by the writer since the index was read: another scan decides.
            *settled = false;
            let found = others.get(&version).copied().unwrap_or("is missing");
            model.lost.insert(version, found);
            warnings.insert(format!(
                "the file of {} version {version} {found}, and the index lists the version: calls for it fail with DATA_LOSS",
                model.name
            ));
        }
        model.aliases = index.aliases;
    }
}

/// What was found at the path of a model file.
#[derive(Debug)]
pub(super) enum Found {
    /// A complete version.
    Complete(VersionEntry),
    /// Something that is not a regular file, in words.
    Other(&'static str),
    /// Nothing.
    Nothing,
}

/// Reads the metadata of the model file in `folder`.
pub(super) fn stat_version(folder: &Path) -> Result<Found, StoreError> {
    let path = folder.join(MODEL_FILE);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_file() => Ok(Found::Complete(VersionEntry {
            file_bytes: found.len(),
            published: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })),
        Ok(found) => Ok(Found::Other(disk::is_kind(found.file_type()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(failed("cannot examine", &path)(error)),
    }
}

/// Whether `path` exists; links are not followed.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a name is that of a temporary.
pub(super) fn is_temporary(file_name: &OsStr) -> bool {
    file_name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// The model of a folder name; `None` if it is not a valid model name.
pub(super) fn model_name(file_name: &OsStr) -> Option<ModelName> {
    file_name.to_str()?.parse().ok()
}

/// The version of a folder name. Only the canonical spelling counts ("7", not "07" or "+7").
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

    fn index(highest: u64, versions: &[u64], aliases: &[(&str, u64)]) -> String {
        let aliases = aliases.iter().map(|(alias, number)| (alias.parse().expect("an alias"), version(*number)));
        let versions = versions.iter().copied().map(version).collect();
        let index = Index { version_highest: Some(version(highest)), versions, aliases: aliases.collect() };
        String::from_utf8(index.to_bytes()).expect("text")
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
        put(root, "digits/index.json", &index(5, &[2, 4], &[("prod", 2), ("gone", 4)]));
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
        let alias = |text: &str| text.parse().expect("an alias");
        assert_eq!(model.aliases, BTreeMap::from([(alias("prod"), version(2)), (alias("gone"), version(4))]));
        assert_eq!(model.lost, BTreeMap::from([(version(4), "is missing")]), "no alias is dropped without a word");
        assert_eq!(model.version_highest, Some(version(7)), "numbers of foreign files are not given out either");
        assert_eq!(scan.warnings.len(), 8, "{:#?}", scan.warnings);
    }

    #[test]
    fn a_damaged_index_affects_no_versions_or_other_models() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        put(folder.path(), "bad/1/model.safetensors", "one");
        put(folder.path(), "bad/index.json", "{");
        put(folder.path(), "good/1/model.safetensors", "one");
        put(folder.path(), "good/index.json", &index(1, &[1], &[]));
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
