//! Models in a folder of this machine.
//!
//! Nothing is ever half there: a version is built under a temporary name and renamed into place; it is removed by
//! renaming it away first. Its number is durable in the index before the rename, so that no crash and no deletion
//! brings a number back. One process writes, the one with the lock; any other reads the same folder.

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
    ALIASES_MAX, FILE_BYTES_MAX, HEADER_BYTES_MAX, ModelEntry, ModelStore, StoreError, VersionEntry, VersionPolicy,
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
    /// What the folder held when it was last looked at. Models without versions included. Held for moments only.
    catalogue: RwLock<Catalogue>,
    /// Held while the folder is changed or looked through: writers are served one after another.
    writer: Mutex<WriterLock>,
    /// Whether `writer` has the lock, and why not, for those who must not wait.
    writable: AtomicBool,
    refusal: RwLock<Option<StoreError>>,
    /// Warnings of the last look, so that each is logged once and not at every refresh.
    warned: Mutex<BTreeSet<String>>,
    #[cfg(test)]
    pub(super) faults: super::crash::Faults,
}

/// The moments of a change between which a crash leaves something different behind.
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
    /// Opens a folder, making it if need be. Takes the writer's lock if it is free, and then sweeps what a crash left;
    /// otherwise, or if the folder cannot be written to, opens it for reading.
    ///
    /// # Errors
    /// If the folder can neither be made nor read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let models = folder.join("models");
        let made = fs::create_dir_all(folder)
            .map_err(failed("cannot create", folder))
            .and_then(|()| disk::ensure_folder(&models))
            .and_then(|()| disk::sync_folder(folder));
        // Of the folders above only the nearest is likely to be new, and only if it is ours to sync.
        let _ = folder.parent().map(disk::sync_folder);
        if let Err(error) = made {
            // A store on a read-only disk can be served from; a link in place of `models` cannot.
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
        // A panic while it was held left at worst a temporary and an old catalogue: each change looks at the disk anew.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to change the folder, until the guard is dropped.
    fn begin_change(&self) -> Result<MutexGuard<'_, WriterLock>, StoreError> {
        let writer = self.lock_writer();
        writer.check()?;
        Ok(writer)
    }

    /// Runs a change; if it fails, the catalogue is read from the disk again, which has the last word.
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

    /// One model as it is on disk now. Its warnings were logged, or will be, by a refresh.
    fn look(&self, name: &ModelName) -> Result<ModelEntry, StoreError> {
        scan::scan_model(&self.models, name, &mut BTreeSet::new())
    }

    fn install(&self, model: ModelEntry) {
        let mut catalogue = self.lock_catalogue();
        if model.is_blank() {
            // Names that were only asked about take no memory.
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

    /// Replaces the index durably: after a crash it is the old or the new one.
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

    /// Writes the version under a temporary name, takes its number, and puts it in its place.
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
        fs::rename(temporary, place).map_err(failed("cannot put in its place", place))?;
        let durable = self.at(Step::VersionRenamed).and_then(|()| disk::sync_folder(&self.model_folder(&model.name)));
        if durable.is_err() && fs::rename(place, temporary).is_err() {
            // The caller is told that it failed, yet it stands there, whole: the catalogue will list it.
            tracing::warn!(path = %place.display(), "a version that may not survive a crash cannot be taken back");
        }
        durable
    }

    /// Reads from the file of a version that the catalogue lists.
    fn read_file<T>(&self, key: &ModelKey, read: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StoreError> {
        let asked = Selector::Version(key.version);
        self.resolve(&key.name, &asked)?;
        let path = self.version_folder(key).join(MODEL_FILE);
        read(&path).or_else(|error| {
            if error.kind() == ErrorKind::NotFound {
                // Another writer removed it since the last look.
                let _writer = self.lock_writer();
                self.install(self.look(&key.name)?);
                self.resolve(&key.name, &asked)?;
            }
            Err(failed("cannot read", &path)(error))
        })
    }

    /// Removes temporaries and empty folders of models. Only with the lock: another writer's would be alive.
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
            // Fails, as it should, unless a crash came before the first version.
            let _ = fs::remove_dir(&folder);
        }
        Ok(())
    }

    /// Logs what the last look did not find already.
    fn warn(&self, warnings: BTreeSet<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.difference(&warned) {
            tracing::warn!("{warning}");
        }
        *warned = warnings;
    }

    /// A moment at which a test may let the change crash or fail.
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

impl ModelStore for LocalStore {
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

    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        match self.read_file(key, |path| disk::read_bounded(path, FILE_BYTES_MAX))? {
            Bounded::Bytes(bytes) => Ok(bytes),
            Bounded::TooLarge(bytes) => {
                Err(StoreError::TooLarge { what: key.to_string(), bytes, bytes_max: FILE_BYTES_MAX })
            }
        }
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

    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        self.read_file(key, |path| disk::read_header(path, HEADER_BYTES_MAX))
    }

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
                // It is durable: not being able to look at it now does not unpublish it.
                _ => VersionEntry { file_bytes: length, published: SystemTime::now() },
            };
            model.versions.insert(version, entry);
            self.install(model.clone());
            self.at(Step::VersionDurable)?;
            // From now on a version whose file is gone is known to be lost. The version is published already: what cannot be
            // listed now is listed by the next change.
            if let Err(error) = self.write_index(&model) {
                tracing::warn!(%error, %name, %version, "a published version is not in the index yet");
            }
            Ok(version)
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
            // The number outlives the folder, even one that was put there by hand and is not in the index. A folder that the
            // index does not list is a version all the same: until it is moved away, nothing is deleted.
            self.write_index(&model)?;
            let place = self.version_folder(key);
            let folder = self.model_folder(&key.name);
            let temporary = disk::temporary_in(&folder);
            match fs::rename(&place, &temporary) {
                // All of it was lost.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved.map_err(failed("cannot move away", &place))?,
            }
            self.at(Step::VersionMovedAway).and_then(|()| disk::sync_folder(&folder)).inspect_err(|_| {
                // The caller is told that it failed, so it should still be there.
                if let Err(error) = fs::rename(&temporary, &place)
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(%error, %key, "a version whose deletion failed cannot be put back");
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
            // One that points at a lost version can be removed, too.
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
        // Its folder is not made: a version that was deleted stays so.
        let file = disk::open_regular(&path, Access::Write);
        file.and_then(|file| file.set_modified(SystemTime::now())).map_err(failed("cannot note the use in", &path))
    }

    fn last_use(&self, key: &ModelKey) -> Option<SystemTime> {
        fs::symlink_metadata(self.version_folder(key).join(USE_FILE)).ok()?.modified().ok()
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
                // What was served goes on being served, as far as its files allow.
                if let Some(model) = known.get(name) {
                    scan.models.insert(name.clone(), model.clone());
                }
            }
            *known != scan.models
        });
        if differs {
            // Nobody else changed it meanwhile: `writer` is held. Requests wait for the swap alone.
            let old = mem::replace(&mut *self.lock_catalogue(), scan.models);
            drop(old);
            changed = true;
        }
        self.warn(scan.warnings);
        Ok(changed)
    }
}

/// The number after the highest ever used.
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
