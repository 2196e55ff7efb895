//! Models in a local folder.
//!
//! Changes are atomic: a version is built under a temporary name and renamed into place; a deletion first renames it
//! away. The version number is durable in the index before the rename, so neither a crash nor a deletion can reuse it.
//! Only the process with the writer's lock writes; other processes read the same folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::SystemTime;

use super::disk::{self, Access, Bounded, failed};
use super::index::{INDEX_FILE, Index, VERSION_MAX};
use super::lock::WriterLock;
use super::scan::{self, Found, MODEL_FILE, SAMPLE_FILE, USE_FILE};
use super::{
    ALIASES_MAX, FILE_BYTES_MAX, HEADER_BYTES_MAX, ModelBlobs, ModelCatalogue, ModelEntry, ModelStore, StoreError,
    VersionEntry, VersionPolicy,
};
use crate::model::sample::SAMPLE_FILE_BYTES_MAX;
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};

type Catalogue = BTreeMap<ModelName, ModelEntry>;

/// Models in a folder; the layout is in the documentation of the [module](super).
#[derive(Debug)]
pub struct LocalStore {
    folder: PathBuf,
    /// `<folder>/models`.
    models: PathBuf,
    /// Content of the folder at the last scan, including models without versions. Locked only briefly.
    catalogue: RwLock<Catalogue>,
    /// Locked while the folder is changed or scanned: changes run one after another.
    writer: Mutex<WriterLock>,
    /// Whether `writer` holds the lock; readable without waiting.
    writable: AtomicBool,
    refusal: RwLock<Option<StoreError>>,
    /// Warnings of the last scan, so that each is logged once and not at every refresh.
    warned: Mutex<BTreeSet<String>>,
    #[cfg(test)]
    pub(super) faults: super::crash::Faults,
}

/// Steps of a change. A crash leaves a different state after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    FolderMade,
    TemporaryMade,
    FileWritten,
    IndexWritten,
    IndexRenamed,
    NumberTaken,
    VersionRenamed,
    VersionDurable,
    VersionMovedAway,
    DeletionDurable,
}

impl LocalStore {
    /// Opens a folder and creates it if necessary. If the writer's lock is free, takes it and removes leftovers of a
    /// crash. Otherwise, or without write access, opens the folder for reading.
    ///
    /// # Errors
    /// If the folder can neither be created nor read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let models = folder.join("models");
        let made = fs::create_dir_all(folder)
            .map_err(failed("cannot create", folder))
            .and_then(|()| disk::ensure_folder(&models))
            .and_then(|()| disk::sync_folder(folder));
        // Only the nearest parent is likely to be new. Without permission to sync it, continue.
        let _ = folder.parent().map(disk::sync_folder);
        if let Err(error) = made {
            // A store on a read-only disk can be served; a link in place of `models` is refused.
            if !folder.is_dir() || matches!(error, StoreError::NotAFolder { .. }) {
                return Err(error);
            }
            tracing::warn!(folder = %folder.display(), %error, "the store cannot be written to");
        }
        let store = Self {
            folder: folder.to_owned(),
            models,
            catalogue: RwLock::default(),
            writer: Mutex::new(WriterLock::Missing { reason: "it is being opened".to_owned() }),
            writable: AtomicBool::new(false),
            refusal: RwLock::default(),
            warned: Mutex::default(),
            #[cfg(test)]
            faults: super::crash::Faults::default(),
        };
        store.refresh()?;
        if let Err(error) = store.lock_writer().check() {
            tracing::warn!(folder = %folder.display(), "{error}");
        }
        Ok(store)
    }

    fn lock_writer(&self) -> MutexGuard<'_, WriterLock> {
        // After a panic, at worst a temporary and an old catalogue remain: each change scans the disk again.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the folder for a change, until the guard is dropped.
    fn begin_change(&self) -> Result<MutexGuard<'_, WriterLock>, StoreError> {
        let writer = self.lock_writer();
        writer.check()?;
        Ok(writer)
    }

    /// Runs a change. If it fails, reads the model from disk again, because the disk is authoritative.
    fn change<T>(
        &self,
        name: &ModelName,
        change: impl FnOnce(ModelEntry) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _writer = self.begin_change()?;
        let outcome = self.look(name).and_then(|model| {
            model.check_index()?;
            change(model)
        });
        if outcome.is_err()
            && let Ok(model) = self.look(name)
        {
            self.install(model);
        }
        outcome
    }

    /// Scans one model on disk. Warnings are left to the refresh.
    fn look(&self, name: &ModelName) -> Result<ModelEntry, StoreError> {
        scan::scan_model(&self.models, name, &mut BTreeSet::new())
    }

    fn install(&self, model: ModelEntry) {
        let mut catalogue = self.lock_catalogue();
        if model.is_blank() {
            // Unknown names from requests take no memory.
            catalogue.remove(&model.name);
        } else {
            catalogue.insert(model.name.clone(), model);
        }
    }

    fn lock_catalogue(&self) -> RwLockWriteGuard<'_, Catalogue> {
        self.catalogue.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_catalogue<T>(&self, read: impl FnOnce(&Catalogue) -> T) -> T {
        read(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn model_folder(&self, name: &ModelName) -> PathBuf {
        self.models.join(name.as_str())
    }

    fn version_folder(&self, key: &ModelKey) -> PathBuf {
        self.model_folder(&key.name).join(key.version.to_string())
    }

    /// Replaces the index durably: after a crash, the file is the old or the new one.
    fn write_index(&self, model: &ModelEntry) -> Result<(), StoreError> {
        let folder = self.model_folder(&model.name);
        let temporary = disk::temporary_in(&folder);
        let path = folder.join(INDEX_FILE);
        let index = Index {
            version_highest: model.version_highest,
            versions: model.versions.keys().chain(model.lost.keys()).copied().collect(),
            aliases: model.aliases.clone(),
        };
        disk::write_new(&temporary, &index.to_bytes())
            .and_then(|()| self.at(Step::IndexWritten))
            .and_then(|()| fs::rename(&temporary, &path).map_err(failed("cannot replace", &path)))
            .inspect_err(|_| disk::remove_or_warn(&temporary))?;
        self.at(Step::IndexRenamed)?;
        disk::sync_folder(&folder)
    }

    /// Writes the version under a temporary name, makes its number durable, and renames it into place.
    fn build_version(
        &self,
        model: &ModelEntry,
        temporary: &Path,
        place: &Path,
        (bytes, sample): (&[u8], Option<&[u8]>),
    ) -> Result<(), StoreError> {
        fs::create_dir(temporary).map_err(failed("cannot create the folder", temporary))?;
        self.at(Step::TemporaryMade)?;
        disk::write_new(&temporary.join(MODEL_FILE), bytes)?;
        sample.map_or(Ok(()), |sample| disk::write_new(&temporary.join(SAMPLE_FILE), sample))?;
        self.at(Step::FileWritten)?;
        disk::sync_folder(temporary)?;
        self.write_index(model)?;
        self.at(Step::NumberTaken)?;
        fs::rename(temporary, place).map_err(failed("cannot rename into place", place))?;
        let durable = self.at(Step::VersionRenamed).and_then(|()| disk::sync_folder(&self.model_folder(&model.name)));
        if durable.is_err() && fs::rename(place, temporary).is_err() {
            // The caller gets an error although the complete version is in place: the catalogue will list it.
            tracing::warn!(path = %place.display(), "cannot roll back a version that may not survive a crash");
        }
        durable
    }

    /// Reads from the model file of a version in the catalogue.
    fn read_file<T>(&self, key: &ModelKey, read: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StoreError> {
        let asked = Selector::Version(key.version);
        self.resolve(&key.name, &asked)?;
        let path = self.version_folder(key).join(MODEL_FILE);
        read(&path).or_else(|error| {
            if error.kind() == ErrorKind::NotFound {
                // Another writer removed the version since the last scan.
                let _writer = self.lock_writer();
                self.install(self.look(&key.name)?);
                self.resolve(&key.name, &asked)?;
            }
            Err(failed("cannot read", &path)(error))
        })
    }

    /// Removes temporaries and empty model folders. Requires the lock: another writer could be using them.
    fn sweep(&self) -> Result<(), StoreError> {
        let entries = match fs::read_dir(&self.models) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("cannot list", &self.models)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("cannot list", &self.models))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || scan::model_name(&entry.file_name()).is_none() {
                continue;
            }
            let folder = entry.path();
            let Ok(found) = fs::read_dir(&folder) else { continue };
            for inner in found.flatten().filter(|inner| scan::is_temporary(&inner.file_name())) {
                disk::remove_or_warn(&inner.path());
            }
            // Removes the folder only if it is empty, after a crash before the first version.
            let _ = fs::remove_dir(&folder);
        }
        Ok(())
    }

    /// Logs the warnings that the last scan did not have.
    fn warn(&self, warnings: BTreeSet<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.difference(&warned) {
            tracing::warn!("{warning}");
        }
        *warned = warnings;
    }

    /// A point at which a test can make the change crash or fail.
    #[cfg(test)]
    fn at(&self, step: Step) -> Result<(), StoreError> {
        self.faults.at(step)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests make it fail")]
    #[inline]
    fn at(&self, _step: Step) -> Result<(), StoreError> {
        Ok(())
    }
}

impl ModelCatalogue for LocalStore {
    fn entries(&self) -> Vec<ModelEntry> {
        self.with_catalogue(|models| models.values().filter(|model| model.latest().is_some()).cloned().collect())
    }

    fn entry(&self, name: &ModelName) -> Option<ModelEntry> {
        self.with_catalogue(|models| models.get(name).filter(|model| model.latest().is_some()).cloned())
    }

    fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        self.with_catalogue(|models| match models.get(name) {
            Some(model) => model.resolve(selector).map(|version| ModelKey { name: name.clone(), version }),
            None => Err(StoreError::UnknownModel(name.as_str().to_owned())),
        })
    }

    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError> {
        self.with_catalogue(|models| match models.get(name) {
            Some(model) => {
                model.resolve_served(selector, policy).map(|version| ModelKey { name: name.clone(), version })
            }
            None => Err(StoreError::UnknownModel(name.as_str().to_owned())),
        })
    }

    fn delete(&self, key: &ModelKey) -> Result<(), StoreError> {
        self.change(&key.name, |mut model| {
            if !model.lost.contains_key(&key.version) {
                model.resolve(&Selector::Version(key.version))?;
            }
            if let Some((alias, _)) = model.aliases.iter().find(|(_, version)| **version == key.version) {
                return Err(StoreError::Aliased { key: key.clone(), alias: alias.clone() });
            }
            model.versions.remove(&key.version);
            model.lost.remove(&key.version);
            // The index first: the number must stay used, also that of a folder made by hand. A folder that the index
            // does not list is still a version, so nothing is deleted until the rename.
            self.write_index(&model)?;
            let place = self.version_folder(key);
            let folder = self.model_folder(&key.name);
            let temporary = disk::temporary_in(&folder);
            match fs::rename(&place, &temporary) {
                // The whole folder was lost.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved.map_err(failed("cannot move", &place))?,
            }
            self.at(Step::VersionMovedAway).and_then(|()| disk::sync_folder(&folder)).inspect_err(|_| {
                // The caller gets an error, so the version must still exist.
                if let Err(error) = fs::rename(&temporary, &place)
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(%error, %key, "cannot restore a version whose deletion failed");
                }
            })?;
            self.at(Step::DeletionDurable)?;
            self.install(model);
            disk::remove_or_warn(&temporary);
            Ok(())
        })
    }

    fn set_alias(
        &self,
        key: &ModelKey,
        alias: &Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, StoreError> {
        self.change(&key.name, |mut model| {
            model.resolve(&Selector::Version(key.version))?;
            let previous = model.aliases.get(alias).copied();
            if let Some(expected) = expected {
                check_alias(&model, alias, expected)?;
            }
            if previous.is_none() && model.aliases.len() >= ALIASES_MAX {
                return Err(StoreError::TooManyAliases { name: key.name.clone(), aliases_max: ALIASES_MAX });
            }
            model.aliases.insert(alias.clone(), key.version);
            self.write_index(&model)?;
            self.install(model);
            Ok(previous)
        })
    }

    fn delete_alias(&self, name: &ModelName, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError> {
        self.change(name, |mut model| {
            // An alias of a lost version can be deleted, too.
            if !model.aliases.contains_key(alias) {
                model.resolve(&Selector::Alias(alias.clone()))?;
            }
            if expected.is_some() {
                check_alias(&model, alias, expected)?;
            }
            model.aliases.remove(alias);
            self.write_index(&model)?;
            self.install(model);
            Ok(())
        })
    }

    fn note_use(&self, key: &ModelKey) -> Result<(), StoreError> {
        let path = self.version_folder(key).join(USE_FILE);
        // Does not create the folder: a deleted version stays deleted.
        let file = disk::open_regular(&path, Access::Write);
        file.and_then(|file| file.set_modified(SystemTime::now())).map_err(failed("cannot update", &path))
    }

    fn last_use(&self, key: &ModelKey) -> Option<SystemTime> {
        fs::symlink_metadata(self.version_folder(key).join(USE_FILE)).ok()?.modified().ok()
    }
}

impl ModelBlobs for LocalStore {
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        match self.read_file(key, |path| disk::read_bounded(path, FILE_BYTES_MAX))? {
            Bounded::Bytes(bytes) => Ok(bytes),
            Bounded::TooLarge(bytes) => {
                Err(StoreError::TooLarge { what: key.to_string(), bytes, bytes_max: FILE_BYTES_MAX })
            }
        }
    }

    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        self.read_file(key, |path| disk::read_header(path, HEADER_BYTES_MAX))
    }

    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.resolve(&key.name, &Selector::Version(key.version))?;
        let path = self.version_folder(key).join(SAMPLE_FILE);
        match disk::read_bounded(&path, SAMPLE_FILE_BYTES_MAX) {
            Ok(Bounded::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Bounded::TooLarge(bytes)) => {
                let what = format!("the validation sample of {key}");
                Err(StoreError::TooLarge { what, bytes, bytes_max: SAMPLE_FILE_BYTES_MAX })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot read", &path)(error)),
        }
    }
}

impl ModelStore for LocalStore {
    fn publish_files(&self, name: &ModelName, bytes: &[u8], sample: Option<&[u8]>) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        if length > FILE_BYTES_MAX {
            let what = format!("the new version of model {name}");
            return Err(StoreError::TooLarge { what, bytes: length, bytes_max: FILE_BYTES_MAX });
        }
        self.change(name, |mut model| {
            let version = next_version(&model)?;
            let folder = self.model_folder(name);
            disk::ensure_folder(&self.models)?;
            disk::ensure_folder(&folder)?;
            self.at(Step::FolderMade)?;
            disk::sync_folder(&self.models)?;
            let temporary = disk::temporary_in(&folder);
            let place = folder.join(version.to_string());
            model.version_highest = Some(version);
            self.build_version(&model, &temporary, &place, (bytes, sample))
                .inspect_err(|_| disk::remove_or_warn(&temporary))?;
            let entry = match scan::stat_version(&place) {
                Ok(Found::Complete(entry)) => entry,
                // The version is durable: a failure to read its metadata does not unpublish it.
                _ => VersionEntry { file_bytes: length, published: SystemTime::now() },
            };
            model.versions.insert(version, entry);
            self.install(model.clone());
            self.at(Step::VersionDurable)?;
            // Once listed, the version counts as lost if its file disappears. It is already published, so a failure is
            // only logged: the next change lists it.
            if let Err(error) = self.write_index(&model) {
                tracing::warn!(%error, %name, %version, "a published version is not in the index yet");
            }
            Ok(version)
        })
    }

    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_writable() {
            return Ok(());
        }
        let refusal = self.refusal.read().unwrap_or_else(PoisonError::into_inner).clone();
        Err(refusal.unwrap_or_else(|| StoreError::ReadOnly { reason: "it is being opened".to_owned() }))
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        let mut writer = self.lock_writer();
        let mut changed = false;
        if !writer.is_held() {
            let lock = WriterLock::acquire(&self.folder);
            *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = lock.check().err();
            if lock.is_held() {
                self.sweep()?;
                self.writable.store(true, Ordering::Release);
                changed = true;
            }
            *writer = lock;
        }
        let mut scan = scan::scan_store(&self.models)?;
        let differs = self.with_catalogue(|known| {
            for name in &scan.unreadable {
                // A model that cannot be read now stays in the catalogue.
                if let Some(model) = known.get(name) {
                    scan.models.insert(name.clone(), model.clone());
                }
            }
            *known != scan.models
        });
        if differs {
            // `writer` is locked, so nothing else changed the catalogue. Requests wait only for the swap.
            let old = mem::replace(&mut *self.lock_catalogue(), scan.models);
            drop(old);
            changed = true;
        }
        self.warn(scan.warnings);
        Ok(changed)
    }
}

/// The version after the highest ever used.
fn next_version(model: &ModelEntry) -> Result<Version, StoreError> {
    match model.version_highest {
        None => Ok(Version::FIRST),
        Some(highest) if highest.number() >= VERSION_MAX => {
            Err(StoreError::NoVersionLeft { name: model.name.clone(), highest })
        }
        Some(highest) => Ok(highest.next()),
    }
}

fn check_alias(model: &ModelEntry, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError> {
    let got = model.aliases.get(alias).copied();
    if got == expected {
        return Ok(());
    }
    Err(StoreError::AliasMoved { name: model.name.clone(), alias: alias.clone(), expected, got })
}
